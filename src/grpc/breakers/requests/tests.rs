//! What each request refuses, by path.

use super::*;
use crate::{
    error::Error,
    grpc::check::testing::{mask, paths},
};

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn malformed() -> prost_types::Duration {
    prost_types::Duration { seconds: 5, nanos: -1 }
}

fn acquiring() -> proto::AcquireRequest {
    proto::AcquireRequest { model_key: "m".into(), ..Default::default() }
}

#[test]
fn an_acquisition_tells_every_violated_field() {
    let request = proto::AcquireRequest {
        model_key: "a b".into(),
        lease: Some(malformed()),
        admission: 3,
        require_shared: false,
        request_id: "x".repeat(101),
    };
    assert_eq!(paths(acquire(&request)), ["model_key", "lease", "admission", "request_id"]);
    let request = proto::AcquireFirstRequest {
        model_keys: Vec::new(),
        lease: Some(seconds(-1)),
        admission: -1,
        require_shared: false,
        request_id: "{}".into(),
    };
    assert_eq!(paths(acquire_first(&request)), ["model_keys", "lease", "admission", "request_id"]);
}

#[test]
fn a_lease_is_1_s_to_1_h_and_every_admission_of_the_contract_is_taken() {
    for (lease, is_good) in [(1, true), (3600, true), (0, false), (3601, false), (-1, false)] {
        let request = proto::AcquireRequest { lease: Some(seconds(lease)), ..acquiring() };
        assert_eq!(acquire(&request).is_ok(), is_good, "{lease}");
    }
    for admission in 0..=2 {
        let taken = acquire(&proto::AcquireRequest { admission, ..acquiring() }).unwrap();
        assert_eq!((taken.lease, taken.request_id), (None, None));
    }
}

#[test]
fn keys_to_choose_from_are_1_to_32_each_named_once() {
    let request =
        |keys: &[String]| proto::AcquireFirstRequest { model_keys: keys.to_vec(), ..Default::default() };
    let many: Vec<_> = (0..33).map(|n| format!("m{n}")).collect();
    assert_eq!(acquire_first(&request(&many[..32])).unwrap().keys.len(), 32);
    assert_eq!(paths(acquire_first(&request(&many))), ["model_keys"]);
    let bad = ["a", "", "b", "a", ""].map(str::to_owned);
    assert_eq!(paths(acquire_first(&request(&bad))), ["model_keys[1]", "model_keys[3]", "model_keys[4]"]);
}

fn given() -> proto::Permit {
    proto::Permit {
        model_key: "m".into(),
        epoch: "local-01JD".into(),
        generation: 4,
        lease_id: "r".into(),
        expire_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 }),
        lease: Some(seconds(120)),
    }
}

#[test]
fn a_permit_comes_back_as_it_was_given() {
    let request = proto::RenewPermitRequest { permit: Some(given()), lease: Some(seconds(9)) };
    let (permit, lease) = renew(request).unwrap();
    assert_eq!(lease, Some(Duration::from_secs(9)));
    assert_eq!((permit.key.as_str(), permit.position.epoch.as_str()), ("m", "local-01JD"));
    assert_eq!(permit.position.generation, 4);
    let expected = Lease { id: "r".into(), expire_time: None, length: Duration::from_mins(2) };
    assert_eq!(permit.lease, Some(expected));
    let bare = proto::Permit { model_key: "m".into(), ..Default::default() };
    let (permit, _) = renew(proto::RenewPermitRequest { permit: Some(bare), lease: None }).unwrap();
    assert_eq!((permit.position, permit.lease), (Position::default(), None));
}

#[test]
fn a_permit_that_nobody_gave_tells_every_violated_field() {
    let bad = proto::Permit {
        model_key: String::new(),
        epoch: "e".repeat(65),
        generation: -1,
        lease_id: "l".repeat(129),
        expire_time: None,
        lease: Some(seconds(-1)),
    };
    let request = proto::RenewPermitRequest { permit: Some(bad), lease: Some(seconds(0)) };
    let expected =
        ["permit.model_key", "permit.epoch", "permit.generation", "permit.lease_id", "permit.lease", "lease"];
    assert_eq!(paths(renew(request)), expected);
    let bad =
        proto::Permit { epoch: "{e}".into(), lease_id: "a b".into(), lease: Some(malformed()), ..given() };
    let request = proto::RenewPermitRequest { permit: Some(bad), lease: None };
    assert_eq!(paths(renew(request)), ["permit.epoch", "permit.lease_id", "permit.lease"]);
    assert_eq!(paths(renew(proto::RenewPermitRequest::default())), ["permit"]);
}

fn reporting() -> proto::ReportRequest {
    proto::ReportRequest {
        model_key: "m".into(),
        outcome: proto::Outcome::Success.into(),
        ..Default::default()
    }
}

#[test]
fn a_report_names_its_permit_or_a_key_and_both_only_if_they_agree() {
    let request = |permit: Option<proto::Permit>, key: &str| {
        report(proto::ReportRequest { permit, model_key: key.into(), ..reporting() })
    };
    assert_eq!(paths(request(None, "")), ["model_key"]);
    assert_eq!(paths(request(Some(given()), "n")), ["model_key"]);
    assert_eq!(paths(request(Some(proto::Permit::default()), "")), ["permit.model_key"]);
    for (permit, key) in [(None, "m"), (Some(given()), ""), (Some(given()), "m")] {
        let report = request(permit.clone(), key).unwrap();
        assert_eq!((report.key.as_str(), report.permit.is_some()), ("m", permit.is_some()));
    }
}

#[test]
fn the_outcome_wins_over_the_http_status() {
    let request = |outcome, http_status| report(proto::ReportRequest { outcome, http_status, ..reporting() });
    let timeout = proto::Outcome::Timeout.into();
    for (outcome, status, expected) in [
        (timeout, 0, Outcome::Timeout),
        (timeout, 200, Outcome::Timeout),
        (0, 100, Outcome::Failure),
        (0, 204, Outcome::Success),
        (0, 529, Outcome::Overloaded),
        (0, 599, Outcome::Failure),
    ] {
        assert_eq!(request(outcome, status).unwrap().outcome, expected, "{outcome}, {status}");
    }
    assert_eq!(paths(request(0, 0)), ["outcome"]);
    assert_eq!(paths(request(10, 200)), ["outcome"]);
    assert_eq!(paths(request(-1, 600)), ["http_status", "outcome"]);
    for status in [-1, 99, 600] {
        assert_eq!(paths(request(0, status)), ["http_status"], "{status}");
        assert_eq!(paths(request(timeout, status)), ["http_status"], "{status}");
    }
}

#[test]
fn a_report_bounds_its_durations_and_its_detail() {
    let request = |duration, retry_after| {
        report(proto::ReportRequest {
            duration: Some(duration),
            retry_after: Some(retry_after),
            ..reporting()
        })
    };
    let week = seconds(7 * 86_400);
    let report_of = |duration, retry_after| {
        let report = request(duration, retry_after).unwrap();
        (report.duration.unwrap(), report.retry_after)
    };
    assert_eq!(report_of(seconds(0), seconds(0)), (Duration::ZERO, None));
    assert_eq!(report_of(week, seconds(i64::MAX)), (LONGEST, Some(LONGEST)));
    assert_eq!(paths(request(seconds(7 * 86_400 + 1), seconds(-1))), ["duration", "retry_after"]);
    assert_eq!(paths(request(seconds(-1), malformed())), ["duration", "retry_after"]);
    let detail = |bytes| report(proto::ReportRequest { detail: "d".repeat(bytes), ..reporting() });
    assert_eq!(detail(512).unwrap().detail.len(), 512);
    assert_eq!(paths(detail(513)), ["detail"]);
}

#[test]
fn a_list_tells_every_violated_field_and_takes_each_state_once() {
    let bad = proto::ListBreakersRequest {
        prefix: "a b".into(),
        states: vec![1, 0, 4],
        page_size: -1,
        page_token: String::new(),
    };
    assert_eq!(paths(list(bad)), ["prefix", "states[1]", "states[2]", "page_size"]);
    let prefix = |length| proto::ListBreakersRequest { prefix: "p".repeat(length), ..Default::default() };
    assert!(list(prefix(256)).is_ok());
    assert_eq!(paths(list(prefix(257))), ["prefix"]);
    let request = |states: &[i32], page_size| proto::ListBreakersRequest {
        states: states.to_vec(),
        page_size,
        ..Default::default()
    };
    assert_eq!(list(request(&[3, 1, 3], 0)).unwrap().states, [State::Closed, State::HalfOpen]);
    let limit = |page_size| list(request(&[], page_size)).unwrap().limit;
    assert_eq!([0, 1, 1000, i32::MAX].map(limit), [50, 1, 1000, 1000]);
}

#[test]
fn a_page_token_of_breakers_is_of_its_list() {
    let request = proto::ListBreakersRequest { states: vec![2, 1], ..Default::default() };
    let query = list(request.clone()).unwrap();
    let page_token = tokens::seal_breakers(&query, &ModelKey::parse("", "m").unwrap());
    // The same states in another order are the same list.
    let next = proto::ListBreakersRequest { states: vec![1, 2], page_size: 7, page_token, ..request };
    assert_eq!(list(next.clone()).unwrap().after.unwrap().as_str(), "m");
    assert!(matches!(
        list(proto::ListBreakersRequest { states: vec![1], ..next }),
        Err(Error::TokenMismatch)
    ));
}

#[test]
fn a_configuration_sets_or_resets() {
    let request = |settings, reset_settings, paths: Option<&[&str]>| proto::ConfigureBreakerRequest {
        model_key: "m".into(),
        settings,
        update_mask: paths.map(mask),
        reset_settings,
    };
    let some = || Some(proto::BreakerSettings::default());
    assert!(matches!(configure(&request(some(), false, None)).unwrap().1, Configure::Set(_)));
    assert!(matches!(configure(&request(None, true, None)).unwrap().1, Configure::Reset));
    assert_eq!(paths(configure(&request(some(), true, None))), ["settings"]);
    assert_eq!(paths(configure(&request(None, false, None))), ["settings"]);
    assert_eq!(paths(configure(&request(None, true, Some(&["open_duration"])))), ["update_mask"]);
    let bad = proto::BreakerSettings { min_reporters: -1, ..Default::default() };
    let nameless =
        proto::ConfigureBreakerRequest { model_key: String::new(), ..request(Some(bad), false, None) };
    assert_eq!(paths(configure(&nameless)), ["model_key", "settings.min_reporters"]);
}

#[test]
fn an_order_tells_every_violated_field() {
    let (reason, actor, request_id) = ("r".repeat(513), "a".repeat(129), "x".repeat(101));
    let said = ["model_key", "reason", "actor", "request_id"];
    let request = proto::ResetBreakerRequest {
        model_key: String::new(),
        reason: reason.clone(),
        actor: actor.clone(),
        request_id: request_id.clone(),
    };
    assert_eq!(paths(reset(request)), said);
    let request = proto::TripBreakerRequest {
        model_key: String::new(),
        open_for: Some(malformed()),
        reason: reason.clone(),
        actor: actor.clone(),
        request_id: request_id.clone(),
    };
    assert_eq!(paths(trip(request)), [&["open_for"], &said[..]].concat());
    let request = proto::OverrideBreakerRequest {
        model_key: String::new(),
        mode: 5,
        ttl: Some(seconds(0)),
        reason,
        actor,
        request_id,
    };
    assert_eq!(paths(override_mode(request)), [&["mode", "ttl"], &said[..]].concat());
}

#[test]
fn a_trip_lasts_1_ms_to_7_days() {
    let request =
        |open_for| trip(proto::TripBreakerRequest { model_key: "m".into(), open_for, ..Default::default() });
    let nanos = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    for (open_for, expected) in [
        (None, None),
        (nanos(1_000_000), Some(Duration::from_millis(1))),
        (Some(seconds(7 * 86_400)), Some(LONGEST)),
    ] {
        assert_eq!(request(open_for).unwrap().1.what, Ordered::Trip(expected));
    }
    for bad in [nanos(999_999), nanos(0), Some(seconds(-1)), Some(seconds(7 * 86_400 + 1))] {
        assert_eq!(paths(request(bad)), ["open_for"], "{bad:?}");
    }
}

#[test]
fn an_override_has_a_mode_and_lasts_unless_it_ends_one() {
    let request = |mode: proto::Mode, ttl| {
        let mode = mode.into();
        override_mode(proto::OverrideBreakerRequest {
            model_key: "m".into(),
            mode,
            ttl,
            ..Default::default()
        })
    };
    let what = |mode, ttl| request(mode, ttl).unwrap().1.what;
    let year = Duration::from_hours(365 * 24);
    assert_eq!(what(proto::Mode::Automatic, None), Ordered::Override(Mode::Automatic, None));
    assert_eq!(what(proto::Mode::Disabled, None), Ordered::Override(Mode::Disabled, None));
    assert_eq!(
        what(proto::Mode::ForcedOpen, Some(seconds(365 * 86_400))),
        Ordered::Override(Mode::ForcedOpen, Some(year))
    );
    assert_eq!(paths(request(proto::Mode::Unspecified, None)), ["mode"]);
    assert_eq!(paths(request(proto::Mode::Automatic, Some(seconds(1)))), ["ttl"]);
    assert_eq!(paths(request(proto::Mode::MetricsOnly, Some(seconds(365 * 86_400 + 1)))), ["ttl"]);
}

#[test]
fn a_page_of_transitions_goes_on_in_the_epoch_of_its_token() {
    let request =
        proto::ListTransitionsRequest { model_key: "m".into(), after_generation: 3, ..Default::default() };
    let (query, walk) = list_transitions(request.clone()).unwrap();
    assert_eq!((query.after, query.epoch, query.goes_on, query.limit), (3, None, false, 50));
    let given = proto::ListTransitionsRequest { epoch: "e".into(), ..request.clone() };
    let (query, _) = list_transitions(given).unwrap();
    assert_eq!((query.epoch.as_deref(), query.goes_on), (Some("e"), false));
    let page_token = walk.seal(Position { epoch: "e".into(), generation: 9 });
    let next = proto::ListTransitionsRequest { page_token, page_size: 7, ..request };
    let (query, again) = list_transitions(next.clone()).unwrap();
    assert_eq!((query.after, query.epoch.as_deref(), query.goes_on, query.limit), (9, Some("e"), true, 7));
    assert_eq!(again, walk);
    let other = proto::ListTransitionsRequest { after_generation: 4, ..next };
    assert!(matches!(list_transitions(other), Err(Error::TokenMismatch)));
}

#[test]
fn a_list_of_transitions_tells_every_violated_field() {
    let request = proto::ListTransitionsRequest {
        model_key: "k".repeat(257),
        after_generation: -1,
        epoch: "e".repeat(65),
        page_size: -1,
        page_token: "garbage".into(),
    };
    assert_eq!(paths(list_transitions(request)), ["model_key", "after_generation", "epoch", "page_size"]);
    assert_eq!(paths(model_key("")), ["model_key"]);
}
