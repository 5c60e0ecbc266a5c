//! The service on each kind of store, so that one test body can run on all of them.

use tonic::transport::Channel;

use super::{
    breakers::Breakers,
    fusewire::{Fusewire, FusewireOptions},
    raw::Raw,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::Threads,
};

/// What threads and breakers are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// This process's memory, Redis switched off.
    Memory,
    /// One Redis server.
    Redis,
    /// A Redis Cluster of one node: it refuses scripts whose keys lie in different slots.
    Cluster,
    /// One Redis server, a prefix before every key.
    Prefixed,
    /// A Redis Cluster of one node, a prefix before every key.
    PrefixedCluster,
    /// Memory, with a prefix that nothing is put behind.
    PrefixedMemory,
    /// One Redis server that two services share; calls to breakers alternate between them.
    Pair,
}

impl Store {
    fn is_prefixed(self) -> bool {
        matches!(self, Self::Prefixed | Self::PrefixedCluster | Self::PrefixedMemory)
    }
}

/// A running service and what it stands on.
pub(crate) struct Deployment {
    pub(crate) store: Store,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) service: Fusewire,
    channel: Channel,
    others: Vec<(Fusewire, Channel)>,
}

impl Deployment {
    /// Starts the service on a store.
    pub(crate) async fn start(store: Store) -> Self {
        Self::start_with(store, &[]).await
    }

    /// Starts the service on a store, with settings.
    pub(crate) async fn start_with(store: Store, settings: &[(&str, &str)]) -> Self {
        let redis = match store {
            Store::Memory | Store::PrefixedMemory => None,
            Store::Redis | Store::Prefixed | Store::Pair => {
                Some(RedisServer::start(RedisOptions::unix_socket()).await)
            }
            Store::Cluster | Store::PrefixedCluster => {
                Some(RedisServer::start(RedisOptions::cluster()).await)
            }
        };
        let service = Fusewire::start(options(store, redis.as_ref(), settings)).await;
        let channel = service.channel().await;
        let mut deployment = Self { store, redis, service, channel, others: Vec::new() };
        if store == Store::Pair {
            deployment.grow(settings).await;
        }
        deployment
    }

    /// Starts another service on the same Redis, for calls to breakers to alternate with.
    pub(crate) async fn grow(&mut self, settings: &[(&str, &str)]) {
        let service = self.another(settings).await;
        let channel = service.channel().await;
        self.others.push((service, channel));
    }

    /// Starts another service on the same Redis.
    pub(crate) async fn another(&self, settings: &[(&str, &str)]) -> Fusewire {
        Fusewire::start(options(self.store, self.redis.as_ref(), settings)).await
    }

    /// A client of the service.
    pub(crate) fn threads(&self) -> Threads {
        Threads::on(self.channel.clone())
    }

    /// A client of breakers, each call to the next of the services.
    pub(crate) fn breakers(&self) -> Breakers {
        let others = self.others.iter().map(|(_, channel)| channel);
        Breakers::on(std::iter::once(&self.channel).chain(others).cloned())
    }

    /// How many services there are.
    pub(crate) fn services(&self) -> usize {
        1 + self.others.len()
    }

    /// A connection to the Redis behind the service.
    pub(crate) async fn raw(&self) -> Raw {
        self.redis.as_ref().expect("this store is a Redis").raw().await
    }

    /// A key as it is in Redis.
    pub(crate) fn key(&self, name: &str) -> String {
        let prefix = if self.store.is_prefixed() { PREFIX } else { "" };
        format!("{prefix}{name}")
    }
}

const PREFIX: &str = "prod:";

fn options(store: Store, redis: Option<&RedisServer>, settings: &[(&str, &str)]) -> FusewireOptions {
    let mut options = FusewireOptions::unix_socket();
    options = match redis {
        None => options.var("USE_REDIS", "false"),
        // What is no outage must not look like one where tests make the machine busy.
        Some(redis) => options.var("REDIS_URL", &redis.url()).var("FUSEWIRE__REDIS__OUTAGE_AFTER", "10s"),
    };
    if store.is_prefixed() {
        options = options.var("FUSEWIRE__REDIS__KEY_PREFIX", PREFIX);
    }
    settings.iter().fold(options, |options, (name, value)| options.var(name, value))
}

/// Runs cases one after the other on every store; each case is an async function of a `&Deployment`.
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {
        crate::support::deployment::on_stores!([memory: Memory, redis: Redis, cluster: Cluster, prefixed: Prefixed], [$($case),+]);
    };
}

/// As [`on_every_store`], with a prefix on each, and on two services that share one Redis, for cases whose calls
/// alternate between them.
macro_rules! on_every_store_and_on_a_pair {
    ($($case:ident),+ $(,)?) => {
        crate::support::deployment::on_stores!(
            [memory: Memory, redis: Redis, cluster: Cluster, prefixed: Prefixed,
             prefixed_cluster: PrefixedCluster, prefixed_memory: PrefixedMemory, pair: Pair],
            [$($case),+]
        );
    };
}

/// As [`on_every_store`], on the named ones.
macro_rules! on_stores {
    ([$($name:ident: $store:ident),+], $cases:tt) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let deployment =
                crate::support::deployment::Deployment::start(crate::support::deployment::Store::$store).await;
            crate::support::deployment::run_cases!(&deployment, $cases);
        })+
    };
}

macro_rules! run_cases {
    ($deployment:expr, [$($case:ident),+]) => {
        // What fails is the case named last.
        $(eprintln!("case {}", stringify!($case));
        $case($deployment).await;)+
    };
}

pub(crate) use {on_every_store, on_every_store_and_on_a_pair, on_stores, run_cases};
