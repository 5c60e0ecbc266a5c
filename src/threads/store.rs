//! What a store of threads must offer.

use std::future::Future;

use super::{
    Append, Appended, Context, ContextQuery, Cut, Fork, Guard, MessageUpdate, MessagesPage, MessagesQuery,
    NewThread, Swept, Thread, ThreadChange, ThreadId, ThreadsPage, ThreadsQuery, Ttl, UpdatedMessage,
    replay::{Replay, Replayed},
    watch::{Followed, Since},
};
use crate::{
    call::{Answer, Call},
    error::Result,
};

/// Keeps threads. Every write is all or nothing and safe to repeat; every method may be dropped at any await, and
/// a write may then still happen.
pub trait ThreadStore: Send + Sync + 'static {
    /// Creates a thread, also under the id of a deleted one.
    fn create(
        &self,
        call: &Call,
        thread: &NewThread,
    ) -> impl Future<Output = Result<Answer<Appended>>> + Send;

    /// Reads a thread; `renew` counts as activity.
    fn get(
        &self,
        call: &Call,
        id: &ThreadId,
        renew: bool,
    ) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Lists an owner's threads, newest activity first; never renews, never shows an expired one.
    fn list(
        &self,
        call: &Call,
        query: &ThreadsQuery,
    ) -> impl Future<Output = Result<Answer<ThreadsPage>>> + Send;

    /// Changes a thread's own fields and renews it.
    fn update(
        &self,
        call: &Call,
        id: &ThreadId,
        change: &ThreadChange,
        guard: &Guard,
    ) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Deletes a thread and leaves a tombstone; [`crate::error::Error::ThreadNotFound`] if there is none.
    fn delete(
        &self,
        call: &Call,
        id: &ThreadId,
        guard: &Guard,
    ) -> impl Future<Output = Result<Answer<()>>> + Send;

    /// Renews a thread, with a new time to live if one is given.
    fn touch(
        &self,
        call: &Call,
        id: &ThreadId,
        ttl: Option<Ttl>,
    ) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Appends messages, all or none, and renews.
    fn append(&self, call: &Call, append: &Append) -> impl Future<Output = Result<Answer<Appended>>> + Send;

    /// Pages through messages.
    fn messages(
        &self,
        call: &Call,
        query: &MessagesQuery,
    ) -> impl Future<Output = Result<Answer<MessagesPage>>> + Send;

    /// Reads the newest messages that fit.
    fn context(
        &self,
        call: &Call,
        query: &ContextQuery,
    ) -> impl Future<Output = Result<Answer<Context>>> + Send;

    /// Changes one message in place and renews.
    fn update_message(
        &self,
        call: &Call,
        update: &MessageUpdate,
    ) -> impl Future<Output = Result<Answer<UpdatedMessage>>> + Send;

    /// Drops the tail or the head; does not renew.
    fn truncate(
        &self,
        call: &Call,
        id: &ThreadId,
        cut: Cut,
        guard: &Guard,
    ) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Copies a thread, whole or up to a message, into an independent one.
    fn fork(&self, call: &Call, fork: &Fork) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Answers from one moment what happened to a thread since a watcher was told of it; never renews. A thread that is
    /// not there is an answer, too.
    fn follow(
        &self,
        call: &Call,
        id: &ThreadId,
        since: &Since,
    ) -> impl Future<Output = Result<Answer<Followed>>> + Send;

    /// Removes what expired threads left behind and repairs lost expiries.
    fn sweep(&self) -> impl Future<Output = Result<Swept>> + Send;
}

/// A store that several processes share, and that takes what they accepted without it.
pub trait SharedThreads: ThreadStore {
    /// Gives a thread that lost writes another epoch, unless it was changed since `thread` was read: no etag and no
    /// page token of what was lost may match what is written next. Answers the thread as it is then.
    fn reincarnate(
        &self,
        call: &Call,
        thread: &Thread,
    ) -> impl Future<Output = Result<Answer<Thread>>> + Send;

    /// Carries out one step of the replay of what was accepted without this store. The same step again changes nothing.
    fn replay(&self, call: &Call, replay: &Replay) -> impl Future<Output = Result<Replayed>> + Send;
}
