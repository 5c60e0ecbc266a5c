//! Opening: what the file holds is read, and what cannot be read is cut off or kept aside, never overwritten.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use tracing::{error, info, warn};

use super::{
    OpenError, SyncPolicy,
    disk::{self, Disk, Written},
    encoding,
    format::{self, Frames},
    place::{self, Place},
};
use crate::{
    clock::{SystemClock, fresh_id},
    threads::replay::Record,
};

/// A file that is open, and what it held.
#[derive(Debug)]
pub(super) struct Found {
    /// The file.
    pub(super) disk: Disk,
    /// Everything that could be read, in order.
    pub(super) records: Vec<Record>,
    /// The bytes at the end that were cut off: an append that was never whole.
    pub(super) torn_bytes: u64,
    /// Where the file was kept as it was, if it was damaged elsewhere.
    pub(super) kept: Option<PathBuf>,
}

/// Opens the file at a path, or creates it.
pub(super) fn open(path: &Path, policy: SyncPolicy) -> Result<Found, OpenError> {
    let place = Place::take(path)?;
    let io = |doing| move |cause| OpenError::Io { path: path.into(), doing, cause };
    let Some((file, content)) = read(&place).map_err(io("open it"))? else {
        let written = disk::write(&place, &[]).map_err(io("create it"))?;
        return Ok(Found::empty(Disk::new(place, policy, written)));
    };
    let unusable = |reason: String| OpenError::Unusable { path: path.into(), reason };
    let Some(marker) = format::read_header(&content).map_err(|bad| unusable(bad.to_string()))? else {
        let written = disk::write(&place, &[]).map_err(io("begin it"))?;
        return Ok(Found::empty(Disk::new(place, policy, written)));
    };
    let frames = format::find_frames(&content, marker);
    let mut records = Vec::new();
    for (at, payload) in &frames.whole {
        let decoded = encoding::decode(payload)
            .map_err(|bad| unusable(format!("{} {} (byte {at})", bad.field, bad.reason)))?;
        records.extend(decoded);
    }
    if !frames.damaged.is_empty() {
        return salvage(place, policy, &content, &frames, records).map_err(io("put it right"));
    }
    let torn_bytes = to_u64(content.len() - frames.end);
    let length = to_u64(frames.end);
    if torn_bytes > 0 {
        // Before anything is put behind it: else this would be damage between whole frames.
        file.set_len(length).and_then(|()| file.sync_all()).map_err(io("cut its torn end off"))?;
        warn!(path = %path.display(), torn_bytes, at = length, "the journal file had a torn end: the write that it belonged to never ended");
    }
    info!(path = %path.display(), records = records.len(), bytes = length, "opened the journal file");
    let disk = Disk::new(place, policy, Written { file, marker, length });
    Ok(Found { disk, records, torn_bytes, kept: None })
}

impl Found {
    fn empty(disk: Disk) -> Self {
        info!(path = %disk.path().display(), "began a journal file");
        Self { disk, records: Vec::new(), torn_bytes: 0, kept: None }
    }
}

/// Opens the file and reads all of it; none if there is none.
fn read(place: &Place) -> io::Result<Option<(File, Vec<u8>)>> {
    let file = match OpenOptions::new().read(true).append(true).open(place.path()) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::new();
    (&file).read_to_end(&mut content)?;
    Ok(Some((file, content)))
}

/// Keeps a damaged file as it is under another name, and goes on with what of it is whole. The service can then start,
/// nothing is lost that could be read, and what could not be is still there.
fn salvage(
    place: Place,
    policy: SyncPolicy,
    content: &[u8],
    frames: &Frames<'_>,
    records: Vec<Record>,
) -> io::Result<Found> {
    let kept = place.beside(&format!(".damaged-{}", fresh_id(&SystemClock)));
    let mut copy = place::create(&kept)?;
    copy.write_all(content)?;
    copy.sync_all()?;
    place.sync_directory()?;

    let (records, orphans) = drop_orphans(records);
    let written = disk::write(&place, &records)?;
    let torn_bytes = to_u64(content.len() - frames.end);
    error!(
        path = %place.path().display(),
        kept = %kept.display(),
        damaged_bytes = frames.damaged.iter().map(Range::len).sum::<usize>(),
        at = ?frames.damaged,
        torn_bytes,
        records = records.len(),
        orphans,
        "the journal file was damaged: writes in it are lost; kept it aside and went on with what could be read"
    );
    Ok(Found { disk: Disk::new(place, policy, written), records, torn_bytes, kept: Some(kept) })
}

/// Drops the records of runs whose beginning was lost, for nobody knows any more which thread they are of.
fn drop_orphans(records: Vec<Record>) -> (Vec<Record>, usize) {
    let mut begun = HashSet::new();
    let count = records.len();
    let kept: Vec<_> = records
        .into_iter()
        .filter(|record| match record {
            Record::Began { run, .. } => {
                begun.insert(*run);
                true
            }
            Record::Accepted { run, .. } | Record::Touched { run, .. } | Record::Settled { run } => {
                begun.contains(run)
            }
        })
        .collect();
    let orphans = count - kept.len();
    (kept, orphans)
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
