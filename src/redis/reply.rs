//! Reads what the scripts answer.

use std::collections::HashMap;

use bb8_redis::redis::Value;
use bytes::Bytes;

use super::entry;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{Owner, Parent, Profile, StoredMessage, Thread, ThreadId, Trim, Ttl},
};

/// The values of an answer, in order.
#[derive(Debug)]
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    /// An answer's values.
    pub(super) fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    /// The next value as bytes.
    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes.into()),
            Some(Value::SimpleString(text)) => Ok(text.into_bytes().into()),
            Some(Value::Int(number)) => Ok(number.to_string().into_bytes().into()),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// The next value as text.
    pub(super) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|error| Error::Internal(error.into()))
    }

    /// The next value as a number.
    pub(super) fn int(&mut self) -> Result<i64> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(number),
            Some(Value::BulkString(bytes)) => {
                parse_int(&bytes).ok_or_else(|| Error::Internal("a number was expected".into()))
            }
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// The next value as yes or no.
    pub(super) fn flag(&mut self) -> Result<bool> {
        Ok(self.int()? != 0)
    }

    /// The next value as a moment in ms.
    pub(super) fn time(&mut self) -> Result<Timestamp> {
        self.int().map(Timestamp::from_millis)
    }

    /// The next value as an expiry in ms; 0 is none.
    pub(super) fn expiry(&mut self) -> Result<Option<Timestamp>> {
        let at = self.int()?;
        Ok((at != 0).then(|| Timestamp::from_millis(at)))
    }

    /// The next value as a list.
    pub(super) fn list(&mut self) -> Result<Self> {
        match self.0.next() {
            Some(Value::Array(values)) => Ok(Self::new(values)),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// How many values are left.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next value as a thread's fields.
    pub(super) fn fields(&mut self) -> Result<Fields> {
        serde_json::from_slice(&self.bytes()?).map(Fields).map_err(|error| Error::Internal(error.into()))
    }

    /// The next value as messages, each a seq and an entry. Ends before the first damaged one; `key` names the list.
    pub(super) fn messages(&mut self, key: &str) -> Result<Messages> {
        let mut list = self.list()?;
        let mut messages = Vec::with_capacity(list.len() / 2);
        while list.len() > 0 {
            let seq = list.int()?;
            let Some((commit_time, message)) = entry::decode(list.bytes()?) else {
                let damaged = Error::Corrupt { key: key.to_owned(), seq };
                return Ok(Messages { messages, damaged: Some(damaged) });
            };
            messages.push(StoredMessage { seq, commit_time, provisional: false, message });
        }
        Ok(Messages { messages, damaged: None })
    }
}

/// Decoded messages, up to a damaged one.
#[derive(Debug)]
pub(super) struct Messages {
    /// Those before it.
    pub(super) messages: Vec<StoredMessage>,
    /// What is wrong with the next, if one is damaged.
    pub(super) damaged: Option<Error>,
}

impl Messages {
    /// The messages, if none is damaged.
    pub(super) fn whole(self) -> Result<Vec<StoredMessage>> {
        self.damaged.map_or(Ok(self.messages), Err)
    }
}

/// A thread's hash.
#[derive(Debug)]
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
                ttl: Ttl::new("ttl", std::time::Duration::from_millis(ttl)).map_err(|_| damaged())?,
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

fn parse_int(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn unexpected(value: Option<&Value>) -> Error {
    // The kind alone: values hold what users wrote.
    let kind = match value {
        None => "nothing",
        Some(Value::Nil) => "nil",
        Some(Value::Array(_)) => "a list",
        Some(Value::ServerError(_)) => "an error",
        Some(_) => "another kind of value",
    };
    Error::Internal(format!("redis answered {kind} where a script answers otherwise").into())
}
