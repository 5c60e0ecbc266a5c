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

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(crate) const TTL: Duration = Duration::from_mins(10);
pub(crate) const LIMITS: Limits = Limits { max_messages: 1000, max_bytes: 4 << 20 };

pub(crate) fn call() -> Call {
    Call::default()
}

pub(crate) fn shared_only() -> Call {
    Call { require_shared: true, ..Call::default() }
}

pub(crate) fn thread_id(id: &str) -> ThreadId {
    ThreadId::parse("id", id).unwrap()
}

pub(crate) fn message_id(id: &str) -> MessageId {
    MessageId::parse("id", id).unwrap()
}

pub(crate) fn owner(id: &str) -> Owner {
    Owner::parse("owner", id).unwrap()
}

pub(crate) fn request(id: &str) -> RequestId {
    RequestId::parse("request_id", id).unwrap()
}

pub(crate) fn ttl(ttl: Duration) -> Ttl {
    Ttl::new("ttl", ttl).unwrap()
}

pub(crate) fn profile() -> Profile {
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
pub(crate) fn sized(id: &str, role: Role, size: u32) -> NewMessage {
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
pub(crate) fn said(id: &str) -> NewMessage {
    sized(id, Role::User, 100)
}

/// An instruction of 100 bytes.
pub(crate) fn instructed(id: &str) -> NewMessage {
    sized(id, Role::System, 100)
}

pub(crate) fn new_thread(id: &str, messages: Vec<NewMessage>) -> NewThread {
    NewThread { id: thread_id(id), profile: profile(), messages, request_id: None }
}

pub(crate) fn append(id: &str, messages: Vec<NewMessage>) -> Append {
    Append { id: thread_id(id), messages, owner: None, create: None, etag: None }
}

pub(crate) fn append_or_create(id: &str, messages: Vec<NewMessage>) -> Append {
    Append { create: Some(ttl(TTL)), ..append(id, messages) }
}

/// All messages, ascending, without renewal.
pub(crate) fn pages(id: &str, limit: usize) -> MessagesQuery {
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
