//! Threads: the vocabulary and the rules that hold on every store, and what a store must offer.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    error::{Result, Violation},
};

pub mod bells;
pub mod context;
mod ids;
mod message;
pub mod replay;
mod store;
pub mod watch;

pub use bells::{ThreadBell, ThreadBells};
pub use ids::{MAX_ID, MAX_NEW_ID, MessageId, Owner, RequestId, ThreadId};
pub use message::{Digest, Message, NewMessage, Revise, Role, StoredMessage, ToolRef};
pub use store::{SharedThreads, ThreadStore};

/// The largest message on the wire, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 2 << 20;
/// The most messages in one append.
pub const MAX_BATCH: usize = 100;
/// The most bytes of messages in one append, and in one page of an answer.
pub const MAX_BATCH_BYTES: usize = 3 << 20;
/// The first so many SYSTEM and DEVELOPER messages of a thread survive trimming …
pub const MAX_INSTRUCTIONS: usize = 64;
/// … as long as they take at most so many bytes together; the others are trimmed like any message.
pub const MAX_INSTRUCTION_BYTES: usize = 256 << 10;
/// A thread remembers the request ids of its last so many updates, truncations and message updates.
pub const REQUESTS_KEPT: usize = 16;
/// Message ids are remembered for at least this many messages, and always while the message is stored.
pub const IDS_GENERATION: usize = 10_000;
/// How long a deleted thread is told from one that never was.
pub const TOMBSTONE_TTL: Duration = Duration::from_hours(24);
/// A tombstone remembers so many deletions.
pub const DELETIONS_KEPT: usize = 8;

/// How long a thread lives after its last activity: 1 s to 365 days, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(Duration);

impl Ttl {
    /// Checks the bounds; a part of a millisecond counts as a whole one.
    pub fn new(field: &str, ttl: Duration) -> Result<Self, Violation> {
        let millis = ttl.as_nanos().div_ceil(1_000_000);
        let day = 24 * 3600 * 1000;
        if !(1000..=365 * day).contains(&millis) {
            return Err(Violation::new(field, "must be from 1 s to 365 days"));
        }
        Ok(Self(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))))
    }

    /// The time as a duration.
    pub fn as_duration(self) -> Duration {
        self.0
    }

    /// The time in milliseconds.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

/// What each append trims from the head of a thread; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trim {
    /// Keep at most so many messages, instructions that outlive trimming apart.
    pub max_messages: i64,
    /// Keep at most so many bytes of messages, instructions that outlive trimming apart.
    pub max_bytes: i64,
}

/// Where a thread was forked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The source.
    pub thread_id: ThreadId,
    /// The last seq that was copied.
    pub seq: i64,
}

/// What callers choose about a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Whose it is; fixed at creation.
    pub owner: Option<Owner>,
    /// A title for people.
    pub title: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Time to live after the last activity.
    pub ttl: Ttl,
    /// Whether it never expires.
    pub pinned: bool,
    /// What appends trim.
    pub trim: Trim,
}

/// A thread as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub id: ThreadId,
    /// What callers chose.
    pub profile: Profile,
    /// This incarnation: random, another one after every creation.
    pub epoch: String,
    /// Grows by one with every write.
    pub revision: i64,
    /// Messages stored now.
    pub message_count: i64,
    /// Seq of the oldest stored message; 0 when there is none.
    pub first_seq: i64,
    /// Seq of the newest message ever appended; 0 when there was none.
    pub last_seq: i64,
    /// Sum of the stored messages' tokens.
    pub token_count: i64,
    /// Sum of the stored messages' bytes on the wire.
    pub size_bytes: i64,
    /// Where it was forked from.
    pub parent: Option<Parent>,
    /// When this incarnation began.
    pub create_time: Timestamp,
    /// Time of the last write.
    pub update_time: Timestamp,
    /// When it expires if nothing happens; none when pinned.
    pub expire_time: Option<Timestamp>,
    /// Whether memory speaks for it in an outage: its etag is then one that no write accepts.
    pub local: bool,
}

impl Thread {
    /// A new thread without messages, which expires by nobody's clock yet.
    pub fn new(id: ThreadId, profile: Profile, epoch: String, now: Timestamp) -> Self {
        Self {
            id,
            profile,
            epoch,
            revision: 1,
            message_count: 0,
            first_seq: 0,
            last_seq: 0,
            token_count: 0,
            size_bytes: 0,
            parent: None,
            create_time: now,
            update_time: now,
            expire_time: None,
            local: false,
        }
    }

    /// The version that a compare-and-set names: the incarnation and the revision in it.
    pub fn etag(&self) -> String {
        etag(&self.epoch, self.revision, self.local)
    }
}

/// Writes an etag; `local` ones carry a mark that no store accepts.
pub fn etag(epoch: &str, revision: i64, local: bool) -> String {
    let mark = if local { "-local" } else { "" };
    format!("\"{epoch}-{revision}{mark}\"")
}

/// What makes a write conditional and its retry safe.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Only if the thread's etag is this one.
    pub etag: Option<String>,
    /// The same id again changes nothing; checked before the etag.
    pub request_id: Option<RequestId>,
}

/// A thread to be created.
#[derive(Debug, Clone)]
pub struct NewThread {
    /// Its id.
    pub id: ThreadId,
    /// What the caller chose.
    pub profile: Profile,
    /// Its first messages, at most [`MAX_BATCH`].
    pub messages: Vec<NewMessage>,
    /// Makes a repeat answer with the thread as it is.
    pub request_id: Option<RequestId>,
}

/// Messages to be appended, all or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// The thread.
    pub id: ThreadId,
    /// 1 to [`MAX_BATCH`].
    pub messages: Vec<NewMessage>,
    /// The owner that the thread must have, or is created with.
    pub owner: Option<Owner>,
    /// Create the thread if there is none, with this time to live.
    pub create: Option<Ttl>,
    /// Only if the thread's etag is this one; checked after duplicates.
    pub etag: Option<String>,
}

/// What became of one message of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedMessage {
    /// Its id.
    pub id: MessageId,
    /// Its seq, the old one if it is a duplicate; 0 while provisional.
    pub seq: i64,
    /// Whether it was there before.
    pub duplicate: bool,
    /// Whether only this process's memory holds it yet.
    pub provisional: bool,
}

/// What an append or a creation did.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The thread afterwards.
    pub thread: Thread,
    /// The thread's last seq before.
    pub previous_last_seq: i64,
    /// In the request's order.
    pub messages: Vec<AppendedMessage>,
}

/// New values for a thread's own fields; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ThreadChange {
    /// Title.
    pub title: Option<String>,
    /// Labels, replaced whole.
    pub labels: Option<BTreeMap<String, String>>,
    /// Time to live.
    pub ttl: Option<Ttl>,
    /// Pinned.
    pub pinned: Option<bool>,
    /// Trimming.
    pub trim: Option<Trim>,
}

/// Where a list of threads goes on: after the thread last shown.
#[derive(Debug, Clone)]
pub struct ThreadsCursor {
    /// Its time of last activity.
    pub update_time: Timestamp,
    /// Its id.
    pub id: ThreadId,
}

/// Which threads to list.
#[derive(Debug, Clone)]
pub struct ThreadsQuery {
    /// Whose.
    pub owner: Owner,
    /// At most so many.
    pub limit: usize,
    /// Where to go on.
    pub cursor: Option<ThreadsCursor>,
}

/// A page of threads, newest activity first.
#[derive(Debug, Clone)]
pub struct ThreadsPage {
    /// The page.
    pub threads: Vec<Thread>,
    /// Whether another page follows.
    pub more: bool,
}

/// Where a walk through messages goes on.
#[derive(Debug, Clone)]
pub struct MessagesCursor {
    /// The incarnation that the walk began in.
    pub epoch: String,
    /// The last seq that was shown.
    pub seq: i64,
    /// Whether memory gave it out in an outage.
    pub local: bool,
}

/// Which messages to page through.
#[derive(Debug, Clone)]
pub struct MessagesQuery {
    /// The thread.
    pub id: ThreadId,
    /// Only messages with a larger seq.
    pub after_seq: i64,
    /// Only messages with a smaller seq; 0 for no bound.
    pub before_seq: i64,
    /// Newest first.
    pub descending: bool,
    /// At most so many; a page also ends at [`MAX_BATCH_BYTES`].
    pub limit: usize,
    /// Where to go on.
    pub cursor: Option<MessagesCursor>,
    /// Whether the read counts as activity.
    pub renew: bool,
}

/// A page of messages.
#[derive(Debug, Clone)]
pub struct MessagesPage {
    /// The thread at the moment of reading.
    pub thread: Thread,
    /// The page.
    pub messages: Vec<StoredMessage>,
    /// Whether another page follows.
    pub more: bool,
}

/// What a model's window takes.
#[derive(Debug, Clone)]
pub struct ContextQuery {
    /// The thread.
    pub id: ThreadId,
    /// What fits.
    pub budget: context::Budget,
    /// Whether the read counts as activity.
    pub renew: bool,
}

/// The newest messages that fit a model's window.
#[derive(Debug, Clone)]
pub struct Context {
    /// The thread at the moment of reading.
    pub thread: Thread,
    /// Ascending by seq.
    pub messages: Vec<StoredMessage>,
}

/// One message to be changed in place.
#[derive(Clone)]
pub struct MessageUpdate {
    /// The thread.
    pub id: ThreadId,
    /// The message.
    pub message_id: MessageId,
    /// Makes the new message from the stored one.
    pub revise: Arc<Revise>,
    /// Conditions.
    pub guard: Guard,
}

impl fmt::Debug for MessageUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageUpdate")
            .field("id", &self.id)
            .field("message_id", &self.message_id)
            .finish_non_exhaustive()
    }
}

/// A message after its change.
#[derive(Debug, Clone)]
pub struct UpdatedMessage {
    /// The thread afterwards.
    pub thread: Thread,
    /// The message afterwards.
    pub message: StoredMessage,
}

/// What a truncation drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Every message with a larger seq.
    After(i64),
    /// All but the newest so many.
    KeepLast(i64),
}

/// A copy to be made.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The source.
    pub source: ThreadId,
    /// The last seq to copy; 0 for all.
    pub at_seq: i64,
    /// The copy's id.
    pub id: ThreadId,
    /// Makes a repeat answer with the copy as it is.
    pub request_id: Option<RequestId>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Expired threads whose remains were removed.
    pub removed: u64,
    /// Threads that had lost their expiry and got it back.
    pub repaired: u64,
}

/// How much one thread may hold; set by configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages in one thread.
    pub max_messages: i64,
    /// Bytes of messages in one thread.
    pub max_bytes: i64,
}
