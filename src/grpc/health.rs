//! What `grpc.health.v1` says: of the server as a whole, of each service, and of Redis under its own name.

use std::future::pending;

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::proto::{circuit_breakers_server, conversation_threads_server, diagnostics_server};
use crate::call::{Serving, ServingMode};

/// The server as a whole, and the services that are there.
const SERVICES: [&str; 4] = [
    "",
    circuit_breakers_server::SERVICE_NAME,
    conversation_threads_server::SERVICE_NAME,
    diagnostics_server::SERVICE_NAME,
];
const REDIS: &str = "redis";

/// The health of this server, and of the Redis behind it, if there is one.
#[derive(Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
    serving: watch::Receiver<Serving>,
}

impl Health {
    /// Says `NOT_SERVING` of everything, until it is told otherwise.
    pub(super) async fn new(serving: watch::Receiver<Serving>) -> Self {
        let health = Self { reporter: HealthReporter::new(), serving };
        for name in health.names() {
            health.reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
        health
    }

    /// The service that answers.
    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Says `SERVING` of the server and of all its services.
    pub(super) async fn begin(&self) {
        for service in SERVICES {
            self.reporter.set_service_status(service, ServingStatus::Serving).await;
        }
    }

    /// Says of Redis what is known of it; never ends.
    pub(super) async fn follow_redis(&self) {
        let mut serving = self.serving.clone();
        loop {
            let mode = serving.borrow_and_update().mode;
            let status = match mode {
                ServingMode::Shared | ServingMode::Reconciling => ServingStatus::Serving,
                ServingMode::Degraded => ServingStatus::NotServing,
                ServingMode::Local => return pending().await,
            };
            self.reporter.set_service_status(REDIS, status).await;
            if serving.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Says `NOT_SERVING` of everything, and ends the streams that watch it, after they told that.
    pub(super) async fn end(&self) {
        let mut reporter = self.reporter.clone();
        for name in self.names() {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            // Forgetting a name ends its watches; checks of it must go on.
            reporter.clear_service_status(name).await;
            reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let has_redis = self.serving.borrow().mode != ServingMode::Local;
        SERVICES.into_iter().chain(has_redis.then_some(REDIS))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Request;
    use tonic_health::pb::{HealthCheckRequest, health_server::Health as _};

    use super::*;
    use crate::clock::Timestamp;

    fn asked(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.into() })
    }

    #[tokio::test]
    async fn at_the_end_watches_tell_not_serving_and_end_while_checks_go_on() {
        let local = Serving { mode: ServingMode::Local, since: Timestamp::default() };
        let health = Health::new(watch::channel(local).1).await;
        health.begin().await;
        let service = HealthService::from_health_reporter(health.reporter.clone());
        let mut watch = service.watch(asked("")).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
        health.end().await;
        assert_eq!(watch.next().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
        assert!(watch.next().await.is_none());
        for name in SERVICES {
            let check = service.check(asked(name)).await.unwrap().into_inner();
            assert_eq!(check.status, ServingStatus::NotServing as i32, "{name}");
        }
        assert!(service.check(asked(REDIS)).await.is_err());
    }
}
