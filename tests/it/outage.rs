//! What callers are told while Redis is out of reach, what counts as that, and what comes after.

use std::{fmt::Debug, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::threads::assert_refused;

mod afterwards;
mod breakers;
mod configuration;
mod faults;
mod journal_file;
mod matrix;
mod merging;
mod no_outage;
mod start;
mod table;
mod taken_over;
mod trips;
mod watches;

/// A test's bound for what the design bounds at 250 ms: machines are shared. It is well below the 5 s that a caller
/// waits who waits for Redis. What was measured is printed.
const ANSWERED: Duration = Duration::from_secs(3);
/// Far above what any change takes, for a loaded machine.
const SOON: Duration = Duration::from_secs(15);

/// Checks that a call was refused for want of Redis, with advice when to try again.
fn assert_unavailable<T: Debug>(what: &str, outcome: Result<T, Status>) -> Status {
    eprintln!("unavailable: {what}");
    let status = assert_refused(outcome, Code::Unavailable, "REDIS_UNREACHABLE");
    assert!(status.get_details_retry_info().is_some(), "{what}: {status:?}");
    status
}
