//! Opens a journal file: locks and reads it, cuts off a torn end, and keeps a damaged file aside.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tracing::{error, info, warn};

use super::{
    SyncPolicy,
    disk::Disk,
    encoding, format,
    segment::{Segment, beside, create_private, sync_directory},
};
use crate::{
    clock::{SystemClock, fresh_id},
    threads::replay::Record,
};

/// Why a file cannot be used, for people.
type Result<T> = std::result::Result<T, String>;

fn cannot(doing: &str) -> impl FnOnce(io::Error) -> String {
    move |cause| format!("cannot {doing}: {cause}")
}

/// Opens the file, or creates it. Returns the records in it.
pub(super) fn open(path: &Path, policy: SyncPolicy) -> Result<(Disk, Vec<Record>)> {
    let (path, lock) = lock(path)?;
    let (segment, records) = recover(&path)?;
    Ok((Disk::new(path, lock, policy, segment), records))
}

/// Locks the file that the path leads to. Returns its path without links, and the lock, which is held until it is dropped.
fn lock(path: &Path) -> Result<(PathBuf, File)> {
    // Two processes that come through different links must meet at one lock, and a replacement must not replace a link.
    let path = resolve(path).map_err(cannot("find its directory"))?;
    // To open a pipe would block until another process writes to it.
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err("it is no regular file".into());
    }
    let lock_path = beside(&path, ".lock");
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
    let lock = lock.map_err(cannot("open the file .lock beside it"))?;
    // The lock file is never removed: another process could have locked it just before.
    match lock.try_lock() {
        Ok(()) => Ok((path, lock)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("it is in use: another process has locked {}", lock_path.display()))
        }
        Err(TryLockError::Error(cause)) => Err(cannot("lock the file .lock beside it")(cause)),
    }
}

/// Resolves links; the file itself need not exist.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(cause), Some(directory), Some(name)) if cause.kind() == io::ErrorKind::NotFound => {
            let directory = if directory == Path::new("") { Path::new(".") } else { directory };
            Ok(fs::canonicalize(directory)?.join(name))
        }
        (resolved, ..) => resolved,
    }
}

/// Reads the file, and leaves only whole frames in it. Creates it if it is missing or empty.
fn recover(path: &Path) -> Result<(Segment, Vec<Record>)> {
    let content = match fs::read(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(cannot("read it"))?,
    };
    let Some(marker) = format::read_header(&content)? else {
        let segment = Segment::create(path, &[]).map_err(cannot("create it"))?;
        info!(path = %path.display(), "began a journal file");
        return Ok((segment, Vec::new()));
    };
    let frames = format::find_frames(&content, marker);
    let mut records = Vec::new();
    for (at, payload) in &frames.whole {
        let decoded = encoding::decode(payload);
        records.extend(decoded.map_err(|bad| format!("{} {} (byte {at})", bad.field, bad.reason))?);
    }
    let (length, torn_bytes) = (frames.end as u64, (content.len() - frames.end) as u64);
    if !frames.damaged.is_empty() {
        return salvage(path, &content, &frames.damaged, torn_bytes, records).map_err(cannot("put it right"));
    }
    let file = File::options().append(true).open(path).map_err(cannot("open it"))?;
    if torn_bytes > 0 {
        // Now, because an append behind the torn end would turn it into damage between whole frames.
        file.set_len(length).and_then(|()| file.sync_all()).map_err(cannot("cut its torn end off"))?;
        warn!(path = %path.display(), torn_bytes, at = length, "the journal file had a torn end: the write that it belonged to never ended");
    }
    info!(path = %path.display(), records = records.len(), bytes = length, "opened the journal file");
    Ok((Segment { file, marker, length }, records))
}

/// Copies a damaged file aside, and replaces it by what could be read. So the service can start, and an operator can
/// still look for the rest.
fn salvage(
    path: &Path,
    content: &[u8],
    damaged: &[Range<usize>],
    torn_bytes: u64,
    mut records: Vec<Record>,
) -> io::Result<(Segment, Vec<Record>)> {
    let kept = beside(path, &format!(".damaged-{}", fresh_id(&SystemClock)));
    let mut copy = create_private(&kept)?;
    copy.write_all(content)?;
    copy.sync_all()?;
    sync_directory(path)?;

    let orphans = remove_orphans(&mut records);
    let segment = Segment::create(path, &records)?;
    error!(
        path = %path.display(),
        kept = %kept.display(),
        damaged_bytes = damaged.iter().map(Range::len).sum::<usize>(),
        at = ?damaged,
        torn_bytes,
        records = records.len(),
        orphans,
        "the journal file was damaged: writes in it are lost; kept it aside and went on with what could be read"
    );
    Ok((segment, records))
}

/// Removes the records of runs whose beginning is lost, because only the beginning names the thread. Returns how many.
fn remove_orphans(records: &mut Vec<Record>) -> usize {
    let count = records.len();
    let mut begun = HashSet::new();
    records.retain(|record| match record {
        Record::Began { batch, .. } => {
            begun.insert(*batch);
            true
        }
        Record::Accepted { batch, .. } | Record::Touched { batch, .. } | Record::Settled { batch } => {
            begun.contains(batch)
        }
    });
    count - records.len()
}
