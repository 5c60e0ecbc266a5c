//! The service `CircuitBreakers` on any breakers: a request is parsed, the breakers asked, their answer written.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};
use tracing::Span;

use super::{
    calls::{Reply, call},
    convert, proto,
    streams::Streams,
};
use crate::{
    breakers::{Breakers, ModelKey, operations::Order},
    call::{Answer, Call},
    error::Result,
};

mod answers;
mod enums;
mod requests;
mod settings;
mod tokens;
mod watch;

/// The service.
#[derive(Debug)]
pub(super) struct BreakersService<B> {
    breakers: Arc<B>,
    streams: Streams,
}

impl<B: Breakers> BreakersService<B> {
    /// Serves `breakers`; their watches are among `streams`.
    pub(super) fn new(breakers: Arc<B>, streams: Streams) -> Self {
        Self { breakers, streams }
    }

    /// Carries out an order; tells the breaker afterwards, and who answered.
    async fn operate(
        &self,
        call: &Call,
        (key, order): (ModelKey, Order),
    ) -> Result<(Option<proto::Breaker>, i32)> {
        tell(&key);
        let Answer { value, source } = self.breakers.operate(call, &key, &order).await?;
        Ok((Some(answers::breaker(value)), convert::authority(source)))
    }
}

#[async_trait]
impl<B: Breakers> proto::circuit_breakers_server::CircuitBreakers for BreakersService<B> {
    async fn acquire(&self, request: Request<proto::AcquireRequest>) -> Reply<proto::AcquireResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let acquire = requests::acquire(request.get_ref())?;
        tell(&acquire.key);
        let answer = match self.breakers.acquire_known(&acquire) {
            Some(answer) => answer,
            // What need not be asked is not to pay for the room that a question takes.
            None => Box::pin(self.breakers.acquire(&call, &acquire)).await?,
        };
        Ok(Response::new(answers::acquired(answer)))
    }

    async fn acquire_first(
        &self,
        request: Request<proto::AcquireFirstRequest>,
    ) -> Reply<proto::AcquireFirstResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let acquire = requests::acquire_first(request.get_ref())?;
        let answer = self.breakers.acquire_first(&call, &acquire).await?;
        if let Some((_, permit)) = &answer.value.permit {
            tell(&permit.key);
        }
        Ok(Response::new(answers::acquired_first(answer)))
    }

    async fn renew_permit(
        &self,
        request: Request<proto::RenewPermitRequest>,
    ) -> Reply<proto::RenewPermitResponse> {
        let call = call(&request, false);
        let (permit, lease) = requests::renew(request.into_inner())?;
        tell(&permit.key);
        let Answer { value, source } = self.breakers.renew(&call, &permit, lease).await?;
        Ok(Response::new(proto::RenewPermitResponse {
            renewed: value.permit.is_some(),
            permit: value.permit.map(answers::permit),
            authority: convert::authority(source),
        }))
    }

    async fn report(&self, request: Request<proto::ReportRequest>) -> Reply<proto::ReportResponse> {
        let call = call(&request, false);
        let report = requests::report(request.into_inner())?;
        tell(&report.key);
        let answer = self.breakers.report(&call, report).await?;
        Ok(Response::new(answers::reported(answer)))
    }

    async fn get_breaker(
        &self,
        request: Request<proto::GetBreakerRequest>,
    ) -> Reply<proto::GetBreakerResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let key = requests::model_key(&request.get_ref().model_key)?;
        tell(&key);
        let Answer { value, source } = self.breakers.inspect(&call, &key).await?;
        Ok(Response::new(proto::GetBreakerResponse {
            breaker: Some(answers::inspected(value)),
            authority: convert::authority(source),
            as_of: convert::as_of(source),
        }))
    }

    async fn list_breakers(
        &self,
        request: Request<proto::ListBreakersRequest>,
    ) -> Reply<proto::ListBreakersResponse> {
        let call = call(&request, false);
        let query = requests::list(request.into_inner())?;
        let answer = self.breakers.list(&call, &query).await?;
        Ok(Response::new(answers::breakers(&query, answer)))
    }

    async fn configure_breaker(
        &self,
        request: Request<proto::ConfigureBreakerRequest>,
    ) -> Reply<proto::ConfigureBreakerResponse> {
        let call = call(&request, false);
        let (key, configure) = requests::configure(request.get_ref())?;
        tell(&key);
        let Answer { value, source } = self.breakers.configure(&call, &key, &configure).await?;
        Ok(Response::new(proto::ConfigureBreakerResponse {
            breaker: Some(answers::configured(value)),
            authority: convert::authority(source),
        }))
    }

    async fn trip_breaker(
        &self,
        request: Request<proto::TripBreakerRequest>,
    ) -> Reply<proto::TripBreakerResponse> {
        let call = call(&request, false);
        let order = requests::trip(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(proto::TripBreakerResponse { breaker, authority }))
    }

    async fn reset_breaker(
        &self,
        request: Request<proto::ResetBreakerRequest>,
    ) -> Reply<proto::ResetBreakerResponse> {
        let call = call(&request, false);
        let order = requests::reset(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(proto::ResetBreakerResponse { breaker, authority }))
    }

    async fn override_breaker(
        &self,
        request: Request<proto::OverrideBreakerRequest>,
    ) -> Reply<proto::OverrideBreakerResponse> {
        let call = call(&request, false);
        let order = requests::override_mode(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(proto::OverrideBreakerResponse { breaker, authority }))
    }

    async fn delete_breaker(
        &self,
        request: Request<proto::DeleteBreakerRequest>,
    ) -> Reply<proto::DeleteBreakerResponse> {
        let call = call(&request, false);
        let key = requests::model_key(&request.get_ref().model_key)?;
        tell(&key);
        let Answer { value: (), source } = self.breakers.delete(&call, &key).await?;
        Ok(Response::new(proto::DeleteBreakerResponse { authority: convert::authority(source) }))
    }

    async fn list_transitions(
        &self,
        request: Request<proto::ListTransitionsRequest>,
    ) -> Reply<proto::ListTransitionsResponse> {
        let call = call(&request, false);
        let (query, walk) = requests::list_transitions(request.into_inner())?;
        tell(&query.key);
        let answer = self.breakers.transitions(&call, &query).await?;
        Ok(Response::new(answers::transitions(&walk, answer)))
    }

    type WatchBreakersStream = BoxStream<'static, Result<proto::WatchBreakersResponse, Status>>;

    async fn watch_breakers(
        &self,
        request: Request<proto::WatchBreakersRequest>,
    ) -> Reply<Self::WatchBreakersStream> {
        let place = self.streams.enter(&call(&request, false))?;
        let watch = self.breakers.watch(watch::parse(request.into_inner())?)?;
        Ok(place.serve(watch::events(watch)))
    }
}

/// Names the breaker in the call's span.
fn tell(key: &ModelKey) {
    Span::current().record("model_key", key.as_str());
}

#[cfg(test)]
pub(super) mod tests;
