//! The journal file: keeps the writes that wait for Redis on disk, so that they outlive this process.
//!
//! The policy decides what an acknowledged write survives:
//!
//! | policy | where a write is when it is acknowledged | `kill -9` | power failure |
//! |---|---|---|---|
//! | [`SyncPolicy::Always`] | on disk | survives | survives |
//! | [`SyncPolicy::EverySecond`] | in the operating system | survives | survives if older than a second |
//! | [`SyncPolicy::Never`] | in the operating system | survives | may be lost |
//!
//! Appends that wait at the same time are written together and forced to disk once. So a slow disk delays each append,
//! and the throughput stays high. A replacement is forced to disk under every policy, and a crash leaves either the old
//! file or the new one. After a failure the file takes no appends until it is replaced, so that it never has a gap.
//!
//! # Opening
//!
//! A process can end in the middle of a write, and a disk can lose data. [`FileJournal::open`] tells these apart:
//!
//! - A torn *end* is an append that was never whole, perhaps zeros. The end is cut off with a warning. Under
//!   [`SyncPolicy::Always`] that append was not acknowledged.
//! - Damage with whole appends *behind* it: the disk lost data, or power failed before several appends were forced to
//!   disk. A copy of the file is kept as `<path>.damaged-<ulid>`, and the journal goes on with all that could be read,
//!   except for runs whose beginning is lost. An error in the log says how much is missing.
//! - A foreign file, a damaged header, another version of the format, or a record of a newer release: opening fails, and
//!   the file is not changed.
//!
//! Two more files lie beside the journal: `<path>.lock`, which keeps other processes away and stays, and `<path>.new`
//! during a replacement. All of them are readable for their owner alone.

mod disk;
mod encoding;
mod format;
mod opening;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    shutdown::Shutdown,
    threads::replay::{Receipt, Record},
};

use writer::{WriteKind, Writer};

/// When the file is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before each write is acknowledged.
    Always,
    /// At most a second after each write, and when the process ends.
    EverySecond,
    /// When the operating system decides.
    Never,
}

/// Why a journal file cannot be used. The file was not changed.
#[derive(Debug, thiserror::Error)]
#[error("journal file {}: {reason}", path.display())]
pub struct OpenError {
    path: PathBuf,
    reason: String,
}

/// An open journal file.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub journal: FileJournal,
    /// The records in the file, in order. The first record of each run is its beginning.
    pub records: Vec<Record>,
}

/// The journal file of this process. Clones are the same file.
///
/// The file stays locked until all clones are dropped and the last write ended. The methods that write must be called
/// inside the runtime.
#[derive(Debug, Clone)]
pub struct FileJournal(Arc<Writer>);

impl FileJournal {
    /// Opens the file, or creates it in a directory that exists. Blocks.
    ///
    /// Writes happen in tasks of `shutdown`, also after the shutdown began. They wait for nothing but the disk.
    pub fn open(path: &Path, policy: SyncPolicy, shutdown: &Shutdown) -> Result<Opened, OpenError> {
        let (disk, records) =
            opening::open(path, policy).map_err(|reason| OpenError { path: path.into(), reason })?;
        Ok(Opened { journal: Self(Arc::new(Writer::new(disk, shutdown.clone()))), records })
    }
}

/// What the queue of pending writes asks of the file.
impl FileJournal {
    /// Appends records behind those given before: in a crash all of them are there or none. Never blocks. After any
    /// failure every later append fails, too, until [`FileJournal::replace`] succeeds: so the file never has a gap.
    pub(super) fn append(&self, records: Vec<Record>) -> Receipt {
        self.0.submit(WriteKind::Append, records)
    }

    /// Puts these records in the place of all that the file holds, which stays as it is if that fails. Never blocks.
    pub(super) fn replace(&self, records: Vec<Record>) -> Receipt {
        self.0.submit(WriteKind::Replace, records)
    }

    /// Whether the file holds less than was given to it, as far as is known yet; before a receipt says so, it does.
    pub(super) fn has_failed(&self) -> bool {
        self.0.queue().has_failed
    }

    /// Whether a replacement may be tried now. After a failure not while one is under way, nor within a second after one
    /// that failed: else a full disk would cost all that waits for each write.
    pub(super) fn may_replace(&self) -> bool {
        self.0.queue().may_replace()
    }

    /// The bytes that the file will have when all that was given to it is written; of what still waits, about.
    pub(super) fn bytes(&self) -> u64 {
        self.0.queue().bytes
    }
}
