//! What is in Redis: names, types, fields and lifetimes.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    Mode,
    Outcome::{Failure, Success},
    OverrideBreakerRequest, RejectionReason, State, TransitionReason,
};

use super::contents;
use crate::support::{
    breakers::{Breakers, after, assert_stands, in_a_row, length, trial_of},
    deployment::{Deployment, Store, on_stores},
    raw::Raw,
    threads::{millis, wire},
};

on_stores!(
    [redis: Redis, cluster: Cluster, prefixed: Prefixed],
    [
        keys_have_the_names_and_types_of_the_design,
        all_keys_of_a_breaker_share_a_slot,
        the_hash_reads_like_the_breaker,
        a_breaker_lives_a_day_after_its_last_report_or_its_open_time,
        a_breaker_lives_as_long_as_its_override,
        a_record_of_open_swe_is_understood,
        companions_of_a_state_that_is_gone_do_not_count
    ]
);

const DAY: i64 = 86_400_000;

/// State, window, leases, settings and log.
pub(super) fn names(on: &Deployment, key: &str) -> [String; 5] {
    let state = on.key(&format!("circuit_breaker:{key}"));
    let part = |name: &str| format!("{{{state}}}:{name}");
    [state.clone(), part("window"), part("leases"), part("settings"), part("log")]
}

/// A breaker with all five keys: in a trial, one lease given.
pub(super) async fn whole(on: &Deployment, key: &str) -> (Breakers, Raw) {
    let breakers = on.breakers();
    breakers.set(key, trial_of(3)).await;
    let permit = breakers.begin_trial(key).await;
    breakers.tell(&permit, Success).await;
    breakers.permit(key).await;
    (breakers, on.raw().await)
}

async fn keys_have_the_names_and_types_of_the_design(on: &Deployment) {
    let (breakers, raw) = whole(on, "vendor:model-1.5@eu").await;
    breakers.tell_all("closed*[a]?", &[Failure]).await;
    for (key, kind) in names(on, "vendor:model-1.5@eu").iter().zip(["hash", "hash", "zset", "hash", "stream"])
    {
        assert_eq!(raw.get::<String>(&["TYPE", key]).await, kind, "{key}");
    }
    let mut listed: Vec<String> = raw.get(&["ZRANGE", &on.key("circuit_breakers"), "0", "-1"]).await;
    listed.sort();
    assert_eq!(listed, ["closed*[a]?", "vendor:model-1.5@eu"]);
    let mut states: Vec<String> = raw.get(&["KEYS", &on.key("circuit_breaker:*")]).await;
    states.sort();
    assert_eq!(
        states,
        ["closed*[a]?", "vendor:model-1.5@eu"].map(|key| on.key(&format!("circuit_breaker:{key}")))
    );
    // And nothing else is kept.
    let mut expected: Vec<_> = names(on, "vendor:model-1.5@eu").into();
    let [state, window, ..] = names(on, "closed*[a]?");
    expected.extend([state, window, on.key("circuit_breakers")]);
    expected.sort();
    assert_eq!(contents(&raw).await.into_keys().collect::<Vec<_>>(), expected);
    let ids: Vec<(String, Vec<String>)> =
        raw.get(&["XRANGE", &names(on, "vendor:model-1.5@eu")[4], "-", "+"]).await;
    assert_eq!(ids.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ["1-0", "2-0"]);
}

async fn all_keys_of_a_breaker_share_a_slot(on: &Deployment) {
    if !matches!(on.store, Store::Cluster | Store::PrefixedCluster) {
        return;
    }
    let raw = on.raw().await;
    for key in ["slot", "a:b/c@d", "*[x]?"] {
        let mut slots = Vec::new();
        for name in names(on, key) {
            slots.push(raw.get::<i64>(&["CLUSTER", "KEYSLOT", &name]).await);
        }
        slots.dedup();
        assert_eq!(slots.len(), 1, "{key}");
    }
}

async fn fields(raw: &Raw, key: &str) -> BTreeMap<String, String> {
    raw.get(&["HGETALL", key]).await
}

async fn the_hash_reads_like_the_breaker(on: &Deployment) {
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.set("readable", in_a_row(2)).await;
    breakers.tell_all("readable", &[Failure]).await;
    let [state, ..] = names(on, "readable");
    let read = fields(&raw, &state).await;
    let told = breakers.get("readable").await;
    let text = |name: &str| read.get(name).map_or("", String::as_str);
    assert_eq!(
        (text("state"), text("mode"), text("generation"), text("fence")),
        ("CLOSED", "AUTOMATIC", "0", "0")
    );
    assert_eq!((text("epoch"), text("failureCount"), text("openedAt")), (told.epoch.as_str(), "0", ""));

    let open = after(breakers.tell_all("readable", &[Failure]).await);
    let read = fields(&raw, &state).await;
    let text = |name: &str| read.get(name).map_or("", String::as_str);
    assert_eq!((text("state"), text("generation"), text("fence"), text("attempts")), ("OPEN", "1", "1", "1"));
    assert_eq!((text("reason"), text("failureCount")), ("CONSECUTIVE_FAILURES", "2"));
    assert_eq!(text("openedAt"), millis(open.since).to_string());
    assert_eq!(text("openUntil"), millis(open.open_until).to_string());
    let last_failure: i64 = text("lastFailureTime").parse().unwrap();
    assert!((0..=5000).contains(&(millis(open.since) - last_failure)), "{last_failure}");
    let score: f64 = raw.get(&["ZSCORE", &on.key("circuit_breakers"), "readable"]).await;
    #[expect(clippy::cast_possible_truncation, reason = "ms, far below 2^53")]
    let before = millis(open.since) - score as i64;
    assert!(before.abs() < 5000, "listed {before} ms before it changed");
}

/// When each of a breaker's keys expires; -1: never, -2: there is none.
async fn expiries(on: &Deployment, raw: &Raw, key: &str) -> [i64; 5] {
    let mut expiries = [0; 5];
    for (expiry, name) in expiries.iter_mut().zip(names(on, key)) {
        *expiry = raw.get(&["PEXPIRETIME", &name]).await;
    }
    expiries
}

async fn now(raw: &Raw) -> i64 {
    let (seconds, micros): (i64, i64) = raw.get(&["TIME"]).await;
    seconds * 1000 + micros / 1000
}

async fn a_breaker_lives_a_day_after_its_last_report_or_its_open_time(on: &Deployment) {
    let (breakers, raw) = whole(on, "lives").await;
    let [state, window, leases, settings, log] = expiries(on, &raw, "lives").await;
    let left = state - now(&raw).await;
    assert!((DAY - 15_000..=DAY).contains(&left), "{left}");
    for expiry in [window, leases, log] {
        assert!((expiry - state).abs() < 15_000, "{expiry} {state}");
    }
    assert_eq!(settings, -1, "settings stay");

    let open = breakers.trip("lives", Duration::from_hours(24 * 7)).await;
    let [state, window, _, settings, log] = expiries(on, &raw, "lives").await;
    assert_eq!(
        [state, window, log, settings],
        [[millis(open.open_until) + DAY; 3].as_slice(), &[-1]].concat()[..]
    );

    // Renewed hourly at most: the next report leaves it.
    breakers.tell_all("reported", &[Success]).await;
    let [first, ..] = expiries(on, &raw, "reported").await;
    let left = first - now(&raw).await;
    assert!((DAY - 15_000..=DAY).contains(&left), "{left}");
    breakers.tell_all("reported", &[Success; 5]).await;
    assert_eq!(expiries(on, &raw, "reported").await[..2], [first, first]);
}

async fn a_breaker_lives_as_long_as_its_override(on: &Deployment) {
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.tell_all("kept", &[Failure]).await;
    breakers.put("kept", Mode::MetricsOnly).await;
    breakers.tell_all("kept", &[Failure]).await;
    assert_eq!(expiries(on, &raw, "kept").await, [-1, -1, -2, -2, -1]);
    let request = OverrideBreakerRequest {
        model_key: "kept".into(),
        mode: Mode::ForcedOpen.into(),
        ttl: Some(wire(Duration::from_hours(24 * 300))),
        ..Default::default()
    };
    let set = breakers.override_breaker(request).await.unwrap().breaker.unwrap().mode_override.unwrap();
    let expected = millis(set.expire_time) + DAY;
    assert_eq!(expiries(on, &raw, "kept").await, [expected, expected, -2, -2, expected]);
    breakers.reset("kept").await;
    let left = expiries(on, &raw, "kept").await[0] - now(&raw).await;
    assert!((DAY - 15_000..=DAY).contains(&left), "{left}");
}

/// Writes the hash that Open SWE keeps of a model.
async fn open_swe(on: &Deployment, raw: &Raw, key: &str, state: &str, opened_at: i64) {
    let (name, opened_at) = (on.key(&format!("circuit_breaker:{key}")), opened_at.to_string());
    let fields = ["state", state, "failureCount", "2", "lastFailureTime", &opened_at, "openedAt", &opened_at];
    raw.run(&[["HSET", name.as_str()].as_slice(), &fields].concat()).await;
}

async fn a_record_of_open_swe_is_understood(on: &Deployment) {
    let (breakers, raw) = (on.breakers(), on.raw().await);
    let now = now(&raw).await;
    for key in ["swe-open", "swe-due", "swe-closed"] {
        breakers.set(key, in_a_row(2)).await;
    }
    open_swe(on, &raw, "swe-open", "OPEN", now - 5000).await;
    let open = breakers.get("swe-open").await;
    assert_stands(&open, State::Open, 0);
    assert_eq!((millis(open.since), millis(open.open_until)), (now - 5000, now + 55_000));
    let answer = breakers.ask("swe-open").await;
    assert_eq!(answer.reason(), RejectionReason::Open);
    assert!((1..=55_000).contains(&length(answer.retry_after)));
    assert_stands(&breakers.trip("swe-open", Duration::from_mins(5)).await, State::Open, 1);

    open_swe(on, &raw, "swe-due", "OPEN", now - 61_000).await;
    let permit = breakers.permit("swe-due").await;
    assert_eq!((permit.generation, permit.epoch.is_empty(), permit.lease_id.is_empty()), (1, false, false));
    assert_stands(&after(breakers.tell(&permit, Success).await), State::Closed, 2);
    assert_eq!(breakers.newest("swe-due").await.reason(), TransitionReason::TrialPassed);

    open_swe(on, &raw, "swe-closed", "CLOSED", 0).await;
    let closed = after(breakers.tell_all("swe-closed", &[Failure]).await);
    assert_stands(&closed, State::Closed, 0);
    assert!(!closed.epoch.is_empty());
    assert_eq!(closed.calls, 1, "what was counted there is not known to be in the window");
    assert_stands(&after(breakers.tell_all("swe-closed", &[Failure]).await), State::Open, 1);
}

async fn companions_of_a_state_that_is_gone_do_not_count(on: &Deployment) {
    let (breakers, raw) = whole(on, "bereft").await;
    let [state, _, leases, _, _] = names(on, "bereft");
    let old = breakers.get("bereft").await;
    raw.run(&["DEL", &state]).await;
    let gone = breakers.get("bereft").await;
    assert_stands(&gone, State::Closed, 0);
    assert_eq!((gone.calls, gone.epoch.as_str(), &gone.last_transition), (0, "", &None));
    assert_eq!(gone.settings, old.settings, "settings are the operator's");
    assert_eq!(breakers.history("bereft").await, []);
    let new = after(breakers.tell_all("bereft", &[Failure]).await);
    assert_stands(&new, State::Closed, 0);
    assert_eq!((new.calls, new.epoch == old.epoch), (1, false));
    assert_eq!(raw.get::<i64>(&["EXISTS", &leases]).await, 0);
    assert_eq!(breakers.history("bereft").await, []);

    raw.run(&["DEL", &state]).await;
    breakers.trip("bereft", Duration::from_mins(1)).await;
    assert_eq!(breakers.history("bereft").await.len(), 1);
}
