//! The bytes of the file: a header, and frames that show when they are damaged. Pure; decides nothing.
//!
//! All numbers are big-endian. The header: magic (8 bytes) · version (4) · the file's marker (8) · CRC-32 of all before
//! it (4). A frame: the marker (8) · length of the payload (4) · CRC-32 of length and payload (4) · the payload, which is
//! one append.
//!
//! The marker is random and another one in each file. So behind damage the next whole frame is found by its marker, and
//! no message that holds bytes of a journal is ever taken for a frame.

use std::{io, ops::Range};

use bytes::BufMut;

/// The version of the format that this code writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;
/// The bytes of the header.
pub(super) const HEADER: usize = 24;

const MAGIC: [u8; 8] = *b"FUSEJRNL";

/// What every frame of one file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker([u8; 8]);

impl Marker {
    /// Makes a marker that no other file has.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

/// Why a file has no header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHeader {
    /// It does not begin as a journal file does.
    #[error("it holds something else than a journal of fusewire")]
    Foreign,
    /// Another version of this program wrote it.
    #[error("it has version {0} of the format, and only version {VERSION} is known")]
    Version(u32),
    /// It is a journal file whose header was changed.
    #[error("its header is damaged")]
    Damaged,
}

/// Returns the header of a file with this marker.
pub(super) fn header(marker: Marker) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    header.put_slice(&MAGIC);
    header.put_u32(VERSION);
    header.put_slice(&marker.0);
    header.put_u32(crc32fast::hash(&header));
    header
}

/// Reads the header; none where the file ends before it does, so that nothing can have been written behind it.
pub(super) fn read_header(file: &[u8]) -> Result<Option<Marker>, BadHeader> {
    let Some((magic, rest)) = file.split_first_chunk() else {
        return if MAGIC.starts_with(file) { Ok(None) } else { Err(BadHeader::Foreign) };
    };
    if *magic != MAGIC {
        return Err(BadHeader::Foreign);
    }
    let Some((version, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let version = u32::from_be_bytes(*version);
    if version != VERSION {
        return Err(BadHeader::Version(version));
    }
    let Some((marker, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let marker = Marker(*marker);
    match rest.first_chunk::<4>() {
        None => Ok(None),
        Some(_) if file.starts_with(&header(marker)) => Ok(Some(marker)),
        Some(_) => Err(BadHeader::Damaged),
    }
}

/// Puts a frame behind what is there; fails, with nothing put, if its payload is 4 GiB long or longer.
pub(super) fn put_frame(to: &mut Vec<u8>, marker: Marker, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    to.put_slice(&marker.0);
    to.put_u32(length);
    to.put_u32(checksum(length.to_be_bytes(), payload));
    to.put_slice(payload);
    Ok(())
}

/// What a file holds behind its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frames<'a> {
    /// The payloads of the frames that are whole, in order, and where each frame begins.
    pub(super) whole: Vec<(usize, &'a [u8])>,
    /// What lies between whole frames and is none.
    pub(super) damaged: Vec<Range<usize>>,
    /// Where the last whole frame ends.
    pub(super) end: usize,
}

/// Finds the frames of a file whose header is whole.
pub(super) fn find_frames(file: &[u8], marker: Marker) -> Frames<'_> {
    let mut frames = Frames { whole: Vec::new(), damaged: Vec::new(), end: HEADER };
    let mut at = HEADER;
    while at < file.len() {
        if let Some((payload, end)) = frame_at(file, marker, at) {
            if frames.end < at {
                frames.damaged.push(frames.end..at);
            }
            frames.whole.push((at, payload));
            frames.end = end;
            at = end;
        } else if let Some(next) = find_marker(file, marker, at + 1) {
            at = next;
        } else {
            break;
        }
    }
    frames
}

fn frame_at(file: &[u8], marker: Marker, at: usize) -> Option<(&[u8], usize)> {
    let rest = file.get(at..)?.strip_prefix(&marker.0)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let payload = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let end = file.len() - rest.len() + payload.len();
    (u32::from_be_bytes(*sum) == checksum(*length, payload)).then_some((payload, end))
}

fn find_marker(file: &[u8], marker: Marker, from: usize) -> Option<usize> {
    let rest = file.get(from..)?;
    rest.windows(marker.0.len()).position(|window| window == marker.0).map(|at| from + at)
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&length);
    sum.update(payload);
    sum.finalize()
}
