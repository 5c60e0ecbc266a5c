//! Where a journal file lies: its path, the files beside it, and the lock that keeps other processes away.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::OpenError;

/// The place of a journal file, which is this process's alone for as long as this value lives.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Dropping it unlocks. The file stays: whoever removed it could remove one that another process has just locked.
    _lock: File,
}

impl Place {
    /// Takes the place; fails when another process has it, or this one.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let io = |doing| move |cause| OpenError::Io { path: path.into(), doing, cause };
        // A link must not lead two processes to the same file by different locks, nor be replaced by a file.
        let real = resolve(path).map_err(io("find its directory"))?;
        // Opening a pipe would wait for whoever writes to it.
        if fs::metadata(&real).is_ok_and(|found| !found.is_file()) {
            return Err(OpenError::Unusable { path: path.into(), reason: "it is no regular file".into() });
        }
        let beside = beside(&real, ".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .map_err(io("open the file .lock beside it"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: real, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.into(), lock: beside }),
            Err(TryLockError::Error(cause)) => Err(io("lock the file .lock beside it")(cause)),
        }
    }

    /// The journal file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the same name with this behind it.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.path, suffix)
    }

    /// Makes what was created and renamed here outlive a power failure.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
    }
}

/// Creates a file that is not there yet, for nobody else to read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)
}

fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(cause) };
            let directory = if directory == Path::new("") { Path::new(".") } else { directory };
            Ok(fs::canonicalize(directory)?.join(name))
        }
        resolved => resolved,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
