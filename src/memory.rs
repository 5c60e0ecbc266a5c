//! Threads and breakers in this process's memory: [`MemoryThreads`] as the only truth where Redis is switched off, and
//! [`MemoryBreakers`] for that and for outages of Redis.
//!
//! Threads are bounded by bytes as `footprint` counts them. An acknowledged write is never dropped before its thread
//! expires: the store refuses to grow beyond its bound. Breakers are bounded by their number, and the breakers that say
//! least go first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{error::Error, threads::ThreadId};

pub(crate) mod batch;
mod breakers;
pub(crate) mod conversation;
pub(crate) mod footprint;
mod history;
pub(crate) mod ids;
pub(crate) mod log;
pub(crate) mod page;
#[cfg(test)]
pub(crate) mod samples;
mod threads;

pub use breakers::MemoryBreakers;
pub use threads::MemoryThreads;
pub(crate) use threads::thread_for;

/// Locks for one short step. A panic elsewhere must not take the whole store down with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that there is no such thread.
fn not_found(id: &ThreadId) -> Error {
    Error::ThreadNotFound { id: id.to_string() }
}
