//! What memory serves of breakers in an outage, and what it leaves to Redis.

use std::time::Duration;

use fusewire::grpc::proto::{
    AcquireFirstRequest, AcquireRequest, Authority, DeleteBreakerRequest, Disposition, GetBreakerRequest,
    ListBreakersRequest, ListTransitionsRequest, Mode,
    Outcome::{Failure, Success},
    OverrideBreakerRequest, Permit, RenewPermitRequest, ResetBreakerRequest, State, TripBreakerRequest,
};
use tokio::time::Instant;

use super::{ANSWERED, SOON, assert_unavailable};
use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, after, asking, assert_stands, configuring, in_a_row, telling, unpermitted},
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
};

fn getting(key: &str) -> GetBreakerRequest {
    GetBreakerRequest { model_key: key.into(), ..Default::default() }
}

fn choosing(key: &str) -> AcquireFirstRequest {
    AcquireFirstRequest { model_keys: vec![key.into()], ..Default::default() }
}

fn renewing(permit: &Permit) -> RenewPermitRequest {
    RenewPermitRequest { permit: Some(permit.clone()), lease: None }
}

/// Makes each call that memory can answer; a permit that was given there at the end.
async fn calls_answered_from_memory(breakers: &Breakers, key: &str) -> Permit {
    let began = Instant::now();
    let answer = breakers.acquire(asking(key)).await.unwrap();
    let took = began.elapsed();
    eprintln!("the first call took {took:?}");
    assert!(took < ANSWERED, "{took:?}");
    assert_eq!((answer.authority(), answer.admitted), (Authority::Local, true));
    let reported = breakers.report(unpermitted(key, Success)).await.unwrap();
    assert_eq!((reported.authority(), reported.disposition()), (Authority::Local, Disposition::Applied));
    let answer = breakers.acquire_first(choosing(key)).await.unwrap();
    assert_eq!((answer.authority(), answer.index), (Authority::Local, Some(0)));
    let permit = answer.permit.unwrap();
    assert!(permit.epoch.starts_with("local-"), "{permit:?}");
    let renewed = breakers.renew_permit(renewing(&permit)).await.unwrap();
    assert_eq!((renewed.authority(), renewed.renewed), (Authority::Local, true));
    let reported = breakers.report(telling(&permit, Failure)).await.unwrap();
    assert_eq!((reported.authority(), reported.disposition()), (Authority::Local, Disposition::Applied));
    let read = breakers.get_breaker(getting(key)).await.unwrap();
    assert_eq!((read.authority(), read.as_of.is_some()), (Authority::Local, true));
    let breaker = read.breaker.unwrap();
    assert_eq!((&breaker.epoch, breaker.calls, breaker.failures), (&permit.epoch, 2, 1));
    let listed = breakers.list_breakers(ListBreakersRequest::default()).await.unwrap();
    assert_eq!(listed.authority(), Authority::Local);
    let history = ListTransitionsRequest { model_key: key.into(), ..Default::default() };
    assert_eq!(breakers.list_transitions(history).await.unwrap().authority(), Authority::Local);
    permit
}

/// Makes each call that speaks for the whole fleet, or wants Redis.
async fn calls_refused(breakers: &Breakers, key: &str) {
    let model_key = || key.to_owned();
    let trip = TripBreakerRequest { model_key: model_key(), ..Default::default() };
    assert_unavailable("trip", breakers.trip_breaker(trip).await);
    let reset = ResetBreakerRequest { model_key: model_key(), ..Default::default() };
    assert_unavailable("reset", breakers.reset_breaker(reset).await);
    let force = OverrideBreakerRequest {
        model_key: model_key(),
        mode: Mode::ForcedOpen.into(),
        ..Default::default()
    };
    assert_unavailable("override", breakers.override_breaker(force).await);
    assert_unavailable("configure", breakers.configure_breaker(configuring(key, in_a_row(1))).await);
    let delete = DeleteBreakerRequest { model_key: model_key() };
    assert_unavailable("delete", breakers.delete_breaker(delete).await);
    calls_that_require_redis_are_refused(breakers, key).await;
}

async fn calls_that_require_redis_are_refused(breakers: &Breakers, key: &str) {
    let acquire = AcquireRequest { require_shared: true, ..asking(key) };
    assert_unavailable("acquire", breakers.acquire(acquire).await);
    let first = AcquireFirstRequest { require_shared: true, ..choosing(key) };
    assert_unavailable("acquire first", breakers.acquire_first(first).await);
    let get = GetBreakerRequest { require_shared: true, ..getting(key) };
    assert_unavailable("get", breakers.get_breaker(get).await);
}

async fn assert_outage(
    mut on: BehindProxy,
    fail: impl AsyncFnOnce(&mut BehindProxy),
    mend: impl AsyncFnOnce(&mut BehindProxy),
) {
    let breakers = on.breakers();
    let key = "in-outage";
    let before = after(breakers.report(unpermitted(key, Success)).await.unwrap());
    let shared = breakers.permit(key).await;
    assert_eq!(shared.epoch, before.epoch);
    let counted = after(breakers.report(unpermitted("counted", Success)).await.unwrap());
    let permit = breakers.permit("counted").await;

    fail(&mut on).await;
    let local = calls_answered_from_memory(&breakers, key).await;
    let answer = breakers.tell(&shared, Failure).await;
    assert_eq!((answer.authority(), answer.disposition()), (Authority::Local, Disposition::Stale));
    breakers.tell_all("counted", &[Failure, Success, Failure]).await;
    calls_refused(&breakers, key).await;
    let open = after(breakers.tell_all(key, &[Failure; 4]).await);
    assert_stands(&open, State::Open, 1);
    assert_eq!(open.epoch, local.epoch);
    let answer = breakers.ask(key).await;
    assert_eq!((answer.authority(), answer.admitted), (Authority::Local, false));
    on.is_lost().await;

    mend(&mut on).await;
    on.is_back().await;
    let read = breakers.get_breaker(getting("counted")).await.unwrap();
    assert_eq!((read.authority(), read.as_of), (Authority::Shared, None));
    let here = read.breaker.unwrap();
    assert_eq!((&here.epoch, here.calls), (&counted.epoch, 1), "what memory counted is not added");
    let answer = breakers.tell(&local, Failure).await;
    assert_eq!((answer.authority(), answer.disposition()), (Authority::Shared, Disposition::Stale));
    let renewed = breakers.renew_permit(renewing(&local)).await.unwrap();
    assert_eq!((renewed.authority(), renewed.renewed), (Authority::Shared, false));
    // What was permitted before the outage still counts.
    let answer = breakers.tell(&permit, Success).await;
    assert_eq!((answer.authority(), answer.disposition()), (Authority::Shared, Disposition::Applied));
    breakers.trip("counted", Duration::from_mins(1)).await;
    eventually("what memory opened is open for all", SOON, async || breakers.get(key).await.generation == 1)
        .await;
    assert_eq!(breakers.get(key).await.epoch, before.epoch);
}

#[tokio::test]
async fn connections_cut_and_refused() {
    let fail = async |on: &mut BehindProxy| {
        on.proxy.refuse().await;
        on.proxy.cut().await;
    };
    let mend = async |on: &mut BehindProxy| on.proxy.forward().await;
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn a_stopped_redis() {
    let fail = async |on: &mut BehindProxy| on.redis.stop_signal();
    let mend = async |on: &mut BehindProxy| on.redis.continue_signal();
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn each_outage_has_epochs_of_its_own() {
    let on = BehindProxy::start().await;
    let breakers = on.breakers();
    let mut epochs = Vec::new();
    for _ in 0..2 {
        on.lose().await;
        epochs.push(after(breakers.tell_all("twice", &[Failure]).await).epoch);
        assert_eq!(breakers.get("twice").await.calls, 1);
        on.restore().await;
    }
    assert!(epochs[0] != epochs[1] && epochs.iter().all(|epoch| epoch.starts_with("local-")), "{epochs:?}");
    assert_eq!(breakers.get("twice").await.epoch, "", "nothing of it came to Redis");
}

#[tokio::test]
async fn without_redis_memory_decides_everything_but_is_never_the_shared_truth() {
    let service = Fusewire::start(FusewireOptions::unix_socket().var("USE_REDIS", "false")).await;
    let breakers = Breakers::on([service.channel().await]);
    calls_that_require_redis_are_refused(&breakers, "alone").await;
    let configured = breakers.configure_breaker(configuring("alone", in_a_row(2))).await.unwrap();
    assert_eq!(configured.authority(), Authority::Local);
    assert_stands(&after(breakers.tell_all("alone", &[Failure, Failure]).await), State::Open, 1);
    let model_key = || "alone".to_owned();
    let reset = ResetBreakerRequest { model_key: model_key(), ..Default::default() };
    assert_eq!(breakers.reset_breaker(reset).await.unwrap().authority(), Authority::Local);
    let trip = TripBreakerRequest { model_key: model_key(), ..Default::default() };
    assert_eq!(breakers.trip_breaker(trip).await.unwrap().authority(), Authority::Local);
    let force =
        OverrideBreakerRequest { model_key: model_key(), mode: Mode::Disabled.into(), ..Default::default() };
    assert_eq!(breakers.override_breaker(force).await.unwrap().authority(), Authority::Local);
    let read = breakers.get_breaker(getting("alone")).await.unwrap();
    assert_eq!((read.authority(), read.as_of), (Authority::Local, None), "it is of now");
    let delete = DeleteBreakerRequest { model_key: model_key() };
    assert_eq!(breakers.delete_breaker(delete).await.unwrap().authority(), Authority::Local);
    assert_eq!(breakers.get("alone").await.epoch, "");
}
