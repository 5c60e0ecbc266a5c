//! Threads and breakers in this process's memory: [`MemoryThreads`] as the only truth where Redis is switched off,
//! [`MemoryCopies`] as copies of what Redis holds, to answer from in an outage, and [`MemoryBreakers`] for both.
//!
//! Threads are bounded by bytes as `footprint` counts them, and neither store of them ever drops what it acknowledged and
//! has not expired: the one refuses to grow, the other gives up copies of what Redis has anyway, and has what it accepted
//! itself on a `journal` that refuses to grow. Breakers are bounded by their number, and those go first that say least.

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
