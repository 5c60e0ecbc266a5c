//! The journal file: writes that wait to be merged into Redis, kept so that they outlive this process.
//!
//! What an acknowledgement promises depends on the policy:
//!
//! | policy | before a write is acknowledged | `kill -9` | power failure |
//! |---|---|---|---|
//! | [`SyncPolicy::Always`] | it is on disk | survives | survives |
//! | [`SyncPolicy::EverySecond`] | the operating system has it | survives | what is older than a second survives |
//! | [`SyncPolicy::Never`] | the operating system has it | survives | nothing is promised |
//!
//! Appends that wait at the same time are written together and forced to disk once, so that a slow disk costs each a wait
//! and not the throughput. A replacement is forced to disk under every policy.
//!
//! # What is found at opening
//!
//! - An append that is cut short, zeros or otherwise not whole at the *end*: the process or the machine died in the
//!   middle of it. It is cut off with a warning. Under [`SyncPolicy::Always`] it had not been acknowledged.
//! - Bytes that are not whole with whole appends *behind* them: the disk lost something, or power failed before several
//!   appends were forced to disk. The file is kept as it was as `<path>.damaged-<ulid>`; the journal goes on with all
//!   that could be read, except for runs whose beginning is lost; an error in the log says how much is missing.
//! - Another file, a damaged header, another version of the format, or a record that a newer version wrote: nothing is
//!   changed, and [`FileJournal::open`] fails.
//!
//! Beside the file lie `<path>.lock`, which keeps other processes away and stays, and for moments `<path>.new`.

mod disk;
mod encoding;
mod format;
mod opening;
mod place;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    shutdown::Shutdown,
    threads::replay::{Receipt, Record},
};

use opening::Found;
use writer::{Kind, Writer};

/// Says when the file is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before each write is acknowledged.
    Always,
    /// At most a second after each write, and when the process ends.
    EverySecond,
    /// When the operating system sees fit.
    Never,
}

/// Why a journal file cannot be used. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refuses something.
    #[error("journal file {}: cannot {doing}: {cause}", path.display())]
    Io {
        /// The file, as it was named.
        path: PathBuf,
        /// What could not be done.
        doing: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// It is open elsewhere.
    #[error("journal file {} is in use: another process has locked {}", path.display(), lock.display())]
    Locked {
        /// The file, as it was named.
        path: PathBuf,
        /// The locked file.
        lock: PathBuf,
    },
    /// It holds something that this version cannot read.
    #[error("journal file {} cannot be read: {reason}", path.display())]
    Unusable {
        /// The file, as it was named.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A journal file that is open, and what was in it.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub journal: FileJournal,
    /// What it holds, in order. A run begins before anything else is said of it.
    pub records: Vec<Record>,
    /// Bytes that were cut off its end.
    pub torn_bytes: u64,
    /// Where it was kept as it was, if it was damaged before its end.
    pub kept: Option<PathBuf>,
}

/// The writes that wait, in a file. Clones are the same file.
///
/// It belongs to this process until all clones are gone and what was given to them is written. Whoever gives it something
/// must run inside the runtime.
#[derive(Debug, Clone)]
pub struct FileJournal(Arc<Writer>);

impl FileJournal {
    /// Opens the file, or creates it in a directory that must exist; for nobody else to read. Blocks.
    ///
    /// Writes then happen in tasks of `shutdown`, also after it began; none of them waits for anything but the disk.
    pub fn open(path: &Path, policy: SyncPolicy, shutdown: &Shutdown) -> Result<Opened, OpenError> {
        let Found { disk, records, torn_bytes, kept } = opening::open(path, policy)?;
        let journal = Self(Arc::new(Writer::new(disk, shutdown.clone())));
        Ok(Opened { journal, records, torn_bytes, kept })
    }
}

/// What the queue of pending writes asks of the file.
impl FileJournal {
    /// Appends records behind those given before: in a crash all of them are there or none. Never blocks. After any
    /// failure every later append fails, too, until [`FileJournal::replace`] succeeds: so the file never has a gap.
    pub(super) fn append(&self, records: Vec<Record>) -> Receipt {
        self.0.hand_over(Kind::Append, records)
    }

    /// Puts these records in the place of all that the file holds, which stays as it is if that fails. Never blocks.
    pub(super) fn replace(&self, records: Vec<Record>) -> Receipt {
        self.0.hand_over(Kind::Replace, records)
    }

    /// Whether the file holds less than was given to it, as far as is known yet; before a receipt says so, it does.
    pub(super) fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    /// Whether a replacement may be tried now. After a failure not while one is under way, nor within a second after one
    /// that failed: else a full disk would cost all that waits for each write.
    pub(super) fn may_replace(&self) -> bool {
        self.0.may_replace()
    }

    /// The bytes that the file will have when all that was given to it is written; of what still waits, about.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}
