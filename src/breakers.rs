//! Circuit breakers: the vocabulary, and what a store must offer. `policy` decides, `engine` asks and tells.
//!
//! A breaker guards one model. It is CLOSED while calls pass and are counted, OPEN while they are rejected, and
//! HALF_OPEN while a budget of trial calls passes. Its history is a row of generations within an epoch, one a change.

use std::time::Duration;

use crate::clock::Timestamp;

pub mod engine;
mod history;
pub mod keeper;
mod keepers;
pub mod key;
pub mod operations;
pub mod policies;
pub mod policy;
pub mod settings;
pub mod store;
pub mod watch;

pub use engine::Engine;
pub use history::{History, Log, Transition};
pub use key::ModelKey;
pub use operations::Breakers;
pub use policies::Policies;
pub use settings::{BreakerSettings, ExpiredPermit, Window};
pub use store::BreakerStore;

/// Defines an enum whose values have names: so they are stored, logged and called in the contract, in its order.
macro_rules! named {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value's name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of a name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
use named;

named! {
    /// State of a breaker.
    #[derive(Default)]
    pub enum State {
        /// Calls pass and are counted.
        #[default]
        Closed = "CLOSED",
        /// Calls are rejected until `open_until`.
        Open = "OPEN",
        /// A budget of trial calls passes.
        HalfOpen = "HALF_OPEN",
    }
}

named! {
    /// Who decides.
    #[derive(Default)]
    pub enum Mode {
        /// The state machine.
        #[default]
        Automatic = "AUTOMATIC",
        /// An operator: every call is rejected, nothing is recorded.
        ForcedOpen = "FORCED_OPEN",
        /// An operator: every call passes, nothing is recorded.
        Disabled = "DISABLED",
        /// An operator: every call passes and is recorded; the breaker never opens.
        MetricsOnly = "METRICS_ONLY",
    }
}

named! {
    /// How a call went.
    pub enum Outcome {
        /// It succeeded.
        Success = "SUCCESS",
        /// It failed for a reason not named below.
        Failure = "FAILURE",
        /// It took too long.
        Timeout = "TIMEOUT",
        /// Too many requests.
        RateLimited = "RATE_LIMITED",
        /// The provider is overloaded.
        Overloaded = "OVERLOADED",
        /// The account's quota or money is used up.
        QuotaExhausted = "QUOTA_EXHAUSTED",
        /// Credentials were refused.
        Unauthenticated = "UNAUTHENTICATED",
        /// The caller gave up. Neutral.
        Cancelled = "CANCELLED",
        /// The request was at fault. Neutral.
        InvalidRequest = "INVALID_REQUEST",
    }
}

impl Outcome {
    /// Whether it says nothing about the model.
    pub fn is_neutral(self) -> bool {
        matches!(self, Self::Cancelled | Self::InvalidRequest)
    }

    /// Whether it counts against the model.
    pub fn is_failure(self) -> bool {
        self != Self::Success && !self.is_neutral()
    }

    /// Whether a `retry_after` that comes with it is the provider's wish for a pause.
    pub fn asks_for_pause(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::QuotaExhausted)
    }

    /// What an HTTP status says, for callers that know no more; `status` is 100 to 599.
    pub fn of_http_status(status: i32) -> Self {
        match status {
            200..=299 => Self::Success,
            401 | 403 => Self::Unauthenticated,
            402 => Self::QuotaExhausted,
            408 | 504 => Self::Timeout,
            429 => Self::RateLimited,
            499 => Self::Cancelled,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::InvalidRequest,
            _ => Self::Failure,
        }
    }
}

named! {
    /// Why a breaker changed.
    pub enum Reason {
        /// `consecutive_failures` was reached.
        ConsecutiveFailures = "CONSECUTIVE_FAILURES",
        /// `failure_rate_percent` was reached.
        FailureRate = "FAILURE_RATE",
        /// `slow_rate_percent` was reached.
        SlowRate = "SLOW_RATE",
        /// The provider asked for a pause.
        RetryAfter = "RETRY_AFTER",
        /// The open time passed.
        OpenElapsed = "OPEN_ELAPSED",
        /// The trial calls succeeded.
        TrialPassed = "TRIAL_PASSED",
        /// The trial calls failed.
        TrialFailed = "TRIAL_FAILED",
        /// `half_open_max_wait` passed.
        TrialTimedOut = "TRIAL_TIMED_OUT",
        /// An operator opened it.
        Tripped = "TRIPPED",
        /// An operator closed it.
        Reset = "RESET",
        /// An operator overrode it, or an override ended.
        Override = "OVERRIDE",
        /// Somebody changed the stored state by hand.
        External = "EXTERNAL",
        /// A local trip was taken over after an outage of Redis.
        Reconciled = "RECONCILED",
        /// `open_until` moved.
        Extended = "EXTENDED",
    }
}

named! {
    /// Why a call was not admitted.
    pub enum RejectionReason {
        /// OPEN and not due.
        Open = "OPEN",
        /// HALF_OPEN and every permit is taken.
        NoPermitLeft = "NO_PERMIT_LEFT",
        /// Forced open by an operator.
        ForcedOpen = "FORCED_OPEN",
    }
}

named! {
    /// What a report did.
    pub enum Disposition {
        /// It was counted.
        Applied = "APPLIED",
        /// It was not counted; a leased permit went back to the budget.
        Neutral = "NEUTRAL",
        /// Its permit is of an older generation or another epoch, or its lease is gone.
        Stale = "STALE",
    }
}

/// A place in a breaker's history, as a permit carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Position {
    /// The incarnation; empty for a key without stored state.
    pub epoch: String,
    /// Changes since the epoch began.
    pub generation: i64,
}

/// Leave to make one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// What may be called.
    pub key: ModelKey,
    /// Where the breaker stood.
    pub position: Position,
    /// Set when it was given in HALF_OPEN.
    pub lease: Option<Lease>,
}

/// A trial permit's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Unique in the generation.
    pub id: String,
    /// When it ends, by the store's clock; not known of a permit that a caller hands back.
    pub expire_time: Option<Timestamp>,
    /// How long it lasts from its answer on.
    pub length: Duration,
}

/// An operator's override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeOverride {
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// When it was set.
    pub set_time: Timestamp,
    /// When it ends; none: until changed.
    pub expire_time: Option<Timestamp>,
}

/// A breaker's stored state: what the last change left. The default is that of a key never seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Where it stands in its history.
    pub position: Position,
    /// The generation at which the present state began: permits of earlier ones are stale.
    pub fence: i64,
    /// The fence of the state before; permits from it up to `fence` led to this state.
    pub fence_before: i64,
    /// The state.
    pub state: State,
    /// Who decides. An override that has ended may still stand here until the next write.
    pub mode: Mode,
    /// When the present state began.
    pub since: Timestamp,
    /// Set while OPEN.
    pub open_until: Option<Timestamp>,
    /// Times opened since it was last CLOSED.
    pub attempts: u32,
    /// Set while the mode is not AUTOMATIC.
    pub mode_override: Option<ModeOverride>,
    /// What was counted when the last change happened.
    pub before: Counts,
    /// When the last failure before the last change happened; none: never.
    pub last_failure: Option<Timestamp>,
}

impl Snapshot {
    /// Who decides at a moment: an override that has ended decides no more.
    pub fn mode_at(&self, now: Timestamp) -> Mode {
        let end = self.mode_override.as_ref().and_then(|stands| stands.expire_time);
        if end.is_some_and(|end| now >= end) { Mode::Automatic } else { self.mode }
    }

    /// Whether a permit of this position is not stale. One that was given before the key had stored state stays current
    /// while nothing has changed.
    pub fn is_current(&self, position: &Position) -> bool {
        let is_first = |position: &Position| position.generation == 0;
        let is_unborn = position.epoch.is_empty() && is_first(position) && is_first(&self.position);
        let is_here = position.epoch == self.position.epoch
            && (self.fence..=self.position.generation).contains(&position.generation);
        is_unborn || is_here
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls in the window.
    pub calls: i64,
    /// Of these, failed.
    pub failures: i64,
    /// Of these, slow.
    pub slow: i64,
    /// Failures in a row, up to now.
    pub run: i64,
}

/// What is counted since the present state began, within its window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Calls, failures, slow calls. In HALF_OPEN these are the results of trial calls.
    pub counts: Counts,
    /// Distinct instances that reported failures which are in the window.
    pub reporters: i64,
    /// Leases that have not ended.
    pub leases: i64,
    /// When the last failure was reported; none: not in this state.
    pub last_failure: Option<Timestamp>,
    /// Until when a provider wants a pause, and with what it said so; not clamped.
    pub pause: Option<Pause>,
}

/// A provider's wish for a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When it ends.
    pub until: Timestamp,
    /// The outcome that it came with.
    pub outcome: Outcome,
}

/// What a store says of a breaker, all at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The moment, by the store's clock.
    pub now: Timestamp,
    /// The stored state.
    pub snapshot: Snapshot,
    /// What is counted in it.
    pub totals: Totals,
}
