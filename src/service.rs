//! Puts the parts together: from settings to a running service, told in the log step by step.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::{
    breakers::{BreakerStore, Breakers, Engine},
    call::{Serving, ServingMode},
    clock::{Clock, SystemClock, Timestamp, fresh_id},
    diagnostics::{Diagnostics, RedisStatus, Tells},
    error::{Error, Result},
    fallback::{Fallback, FallbackBreakers, Handover, Reachability, State},
    grpc::{self, Backend, Listen, Listener, Options},
    memory::{JournalBounds, MemoryBreakers, MemoryCopies, MemoryThreads},
    redis::{Known, Notifications, Redis, RedisBreakers, RedisThreads, Ring},
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
    let (instance, started) = (fresh_id(&SystemClock), SystemClock.now());
    info!(instance, "this process in the history of breakers");
    if settings.redis.enabled {
        run_on_redis(settings, &instance, started, shutdown).await
    } else {
        info!("redis is switched off: threads and breakers live in this process's memory alone");
        run_in_memory(settings, &instance, started, shutdown).await
    }
}

async fn run_in_memory(
    settings: Settings,
    instance: &str,
    started: Timestamp,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let store = Arc::new(MemoryThreads::new(SystemClock, limits(&settings), settings.memory.max_bytes));
    let breakers =
        MemoryBreakers::new(SystemClock, count(settings.memory.max_breakers)).of_instance(instance.into());
    let policies = settings.breakers.policies.clone();
    let breakers = Engine::new(breakers, policies, instance, None, shutdown.clone());
    start(&breakers, &shutdown);
    let (threads, local) = (Arc::clone(&store), breakers.clone());
    let diagnostics = Diagnostics {
        instance: instance.into(),
        started,
        redis: None,
        journal: None,
        doorbell: None,
        local_threads: Box::new(move || threads.len()),
        local_breakers: Box::new(move || local.store().len()),
    };
    let (_mode, serving) = watch::channel(Serving { mode: ServingMode::Local, since: started });
    let backend =
        Backend { threads: store, wakers: Wakers::default(), breakers: Arc::new(breakers), diagnostics };
    serve(settings, backend, serving, shutdown).await
}

async fn run_on_redis(
    settings: Settings,
    instance: &str,
    started: Timestamp,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let limits = limits(&settings);
    let redis = Redis::new(&settings.redis, Arc::new(SystemClock))?;
    let greeting = greet(&settings, &redis).await?;
    let reachability = Arc::new(Reachability::new(&greeting, settings.redis.outage_after));
    let begin = Serving { mode: mode_of(&reachability.watch().borrow()), since: SystemClock.now() };
    let (mode, serving) = watch::channel(begin);
    // Copies expire by the clock that said when.
    let copies = MemoryCopies::new(
        redis.clock(),
        limits,
        (settings.memory.copy_bytes, count(settings.memory.copy_threads)),
        JournalBounds {
            max_bytes: settings.fallback.journal_bytes,
            max_entries: settings.fallback.journal_entries,
        },
        grpc::digest_of,
    );
    let late = redis.latest_write();
    let store = RedisThreads::new(redis.clone(), limits);
    let store = Fallback::new(store, copies, Arc::clone(&reachability), late);
    let shared = RedisBreakers::new(redis.clone(), instance);
    let wakers = Wakers { serving: Some(serving.clone()), ..Wakers::default() };
    let doorbell = Arc::clone(&wakers.doorbell);
    let policies = settings.breakers.policies.clone();
    let shared = Engine::new(shared, policies, instance, Some(Arc::clone(&doorbell)), shutdown.clone());
    start(&shared, &shutdown);
    let local =
        MemoryBreakers::new(redis.clock(), count(settings.memory.max_breakers)).of_instance(instance.into());
    let local = Engine::in_place_of(&shared, local);
    start(&local, &shutdown);
    let (clock, known) = (Arc::new(redis.clock()), Arc::clone(&reachability));
    let heard = shared.clone();
    let handover = Arc::new(Handover::new(shared.clone(), local.clone(), Arc::clone(&reachability)));
    let breakers = FallbackBreakers::new(shared, local.clone(), known, serving.clone(), clock);
    let (threads, counted, merging) = (store.clone(), local, store.clone());
    let diagnostics = Diagnostics {
        instance: instance.into(),
        started,
        redis: Some(tell_of(&settings, redis.clone(), Arc::clone(&reachability))),
        journal: Some(Box::new(move || merging.journal())),
        doorbell: Some(Arc::clone(&doorbell)),
        local_threads: Box::new(move || threads.copies().len()),
        local_breakers: Box::new(move || counted.store().len()),
    };
    let bells = Arc::clone(&wakers.bells);
    let tasks = shutdown.clone();
    let on_change = move |is_reachable| {
        if is_reachable {
            offer(handover.end(), &tasks);
        } else {
            handover.begin();
        }
        // Watchers are told of the change, too.
        bells.ring_all();
    };
    probe(redis, &reachability, on_change, &shutdown);
    listen(&settings, instance, &wakers, heard, &shutdown)?;
    let (threads, token) = (store.clone(), shutdown.token());
    shutdown.spawn("reconcile", async move { threads.reconcile(mode, Arc::new(SystemClock), token).await });
    let backend = Backend { threads: Arc::new(store), wakers, breakers: Arc::new(breakers), diagnostics };
    serve(settings, backend, serving, shutdown).await
}

/// Has the trips of an outage offered to Redis while calls go there already.
fn offer(offers: impl Future<Output = ()> + Send + 'static, shutdown: &Shutdown) {
    let token = shutdown.token();
    shutdown.spawn("offer trips", async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = offers => {}
        }
    });
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        max_messages: i64::try_from(settings.threads.max_messages).unwrap_or(i64::MAX),
        max_bytes: i64::try_from(settings.threads.max_bytes).unwrap_or(i64::MAX),
    }
}

fn count(setting: u64) -> usize {
    usize::try_from(setting).unwrap_or(usize::MAX)
}

/// Has an engine do what it does by itself.
fn start<S: BreakerStore>(engine: &Engine<S>, shutdown: &Shutdown) {
    let (engine, token) = (engine.clone(), shutdown.token());
    shutdown.spawn("breakers", async move { engine.run(token).await });
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

/// Listens for changes in Redis.
fn listen<S: BreakerStore>(
    settings: &Settings,
    instance: &str,
    wakers: &Wakers,
    breakers: Engine<S>,
    shutdown: &Shutdown,
) -> Result<()> {
    let Wakers { bells, doorbell, .. } = wakers.clone();
    let notifications = Notifications::new(&settings.redis, instance, doorbell, Arc::clone(&bells))?;
    let on_ring = move |ring| match ring {
        Ring::Thread(id) => bells.ring(&id),
        Ring::Breaker(key) => breakers.ring(&key),
        Ring::Everything => {
            bells.ring_all();
            breakers.ring_all();
        }
    };
    shutdown.spawn("notifications", notifications.run(shutdown.token(), on_ring));
    Ok(())
}

/// Finds out for ever whether Redis can be reached.
fn probe(
    redis: Redis,
    reachability: &Arc<Reachability>,
    on_change: impl Fn(bool) + Send + Sync + 'static,
    shutdown: &Shutdown,
) {
    let (token, reachability) = (shutdown.token(), Arc::clone(reachability));
    let (known, tasks) = (redis.clone(), shutdown.clone());
    let on_change = move |is_reachable| {
        on_change(is_reachable);
        if is_reachable {
            let redis = known.clone();
            // It may be another server now. What it says of itself is for people: nobody waits for it.
            tasks.spawn("recognise redis", async move { redis.recognise(PROBE).await });
        }
    };
    let probe = move || {
        let redis = redis.clone();
        async move { redis.probe(PROBE).await }
    };
    shutdown.spawn("probe", async move { reachability.run(token, probe, on_change).await });
}

/// Redis as this process sees it.
fn tell_of(settings: &Settings, redis: Redis, reachability: Arc<Reachability>) -> Tells<RedisStatus> {
    let url = settings.redis.endpoint.to_string();
    Box::new(move || {
        let Known { kind, server_version, round_trip } = redis.known();
        RedisStatus { url: url.clone(), kind, server_version, round_trip, last_error: reachability.trouble() }
    })
}

fn mode_of(state: &State) -> ServingMode {
    match state {
        State::Reachable => ServingMode::Shared,
        State::Unreachable(_) | State::Misconfigured(_) => ServingMode::Degraded,
    }
}

async fn serve<S: ThreadStore, B: Breakers>(
    settings: Settings,
    backend: Backend<S, B>,
    serving: watch::Receiver<Serving>,
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
    shutdown.spawn(
        "sweep",
        sweep(Arc::clone(&backend.threads), settings.threads.sweep_interval, shutdown.clone()),
    );

    let server = &settings.server;
    let options = Options {
        max_request_bytes: usize::try_from(server.max_request_bytes).unwrap_or(usize::MAX),
        max_response_bytes: usize::try_from(server.max_response_bytes).unwrap_or(usize::MAX),
        max_concurrent_streams: server.max_concurrent_streams,
        max_concurrent_calls: usize::try_from(server.max_concurrent_calls).unwrap_or(usize::MAX),
        max_open_streams: usize::try_from(server.max_open_streams).unwrap_or(usize::MAX),
        keepalive_interval: server.keepalive_interval,
        keepalive_timeout: server.keepalive_timeout,
        drain_deadline: server.drain_deadline,
        default_ttl,
    };
    Ok(grpc::serve(listeners, options, backend, serving, shutdown).await?)
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

#[cfg(test)]
mod tests;
