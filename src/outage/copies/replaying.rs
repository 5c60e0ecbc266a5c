//! What a merge asks of the copies and the queue, and what each outcome of a replayed step means for both.

use std::time::Duration;

use super::{Copies, Known};
use crate::{
    outage::{copy::ThreadCopy, queue::PendingBatch},
    threads::{
        MessageId, ThreadId,
        replay::{BatchId, Done, Replay},
    },
};

impl Copies {
    /// Returns once something waits that did not before; nothing is missed between two calls.
    pub(in crate::outage) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Notes that Redis has a step. Answers whether the copy was forgotten, since Redis has the thread otherwise than it was
    /// here.
    pub(in crate::outage) fn settle(&self, batch: BatchId, step: &Replay, done: &Done) -> bool {
        let now = self.clock.now();
        let Known { copies, queue } = &mut *self.lock();
        let id = &step.origin.thread.id;
        let answered = step.entries.iter().zip(&done.duplicates);
        let repaired = answered.filter(|(entry, is_duplicate)| entry.is_repair && !**is_duplicate).count();
        queue.count_repaired(id, u64::try_from(repaired).unwrap_or(u64::MAX));
        let taken = queue.change(batch, |batch| (batch.take_done(step, done), batch.is_clean()));
        let Some((true, is_clean)) = taken else { return false };
        let was_active = queue.is_active(batch, id);
        queue.finish(batch, id);
        if !was_active {
            return false;
        }
        if let Some(copy) = copies.take(id) {
            copies.put(copy.merge(&done.thread, is_clean, now));
        }
        !is_clean
    }

    /// Redis does not have the thread: the next step creates it from what is known of it. Where nothing is known but that it
    /// was there, the batch is dropped.
    pub(in crate::outage) fn create_anew(&self, batch: BatchId, id: &ThreadId) {
        let now = self.clock.now();
        let known = &mut *self.lock();
        let messages = known.copies.peek(id).map_or_else(Vec::new, |copy| copy.known(self.digest_of));
        if known.queue.change(batch, |batch| batch.create_anew(messages, now)) == Some(false) {
            known.give_up(batch, id, "dropped: a renewal of a thread that is gone");
        }
    }

    /// The thread was deleted: nothing of it is brought back.
    pub(crate) fn give_up(&self, batch: BatchId, id: &ThreadId) {
        self.lock().give_up(batch, id, "dropped: the thread was deleted");
    }

    /// Redis lost messages that it had acknowledged: the next step appends them again, before those that wait.
    pub(in crate::outage) fn restore_lost(&self, batch: BatchId, id: &ThreadId) {
        let Known { copies, queue } = &mut *self.lock();
        let acknowledged = || copies.peek(id).map_or_else(Vec::new, ThreadCopy::acknowledged_messages);
        queue.change(batch, |batch| batch.restore_lost(acknowledged));
    }

    /// Redis has the thread for another owner: the next steps go to a thread beside it, and calls of this one to Redis. Fails
    /// with the reason for which there is no such thread.
    pub(in crate::outage) fn move_to_another_thread(
        &self,
        batch: BatchId,
        id: &ThreadId,
    ) -> Result<(), String> {
        let Known { copies, queue } = &mut *self.lock();
        if let Some(moved) = queue.change(batch, PendingBatch::move_to_another_thread) {
            queue.note(id, queue.entries_of(batch), moved?);
            queue.retire(batch, id);
            copies.take(id);
        }
        Ok(())
    }

    /// Redis has another message of this id: the next step gives the waiting one another id. Fails with the reason for which
    /// there is no such id.
    pub(in crate::outage) fn rename_message(
        &self,
        batch: BatchId,
        id: &ThreadId,
        used: &MessageId,
    ) -> Result<(), String> {
        let queue = &mut self.lock().queue;
        if let Some(renamed) = queue.change(batch, |batch| batch.rename_message(used)) {
            queue.note(id, 1, renamed?);
        }
        Ok(())
    }

    /// Queues what is known of the messages that Redis acknowledged, since it lost some; answers the batch that they are in.
    pub(in crate::outage) fn repair(&self, id: &ThreadId) -> Option<BatchId> {
        let now = self.clock.now();
        let Known { copies, queue } = &mut *self.lock();
        let copy = copies.peek(id)?;
        let batch = queue.repair(copy.origin(), copy.acknowledged_messages(), now);
        self.changed.notify_one();
        batch
    }

    /// The threads in which nothing waits and to which this process wrote in this time: a failover may have lost that.
    pub(in crate::outage) fn written_within(&self, how_long: Duration) -> Vec<ThreadId> {
        let now = self.clock.now();
        self.select(|copy| copy.wrote_at().is_some_and(|at| now.since(at) <= how_long))
    }

    /// The threads in which nothing waits and of which memory alone knows that they were renewed.
    pub(in crate::outage) fn renewed(&self) -> Vec<ThreadId> {
        self.select(ThreadCopy::is_renewed)
    }

    fn select(&self, is_wanted: impl Fn(&ThreadCopy) -> bool) -> Vec<ThreadId> {
        let known = self.lock();
        let wanted = known.copies.iter().filter(|copy| !copy.is_waiting() && is_wanted(copy));
        wanted.map(|copy| copy.thread().id.clone()).collect()
    }
}

impl Known {
    /// Gives up a batch that Redis can never have, and tells people why. Nobody misses a repair: its messages went with the
    /// thread in Redis.
    fn give_up(&mut self, batch: BatchId, id: &ThreadId, reason: &str) {
        let Self { copies, queue } = self;
        if !queue.is_repair(batch) {
            queue.note(id, queue.entries_of(batch), reason.to_owned());
        }
        if queue.is_active(batch, id) {
            copies.take(id);
        }
        queue.finish(batch, id);
    }
}
