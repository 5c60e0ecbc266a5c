//! The encoding of records: protobuf messages, and the way from and to the words of [`crate::threads::journal`].
//!
//! The field numbers are the format and never change their meaning. A field may be added: older versions skip it. What
//! they must not skip needs a new kind of record, which they refuse to read, or a new version of the format.

mod origin;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;

use crate::{
    clock::Timestamp,
    error::Violation,
    threads::{
        Digest, MAX_BATCH, Message, MessageId, Role, ToolRef, Ttl,
        replay::{Entry, Record, RunId},
    },
};

use origin::PbOrigin;

type Result<T> = std::result::Result<T, Violation>;

/// What one append holds: all of it is read, or nothing.
#[derive(Clone, PartialEq, prost::Message)]
struct PbAppend {
    #[prost(message, repeated, tag = "1")]
    records: Vec<PbRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbRecord {
    #[prost(oneof = "PbKind", tags = "1, 2, 3, 4")]
    kind: Option<PbKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PbKind {
    #[prost(message, tag = "1")]
    Began(Box<PbBegan>),
    #[prost(message, tag = "2")]
    Accepted(PbAccepted),
    #[prost(message, tag = "3")]
    Touched(PbTouched),
    #[prost(message, tag = "4")]
    Settled(PbSettled),
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbBegan {
    #[prost(uint64, tag = "1")]
    run: u64,
    #[prost(message, optional, tag = "2")]
    origin: Option<PbOrigin>,
    #[prost(bool, tag = "3")]
    creates: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbAccepted {
    #[prost(uint64, tag = "1")]
    run: u64,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<PbEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbTouched {
    #[prost(uint64, tag = "1")]
    run: u64,
    #[prost(int64, optional, tag = "2")]
    ttl_ms: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbSettled {
    #[prost(uint64, tag = "1")]
    run: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbEntry {
    #[prost(message, optional, tag = "1")]
    message: Option<PbMessage>,
    #[prost(bytes = "bytes", tag = "2")]
    digest: Bytes,
    #[prost(int64, tag = "3")]
    time_ms: i64,
    #[prost(bool, tag = "4")]
    is_repair: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbMessage {
    #[prost(string, tag = "1")]
    id: String,
    /// 1 system, 2 developer, 3 user, 4 assistant, 5 tool.
    #[prost(uint32, tag = "2")]
    role: u32,
    #[prost(bool, tag = "3")]
    in_progress: bool,
    #[prost(uint32, tag = "4")]
    tokens: u32,
    #[prost(uint32, tag = "5")]
    size: u32,
    #[prost(message, repeated, tag = "6")]
    tools: Vec<PbToolRef>,
    #[prost(bytes = "bytes", tag = "7")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbToolRef {
    #[prost(bool, tag = "1")]
    is_result: bool,
    #[prost(string, tag = "2")]
    call_id: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// Encodes the records of one append.
pub(super) fn encode(records: &[Record]) -> Vec<u8> {
    PbAppend { records: records.iter().map(to_record).collect() }.encode_to_vec()
}

/// Encodes one record so that no piece holds more messages than an append does: the messages of a long run can take more
/// bytes than one frame may.
pub(super) fn encode_in_pieces(record: &Record) -> Vec<Vec<u8>> {
    match record {
        Record::Accepted { run, entries } if entries.len() > MAX_BATCH => entries
            .chunks(MAX_BATCH)
            .map(|entries| encode(&[Record::Accepted { run: *run, entries: entries.to_vec() }]))
            .collect(),
        Record::Began { .. } | Record::Accepted { .. } | Record::Touched { .. } | Record::Settled { .. } => {
            vec![encode(std::slice::from_ref(record))]
        }
    }
}

/// Decodes the records of one append. An error is no damage, which the checksum would have shown: another version wrote
/// what this one does not know.
pub(super) fn decode(encoded: &[u8]) -> Result<Vec<Record>> {
    // From a slice, so that no payload keeps the whole file in memory.
    let append = PbAppend::decode(encoded).map_err(|cause| Violation::new("append", cause.to_string()))?;
    append.records.into_iter().map(record_of).collect()
}

/// About how many bytes records take when they are encoded; at once, where encoding them would take its time.
pub(super) fn estimate(records: &[Record]) -> u64 {
    let size = |record: &Record| match record {
        Record::Began { .. } => 256,
        Record::Accepted { entries, .. } => {
            entries.iter().map(|entry| 96 + entry.message.payload.len()).sum()
        }
        Record::Touched { .. } | Record::Settled { .. } => 32,
    };
    records.iter().map(|record| u64::try_from(size(record)).unwrap_or(u64::MAX)).sum()
}

fn to_record(record: &Record) -> PbRecord {
    let kind = match record {
        Record::Began { run, origin, creates } => PbKind::Began(Box::new(PbBegan {
            run: run.0,
            origin: Some(PbOrigin::from(&**origin)),
            creates: *creates,
        })),
        Record::Accepted { run, entries } => {
            PbKind::Accepted(PbAccepted { run: run.0, entries: entries.iter().map(to_entry).collect() })
        }
        Record::Touched { run, ttl } => {
            PbKind::Touched(PbTouched { run: run.0, ttl_ms: ttl.map(Ttl::as_millis) })
        }
        Record::Settled { run } => PbKind::Settled(PbSettled { run: run.0 }),
    };
    PbRecord { kind: Some(kind) }
}

fn record_of(record: PbRecord) -> Result<Record> {
    let kind = record.kind.ok_or_else(|| Violation::new("record", "is of a kind that is not known"))?;
    Ok(match kind {
        PbKind::Began(began) => Record::Began {
            run: RunId(began.run),
            origin: Arc::new(began.origin.ok_or_else(|| missing("origin"))?.try_into()?),
            creates: began.creates,
        },
        PbKind::Accepted(PbAccepted { run, entries }) => Record::Accepted {
            run: RunId(run),
            entries: entries.into_iter().map(entry_of).collect::<Result<_>>()?,
        },
        PbKind::Touched(PbTouched { run, ttl_ms }) => Record::Touched {
            run: RunId(run),
            ttl: ttl_ms.map(|millis| ttl_of("touched.ttl", millis)).transpose()?,
        },
        PbKind::Settled(PbSettled { run }) => Record::Settled { run: RunId(run) },
    })
}

fn missing(field: &str) -> Violation {
    Violation::new(field, "is missing")
}

fn ttl_of(field: &str, millis: i64) -> Result<Ttl> {
    Ttl::new(field, Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
}

fn to_entry(entry: &Entry) -> PbEntry {
    let Message { id, role, in_progress, tokens, size, tools, payload } = &*entry.message;
    let to_tool = |tool: &ToolRef| PbToolRef {
        is_result: tool.is_result,
        call_id: tool.call_id.clone(),
        name: tool.name.clone(),
    };
    PbEntry {
        message: Some(PbMessage {
            id: id.to_string(),
            role: role_code(*role),
            in_progress: *in_progress,
            tokens: *tokens,
            size: *size,
            tools: tools.iter().map(to_tool).collect(),
            payload: payload.clone(),
        }),
        digest: Bytes::copy_from_slice(&entry.digest.0),
        time_ms: entry.time.as_millis(),
        is_repair: entry.is_repair,
    }
}

fn entry_of(entry: PbEntry) -> Result<Entry> {
    let message = entry.message.ok_or_else(|| missing("entry.message"))?;
    let tool_of =
        |tool: PbToolRef| ToolRef { is_result: tool.is_result, call_id: tool.call_id, name: tool.name };
    let digest = <[u8; 16]>::try_from(&*entry.digest)
        .map_err(|_| Violation::new("entry.digest", "must be 16 bytes long"))?;
    Ok(Entry {
        message: Arc::new(Message {
            id: MessageId::parse("entry.message.id", &message.id)?,
            role: role_of(message.role)?,
            in_progress: message.in_progress,
            tokens: message.tokens,
            size: message.size,
            tools: message.tools.into_iter().map(tool_of).collect(),
            payload: message.payload,
        }),
        digest: Digest(digest),
        time: Timestamp::from_millis(entry.time_ms),
        is_repair: entry.is_repair,
    })
}

fn role_code(role: Role) -> u32 {
    match role {
        Role::System => 1,
        Role::Developer => 2,
        Role::User => 3,
        Role::Assistant => 4,
        Role::Tool => 5,
    }
}

fn role_of(code: u32) -> Result<Role> {
    match code {
        1 => Ok(Role::System),
        2 => Ok(Role::Developer),
        3 => Ok(Role::User),
        4 => Ok(Role::Assistant),
        5 => Ok(Role::Tool),
        _ => Err(Violation::new("entry.message.role", format!("{code} is not known"))),
    }
}
