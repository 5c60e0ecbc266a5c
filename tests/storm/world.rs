//! What a storm rages over: one Redis that keeps what it acknowledges, and two instances, each behind a proxy of its own.

use std::time::Duration;

use fusewire::grpc::proto::{GetStatusResponse, ServingMode};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use crate::support::{
    breakers::Breakers,
    chaos_proxy::ChaosProxy,
    eventually::POLL,
    fusewire::{Fusewire, FusewireOptions},
    redis_options::RedisOptions,
    redis_server::RedisServer,
    status::status,
    threads::Threads,
};

/// Far above what the end of an outage and a merge take, for a loaded machine.
const SETTLES: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) redis: RedisServer,
    pub(crate) sides: [Side; 2],
    /// Calls to Redis that end when a fault does.
    pub(super) running: JoinSet<()>,
}

/// One instance and its way to Redis.
pub(crate) struct Side {
    pub(crate) proxy: ChaosProxy,
    pub(crate) service: Fusewire,
    pub(crate) channel: Channel,
}

/// Clients of both instances.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) threads: [Threads; 2],
    pub(super) breakers: [Breakers; 2],
}

impl World {
    /// Starts it and returns when both instances serve from Redis.
    pub(crate) async fn start() -> Self {
        // A restart must bring back what was acknowledged, a failed snapshot must stop writes, and a script is soon
        // long. The log is not rewritten: its folder may be away.
        let redis = RedisOptions::tcp()
            .append_only()
            .config("auto-aof-rewrite-percentage", "0")
            .config("save", "3600 1")
            .config("enable-protected-configs", "yes")
            .config("lua-time-limit", "10");
        let redis = RedisServer::start(redis).await;
        let sides = [Side::start(&redis).await, Side::start(&redis).await];
        let world = Self { redis, sides, running: JoinSet::new() };
        world.settled("both instances serve from Redis").await;
        world
    }

    pub(super) fn clients(&self) -> Clients {
        Clients {
            threads: self.sides.each_ref().map(|side| Threads::on(side.channel.clone())),
            breakers: self.sides.each_ref().map(|side| Breakers::on([side.channel.clone()])),
        }
    }

    /// Returns once both instances serve from Redis and have nothing left to merge.
    pub(crate) async fn settled(&self, what: &str) {
        for side in &self.sides {
            let mut seen = None;
            let settled = async {
                while !is_settled(seen.insert(status(&side.channel).await)) {
                    sleep(POLL).await;
                }
            };
            let is_in_time = timeout(SETTLES, settled).await.is_ok();
            assert!(is_in_time, "waited {SETTLES:?} in vain: {what}: {seen:?}");
        }
    }
}

fn is_settled(told: &GetStatusResponse) -> bool {
    let is_empty =
        told.journal.as_ref().is_none_or(|journal| journal.entries == 0 && journal.parked.is_empty());
    told.mode() == ServingMode::Shared && is_empty
}

impl Side {
    async fn start(redis: &RedisServer) -> Self {
        let proxy = ChaosProxy::start(redis.addr());
        let options = FusewireOptions::unix_socket()
            .var("REDIS_URL", &format!("redis://{}", proxy.addr()))
            // A write that timed out is repeated when it cannot run any more by itself: so much later, and a second.
            .var("FUSEWIRE__REDIS__COMMAND_TIMEOUT", "500ms");
        let service = Fusewire::start(options).await;
        let channel = service.channel().await;
        Self { proxy, service, channel }
    }
}
