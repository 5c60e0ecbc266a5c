//! A thread's hash: what is written into it, and the thread that it tells of.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{Owner, Parent, Profile, Thread, ThreadChange, ThreadId, Trim, Ttl},
};

/// A thread's hash.
#[derive(Debug, Deserialize)]
pub(super) struct Fields(HashMap<String, serde_json::Value>);

impl Fields {
    /// A field's text, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A field's number; the scripts have checked that it is one.
    pub(super) fn int(&self, name: &str) -> i64 {
        let number = self.0.get(name).and_then(|value| match value {
            serde_json::Value::Number(number) => number.as_i64(),
            serde_json::Value::String(text) => text.parse().ok(),
            _ => None,
        });
        number.unwrap_or_default()
    }

    /// Makes the thread; `key` is named when a field is damaged.
    pub(super) fn thread(&self, id: &ThreadId, key: &str, expire_time: Option<Timestamp>) -> Result<Thread> {
        let damaged = || Error::Corrupt { key: key.to_owned(), seq: 0 };
        let text = |name: &str| self.text(name).unwrap_or_default().to_owned();
        let filled = |name: &str| self.text(name).filter(|text| !text.is_empty());
        let owner = filled("owner").map(|owner| Owner::parse("owner", owner)).transpose();
        let parent_id = filled("parent").map(|id| ThreadId::parse("parent", id)).transpose();
        let ttl = u64::try_from(self.int("ttl")).map_err(|_| damaged())?;
        let count = self.int("count");
        Ok(Thread {
            id: id.clone(),
            profile: Profile {
                owner: owner.map_err(|_| damaged())?,
                title: text("title"),
                labels: serde_json::from_str(self.text("labels").unwrap_or("{}")).map_err(|_| damaged())?,
                ttl: Ttl::new("ttl", Duration::from_millis(ttl)).map_err(|_| damaged())?,
                pinned: self.int("pinned") == 1,
                trim: Trim { max_messages: self.int("trim_messages"), max_bytes: self.int("trim_bytes") },
            },
            epoch: text("epoch"),
            revision: self.int("revision"),
            message_count: count,
            first_seq: match (count, self.int("kept")) {
                (0, _) => 0,
                (_, 0) => self.int("first_seq"),
                _ => self.int("kept_first"),
            },
            last_seq: self.int("last_seq"),
            token_count: self.int("tokens"),
            size_bytes: self.int("bytes"),
            parent: parent_id
                .map_err(|_| damaged())?
                .map(|thread_id| Parent { thread_id, seq: self.int("parent_seq") }),
            create_time: Timestamp::from_millis(self.int("created")),
            update_time: Timestamp::from_millis(self.int("updated")),
            expire_time,
            local: false,
        })
    }
}

/// A thread that an append creates.
pub(super) fn default_profile(owner: Option<Owner>, ttl: Ttl) -> Profile {
    let (title, labels) = (String::new(), BTreeMap::new());
    Profile { owner, title, labels, ttl, pinned: false, trim: Trim::default() }
}

/// The fields of a new thread's hash that callers choose.
pub(super) fn profile_fields(profile: &Profile) -> Vec<(&'static str, String)> {
    let change = ThreadChange {
        title: Some(profile.title.clone()),
        labels: Some(profile.labels.clone()),
        ttl: Some(profile.ttl),
        pinned: Some(profile.pinned),
        trim: Some(profile.trim),
    };
    let mut fields = change_fields(&change);
    fields.push(("owner", profile.owner.as_ref().map(Owner::to_string).unwrap_or_default()));
    fields
}

pub(super) fn change_fields(change: &ThreadChange) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    if let Some(title) = &change.title {
        fields.push(("title", title.clone()));
    }
    if let Some(labels) = &change.labels {
        fields.push(("labels", serde_json::json!(labels).to_string()));
    }
    if let Some(ttl) = change.ttl {
        fields.push(("ttl", ttl.as_millis().to_string()));
    }
    if let Some(pinned) = change.pinned {
        fields.push(("pinned", u8::from(pinned).to_string()));
    }
    if let Some(trim) = change.trim {
        fields.push(("trim_messages", trim.max_messages.to_string()));
        fields.push(("trim_bytes", trim.max_bytes.to_string()));
    }
    fields
}
