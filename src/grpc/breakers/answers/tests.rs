//! What is told, and what is left out.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    breakers::{BreakerSettings, Lease, Mode, Outcome, Reason, State},
    clock::Timestamp,
    grpc::breakers::tests::{breaker as opened, key, permit as given, rejection as rejected},
};

fn opening() -> Transition {
    Transition {
        position: Position { epoch: "01JD".into(), generation: 4 },
        from: State::Closed,
        to: State::Open,
        mode: Mode::Automatic,
        time: Timestamp::from_millis(1000),
        reason: Reason::FailureRate,
        outcome: Some(Outcome::Timeout),
        actor: String::new(),
        detail: "slow".into(),
        instance: "i".into(),
        open_until: Some(Timestamp::from_millis(31_000)),
    }
}

fn whole() -> Inspected {
    let settings = Arc::new(BreakerSettings::default());
    Inspected { breaker: opened(&key("m")), settings, last_transition: Some(opening()) }
}

#[test]
fn a_breaker_is_told_with_its_settings_and_its_newest_transition_where_these_belong() {
    let told = inspected(whole());
    assert_eq!((told.calls, told.failures, told.slow_calls, told.consecutive_failures), (12, 9, 1, 5));
    assert_eq!((told.failure_rate_percent, told.slow_rate_percent), (Some(75.0), None));
    assert_eq!((told.rejected_calls, told.attempts, told.permits_left), (7, 1, 0));
    assert_eq!((told.since.unwrap().seconds, told.open_until.unwrap().seconds), (1, 31));
    assert!(told.settings.is_some());
    let last = told.last_transition.unwrap();
    assert_eq!(
        (last.model_key.as_str(), last.from_state(), last.to_state()),
        ("m", proto::State::Closed, proto::State::Open)
    );
    assert_eq!(
        (last.reason(), last.outcome()),
        (proto::TransitionReason::FailureRate, proto::Outcome::Timeout)
    );

    let told = configured(whole());
    assert!(told.settings.is_some() && told.last_transition.is_none());
}

#[test]
fn an_override_is_told_with_who_and_until_when() {
    let set = ModeOverride {
        reason: "incident".into(),
        actor: "ada".into(),
        set_time: Timestamp::from_millis(1000),
        expire_time: None,
    };
    let overridden = Breaker { mode: Mode::ForcedOpen, mode_override: Some(set), ..opened(&key("m")) };
    let told = breaker(overridden);
    assert_eq!(told.mode(), proto::Mode::ForcedOpen);
    let told = told.mode_override.unwrap();
    assert_eq!((told.reason.as_str(), told.actor.as_str(), told.expire_time), ("incident", "ada", None));
    assert_eq!(told.set_time.unwrap().seconds, 1);
}

#[test]
fn only_a_leased_permit_has_an_end() {
    let told = permit(given(&key("m")));
    assert_eq!((told.lease_id.as_str(), told.expire_time, told.lease), ("", None, None));
    let lease = Lease {
        id: "r".into(),
        expire_time: Some(Timestamp::from_millis(9000)),
        length: Duration::from_millis(1500),
    };
    let told = permit(Permit { lease: Some(lease), ..given(&key("m")) });
    assert_eq!((told.lease_id.as_str(), told.generation), ("r", 4));
    assert_eq!(told.expire_time.unwrap().seconds, 9);
    assert_eq!(told.lease, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
}

#[test]
fn with_every_model_rejected_the_earliest_says_when_to_ask_again() {
    let after = |seconds: Option<u64>| Rejection {
        retry_after: seconds.map(Duration::from_secs),
        ..rejected(&key("m"))
    };
    let earliest = |rejections: &[Option<u64>]| {
        let rejections = rejections.iter().copied().map(after).collect();
        let told = acquired_first(Answer::shared(AcquiredFirst { permit: None, rejections }));
        assert!(!told.admitted && told.permit.is_none() && told.index.is_none());
        told.retry_after.map(|after| after.seconds)
    };
    assert_eq!(earliest(&[Some(9), None, Some(4), Some(7)]), Some(4));
    assert_eq!(earliest(&[None]), None);
}

#[test]
fn a_page_of_breakers_leads_on_while_there_are_more() {
    let query = BreakersQuery { prefix: String::new(), states: Vec::new(), limit: 2, after: None };
    let page = |breakers, next| breakers_token(&query, BreakersPage { breakers, next });
    let both = vec![opened(&key("a")), opened(&key("b"))];
    assert_eq!(tokens::open_breakers(&query, &page(both.clone(), Some(key("c")))).unwrap(), key("c"));
    assert_eq!(tokens::open_breakers(&query, &page(Vec::new(), Some(key("c")))).unwrap(), key("c"));
    assert_eq!(page(both, None), "");
}

fn breakers_token(query: &BreakersQuery, page: BreakersPage) -> String {
    breakers(query, Answer::shared(page)).next_page_token
}

#[test]
fn a_page_of_transitions_leads_on_in_its_epoch_while_there_are_more() {
    let walk = TransitionsWalk { key: key("m"), after: 0, epoch: None };
    let page = |more| {
        let value = TransitionsPage { epoch: "01JD".into(), transitions: vec![opening()], more };
        transitions(&walk, Answer::shared(value)).next_page_token
    };
    assert_eq!(walk.open(&page(true)).unwrap(), Position { epoch: "01JD".into(), generation: 4 });
    assert_eq!(page(false), "");
}
