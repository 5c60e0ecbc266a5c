//! Operators' orders: to open, to close, to forget.

use std::time::Duration;

use fusewire::grpc::proto::{
    DeleteBreakerRequest,
    Disposition::{Applied, Stale},
    Mode,
    Outcome::{Failure, Success},
    ResetBreakerRequest, State, TransitionReason, TripBreakerRequest,
};
use tonic::Code;

use crate::support::{
    breakers::{after, assert_did, assert_stands, counts, in_a_row, trial_of},
    deployment::{Deployment, on_every_store_and_on_a_pair},
    threads::{assert_refused, millis, told, violated, wire},
};

on_every_store_and_on_a_pair!(
    a_trip_opens_for_exactly_so_long_and_says_who_and_why,
    a_trip_of_an_open_breaker_moves_its_end_exactly,
    a_trip_ends_a_trial,
    a_repeated_order_changes_nothing,
    the_last_sixteen_orders_are_remembered,
    a_trip_is_refused_under_an_override,
    a_reset_closes_and_forgets_what_was_counted,
    a_deletion_forgets_everything,
    orders_are_checked,
);

fn tripping(key: &str) -> TripBreakerRequest {
    TripBreakerRequest { model_key: key.into(), ..Default::default() }
}

fn resetting(key: &str) -> ResetBreakerRequest {
    ResetBreakerRequest { model_key: key.into(), ..Default::default() }
}

async fn a_trip_opens_for_exactly_so_long_and_says_who_and_why(on: &Deployment) {
    let breakers = on.breakers();
    let request = TripBreakerRequest {
        open_for: Some(wire(Duration::from_millis(12_345))),
        reason: "the provider announced it".into(),
        actor: "ann".into(),
        ..tripping("tripped")
    };
    let open = breakers.trip_breaker(request).await.unwrap().breaker.unwrap();
    assert_stands(&open, State::Open, 1);
    assert_eq!((open.mode(), open.attempts), (Mode::Automatic, 1));
    assert_eq!(millis(open.open_until) - millis(open.since), 12_345);
    assert_eq!((&open.settings, &open.last_transition), (&None, &None));
    let change = breakers.newest("tripped").await;
    assert_eq!((change.reason(), change.outcome), (TransitionReason::Tripped, 0));
    assert_eq!((change.actor.as_str(), change.detail.as_str()), ("ann", "the provider announced it"));

    // Without a time it is as long as the settings say.
    breakers.set("by-settings", in_a_row(1)).await;
    let open = breakers.trip_breaker(tripping("by-settings")).await.unwrap().breaker.unwrap();
    assert_eq!(millis(open.open_until) - millis(open.since), 60_000);
}

async fn a_trip_of_an_open_breaker_moves_its_end_exactly(on: &Deployment) {
    let breakers = on.breakers();
    let first = breakers.trip("moved", Duration::from_mins(5)).await;
    for (generation, seconds) in [(2, 3600), (3, 20)] {
        let open = breakers.trip("moved", Duration::from_secs(seconds)).await;
        assert_stands(&open, State::Open, generation);
        assert_eq!((open.attempts, open.since), (1, first.since), "it did not open again");
        let change = breakers.newest("moved").await;
        assert_eq!(change.reason(), TransitionReason::Tripped);
        assert_eq!((change.from_state(), change.to_state()), (State::Open, State::Open));
        assert_eq!(change.open_until, open.open_until);
        let length = millis(open.open_until) - millis(change.transition_time);
        assert_eq!(length, i64::try_from(seconds).unwrap() * 1000);
    }
}

async fn a_trip_ends_a_trial(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("tried", trial_of(2)).await;
    let permit = breakers.begin_trial("tried").await;
    let open = breakers.trip("tried", Duration::from_mins(5)).await;
    assert_stands(&open, State::Open, 3);
    assert_eq!(open.attempts, 2);
    assert_did(&breakers.tell(&permit, Success).await, Stale);
}

async fn a_repeated_order_changes_nothing(on: &Deployment) {
    let breakers = on.breakers();
    let trip = TripBreakerRequest { request_id: "order-1".into(), ..tripping("orders") };
    let first = breakers.trip_breaker(trip.clone()).await.unwrap().breaker.unwrap();
    for _ in 0..2 {
        let again = breakers.trip_breaker(trip.clone()).await.unwrap().breaker.unwrap();
        assert_eq!((again.generation, again.open_until), (1, first.open_until));
    }
    let reset = ResetBreakerRequest { request_id: "order-2".into(), ..resetting("orders") };
    for _ in 0..2 {
        assert_stands(
            &breakers.reset_breaker(reset.clone()).await.unwrap().breaker.unwrap(),
            State::Closed,
            2,
        );
    }
    // The first order was carried out, and stays so: it does not come back.
    assert_stands(&breakers.trip_breaker(trip).await.unwrap().breaker.unwrap(), State::Closed, 2);
    // Without an id each is an order of its own.
    for generation in [3, 4] {
        assert_stands(&breakers.reset("orders").await, State::Closed, generation);
    }
}

async fn the_last_sixteen_orders_are_remembered(on: &Deployment) {
    let breakers = on.breakers();
    let reset = |n: i32| ResetBreakerRequest { request_id: format!("order-{n}"), ..resetting("sixteen") };
    for n in 0..17 {
        breakers.reset_breaker(reset(n)).await.unwrap();
    }
    for n in 1..17 {
        assert_eq!(breakers.reset_breaker(reset(n)).await.unwrap().breaker.unwrap().generation, 17);
    }
    assert_eq!(breakers.reset_breaker(reset(0)).await.unwrap().breaker.unwrap().generation, 18);
}

async fn a_trip_is_refused_under_an_override(on: &Deployment) {
    let breakers = on.breakers();
    for mode in [Mode::ForcedOpen, Mode::Disabled, Mode::MetricsOnly] {
        let key = format!("overridden-{}", mode.as_str_name());
        let before = breakers.put(&key, mode).await;
        let outcome = breakers.trip_breaker(tripping(&key)).await;
        let status = assert_refused(outcome, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
        assert_eq!(format!("MODE_{}", told(&status, "mode")), mode.as_str_name());
        assert_eq!(breakers.get(&key).await.generation, before.generation);
    }
}

async fn a_reset_closes_and_forgets_what_was_counted(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("reset", in_a_row(3)).await;
    breakers.tell_all("reset", &[Failure, Failure]).await;
    let counted = breakers.permit("reset").await;
    let reset = ResetBreakerRequest { reason: "fixed".into(), actor: "bob".into(), ..resetting("reset") };
    let closed = breakers.reset_breaker(reset).await.unwrap().breaker.unwrap();
    assert_stands(&closed, State::Closed, 1);
    assert_eq!(counts(&closed), (0, 0, 0, 0));
    let change = breakers.newest("reset").await;
    assert_eq!((change.reason(), change.from_state()), (TransitionReason::Reset, State::Closed));
    assert_eq!((change.actor.as_str(), change.detail.as_str()), ("bob", "fixed"));
    assert_did(&breakers.tell(&counted, Failure).await, Stale);
    assert_stands(&after(breakers.tell_all("reset", &[Failure, Failure]).await), State::Closed, 1);

    breakers.trip("reset", Duration::from_mins(5)).await;
    let closed = breakers.reset("reset").await;
    assert_stands(&closed, State::Closed, 3);
    assert_eq!((closed.attempts, closed.open_until), (0, None));
    for mode in [Mode::ForcedOpen, Mode::Disabled, Mode::MetricsOnly] {
        breakers.put("reset", mode).await;
        let closed = breakers.reset("reset").await;
        assert_eq!(
            (closed.mode(), closed.state(), closed.mode_override),
            (Mode::Automatic, State::Closed, None)
        );
    }
    assert!(breakers.ask("reset").await.admitted);
}

async fn a_deletion_forgets_everything(on: &Deployment) {
    let breakers = on.breakers();
    breakers.delete("never-seen").await;
    breakers.set("deleted", in_a_row(2)).await;
    let old = after(breakers.tell_all("deleted", &[Failure, Success]).await);
    let permit = breakers.permit("deleted").await;
    breakers.trip("deleted", Duration::from_mins(5)).await;
    breakers.put("deleted", Mode::ForcedOpen).await;
    let request = DeleteBreakerRequest { model_key: "deleted".into() };
    breakers.delete_breaker(request).await.unwrap();

    let gone = breakers.get("deleted").await;
    assert_stands(&gone, State::Closed, 0);
    assert_eq!(
        (gone.epoch.as_str(), gone.since, gone.mode(), gone.last_transition),
        ("", None, Mode::Automatic, None)
    );
    assert_eq!(gone.settings.unwrap().consecutive_failures, 5, "the default policy's");
    assert_eq!(breakers.history("deleted").await, []);
    for _ in 0..2 {
        assert_did(&breakers.tell(&permit, Failure).await, Stale);
    }
    assert_eq!(breakers.get("deleted").await.epoch, "", "a stale report creates nothing");
    let answer = breakers.tell_all("deleted", &[Failure]).await;
    assert_did(&answer, Applied);
    let new = after(answer);
    assert_eq!((new.generation, counts(&new)), (0, (1, 1, 0, 1)));
    assert_ne!(new.epoch, old.epoch);
    assert_did(&breakers.tell(&permit, Failure).await, Stale);
}

async fn orders_are_checked(on: &Deployment) {
    let breakers = on.breakers();
    let bad = TripBreakerRequest {
        model_key: "a b".into(),
        open_for: Some(wire(Duration::ZERO)),
        reason: "r".repeat(513),
        actor: "a".repeat(129),
        request_id: "r".repeat(101),
    };
    let status =
        assert_refused(breakers.trip_breaker(bad.clone()).await, Code::InvalidArgument, "INVALID_FIELDS");
    let mut fields = violated(&status);
    fields.sort();
    assert_eq!(fields, ["actor", "model_key", "open_for", "reason", "request_id"]);
    let best = TripBreakerRequest {
        model_key: "k".repeat(256),
        open_for: Some(wire(Duration::from_hours(168))),
        reason: "r".repeat(512),
        actor: "a".repeat(128),
        request_id: "r".repeat(100),
    };
    breakers.trip_breaker(best.clone()).await.unwrap();
    let longer = TripBreakerRequest { open_for: Some(wire(Duration::from_millis(604_800_001))), ..best };
    let status = assert_refused(breakers.trip_breaker(longer).await, Code::InvalidArgument, "INVALID_FIELDS");
    assert_eq!(violated(&status), ["open_for"]);
    for key in ["", "k{", "k}", "k\n", "ü", &"k".repeat(257)] {
        let outcome = breakers.delete_breaker(DeleteBreakerRequest { model_key: key.into() }).await;
        assert_eq!(
            violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")),
            ["model_key"]
        );
        let outcome = breakers.reset_breaker(resetting(key)).await;
        assert_eq!(
            violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")),
            ["model_key"]
        );
    }
}
