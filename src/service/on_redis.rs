//! The service on Redis, with memory for its outages.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Fault, limits, serve, start};
use crate::{
    breakers::{BreakerStore, Engine},
    call::{Serving, ServingMode},
    clock::{Clock, SystemClock, Timestamp},
    diagnostics::{Diagnostics, RedisStatus, Tells},
    error::{Error, Result},
    grpc::{self, Backend},
    memory::MemoryBreakers,
    outage::{
        Copies, Fallback, FallbackBreakers, FileJournal, Handover, JournalBounds, Opened, Reachability,
        State, SyncPolicy,
    },
    redis::{Notifications, Redis, RedisBreakers, RedisClock, RedisThreads, Ring},
    settings::{FallbackSettings, Fsync, Settings},
    shutdown::Shutdown,
    threads::watch::Wakers,
};

/// How long a probe may take before it is taken for a failure anyway.
const PROBE: Duration = Duration::from_secs(1);

type Threads = Fallback<RedisThreads>;

/// Breakers in Redis, and in memory for its outages.
struct Engines {
    shared: Engine<RedisBreakers>,
    local: Engine<MemoryBreakers<RedisClock>>,
}

pub(super) async fn run(
    settings: Settings,
    instance: &str,
    started: Timestamp,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let file = open_journal(&settings.fallback, &shutdown).await?;
    let redis = Redis::new(&settings.redis, Arc::new(SystemClock))?;
    let greeting = greet(&settings, &redis).await?;
    let reachability = Arc::new(Reachability::new(&greeting, settings.redis.outage_after));
    let threads = assemble_threads(&settings, &redis, &reachability, file);
    let begin = mode_at_start(&reachability.watch().borrow(), threads.copies());
    let (mode, serving) = watch::channel(Serving { mode: begin, since: SystemClock.now() });
    let wakers = Wakers { serving: Some(serving.clone()), ..Wakers::default() };
    let engines = Engines::start(&settings, &redis, instance, &wakers, &shutdown);
    let told = tell_of(redis.clone(), Arc::clone(&reachability));
    let diagnostics = diagnostics((instance, started), told, &threads, &engines, &wakers);
    let handover = engines.handover(&reachability);
    let (bells, tasks) = (Arc::clone(&wakers.bells), shutdown.clone());
    let on_change = move |is_reachable| {
        if is_reachable {
            offer(handover.end(), &tasks);
        } else {
            handover.begin();
        }
        // Watchers are told of the change, too.
        bells.ring_all();
    };
    probe(redis.clone(), &reachability, on_change, &shutdown);
    listen(&settings, instance, &wakers, engines.shared.clone(), &shutdown)?;
    let (merging, token) = (threads.clone(), shutdown.token());
    shutdown.spawn("reconcile", async move { merging.reconcile(mode, Arc::new(SystemClock), token).await });
    let Engines { shared, local } = engines;
    let breakers =
        FallbackBreakers::new(shared, local, reachability, serving.clone(), Arc::new(redis.clock()));
    let backend = Backend { threads: Arc::new(threads), wakers, breakers: Arc::new(breakers), diagnostics };
    serve(settings, backend, serving, shutdown).await
}

/// Opens the journal file, if there is to be one.
async fn open_journal(settings: &FallbackSettings, shutdown: &Shutdown) -> Result<Option<Opened>, Fault> {
    let Some(path) = settings.journal_path.clone() else { return Ok(None) };
    let policy = match settings.journal_fsync {
        Fsync::Always => SyncPolicy::Always,
        Fsync::EverySecond => SyncPolicy::EverySecond,
        Fsync::Never => SyncPolicy::Never,
    };
    let tasks = shutdown.clone();
    let opened = shutdown.spawn_blocking(move || FileJournal::open(&path, policy, &tasks)).await;
    Ok(Some(opened.map_err(|cause| Error::Internal(cause.into()))??))
}

/// Threads in Redis, and in memory for its outages; with the journal file, what an earlier process left there.
fn assemble_threads(
    settings: &Settings,
    redis: &Redis,
    reachability: &Arc<Reachability>,
    file: Option<Opened>,
) -> Threads {
    let limits = limits(settings);
    let bounds = JournalBounds {
        max_bytes: settings.fallback.journal_bytes,
        max_entries: settings.fallback.journal_entries,
    };
    let room = (settings.memory.copy_bytes, settings.memory.copy_threads);
    // Copies expire by the clock that said when.
    let mut copies = Copies::new(Arc::new(redis.clock()), limits, room, bounds, grpc::digest_of);
    if let Some(Opened { journal, records, .. }) = file {
        copies = copies.with_file(journal, records, redis.latest_write());
        let (writes, threads) = (copies.journal().entries, copies.len());
        if writes > 0 {
            info!(writes, threads, "writes of an earlier process wait in the journal file to be merged");
        }
    }
    let shared = RedisThreads::new(redis.clone(), limits);
    Fallback::new(shared, copies, Arc::clone(reachability), redis.latest_write())
}

fn mode_at_start(state: &State, copies: &Copies) -> ServingMode {
    match state {
        State::Reachable if copies.is_pending() => ServingMode::Reconciling,
        State::Reachable => ServingMode::Shared,
        State::Unreachable(_) | State::Misconfigured(_) => ServingMode::Degraded,
    }
}

impl Engines {
    /// Makes both, and has them do what they do by themselves.
    fn start(
        settings: &Settings,
        redis: &Redis,
        instance: &str,
        wakers: &Wakers,
        shutdown: &Shutdown,
    ) -> Self {
        let (doorbell, policies) = (Arc::clone(&wakers.doorbell), settings.breakers.policies.clone());
        let shared = RedisBreakers::new(redis.clone(), instance);
        let shared = Engine::new(shared, policies, instance, Some(doorbell), shutdown.clone());
        start(&shared, shutdown);
        let local = MemoryBreakers::new(redis.clock(), settings.memory.max_breakers);
        let local = Engine::in_place_of(&shared, local.of_instance(instance.into()));
        start(&local, shutdown);
        Self { shared, local }
    }

    /// What takes breakers from one to the other as an outage begins and ends.
    fn handover(&self, reachability: &Arc<Reachability>) -> Arc<Handover<RedisBreakers, RedisClock>> {
        let Self { shared, local } = self;
        Arc::new(Handover::new(shared.clone(), local.clone(), Arc::clone(reachability)))
    }
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

/// What this process tells of itself.
fn diagnostics(
    (instance, started): (&str, Timestamp),
    redis: Tells<RedisStatus>,
    threads: &Threads,
    engines: &Engines,
    wakers: &Wakers,
) -> Diagnostics {
    let (held, merging, local) = (threads.clone(), threads.clone(), engines.local.clone());
    Diagnostics {
        instance: instance.into(),
        started,
        redis: Some(redis),
        journal: Some(Box::new(move || merging.journal())),
        doorbell: Some(Arc::clone(&wakers.doorbell)),
        local_threads: Box::new(move || held.copies().len()),
        local_breakers: Box::new(move || local.store().len()),
    }
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
        Ring::Breaker(key) => breakers.wake(&key),
        Ring::Everything => {
            bells.ring_all();
            breakers.wake_all();
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
fn tell_of(redis: Redis, reachability: Arc<Reachability>) -> Tells<RedisStatus> {
    Box::new(move || RedisStatus { last_error: reachability.trouble(), ..redis.status() })
}
