//! The service on each kind of store, so that one test body can run on all of them.

use tonic::transport::Channel;

use super::{
    fusewire::{Fusewire, FusewireOptions},
    raw::Raw,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::Threads,
};

/// What threads are kept in.
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
}

/// A running service and what it stands on.
pub(crate) struct Deployment {
    pub(crate) store: Store,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) service: Fusewire,
    channel: Channel,
}

impl Deployment {
    /// Starts the service on a store.
    pub(crate) async fn start(store: Store) -> Self {
        Self::start_with(store, &[]).await
    }

    /// Starts the service on a store, with settings.
    pub(crate) async fn start_with(store: Store, settings: &[(&str, &str)]) -> Self {
        let redis = match store {
            Store::Memory => None,
            Store::Redis | Store::Prefixed => Some(RedisServer::start(RedisOptions::unix_socket()).await),
            Store::Cluster => Some(RedisServer::start(RedisOptions::cluster()).await),
        };
        let service = Fusewire::start(options(store, redis.as_ref(), settings)).await;
        let channel = service.channel().await;
        Self { store, redis, service, channel }
    }

    /// Starts another service on the same Redis.
    pub(crate) async fn another(&self, settings: &[(&str, &str)]) -> Fusewire {
        Fusewire::start(options(self.store, self.redis.as_ref(), settings)).await
    }

    /// A client of the service.
    pub(crate) fn threads(&self) -> Threads {
        Threads::on(self.channel.clone())
    }

    /// A connection to the Redis behind the service.
    pub(crate) async fn raw(&self) -> Raw {
        self.redis.as_ref().expect("this store is a Redis").raw().await
    }

    /// A key as it is in Redis.
    pub(crate) fn key(&self, name: &str) -> String {
        let prefix = if self.store == Store::Prefixed { PREFIX } else { "" };
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
    if store == Store::Prefixed {
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

pub(crate) use {on_every_store, on_stores, run_cases};
