//! What memory adopts from a shared store in an outage, and the trips that it tells of.

use super::*;
use crate::breakers::{
    Mode::{Disabled, ForcedOpen, MetricsOnly},
    ModeOverride, Snapshot,
    keeper::LastView,
    policy::Trip,
};

fn last(snapshot: Snapshot) -> LastView {
    LastView { at: START, snapshot: Arc::new(snapshot) }
}

/// A breaker that entered this state 5 s ago.
fn shared(state: State) -> Snapshot {
    let position = Position { epoch: "shared".into(), generation: 7 };
    let counts = counts(9, 5, 0, 5);
    Snapshot {
        position,
        fence: 7,
        fence_before: 6,
        state,
        since: after(-5000),
        open_until: (state == State::Open).then(|| after(25_000)),
        attempts: 2,
        before: counts,
        ..Snapshot::default()
    }
}

fn overridden_until(mode: Mode, expire_time: Option<Timestamp>) -> Snapshot {
    let (reason, actor) = ("incident 7".into(), "ada".into());
    let mode_override = Some(ModeOverride { reason, actor, set_time: after(-1000), expire_time });
    Snapshot { mode, mode_override, attempts: 0, ..shared(State::Closed) }
}

/// What of a breaker is the same in every store.
fn lasting(snapshot: Snapshot) -> Snapshot {
    Snapshot { position: Position::default(), fence: 0, fence_before: 0, ..snapshot }
}

#[tokio::test]
async fn a_breaker_goes_on_with_the_times_that_it_had() {
    let ends = Some(after(60_000));
    let overrides = [ForcedOpen, Disabled, MetricsOnly].map(|mode| overridden_until(mode, ends));
    for snapshot in [shared(State::Open), shared(State::HalfOpen)].into_iter().chain(overrides) {
        let rig = Rig::new(BreakerSettings::default());
        let view = rig.at(1000).store.adopt(&key("k"), &last(snapshot.clone())).unwrap();
        assert_eq!((view.now, &view), (after(1000), &rig.view().await));
        assert_eq!(view.totals, Totals::default(), "what was counted there is not known");
        assert!(view.snapshot.position.epoch.starts_with("local-"));
        assert!(!view.snapshot.is_current(&snapshot.position));
        assert!(!view.snapshot.is_current(&Position::default()), "nor are permits of one without state");
        assert_eq!(lasting(view.snapshot), lasting(snapshot));
        assert!(rig.is_balanced());
    }
}

#[tokio::test]
async fn what_says_nothing_is_not_kept_nor_is_what_has_expired() {
    let rig = Rig::new(BreakerSettings::default());
    let ended = overridden_until(ForcedOpen, Some(START));
    for snapshot in [shared(State::Closed), ended, Snapshot::default()] {
        rig.store.adopt(&key("k"), &last(snapshot)).unwrap();
    }
    rig.at(25_000 + 24 * 3_600_000 + 1);
    let view = rig.store.adopt(&key("k"), &last(shared(State::Open))).unwrap();
    assert_eq!(view.snapshot, Snapshot::default());
    assert!(rig.store.is_empty());
}

#[tokio::test]
async fn a_full_store_adopts_no_more() {
    let rig = Rig::holding(BreakerSettings::default(), 1);
    rig.store.adopt(&key("k"), &last(shared(State::Open))).unwrap();
    let refused = rig.store.adopt(&key("l"), &last(shared(State::Open)));
    assert!(matches!(refused, Err(Error::StoreFull { .. })));
}

#[tokio::test]
async fn only_what_was_opened_here_is_a_trip() {
    let rig = Rig::new(BreakerSettings::default());
    let open = rig.store.adopt(&key("k"), &last(shared(State::Open))).unwrap().snapshot;
    assert_eq!(rig.store.trips(), []);
    let (reason, begins) = (Reason::Extended, Begins::Nothing);
    let longer = Change { from: State::Open, reason, begins, ..begin(&open.position, State::Open) };
    rig.change(&longer).await;
    assert_eq!(rig.store.trips(), [], "an extension does not open it");
    rig.go(State::HalfOpen).await;
    assert_eq!(rig.store.trips(), []);
    let position = rig.position().await;
    let outcome = Some(Outcome::Overloaded);
    let opened = Change { attempts: 3, outcome, ..begin(&position, State::Open) };
    rig.change(&opened).await;
    let trip = Trip {
        key: key("k"),
        base: Position::default(),
        open_until: after(30_000),
        attempts: 3,
        outcome,
        detail: "why".into(),
    };
    assert_eq!(rig.store.trips().as_slice(), std::slice::from_ref(&trip));
    assert_eq!(rig.at(29_999).store.trips(), [trip]);
    assert_eq!(rig.at(30_000).store.trips(), [], "its time is over");
    rig.at(1000);
    let forced = overridden(&rig.position().await, State::Open, ForcedOpen, None);
    rig.change(&forced).await;
    assert_eq!(rig.store.trips(), [], "an operator decides");
}

#[tokio::test]
async fn a_trip_of_an_outage_before_opens_what_is_not_open() {
    let rig = Rig::new(BreakerSettings::default());
    rig.go(State::Open).await;
    let trip = rig.store.trips().remove(0);
    rig.store.clear();
    let view = rig.at(10_000).store.open_again(&trip).unwrap();
    assert_eq!((view.snapshot.state, view.snapshot.open_until), (State::Open, Some(trip.open_until)));
    assert_eq!(rig.store.trips().as_slice(), std::slice::from_ref(&trip), "and is a trip of this one");
    rig.store.adopt(&key("k"), &last(shared(State::Open))).unwrap();
    rig.store.open_again(&trip).unwrap();
    assert_eq!(rig.store.trips(), []);
}
