//! Batches of reports: what counts, what creates, and what a repeat is told.

use super::*;
use crate::breakers::Disposition::{Applied, Neutral, Stale};

#[tokio::test]
async fn the_first_report_creates_a_closed_breaker_of_an_own_epoch() {
    let rig = Rig::new(BreakerSettings::default());
    let recorded = rig.record("i", 1, "n").await;
    assert_eq!((recorded.groups, recorded.longest_run), (vec![Applied], 0));
    let snapshot = recorded.view.snapshot;
    assert!(snapshot.position.epoch.starts_with("local-") && snapshot.position.epoch.len() == 32);
    assert_eq!((snapshot.position.generation, snapshot.fence, snapshot.since), (0, 0, START));
    assert_eq!(rig.listed().await, [("k".to_owned(), START)]);
    assert_eq!(rig.store.load(&call(), &key("k"), &rig.in_force, true).await.unwrap(), {
        Attempt::Done((rig.view().await, History::default()))
    });
}

#[tokio::test]
async fn stale_reports_create_nothing() {
    let rig = Rig::new(BreakerSettings::default());
    let foreign = Position { epoch: "E".to_owned(), generation: 0 };
    let later = Position { epoch: String::new(), generation: 1 };
    let stale = vec![group(Some(&foreign), "f"), group(Some(&later), "f")];
    let recorded = rig.send(&batch("i", 1, stale.clone())).await;
    assert_eq!((recorded.groups, recorded.longest_run), (vec![Stale, Stale], 0));
    assert!(rig.store.is_empty());
    let mut mixed = stale;
    mixed.push(group(Some(&Position::default()), "ff"));
    let recorded = rig.send(&batch("i", 1, mixed)).await;
    assert_eq!((recorded.groups, recorded.longest_run), (vec![Stale, Stale, Applied], 2));
    assert_eq!(recorded.view.totals.counts, counts(2, 2, 0, 2));
}

#[tokio::test]
async fn a_repeated_batch_counts_once_also_after_a_change() {
    let rig = Rig::new(BreakerSettings::default());
    rig.record("i", 1, "f").await;
    let first = rig.record("i", 2, "ffsf").await;
    assert_eq!((first.longest_run, first.view.totals.counts), (3, counts(5, 4, 0, 1)));
    assert_eq!(rig.record("i", 2, "ffsf").await, first);
    assert_eq!(rig.record("i", 1, "f").await.longest_run, 3);
    assert_eq!(rig.record("j", 1, "s").await.longest_run, 0);
    for state in [State::Open, State::Closed] {
        rig.go(state).await;
        // It did count, whatever has happened since.
        let repeated = rig.record("i", 2, "ffsf").await;
        assert_eq!((repeated.groups, repeated.longest_run), (vec![Applied], 3));
        assert_eq!(repeated.view.totals, Totals::default());
    }
    assert_eq!(rig.record("i", 3, "f").await.view.totals.counts, counts(1, 1, 0, 1));
}

#[tokio::test]
async fn a_batch_that_counts_nothing_is_not_remembered() {
    let rig = Rig::new(BreakerSettings::default());
    rig.record("i", 1, "s").await;
    rig.go(State::Open).await;
    assert_eq!(rig.record("i", 5, "f").await.groups, [Stale]);
    rig.go(State::Closed).await;
    assert_eq!(rig.record("i", 2, "f").await.view.totals.counts, counts(1, 1, 0, 1));
}

#[tokio::test]
async fn reports_of_before_the_fence_or_another_epoch_are_stale() {
    let rig = Rig::new(BreakerSettings::default());
    let created = rig.record("i", 1, "s").await.view.snapshot.position;
    // Whoever read the key before it was created is as current as the one who created it.
    let groups = vec![group(Some(&Position::default()), "f"), group(Some(&created), "f")];
    assert_eq!(rig.send(&batch("i", 2, groups)).await.groups, [Applied, Applied]);
    rig.go(State::Open).await;
    let closed = rig.go(State::Closed).await;
    let next = rig.change(&Change { begins: Begins::Nothing, ..begin(&closed, State::Closed) }).await;
    let next = next.view.snapshot.position;
    assert_eq!(next.generation, 3);
    let future = Position { generation: 4, ..next.clone() };
    let before = Position { generation: 1, ..next.clone() };
    let foreign = Position { epoch: "E".to_owned(), ..next.clone() };
    let places = [&next, &closed, &future, &before, &foreign, &created, &Position::default()];
    let groups = places.iter().map(|place| group(Some(place), "f")).collect();
    let recorded = rig.send(&batch("i", 3, groups)).await;
    assert_eq!(recorded.groups, [Applied, Applied, Stale, Stale, Stale, Stale, Stale]);
    assert_eq!(recorded.view.totals.counts.calls, 2);
}

#[tokio::test]
async fn modes_say_what_is_recorded_until_their_override_ends() {
    let rig = Rig::new(BreakerSettings::default());
    let open = rig.go(State::Open).await;
    let forced = rig.change(&overridden(&open, State::Open, Mode::ForcedOpen, Some(10))).await.view;
    assert_eq!(forced.snapshot.position.generation, 2);
    let groups = vec![group(None, "f"), group(Some(&open), "f"), group(Some(&Position::default()), "f")];
    assert_eq!(rig.send(&batch("i", 1, groups.clone())).await.groups, [Neutral, Neutral, Stale]);
    assert_eq!(rig.counts().await, Counts::default());
    let metrics = overridden(&forced.snapshot.position, State::Open, Mode::MetricsOnly, Some(10));
    rig.change(&metrics).await;
    let recorded = rig.send(&batch("i", 1, groups.clone())).await;
    assert_eq!((recorded.groups, recorded.longest_run), (vec![Applied, Applied, Stale], 2));
    // Nothing counts before the change that says so.
    let recorded = rig.at(10_000).send(&batch("i", 2, groups)).await;
    assert_eq!((recorded.groups, recorded.longest_run), (vec![], 0));
    assert_eq!(recorded.view.snapshot.mode, Mode::MetricsOnly);
}

#[tokio::test]
async fn the_later_pause_holds_until_it_is_over() {
    let rig = Rig::new(BreakerSettings::default());
    let wished = |seconds, outcome| Group { pause: Some(pause(seconds, outcome)), ..group(None, "f") };
    let groups = vec![wished(20, Outcome::Overloaded), wished(5, Outcome::RateLimited)];
    let pause = rig.send(&batch("i", 1, groups)).await.view.totals.pause.unwrap();
    assert_eq!((pause.until, pause.outcome), (after(20_000), Outcome::Overloaded));
    let groups = vec![wished(15, Outcome::QuotaExhausted)];
    let pause = rig.at(10_000).send(&batch("i", 2, groups)).await.view.totals.pause.unwrap();
    assert_eq!((pause.until, pause.outcome), (after(25_000), Outcome::QuotaExhausted));
    assert!(rig.at(24_999).view().await.totals.pause.is_some());
    assert_eq!(rig.at(25_000).view().await.totals.pause, None);
}

#[tokio::test]
async fn silent_instances_are_forgotten_when_a_new_one_appears() {
    let rig = Rig::new(windowed(None));
    rig.record("i", 1, "f").await;
    rig.at(1).record("j", 1, "f").await;
    rig.at(3_600_000).record("j", 2, "f").await;
    assert_eq!(rig.record("i", 1, "f").await.view.totals.counts.calls, 3);
    assert_eq!(rig.record("l", 1, "f").await.view.totals.reporters, 2);
    assert_eq!(rig.record("i", 1, "f").await.view.totals.counts.calls, 5);
}
