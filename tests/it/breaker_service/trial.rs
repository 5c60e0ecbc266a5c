//! HALF_OPEN: a budget of trial calls, their leases and their verdict.

use std::time::Duration;

use fusewire::grpc::proto::{
    AcquireRequest, AcquireResponse, BreakerSettings,
    Disposition::{Applied, Neutral, Stale},
    ExpiredPermit,
    Outcome::{Cancelled, Failure, InvalidRequest, Success},
    Permit, RejectionReason, RenewPermitRequest, ReportRequest, State, TransitionReason,
};

use crate::support::{
    breakers::{
        Breakers, after, asking, assert_did, assert_stands, counts, half_of_the_last, telling, trial_of,
    },
    deployment::{Deployment, on_every_store_and_on_a_pair},
    threads::{millis, wire},
};

on_every_store_and_on_a_pair!(
    exactly_so_many_calls_are_admitted_as_there_are_permits,
    successes_close_and_a_failure_opens_again,
    neutral_outcomes_free_their_slot,
    rates_alone_decide_where_one_is_on,
    slow_trial_calls_open_again,
    a_trial_that_takes_too_long_opens_again,
    a_lease_that_ends_frees_its_slot,
    a_lease_that_ends_may_count_as_a_failure,
    a_renewed_lease_outlives_one_that_is_not,
    a_lease_that_is_gone_cannot_be_renewed,
    the_same_request_again_is_the_same_permit,
    the_same_report_again_is_the_same_answer_until_the_trial_ends,
    permits_of_an_earlier_trial_are_stale,
    a_report_without_permit_is_stale,
);

async fn exactly_so_many_calls_are_admitted_as_there_are_permits(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("budget", trial_of(3)).await;
    let mut permits = vec![breakers.begin_trial("budget").await];
    for left in [2, 1] {
        assert_eq!(breakers.get("budget").await.permits_left, left);
        permits.push(breakers.permit("budget").await);
    }
    permits.dedup_by_key(|permit| permit.lease_id.clone());
    assert_eq!(permits.len(), 3, "each has a lease of its own");
    for permit in &permits {
        assert_eq!((permit.generation, permit.lease), (2, Some(wire(Duration::from_mins(2)))));
    }
    for _ in 0..2 {
        let answer = breakers.ask("budget").await;
        assert_eq!((answer.admitted, answer.state()), (false, State::HalfOpen));
        assert_eq!((answer.reason(), answer.retry_after), (RejectionReason::NoPermitLeft, None));
    }
    let full = breakers.get("budget").await;
    assert_eq!((full.permits_left, full.calls), (0, 0));
    // A result is a slot that stays taken.
    assert_did(&breakers.tell(&permits[0], Success).await, Applied);
    assert!(!breakers.ask("budget").await.admitted);
}

async fn successes_close_and_a_failure_opens_again(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("verdict", trial_of(3)).await;
    let first = breakers.begin_trial("verdict").await;
    let (second, third) = (breakers.permit("verdict").await, breakers.permit("verdict").await);
    let one = after(breakers.tell(&first, Success).await);
    assert_stands(&one, State::HalfOpen, 2);
    assert_eq!(counts(&one), (1, 0, 0, 0));
    assert_stands(&after(breakers.tell(&second, Success).await), State::HalfOpen, 2);
    let closed = after(breakers.tell(&third, Success).await);
    assert_stands(&closed, State::Closed, 3);
    assert_eq!((counts(&closed), closed.attempts), ((0, 0, 0, 0), 0));
    let change = breakers.newest("verdict").await;
    assert_eq!((change.reason(), change.outcome()), (TransitionReason::TrialPassed, Success));

    let first = breakers.begin_trial("verdict").await;
    let second = breakers.permit("verdict").await;
    let open = after(breakers.tell(&second, Failure).await);
    assert_stands(&open, State::Open, 6);
    assert_eq!((open.attempts, counts(&open)), (2, (1, 1, 0, 1)));
    assert_eq!(breakers.newest("verdict").await.reason(), TransitionReason::TrialFailed);
    assert_did(&breakers.tell(&first, Success).await, Stale);
    assert_stands(&breakers.get("verdict").await, State::Open, 6);
}

async fn neutral_outcomes_free_their_slot(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("freed", trial_of(1)).await;
    let mut permit = breakers.begin_trial("freed").await;
    for outcome in [Cancelled, InvalidRequest] {
        assert!(!breakers.ask("freed").await.admitted);
        let answer = breakers.tell(&permit, outcome).await;
        assert_did(&answer, Neutral);
        let trial = after(answer);
        assert_stands(&trial, State::HalfOpen, 2);
        assert_eq!((trial.calls, trial.permits_left), (0, 1));
        permit = breakers.permit("freed").await;
    }
    assert_stands(&after(breakers.tell(&permit, Success).await), State::Closed, 3);
}

async fn rates_alone_decide_where_one_is_on(on: &Deployment) {
    let breakers = on.breakers();
    let settings =
        BreakerSettings { consecutive_failures: 1, half_open_permits: Some(5), ..half_of_the_last(10) };
    for (key, outcomes, expected) in [
        // Over four results, as many as rates need.
        ("rate-fails", vec![Failure, Success, Failure], State::Open),
        ("rate-passes", vec![Failure, Success, Success, Success], State::Closed),
    ] {
        breakers.set(key, settings).await;
        let mut permits = vec![breakers.begin_trial(key).await];
        while permits.len() < outcomes.len() {
            permits.push(breakers.permit(key).await);
        }
        let mut state = State::HalfOpen;
        for (permit, outcome) in permits.iter().zip(outcomes) {
            assert_eq!(state, State::HalfOpen, "{key}: no verdict before the last result");
            state = after(breakers.tell(permit, outcome).await).state();
        }
        assert_eq!(state, expected, "{key}");
    }
}

async fn slow_trial_calls_open_again(on: &Deployment) {
    let breakers = on.breakers();
    let settings = BreakerSettings {
        slow_call_duration: Some(wire(Duration::from_secs(1))),
        slow_rate_percent: 100.0,
        half_open_permits: Some(2),
        minimum_calls: 2,
        ..Default::default()
    };
    breakers.set("slow-trial", settings).await;
    let permits = [breakers.begin_trial("slow-trial").await, breakers.permit("slow-trial").await];
    let slow =
        |permit| ReportRequest { duration: Some(wire(Duration::from_secs(2))), ..telling(permit, Success) };
    let one = after(breakers.report(slow(&permits[0])).await.unwrap());
    assert_eq!((one.state(), counts(&one)), (State::HalfOpen, (1, 0, 1, 0)));
    assert_eq!(after(breakers.report(slow(&permits[1])).await.unwrap()).state(), State::Open);
}

async fn a_trial_that_takes_too_long_opens_again(on: &Deployment) {
    let breakers = on.breakers();
    let settings =
        BreakerSettings { half_open_max_wait: Some(wire(Duration::from_millis(200))), ..trial_of(1) };
    breakers.set("waits", settings).await;
    let trial = breakers.begin_trial("waits").await;
    let is_open = |answer: &AcquireResponse| answer.reason() == RejectionReason::Open;
    breakers.ask_until("waits", "the trial takes too long", is_open).await;
    let open = breakers.get("waits").await;
    assert_stands(&open, State::Open, 3);
    assert_eq!(open.attempts, 2);
    let [.., began, ended] = &breakers.history("waits").await[..] else { panic!("two changes at least") };
    assert_eq!(ended.reason(), TransitionReason::TrialTimedOut);
    assert!(millis(ended.transition_time) - millis(began.transition_time) >= 200);
    assert_did(&breakers.tell(&trial, Success).await, Stale);
}

/// Settings of a trial whose leases last as short as they may.
fn short_leases(permits: i32) -> BreakerSettings {
    BreakerSettings { permit_lease: Some(wire(Duration::from_secs(1))), ..trial_of(permits) }
}

fn renewing(permit: &Permit, lease: Option<Duration>) -> RenewPermitRequest {
    RenewPermitRequest { permit: Some(permit.clone()), lease: lease.map(wire) }
}

async fn a_lease_that_ends_frees_its_slot(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("lost", short_leases(1)).await;
    let lost = breakers.begin_trial("lost").await;
    assert_eq!(lost.lease, Some(wire(Duration::from_secs(1))));
    let next = breakers.ask_until("lost", "the lease ends", |answer| answer.admitted).await.permit.unwrap();
    assert_eq!(next.generation, lost.generation);
    assert!(millis(next.expire_time) - 1000 >= millis(lost.expire_time), "not before its end");
    // Whoever held it comes too late, and takes nothing from the next one.
    for outcome in [Success, Failure, Cancelled] {
        assert_did(&breakers.tell(&lost, outcome).await, Stale);
    }
    assert!(!breakers.renew_permit(renewing(&lost, None)).await.unwrap().renewed);
    assert_did(&breakers.tell(&next, Success).await, Applied);
    assert_stands(&breakers.get("lost").await, State::Closed, 3);
}

async fn a_lease_that_ends_may_count_as_a_failure(on: &Deployment) {
    let breakers = on.breakers();
    let settings = BreakerSettings { expired_permit: ExpiredPermit::Failure.into(), ..short_leases(2) };
    breakers.set("silent", settings).await;
    breakers.begin_trial("silent").await;
    let kept = AcquireRequest { lease: Some(wire(Duration::from_mins(5))), ..asking("silent") };
    let kept = breakers.acquire(kept).await.unwrap().permit.unwrap();
    breakers.ask_until("silent", "the lease ends", |answer| answer.reason() == RejectionReason::Open).await;
    let open = breakers.get("silent").await;
    assert_stands(&open, State::Open, 3);
    assert_eq!((open.attempts, counts(&open)), (2, (1, 1, 0, 1)));
    assert_eq!(breakers.newest("silent").await.reason(), TransitionReason::TrialFailed);
    assert_did(&breakers.tell(&kept, Success).await, Stale);
}

async fn a_renewed_lease_outlives_one_that_is_not(on: &Deployment) {
    let breakers = on.breakers();
    for key in ["renewed", "not-renewed"] {
        breakers.set(key, short_leases(1)).await;
    }
    let long = Duration::from_mins(10);
    let permit = breakers.begin_trial("renewed").await;
    let answer = breakers.renew_permit(renewing(&permit, Some(long))).await.unwrap();
    let renewed = answer.permit.unwrap();
    assert_eq!((answer.renewed, renewed.lease), (true, Some(wire(long))));
    assert_eq!((&renewed.lease_id, renewed.generation), (&permit.lease_id, permit.generation));
    assert!(millis(renewed.expire_time) - millis(permit.expire_time) >= 599_000);

    breakers.begin_trial("not-renewed").await;
    breakers.ask_until("not-renewed", "a lease as short ends", |answer| answer.admitted).await;
    assert!(!breakers.ask("renewed").await.admitted);
    // The permit as it was given is as good as the renewed one.
    assert_did(&breakers.tell(&permit, Success).await, Applied);
    assert_stands(&breakers.get("renewed").await, State::Closed, 3);

    // A permit without lease needs none.
    let free = breakers.permit("renewed").await;
    let answer = breakers.renew_permit(renewing(&free, None)).await.unwrap();
    assert_eq!((answer.renewed, answer.permit), (true, Some(free.clone())));
    breakers.trip("renewed", Duration::from_mins(1)).await;
    let answer = breakers.renew_permit(renewing(&free, None)).await.unwrap();
    assert_eq!((answer.renewed, answer.permit), (false, None));
}

async fn a_lease_that_is_gone_cannot_be_renewed(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("gone", trial_of(3)).await;
    let settled = breakers.begin_trial("gone").await;
    let neutral = breakers.permit("gone").await;
    breakers.tell(&settled, Success).await;
    breakers.tell(&neutral, Cancelled).await;
    let unknown = Permit { lease_id: "never-given".into(), ..settled.clone() };
    for permit in [&settled, &neutral, &unknown] {
        let answer = breakers.renew_permit(renewing(permit, None)).await.unwrap();
        assert_eq!((answer.renewed, answer.permit), (false, None), "{permit:?}");
    }
    let live = breakers.permit("gone").await;
    breakers.reset("gone").await;
    assert!(!breakers.renew_permit(renewing(&live, None)).await.unwrap().renewed);
}

fn as_request(key: &str, id: &str) -> AcquireRequest {
    AcquireRequest { request_id: id.into(), ..asking(key) }
}

async fn the_same_request_again_is_the_same_permit(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("again", trial_of(2)).await;
    breakers.trip("again", Duration::from_millis(1)).await;
    let acquire = async |id| breakers.acquire(as_request("again", id)).await.unwrap();
    let mut first = acquire("call-1").await;
    while !first.admitted {
        first = acquire("call-1").await;
    }
    let first = first.permit.unwrap();
    assert_eq!(first.lease_id, "call-1");
    for _ in 0..4 {
        let again = acquire("call-1").await.permit.unwrap();
        assert_eq!((&again.lease_id, again.expire_time), (&first.lease_id, first.expire_time));
    }
    assert_eq!(breakers.get("again").await.permits_left, 1);
    assert!(acquire("call-2").await.admitted);
    assert!(!acquire("call-3").await.admitted);
    // After its report the call was made: it is not to be made again.
    breakers.tell(&first, Success).await;
    let answer = acquire("call-1").await;
    assert_eq!((answer.admitted, answer.reason()), (false, RejectionReason::NoPermitLeft));
}

async fn the_same_report_again_is_the_same_answer_until_the_trial_ends(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("repeated", trial_of(2)).await;
    let counted = breakers.begin_trial("repeated").await;
    let neutral = breakers.permit("repeated").await;
    for _ in 0..4 {
        assert_did(&breakers.tell(&counted, Success).await, Applied);
        let answer = breakers.tell(&neutral, Cancelled).await;
        assert_did(&answer, Neutral);
        let trial = after(answer);
        assert_eq!((trial.calls, trial.permits_left), (1, 1));
    }
    // Whatever a repeat says now, it was said.
    assert_did(&breakers.tell(&counted, Failure).await, Applied);
    assert_did(&breakers.tell(&neutral, Failure).await, Neutral);
    assert_stands(&breakers.get("repeated").await, State::HalfOpen, 2);
    let last = breakers.permit("repeated").await;
    assert_stands(&after(breakers.tell(&last, Success).await), State::Closed, 3);
    for permit in [&counted, &neutral, &last] {
        assert_did(&breakers.tell(permit, Success).await, Stale);
    }
    assert_eq!(breakers.get("repeated").await.calls, 0);
}

async fn reported_late(breakers: &Breakers, permits: &[Permit]) {
    for permit in permits {
        for outcome in [Success, Failure, Cancelled] {
            assert_did(&breakers.tell(permit, outcome).await, Stale);
        }
    }
}

async fn permits_of_an_earlier_trial_are_stale(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("trials", trial_of(2)).await;
    let (old, spare) = (breakers.begin_trial("trials").await, breakers.permit("trials").await);
    breakers.tell(&old, Failure).await;
    // The next trial's lease may even have the same name.
    let next = breakers.begin_trial("trials").await;
    let same = breakers.acquire(as_request("trials", &spare.lease_id)).await.unwrap().permit.unwrap();
    let elsewhere = Permit { epoch: "another".into(), ..next.clone() };
    let ahead = Permit { generation: next.generation + 1, ..next.clone() };
    reported_late(&breakers, &[old, spare, elsewhere, ahead]).await;
    let trial = breakers.get("trials").await;
    assert_eq!((trial.state(), trial.calls, trial.permits_left), (State::HalfOpen, 0, 0));
    breakers.tell(&next, Success).await;
    assert_eq!(after(breakers.tell(&same, Success).await).state(), State::Closed);
}

async fn a_report_without_permit_is_stale(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("outside", trial_of(1)).await;
    let permit = breakers.begin_trial("outside").await;
    let free = Permit { lease_id: String::new(), lease: None, expire_time: None, ..permit };
    for outcome in [Success, Failure] {
        assert_did(&breakers.tell_all("outside", &[outcome]).await, Stale);
        assert_did(&breakers.tell(&free, outcome).await, Stale);
    }
    let trial = breakers.get("outside").await;
    assert_stands(&trial, State::HalfOpen, 2);
    assert_eq!(trial.calls, 0);
}
