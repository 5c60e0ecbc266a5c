//! What memory learns while Redis answers, so that it can answer in an outage.

use std::{future::Future, time::Duration};

use crate::threads::{
    Append, Appended, Context, Cut, MessagesPage, MessagesQuery, NewThread, Owner, Thread, ThreadId,
    ThreadStore, ThreadsPage, UpdatedMessage,
    replay::{JournalStatus, Replay, Replayed, RunId},
    watch::Followed,
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

/// What is known of a thread before a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// The epoch and the revision that the shared store was last seen to have acknowledged.
    Acknowledged(String, i64),
    /// Writes of it wait to be merged: memory answers for it until they are.
    Waiting,
}

/// How the replay of a run goes on.
#[derive(Debug)]
pub enum Progress {
    /// With the next step.
    Step,
    /// With the next step, once this thread has another epoch: the shared store lost writes of it.
    Reincarnate(Box<Thread>),
    /// Not at all, for now or for ever.
    Over,
    /// Not at all: the shared store has all of it, but not just as it was here, so the thread's copy is forgotten.
    Forgotten,
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

    /// What is known of a thread.
    fn known(&self, id: &ThreadId) -> Known;

    /// Returns once something waits that did not before; nothing is missed between two calls.
    fn stirred(&self) -> impl Future<Output = ()> + Send;

    /// The runs that may be replayed now, each list in order and one after the other; `all` counts in those that could not
    /// be a moment ago.
    fn due(&self, all: bool) -> Vec<Vec<RunId>>;

    /// How long until a run may be replayed that may not be now; none when nothing waits.
    fn next_due(&self) -> Option<Duration>;

    /// Whether something waits that nothing but time, or the shared store, holds up.
    fn is_pending(&self) -> bool;

    /// Whether memory created a thread of this owner that is still to be merged, so that the shared store does not list it.
    fn is_creating(&self, owner: &Owner) -> bool;

    /// The next step of a run's replay; none when nothing of it is left.
    fn step(&self, run: RunId) -> Option<Replay>;

    /// Notes what a step came to.
    fn settle(&self, run: RunId, step: &Replay, replayed: Replayed) -> Progress;

    /// Notes that a run's thread has another epoch.
    fn rebase(&self, run: RunId, thread: &Thread);

    /// Puts a run aside that the shared store refuses.
    fn park(&self, run: RunId, reason: &str);

    /// Puts on the journal what is known of the messages that the shared store acknowledged, since it lost some; answers
    /// the run that they are in.
    fn repair(&self, id: &ThreadId) -> Option<RunId>;

    /// The held threads that this process wrote to in this time: a failover may have lost that.
    fn written_within(&self, how_long: Duration) -> Vec<ThreadId>;

    /// The held threads of which memory alone knows that they were renewed, and in which nothing waits.
    fn renewed(&self) -> Vec<ThreadId>;

    /// What waits, for people.
    fn journal(&self) -> JournalStatus;
}
