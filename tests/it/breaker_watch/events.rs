//! What a watch tells: first what is there, then every change in order; on every store, through each service.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, BreakerPosition, Mode,
    Outcome::{Failure, RateLimited, Success},
    ReportRequest, State, TransitionReason, WatchBreakersRequest,
};
use tonic::Code;

use super::watchers;
use crate::support::{
    breakers::{in_a_row, telling},
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    threads::{violated, wire},
    watch::{self, Watcher, all, beginning, is_synced, keys, snapshots},
};

on_every_store_and_on_a_pair!(
    what_is_there_is_told_first_and_then_every_change,
    a_named_key_that_was_never_seen_is_closed,
    a_new_key_is_told_by_its_first_change,
    keys_and_those_that_begin_so_are_told_and_no_others,
    an_override_and_a_longer_pause_are_told,
    a_deleted_breaker_is_told_to_be_no_more,
    every_watcher_is_told_the_same,
    each_event_says_where_it_came_from,
    a_bad_request_is_refused_with_its_fields,
);

const MINUTE: Duration = Duration::from_mins(1);

async fn what_is_there_is_told_first_and_then_every_change(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("whole", in_a_row(2)).await;
    breakers.tell_all("whole", &[Failure]).await;
    breakers.trip("whole-open", MINUTE).await;
    let watchers = watchers(on, &beginning("whole")).await;
    for watcher in &watchers {
        let told = watcher.told();
        let told = snapshots(&told);
        let shown: Vec<_> =
            told.iter().map(|one| (one.model_key.as_str(), one.state(), one.generation)).collect();
        assert_eq!(shown, [("whole", State::Closed, 0), ("whole-open", State::Open, 1)]);
        let [closed, open] = [breakers.get("whole").await, breakers.get("whole-open").await];
        assert_eq!((&told[0].epoch, told[0].failures, told[0].since), (&closed.epoch, 1, closed.since));
        assert_eq!((&told[1].epoch, told[1].open_until), (&open.epoch, open.open_until));
        assert_eq!(watcher.told().iter().position(|(event, _)| is_synced(event)), Some(2));
    }
    breakers.tell_all("whole", &[Failure]).await;
    breakers.trip("whole", Duration::from_millis(1)).await;
    let trial = breakers.ask_until("whole", "it is due", |answer| answer.admitted).await.permit.unwrap();
    breakers.tell(&trial, Success).await;
    breakers.reset("whole-open").await;
    for watcher in &watchers {
        assert_eq!(watcher.changes("whole", 4).await, breakers.history("whole").await, "with all fields");
        assert_eq!(watcher.changes("whole-open", 1).await, breakers.history("whole-open").await[1..]);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn a_named_key_that_was_never_seen_is_closed(on: &Deployment) {
    let breakers = on.breakers();
    let watchers = watchers(on, &keys(["never", "never-too"])).await;
    breakers.trip("never", MINUTE).await;
    for watcher in &watchers {
        let told = snapshots(&watcher.told());
        assert_eq!(told.len(), 2);
        for snapshot in told {
            let stands = (snapshot.state(), snapshot.epoch.as_str(), snapshot.generation, snapshot.since);
            assert_eq!(stands, (State::Closed, "", 0, None));
        }
        watcher.changes("never", 1).await;
        watcher.assert_gap_free();
    }
}

async fn a_new_key_is_told_by_its_first_change(on: &Deployment) {
    let breakers = on.breakers();
    let watchers = watchers(on, &beginning("newly-")).await;
    // That a report makes it is no change.
    breakers.tell_all("newly-made", &[Success]).await;
    breakers.set("newly-made", in_a_row(1)).await;
    breakers.tell_all("newly-made", &[Failure]).await;
    for watcher in &watchers {
        let change = watcher.changes("newly-made", 1).await.remove(0);
        let told = (change.generation, change.from_state(), change.to_state(), change.reason());
        assert_eq!(told, (1, State::Closed, State::Open, TransitionReason::ConsecutiveFailures));
        assert_eq!(watcher.told().len(), 2, "nothing but that and SYNCED: {:?}", watcher.told());
    }
}

async fn keys_and_those_that_begin_so_are_told_and_no_others(on: &Deployment) {
    let breakers = on.breakers();
    let names = ["sel:a:1", "sel:a:2", "sel:b:1", "sel:b:2"];
    for name in names {
        breakers.trip(name, MINUTE).await;
    }
    let chosen = WatchBreakersRequest { prefix: "sel:a:".into(), ..keys(["sel:b:2", "sel:a:1", "sel:b:2"]) };
    for (request, expected) in [
        (keys(["sel:b:1"]), &names[2..3]),
        (beginning("sel:a:"), &names[..2]),
        (chosen, &[names[0], names[1], names[3]][..]),
        (beginning("sel:"), &names[..]),
        (all(), &names[..]),
    ] {
        let mut opened = Vec::new();
        for watcher in watchers(on, &request).await {
            let told = snapshots(&watcher.told());
            // All of them are those of the other cases as well.
            let told: Vec<_> =
                told.iter().map(|one| one.model_key.as_str()).filter(|key| key.starts_with("sel:")).collect();
            assert_eq!(told, expected, "{request:?}");
            opened.push(watcher);
        }
        for name in names {
            breakers.trip(name, 2 * MINUTE).await;
        }
        // What is told of others would have been told before this.
        breakers.trip(expected[0], 3 * MINUTE).await;
        for watcher in opened {
            watcher.changes(expected[0], 2).await;
            for name in names {
                let count = usize::from(expected.contains(&name));
                assert!(watcher.changes(name, count).await.len() <= 2 * count, "{name} of {request:?}");
            }
            assert_eq!(watcher.assert_gap_free().resyncs, []);
        }
    }
}

async fn an_override_and_a_longer_pause_are_told(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("over", in_a_row(2)).await;
    let permit = breakers.permit("over").await;
    let watchers = watchers(on, &keys(["over"])).await;
    breakers.tell_all("over", &[Failure, Failure]).await;
    let late = ReportRequest {
        outcome: RateLimited.into(),
        retry_after: Some(wire(5 * MINUTE)),
        ..telling(&permit, Failure)
    };
    breakers.report(late).await.unwrap();
    breakers.put("over", Mode::Disabled).await;
    breakers.put("over", Mode::Automatic).await;
    for watcher in &watchers {
        let changes = watcher.changes("over", 4).await;
        let told: Vec<_> = changes.iter().map(|one| (one.reason(), one.mode(), one.to_state())).collect();
        let (open, automatic) = (State::Open, Mode::Automatic);
        let expected = [
            (TransitionReason::ConsecutiveFailures, automatic, open),
            (TransitionReason::Extended, automatic, open),
            (TransitionReason::Override, Mode::Disabled, open),
            (TransitionReason::Override, automatic, open),
        ];
        assert_eq!(told, expected);
        assert!(changes[1].open_until.unwrap().seconds > changes[0].open_until.unwrap().seconds + 200);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn a_deleted_breaker_is_told_to_be_no_more(on: &Deployment) {
    let breakers = on.breakers();
    let was = breakers.trip("doomed", MINUTE).await;
    let watchers = watchers(on, &beginning("doomed")).await;
    breakers.delete("doomed").await;
    for watcher in &watchers {
        let removed = watcher.removed("doomed").await;
        assert_eq!((removed.epoch, removed.generation, removed.expired), (was.epoch.clone(), 1, false));
    }
    let again = breakers.trip("doomed", MINUTE).await;
    for watcher in &watchers {
        let changes = watcher.changes("doomed", 1).await;
        assert_eq!((&changes[0].epoch, changes[0].generation), (&again.epoch, 1), "another epoch");
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn every_watcher_is_told_the_same(on: &Deployment) {
    let breakers = on.breakers();
    let mut opened = Vec::new();
    for request in [keys(["same"]), beginning("same"), keys(["same"]), all()] {
        opened.extend(watchers(on, &request).await);
    }
    for _ in 0..10 {
        breakers.trip("same", MINUTE).await;
        breakers.reset("same").await;
    }
    let history = breakers.history("same").await;
    for watcher in opened {
        assert_eq!(watcher.changes("same", 20).await, history);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn each_event_says_where_it_came_from(on: &Deployment) {
    let is_memory = [Store::Memory, Store::PrefixedMemory].contains(&on.store);
    let expected = if is_memory { Authority::Local } else { Authority::Shared };
    let breakers = on.breakers();
    let watchers = watchers(on, &keys(["from"])).await;
    breakers.trip("from", MINUTE).await;
    breakers.delete("from").await;
    for watcher in watchers {
        watcher.removed("from").await;
        assert!(watcher.told().iter().all(|(_, authority)| *authority == expected), "{:?}", watcher.told());
    }
}

async fn a_bad_request_is_refused_with_its_fields(on: &Deployment) {
    let breakers = on.breakers();
    let place = |epoch: &str, generation| BreakerPosition { epoch: epoch.into(), generation };
    let resume = |key: &str, place| WatchBreakersRequest { resume: [(key.into(), place)].into(), ..all() };
    let many = keys((0..1001).map(|n| n.to_string()));
    for (request, field) in [
        (keys(["ok", ""]), "model_keys[1]"),
        (keys(["{x}"]), "model_keys[0]"),
        (many, "model_keys"),
        (beginning("a b"), "prefix"),
        (resume("a b", place("", 0)), r#"resume["a b"]"#),
        (resume("x", place("e", -1)), r#"resume["x"].generation"#),
        (resume("x", place(&"e".repeat(65), 1)), r#"resume["x"].epoch"#),
    ] {
        let status = watch::open(&breakers, request).await.expect_err("the watch is refused");
        assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let whole = Watcher::open(&breakers, keys((0..1000).map(|n| format!("full-{n}")))).await;
    whole.synced().await;
    assert_eq!(whole.assert_gap_free().snapshots, 1000);
}
