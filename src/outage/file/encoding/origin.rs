//! The encoding of the thread that writes were accepted for.

use std::collections::BTreeMap;

use super::{Result, missing, ttl_of};
use crate::{
    clock::Timestamp,
    error::Violation,
    threads::{Owner, Parent, Profile, RequestId, Thread, ThreadId, Trim, replay::Origin},
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PbOrigin {
    #[prost(message, optional, tag = "1")]
    thread: Option<PbThread>,
    #[prost(bool, tag = "2")]
    any_owner: bool,
    #[prost(string, optional, tag = "3")]
    created_by: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbThread {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    profile: Option<PbProfile>,
    #[prost(string, tag = "3")]
    epoch: String,
    #[prost(int64, tag = "4")]
    revision: i64,
    #[prost(int64, tag = "5")]
    message_count: i64,
    #[prost(int64, tag = "6")]
    first_seq: i64,
    #[prost(int64, tag = "7")]
    last_seq: i64,
    #[prost(int64, tag = "8")]
    token_count: i64,
    #[prost(int64, tag = "9")]
    size_bytes: i64,
    #[prost(message, optional, tag = "10")]
    parent: Option<PbParent>,
    #[prost(int64, tag = "11")]
    create_time_ms: i64,
    #[prost(int64, tag = "12")]
    update_time_ms: i64,
    #[prost(int64, optional, tag = "13")]
    expire_time_ms: Option<i64>,
    #[prost(bool, tag = "14")]
    local: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbProfile {
    #[prost(string, optional, tag = "1")]
    owner: Option<String>,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
    #[prost(int64, tag = "4")]
    ttl_ms: i64,
    #[prost(bool, tag = "5")]
    pinned: bool,
    #[prost(int64, tag = "6")]
    trim_max_messages: i64,
    #[prost(int64, tag = "7")]
    trim_max_bytes: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbParent {
    #[prost(string, tag = "1")]
    thread_id: String,
    #[prost(int64, tag = "2")]
    seq: i64,
}

impl From<&Origin> for PbOrigin {
    fn from(origin: &Origin) -> Self {
        Self {
            thread: Some((&origin.thread).into()),
            any_owner: origin.any_owner,
            created_by: origin.created_by.as_ref().map(RequestId::to_string),
        }
    }
}

impl TryFrom<PbOrigin> for Origin {
    type Error = Violation;

    fn try_from(origin: PbOrigin) -> Result<Self> {
        let created_by = |id: &str| RequestId::parse("origin.created_by", id);
        Ok(Self {
            thread: origin.thread.ok_or_else(|| missing("origin.thread"))?.try_into()?,
            any_owner: origin.any_owner,
            created_by: origin.created_by.as_deref().map(created_by).transpose()?,
        })
    }
}

impl From<&Thread> for PbThread {
    fn from(thread: &Thread) -> Self {
        let to_parent =
            |parent: &Parent| PbParent { thread_id: parent.thread_id.to_string(), seq: parent.seq };
        Self {
            id: thread.id.to_string(),
            profile: Some((&thread.profile).into()),
            epoch: thread.epoch.clone(),
            revision: thread.revision,
            message_count: thread.message_count,
            first_seq: thread.first_seq,
            last_seq: thread.last_seq,
            token_count: thread.token_count,
            size_bytes: thread.size_bytes,
            parent: thread.parent.as_ref().map(to_parent),
            create_time_ms: thread.create_time.as_millis(),
            update_time_ms: thread.update_time.as_millis(),
            expire_time_ms: thread.expire_time.map(Timestamp::as_millis),
            local: thread.local,
        }
    }
}

impl TryFrom<PbThread> for Thread {
    type Error = Violation;

    fn try_from(thread: PbThread) -> Result<Self> {
        let parent_of = |parent: PbParent| {
            let thread_id = ThreadId::parse("thread.parent", &parent.thread_id)?;
            Ok(Parent { thread_id, seq: parent.seq })
        };
        Ok(Self {
            id: ThreadId::parse("thread.id", &thread.id)?,
            profile: thread.profile.ok_or_else(|| missing("thread.profile"))?.try_into()?,
            epoch: thread.epoch,
            revision: thread.revision,
            message_count: thread.message_count,
            first_seq: thread.first_seq,
            last_seq: thread.last_seq,
            token_count: thread.token_count,
            size_bytes: thread.size_bytes,
            parent: thread.parent.map(parent_of).transpose()?,
            create_time: Timestamp::from_millis(thread.create_time_ms),
            update_time: Timestamp::from_millis(thread.update_time_ms),
            expire_time: thread.expire_time_ms.map(Timestamp::from_millis),
            local: thread.local,
        })
    }
}

impl From<&Profile> for PbProfile {
    fn from(profile: &Profile) -> Self {
        let Profile { owner, title, labels, ttl, pinned, trim } = profile;
        Self {
            owner: owner.as_ref().map(Owner::to_string),
            title: title.clone(),
            labels: labels.clone(),
            ttl_ms: ttl.as_millis(),
            pinned: *pinned,
            trim_max_messages: trim.max_messages,
            trim_max_bytes: trim.max_bytes,
        }
    }
}

impl TryFrom<PbProfile> for Profile {
    type Error = Violation;

    fn try_from(profile: PbProfile) -> Result<Self> {
        let owner_of = |owner: &str| Owner::parse("profile.owner", owner);
        Ok(Self {
            owner: profile.owner.as_deref().map(owner_of).transpose()?,
            title: profile.title,
            labels: profile.labels,
            ttl: ttl_of("profile.ttl", profile.ttl_ms)?,
            pinned: profile.pinned,
            trim: Trim { max_messages: profile.trim_max_messages, max_bytes: profile.trim_max_bytes },
        })
    }
}
