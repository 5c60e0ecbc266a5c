//! What the file is told to do: append, replace, sync; and what follows from a failure. Blocks.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info};

use super::{SyncPolicy, encoding, format::HEADER, segment::Segment};
use crate::threads::replay::Record;

/// How long [`SyncPolicy::EverySecond`] leaves a write to the operating system.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// An open journal file.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// Keeps the lock until this value is dropped.
    _lock: File,
    policy: SyncPolicy,
    segment: Segment,
    /// Since when the file holds writes that the policy wants on disk and that may not be there yet.
    dirty_since: Option<Instant>,
    /// Why the file takes no appends.
    failure: Option<String>,
    /// How often the file was forced to disk.
    #[cfg(test)]
    pub(super) syncs: usize,
    /// Whether the next append panics.
    #[cfg(test)]
    pub(super) panics: bool,
}

impl Disk {
    /// Goes on with a file whose frames are all whole.
    pub(super) fn new(path: PathBuf, lock: File, policy: SyncPolicy, segment: Segment) -> Self {
        Self {
            path,
            _lock: lock,
            policy,
            segment,
            dirty_since: None,
            failure: None,
            #[cfg(test)]
            syncs: 0,
            #[cfg(test)]
            panics: false,
        }
    }

    /// The bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.segment.length
    }

    /// Whether the file lacks writes.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Appends all of these with at most one sync, or none of them.
    pub(super) fn append<'a>(&mut self, appends: impl Iterator<Item = &'a [Record]>) -> Result<(), String> {
        #[cfg(test)]
        assert!(!std::mem::take(&mut self.panics), "a test makes the writer panic");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.try_append(appends).map_err(|cause| {
            // The caller learns that the write failed, so no part of it may be read back. If the cut fails too, a later
            // process finds a torn end, or merges a write that was refused.
            let _ = self.segment.file.set_len(self.segment.length);
            self.fail("append to", &cause)
        })
    }

    fn try_append<'a>(&mut self, appends: impl Iterator<Item = &'a [Record]>) -> io::Result<()> {
        let payloads = appends.filter(|records| !records.is_empty()).map(encoding::encode);
        let added = self.segment.write(payloads)?;
        match self.policy {
            _ if added == 0 => {}
            SyncPolicy::Always => self.sync_data()?,
            SyncPolicy::EverySecond => {
                self.dirty_since.get_or_insert_with(Instant::now);
            }
            SyncPolicy::Never => {}
        }
        self.segment.length += added;
        Ok(())
    }

    /// Replaces all records of the file. A crash leaves either the old or the new ones.
    pub(super) fn replace(&mut self, records: &[Record]) -> Result<(), String> {
        match Segment::create(&self.path, records) {
            Ok(segment) => self.segment = segment,
            // A full disk has no room for a second file; an empty journal does not need one.
            Err(cause) => {
                if !records.is_empty() || self.truncate().is_err() {
                    return Err(self.fail("replace", &cause));
                }
            }
        }
        self.dirty_since = None;
        if self.failure.take().is_some() {
            info!(path = %self.path.display(), bytes = self.length(), "replaced the journal file: it takes writes again");
        }
        Ok(())
    }

    /// Removes all frames from the file.
    fn truncate(&mut self) -> io::Result<()> {
        // The replacement may have failed after its rename: then the open file is no longer the journal.
        if self.segment.file.metadata()?.ino() != fs::metadata(&self.path)?.ino() {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        self.segment.file.set_len(HEADER as u64)?;
        self.segment.file.sync_all()?;
        self.segment.length = HEADER as u64;
        Ok(())
    }

    /// When the file must be forced to disk, if the policy wants that.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + SYNC_EVERY)
    }

    /// Forces the file to disk.
    pub(super) fn sync(&mut self) {
        self.dirty_since = None;
        if let Err(cause) = self.sync_data() {
            self.fail("sync", &cause);
        }
    }

    /// A failed sync must not be tried again: the system may have dropped the data, and the next sync succeeds without it.
    fn sync_data(&mut self) -> io::Result<()> {
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        self.segment.file.sync_data()
    }

    /// Refuses appends from now on, until the file is replaced. Returns the error for the callers.
    pub(super) fn fail(&mut self, doing: &str, cause: &io::Error) -> String {
        let failure = format!("cannot {doing} journal file {}: {cause}", self.path.display());
        if self.failure.is_none() {
            error!(error = failure, "the journal file takes nothing more until it is replaced");
        }
        self.failure.insert(failure).clone()
    }

    /// Sends all further appends to another file.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, file: File) {
        self.segment.file = file;
    }
}
