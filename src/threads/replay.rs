//! Writes that only this process's memory has: what is kept of them until Redis has them too, and what each step of their
//! replay there comes to.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Digest, Message, MessageId, RequestId, Thread, ThreadId, Ttl};
use crate::{clock::Timestamp, error::Result};

/// The most messages that are replayed in one step …
pub const MAX_REPLAY: usize = 1000;
/// … as long as they take at most so many bytes together; a single larger one goes alone.
pub const MAX_REPLAY_BYTES: usize = 1 << 20;

/// One accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The message.
    pub message: Arc<Message>,
    /// What it is compared by when its id is used again.
    pub digest: Digest,
    /// When it was accepted; it keeps this as its commit time.
    pub time: Timestamp,
    /// Whether Redis had acknowledged it before and may have lost it.
    pub is_repair: bool,
}

/// The thread that writes were accepted for, as it was known then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The thread before the first of these writes, as it was last known. Where memory created it, an empty one of revision
    /// 0, in an epoch of memory's own.
    pub thread: Thread,
    /// Whether the writes may go to a thread of any owner: appends that name none ask for none.
    pub any_owner: bool,
    /// The request that created it, if that came through this process.
    pub created_by: Option<RequestId>,
}

/// Names the writes of one thread that wait together: a run. Grows with each run that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// One step of the replay of a run: all of it happens in Redis, or nothing.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The thread.
    pub origin: Arc<Origin>,
    /// The next messages, in order; perhaps none.
    pub entries: Vec<Entry>,
    /// Whether to create the thread if it is not there.
    pub creates: bool,
    /// A new time to live.
    pub ttl: Option<Ttl>,
    /// Whether all of it was acknowledged before, so that it belongs into no other incarnation.
    pub is_repair: bool,
}

/// What one step of a replay came to.
#[derive(Debug, Clone)]
pub enum Replayed {
    /// The messages are there, the thread is renewed.
    Done(Box<Done>),
    /// The thread is not there, and was not to be created. Nothing was written.
    Absent,
    /// Its revision is lower than the acknowledged one of the same epoch, or was when that ended: a failover lost writes.
    /// Nothing was written.
    Behind(Box<Thread>),
    /// The incarnation was deleted, or for a repair is another. Nothing was written.
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

/// What waits to be merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalStatus {
    /// Messages, creations and renewals that wait, those of parked runs included.
    pub entries: u64,
    /// The bytes of memory that they take.
    pub bytes: u64,
    /// When the oldest was accepted; none when nothing waits.
    pub oldest: Option<Timestamp>,
    /// Runs that could not be merged as they were: kept to be tried again, or what became of them instead.
    pub parked: Vec<ParkedRun>,
    /// Messages that were appended again after a failover had lost them, since start.
    pub lost_writes_repaired: u64,
}

/// A run that could not be merged as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRun {
    /// The thread that it was accepted for.
    pub thread: ThreadId,
    /// Messages, creations and renewals in it.
    pub entries: u64,
    /// Why, for people; or what they became.
    pub reason: String,
}

/// What a journal file says of runs, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A run began: a write was accepted for this thread, which memory created if `creates`.
    Began {
        /// The run.
        run: RunId,
        /// The thread.
        origin: Arc<Origin>,
        /// Whether memory created the thread.
        creates: bool,
    },
    /// Messages were accepted.
    Accepted {
        /// The run.
        run: RunId,
        /// The messages.
        entries: Vec<Entry>,
    },
    /// The thread was renewed, with a new time to live if one is given.
    Touched {
        /// The run.
        run: RunId,
        /// The new time to live.
        ttl: Option<Ttl>,
    },
    /// Redis has all of the run, or nothing of it waits any more.
    Settled {
        /// The run.
        run: RunId,
    },
}

/// Answers once records are as safe as the journal file is configured to make them. An error says that the records are not
/// in the file; where the sender is dropped, nobody knows whether they are.
pub type Receipt = oneshot::Receiver<Result<()>>;
