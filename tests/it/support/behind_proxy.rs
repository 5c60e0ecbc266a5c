//! A service that reaches its Redis only through a proxy that fails on order.

use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    breakers::Breakers,
    chaos_proxy::ChaosProxy,
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    health::{CHANGE, redis_is},
    redis_options::RedisOptions,
    redis_server::RedisServer,
    status::merged,
    threads::Threads,
};

/// What the log says when Redis is lost.
pub(crate) const LOST: &str = "redis is unreachable: serving from local memory";
/// What the log says when it is back.
pub(crate) const BACK: &str = "redis is reachable again: reconciling";

pub(crate) struct BehindProxy {
    pub(crate) redis: RedisServer,
    pub(crate) proxy: ChaosProxy,
    pub(crate) service: Fusewire,
    pub(crate) channel: Channel,
}

/// Options with which a write that was given up cannot happen any more a little later: until then it is not replayed.
pub(crate) fn quick() -> FusewireOptions {
    FusewireOptions::unix_socket().var("FUSEWIRE__REDIS__COMMAND_TIMEOUT", "500ms")
}

impl BehindProxy {
    /// Starts all three and returns when the service serves from Redis.
    pub(crate) async fn start() -> Self {
        Self::start_with(RedisOptions::tcp(), quick()).await
    }

    /// As [`BehindProxy::start`], for tests of what is no outage: on a busy machine it must not look like one.
    pub(crate) async fn start_patient(redis: RedisOptions) -> Self {
        Self::start_with(redis, FusewireOptions::unix_socket().var("FUSEWIRE__REDIS__OUTAGE_AFTER", "2s"))
            .await
    }

    /// Starts a Redis on TCP without a password, and the service with further options.
    pub(crate) async fn start_with(redis: RedisOptions, options: FusewireOptions) -> Self {
        let redis = RedisServer::start(redis).await;
        let proxy = ChaosProxy::start(redis.addr());
        let url = format!("redis://{}", proxy.addr());
        let service = Fusewire::start(options.var("REDIS_URL", &url)).await;
        let channel = service.channel().await;
        redis_is(&channel, ServingStatus::Serving).await;
        Self { redis, proxy, service, channel }
    }

    /// Ends the service with SIGKILL and starts another, which serves in whatever mode it finds itself in.
    pub(crate) async fn replace_service(&mut self, options: FusewireOptions) {
        self.service.kill();
        let url = format!("redis://{}", self.proxy.addr());
        self.service = Fusewire::start(options.var("REDIS_URL", &url)).await;
        self.channel = self.service.channel().await;
    }

    pub(crate) fn threads(&self) -> Threads {
        Threads::on(self.channel.clone())
    }

    pub(crate) fn breakers(&self) -> Breakers {
        Breakers::on([self.channel.clone()])
    }

    /// A second service on the same Redis, not behind the proxy.
    pub(crate) async fn another(&self) -> Fusewire {
        Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &self.redis.url())).await
    }

    /// As [`BehindProxy::another`], one for which nothing looks like an outage on a busy machine.
    pub(crate) async fn another_patient(&self) -> Fusewire {
        let options = FusewireOptions::unix_socket().var("REDIS_URL", &self.redis.url());
        Fusewire::start(options.var("FUSEWIRE__REDIS__OUTAGE_AFTER", "10s")).await
    }

    /// Cuts the way to Redis, and returns when the service serves from memory.
    pub(crate) async fn lose(&self) {
        self.proxy.refuse().await;
        self.proxy.cut().await;
        self.is_lost().await;
    }

    /// Opens the way again, and returns when the service serves from Redis.
    pub(crate) async fn restore(&self) {
        self.proxy.forward().await;
        self.is_back().await;
    }

    pub(crate) async fn is_lost(&self) {
        redis_is(&self.channel, ServingStatus::NotServing).await;
    }

    /// Returns when the service serves from Redis and has merged what memory accepted.
    pub(crate) async fn is_back(&self) {
        redis_is(&self.channel, ServingStatus::Serving).await;
        merged(&self.channel).await;
    }

    /// Checks that the log told of each loss and return once. A busy machine may look like a further outage.
    pub(crate) async fn assert_told(&self, times: usize) {
        let told = || (self.service.logged(LOST), self.service.logged(BACK));
        // What is logged arrives a little later.
        let is_told = async || told().1 >= times && told().0 == told().1;
        eventually("the log tells of losses and returns", CHANGE, is_told).await;
    }
}
