//! A watch that goes on where another one ended: every missed change, or a word that they are not to be had.

use std::time::Duration;

use fusewire::grpc::proto::{BreakerPosition, Outcome, State, WatchBreakersRequest};

use super::watchers;
use crate::support::{
    breakers::Breakers,
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    watch::{Watcher, all, beginning, changes_of, from, keys, resyncs_of, snapshots},
};

on_every_store_and_on_a_pair!(
    every_missed_change_is_told_from_any_generation,
    what_the_log_does_not_keep_is_a_resync,
    another_epoch_is_a_resync,
    what_was_deleted_meanwhile_is_told,
    a_place_that_was_never_reached_is_a_resync,
    where_nothing_was_missed_nothing_is_told,
    what_is_not_watched_is_not_gone_on_with,
    a_place_that_another_instance_told_a_moment_ago_is_gone_on_from,
    a_breaker_that_was_only_made_meanwhile_is_no_resync,
    whoever_goes_on_while_more_happens_is_told_each_change_once,
);

const MINUTE: Duration = Duration::from_mins(1);

/// Opens and closes a breaker, so many changes in all; its epoch.
async fn changed(breakers: &Breakers, key: &str, times: i64) -> String {
    let mut epoch = String::new();
    for n in 0..times {
        let now = if n % 2 == 0 { breakers.trip(key, MINUTE).await } else { breakers.reset(key).await };
        epoch = now.epoch;
    }
    epoch
}

async fn every_missed_change_is_told_from_any_generation(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "missed", 6).await;
    let mut opened = Vec::new();
    for generation in 0..=6 {
        opened.extend(watchers(on, &from("missed", &epoch, generation)).await);
        let whole = WatchBreakersRequest { model_keys: vec![], ..from("missed", &epoch, generation) };
        opened.extend(watchers(on, &whole).await);
    }
    // Who knew of no epoch yet has missed everything.
    let unborn = watchers(on, &from("missed", "", 0)).await;
    changed(&breakers, "missed", 2).await;
    let history = breakers.history("missed").await;
    let each = 2 * on.services();
    for (n, watcher) in opened.iter().enumerate() {
        let missed = n / each;
        assert_eq!(watcher.changes("missed", 8 - missed).await, history[missed..]);
        let told = snapshots(&watcher.told());
        assert!(told.iter().all(|one| one.model_key != "missed"), "no snapshot: {told:?}");
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
    for watcher in unborn {
        assert_eq!(watcher.changes("missed", 8).await, history);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

/// Checks that the watch began with a resync that tells the breaker as it is, and goes on from there.
async fn assert_resynced(breakers: &Breakers, key: &str, watchers: &[Watcher]) {
    let now = breakers.get(key).await;
    for watcher in watchers {
        let resyncs = resyncs_of(&watcher.told(), key);
        let [resync] = resyncs.as_slice() else { panic!("{:?}", watcher.told()) };
        let told = (&resync.epoch, resync.generation, resync.state(), resync.open_until);
        assert_eq!(told, (&now.epoch, now.generation, now.state(), now.open_until));
        assert_eq!(changes_of(&watcher.told(), key), [], "nothing before it");
    }
    changed(breakers, key, 3).await;
    for watcher in watchers {
        let changes = watcher.changes(key, 3).await;
        assert_eq!(changes[0].generation, now.generation + 1);
        let account = watcher.assert_gap_free();
        assert_eq!((account.resyncs.len(), account.snapshots), (1, 0), "{account:?}");
    }
}

async fn what_the_log_does_not_keep_is_a_resync(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "long", 1005).await;
    for generation in [5, 900] {
        for watcher in watchers(on, &from("long", &epoch, generation)).await {
            let kept = watcher.changes("long", usize::try_from(1005 - generation).unwrap()).await;
            assert_eq!(kept.first().unwrap().generation, generation + 1);
            assert_eq!(watcher.assert_gap_free().resyncs, []);
        }
    }
    let mut opened = watchers(on, &from("long", &epoch, 4)).await;
    opened.extend(watchers(on, &from("long", "", 0)).await);
    assert_resynced(&breakers, "long", &opened).await;
}

async fn another_epoch_is_a_resync(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "again", 3).await;
    breakers.delete("again").await;
    changed(&breakers, "again", 5).await;
    let mut opened = watchers(on, &from("again", &epoch, 3)).await;
    // It has been there in this epoch, and the generation exists in that.
    opened.extend(watchers(on, &from("again", &epoch, 0)).await);
    opened.extend(watchers(on, &from("again", "another", 5)).await);
    assert_resynced(&breakers, "again", &opened).await;
}

async fn what_was_deleted_meanwhile_is_told(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "deleted", 3).await;
    breakers.delete("deleted").await;
    let named = from("deleted", &epoch, 2);
    let whole = WatchBreakersRequest { model_keys: vec![], ..named.clone() };
    for request in [named, whole] {
        for watcher in watchers(on, &request).await {
            let removed = watcher.removed("deleted").await;
            assert_eq!((&removed.epoch, removed.generation, removed.expired), (&epoch, 2, false));
            assert_eq!(watcher.assert_gap_free().resyncs, []);
        }
    }
}

async fn a_place_that_was_never_reached_is_a_resync(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "beyond", 3).await;
    let mut opened = watchers(on, &from("beyond", &epoch, 4)).await;
    opened.extend(watchers(on, &from("beyond", &epoch, i64::MAX)).await);
    assert_resynced(&breakers, "beyond", &opened).await;
}

async fn where_nothing_was_missed_nothing_is_told(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "level", 2).await;
    for watcher in watchers(on, &from("level", &epoch, 2)).await {
        assert_eq!(watcher.told().len(), 1, "SYNCED: {:?}", watcher.told());
    }
    for watcher in watchers(on, &from("level-never", "", 0)).await {
        assert_eq!(watcher.told().len(), 1, "SYNCED: {:?}", watcher.told());
    }
}

async fn what_is_not_watched_is_not_gone_on_with(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "outside", 2).await;
    let place = BreakerPosition { epoch, generation: 1 };
    for request in [keys(["inside"]), beginning("inside"), all()] {
        let is_all = request == all();
        let request = WatchBreakersRequest { resume: [("outside".into(), place.clone())].into(), ..request };
        for watcher in watchers(on, &request).await {
            let changes = changes_of(&watcher.told(), "outside");
            assert_eq!(changes.len(), usize::from(is_all), "{request:?}");
        }
    }
    assert_eq!(breakers.get("outside").await.state(), State::Closed);
}

async fn a_place_that_another_instance_told_a_moment_ago_is_gone_on_from(on: &Deployment) {
    let breakers = on.breakers();
    // All of them follow it, so that each has something older to tell.
    let followed = watchers(on, &keys(["fresh"])).await;
    for _ in 0..20 {
        let now = breakers.trip("fresh", MINUTE).await;
        for watcher in watchers(on, &from("fresh", &now.epoch, now.generation)).await {
            assert_eq!(watcher.told().len(), 1, "SYNCED: {:?}", watcher.told());
        }
    }
    for watcher in followed {
        watcher.changes("fresh", 20).await;
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn a_breaker_that_was_only_made_meanwhile_is_no_resync(on: &Deployment) {
    let breakers = on.breakers();
    breakers.tell_all("made", &[Outcome::Success]).await;
    let opened = watchers(on, &from("made", "", 0)).await;
    for watcher in &opened {
        assert_eq!(watcher.told().len(), 1, "SYNCED: {:?}", watcher.told());
    }
    breakers.trip("made", MINUTE).await;
    for watcher in opened {
        watcher.changes("made", 1).await;
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn whoever_goes_on_while_more_happens_is_told_each_change_once(on: &Deployment) {
    let breakers = on.breakers();
    let epoch = changed(&breakers, "going-on", 1).await;
    let goes_on = async {
        let mut opened = Vec::new();
        for _ in 0..10 {
            let now = breakers.get("going-on").await.generation;
            for place in [1, now] {
                let watchers = watchers(on, &from("going-on", &epoch, place)).await;
                opened.extend(watchers.into_iter().map(|watcher| (place, watcher)));
            }
        }
        opened
    };
    let (_, opened) = tokio::join!(changed(&breakers, "going-on", 200), goes_on);
    for (place, watcher) in opened {
        watcher.changes("going-on", usize::try_from(201 - place).unwrap()).await;
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_more_than_this_instance_has_seen_is_not_led_back() {
    let on = Deployment::start(Store::Pair).await;
    let (here, there) = (on.breakers().only(0), on.breakers().only(1));
    let epoch = here.trip("ahead", MINUTE).await.epoch;
    // What one service knows stays as it is for a moment: nothing tells it of the next change.
    let behind = Watcher::open(&there, keys(["ahead"])).await;
    behind.synced().await;
    on.raw().await.run(&["CONFIG", "SET", "notify-keyspace-events", ""]).await;
    here.reset("ahead").await;
    let ahead = Watcher::open(&there, from("ahead", &epoch, 2)).await;
    ahead.synced().await;
    assert_eq!(resyncs_of(&ahead.told(), "ahead"), []);
    here.trip("ahead", MINUTE).await;
    assert_eq!(ahead.changes("ahead", 1).await, here.history("ahead").await[2..]);
    assert_eq!(ahead.assert_gap_free().resyncs, []);
}
