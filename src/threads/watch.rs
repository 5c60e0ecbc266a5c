//! Watching a thread: what a watcher was told, what a store answers when asked what happened since, and what the watcher
//! is told then.
//!
//! Nothing is queued for a watcher. It holds a [`Place`]; a ring of its [`super::ThreadBell`], the thread's expiry or the
//! clock lets it ask [`super::ThreadStore::follow`], which answers from one moment with appended messages from the list
//! and all other changes from a bounded log. [`step`] makes the events of that and the next place. So a watcher that
//! stops reading costs one page, and one that misses more than the log keeps is told to read the thread again.

use std::sync::Arc;

use tokio::sync::watch;

use super::{StoredMessage, Thread, ThreadBells};
use crate::{
    call::{Serving, ServingMode, Source},
    clock::Timestamp,
    doorbell::Doorbell,
};

mod driver;
mod local;
mod step;

pub use driver::ThreadWatch;
pub use step::{Step, step};

/// The log of a thread's changes that are no appends keeps so many; `scripts/thread.lua` knows it too.
pub const CHANGES_KEPT: usize = 256;
/// The most messages in one answer to a watcher; it also ends at [`super::MAX_BATCH_BYTES`].
pub const MAX_FOLLOWED: usize = 1000;

/// A place in a thread's history, as clients keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The incarnation.
    pub epoch: String,
    /// Every change up to this revision was told; all that happened up to it, where no message waits to be told.
    pub revision: i64,
    /// Every message up to this seq was told.
    pub seq: i64,
}

/// What a watcher was told, as far as the next answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The place in the thread's history.
    pub position: Position,
    /// Seq of the oldest message in the thread's list at that time, instructions that outlived trimming apart; 0 where
    /// that is not known.
    pub listed_from: i64,
    /// The last place of a provisional message that was told; 0 for none.
    pub provisional: i64,
}

impl Place {
    /// A place of which nothing more is known than its position.
    pub fn at(position: Position) -> Self {
        Self { position, listed_from: 0, provisional: 0 }
    }
}

/// From where on a thread is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// The stored messages with a larger seq come first.
    Seq(i64),
    /// What happened after this had been told.
    Told(Place),
}

/// A change of a thread that is no append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The thread's revision afterwards.
    pub revision: i64,
    /// The revision of the change before it; 0 for none. A gap in the log shows by that.
    pub after: i64,
    /// What was changed.
    pub what: Changed,
}

/// What a change changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The thread's own fields.
    Thread,
    /// The message with this seq.
    Message(i64),
    /// Messages were dropped by request.
    Truncated {
        /// Seq of the oldest stored message afterwards; 0 for none.
        first_seq: i64,
        /// Seq of the newest stored message afterwards; 0 for none.
        last_seq: i64,
        /// Where the list began afterwards.
        listed_from: i64,
    },
}

/// What a store knows about a thread since a watcher was told of it.
#[derive(Debug, Clone)]
pub enum Followed {
    /// The thread is there.
    Found(Box<Found>),
    /// It is not.
    Gone {
        /// The store's time.
        now: Timestamp,
        /// Whether the incarnation that the watcher knows was deleted.
        was_deleted: bool,
    },
}

/// The thread at one moment, and what is new to the watcher. Where the incarnation is another one than the watcher
/// knows, the thread is all that counts.
#[derive(Debug, Clone)]
pub struct Found {
    /// The store's time.
    pub now: Timestamp,
    /// The thread.
    pub thread: Thread,
    /// Seq of the oldest message in the list, instructions that outlived trimming apart; behind the last seq where there
    /// is none.
    pub listed_from: i64,
    /// Seq of the newest stored message, 0 for none. Need not be known unless the list begins elsewhere than the watcher
    /// was told.
    pub last_stored: i64,
    /// Revision of the newest change that is no append; 0 for none.
    pub newest_change: i64,
    /// The changes that the log still has after the revision that was told, in order.
    pub changes: Vec<Change>,
    /// Those of the changed messages that are stored and had been told.
    pub touched: Vec<StoredMessage>,
    /// Whether further changes follow; then no message does before they are told.
    pub more_changes: bool,
    /// Messages that have not been told, in order.
    pub messages: Vec<StoredMessage>,
    /// Whether further messages follow.
    pub more: bool,
}

/// Something that happened to a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Messages were appended, or were there when the watch began.
    Appended(Vec<StoredMessage>),
    /// Messages or the thread's own fields were changed.
    Updated {
        /// The thread as it is.
        thread: Box<Thread>,
        /// The messages as they are; none where only the thread was changed.
        messages: Vec<StoredMessage>,
    },
    /// Messages were dropped.
    Truncated {
        /// Messages with a smaller seq are gone; those that outlive trimming are not if it was trimming.
        first_seq: i64,
        /// Seq of the newest stored message.
        last_seq: i64,
    },
    /// The thread was deleted.
    Deleted,
    /// The thread expired.
    Expired,
    /// What was there when the watch began has been told.
    Synced,
    /// Events may be missing.
    Resync {
        /// The thread as it is.
        thread: Box<Thread>,
        /// Why, for people.
        why: &'static str,
    },
    /// This instance serves in another mode.
    ModeChanged(ServingMode),
}

/// An event as a watcher is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub event: Event,
    /// Where to go on after it.
    pub position: Position,
    /// Where it came from.
    pub source: Source,
}

/// What wakes the watchers of this process.
#[derive(Debug, Clone, Default)]
pub struct Wakers {
    /// Rings for single threads.
    pub bells: Arc<ThreadBells>,
    /// Tells whether all changes ring.
    pub doorbell: Arc<Doorbell>,
    /// Tells how this process serves; none where memory is the only truth, so that no other mode ever comes.
    pub serving: Option<watch::Receiver<Serving>>,
}
