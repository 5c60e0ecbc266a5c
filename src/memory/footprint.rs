//! Counts what threads take: messages, their bytes and tokens as limits see them, and the memory behind them.

use std::ops::{AddAssign, SubAssign};

use crate::{
    error::{Error, Result},
    threads::{Limits, Message, MessageId, Profile, Thread},
};

/// What a message costs beside its content: its places in the list and among the instructions, its envelope, and
/// the allocator's rounding.
const MESSAGE_OVERHEAD: u64 = 320;
/// What a tool call or result costs beside its texts: two strings, each rounded up, in a vector with slack.
const TOOL_OVERHEAD: usize = 192;
/// What a remembered message id costs beside its text: a slot in a hash table that is half empty after it grew.
const ID_OVERHEAD: u64 = 128;
/// What a thread costs beside its texts: its own fields, its tables while small, its places in the indexes.
pub(crate) const THREAD_OVERHEAD: u64 = 2048;

/// A length as the counters have it.
pub(crate) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// What some messages amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// How many.
    pub(crate) count: i64,
    /// Their bytes on the wire.
    pub(crate) bytes: i64,
    /// Their tokens.
    pub(crate) tokens: i64,
    /// The bytes of memory that they take.
    pub(crate) memory: u64,
}

impl Tally {
    /// Weighs one message.
    pub(crate) fn of(message: &Message) -> Self {
        let tools: usize =
            message.tools.iter().map(|tool| TOOL_OVERHEAD + tool.call_id.len() + tool.name.len()).sum();
        let content = u64::from(message.size).max(bytes(message.payload.len()));
        Self {
            count: 1,
            bytes: i64::from(message.size),
            tokens: i64::from(message.tokens),
            memory: MESSAGE_OVERHEAD + bytes(message.id.as_str().len() + tools) + content,
        }
    }

    /// Weighs messages together.
    pub(crate) fn of_all<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut sum = Self::default();
        for message in messages {
            sum += Self::of(message);
        }
        sum
    }

    /// Refuses messages with which a thread would outgrow its limits. What the thread's own trimming bounds is not
    /// limited again.
    pub(crate) fn admit(&self, thread: &Thread, limits: Limits) -> Result<()> {
        let count = thread.message_count.saturating_add(self.count);
        if thread.profile.trim.max_messages == 0 && count > limits.max_messages {
            let (id, limit) = (thread.id.to_string(), limits.max_messages);
            return Err(Error::ThreadLimit { id, what: "messages", limit });
        }
        admit_bytes(self.bytes, thread, limits)
    }
}

/// Refuses bytes with which a thread would outgrow its limit.
pub(crate) fn admit_bytes(growth: i64, thread: &Thread, limits: Limits) -> Result<()> {
    if thread.profile.trim.max_bytes == 0 && thread.size_bytes.saturating_add(growth) > limits.max_bytes {
        let (id, limit) = (thread.id.to_string(), limits.max_bytes);
        return Err(Error::ThreadLimit { id, what: "bytes", limit });
    }
    Ok(())
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        self.memory += other.memory;
    }
}

impl SubAssign for Tally {
    fn sub_assign(&mut self, other: Self) {
        self.count -= other.count;
        self.bytes -= other.bytes;
        self.tokens -= other.tokens;
        self.memory = self.memory.saturating_sub(other.memory);
    }
}

/// The memory that a remembered message id takes.
pub(crate) fn of_id(id: &MessageId) -> u64 {
    ID_OVERHEAD + bytes(id.as_str().len())
}

/// The memory that the texts of a profile take.
pub(crate) fn of_profile(profile: &Profile) -> u64 {
    let owner = profile.owner.as_ref().map_or(0, |owner| owner.as_str().len());
    // A label lives in two strings and a node of a tree.
    let labels: usize = profile.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    bytes(owner + profile.title.len() + labels)
}

/// How much a store may still grow, and what it says when that is not enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    left: u64,
    limit: u64,
    refuse: fn(u64) -> Error,
}

impl Room {
    /// Room for everything.
    #[cfg(test)]
    pub(crate) const ENDLESS: Self =
        Self { left: u64::MAX, limit: u64::MAX, refuse: |limit| Error::StoreFull { what: "bytes", limit } };

    /// The room below a limit of which `used` is taken.
    pub(crate) fn below(limit: u64, used: u64, refuse: fn(u64) -> Error) -> Self {
        Self { left: limit.saturating_sub(used), limit, refuse }
    }

    /// Refuses growth for which there is no room; what does not grow always passes.
    pub(crate) fn admit(&self, growth: u64) -> Result<()> {
        if growth > self.left { Err((self.refuse)(self.limit)) } else { Ok(()) }
    }
}
