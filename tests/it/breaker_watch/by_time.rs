//! What time brings, though nobody touches a breaker: states that expire, opens, trials and overrides that end. Each once.

use std::time::Duration;

use fusewire::grpc::proto::{
    BreakerSettings, Mode,
    Outcome::Success,
    OverrideBreakerRequest, State, Transition,
    TransitionReason::{self, OpenElapsed, Override, TrialTimedOut, Tripped},
};
use tokio::time::Instant;

use super::{fleet, watchers};
use crate::support::{
    breakers::{Breakers, SOON, in_a_row},
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    eventually::eventually,
    raw::Raw,
    threads::wire,
    watch::{Watcher, all, from, keys},
};

on_every_store_and_on_a_pair!(
    an_open_breaker_goes_on_trial_by_itself,
    a_trial_that_nobody_ends_opens_again_by_itself,
    without_trial_it_closes_by_itself,
    an_override_ends_by_itself,
);

const MINUTE: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_millis(300);

fn automatic() -> BreakerSettings {
    BreakerSettings { automatic_half_open: true, ..in_a_row(5) }
}

fn reasons(changes: &[Transition]) -> Vec<TransitionReason> {
    changes.iter().map(Transition::reason).collect()
}

/// Checks that these are all changes of a breaker, each of them once, and that all watchers were told them.
async fn assert_history(breakers: &Breakers, key: &str, watchers: &[Watcher], expected: &[TransitionReason]) {
    for watcher in watchers {
        assert_eq!(reasons(&watcher.changes(key, expected.len()).await), expected);
    }
    let history = breakers.history(key).await;
    assert_eq!(reasons(&history), expected);
    for watcher in watchers {
        assert_eq!(watcher.changes(key, expected.len()).await, history);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn an_open_breaker_goes_on_trial_by_itself(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("open", automatic()).await;
    let watchers = watchers(on, &keys(["open"])).await;
    breakers.trip("open", MOMENT).await;
    assert_history(&breakers, "open", &watchers, &[Tripped, OpenElapsed]).await;
    let changes = watchers[0].changes("open", 2).await;
    let due = changes[0].open_until.unwrap();
    let at = changes[1].transition_time.unwrap();
    assert!((at.seconds, at.nanos) >= (due.seconds, due.nanos), "not before: {changes:?}");
}

async fn a_trial_that_nobody_ends_opens_again_by_itself(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("trial", BreakerSettings { half_open_max_wait: Some(wire(MOMENT)), ..automatic() }).await;
    let watchers = watchers(on, &keys(["trial"])).await;
    breakers.trip("trial", MOMENT).await;
    assert_history(&breakers, "trial", &watchers, &[Tripped, OpenElapsed, TrialTimedOut]).await;
    let open = breakers.get("trial").await;
    assert_eq!((open.state(), open.attempts), (State::Open, 2));
}

async fn without_trial_it_closes_by_itself(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("straight", BreakerSettings { half_open_permits: Some(0), ..automatic() }).await;
    let watchers = watchers(on, &keys(["straight"])).await;
    breakers.trip("straight", MOMENT).await;
    assert_history(&breakers, "straight", &watchers, &[Tripped, OpenElapsed]).await;
    assert_eq!(breakers.get("straight").await.state(), State::Closed);
}

async fn an_override_ends_by_itself(on: &Deployment) {
    let breakers = on.breakers();
    let watchers = watchers(on, &keys(["override"])).await;
    let request = OverrideBreakerRequest {
        model_key: "override".into(),
        mode: Mode::ForcedOpen.into(),
        ttl: Some(wire(Duration::from_secs(1))),
        ..Default::default()
    };
    breakers.override_breaker(request).await.unwrap();
    assert_history(&breakers, "override", &watchers, &[Override, Override]).await;
    assert_eq!(watchers[0].changes("override", 2).await[1].mode(), Mode::Automatic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_make_each_change_once() {
    let (on, breakers) = fleet(&[]).await;
    let watchers = watchers(&on, &all()).await;
    let names: Vec<_> = (0..20).map(|n| format!("fleet-{n}")).collect();
    for name in &names {
        breakers.set(name, BreakerSettings { half_open_max_wait: Some(wire(MOMENT)), ..automatic() }).await;
    }
    for name in &names {
        breakers.trip(name, MOMENT).await;
    }
    for name in &names {
        assert_history(&breakers, name, &watchers, &[Tripped, OpenElapsed, TrialTimedOut]).await;
    }
}

/// How often Redis refused the first command of an offer: the one that lists the breaker.
async fn refused(raw: &Raw) -> u64 {
    let stats: String = raw.get(&["INFO", "commandstats"]).await;
    let line = stats.lines().find(|line| line.starts_with("cmdstat_zadd:")).unwrap_or_default();
    let rejected = line.split(',').find_map(|part| part.strip_prefix("rejected_calls="));
    rejected.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_redis_refuses_is_offered_again_but_not_at_once() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.set("refused", automatic()).await;
    let watchers = watchers(&on, &keys(["refused"])).await;
    breakers.trip("refused", Duration::from_secs(1)).await;
    let began = Instant::now();
    raw.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    eventually("it was offered five times", Duration::from_mins(1), async || refused(&raw).await >= 5).await;
    // A busy machine only makes it longer.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "offered five times within {took:?}");
    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_history(&breakers, "refused", &watchers, &[Tripped, OpenElapsed]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_merely_served_a_breaker_makes_its_change() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    let mut other = on.another(&[]).await;
    let there = Breakers::on([other.channel().await]);
    there.set("served", automatic()).await;
    there.trip("served", Duration::from_secs(2)).await;
    assert!(!breakers.ask("served").await.admitted);
    other.kill();
    // Only looked at behind the service's back: nothing touches it.
    eventually("it is on trial", SOON, async || {
        raw.get::<String>(&["HGET", "circuit_breaker:served", "state"]).await == "HALF_OPEN"
    })
    .await;
    assert_eq!(raw.get::<u32>(&["XLEN", "{circuit_breaker:served}:log"]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_expires_is_told_when_it_does() {
    let (on, breakers) = fleet(&[]).await;
    let raw = on.raw().await;
    // Among so many, Redis finds one that has expired only after minutes unless somebody touches it.
    let others = "for n = 1, 50000 do redis.call('SET', 'other:' .. n, 1, 'PX', 3600000) end";
    raw.run(&["EVAL", others, "0"]).await;
    breakers.tell_all("made", &[Success]).await;
    let was = [breakers.get("made").await, breakers.trip("idle", MINUTE).await];
    let watchers = watchers(&on, &all()).await;
    let began = Instant::now();
    for key in ["made", "idle"] {
        let companions = ["window", "leases", "log"].map(|part| format!("{{circuit_breaker:{key}}}:{part}"));
        for part in [format!("circuit_breaker:{key}")].iter().chain(&companions) {
            raw.run(&["PEXPIRE", part, "2000"]).await;
        }
    }
    for watcher in &watchers {
        for was in &was {
            let removed = watcher.removed(&was.model_key).await;
            assert_eq!(
                (&removed.epoch, removed.generation, removed.expired),
                (&was.epoch, was.generation, true)
            );
        }
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
    let took = began.elapsed();
    eprintln!("told after {took:?}");
    assert!(took >= Duration::from_millis(1990), "not before: {took:?}");
    // A watch that begins now is told nothing of them, or that they are no more.
    let late = Watcher::open(&breakers, from("idle", &was[1].epoch, 1)).await;
    assert_eq!(late.removed("idle").await.generation, 1);
}
