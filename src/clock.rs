//! Time as a value: milliseconds since the epoch, and the clocks that tell it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A moment in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment and `duration` more, at most the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }
}

/// Tells the time. Domain code never asks; stores and shells pass the answer in.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// This process's clock: the wall time at the first call, moved on by the machine's monotonic clock.
///
/// The clock never goes back, whatever happens to the wall time. It follows the wall time forwards where that is more
/// than [`MOST_BEHIND`] ahead: the machine was suspended, or learned the right time late.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one home of the system's clocks")]
    fn now(&self) -> Timestamp {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        static ANCHOR: Anchor = Anchor::new();
        let start = *START;
        // The wall time first: a pause between the two readings must not look like a wall time that is ahead.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ANCHOR.now(Timestamp::default().plus(wall), start.elapsed())
    }
}

/// How far [`SystemClock`] may be behind the wall time.
pub const MOST_BEHIND: Duration = Duration::from_secs(1);

/// The wall time at which the monotonic clock stood at zero, in milliseconds. It only grows.
#[derive(Debug)]
struct Anchor(AtomicI64);

impl Anchor {
    /// An anchor that the first reading sets.
    const fn new() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    /// The present moment, given what the wall clock and then the monotonic clock said.
    fn now(&self, wall: Timestamp, elapsed: Duration) -> Timestamp {
        let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let zero = Timestamp(wall.0.saturating_sub(elapsed));
        if zero > self.zero().plus(MOST_BEHIND) {
            self.0.fetch_max(zero.0, Ordering::SeqCst);
        }
        Timestamp(self.zero().0.saturating_add(elapsed))
    }

    fn zero(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// A clock that only moves when told to; for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_millis()))
    }

    /// Puts the clock to a moment, also an earlier one.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// A new unique id (a ULID): sorts by time, 26 characters of Crockford's base32.
pub fn fresh_id<C: Clock + ?Sized>(clock: &C) -> String {
    fresh_id_at(clock.now())
}

/// As [`fresh_id`], for who knows what time it is.
pub fn fresh_id_at(now: Timestamp) -> String {
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    ulid::Ulid::from_parts(millis, rand::random()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A clock whose first reading was this wall time, with the monotonic clock at five seconds.
    fn anchored(wall: Timestamp) -> Anchor {
        let anchor = Anchor::new();
        assert_eq!(anchor.now(wall, 5 * SECOND), wall);
        anchor
    }

    #[test]
    fn the_monotonic_clock_moves_the_time_on() {
        let anchor = anchored(at(100_000));
        assert_eq!(anchor.now(at(107_000), 12 * SECOND), at(107_000));
        assert_eq!(anchor.now(at(107_900), 12 * SECOND), at(107_000), "a wall clock that runs fast");
    }

    #[test]
    fn a_wall_time_that_steps_back_changes_nothing() {
        let anchor = anchored(at(100_000));
        assert_eq!(anchor.now(at(-3_500_000), 6 * SECOND), at(101_000));
        assert_eq!(anchor.now(at(-3_499_000), 7 * SECOND), at(102_000));
        // Back again where it was: there is nothing to make up for.
        assert_eq!(anchor.now(at(103_000), 8 * SECOND), at(103_000));
    }

    #[test]
    fn a_wall_time_that_is_more_than_a_second_ahead_is_followed_for_good() {
        let anchor = anchored(at(100_000));
        assert_eq!(anchor.now(at(102_000), 6 * SECOND), at(101_000), "one second ahead");
        assert_eq!(anchor.now(at(102_001), 6 * SECOND), at(102_001));
        assert_eq!(anchor.now(at(3_702_001), 6 * SECOND), at(3_702_001), "an hour of suspension");
        assert_eq!(anchor.now(at(103_000), 7 * SECOND), at(3_703_001));
    }

    #[test]
    fn the_clock_of_the_process_is_near_the_wall_time() {
        #[expect(clippy::disallowed_methods, reason = "the test compares with the system's clock")]
        let wall = || Timestamp::default().plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let earlier = wall();
        let now = SystemClock.now();
        assert!(now.plus(MOST_BEHIND) >= earlier, "{now:?} is behind {earlier:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the wall clock says, time never goes back and is never more than a second behind it.
        #[test]
        fn time_never_goes_back(readings in prop::collection::vec((-9000_i64..9000, 0_u64..3000), 1..40)) {
            let (anchor, mut elapsed, mut before) = (Anchor::new(), Duration::ZERO, at(i64::MIN));
            for (wall, passed) in readings {
                elapsed += Duration::from_millis(passed);
                let now = anchor.now(at(wall), elapsed);
                prop_assert!(now >= before && now.plus(MOST_BEHIND) >= at(wall));
                prop_assert!(now.since(before) >= Duration::from_millis(passed) || before == at(i64::MIN));
                before = now;
            }
        }
    }
}
