//! The service around breakers that always stand the same.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    proto::{
        AcquireFirstRequest, AcquireRequest, ResetBreakerRequest, circuit_breakers_server::CircuitBreakers,
    },
    *,
};
use crate::{
    breakers::{
        Disposition, Permit, Position, RejectionReason, State,
        operations::{
            Acquire, AcquireFirst, Acquired, AcquiredFirst, Breaker, BreakersPage, BreakersQuery, Configure,
            Following, Inspected, Rejection, Renewed, Report, Reported, TransitionsPage, TransitionsQuery,
        },
        watch::{Event, Watch},
    },
    clock::Timestamp,
    error::Error,
};

/// Admits calls of every model but `down`, which is OPEN for 3 s more.
#[derive(Debug)]
pub(in crate::grpc) struct UpAndDown;

pub(super) fn key(key: &str) -> ModelKey {
    ModelKey::parse("", key).unwrap()
}

pub(super) fn permit(key: &ModelKey) -> Permit {
    let position = Position { epoch: "01JD".into(), generation: 4 };
    Permit { key: key.clone(), position, lease: None }
}

pub(super) fn rejection(key: &ModelKey) -> Rejection {
    Rejection {
        key: key.clone(),
        state: State::Open,
        reason: RejectionReason::Open,
        retry_after: Some(Duration::from_secs(3)),
    }
}

/// A breaker that opened.
pub(super) fn breaker(key: &ModelKey) -> Breaker {
    Breaker {
        key: key.clone(),
        state: State::Open,
        mode: crate::breakers::Mode::Automatic,
        position: Position { epoch: "01JD".into(), generation: 4 },
        since: Some(Timestamp::from_millis(1000)),
        open_until: Some(Timestamp::from_millis(31_000)),
        retry_after: Some(Duration::from_secs(3)),
        failure_rate_percent: Some(75.0),
        slow_rate_percent: None,
        counts: crate::breakers::Counts { calls: 12, failures: 9, slow: 1, run: 5 },
        last_failure: Some(Timestamp::from_millis(999)),
        rejected_calls: 7,
        attempts: 1,
        mode_override: None,
        permits_left: 0,
    }
}

type Ended<T> = Result<Answer<T>>;

fn refused<T: Send>() -> impl Future<Output = Result<T>> + Send {
    std::future::ready(Err(Error::NeedsShared("this test")))
}

/// A watch on which nothing happens.
#[derive(Debug)]
pub(in crate::grpc) struct Quiet;

impl Following for Quiet {
    async fn next(&mut self) -> Answer<Event> {
        std::future::pending().await
    }

    fn begin_again(&mut self, _: &'static str) {}

    fn tells_again(&self, _: &ModelKey) -> bool {
        false
    }
}

impl Breakers for UpAndDown {
    type Watch = Quiet;

    fn watch(&self, _: Watch) -> Result<Quiet> {
        Ok(Quiet)
    }

    fn acquire_known(&self, _: &Acquire) -> Option<Answer<Acquired>> {
        None
    }

    async fn acquire(&self, _: &Call, acquire: &Acquire) -> Ended<Acquired> {
        Ok(Answer::shared(match acquire.key.as_str() {
            "down" => Acquired::Rejected(rejection(&acquire.key)),
            _ => Acquired::Admitted { permit: permit(&acquire.key), state: State::Closed },
        }))
    }

    async fn acquire_first(&self, _: &Call, acquire: &AcquireFirst) -> Ended<AcquiredFirst> {
        let up = acquire.keys.iter().position(|key| key.as_str() != "down");
        let permit = up.map(|index| (index, permit(&acquire.keys[index])));
        let rejections = acquire.keys[..up.unwrap_or(acquire.keys.len())].iter().map(rejection).collect();
        Ok(Answer::shared(AcquiredFirst { permit, rejections }))
    }

    async fn report(&self, _: &Call, report: Report) -> Ended<Reported> {
        let breaker = breaker(&report.key);
        Ok(Answer::shared(Reported { disposition: Disposition::Applied, breaker }))
    }

    async fn operate(&self, _: &Call, key: &ModelKey, _: &Order) -> Ended<Breaker> {
        Ok(Answer::local(breaker(key)))
    }

    fn renew(
        &self,
        _: &Call,
        _: &Permit,
        _: Option<Duration>,
    ) -> impl Future<Output = Ended<Renewed>> + Send {
        refused()
    }

    fn inspect(&self, _: &Call, _: &ModelKey) -> impl Future<Output = Ended<Inspected>> + Send {
        refused()
    }

    fn list(&self, _: &Call, _: &BreakersQuery) -> impl Future<Output = Ended<BreakersPage>> + Send {
        refused()
    }

    fn configure(
        &self,
        _: &Call,
        _: &ModelKey,
        _: &Configure,
    ) -> impl Future<Output = Ended<Inspected>> + Send {
        refused()
    }

    fn delete(&self, _: &Call, _: &ModelKey) -> impl Future<Output = Ended<()>> + Send {
        refused()
    }

    fn transitions(
        &self,
        _: &Call,
        _: &TransitionsQuery,
    ) -> impl Future<Output = Ended<TransitionsPage>> + Send {
        refused()
    }
}

fn service() -> BreakersService<UpAndDown> {
    BreakersService::new(Arc::new(UpAndDown), Streams::new(1, CancellationToken::new()))
}

#[tokio::test]
async fn a_rejection_is_an_answer() {
    let request = AcquireRequest { model_key: "down".into(), ..Default::default() };
    let answer = service().acquire(Request::new(request)).await.unwrap().into_inner();
    assert!(!answer.admitted && answer.permit.is_none());
    assert_eq!((answer.state(), answer.reason()), (proto::State::Open, proto::RejectionReason::Open));
    assert_eq!(answer.retry_after.unwrap().seconds, 3);
    assert_eq!(answer.authority(), proto::Authority::Shared);
}

#[tokio::test]
async fn the_first_of_several_tells_which_and_who_was_rejected_before() {
    let request = AcquireFirstRequest {
        model_keys: ["down", "up", "spare"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let answer = service().acquire_first(Request::new(request)).await.unwrap().into_inner();
    assert_eq!((answer.admitted, answer.index, answer.retry_after), (true, Some(1), None));
    assert_eq!(answer.permit.unwrap().model_key, "up");
    let rejected: Vec<_> = answer.rejections.iter().map(|it| it.model_key.as_str()).collect();
    assert_eq!(rejected, ["down"]);
}

#[tokio::test]
async fn an_order_answers_the_breaker_and_who_told_it() {
    let request = ResetBreakerRequest { model_key: "m".into(), ..Default::default() };
    let answer = service().reset_breaker(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(answer.authority(), proto::Authority::Local);
    let breaker = answer.breaker.unwrap();
    assert_eq!((breaker.model_key.as_str(), breaker.generation), ("m", 4));
    assert!(breaker.settings.is_none() && breaker.last_transition.is_none());
}
