//! Messages from the wire into the domain, and back.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    check::{Check, Path},
    convert, ids,
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
    check.at_most(path.field("name"), &message.name, MAX_NAME_BYTES);
    check_parts(check, path.field("parts"), &message.parts);
    check_status(check, path.field("status"), message.status);
    convert::check_count(check, path.field("token_count"), message.token_count);
    check.at_most(path.field("model"), &message.model, MAX_MODEL_BYTES);
    check.at_most(path.field("turn_id"), &message.turn_id, MAX_TURN_ID_BYTES);
    convert::check_labels(check, path.field("labels"), &message.labels);
    convert::check_timestamp(check, path.field("create_time"), message.create_time.as_ref());
    check.at_most(path.field("finish_reason"), &message.finish_reason, MAX_FINISH_REASON_BYTES);
    convert::check_extra(check, path.field("extra"), &message.extra);
    check.require(path, message.encoded_len() <= MAX_MESSAGE_BYTES, TOO_LARGE);
}

fn check_status(check: &mut Check, path: Path<'_>, status: i32) {
    check.require(
        path,
        proto::MessageStatus::try_from(status).is_ok(),
        "is no status that this server knows",
    );
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

/// A field of a message that `UpdateMessage` can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Parts,
    Status,
    TokenCount,
    Model,
    FinishReason,
    Labels,
    Extra,
}

impl Field {
    /// Reads a path of an update mask.
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "parts" => Some(Self::Parts),
            "status" => Some(Self::Status),
            "token_count" => Some(Self::TokenCount),
            "model" => Some(Self::Model),
            "finish_reason" => Some(Self::FinishReason),
            "labels" => Some(Self::Labels),
            "extra" => Some(Self::Extra),
            _ => None,
        }
    }

    /// Checks the field's new value.
    pub(super) fn check(self, check: &mut Check, path: Path<'_>, message: &proto::Message) {
        match self {
            Self::Parts => check_parts(check, path.field("parts"), &message.parts),
            Self::Status => check_status(check, path.field("status"), message.status),
            Self::TokenCount => convert::check_count(check, path.field("token_count"), message.token_count),
            Self::Model => check.at_most(path.field("model"), &message.model, MAX_MODEL_BYTES),
            Self::FinishReason => {
                check.at_most(path.field("finish_reason"), &message.finish_reason, MAX_FINISH_REASON_BYTES);
            }
            Self::Labels => convert::check_labels(check, path.field("labels"), &message.labels),
            Self::Extra => convert::check_extra(check, path.field("extra"), &message.extra),
        }
    }

    fn replace(self, message: &mut proto::Message, new: &proto::Message) {
        match self {
            Self::Parts => message.parts.clone_from(&new.parts),
            Self::Status => message.status = new.status,
            Self::TokenCount => message.token_count = new.token_count,
            Self::Model => message.model.clone_from(&new.model),
            Self::FinishReason => message.finish_reason.clone_from(&new.finish_reason),
            Self::Labels => message.labels.clone_from(&new.labels),
            Self::Extra => message.extra.clone_from(&new.extra),
        }
    }
}

/// Makes what a store applies to the stored message: the fields replaced, the whole within its limit again.
pub(super) fn revise(
    thread: ThreadId,
    fields: Vec<Field>,
    new: proto::Message,
) -> Arc<crate::threads::Revise> {
    Arc::new(move |stored: &Message| {
        // A revision does not know the seq; the id in the log's span does.
        let mut message = decode(&thread, 0, &stored.payload)?;
        for field in &fields {
            field.replace(&mut message, &new);
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
