//! What travels with every request, and what every answer says about itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;

mod modes;

pub use modes::ModeTeller;

/// The conditions under which a request is served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    /// When the caller stops waiting; nothing is awaited beyond it.
    pub deadline: Option<Instant>,
    /// When this process gives up by itself, if that is before the bound of one command.
    pub bound: Option<Instant>,
    /// Refuse rather than answer from memory in an outage.
    pub require_shared: bool,
    /// For so long, a write of this call that was sent to Redis and given up may still happen there.
    pub late: Duration,
}

impl Call {
    /// The same call, given up by this process at `latest`.
    #[must_use]
    pub fn until(&self, latest: Instant) -> Self {
        Self { bound: Some(self.bound.map_or(latest, |bound| bound.min(latest))), ..*self }
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Redis: the state that every instance shares.
    Shared,
    /// This process's memory.
    Local {
        /// When the data was last known to be true; absent where memory is the only truth.
        as_of: Option<Timestamp>,
    },
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

impl<T> Answer<T> {
    /// An answer of Redis.
    pub fn shared(value: T) -> Self {
        Self { value, source: Source::Shared }
    }

    /// An answer of memory that is the only truth.
    pub fn local(value: T) -> Self {
        Self { value, source: Source::Local { as_of: None } }
    }
}

/// How this instance serves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServingMode {
    /// Redis answers.
    Shared,
    /// Redis is unreachable; memory answers what it honestly can.
    Degraded,
    /// Redis is back; what memory accepted is being merged.
    Reconciling,
    /// Redis is switched off; memory is the only truth.
    Local,
}

/// How this instance serves, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// How.
    pub mode: ServingMode,
    /// Since when, by this machine's clock.
    pub since: Timestamp,
}
