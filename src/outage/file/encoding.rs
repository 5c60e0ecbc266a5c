//! The payload of a frame: the messages of `journal.proto`, and their conversion from and to [`crate::threads::replay`].

use std::{slice, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;

use crate::{
    clock::Timestamp,
    error::Violation,
    threads::{
        Digest, MAX_BATCH, Message, MessageId, Owner, Parent, Profile, RequestId, Role, Thread, ThreadId,
        ToolRef, Trim, Ttl,
        replay::{BatchId, Origin, PendingMessage, Record},
    },
};

/// The messages of `journal.proto`.
mod pb {
    #![expect(unreachable_pub, clippy::pedantic, clippy::large_enum_variant, reason = "generated")]

    include!(concat!(env!("OUT_DIR"), "/fusewire.journal.rs"));
}

use pb::record::Kind;

type Result<T> = std::result::Result<T, Violation>;

/// Encodes the records of one append.
pub(super) fn encode(records: &[Record]) -> Vec<u8> {
    pb::Append { records: records.iter().map(encode_record).collect() }.encode_to_vec()
}

/// Encodes one record as several appends of at most [`MAX_BATCH`] messages each, because the messages of a long batch can
/// take more bytes than a frame can hold.
pub(super) fn encode_in_pieces(record: &Record) -> Vec<Vec<u8>> {
    let piece = |record: &Record| encode(slice::from_ref(record));
    match record {
        Record::Accepted { batch, entries } if entries.len() > MAX_BATCH => entries
            .chunks(MAX_BATCH)
            .map(|entries| piece(&Record::Accepted { batch: *batch, entries: entries.to_vec() }))
            .collect(),
        _ => vec![piece(record)],
    }
}

/// Estimates the bytes that records take in the file, because to encode them takes too long for the caller.
pub(super) fn estimate(records: &[Record]) -> u64 {
    let size = |record: &Record| match record {
        Record::Began { .. } => 256,
        Record::Accepted { entries, .. } => {
            entries.iter().map(|entry| 96 + entry.message.payload.len()).sum()
        }
        Record::Touched { .. } | Record::Settled { .. } => 32,
    };
    records.iter().map(size).sum::<usize>() as u64
}

/// Decodes the records of one append. An error means that another release wrote the append: its checksum is right, so
/// that the disk did not damage it.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<Record>> {
    // prost copies the bytes of a slice; decoded from `Bytes`, each message would keep the whole file in memory.
    let append = pb::Append::decode(payload).map_err(|cause| Violation::new("append", cause.to_string()))?;
    append.records.into_iter().map(decode_record).collect()
}

fn encode_record(record: &Record) -> pb::Record {
    let kind = match record {
        Record::Began { batch, origin, creates } => {
            Kind::Began(pb::Began { run: batch.0, origin: Some(encode_origin(origin)), creates: *creates })
        }
        Record::Accepted { batch, entries } => {
            Kind::Accepted(pb::Accepted { run: batch.0, entries: entries.iter().map(encode_entry).collect() })
        }
        Record::Touched { batch, ttl } => {
            Kind::Touched(pb::Touched { run: batch.0, ttl_ms: ttl.map(Ttl::as_millis) })
        }
        Record::Settled { batch } => Kind::Settled(pb::Settled { run: batch.0 }),
    };
    pb::Record { kind: Some(kind) }
}

fn decode_record(record: pb::Record) -> Result<Record> {
    let kind = record.kind.ok_or_else(|| Violation::new("record", "is of a kind that is not known"))?;
    Ok(match kind {
        Kind::Began(pb::Began { run, origin, creates }) => {
            let origin = Arc::new(decode_origin(required("origin", origin)?)?);
            Record::Began { batch: BatchId(run), origin, creates }
        }
        Kind::Accepted(pb::Accepted { run, entries }) => {
            let entries = entries.into_iter().map(decode_entry).collect::<Result<_>>()?;
            Record::Accepted { batch: BatchId(run), entries }
        }
        Kind::Touched(pb::Touched { run, ttl_ms }) => {
            let ttl = ttl_ms.map(|millis| decode_ttl("touched.ttl", millis)).transpose()?;
            Record::Touched { batch: BatchId(run), ttl }
        }
        Kind::Settled(pb::Settled { run }) => Record::Settled { batch: BatchId(run) },
    })
}

fn encode_origin(origin: &Origin) -> pb::Origin {
    pb::Origin {
        thread: Some(encode_thread(&origin.thread)),
        any_owner: origin.any_owner,
        created_by: origin.created_by.as_ref().map(RequestId::to_string),
    }
}

fn decode_origin(origin: pb::Origin) -> Result<Origin> {
    let created_by = |id: String| RequestId::parse("origin.created_by", &id);
    Ok(Origin {
        thread: decode_thread(required("origin.thread", origin.thread)?)?,
        any_owner: origin.any_owner,
        created_by: origin.created_by.map(created_by).transpose()?,
    })
}

fn encode_thread(thread: &Thread) -> pb::Thread {
    let parent = |parent: &Parent| pb::Parent { thread_id: parent.thread_id.to_string(), seq: parent.seq };
    pb::Thread {
        id: thread.id.to_string(),
        profile: Some(encode_profile(&thread.profile)),
        epoch: thread.epoch.clone(),
        revision: thread.revision,
        message_count: thread.message_count,
        first_seq: thread.first_seq,
        last_seq: thread.last_seq,
        token_count: thread.token_count,
        size_bytes: thread.size_bytes,
        parent: thread.parent.as_ref().map(parent),
        create_time_ms: thread.create_time.as_millis(),
        update_time_ms: thread.update_time.as_millis(),
        expire_time_ms: thread.expire_time.map(Timestamp::as_millis),
        local: thread.local,
    }
}

fn decode_thread(thread: pb::Thread) -> Result<Thread> {
    let parent = |pb::Parent { thread_id, seq }| {
        ThreadId::parse("thread.parent", &thread_id).map(|thread_id| Parent { thread_id, seq })
    };
    Ok(Thread {
        id: ThreadId::parse("thread.id", &thread.id)?,
        profile: decode_profile(required("thread.profile", thread.profile)?)?,
        epoch: thread.epoch,
        revision: thread.revision,
        message_count: thread.message_count,
        first_seq: thread.first_seq,
        last_seq: thread.last_seq,
        token_count: thread.token_count,
        size_bytes: thread.size_bytes,
        parent: thread.parent.map(parent).transpose()?,
        create_time: Timestamp::from_millis(thread.create_time_ms),
        update_time: Timestamp::from_millis(thread.update_time_ms),
        expire_time: thread.expire_time_ms.map(Timestamp::from_millis),
        local: thread.local,
    })
}

fn encode_profile(profile: &Profile) -> pb::Profile {
    pb::Profile {
        owner: profile.owner.as_ref().map(Owner::to_string),
        title: profile.title.clone(),
        labels: profile.labels.clone(),
        ttl_ms: profile.ttl.as_millis(),
        pinned: profile.pinned,
        trim_max_messages: profile.trim.max_messages,
        trim_max_bytes: profile.trim.max_bytes,
    }
}

fn decode_profile(profile: pb::Profile) -> Result<Profile> {
    let owner = |owner: String| Owner::parse("profile.owner", &owner);
    Ok(Profile {
        owner: profile.owner.map(owner).transpose()?,
        title: profile.title,
        labels: profile.labels,
        ttl: decode_ttl("profile.ttl", profile.ttl_ms)?,
        pinned: profile.pinned,
        trim: Trim { max_messages: profile.trim_max_messages, max_bytes: profile.trim_max_bytes },
    })
}

fn encode_entry(entry: &PendingMessage) -> pb::Entry {
    let message = &*entry.message;
    let tool = |tool: &ToolRef| {
        let ToolRef { is_result, call_id, name } = tool.clone();
        pb::ToolRef { is_result, call_id, name }
    };
    let role = match message.role {
        Role::System => pb::Role::System,
        Role::Developer => pb::Role::Developer,
        Role::User => pb::Role::User,
        Role::Assistant => pb::Role::Assistant,
        Role::Tool => pb::Role::Tool,
    };
    let message = pb::Message {
        id: message.id.to_string(),
        role: role.into(),
        in_progress: message.in_progress,
        tokens: message.tokens,
        size: message.size,
        tools: message.tools.iter().map(tool).collect(),
        payload: message.payload.clone(),
    };
    pb::Entry {
        message: Some(message),
        digest: Bytes::copy_from_slice(&entry.digest.0),
        time_ms: entry.time.as_millis(),
        is_repair: entry.is_repair,
    }
}

fn decode_entry(entry: pb::Entry) -> Result<PendingMessage> {
    let message = required("entry.message", entry.message)?;
    let tool = |pb::ToolRef { is_result, call_id, name }| ToolRef { is_result, call_id, name };
    let role = match message.role() {
        pb::Role::System => Role::System,
        pb::Role::Developer => Role::Developer,
        pb::Role::User => Role::User,
        pb::Role::Assistant => Role::Assistant,
        pb::Role::Tool => Role::Tool,
        pb::Role::Unspecified => {
            return Err(Violation::new("entry.message.role", format!("{} is not known", message.role)));
        }
    };
    let message = Message {
        id: MessageId::parse("entry.message.id", &message.id)?,
        role,
        in_progress: message.in_progress,
        tokens: message.tokens,
        size: message.size,
        tools: message.tools.into_iter().map(tool).collect(),
        payload: message.payload,
    };
    let digest = <[u8; 16]>::try_from(&*entry.digest)
        .map_err(|_| Violation::new("entry.digest", "must be 16 bytes long"))?;
    Ok(PendingMessage {
        message: Arc::new(message),
        digest: Digest(digest),
        time: Timestamp::from_millis(entry.time_ms),
        is_repair: entry.is_repair,
    })
}

fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Violation::new(field, "is missing"))
}

fn decode_ttl(field: &str, millis: i64) -> Result<Ttl> {
    Ttl::new(field, Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
}
