//! The first of several models that may be called.

use std::time::Duration;

use fusewire::grpc::proto::{
    AcquireFirstRequest, AcquireFirstResponse, Admission, Mode,
    Outcome::{Cancelled, Success},
    RejectionReason, State,
};
use tonic::Code;

use crate::support::{
    breakers::{Breakers, length, trial_of},
    deployment::{Deployment, on_every_store_and_on_a_pair},
    threads::{assert_refused, violated, wire},
};

on_every_store_and_on_a_pair!(
    the_first_that_may_be_called_is_taken_and_those_before_it_are_told,
    where_none_may_be_called_the_earliest_time_is_told,
    at_most_one_permit_is_taken,
    a_retry_finds_the_permit_that_it_was_given,
    a_wanted_lease_is_given,
    what_is_asked_for_is_checked,
);

fn choosing(keys: &[&str], request_id: &str) -> AcquireFirstRequest {
    AcquireFirstRequest {
        admission: Admission::Shared.into(),
        model_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        request_id: request_id.to_owned(),
        ..Default::default()
    }
}

async fn choose(breakers: &Breakers, keys: &[&str], request_id: &str) -> AcquireFirstResponse {
    breakers.acquire_first(choosing(keys, request_id)).await.expect("the question is answered")
}

fn rejected(answer: &AcquireFirstResponse) -> Vec<(&str, State, RejectionReason)> {
    answer.rejections.iter().map(|it| (it.model_key.as_str(), it.state(), it.reason())).collect()
}

async fn the_first_that_may_be_called_is_taken_and_those_before_it_are_told(on: &Deployment) {
    let breakers = on.breakers();
    let keys = ["one", "two", "three", "four"];
    let answer = choose(&breakers, &keys, "").await;
    assert_eq!((answer.admitted, answer.index, rejected(&answer)), (true, Some(0), vec![]));
    assert_eq!(answer.permit.unwrap().model_key, "one");

    breakers.trip("one", Duration::from_secs(50)).await;
    breakers.put("two", Mode::ForcedOpen).await;
    let answer = choose(&breakers, &keys, "").await;
    assert_eq!((answer.admitted, answer.index, answer.retry_after), (true, Some(2), None));
    let permit = answer.permit.clone().unwrap();
    assert_eq!((permit.model_key.as_str(), permit.lease_id.as_str()), ("three", ""));
    let expected =
        [("one", State::Open, RejectionReason::Open), ("two", State::Closed, RejectionReason::ForcedOpen)];
    assert_eq!(rejected(&answer), expected);
    let left = length(answer.rejections[0].retry_after);
    assert!((1..=50_000).contains(&left), "{left}");
    assert_eq!(answer.rejections[1].retry_after, None);
}

async fn where_none_may_be_called_the_earliest_time_is_told(on: &Deployment) {
    let breakers = on.breakers();
    breakers.trip("hour", Duration::from_hours(1)).await;
    breakers.trip("minute", Duration::from_mins(1)).await;
    breakers.trip("day", Duration::from_hours(24)).await;
    breakers.set("full", trial_of(1)).await;
    breakers.begin_trial("full").await;
    let answer = choose(&breakers, &["full", "hour", "minute", "day"], "").await;
    assert_eq!((answer.admitted, &answer.permit, answer.index), (false, &None, None));
    assert_eq!(answer.rejections.len(), 4);
    assert_eq!(rejected(&answer)[0], ("full", State::HalfOpen, RejectionReason::NoPermitLeft));
    let left = length(answer.retry_after);
    assert!((1..=60_000).contains(&left), "{left}");
    let answer = choose(&breakers, &["full"], "").await;
    assert_eq!((answer.admitted, answer.retry_after, answer.rejections.len()), (false, None, 1));
}

async fn at_most_one_permit_is_taken(on: &Deployment) {
    let breakers = on.breakers();
    for key in ["pair-a", "pair-b"] {
        breakers.set(key, trial_of(2)).await;
        let permit = breakers.begin_trial(key).await;
        breakers.tell(&permit, Cancelled).await;
    }
    let mut left = Vec::new();
    for _ in 0..5 {
        let answer = choose(&breakers, &["pair-a", "pair-b"], "").await;
        let permits = async |key| breakers.get(key).await.permits_left;
        left.push((answer.index, permits("pair-a").await, permits("pair-b").await));
    }
    let expected = [(Some(0), 1, 2), (Some(0), 0, 2), (Some(1), 0, 1), (Some(1), 0, 0), (None, 0, 0)];
    assert_eq!(left, expected);
}

async fn a_retry_finds_the_permit_that_it_was_given(on: &Deployment) {
    let breakers = on.breakers();
    let keys = ["retry-a", "retry-b"];
    for key in keys {
        breakers.set(key, trial_of(1)).await;
    }
    let blocking = breakers.begin_trial("retry-a").await;
    let free = breakers.begin_trial("retry-b").await;
    breakers.tell(&free, Cancelled).await;
    let given = choose(&breakers, &keys, "lost-answer").await;
    assert_eq!(given.index, Some(1));
    let given = given.permit.unwrap();
    assert_eq!(given.lease_id, "lost-answer");
    // A better one is free by now, but the first answer is the one that counts.
    breakers.tell(&blocking, Cancelled).await;
    for _ in 0..4 {
        let again = choose(&breakers, &keys, "lost-answer").await;
        assert_eq!((again.admitted, again.index), (true, Some(1)));
        let permit = again.permit.unwrap();
        assert_eq!((&permit.lease_id, permit.expire_time), (&given.lease_id, given.expire_time));
        assert_eq!(permit.model_key, "retry-b");
    }
    assert_eq!(breakers.get("retry-a").await.permits_left, 1);
    let other = choose(&breakers, &keys, "another").await;
    assert_eq!((other.index, other.permit.unwrap().lease_id.as_str()), (Some(0), "another"));
    breakers.tell(&given, Success).await;
    assert_eq!(breakers.get("retry-b").await.state(), State::Closed);
}

async fn a_wanted_lease_is_given(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("leased", trial_of(2)).await;
    breakers.begin_trial("leased").await;
    let lease = Some(wire(Duration::from_secs(77)));
    let request = AcquireFirstRequest { lease, ..choosing(&["leased"], "") };
    assert_eq!(breakers.acquire_first(request).await.unwrap().permit.unwrap().lease, lease);
}

async fn what_is_asked_for_is_checked(on: &Deployment) {
    let breakers = on.breakers();
    let refused = async |request| {
        let status =
            assert_refused(breakers.acquire_first(request).await, Code::InvalidArgument, "INVALID_FIELDS");
        violated(&status)
    };
    let many: Vec<_> = (0..33).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(choosing(&[], "")).await, ["model_keys"]);
    assert_eq!(refused(choosing(&many, "")).await, ["model_keys"]);
    assert!(choose(&breakers, &many[..32], "").await.admitted);
    assert_eq!(
        refused(choosing(&["a", "", "a", "b c"], "no id")).await,
        ["model_keys[1]", "model_keys[2]", "model_keys[3]", "request_id"]
    );
    for lease in [Duration::from_millis(999), Duration::from_millis(3_600_001)] {
        let request = AcquireFirstRequest { lease: Some(wire(lease)), ..choosing(&["a"], "") };
        assert_eq!(refused(request).await, ["lease"]);
    }
    let request = AcquireFirstRequest { admission: 99, ..choosing(&["a"], "") };
    assert_eq!(refused(request).await, ["admission"]);
}
