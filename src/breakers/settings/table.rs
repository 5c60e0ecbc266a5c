//! The table of a breaker's settings. The struct, its defaults and bounds, the text of a setting and the settings on the
//! wire come from these rows, so a new setting is a row here, a field in the contract, and the rule that uses it.

/// Hands every row to the macro `$then`: a setting's name in the contract, type, default, and bounds if it has any.
///
/// `window` is no row: the contract has two names for it, of which one at a time is set.
macro_rules! breaker_settings {
    ($then:ident) => {
        $then! {
            /// Trip after this many failures in a row.
            consecutive_failures: u32 = 0, Allowed(0..=1_000_000_u32, "must be 0 to 1000000");
            /// Rates say nothing before this many calls.
            minimum_calls: u32 = 10, Allowed(1..=1_000_000_u32, "must be 0 to 1000000");
            /// Trip at this share of failures or above.
            failure_rate_percent: f64 = 0.0, Allowed(0.0..=100.0, "must be 0 to 100");
            /// A longer call is slow.
            slow_call_duration: Option<Duration> = None, TIME;
            /// Trip at this share of slow calls or above.
            slow_rate_percent: f64 = 0.0, Allowed(0.0..=100.0, "must be 0 to 100");
            /// How long the first OPEN lasts.
            open_duration: Duration = Duration::from_secs(30), TIME;
            /// The factor by which each further OPEN in a row is longer.
            backoff_multiplier: f64 = 1.0, Allowed(1.0..=10.0, "must be 0 or 1 to 10");
            /// The longest OPEN by backoff; none: 10 min, at least `open_duration`.
            max_open_duration: Option<Duration> = None, TIME;
            /// How much longer or shorter an OPEN may be by chance.
            jitter_percent: f64 = 0.0, Allowed(0.0..=50.0, "must be 0 to 50");
            /// Trial calls in HALF_OPEN; 0: straight to CLOSED.
            half_open_permits: u32 = 1, Allowed(0..=1000_u32, "must be 0 to 1000");
            /// After this long in HALF_OPEN the breaker is OPEN again; none: no bound.
            half_open_max_wait: Option<Duration> = None, TIME;
            /// How long a permit's lease lasts unless the caller asks for another length.
            permit_lease: Duration = Duration::from_mins(2), Allowed(LEASE, "must be whole milliseconds, 1 s to 1 h");
            /// How a lease counts that nobody reported.
            expired_permit: ExpiredPermit = ExpiredPermit::Release;
            /// Whether the breaker opens at once when a provider asks for a pause.
            honor_retry_after: bool = true;
            /// The longest pause that a provider is granted.
            max_retry_after: Duration = Duration::from_mins(10), TIME;
            /// Distinct instances that must have seen failures.
            min_reporters: u32 = 1, Allowed(1..=1000_u32, "must be 0 to 1000");
            /// Whether the breaker goes HALF_OPEN at `open_until` by itself.
            automatic_half_open: bool = false;
        }
    };
}
pub(crate) use breaker_settings;
