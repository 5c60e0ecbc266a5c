//! Breakers in an outage go on from how this instance saw them last, by whatever call, report or watch that was.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, Breaker, BreakerSettings, Disposition, GetBreakerRequest, ListBreakersRequest, Mode,
    Outcome::{Failure, Success},
    OverrideBreakerRequest, RejectionReason, State,
    watch_breakers_response::Event,
};

use super::SOON;
use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, after, assert_did, in_a_row},
    eventually::eventually,
    fusewire::Fusewire,
    threads::{millis, wire},
    watch::{Watcher, all, changes_of, resyncs_of},
};

const MINUTE: Duration = Duration::from_mins(1);

struct Outage {
    on: BehindProxy,
    here: Breakers,
    there: Breakers,
    _there: Fusewire,
}

impl Outage {
    async fn prepared() -> Self {
        let on = BehindProxy::start().await;
        let other = on.another_patient().await;
        let there = Breakers::on([other.channel().await]);
        Self { here: on.breakers(), on, there, _there: other }
    }

    /// A breaker as memory has it.
    async fn local(&self, key: &str) -> Breaker {
        let request = GetBreakerRequest { model_key: key.into(), ..Default::default() };
        let answer = self.here.get_breaker(request).await.unwrap();
        assert_eq!((answer.authority(), answer.as_of.is_some()), (Authority::Local, true));
        answer.breaker.unwrap()
    }

    /// The breakers that memory lists.
    async fn listed(&self) -> Vec<String> {
        let answer = self.here.list_breakers(ListBreakersRequest::default()).await.unwrap();
        assert_eq!(answer.authority(), Authority::Local);
        answer.breakers.into_iter().map(|breaker| breaker.model_key).collect()
    }

    /// The clock of Redis.
    async fn now(&self) -> i64 {
        let time: Vec<i64> = self.on.redis.raw().await.get(&["TIME"]).await;
        time[0] * 1000 + time[1] / 1000
    }
}

fn overriding(key: &str, mode: Mode, length: Duration) -> OverrideBreakerRequest {
    let (ttl, reason) = (Some(wire(length)), "incident 7".to_owned());
    OverrideBreakerRequest { model_key: key.into(), mode: mode.into(), ttl, reason, ..Default::default() }
}

/// What is the same of a breaker in an outage as it was before.
fn lasting(breaker: &Breaker) -> impl PartialEq + std::fmt::Debug {
    let Breaker { since, open_until, attempts, mode_override, .. } = breaker.clone();
    let counts = (breaker.calls, breaker.failures, breaker.slow_calls);
    (breaker.state(), breaker.mode(), (since, open_until, attempts), mode_override, counts)
}

#[tokio::test]
async fn one_that_is_open_stays_open_until_the_same_moment() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    here.tell_all("by-report", &[Failure; 5]).await;
    here.trip("by-order", MINUTE).await;
    there.trip("by-others", MINUTE).await;
    assert!(!here.ask("by-others").await.admitted);
    let keys = ["by-order", "by-others", "by-report"];
    let mut before = Vec::new();
    for key in keys {
        before.push(there.get(key).await);
    }
    on.lose().await;
    assert_eq!(outage.listed().await, keys);
    for (key, before) in keys.into_iter().zip(before) {
        let answer = here.ask(key).await;
        assert_eq!((answer.authority(), answer.admitted), (Authority::Local, false));
        assert_eq!((answer.state(), answer.reason()), (State::Open, RejectionReason::Open));
        let local = outage.local(key).await;
        assert!(local.epoch.starts_with("local-"), "{local:?}");
        assert_eq!(lasting(&local), lasting(&before));
    }
    let answer = here.ask("never-seen").await;
    assert_eq!(
        (answer.authority(), answer.state(), answer.admitted),
        (Authority::Local, State::Closed, true)
    );
}

#[tokio::test]
async fn one_that_only_a_watch_told_of_is_known_as_well() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    let watcher = Watcher::open(here, all()).await;
    watcher.synced().await;
    there.trip("watched", MINUTE).await;
    let before = there.put("watched", Mode::Disabled).await;
    watcher.changes("watched", 2).await;
    on.lose().await;
    assert_eq!(lasting(&outage.local("watched").await), lasting(&before));
    watcher.until("it is told how memory goes on", |told| resyncs_of(told, "watched").len() == 1).await;
    let told = watcher.told();
    let at = told.iter().position(|(event, _)| matches!(event, Event::Resync(_))).unwrap();
    assert_eq!(told[at].1, Authority::Local);
    assert!(matches!(told[at - 1].0, Event::ServingModeChanged(_)), "the mode comes first: {told:#?}");
    let local = resyncs_of(&told, "watched").remove(0);
    assert_eq!((&local.epoch, local.mode()), (&outage.local("watched").await.epoch, Mode::Disabled));
    on.restore().await;
    watcher.agrees(there, &["watched".to_owned()]).await;
    assert_eq!(Watcher::removals(&watcher.told(), "watched"), 0, "it was there all the time");
}

#[tokio::test]
async fn overrides_hold_in_an_outage_and_end_with_their_time() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    let keys = ["forced", "disabled", "metrics"];
    for (key, mode) in keys.into_iter().zip([Mode::ForcedOpen, Mode::Disabled, Mode::MetricsOnly]) {
        if mode != Mode::MetricsOnly {
            there.trip(key, MINUTE).await;
        }
        there.override_breaker(overriding(key, mode, MINUTE)).await.unwrap();
    }
    let mut before = Vec::new();
    for key in keys {
        before.push(here.get(key).await);
    }
    let short = overriding("short", Mode::ForcedOpen, Duration::from_secs(6));
    let short = there.override_breaker(short).await.unwrap().breaker.unwrap();
    here.get("short").await;
    on.lose().await;
    for (key, before) in keys.into_iter().zip(before) {
        assert_eq!(lasting(&outage.local(key).await), lasting(&before));
    }
    let answer = here.ask("forced").await;
    assert_eq!((answer.admitted, answer.reason()), (false, RejectionReason::ForcedOpen));
    assert!(answer.retry_after.is_some(), "{answer:?}");
    assert!(here.ask("disabled").await.admitted);
    assert_did(&here.tell_all("disabled", &[Failure; 9]).await, Disposition::Neutral);
    let answer = here.tell_all("metrics", &[Failure; 9]).await;
    assert_did(&answer, Disposition::Applied);
    assert_eq!((after(answer).failures, here.ask("metrics").await.admitted), (9, true));

    // Nobody asks for it.
    let has_ended = async || outage.local("short").await.generation > 1;
    eventually("the override ends", SOON, has_ended).await;
    assert!(outage.now().await >= millis(short.mode_override.unwrap().expire_time));
    assert!(here.ask("short").await.admitted);
}

#[tokio::test]
async fn a_trial_goes_on_with_permits_of_its_own() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    there.set("trial", in_a_row(3)).await;
    let shared = there.begin_trial("trial").await;
    assert_eq!(here.ask("trial").await.reason(), RejectionReason::NoPermitLeft);
    let before = here.get("trial").await;
    on.lose().await;
    let local = outage.local("trial").await;
    assert_eq!(lasting(&local), lasting(&before));
    assert_eq!((local.state(), local.permits_left), (State::HalfOpen, 1));
    let permit = here.permit("trial").await;
    assert!(permit.epoch.starts_with("local-"), "{permit:?}");
    assert_eq!(here.ask("trial").await.reason(), RejectionReason::NoPermitLeft);
    assert_did(&here.tell(&shared, Success).await, Disposition::Stale);
    let answer = here.tell(&permit, Success).await;
    assert_eq!((answer.disposition(), after(answer).state()), (Disposition::Applied, State::Closed));
    // For the others it is still on trial, and the one permit is taken.
    assert_eq!(there.ask("trial").await.reason(), RejectionReason::NoPermitLeft);
    on.restore().await;
    assert_did(&here.tell(&permit, Failure).await, Disposition::Stale);
    assert_did(&here.tell(&shared, Success).await, Disposition::Applied);
    assert_eq!(here.get("trial").await.state(), State::Closed);
}

#[tokio::test]
async fn the_settings_in_force_hold() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    there.set("strict", in_a_row(2)).await;
    here.get("strict").await;
    there.set("strict", in_a_row(1)).await;
    here.ask("strict").await;
    on.lose().await;
    assert_eq!(after(here.tell_all("strict", &[Failure]).await).state(), State::Open);
}

#[tokio::test]
async fn nothing_is_taken_over_that_is_no_more() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    let raw = on.redis.raw().await;
    for key in ["by-us", "by-others", "by-hand", "told"] {
        here.trip(key, MINUTE).await;
    }
    here.delete("by-us").await;
    there.delete("by-others").await;
    assert!(here.ask("by-others").await.admitted);
    raw.run(&["DEL", "circuit_breaker:by-hand"]).await;
    here.get("by-hand").await;
    let watcher = Watcher::open(here, all()).await;
    watcher.synced().await;
    there.delete("told").await;
    watcher.removed("told").await;
    on.lose().await;
    assert!(outage.listed().await.is_empty());
    for key in ["by-us", "by-others", "by-hand", "told"] {
        assert!(here.ask(key).await.admitted, "{key}");
    }
}

#[tokio::test]
async fn one_that_was_taken_over_becomes_due_by_itself_and_never_stays_open_after_its_time() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    let automatic = BreakerSettings { automatic_half_open: true, ..in_a_row(3) };
    for (key, settings) in [("automatic", automatic), ("asked", in_a_row(3))] {
        there.set(key, settings).await;
        here.trip(key, Duration::from_secs(6)).await;
    }
    let watcher = Watcher::open(here, all()).await;
    watcher.synced().await;
    on.lose().await;
    let (automatic, asked) = (outage.local("automatic").await, outage.local("asked").await);
    assert_eq!((automatic.state(), asked.state()), (State::Open, State::Open));
    let local = |told: &[_]| {
        let mut changes = changes_of(told, "automatic");
        changes.retain(|change| change.epoch.starts_with("local-"));
        changes
    };
    watcher.until("it goes on trial", |told| !local(told).is_empty()).await;
    let change = local(&watcher.told()).remove(0);
    assert_eq!((change.from_state(), change.to_state()), (State::Open, State::HalfOpen));
    assert!(millis(change.transition_time) >= millis(automatic.open_until), "{change:?}");
    let answer = here.ask_until("asked", "a trial begins", |answer| answer.admitted).await;
    assert_eq!((answer.authority(), answer.state()), (Authority::Local, State::HalfOpen));
    assert!(outage.now().await >= millis(asked.open_until));
    watcher.assert_gap_free();
}
