//! Messages from the wire into the domain, and back.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost_types::FieldMask;
use sha2::{Digest as _, Sha256};

use super::{
    check::{Check, Path},
    convert,
    fields::masked,
    ids,
    parts::{check_parts, content_bytes, tools},
    proto,
};
use crate::{
    error::{Error, Result},
    threads::{
        Digest, MAX_BATCH, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, Message, MessageId, NewMessage, RequestId,
        Role, StoredMessage, ThreadId,
    },
};

const MAX_NAME_BYTES: usize = 128;
const MAX_MODEL_BYTES: usize = 256;
const MAX_TURN_ID_BYTES: usize = 128;
const MAX_FINISH_REASON_BYTES: usize = 64;
const TOO_LARGE: &str = "must take at most 2 MiB encoded";

/// Parses the messages of an append or a creation.
pub(super) fn parse_batch(
    check: &mut Check,
    messages: Vec<proto::Message>,
    request: Option<&RequestId>,
) -> Option<Vec<NewMessage>> {
    let path = Path::Root("messages");
    if messages.len() > MAX_BATCH {
        check.refuse(path, "must hold at most 100 messages");
        return None;
    }
    let mut bytes = 0_usize;
    let mut parsed = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        if check.is_full() {
            return None;
        }
        let message = without_output(message);
        bytes = bytes.saturating_add(message.encoded_len());
        parsed.push(parse(check, path.index(index), message, request, index));
    }
    check.require(path, bytes <= MAX_BATCH_BYTES, "must take at most 3 MiB encoded together");
    parsed.into_iter().collect()
}

fn parse(
    check: &mut Check,
    path: Path<'_>,
    mut message: proto::Message,
    request: Option<&RequestId>,
    index: usize,
) -> Option<NewMessage> {
    let id = match message.id.as_str() {
        "" => ids::message(request, index),
        id => MessageId::parse_new("id", id),
    };
    let id = check.take(path.field("id"), id);
    let role = role(check, path.field("role"), message.role);
    check_message(check, path, &message);
    let digest = digest(&mut message);
    let (id, role) = (id?, role?);
    Some(NewMessage { message: into_domain(message, id, role), digest })
}

fn check_message(check: &mut Check, path: Path<'_>, message: &proto::Message) {
    for field in &FIELDS {
        (field.check)(check, path.field(field.name), message);
    }
    check.require(path, message.encoded_len() <= MAX_MESSAGE_BYTES, TOO_LARGE);
}

fn check_status(check: &mut Check, path: Path<'_>, status: i32) {
    let is_known = proto::MessageStatus::try_from(status).is_ok();
    check.require(path, is_known, "is no status that this server knows");
}

fn role(check: &mut Check, path: Path<'_>, role: i32) -> Option<Role> {
    let parsed = Role::of_number(role);
    check.require(path, role != 0, "is required");
    check.require(path, role == 0 || parsed.is_some(), "is no role that this server knows");
    parsed
}

/// The digest that a stored message had if it was stored as it was sent.
pub fn digest_of(message: &Message) -> Digest {
    // What was stored was encoded here; what cannot be decoded equals nothing.
    digest(&mut proto::Message::decode(message.payload.clone()).unwrap_or_default())
}

/// Digests role, name, parts and extra as they were sent. Maps are ordered, so equal messages have equal bytes.
fn digest(message: &mut proto::Message) -> Digest {
    let subject = proto::Message {
        role: message.role,
        name: std::mem::take(&mut message.name),
        parts: std::mem::take(&mut message.parts),
        extra: std::mem::take(&mut message.extra),
        ..Default::default()
    };
    let hash = Sha256::digest(subject.encode_to_vec());
    proto::Message { name: message.name, parts: message.parts, extra: message.extra, .. } = subject;
    let mut digest = [0; 16];
    digest.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    Digest(digest)
}

/// Makes the domain's message: what rules look at beside the encoded rest. The size is the one with the id, as a
/// reader gets it; a message without `token_count` is estimated at 4 content bytes a token, rounded up.
fn into_domain(mut message: proto::Message, id: MessageId, role: Role) -> Message {
    if message.status() == proto::MessageStatus::Unspecified {
        message.set_status(proto::MessageStatus::Completed);
    }
    id.as_str().clone_into(&mut message.id);
    let size = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    message.id.clear();
    let tokens = match u32::try_from(message.token_count) {
        Ok(0) | Err(_) => u32::try_from(content_bytes(&message.parts).div_ceil(4)).unwrap_or(u32::MAX),
        Ok(tokens) => tokens,
    };
    Message {
        id,
        role,
        in_progress: message.status() == proto::MessageStatus::InProgress,
        tokens,
        size,
        tools: tools(&message.parts),
        payload: message.encode_to_vec().into(),
    }
}

fn without_output(message: proto::Message) -> proto::Message {
    proto::Message { seq: 0, commit_time: None, provisional: false, ..message }
}

/// Writes a stored message; an error if its payload cannot be decoded.
pub(super) fn write(thread: &ThreadId, stored: &StoredMessage) -> Result<proto::Message> {
    let mut message = decode(thread, stored.seq, &stored.message.payload)?;
    stored.message.id.as_str().clone_into(&mut message.id);
    message.seq = if stored.provisional { 0 } else { stored.seq };
    message.commit_time = Some(convert::timestamp(stored.commit_time));
    message.provisional = stored.provisional;
    Ok(message)
}

fn decode(thread: &ThreadId, seq: i64, payload: &Bytes) -> Result<proto::Message> {
    proto::Message::decode(payload.clone())
        .map_err(|_| Error::Corrupt { key: format!("thread {thread}"), seq })
}

/// A field of a message that has a rule of its own.
pub(super) struct Field {
    name: &'static str,
    /// Checks the field's value in a request; the path is the field's.
    check: fn(&mut Check, Path<'_>, &proto::Message),
    /// Takes the field over from a request, where updates may change it.
    replace: Option<fn(&mut proto::Message, &proto::Message)>,
}

impl Field {
    const fn new(name: &'static str, check: fn(&mut Check, Path<'_>, &proto::Message)) -> Self {
        Self { name, check, replace: None }
    }

    const fn replaced(self, replace: fn(&mut proto::Message, &proto::Message)) -> Self {
        Self { replace: Some(replace), ..self }
    }
}

/// The fields that an update may change.
const REPLACEABLE: [&str; 7] =
    ["parts", "status", "token_count", "model", "finish_reason", "labels", "extra"];

static FIELDS: [Field; 10] = [
    Field::new("name", |check, path, message| check.at_most(path, &message.name, MAX_NAME_BYTES)),
    Field::new("parts", |check, path, message| check_parts(check, path, &message.parts))
        .replaced(|message, new| message.parts.clone_from(&new.parts)),
    Field::new("status", |check, path, message| check_status(check, path, message.status))
        .replaced(|message, new| message.status = new.status),
    Field::new("token_count", |check, path, message| convert::check_count(check, path, message.token_count))
        .replaced(|message, new| message.token_count = new.token_count),
    Field::new("model", |check, path, message| check.at_most(path, &message.model, MAX_MODEL_BYTES))
        .replaced(|message, new| message.model.clone_from(&new.model)),
    Field::new("turn_id", |check, path, message| check.at_most(path, &message.turn_id, MAX_TURN_ID_BYTES)),
    Field::new("labels", |check, path, message| convert::check_labels(check, path, &message.labels))
        .replaced(|message, new| message.labels.clone_from(&new.labels)),
    Field::new("create_time", |check, path, message| {
        convert::check_timestamp(check, path, message.create_time.as_ref());
    }),
    Field::new("finish_reason", |check, path, message| {
        check.at_most(path, &message.finish_reason, MAX_FINISH_REASON_BYTES);
    })
    .replaced(|message, new| message.finish_reason.clone_from(&new.finish_reason)),
    Field::new("extra", |check, path, message| convert::check_extra(check, path, &message.extra))
        .replaced(|message, new| message.extra.clone_from(&new.extra)),
];

/// Parses which fields of a message an update replaces, and checks their new values.
pub(super) fn replaced(
    check: &mut Check,
    path: Path<'_>,
    mask: &FieldMask,
    message: &proto::Message,
) -> Vec<&'static Field> {
    let names = masked(check, mask, &REPLACEABLE, None);
    let fields: Vec<_> =
        names.iter().filter_map(|name| FIELDS.iter().find(|field| field.name == *name)).collect();
    for field in &fields {
        (field.check)(check, path.field(field.name), message);
    }
    fields
}

/// Makes what a store applies to the stored message: the fields replaced, the whole within its limit again.
pub(super) fn revise(
    thread: ThreadId,
    fields: Vec<&'static Field>,
    new: proto::Message,
) -> Arc<crate::threads::Revise> {
    Arc::new(move |stored: &Message| {
        // A revision does not know the seq; the id in the log's span does.
        let mut message = decode(&thread, 0, &stored.payload)?;
        for replace in fields.iter().filter_map(|field| field.replace) {
            replace(&mut message, &new);
        }
        let revised = into_domain(message, stored.id.clone(), stored.role);
        if revised.size as usize > MAX_MESSAGE_BYTES {
            return Err(Error::invalid("message", TOO_LARGE));
        }
        Ok(revised)
    })
}

#[cfg(test)]
mod tests;
