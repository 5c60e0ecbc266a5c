//! What windows hold, and what happens to them as time goes and settings change.

use proptest::prelude::*;

use super::*;
use crate::memory::breakers::window::{Held, Share};

#[tokio::test]
async fn without_window_calls_count_since_the_state_began() {
    let rig = Rig::new(windowed(None));
    rig.record("i", 1, "sSfFn").await;
    assert_eq!(rig.at(86_000_000).counts().await, counts(4, 2, 2, 2));
    assert_eq!(rig.record("i", 2, "S").await.view.totals.counts, counts(5, 2, 3, 0));
    let totals = rig.view().await.totals;
    assert_eq!((totals.last_failure, totals.reporters), (Some(START), 0));
}

#[tokio::test]
async fn a_count_window_holds_the_last_calls() {
    let rig = Rig::new(windowed(Some(Window::Count(3))));
    rig.record("i", 1, "Fnfs").await;
    assert_eq!(rig.counts().await, counts(3, 2, 1, 0));
    assert_eq!(rig.record("i", 2, "s").await.view.totals.counts, counts(3, 1, 0, 0));
    assert_eq!(rig.view().await.totals.reporters, 1);
    assert_eq!(rig.record("i", 3, "s").await.view.totals.counts, counts(3, 0, 0, 0));
    assert_eq!(rig.view().await.totals.reporters, 0);
}

#[tokio::test]
async fn a_count_window_that_shrinks_loses_the_oldest() {
    let rig = Rig::new(windowed(Some(Window::Count(5))));
    rig.record("i", 1, "ffsss").await;
    let rig = rig.with(windowed(Some(Window::Count(2))));
    assert_eq!(rig.counts().await, counts(2, 0, 0, 0));
    assert_eq!(rig.record("i", 2, "n").await.view.totals.counts, counts(2, 0, 0, 0));
    let rig = rig.with(windowed(Some(Window::Count(3))));
    assert_eq!(rig.record("i", 3, "ff").await.view.totals.counts, counts(3, 2, 0, 2));
}

#[tokio::test]
async fn a_time_window_ages_by_whole_seconds() {
    let rig = Rig::new(windowed(Some(Window::Time(5))));
    rig.at(900).record("i", 1, "F").await;
    rig.at(1000).record("j", 1, "s").await;
    let totals = rig.at(4999).view().await.totals;
    assert_eq!((totals.counts, totals.reporters), (counts(2, 1, 1, 0), 1));
    // The call at x.900 s is gone 4,100 ms later: its second is the sixth then.
    let totals = rig.at(5000).view().await.totals;
    assert_eq!((totals.counts, totals.reporters), (counts(1, 0, 0, 0), 0));
    assert_eq!(totals.last_failure, Some(after(900)));
    assert_eq!(rig.at(6000).record("i", 2, "f").await.view.totals.counts, counts(1, 1, 0, 1));
}

#[tokio::test]
async fn a_run_does_not_age() {
    let rig = Rig::new(windowed(Some(Window::Time(5))));
    rig.record("i", 1, "ff").await;
    assert_eq!(rig.at(60_000).counts().await, counts(0, 0, 0, 2));
}

#[tokio::test]
async fn another_kind_of_window_begins_empty() {
    let rig = Rig::new(windowed(Some(Window::Time(5))));
    rig.send(&batch(
        "i",
        1,
        vec![Group { pause: Some(pause(60, Outcome::RateLimited)), ..group(None, "ff") }],
    ))
    .await;
    let rig = rig.with(windowed(None));
    let totals = rig.view().await.totals;
    assert_eq!((totals.counts, totals.reporters), (Counts::default(), 0));
    assert_eq!((totals.last_failure, totals.pause.is_some()), (Some(START), true));
    assert_eq!(rig.record("j", 1, "f").await.view.totals.counts, counts(1, 1, 0, 1));
    assert_eq!(rig.view().await.totals.reporters, 1);
    let rig = rig.with(windowed(Some(Window::Time(5))));
    assert_eq!(rig.counts().await, Counts::default());
}

#[tokio::test]
async fn without_window_reporters_are_those_of_the_present_run() {
    let rig = Rig::new(windowed(None));
    rig.record("i", 1, "f").await;
    rig.record("j", 1, "sf").await;
    assert_eq!(rig.view().await.totals.reporters, 1);
    rig.record("i", 2, "f").await;
    assert_eq!(rig.view().await.totals.reporters, 2);
}

#[tokio::test]
async fn a_clock_that_goes_back_takes_a_time_window_along() {
    let rig = Rig::new(windowed(Some(Window::Time(5))));
    rig.record("i", 1, "f").await;
    rig.at(4000).record("j", 1, "fs").await;
    rig.at(7000).record("k", 1, "f").await;
    // The first call had aged out when the clock went back; the others are as if of the present second.
    let before = rig.at(-60_000).view().await.totals;
    assert_eq!((before.counts, before.reporters), (counts(3, 2, 0, 1), 2));
    rig.record("k", 2, "n").await;
    assert_eq!(rig.view().await.totals, before);
    assert_eq!(rig.at(-55_001).counts().await, counts(3, 2, 0, 1));
    let totals = rig.at(-55_000).view().await.totals;
    assert_eq!((totals.counts, totals.reporters), (counts(0, 0, 0, 1), 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Running totals are what a recount of all calls gives, whatever lengths the window has on its way.
    #[test]
    fn running_totals_are_those_of_a_recount(
        steps in prop::collection::vec((0_i64..3000, 0..4_usize), 1..60),
        size in 1..8_u32,
        is_time: bool,
    ) {
        let window = Some(if is_time { Window::Time(size) } else { Window::Count(size) });
        let mut held = Held::default();
        let mut all = Vec::new();
        let mut at = At { now: START, window };
        for (gap, result) in steps {
            at.now = at.now.plus(Duration::from_millis(gap.unsigned_abs()));
            let result = b"sSfF"[result];
            held.fit(at);
            held.add(result, Share::of(result).unwrap(), at);
            all.push((at.second(), result));
            let skip = if is_time { 0 } else { all.len().saturating_sub(size as usize) };
            let inside = all.iter().skip(skip).filter(|(second, _)| !is_time || at.holds(size, *second));
            let results: Vec<u8> = inside.map(|(_, result)| *result).collect();
            let count = |of: &[u8]| i64::try_from(results.iter().filter(|result| of.contains(result)).count()).unwrap();
            let expected = Share { calls: count(b"sSfF"), failures: count(b"fF"), slow: count(b"SF") };
            prop_assert_eq!(held.totals(at), expected);
        }
    }
}
