//! Watches through an outage: they stay open, say so, tell what memory decides, and begin again from what all share.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, BreakerSettings, Outcome::Failure, ServingMode, State, Transition, WatchBreakersRequest,
    watch_breakers_response::Event,
};

use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, SOON, in_a_row},
    eventually::eventually,
    fusewire::Fusewire,
    threads::{millis, wire},
    watch::{Told, Watcher, all, beginning, from, is_synced, keys, resyncs_of, snapshots},
};

const MINUTE: Duration = Duration::from_mins(1);

struct Outage {
    on: BehindProxy,
    here: Breakers,
    there: Breakers,
    _there: Fusewire,
}

/// Settings of a breaker that goes on trial by itself.
fn automatic(open: Duration) -> BreakerSettings {
    BreakerSettings { automatic_half_open: true, open_duration: Some(wire(open)), ..in_a_row(3) }
}

/// A service behind a proxy, and another one that is not.
async fn outage() -> Outage {
    let on = BehindProxy::start().await;
    let other = on.another_patient().await;
    let there = Breakers::on([other.channel().await]);
    Outage { here: on.breakers(), on, there, _there: other }
}

fn is_mode(event: &Event, mode: ServingMode) -> bool {
    matches!(event, Event::ServingModeChanged(changed) if changed.mode() == mode)
}

/// What was told from the change to this mode on.
fn since(told: &[Told], mode: ServingMode) -> Vec<Told> {
    let at = told.iter().rposition(|(event, _)| is_mode(event, mode)).expect("the mode is told");
    told[at..].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_memory_decides_and_then_begins_again() {
    let Outage { on, here, there, _there } = outage().await;
    there.set("tripped", in_a_row(3)).await;
    for key in ["idle", "changed", "doomed"] {
        there.trip(key, MINUTE).await;
    }
    here.ask("tripped").await;
    let watchers = [
        Watcher::open(&here, all()).await,
        Watcher::open(&here, keys(["idle", "changed", "doomed", "tripped", "never"])).await,
    ];
    for watcher in &watchers {
        watcher.synced().await;
    }
    on.lose().await;
    let local = here.tell_all("tripped", &[Failure; 5]).await.breaker.unwrap();
    assert!(local.epoch.starts_with("local-") && local.state() == State::Open, "{local:?}");
    for watcher in &watchers {
        watcher.serves(ServingMode::Degraded, 1).await;
        for key in ["idle", "changed", "doomed"] {
            watcher.stands(key, &here.get(key).await).await;
        }
        // It may have happened before the watch went over to memory.
        watcher.stands("tripped", &local).await;
        let told = since(&watcher.told(), ServingMode::Degraded);
        assert!(told.iter().all(|(_, authority)| *authority == Authority::Local), "{told:#?}");
        assert_eq!(told.len(), 5, "nothing but how memory goes on and what happens: {told:#?}");
    }
    there.reset("changed").await;
    there.trip("newborn", MINUTE).await;
    there.delete("doomed").await;
    on.restore().await;
    eventually("the trip is taken over", SOON, async || !there.get("tripped").await.epoch.is_empty()).await;
    let names = ["idle", "changed", "tripped", "newborn", "doomed"].map(str::to_owned);
    for (n, watcher) in watchers.iter().enumerate() {
        watcher.serves(ServingMode::Shared, 1).await;
        assert!(!watcher.removed("doomed").await.expired);
        let names = if n == 0 { &names[..] } else { &names[..3] };
        watcher.agrees(&there, names).await;
        for key in ["idle", "changed"] {
            let what = format!("{key} is told as it is");
            // In the outage, and after it.
            watcher.until(&what, |told| resyncs_of(told, key).len() == 2).await;
        }
        let told = since(&watcher.told(), ServingMode::Shared);
        assert!(told.iter().all(|(_, authority)| *authority == Authority::Shared), "{told:#?}");
        assert_eq!(watcher.told().iter().filter(|(event, _)| is_synced(event)).count(), 1);
    }
    there.trip("changed", MINUTE).await;
    there.reset("newborn").await;
    for watcher in &watchers {
        watcher.agrees(&there, &names[..3]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_outage_is_told() {
    let Outage { on, here, there, _there } = outage().await;
    there.trip("idle", MINUTE).await;
    let watcher = Watcher::open(&here, all()).await;
    watcher.synced().await;
    for times in 1..=3 {
        on.lose().await;
        watcher.serves(ServingMode::Degraded, times).await;
        let key = format!("busy-{times}");
        let local = here.tell_all(&key, &[Failure; 20]).await.breaker.unwrap();
        assert!(local.epoch.starts_with("local-"), "{local:?}");
        watcher.stands(&key, &local).await;
        on.restore().await;
        watcher.serves(ServingMode::Shared, times).await;
        let told = |told: &[Told]| resyncs_of(told, "idle").len() == 2 * times;
        watcher.until("it is told as it is, in the outage and after it", told).await;
    }
    watcher.assert_gap_free();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_makes_the_changes_that_time_brings_as_well() {
    let Outage { on, here, there, _there } = outage().await;
    there.set("automatic", automatic(Duration::from_millis(300))).await;
    here.ask("automatic").await;
    let watcher = Watcher::open(&here, all()).await;
    watcher.synced().await;
    on.lose().await;
    here.tell_all("automatic", &[Failure; 5]).await;
    let changes = watcher.changes("automatic", 2).await;
    let states: Vec<_> = changes.iter().map(Transition::to_state).collect();
    assert_eq!(states, [State::Open, State::HalfOpen]);
    assert!(changes.iter().all(|change| change.epoch.starts_with("local-")), "{changes:#?}");
    watcher.assert_gap_free();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_in_an_outage_happens_after_it() {
    let on = BehindProxy::start().await;
    let (here, raw) = (on.breakers(), on.redis.raw().await);
    here.set("due", automatic(Duration::from_secs(1))).await;
    let open = here.trip("due", Duration::from_secs(1)).await;
    on.lose().await;
    eventually("it is due", SOON, async || {
        let time: Vec<i64> = raw.get(&["TIME"]).await;
        time[0] * 1000 + time[1] / 1000 > millis(open.open_until) + 200
    })
    .await;
    let state = async || raw.get::<String>(&["HGET", "circuit_breaker:due", "state"]).await;
    assert_eq!(state().await, "OPEN");
    on.restore().await;
    eventually("it is on trial", SOON, async || state().await == "HALF_OPEN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_in_an_outage_tells_what_memory_knows_and_then_what_all_share() {
    let Outage { on, here, there, _there } = outage().await;
    there.trip("shared", MINUTE).await;
    on.lose().await;
    here.tell_all("local", &[Failure; 20]).await;
    let watchers = [Watcher::open(&here, all()).await, Watcher::open(&here, keys(["shared", "local"])).await];
    for watcher in &watchers {
        watcher.synced().await;
        let told = watcher.told();
        assert!(told.iter().all(|(_, authority)| *authority == Authority::Local), "{told:#?}");
        let told = snapshots(&told);
        assert!(told.iter().any(|one| one.model_key == "local" && one.state() == State::Open), "{told:#?}");
    }
    on.restore().await;
    for watcher in &watchers {
        watcher.serves(ServingMode::Shared, 1).await;
        watcher.agrees(&there, &["shared".to_owned()]).await;
        assert_eq!(resyncs_of(&watcher.told(), "shared").len(), 1, "{:#?}", watcher.told());
    }
    there.reset("shared").await;
    for watcher in &watchers {
        watcher.changes("shared", 1).await;
        watcher.assert_gap_free();
    }
}

/// Memory does not know what became of it: that must not pass for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_goes_on_in_an_outage_is_not_told_that_a_breaker_is_no_more() {
    let Outage { on, here, there, _there } = outage().await;
    let was = there.trip("resumed", MINUTE).await;
    on.lose().await;
    let named = from("resumed", &was.epoch, was.generation);
    let whole = WatchBreakersRequest { model_keys: vec![], ..named.clone() };
    let watchers = [Watcher::open(&here, named).await, Watcher::open(&here, whole).await];
    for watcher in &watchers {
        watcher.synced().await;
    }
    there.reset("resumed").await;
    on.restore().await;
    for watcher in &watchers {
        watcher.serves(ServingMode::Shared, 1).await;
        watcher
            .until("it is told as it is", |told| {
                resyncs_of(told, "resumed").iter().any(|one| one.epoch == was.epoch)
            })
            .await;
        assert_eq!(Watcher::removals(&watcher.told(), "resumed"), 0, "{:#?}", watcher.told());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_goes_on_in_an_outage_is_told_of_what_was_deleted_once_redis_says_so() {
    let Outage { on, here, there, _there } = outage().await;
    let was = there.trip("deleted", MINUTE).await;
    on.lose().await;
    there.delete("deleted").await;
    let watcher = Watcher::open(&here, from("deleted", &was.epoch, was.generation)).await;
    watcher.synced().await;
    on.restore().await;
    watcher.serves(ServingMode::Shared, 1).await;
    let removed = watcher.removed("deleted").await;
    assert_eq!((removed.epoch, removed.generation), (was.epoch, 1));
    let told = since(&watcher.told(), ServingMode::Shared);
    assert_eq!(Watcher::removals(&told, "deleted"), 1, "{:#?}", watcher.told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_to_be_no_more_is_not_told_again_after_an_outage() {
    let Outage { on, here, there, _there } = outage().await;
    let was = there.trip("gone", MINUTE).await;
    there.delete("gone").await;
    let watcher = Watcher::open(&here, from("gone", &was.epoch, was.generation)).await;
    watcher.removed("gone").await;
    watcher.synced().await;
    on.lose().await;
    watcher.serves(ServingMode::Degraded, 1).await;
    on.restore().await;
    watcher.serves(ServingMode::Shared, 1).await;
    there.trip("gone", MINUTE).await;
    watcher.agrees(&there, &["gone".to_owned()]).await;
    assert_eq!(Watcher::removals(&watcher.told(), "gone"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_before_all_was_told_leaves_nothing_out() {
    let Outage { on, here, there, _there } = outage().await;
    for n in 0..150 {
        there.trip(&format!("many-{n}"), MINUTE).await;
    }
    for round in 0..3 {
        on.proxy.delay(Duration::from_millis(10 * round)).await;
        let watcher = Watcher::open(&here, beginning("many-")).await;
        watcher.within(SOON, "some are told", |told| snapshots(told).len() > 20).await;
        on.lose().await;
        watcher.serves(ServingMode::Degraded, 1).await;
        on.restore().await;
        watcher.synced().await;
        let names: Vec<_> = (0..150).map(|n| format!("many-{n}")).collect();
        watcher.agrees(&there, &names).await;
    }
}
