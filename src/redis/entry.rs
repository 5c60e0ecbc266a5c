//! The stored form of a message: a header that scripts weigh, and the payload that only the wire understands.
//!
//! Big-endian: version (1 byte) · commit time in ms (8, written by the script) · CRC-32 of all that follows (4) ·
//! role (1) · flags (1) · tokens (4) · size on the wire (4) · id (1 + n) · tools (4, then each: kind 1, call id 4 + n,
//! name 4 + n) · payload. `scripts/thread.lua` knows the offsets up to the id.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    clock::Timestamp,
    threads::{Message, MessageId, Role, ToolRef},
};

const VERSION: u8 = 1;
const IN_PROGRESS: u8 = 1;

/// Encodes a message without version and commit time, which the script puts before it.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    let mut body = BytesMut::with_capacity(64 + message.payload.len());
    body.put_u8(message.role.number());
    body.put_u8(if message.in_progress { IN_PROGRESS } else { 0 });
    body.put_u32(message.tokens);
    body.put_u32(message.size);
    // An id is at most 128 bytes long.
    body.put_u8(u8::try_from(message.id.as_str().len()).unwrap_or(u8::MAX));
    body.put_slice(message.id.as_str().as_bytes());
    body.put_u32(u32::try_from(message.tools.len()).unwrap_or(u32::MAX));
    for tool in &message.tools {
        body.put_u8(u8::from(tool.is_result));
        put_text(&mut body, &tool.call_id);
        put_text(&mut body, &tool.name);
    }
    body.put_slice(&message.payload);

    let mut entry = Vec::with_capacity(4 + body.len());
    entry.put_u32(crc32fast::hash(&body));
    entry.extend_from_slice(&body);
    entry
}

/// Decodes an entry; none if it is damaged or of an unknown version.
pub(super) fn decode(mut entry: Bytes) -> Option<(Timestamp, Arc<Message>)> {
    if entry.try_get_u8().ok()? != VERSION {
        return None;
    }
    let commit_time = Timestamp::from_millis(entry.try_get_i64().ok()?);
    if entry.try_get_u32().ok()? != crc32fast::hash(&entry) {
        return None;
    }
    let role = Role::of_number(entry.try_get_u8().ok()?)?;
    let in_progress = entry.try_get_u8().ok()? & IN_PROGRESS != 0;
    let tokens = entry.try_get_u32().ok()?;
    let size = entry.try_get_u32().ok()?;
    let id_length = usize::from(entry.try_get_u8().ok()?);
    let id = take_text(&mut entry, id_length)?;
    let id = MessageId::parse("id", &id).ok()?;
    let count = entry.try_get_u32().ok()?;
    let mut tools = Vec::new();
    for _ in 0..count {
        let is_result = entry.try_get_u8().ok()? != 0;
        tools.push(ToolRef { is_result, call_id: get_text(&mut entry)?, name: get_text(&mut entry)? });
    }
    Some((commit_time, Arc::new(Message { id, role, in_progress, tokens, size, tools, payload: entry })))
}

fn put_text(body: &mut BytesMut, text: &str) {
    // A message is at most 2 MiB large, so every text in it fits.
    body.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    body.put_slice(text.as_bytes());
}

fn get_text(entry: &mut Bytes) -> Option<String> {
    let length = usize::try_from(entry.try_get_u32().ok()?).ok()?;
    take_text(entry, length)
}

fn take_text(entry: &mut Bytes, length: usize) -> Option<String> {
    if entry.len() < length {
        return None;
    }
    String::from_utf8(entry.split_to(length).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            id: MessageId::parse("id", "m-1").unwrap(),
            role: Role::Tool,
            in_progress: true,
            tokens: 7,
            size: 99,
            tools: vec![ToolRef { is_result: true, call_id: "call".into(), name: String::new() }],
            payload: Bytes::from_static(b"\0\xffpayload"),
        }
    }

    fn stored(message: &Message) -> Vec<u8> {
        let mut entry = vec![VERSION];
        entry.put_i64(1_700_000_000_123);
        entry.extend(encode(message));
        entry
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let (time, decoded) = decode(stored(&message()).into()).unwrap();
        assert_eq!(time.as_millis(), 1_700_000_000_123);
        assert_eq!(*decoded, message());
    }

    #[test]
    fn scripts_find_tokens_size_and_id_where_they_look() {
        let entry = stored(&message());
        assert_eq!(entry[15..19], 7u32.to_be_bytes());
        assert_eq!(entry[19..23], 99u32.to_be_bytes());
        assert_eq!(entry[23], 3);
        assert_eq!(&entry[24..27], b"m-1");
    }

    #[test]
    fn any_damaged_byte_behind_the_time_is_noticed() {
        let entry = stored(&message());
        for index in (0..entry.len()).filter(|index| !(1..9).contains(index)) {
            let mut damaged = entry.clone();
            damaged[index] ^= 0x20;
            assert!(decode(damaged.into()).is_none(), "byte {index}");
        }
        for length in 0..entry.len() {
            assert!(decode(Bytes::copy_from_slice(&entry[..length])).is_none(), "length {length}");
        }
    }
}
