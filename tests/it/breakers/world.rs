//! Where the engine runs in these tests: over memory or over a real Redis, both by a clock that the test moves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fusewire::{
    breakers::{
        BreakerSettings, BreakerStore, Engine, History, Log, ModelKey, Policies, Position, View,
        store::{
            Attempt, Batch, Change, Changed, Followed, Glance, InForce, LeaseRequest, Leased, Listed,
            Recorded, Settled, Settlement,
        },
    },
    call::{Call, Source},
    clock::{ManualClock, SystemClock, Timestamp},
    error::Result,
    memory::MemoryBreakers,
    redis::{Redis, RedisBreakers},
    settings::{self, Flags},
    shutdown::Shutdown,
};

use crate::support::{redis_options::RedisOptions, redis_server::RedisServer};

/// A whole second of 2030.
const START: Timestamp = Timestamp::from_millis(1_893_456_000_000);
/// How far apart the beginnings of two stories on one store are, so that they share nothing.
const APART: Duration = Duration::from_hours(24 * 30);

/// A kind of store, and its clock.
pub(super) trait World {
    type Store: BreakerStore;

    /// The store, as an instance of this name sees it.
    fn store(&self, instance: &str) -> Self::Store;

    /// Puts the store's clock to a moment.
    fn set(&self, now: Timestamp);
}

/// An engine over a world's store.
pub(super) fn engine<W: World>(world: &W, policies: &Policies, instance: &str) -> Engine<W::Store> {
    Engine::new(world.store(instance), policies.clone(), instance, None, Shutdown::new())
}

/// When a story begins.
pub(super) fn beginning(story: u32) -> Timestamp {
    START.plus(APART * story)
}

/// Memory.
#[derive(Debug)]
pub(super) struct InMemory {
    clock: Arc<ManualClock>,
    store: Shared<MemoryBreakers<Arc<ManualClock>>>,
}

impl InMemory {
    pub(super) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = Shared(Arc::new(MemoryBreakers::new(Arc::clone(&clock), 1_000_000)));
        Self { clock, store }
    }
}

impl World for InMemory {
    type Store = Shared<MemoryBreakers<Arc<ManualClock>>>;

    fn store(&self, _instance: &str) -> Self::Store {
        self.store.clone()
    }

    fn set(&self, now: Timestamp) {
        self.clock.set(now);
    }
}

/// A redis-server.
#[derive(Debug)]
pub(super) struct InRedis {
    server: RedisServer,
    redis: Redis,
}

impl InRedis {
    pub(super) async fn start() -> Self {
        let server = RedisServer::start(RedisOptions::unix_socket().with_manual_clock()).await;
        let environment = BTreeMap::from([("REDIS_URL".to_owned(), server.url())]);
        let loaded = settings::load(&Flags::default(), &environment, None).unwrap();
        let redis = Redis::new(&loaded.settings.redis, Arc::new(SystemClock)).unwrap();
        Self { server, redis }
    }

    pub(super) fn server(&self) -> &RedisServer {
        &self.server
    }
}

impl World for InRedis {
    type Store = RedisBreakers;

    fn store(&self, instance: &str) -> RedisBreakers {
        RedisBreakers::new(self.redis.clone(), instance)
    }

    fn set(&self, now: Timestamp) {
        self.server.clock().set(now);
    }
}

/// One store for several engines.
#[derive(Debug)]
pub(super) struct Shared<S>(Arc<S>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: BreakerStore> BreakerStore for Shared<S> {
    fn source(&self) -> Source {
        self.0.source()
    }

    async fn load(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        with_history: bool,
    ) -> Result<Attempt<(View, History)>> {
        self.0.load(call, key, in_force, with_history).await
    }

    async fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        batch: &Batch,
    ) -> Result<Attempt<Recorded>> {
        self.0.record(call, key, in_force, batch).await
    }

    async fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        request: LeaseRequest<'_>,
        lease: (&str, Duration),
    ) -> Result<Attempt<Leased>> {
        self.0.lease(call, key, in_force, request, lease).await
    }

    async fn settle(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        settlement: &Settlement,
    ) -> Result<Attempt<Settled>> {
        self.0.settle(call, key, in_force, settlement).await
    }

    async fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        change: &Change,
    ) -> Result<Attempt<Changed>> {
        self.0.transition(call, key, in_force, change).await
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        expected: &str,
        settings: Option<&BreakerSettings>,
    ) -> Result<bool> {
        self.0.configure(call, key, expected, settings).await
    }

    async fn remove(&self, call: &Call, key: &ModelKey) -> Result<()> {
        self.0.remove(call, key).await
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>> {
        self.0.list(call).await
    }

    async fn unlist(&self, call: &Call, listed: &Listed) -> Result<()> {
        self.0.unlist(call, listed).await
    }

    async fn follow(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Attempt<Followed>> {
        self.0.follow(call, key, in_force, after, limit).await
    }

    async fn glance(&self, call: &Call, keys: &[ModelKey]) -> Result<Vec<Option<Glance>>> {
        self.0.glance(call, keys).await
    }

    async fn list_changed(&self, call: &Call, within: Duration) -> Result<Vec<ModelKey>> {
        self.0.list_changed(call, within).await
    }

    async fn log(&self, call: &Call, key: &ModelKey, after: i64, limit: usize) -> Result<Log> {
        self.0.log(call, key, after, limit).await
    }
}
