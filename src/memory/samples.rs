//! Values for the tests of this folder.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{
    call::Call,
    clock::Timestamp,
    threads::{
        Append, Digest, Limits, Message, MessageId, MessagesQuery, NewMessage, NewThread, Owner, Profile,
        RequestId, Role, ThreadId, Trim, Ttl,
    },
};

pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(super) const TTL: Duration = Duration::from_mins(10);
pub(super) const LIMITS: Limits = Limits { max_messages: 1000, max_bytes: 4 << 20 };

pub(super) fn call() -> Call {
    Call::default()
}

pub(super) fn shared_only() -> Call {
    Call { require_shared: true, ..Call::default() }
}

pub(super) fn thread_id(id: &str) -> ThreadId {
    ThreadId::parse("id", id).unwrap()
}

pub(super) fn message_id(id: &str) -> MessageId {
    MessageId::parse("id", id).unwrap()
}

pub(super) fn owner(id: &str) -> Owner {
    Owner::parse("owner", id).unwrap()
}

pub(super) fn request(id: &str) -> RequestId {
    RequestId::parse("request_id", id).unwrap()
}

pub(super) fn ttl(ttl: Duration) -> Ttl {
    Ttl::new("ttl", ttl).unwrap()
}

pub(super) fn profile() -> Profile {
    Profile {
        owner: Some(owner("ada")),
        title: "trip".to_owned(),
        labels: BTreeMap::new(),
        ttl: ttl(TTL),
        pinned: false,
        trim: Trim::default(),
    }
}

/// A message whose content is its role and size.
pub(super) fn sized(id: &str, role: Role, size: u32) -> NewMessage {
    let mut digest = [0; 16];
    digest[..4].copy_from_slice(&size.to_be_bytes());
    digest[4] = u8::from(role.is_instruction());
    NewMessage {
        message: Message {
            id: message_id(id),
            role,
            in_progress: false,
            tokens: size / 4,
            size,
            tools: Vec::new(),
            payload: Bytes::new(),
        },
        digest: Digest(digest),
    }
}

/// A person's message of 100 bytes.
pub(super) fn said(id: &str) -> NewMessage {
    sized(id, Role::User, 100)
}

/// An instruction of 100 bytes.
pub(super) fn instructed(id: &str) -> NewMessage {
    sized(id, Role::System, 100)
}

pub(super) fn new_thread(id: &str, messages: Vec<NewMessage>) -> NewThread {
    NewThread { id: thread_id(id), profile: profile(), messages, request_id: None }
}

pub(super) fn append(id: &str, messages: Vec<NewMessage>) -> Append {
    Append { id: thread_id(id), messages, owner: None, create: None, etag: None }
}

pub(super) fn append_or_create(id: &str, messages: Vec<NewMessage>) -> Append {
    Append { create: Some(ttl(TTL)), ..append(id, messages) }
}

/// All messages, ascending, without renewal.
pub(super) fn pages(id: &str, limit: usize) -> MessagesQuery {
    MessagesQuery {
        id: thread_id(id),
        after_seq: 0,
        before_seq: 0,
        descending: false,
        limit,
        cursor: None,
        renew: false,
    }
}
