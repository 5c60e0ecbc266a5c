//! An outage of Redis, from the first call that is not answered until everything that memory accepted is in Redis.
//!
//! `route` chooses who answers a call: Redis, or this process's memory, which says so. `reachability` knows whether Redis
//! can be asked. `copies` keeps copies of the threads that this process used, to answer from; `queue` keeps the writes that
//! memory accepted until Redis has them, `file` keeps these writes on disk, and `merge` replays them when Redis is back.

mod breakers;
mod copies;
mod copy;
mod file;
mod merge;
mod queue;
mod reachability;
mod route;
mod watch;

pub use breakers::{FallbackBreakers, Handover};
pub use copies::Copies;
pub use file::{FileJournal, OpenError, Opened, SyncPolicy};
pub use queue::JournalBounds;
pub use reachability::{Guarded, Reachability, State};
pub use route::Fallback;
pub use watch::FallbackWatch;
