//! What memory learns while Redis answers, so that it can answer in an outage.

use super::{
    Append, Appended, Context, Cut, MessagesPage, MessagesQuery, NewThread, Thread, ThreadId, ThreadStore,
    ThreadsPage, UpdatedMessage, watch::Followed,
};

/// Something that the shared store said or did.
#[derive(Debug)]
pub enum Observed<'a> {
    /// A thread was created.
    Created(&'a NewThread, &'a Appended),
    /// Messages were appended.
    Appended(&'a Append, &'a Appended),
    /// A thread was read or renewed.
    Read(&'a Thread),
    /// A thread's own fields were changed by one write of ours.
    Changed(&'a Thread),
    /// A page of messages was read.
    Messages(&'a MessagesQuery, &'a MessagesPage),
    /// A context was read.
    Context(&'a Context),
    /// One message was changed by one write of ours.
    MessageUpdated(&'a UpdatedMessage),
    /// A thread was truncated by one write of ours.
    Truncated(Cut, &'a Thread),
    /// A thread was deleted, or the shared store said that it does not exist.
    Gone(&'a ThreadId),
}

/// What is given up when the shared store serves again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unmerged {
    /// Threads with writes that only memory had.
    pub threads: u64,
    /// Messages that only memory had.
    pub messages: u64,
}

/// An answer of the shared store that tells of a thread.
pub trait TellsOfThread {
    /// The thread as the answer has it.
    fn thread_mut(&mut self) -> Option<&mut Thread>;
}

macro_rules! tells_of_thread {
    ($($answer:ty),+) => {
        $(impl TellsOfThread for $answer {
            fn thread_mut(&mut self) -> Option<&mut Thread> {
                Some(&mut self.thread)
            }
        })+
    };
}

tells_of_thread!(Appended, MessagesPage, Context, UpdatedMessage);

impl TellsOfThread for Thread {
    fn thread_mut(&mut self) -> Option<&mut Thread> {
        Some(self)
    }
}

impl TellsOfThread for Followed {
    fn thread_mut(&mut self) -> Option<&mut Thread> {
        match self {
            Self::Found(found) => Some(&mut found.thread),
            Self::Gone { .. } => None,
        }
    }
}

impl TellsOfThread for ThreadsPage {
    fn thread_mut(&mut self) -> Option<&mut Thread> {
        None
    }
}

impl TellsOfThread for () {
    fn thread_mut(&mut self) -> Option<&mut Thread> {
        None
    }
}

/// Keeps bounded copies of shared threads and answers from them in an outage: what a copy cannot answer honestly is
/// [`crate::error::Error::NeedsShared`], never "not found" and never an empty page. Creations and appends without
/// etag are accepted as provisional.
///
/// A thread is *held* as its metadata and one unbroken run of messages that ends at its last seq. A write that was not
/// made through this process shows as a gap in `previous_last_seq` or in the revision, and cuts the run there.
pub trait ThreadCopies: ThreadStore {
    /// Learns from an answer of the shared store. Cheap: no IO, short critical section.
    fn observe(&self, observed: Observed<'_>);

    /// The epoch and revision that the shared store was last seen to have acknowledged; none if a copy is not held, or
    /// goes on from writes that only memory has.
    fn acknowledged(&self, id: &ThreadId) -> Option<(String, i64)>;

    /// Forgets every copy with writes that only memory has, since the shared store serves again, and counts them.
    fn release(&self) -> Unmerged;
}
