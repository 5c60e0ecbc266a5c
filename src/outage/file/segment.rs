//! The file at the path of the journal, and the files beside it. Blocks.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    encoding,
    format::{self, HEADER, Marker},
};
use crate::threads::replay::Record;

/// How many bytes of frames are collected in memory before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// An open file of frames. Each replacement of the journal is a new one.
#[derive(Debug)]
pub(super) struct Segment {
    /// Open for appending.
    pub(super) file: File,
    /// What its frames begin with.
    pub(super) marker: Marker,
    /// Where the last whole frame ends.
    pub(super) length: u64,
}

impl Segment {
    /// Writes a new file beside the path, forces it to disk, and moves it to the path.
    ///
    /// This happens under every policy: otherwise a power failure could lose writes that were on disk in the old file.
    pub(super) fn create(path: &Path, records: &[Record]) -> io::Result<Self> {
        let new = beside(path, ".new");
        let segment = Self::create_beside(&new, records)
            .and_then(|segment| fs::rename(&new, path).map(|()| segment))
            .inspect_err(|_| drop(fs::remove_file(&new)))?;
        sync_directory(path)?;
        Ok(segment)
    }

    fn create_beside(new: &Path, records: &[Record]) -> io::Result<Self> {
        // A process that was killed during a replacement leaves its file.
        match fs::remove_file(new) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        let mut segment = Self { file: create_private(new)?, marker: rand::random(), length: HEADER as u64 };
        segment.file.write_all(&format::header(segment.marker))?;
        segment.length += segment.write(records.iter().flat_map(encoding::encode_in_pieces))?;
        segment.file.sync_all()?;
        Ok(segment)
    }

    /// Writes a frame for each payload behind the others, and returns how many bytes the frames take.
    pub(super) fn write(&self, payloads: impl Iterator<Item = Vec<u8>>) -> io::Result<u64> {
        let mut buffer = Vec::new();
        let mut written = 0;
        for payload in payloads {
            format::put_frame(&mut buffer, self.marker, &payload)?;
            if buffer.len() >= WRITE_BYTES {
                (&self.file).write_all(&buffer)?;
                written += buffer.len();
                buffer.clear();
            }
        }
        (&self.file).write_all(&buffer)?;
        Ok((written + buffer.len()) as u64)
    }
}

/// Creates a file that only its owner may read; fails if it exists.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    File::options().create_new(true).append(true).mode(0o600).open(path)
}

/// Returns the path with a suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes the names of the files beside the path survive a power failure.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}
