//! Writes that only this process's memory has: what is kept of them until Redis has them too, and what each step of their
//! replay there comes to. All writes that wait for one thread, in order, are a pending batch.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Digest, Message, MessageId, RequestId, Thread, ThreadId, Ttl};
use crate::{clock::Timestamp, error::Result};

/// The most messages that are replayed in one step …
pub const MAX_REPLAY: usize = 1000;
/// … as long as they take at most so many bytes together; a single larger message goes alone.
pub const MAX_REPLAY_BYTES: usize = 1 << 20;

/// One accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingMessage {
    /// The message.
    pub message: Arc<Message>,
    /// The digest of its content. A later use of its id is compared with the digest.
    pub digest: Digest,
    /// When it was accepted; it keeps this as its commit time.
    pub time: Timestamp,
    /// Whether Redis had acknowledged it before and may have lost it.
    pub is_repair: bool,
}

/// The thread that writes were accepted for, as this process knew it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The thread before the first of these writes. Where memory created it, an empty thread of revision 0, in an epoch of
    /// memory's own.
    pub thread: Thread,
    /// Whether the writes may go to a thread of any owner, since the appends named no owner.
    pub any_owner: bool,
    /// The request that created the thread, if that request came through this process.
    pub created_by: Option<RequestId>,
}

/// Names a pending batch. Grows with each batch that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// One step of the replay of a batch: Redis takes all of it, or nothing.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The thread.
    pub origin: Arc<Origin>,
    /// The next messages, in order; perhaps none.
    pub entries: Vec<PendingMessage>,
    /// Whether to create the thread if it is not there.
    pub creates: bool,
    /// A new time to live.
    pub ttl: Option<Ttl>,
    /// Whether Redis had acknowledged all of it before, so that it belongs into no other incarnation.
    pub is_repair: bool,
}

/// What one step of a replay came to.
#[derive(Debug, Clone)]
pub enum Replayed {
    /// The messages are there, the thread is renewed.
    Done(Box<Done>),
    /// The thread is not there, and was not to be created. Nothing was written.
    Absent,
    /// A failover lost writes: the thread's revision is lower than the acknowledged revision of the same epoch, or was so
    /// when that epoch ended. Nothing was written.
    Behind(Box<Thread>),
    /// The incarnation was deleted, or a repair found another incarnation. Nothing was written.
    Deleted,
    /// The thread belongs to another owner. Nothing was written.
    OtherOwner,
    /// This message id was used for other content. Nothing was written.
    Reused(MessageId),
}

/// A step that Redis has.
#[derive(Debug, Clone)]
pub struct Done {
    /// The thread afterwards.
    pub thread: Thread,
    /// Its last seq before.
    pub previous_last_seq: i64,
    /// Whether each message was there before, in order.
    pub duplicates: Vec<bool>,
}

/// The writes that wait to be merged, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalStatus {
    /// Messages, creations and renewals that wait, those of parked batches included.
    pub entries: u64,
    /// The bytes of memory that they take.
    pub bytes: u64,
    /// When the oldest was accepted; none when nothing waits.
    pub oldest: Option<Timestamp>,
    /// Batches that could not be merged as they were: kept to be tried again, or what became of them instead.
    pub parked: Vec<ParkedBatch>,
    /// Messages that were appended again after a failover had lost them, since start.
    pub lost_writes_repaired: u64,
}

/// A batch that could not be merged as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedBatch {
    /// The thread for which its writes were accepted.
    pub thread: ThreadId,
    /// Messages, creations and renewals in it.
    pub entries: u64,
    /// Why, for people; or what the writes became.
    pub reason: String,
}

/// What the journal file holds of batches, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A batch began with a write that was accepted for this thread, which memory created if `creates`.
    Began {
        /// The batch.
        batch: BatchId,
        /// The thread.
        origin: Arc<Origin>,
        /// Whether memory created the thread.
        creates: bool,
    },
    /// Messages were accepted.
    Accepted {
        /// The batch.
        batch: BatchId,
        /// The messages.
        entries: Vec<PendingMessage>,
    },
    /// The thread was renewed, with a new time to live if one is given.
    Touched {
        /// The batch.
        batch: BatchId,
        /// The new time to live.
        ttl: Option<Ttl>,
    },
    /// Redis has all of the batch, or nothing of it waits any more.
    Settled {
        /// The batch.
        batch: BatchId,
    },
}

/// Answers once records are as safe as the journal file is configured to make them. An error says that the records are not
/// in the file; where the sender is dropped, nobody knows whether they are.
pub type Receipt = oneshot::Receiver<Result<()>>;
