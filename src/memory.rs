//! Threads in this process's memory: [`MemoryThreads`] as the only truth where Redis is switched off,
//! [`MemoryCopies`] as copies of what Redis holds, to answer from in an outage.
//!
//! Both are bounded by bytes as `footprint` counts them, and neither ever drops what it acknowledged and has not
//! expired: the one refuses to grow, the other gives up copies of what Redis has anyway.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{error::Error, threads::ThreadId};

mod batch;
mod conversation;
mod copies;
mod footprint;
mod ids;
mod log;
mod page;
#[cfg(test)]
mod samples;
mod threads;

pub use copies::MemoryCopies;
pub use threads::MemoryThreads;

/// Locks for one short step. A panic elsewhere must not take the whole store down with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that there is no such thread.
fn not_found(id: &ThreadId) -> Error {
    Error::ThreadNotFound { id: id.to_string() }
}
