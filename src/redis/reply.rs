//! Reads what the scripts answer.

use bb8_redis::redis::Value;
use bytes::Bytes;

use super::{entry, fields::Fields};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::StoredMessage,
};

/// The values of an answer, in order.
#[derive(Debug)]
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    /// An answer's values.
    pub(super) fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    /// The next value as it is.
    pub(super) fn value(&mut self) -> Option<Value> {
        self.0.next()
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
        let text = match self.0.next() {
            // Taken as it is, not copied.
            Some(Value::BulkString(bytes)) => String::from_utf8(bytes),
            Some(Value::SimpleString(text)) => Ok(text),
            Some(Value::Int(number)) => Ok(number.to_string()),
            other => return Err(unexpected(other.as_ref())),
        };
        text.map_err(|error| Error::Internal(error.into()))
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
        serde_json::from_slice(&self.bytes()?).map_err(|error| Error::Internal(error.into()))
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

/// Reads a decimal number.
pub(super) fn parse_int(bytes: &[u8]) -> Option<i64> {
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
