//! The file itself: frames are put behind the others, and all of them are replaced at once. Blocks.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info};

use super::{
    SyncPolicy, encoding,
    format::{self, HEADER, Marker},
    place::{self, Place},
};
use crate::threads::replay::Record;

/// How long [`SyncPolicy::EverySecond`] leaves what was written to the operating system.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How many bytes are collected before they are written in a replacement.
const WRITE_BYTES: usize = 256 << 10;

/// Why the file does not take what it was given.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {doing} journal file {}: {cause}", path.display())]
pub(super) struct WriteError {
    path: Arc<Path>,
    doing: &'static str,
    cause: Arc<io::Error>,
}

/// A journal file that is open.
#[derive(Debug)]
pub(super) struct Disk {
    place: Place,
    policy: SyncPolicy,
    file: File,
    marker: Marker,
    /// Where the last whole frame ends.
    length: u64,
    /// Since when the file holds what was not forced to disk and has to be.
    dirty_since: Option<Instant>,
    /// Why nothing is appended any more.
    failed: Option<WriteError>,
    /// How often the file was forced to disk.
    #[cfg(test)]
    pub(super) syncs: usize,
    /// Whether the next append is a defect.
    #[cfg(test)]
    pub(super) dies: bool,
}

impl Disk {
    /// Goes on with a file of which everything is whole.
    pub(super) fn new(place: Place, policy: SyncPolicy, written: Written) -> Self {
        let Written { file, marker, length } = written;
        Self {
            place,
            policy,
            file,
            marker,
            length,
            dirty_since: None,
            failed: None,
            #[cfg(test)]
            syncs: 0,
            #[cfg(test)]
            dies: false,
        }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// The bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the file holds less than was given to it.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Puts several appends behind what is there: all of them with one write and at most one sync, or none.
    pub(super) fn append<'a>(
        &mut self,
        appends: impl Iterator<Item = &'a [Record]>,
    ) -> Result<(), WriteError> {
        #[cfg(test)]
        assert!(!std::mem::take(&mut self.dies), "a test has the writer die");
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.put_frames(appends) {
            Ok(added) => {
                self.length += added;
                Ok(())
            }
            Err(cause) => {
                // What got there would be read back although its writer was told that it is not there. Should this
                // fail as well, a reader takes it for a torn tail, or for what was written after all.
                let _ = self.file.set_len(self.length);
                Err(self.fail("append to", cause))
            }
        }
    }

    fn put_frames<'a>(&mut self, appends: impl Iterator<Item = &'a [Record]>) -> io::Result<u64> {
        let mut bytes = Vec::new();
        for records in appends.filter(|records| !records.is_empty()) {
            format::put_frame(&mut bytes, self.marker, &encoding::encode(records))?;
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        self.file.write_all(&bytes)?;
        match self.policy {
            SyncPolicy::Always => self.sync_data()?,
            SyncPolicy::EverySecond => self.dirty_since = self.dirty_since.or_else(|| Some(Instant::now())),
            SyncPolicy::Never => {}
        }
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// Puts these records in the place of all that the file holds. In a crash either all of them are there or none is.
    pub(super) fn replace(&mut self, records: &[Record]) -> Result<(), WriteError> {
        match write(&self.place, records) {
            Ok(written) => {
                (self.file, self.marker, self.length) = (written.file, written.marker, written.length);
            }
            Err(cause) => {
                if !records.is_empty() || self.empty().is_err() {
                    return Err(self.fail("replace", cause));
                }
            }
        }
        self.recover();
        Ok(())
    }

    /// Cuts off all that the file holds. A full disk has no room for another file in its place, and this takes none.
    fn empty(&mut self) -> io::Result<()> {
        // The replacement may have come as far as to its place: then this file is no journal any more.
        if self.file.metadata()?.ino() != fs::metadata(self.place.path())?.ino() {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        let header = u64::try_from(HEADER).unwrap_or(u64::MAX);
        self.file.set_len(header)?;
        self.file.sync_all()?;
        self.length = header;
        Ok(())
    }

    /// All that was given to the file is in it, and on disk.
    fn recover(&mut self) {
        self.dirty_since = None;
        if self.failed.take().is_some() {
            info!(path = %self.place.path().display(), bytes = self.length, "replaced the journal file: it takes writes again");
        }
    }

    /// Has the file take nothing more until it is replaced, for nobody knows what was written to it.
    pub(super) fn give_up(&mut self, cause: io::Error) -> WriteError {
        self.fail("go on with", cause)
    }

    /// When what was written must be forced to disk; none when nothing has to be.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + SYNC_EVERY)
    }

    /// Forces what was written to disk.
    pub(super) fn sync(&mut self) {
        self.dirty_since = None;
        if let Err(cause) = self.sync_data() {
            self.fail("sync", cause);
        }
    }

    /// After a failure nobody knows what of the file is on disk, and a later success says nothing of that: the system
    /// may have dropped what it could not write.
    fn sync_data(&mut self) -> io::Result<()> {
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        self.file.sync_data()
    }

    fn fail(&mut self, doing: &'static str, cause: io::Error) -> WriteError {
        let failed = WriteError { path: self.place.path().into(), doing, cause: Arc::new(cause) };
        if self.failed.is_none() {
            error!(error = %failed, "the journal file takes nothing more until it is replaced");
        }
        self.failed = Some(failed.clone());
        failed
    }
}

/// Lets tests put another file in the place of the one that is written to.
#[cfg(test)]
impl Disk {
    pub(super) fn write_to(&mut self, file: File) {
        self.file = file;
    }
}

/// A journal file, whole.
#[derive(Debug)]
pub(super) struct Written {
    /// Open for appending.
    pub(super) file: File,
    /// What its frames begin with.
    pub(super) marker: Marker,
    /// Its bytes.
    pub(super) length: u64,
}

/// Writes a new journal file, forces it to disk, and only then puts it in its place.
///
/// Whatever the policy, for that happens seldom: else a power failure could take what had long been on disk.
pub(super) fn write(place: &Place, records: &[Record]) -> io::Result<Written> {
    let new = place.beside(".new");
    let written = write_beside(&new, records).and_then(|written| {
        fs::rename(&new, place.path())?;
        Ok(written)
    });
    match written {
        Ok(written) => {
            place.sync_directory()?;
            Ok(written)
        }
        Err(cause) => {
            let _ = fs::remove_file(&new);
            Err(cause)
        }
    }
}

fn write_beside(path: &Path, records: &[Record]) -> io::Result<Written> {
    remove_leftover(path)?;
    let file = place::create(path)?;
    let marker = Marker::random();
    let mut writer = BufWriter::with_capacity(WRITE_BYTES, &file);
    let header = format::header(marker);
    writer.write_all(&header)?;
    let mut length = header.len();
    let mut frame = Vec::new();
    for payload in records.iter().flat_map(encoding::encode_in_pieces) {
        frame.clear();
        format::put_frame(&mut frame, marker, &payload)?;
        writer.write_all(&frame)?;
        length += frame.len();
    }
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    Ok(Written { file, marker, length: u64::try_from(length).unwrap_or(u64::MAX) })
}

/// Removes what a process left behind that ended while it wrote a replacement.
fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
