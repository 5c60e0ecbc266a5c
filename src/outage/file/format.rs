//! The bytes of the file: a header, then frames. Pure.
//!
//! All numbers are big-endian. The header is: magic (8 bytes), version (4), marker of the file (8), CRC-32 of the bytes
//! before (4). A frame is: marker (8), length of the payload (4), CRC-32 of length and payload (4), payload. The payload
//! is one append.
//!
//! Each file has a random marker of its own. So a reader can find the next whole frame behind damage, and a message that
//! holds bytes of another journal file is not read as frames.

use std::{io, ops::Range};

use bytes::{Buf, BufMut};

/// What the header and each frame of one file hold to tell them from other bytes.
pub(super) type Marker = [u8; 8];

/// The bytes of the header.
pub(super) const HEADER: usize = 24;

const MAGIC: [u8; 8] = *b"FUSEJRNL";
/// The only version of the format so far.
const VERSION: u32 = 1;

/// Returns the header of a file with this marker.
pub(super) fn header(marker: Marker) -> Vec<u8> {
    let mut header = [&MAGIC[..], &VERSION.to_be_bytes(), &marker].concat();
    header.put_u32(crc32fast::hash(&header));
    header
}

/// Reads the marker from the header, or says why the file cannot be read. A file that ends within the header has no
/// marker: it cannot hold frames.
pub(super) fn read_header(file: &[u8]) -> Result<Option<Marker>, String> {
    let Some(mut rest) = file.strip_prefix(&MAGIC) else {
        let is_cut_short = MAGIC.starts_with(file);
        return if is_cut_short {
            Ok(None)
        } else {
            Err("it holds something else than a journal of fusewire".into())
        };
    };
    let Ok(version) = rest.try_get_u32() else { return Ok(None) };
    if version != VERSION {
        return Err(format!("it has version {version} of the format, and only version {VERSION} is known"));
    }
    let (Some(marker), Some(found)) = (rest.first_chunk(), file.get(..HEADER)) else { return Ok(None) };
    if found == header(*marker) { Ok(Some(*marker)) } else { Err("its header is damaged".into()) }
}

/// Adds a frame; fails, and adds nothing, if the payload takes 4 GiB or more.
pub(super) fn put_frame(to: &mut Vec<u8>, marker: Marker, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    to.put_slice(&marker);
    to.put_u32(length);
    to.put_u32(checksum(length, payload));
    to.put_slice(payload);
    Ok(())
}

/// What a file holds behind its header.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    /// Each whole frame: where it begins, and its payload.
    pub(super) whole: Vec<(usize, &'a [u8])>,
    /// The bytes between whole frames that are no frame.
    pub(super) damaged: Vec<Range<usize>>,
    /// Where the last whole frame ends.
    pub(super) end: usize,
}

/// Finds the frames of a file whose header is whole.
pub(super) fn find_frames(file: &[u8], marker: Marker) -> Frames<'_> {
    let mut frames = Frames { whole: Vec::new(), damaged: Vec::new(), end: HEADER };
    let mut at = HEADER;
    loop {
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
            return frames;
        }
    }
}

/// Returns the payload and the end of the frame that begins here, if it is whole.
fn frame_at(file: &[u8], marker: Marker, at: usize) -> Option<(&[u8], usize)> {
    let mut rest = file.get(at..)?.strip_prefix(&marker)?;
    let length = rest.try_get_u32().ok()?;
    let sum = rest.try_get_u32().ok()?;
    let payload = rest.get(..length as usize)?;
    let end = file.len() - rest.len() + payload.len();
    (sum == checksum(length, payload)).then_some((payload, end))
}

fn find_marker(file: &[u8], marker: Marker, from: usize) -> Option<usize> {
    let found = file.get(from..)?.windows(marker.len()).position(|window| window == marker)?;
    Some(from + found)
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&length.to_be_bytes());
    sum.update(payload);
    sum.finalize()
}
