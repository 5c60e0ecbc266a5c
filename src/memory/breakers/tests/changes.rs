//! Changes: who wins, what they leave, and what the log keeps.

use super::*;

#[tokio::test]
async fn one_of_two_changes_of_the_same_place_wins() {
    let rig = Rig::new(BreakerSettings::default());
    let created = rig.record("i", 1, "ff").await.view.snapshot.position;
    // The key has a state by now: its absence is not where it stands.
    assert!(!rig.change(&begin(&Position::default(), State::Open)).await.won);
    let changed = rig.at(1000).change(&begin(&created, State::Open)).await;
    assert!(changed.won);
    let lost = rig.change(&begin(&created, State::Open)).await;
    assert!(!lost.won);
    assert_eq!(lost.view, changed.view);
    let snapshot = changed.view.snapshot;
    assert_eq!(snapshot.position, Position { generation: 1, ..created });
    assert_eq!((snapshot.fence, snapshot.fence_before, snapshot.attempts), (1, 0, 1));
    assert_eq!((snapshot.state, snapshot.since), (State::Open, after(1000)));
    assert_eq!((snapshot.open_until, snapshot.last_failure), (Some(after(31_000)), Some(START)));
    assert_eq!((snapshot.before, changed.view.totals), (counts(2, 2, 0, 2), Totals::default()));
    assert_eq!(rig.listed().await, [("k".to_owned(), after(1000))]);
}

#[tokio::test]
async fn a_change_creates_a_key_never_seen() {
    let rig = Rig::new(BreakerSettings::default());
    let foreign = Position { epoch: "E".to_owned(), generation: 0 };
    assert!(!rig.change(&begin(&foreign, State::Open)).await.won);
    assert!(rig.store.is_empty());
    let change = overridden(&Position::default(), State::Closed, Mode::MetricsOnly, None);
    let snapshot = rig.change(&change).await.view.snapshot;
    assert!(snapshot.position.epoch.starts_with("local-"));
    assert_eq!((snapshot.position.generation, snapshot.fence, snapshot.since), (1, 0, START));
}

#[tokio::test]
async fn a_change_that_begins_nothing_keeps_counts_leases_and_what_was_before() {
    let rig = Rig::new(windowed(None));
    rig.record("i", 1, "fs").await;
    rig.go(State::Open).await;
    let position = rig.at(1000).go(State::HalfOpen).await;
    rig.grant("a", 60).await;
    rig.settle(&settlement(&position, "a", Outcome::Failure)).await;
    rig.grant("b", 60).await;
    let before = rig.view().await;
    assert_eq!(before.snapshot.before, Counts::default());
    let change = overridden(&position, State::HalfOpen, Mode::Disabled, Some(60));
    let view = rig.at(2000).change(&change).await.view;
    assert_eq!(view.totals, before.totals);
    assert_eq!((view.snapshot.before, view.snapshot.since), (Counts::default(), after(1000)));
    assert_eq!((view.snapshot.fence, view.snapshot.last_failure), (2, Some(after(1000))));
    let change =
        Change { empties: true, ..overridden(&view.snapshot.position, State::HalfOpen, Automatic, None) };
    let view = rig.change(&change).await.view;
    assert_eq!((view.totals, view.snapshot.fence), (Totals::default(), 2));
    let change = Change { reanchors: true, empties: false, expected: view.snapshot.position, ..change };
    let snapshot = rig.at(-9000).change(&change).await.view.snapshot;
    assert_eq!((snapshot.since, snapshot.last_failure), (after(-9000), Some(after(1000))));
}

#[tokio::test]
async fn an_open_end_stays_while_it_is_open_and_is_moved_on_request() {
    let rig = Rig::new(BreakerSettings::default());
    let open = rig.go(State::Open).await;
    let kept = Change { open_for: None, begins: Begins::Nothing, ..begin(&open, State::Open) };
    let view = rig.at(1000).change(&kept).await.view;
    assert_eq!(view.snapshot.open_until, Some(after(30_000)));
    let moved = Change { open_for: Some(Duration::ZERO), expected: view.snapshot.position, ..kept };
    let view = rig.change(&moved).await.view;
    assert_eq!(view.snapshot.open_until, Some(after(1000)));
    rig.go(State::Closed).await;
    assert_eq!(rig.view().await.snapshot.open_until, None);
    let log = rig.store.log(&call(), &key("k"), 0, 10).await.unwrap();
    let ends: Vec<_> = log.transitions.iter().map(|entry| entry.open_until).collect();
    assert_eq!(ends, [Some(after(30_000)), Some(after(30_000)), Some(after(1000)), None]);
}

#[tokio::test]
async fn an_override_is_kept_until_it_is_replaced_or_ends() {
    let rig = Rig::new(BreakerSettings::default());
    let change = overridden(&Position::default(), State::Closed, Mode::ForcedOpen, Some(60));
    let snapshot = rig.change(&change).await.view.snapshot;
    let set = snapshot.mode_override.clone().unwrap();
    assert_eq!((set.reason.as_str(), set.actor.as_str()), ("why", "ada"));
    assert_eq!((set.set_time, set.expire_time), (START, Some(after(60_000))));
    let tripped = Change { mode: Mode::ForcedOpen, ..begin(&snapshot.position, State::Open) };
    let snapshot = rig.at(1).change(&tripped).await.view.snapshot;
    assert_eq!(snapshot.mode_override, Some(set));
    let forever = overridden(&snapshot.position, State::Open, Mode::Disabled, None);
    let snapshot = rig.change(&forever).await.view.snapshot;
    assert_eq!(snapshot.mode_override.map(|set| (set.set_time, set.expire_time)), Some((after(1), None)));
    let ended = overridden(&snapshot.position, State::Open, Automatic, None);
    assert_eq!(rig.change(&ended).await.view.snapshot.mode_override, None);
}

#[tokio::test]
async fn the_log_keeps_the_last_changes_and_is_read_in_stretches() {
    let rig = Rig::new(BreakerSettings::default());
    let mut position = Position::default();
    for number in 0..1003 {
        let request = Some(format!("r{number}"));
        let change = Change { request, outcome: Some(Outcome::Timeout), ..begin(&position, State::HalfOpen) };
        position = rig.at(number).change(&change).await.view.snapshot.position;
    }
    let log = rig.store.log(&call(), &key("k"), 0, 2).await.unwrap();
    let generations: Vec<_> = log.transitions.iter().map(|entry| entry.position.generation).collect();
    assert_eq!((log.epoch, generations, log.more), (position.epoch.clone(), vec![4, 5], true));
    let log = rig.store.log(&call(), &key("k"), 1001, 2).await.unwrap();
    assert_eq!((log.transitions.len(), log.more), (2, false));
    let log = rig.store.log(&call(), &key("k"), 2000, 2).await.unwrap();
    assert_eq!((log.transitions.len(), log.more), (0, false));
    let (_, history) = done(rig.store.load(&call(), &key("k"), &rig.in_force, true).await);
    let last = history.last.unwrap();
    assert_eq!((&last.position, last.time, last.to), (&position, after(1002), State::HalfOpen));
    assert_eq!((last.instance.as_str(), last.outcome), ("me", Some(Outcome::Timeout)));
    let newest: Vec<_> = (987..1003).rev().map(|number| format!("r{number}")).collect();
    assert_eq!(history.requests, newest);
}
