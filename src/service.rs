//! Puts the parts together: from settings to a running service, told in the log step by step.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::{
    breakers::{Breakers, Engine},
    clock::{SystemClock, fresh_id},
    error::{Error, Result},
    fallback::{Fallback, FallbackBreakers, Reachability, State},
    grpc::{self, Listen, Listener, Options},
    memory::{MemoryBreakers, MemoryCopies, MemoryThreads},
    redis::{Redis, RedisBreakers, RedisThreads},
    settings::{self, Settings},
    shutdown::Shutdown,
    threads::{Limits, ThreadStore, Ttl, watch::Wakers},
};

/// How long a probe may take before it is taken for a failure anyway.
const PROBE: Duration = Duration::from_secs(1);

/// Why the service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An address is taken, malformed or not ours.
    #[error("cannot listen on {address}: {cause}")]
    Address {
        /// The address as it was configured.
        address: settings::Listen,
        /// What the system says.
        cause: io::Error,
    },
    /// `redis.required` is set, and Redis cannot be used.
    #[error("redis is required (redis.required): {0}")]
    Required(#[source] Error),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Runs the service until the shutdown; ends within the drain deadline after it, whatever clients do.
///
/// Fails when an address cannot be listened on, when settings can never work, and when `redis.required` is set and
/// Redis does not answer.
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), Fault> {
    let limits = Limits {
        max_messages: i64::try_from(settings.threads.max_messages).unwrap_or(i64::MAX),
        max_bytes: i64::try_from(settings.threads.max_bytes).unwrap_or(i64::MAX),
    };
    let instance = fresh_id(&SystemClock);
    info!(instance, "this process in the history of breakers");
    let policies = settings.breakers.policies.clone();
    let wakers = Wakers::default();
    let max_breakers = usize::try_from(settings.memory.max_breakers).unwrap_or(usize::MAX);
    if !settings.redis.enabled {
        info!("redis is switched off: threads and breakers live in this process's memory alone");
        let store = MemoryThreads::new(SystemClock, limits, settings.memory.max_bytes);
        let breakers = MemoryBreakers::new(SystemClock, max_breakers).of_instance(instance.as_str().into());
        let breakers = Engine::new(breakers, policies, &instance, shutdown.clone());
        return serve(settings, Arc::new(store), Arc::new(breakers), wakers, None, shutdown).await;
    }

    let redis = Redis::new(&settings.redis, Arc::new(SystemClock))?;
    let greeting = greet(&settings, &redis).await?;
    let reachability = Arc::new(Reachability::new(&greeting, settings.redis.outage_after));
    // Copies expire by the clock that said when.
    let copies = MemoryCopies::new(
        redis.clock(),
        limits,
        settings.memory.copy_bytes,
        usize::try_from(settings.memory.copy_threads).unwrap_or(usize::MAX),
    );
    let store = Fallback::new(RedisThreads::new(redis.clone(), limits), copies, Arc::clone(&reachability));
    let shared = RedisBreakers::new(redis.clone(), &instance);
    let shared = Engine::new(shared, policies, &instance, shutdown.clone());
    let local = MemoryBreakers::new(redis.clock(), max_breakers).of_instance(instance.as_str().into());
    let local = Engine::in_place_of(&shared, local);
    let clock = Arc::new(redis.clock());
    let breakers = FallbackBreakers::new(shared, local.clone(), Arc::clone(&reachability), clock);
    let probe = move || {
        let redis = redis.clone();
        async move { redis.probe(PROBE).await }
    };
    let (token, watched, threads) = (shutdown.token(), Arc::clone(&reachability), store.clone());
    let bells = Arc::clone(&wakers.bells);
    let on_change = move |is_reachable| {
        if is_reachable {
            threads.give_up_unmerged();
        }
        // What memory decides holds for one outage: a call that was late for the last may have left something.
        local.store().clear();
        local.forget();
        // Watchers are told of the change, too.
        bells.ring_all();
    };
    shutdown.spawn("probe", async move { watched.run(token, probe, on_change).await });
    let is_reachable = follow(&reachability, &shutdown);
    serve(settings, Arc::new(store), Arc::new(breakers), wakers, Some(is_reachable), shutdown).await
}

/// Says hello to Redis, and tells how that went.
async fn greet(settings: &Settings, redis: &Redis) -> Result<Result<()>, Fault> {
    let configured = &settings.redis;
    info!(
        redis = %configured.endpoint,
        pool_size = configured.pool_size,
        key_prefix = configured.key_prefix,
        "using redis"
    );
    info!("connecting to redis");
    let found = match redis.greet(configured.connect_timeout).await {
        Ok(greeting) => {
            let round_trip_us = u64::try_from(greeting.round_trip.as_micros()).unwrap_or(u64::MAX);
            info!(round_trip_us, version = greeting.server_version, "redis answered the ping");
            if !["noeviction", "unknown"].contains(&greeting.eviction_policy.as_str()) {
                let policy = greeting.eviction_policy;
                warn!(policy, "redis may evict parts of threads: set maxmemory-policy to noeviction");
            }
            // A server that answers may still refuse what we write.
            redis.probe(PROBE).await
        }
        Err(cause) => Err(cause),
    };
    match found {
        Ok(()) => Ok(Ok(())),
        Err(cause) if configured.required => Err(Fault::Required(cause)),
        Err(Error::Misconfigured(reason)) => {
            error!(%reason, "redis refuses this configuration: calls fail until it is corrected");
            Ok(Err(Error::Misconfigured(reason)))
        }
        Err(cause) => {
            warn!(error = %cause, "starting without redis: serving from local memory until it can be used");
            Ok(Err(cause))
        }
    }
}

/// Tells health whether Redis is reachable.
fn follow(reachability: &Reachability, shutdown: &Shutdown) -> watch::Receiver<bool> {
    let mut state = reachability.watch();
    let (sender, receiver) = watch::channel(matches!(*state.borrow(), State::Reachable));
    let token = shutdown.token();
    shutdown.spawn("redis health", async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                changed = state.changed() => if changed.is_err() { return },
            }
            sender.send_replace(matches!(*state.borrow_and_update(), State::Reachable));
        }
    });
    receiver
}

async fn serve<S: ThreadStore, B: Breakers>(
    settings: Settings,
    store: Arc<S>,
    breakers: Arc<B>,
    wakers: Wakers,
    redis: Option<watch::Receiver<bool>>,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let default_ttl = Ttl::new("threads.default_ttl", settings.threads.default_ttl)
        .map_err(|violation| Error::Invalid(vec![violation]))?;
    info!(ttl = %humantime::format_duration(settings.threads.default_ttl), "thread time to live");
    info!(interval = %humantime::format_duration(settings.threads.sweep_interval), "thread sweep");
    let mut listeners = Vec::new();
    for address in &settings.server.listen {
        let listen = match address {
            settings::Listen::Tcp(address) => Listen::Tcp(address.clone()),
            settings::Listen::Unix(path) => Listen::Unix(path.clone()),
        };
        let listener = Listener::bind(&listen)
            .await
            .map_err(|cause| Fault::Address { address: address.clone(), cause })?;
        info!(address = %listener.local_address(), "listening");
        listeners.push(listener);
    }
    shutdown.spawn("sweep", sweep(Arc::clone(&store), settings.threads.sweep_interval, shutdown.clone()));

    let server = &settings.server;
    let options = Options {
        max_request_bytes: usize::try_from(server.max_request_bytes).unwrap_or(usize::MAX),
        max_response_bytes: usize::try_from(server.max_response_bytes).unwrap_or(usize::MAX),
        max_concurrent_streams: server.max_concurrent_streams,
        max_concurrent_calls: usize::try_from(server.max_concurrent_calls).unwrap_or(usize::MAX),
        keepalive_interval: server.keepalive_interval,
        keepalive_timeout: server.keepalive_timeout,
        drain_deadline: server.drain_deadline,
        default_ttl,
    };
    Ok(grpc::serve(listeners, options, store, breakers, wakers, redis, shutdown).await?)
}

/// Sweeps for ever, one pause after the other.
async fn sweep<S: ThreadStore>(store: Arc<S>, interval: Duration, shutdown: Shutdown) {
    let token = shutdown.token();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = sleep(interval) => {}
        }
        let swept = tokio::select! {
            () = token.cancelled() => return,
            swept = store.sweep().instrument(info_span!("sweep")) => swept,
        };
        match swept {
            Ok(swept) if swept.removed > 0 || swept.repaired > 0 => {
                info!(removed = swept.removed, repaired = swept.repaired, "swept expired threads");
            }
            Ok(_) => debug!("found no expired threads to sweep"),
            Err(cause) => warn!(error = %cause, "could not sweep expired threads"),
        }
    }
}
