//! How long breakers are kept, and which of them go when there are too many.

use super::*;

const DAY: i64 = 24 * 3_600_000;

async fn report(rig: &Rig, name: &str) -> Result<()> {
    let batch = batch("i", 1, vec![group(None, "s")]);
    rig.store.record(&call(), &key(name), &rig.in_force, &batch).await.map(|_| ())
}

async fn change(rig: &Rig, name: &str, change: &Change) -> View {
    done(rig.store.transition(&call(), &key(name), &rig.in_force, change).await).view
}

async fn names(rig: &Rig) -> String {
    assert!(rig.is_balanced());
    rig.listed().await.into_iter().map(|(name, _)| name).collect()
}

fn is_full(result: &Result<()>) -> bool {
    matches!(result, Err(Error::StoreFull { what: "breakers", limit: 2 }))
}

#[tokio::test]
async fn a_state_expires_a_day_after_what_happened_last() {
    let rig = Rig::new(BreakerSettings::default());
    rig.record("i", 1, "s").await;
    rig.at(DAY - 1).record("i", 2, "s").await;
    let first = rig.at(DAY).position().await;
    assert_eq!(rig.at(2 * DAY - 1).position().await, first);
    assert_eq!(rig.at(2 * DAY).position().await, Position::default());
    assert!(rig.is_balanced() && rig.store.is_empty());
    let next = rig.record("i", 1, "f").await;
    assert_eq!(next.view.totals.counts, counts(1, 1, 0, 1));
    assert_ne!(next.view.snapshot.position, first);
}

#[tokio::test]
async fn a_state_outlives_its_open_time_by_a_day_and_reads_do_not_matter() {
    let rig = Rig::new(BreakerSettings::default());
    let long = Some(Duration::from_hours(48));
    rig.change(&Change { open_for: long, ..begin(&Position::default(), State::Open) }).await;
    assert_eq!(rig.at(3 * DAY).view().await.snapshot.state, State::Open);
    assert_eq!(rig.record("i", 1, "f").await.groups, [Disposition::Stale]);
    assert_eq!(rig.at(3 * DAY + 1).position().await, Position::default());
}

#[tokio::test]
async fn an_override_in_force_keeps_a_state() {
    let rig = Rig::new(BreakerSettings::default());
    rig.record("i", 1, "s").await;
    let forced = overridden(&rig.position().await, State::Closed, Mode::ForcedOpen, None);
    let position = rig.change(&forced).await.view.snapshot.position;
    assert_eq!(rig.at(30 * DAY).position().await, position);
    let forced = overridden(&position, State::Closed, Mode::ForcedOpen, Some(60));
    let position = rig.change(&forced).await.view.snapshot.position;
    assert_eq!(rig.at(31 * DAY + 60_000).position().await, position);
    assert!(rig.is_balanced());
    assert_eq!(rig.at(31 * DAY + 60_001).position().await, Position::default());
}

#[tokio::test]
async fn the_breaker_used_least_recently_goes() {
    let rig = Rig::holding(BreakerSettings::default(), 2);
    report(&rig, "a").await.unwrap();
    report(&rig, "b").await.unwrap();
    rig.view_of("a").await;
    rig.view_of("unknown").await;
    report(&rig, "c").await.unwrap();
    assert_eq!(names(&rig).await, "ac");
    change(&rig, "d", &begin(&Position::default(), State::Open)).await;
    assert_eq!(names(&rig).await, "cd");
}

#[tokio::test]
async fn what_says_more_than_a_key_never_seen_does_not_go() {
    let rig = Rig::holding(BreakerSettings::default(), 2);
    assert!(rig.configure("a", "", Some(&BreakerSettings::default())).await);
    let open = change(&rig, "b", &begin(&Position::default(), State::Open)).await.snapshot.position;
    assert!(is_full(&report(&rig, "c").await));
    let refused = rig.store.configure(&call(), &key("c"), "", Some(&BreakerSettings::default())).await;
    assert!(is_full(&refused.map(|_| ())));
    let open_c = begin(&Position::default(), State::Open);
    let refused = rig.store.transition(&call(), &key("c"), &rig.in_force, &open_c).await;
    assert!(is_full(&refused.map(|_| ())));
    // What writes nothing needs no room.
    assert_eq!(rig.view_of("c").await.snapshot.state, State::Closed);
    assert_eq!(names(&rig).await, "b");
    change(&rig, "b", &begin(&open, State::Closed)).await;
    report(&rig, "c").await.unwrap();
    assert_eq!(names(&rig).await, "c");
}

#[tokio::test]
async fn an_expired_breaker_and_one_whose_override_ended_make_room() {
    let rig = Rig::holding(BreakerSettings::default(), 2);
    change(&rig, "a", &begin(&Position::default(), State::Open)).await;
    change(&rig, "b", &overridden(&Position::default(), State::Closed, Mode::Disabled, Some(60))).await;
    assert!(is_full(&report(&rig, "c").await));
    rig.at(60_000);
    report(&rig, "c").await.unwrap();
    assert_eq!(names(&rig).await, "ac");
    change(&rig, "c", &begin(&rig.view_of("c").await.snapshot.position, State::Open)).await;
    assert!(is_full(&report(&rig, "d").await));
    rig.at(DAY + 30_001);
    report(&rig, "d").await.unwrap();
    assert_eq!(names(&rig).await, "cd");
}

#[tokio::test]
async fn an_override_that_is_in_force_again_as_the_clock_went_back_does_not_go() {
    let rig = Rig::holding(BreakerSettings::default(), 2);
    change(&rig, "a", &overridden(&Position::default(), State::Closed, Mode::Disabled, Some(60))).await;
    report(rig.at(60_000), "b").await.unwrap();
    rig.at(0);
    report(&rig, "c").await.unwrap();
    assert_eq!(names(&rig).await, "ac");
}
