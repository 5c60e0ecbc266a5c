//! What went wrong, as facts that callers can act on; no transport's and no store's types.

use std::{fmt, time::Duration};

/// A boxed cause, kept for the log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of every operation here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not happen. Unless a variant says otherwise, nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are missing, malformed or over their limits.
    #[error("{}", Violations(.0))]
    Invalid(Vec<Violation>),
    /// The page token is garbage or belongs to another request.
    #[error("the page token does not belong to this request")]
    TokenMismatch,
    /// The page token was made in an outage or for an earlier incarnation of the thread: begin again.
    #[error("the page token is of an earlier state: begin again without one")]
    TokenStale,
    /// No such thread, and the store that knows said so.
    #[error("thread {id} does not exist or has expired")]
    ThreadNotFound {
        /// The thread.
        id: String,
    },
    /// A thread that was watched is gone, and neither a deletion nor its expiry explains that.
    #[error("redis lost thread {id}: it is gone, and was neither deleted nor due to expire")]
    ThreadLost {
        /// The thread.
        id: String,
    },
    /// The thread exists but holds no such message.
    #[error("thread {thread} holds no message {id}")]
    MessageNotFound {
        /// The thread.
        thread: String,
        /// The message.
        id: String,
    },
    /// A thread with this id exists.
    #[error("thread {id} exists already")]
    ThreadExists {
        /// The thread.
        id: String,
    },
    /// A message with this id and other content exists.
    #[error("message id {id} was used before with another role, name, parts or extra")]
    MessageIdReused {
        /// The message.
        id: String,
    },
    /// The thread was changed since the etag was issued, or the etag was never issued.
    #[error("the thread's etag is {current}, not the one given")]
    EtagMismatch {
        /// The present one.
        current: String,
    },
    /// A thread kept changing while it was copied, or a message while it was updated.
    #[error("thread {id} kept changing under this request")]
    SourceChanged {
        /// The thread.
        id: String,
    },
    /// The thread was deleted; only an explicit create may use its id again.
    #[error("thread {id} was deleted; only CreateThread can begin it anew")]
    ThreadDeleted {
        /// The thread.
        id: String,
    },
    /// The thread belongs to someone else.
    #[error("thread {id} belongs to another owner")]
    OwnerMismatch {
        /// The thread.
        id: String,
    },
    /// A seq lies beyond the thread.
    #[error("{field} lies beyond the thread's last seq {last_seq}")]
    SeqOutOfRange {
        /// The request's field.
        field: &'static str,
        /// The newest seq ever given out.
        last_seq: i64,
    },
    /// The breaker's history is of another epoch than the one asked for.
    #[error("the breaker's epoch is {current:?}, not the one given")]
    EpochMismatch {
        /// The present one; empty where no state is stored.
        current: String,
    },
    /// The breaker's mode does not allow what was asked for.
    #[error("breaker {key} is {mode}: {what} needs mode AUTOMATIC")]
    IllegalTransition {
        /// The breaker's model key.
        key: String,
        /// Its mode.
        mode: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// A breaker kept changing under an operator's request.
    #[error("breaker {key} kept changing under this request")]
    BreakerChanged {
        /// The breaker's model key.
        key: String,
    },
    /// A thread would outgrow a stored limit.
    #[error("thread {id} would hold more than {limit} {what}")]
    ThreadLimit {
        /// The thread.
        id: String,
        /// What is limited.
        what: &'static str,
        /// How much of it.
        limit: i64,
    },
    /// The local store is full; it never drops what it acknowledged to make room.
    #[error("the local store is full at {limit} {what}")]
    StoreFull {
        /// What is limited.
        what: &'static str,
        /// How much of it.
        limit: u64,
    },
    /// Memory cannot take more writes until Redis is back; it never drops what it acknowledged to make room.
    #[error("memory holds {limit} {what} of writes that wait for redis and takes no more")]
    JournalFull {
        /// How much.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// Redis refuses to grow.
    #[error("redis is at its maxmemory")]
    RedisOutOfMemory,
    /// Redis cannot be reached or cannot take writes; memory may answer in its place.
    #[error("redis cannot be used: {0}")]
    Unreachable(#[source] BoxError),
    /// Redis did not answer in time; the command may still run.
    #[error("redis did not answer within {0:?}")]
    TimedOut(Duration),
    /// Redis refuses this configuration. An operator must act; memory does not hide it.
    #[error("redis refuses this configuration: {0}")]
    Misconfigured(#[source] BoxError),
    /// Only Redis can decide this, and it is unreachable, or has not been given what this process accepted for the thread.
    #[error("{0} needs redis, which cannot answer for it now")]
    NeedsShared(&'static str),
    /// The caller's deadline passed. A write may still have happened.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// A stored value cannot be decoded.
    #[error("the stored value at {key} is corrupt (seq {seq})")]
    Corrupt {
        /// The key in the store.
        key: String,
        /// The message's seq, 0 when it is not one message's.
        seq: i64,
    },
    /// A defect of ours or an answer of the store that no rule foresees.
    #[error("internal error: {0}")]
    Internal(#[source] BoxError),
}

impl Error {
    /// Makes an error for one violated field.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, reason)])
    }

    /// Whether the store could not be asked, so that memory may answer in its place.
    pub fn allows_fallback(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut(_))
    }
}

/// One field of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path in the request, as `messages[2].parts[0].tool_call.name`.
    pub field: String,
    /// The rule, with its limit.
    pub reason: String,
}

impl Violation {
    /// Names a field and the rule that it breaks.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

struct Violations<'a>(&'a [Violation]);

impl fmt::Display for Violations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "; " };
            write!(f, "{gap}{}: {}", violation.field, violation.reason)?;
        }
        Ok(())
    }
}
