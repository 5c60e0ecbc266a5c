//! Messages as the stores see them: an envelope that rules look at, and a payload that only the wire understands.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::ids::MessageId;
use crate::{clock::Timestamp, error::Result};

/// Who speaks. Stores and the contract number the roles in this order, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions of the system.
    System,
    /// Instructions of the developer; ranks as system.
    Developer,
    /// The person, or whoever asks.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

impl Role {
    /// Every role.
    const ALL: [Self; 5] = [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool];

    /// The role's number.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// The role of a number.
    pub fn of_number(number: impl TryInto<usize>) -> Option<Self> {
        Self::ALL.get(number.try_into().ok()?.checked_sub(1)?).copied()
    }

    /// Whether messages of this role survive trimming and are in every context.
    pub fn is_instruction(self) -> bool {
        matches!(self, Self::System | Self::Developer)
    }
}

/// A tool call in a message, or the result of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRef {
    /// Whether it is the result.
    pub is_result: bool,
    /// Pairs call and result; may be empty, then `name` and order do.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
}

/// A message without its place in a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Who speaks.
    pub role: Role,
    /// Whether it is still being written; such messages are in no context.
    pub in_progress: bool,
    /// Tokens it takes in a prompt: the caller's number, or an estimate.
    pub tokens: u32,
    /// Its size on the wire in bytes.
    pub size: u32,
    /// Its tool calls and results, in order.
    pub tools: Vec<ToolRef>,
    /// The encoded content; no store looks into it.
    pub payload: Bytes,
}

/// A digest of what makes two messages the same: role, name, parts and extra as the caller sent them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message to be appended.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The message.
    pub message: Message,
    /// What it is compared by when its id is used again.
    pub digest: Digest,
}

/// A message in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its position. While `provisional` a place in this process's memory only, not to be shown.
    pub seq: i64,
    /// When it was stored.
    pub commit_time: Timestamp,
    /// True while only this process's memory holds it.
    pub provisional: bool,
    /// The message.
    pub message: Arc<Message>,
}

/// Makes the new message from the stored one; gives up with an error and no effect.
pub type Revise = dyn Fn(&Message) -> Result<Message> + Send + Sync;
