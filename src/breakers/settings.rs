//! When a breaker trips and how it recovers.

use std::time::Duration;

use crate::error::Violation;

mod text;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// The longest time that a breaker may be told to wait.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Lengths that a lease may have.
pub const LEASE: (Duration, Duration) = (SECOND, HOUR);

const DEFAULT_MAX_OPEN: Duration = Duration::from_mins(10);
/// The rule of most lengths.
const TIME: &str = "must be whole milliseconds, 1 ms to 7 days";

/// Settings of one breaker. A rule whose number is 0 is off.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerSettings {
    /// Trip after this many failures in a row, at most 1,000,000.
    pub consecutive_failures: u32,
    /// What rates are computed over, and calls counted in. None: since the state began, where no rate rule is on.
    pub window: Option<Window>,
    /// Rates say nothing before this many calls, 1 to 1,000,000.
    pub minimum_calls: u32,
    /// Trip at this share of failures or above, at most 100.
    pub failure_rate_percent: f64,
    /// A longer call is slow.
    pub slow_call_duration: Option<Duration>,
    /// Trip at this share of slow calls or above, at most 100.
    pub slow_rate_percent: f64,
    /// How long the first OPEN lasts, 1 ms to 7 days.
    pub open_duration: Duration,
    /// What each further OPEN in a row is longer by, 1 to 10.
    pub backoff_multiplier: f64,
    /// The longest OPEN by backoff; none: 10 min, at least `open_duration`.
    pub max_open_duration: Option<Duration>,
    /// How much longer or shorter an OPEN may be by chance, at most 50.
    pub jitter_percent: f64,
    /// Trial calls in HALF_OPEN, at most 1,000; 0: straight to CLOSED.
    pub half_open_permits: u32,
    /// After this long in HALF_OPEN it is OPEN again; none: no bound.
    pub half_open_max_wait: Option<Duration>,
    /// How long a permit's lease lasts unless asked otherwise, 1 s to 1 h.
    pub permit_lease: Duration,
    /// What a lease that nobody reported means.
    pub expired_permit: ExpiredPermit,
    /// Whether a provider's wish for a pause opens at once.
    pub honor_retry_after: bool,
    /// The longest pause that a provider is granted.
    pub max_retry_after: Duration,
    /// Distinct instances that must have seen failures, 1 to 1,000.
    pub min_reporters: u32,
    /// Whether it goes HALF_OPEN at `open_until` by itself.
    pub automatic_half_open: bool,
}

/// What rates are computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last so many calls, 1 to 10,000.
    Count(u32),
    /// The last so many whole seconds, the present one included, 1 to 3,600.
    Time(u32),
}

/// What a lease that nobody reported means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpiredPermit {
    /// The slot goes back to the budget.
    #[default]
    Release,
    /// It counts as a failure.
    Failure,
}

impl Default for BreakerSettings {
    /// What holds where nothing is said: no rule, 30 s open, one permit.
    fn default() -> Self {
        Self {
            consecutive_failures: 0,
            window: None,
            minimum_calls: 10,
            failure_rate_percent: 0.0,
            slow_call_duration: None,
            slow_rate_percent: 0.0,
            open_duration: Duration::from_secs(30),
            backoff_multiplier: 1.0,
            max_open_duration: None,
            jitter_percent: 0.0,
            half_open_permits: 1,
            half_open_max_wait: None,
            permit_lease: Duration::from_mins(2),
            expired_permit: ExpiredPermit::Release,
            honor_retry_after: true,
            max_retry_after: Duration::from_mins(10),
            min_reporters: 1,
            automatic_half_open: false,
        }
    }
}

impl BreakerSettings {
    /// What calls are counted in: a rate rule without a window has 60 s.
    pub fn window(&self) -> Option<Window> {
        self.window.or_else(|| self.has_rate_rule().then_some(Window::Time(60)))
    }

    /// Whether failure or slow calls are judged by their share.
    pub fn has_rate_rule(&self) -> bool {
        self.failure_rate_percent > 0.0 || self.slow_rate_percent > 0.0
    }

    /// How many calls rates need: a count window that holds fewer is full before.
    pub fn quorum(&self) -> u32 {
        match self.window() {
            Some(Window::Count(size)) => self.minimum_calls.min(size),
            Some(Window::Time(_)) | None => self.minimum_calls,
        }
    }

    /// The longest OPEN by backoff.
    pub fn max_open_duration(&self) -> Duration {
        self.max_open_duration.unwrap_or_else(|| DEFAULT_MAX_OPEN.max(self.open_duration))
    }

    /// Whether a call that took so long is slow.
    pub fn is_slow(&self, duration: Option<Duration>) -> bool {
        duration.zip(self.slow_call_duration).is_some_and(|(took, threshold)| took > threshold)
    }

    /// Every rule that these settings break; fields are named as in the contract.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut check = |field: &str, holds: bool, reason: &str| {
            if !holds {
                found.push(Violation::new(field, reason));
            }
        };
        let percent = |value: f64, most: f64| (0.0..=most).contains(&value);
        let time = |length: Duration| {
            (Duration::from_millis(1)..=LONGEST).contains(&length) && is_whole_millis(length)
        };
        let lease = (LEASE.0..=LEASE.1).contains(&self.permit_lease) && is_whole_millis(self.permit_lease);
        check("consecutive_failures", self.consecutive_failures <= 1_000_000, "must be 0 to 1000000");
        match self.window {
            Some(Window::Count(size)) => {
                check("count_window", (1..=10_000).contains(&size), "must be 1 to 10000");
            }
            Some(Window::Time(seconds)) => {
                check("time_window", (1..=3600).contains(&seconds), "must be whole seconds, 1 s to 1 h");
            }
            None => {}
        }
        check("minimum_calls", (1..=1_000_000).contains(&self.minimum_calls), "must be 0 to 1000000");
        check("failure_rate_percent", percent(self.failure_rate_percent, 100.0), "must be 0 to 100");
        check("slow_rate_percent", percent(self.slow_rate_percent, 100.0), "must be 0 to 100");
        let has_threshold = self.slow_rate_percent <= 0.0 || self.slow_call_duration.is_some();
        check("slow_call_duration", has_threshold, "is required with slow_rate_percent");
        check("slow_call_duration", self.slow_call_duration.is_none_or(time), TIME);
        check("open_duration", time(self.open_duration), TIME);
        let multiplier = (1.0..=10.0).contains(&self.backoff_multiplier);
        check("backoff_multiplier", multiplier, "must be 0 or 1 to 10");
        check("max_open_duration", self.max_open_duration.is_none_or(time), TIME);
        let covers = self.max_open_duration.is_none_or(|most| most >= self.open_duration);
        check("max_open_duration", covers, "must be at least open_duration");
        check("jitter_percent", percent(self.jitter_percent, 50.0), "must be 0 to 50");
        check("half_open_permits", self.half_open_permits <= 1000, "must be 0 to 1000");
        check("half_open_max_wait", self.half_open_max_wait.is_none_or(time), TIME);
        check("permit_lease", lease, "must be whole milliseconds, 1 s to 1 h");
        check("max_retry_after", time(self.max_retry_after), TIME);
        check("min_reporters", (1..=1000).contains(&self.min_reporters), "must be 0 to 1000");
        found
    }
}

/// Whether nothing of a length is lost in stores, which count in milliseconds.
fn is_whole_millis(length: Duration) -> bool {
    length.subsec_nanos().is_multiple_of(1_000_000)
}
