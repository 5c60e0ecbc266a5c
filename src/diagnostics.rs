//! What this process tells of itself. Everything here is known already: nothing is asked for, nobody waits.

use std::{fmt, sync::Arc, time::Duration};

use crate::{clock::Timestamp, doorbell::Doorbell, threads::replay::JournalStatus};

/// Tells something as it is at the moment. Quick, and never blocks for long.
pub type Tells<T> = Box<dyn Fn() -> T + Send + Sync>;

/// Where it is known how this process is.
pub struct Diagnostics {
    /// This process in the history of breakers.
    pub instance: Arc<str>,
    /// When it started, by this machine's clock.
    pub started: Timestamp,
    /// Redis as this process sees it; none where it is switched off.
    pub redis: Option<Tells<RedisStatus>>,
    /// What waits to be merged into Redis; none where it is switched off.
    pub journal: Option<Tells<JournalStatus>>,
    /// How changes in Redis are noticed; none where it is switched off.
    pub doorbell: Option<Arc<Doorbell>>,
    /// How many threads are in memory.
    pub local_threads: Tells<usize>,
    /// How many breakers are in memory.
    pub local_breakers: Tells<usize>,
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diagnostics").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// What kind of server Redis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedisKind {
    /// It never said.
    #[default]
    Unknown,
    /// One server.
    Standalone,
    /// A node of a cluster.
    Cluster,
}

/// Redis as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisStatus {
    /// Where it is, without its password.
    pub url: String,
    /// What kind it is.
    pub kind: RedisKind,
    /// Its version, as it said itself; empty while it never did.
    pub server_version: String,
    /// How long the newest probe that was answered took.
    pub round_trip: Option<Duration>,
    /// Why it cannot be used; empty while it can.
    pub last_error: Arc<str>,
}
