//! The service `CircuitBreakers` on any breakers: a request is parsed, the breakers asked, their answer written.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};
use tracing::Span;

use super::{
    calls::{Reply, call},
    convert,
    proto::{
        self, AcquireFirstRequest, AcquireFirstResponse, AcquireRequest, AcquireResponse,
        ConfigureBreakerRequest, ConfigureBreakerResponse, DeleteBreakerRequest, DeleteBreakerResponse,
        GetBreakerRequest, GetBreakerResponse, ListBreakersRequest, ListBreakersResponse,
        ListTransitionsRequest, ListTransitionsResponse, OverrideBreakerRequest, OverrideBreakerResponse,
        RenewPermitRequest, RenewPermitResponse, ReportRequest, ReportResponse, ResetBreakerRequest,
        ResetBreakerResponse, TripBreakerRequest, TripBreakerResponse, WatchBreakersRequest,
        WatchBreakersResponse, circuit_breakers_server::CircuitBreakers,
    },
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
impl<B: Breakers> CircuitBreakers for BreakersService<B> {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Reply<AcquireResponse> {
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

    async fn acquire_first(&self, request: Request<AcquireFirstRequest>) -> Reply<AcquireFirstResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let acquire = requests::acquire_first(request.get_ref())?;
        let answer = self.breakers.acquire_first(&call, &acquire).await?;
        if let Some((_, permit)) = &answer.value.permit {
            tell(&permit.key);
        }
        Ok(Response::new(answers::acquired_first(answer)))
    }

    async fn renew_permit(&self, request: Request<RenewPermitRequest>) -> Reply<RenewPermitResponse> {
        let call = call(&request, false);
        let (permit, lease) = requests::renew(request.into_inner())?;
        tell(&permit.key);
        let Answer { value, source } = self.breakers.renew(&call, &permit, lease).await?;
        Ok(Response::new(RenewPermitResponse {
            renewed: value.permit.is_some(),
            permit: value.permit.map(answers::permit),
            authority: convert::authority(source),
        }))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Reply<ReportResponse> {
        let call = call(&request, false);
        let report = requests::report(request.into_inner())?;
        tell(&report.key);
        let answer = self.breakers.report(&call, report).await?;
        Ok(Response::new(answers::reported(answer)))
    }

    async fn get_breaker(&self, request: Request<GetBreakerRequest>) -> Reply<GetBreakerResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let key = requests::model_key(&request.get_ref().model_key)?;
        tell(&key);
        let Answer { value, source } = self.breakers.inspect(&call, &key).await?;
        Ok(Response::new(GetBreakerResponse {
            breaker: Some(answers::inspected(value)),
            authority: convert::authority(source),
            as_of: convert::as_of(source),
        }))
    }

    async fn list_breakers(&self, request: Request<ListBreakersRequest>) -> Reply<ListBreakersResponse> {
        let call = call(&request, false);
        let query = requests::list(request.into_inner())?;
        let answer = self.breakers.list(&call, &query).await?;
        Ok(Response::new(answers::breakers(&query, answer)))
    }

    async fn configure_breaker(
        &self,
        request: Request<ConfigureBreakerRequest>,
    ) -> Reply<ConfigureBreakerResponse> {
        let call = call(&request, false);
        let (key, configure) = requests::configure(request.get_ref())?;
        tell(&key);
        let Answer { value, source } = self.breakers.configure(&call, &key, &configure).await?;
        Ok(Response::new(ConfigureBreakerResponse {
            breaker: Some(answers::configured(value)),
            authority: convert::authority(source),
        }))
    }

    async fn trip_breaker(&self, request: Request<TripBreakerRequest>) -> Reply<TripBreakerResponse> {
        let call = call(&request, false);
        let order = requests::trip(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(TripBreakerResponse { breaker, authority }))
    }

    async fn reset_breaker(&self, request: Request<ResetBreakerRequest>) -> Reply<ResetBreakerResponse> {
        let call = call(&request, false);
        let order = requests::reset(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(ResetBreakerResponse { breaker, authority }))
    }

    async fn override_breaker(
        &self,
        request: Request<OverrideBreakerRequest>,
    ) -> Reply<OverrideBreakerResponse> {
        let call = call(&request, false);
        let order = requests::override_mode(request.into_inner())?;
        let (breaker, authority) = self.operate(&call, order).await?;
        Ok(Response::new(OverrideBreakerResponse { breaker, authority }))
    }

    async fn delete_breaker(&self, request: Request<DeleteBreakerRequest>) -> Reply<DeleteBreakerResponse> {
        let call = call(&request, false);
        let key = requests::model_key(&request.get_ref().model_key)?;
        tell(&key);
        let Answer { value: (), source } = self.breakers.delete(&call, &key).await?;
        Ok(Response::new(DeleteBreakerResponse { authority: convert::authority(source) }))
    }

    async fn list_transitions(
        &self,
        request: Request<ListTransitionsRequest>,
    ) -> Reply<ListTransitionsResponse> {
        let call = call(&request, false);
        let (query, walk) = requests::list_transitions(request.into_inner())?;
        tell(&query.key);
        let answer = self.breakers.transitions(&call, &query).await?;
        Ok(Response::new(answers::transitions(&walk, answer)))
    }

    type WatchBreakersStream = BoxStream<'static, Result<WatchBreakersResponse, Status>>;

    async fn watch_breakers(
        &self,
        request: Request<WatchBreakersRequest>,
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
