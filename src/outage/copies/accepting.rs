//! What an outage brings to copies and journal at once: writes that are accepted, and what their replay came to.

use super::{Accepting, Held, HeldThread, Moment};
use crate::outage::observed::Progress;
use crate::{
    call::Answer,
    clock::Timestamp,
    error::Result,
    outage::queue::{Accepted, Settled, Touch},
    threads::{Append, Appended, Digest, Limits, Message, NewThread, Thread, ThreadId, Ttl, replay::Origin},
};

impl Held {
    /// Accepts a thread that is not held.
    pub(super) fn create(
        &mut self,
        new: &NewThread,
        (epoch, any_owner): (String, bool),
        limits: Limits,
        Moment { now, held_until }: Moment,
    ) -> Result<Accepting<Appended>> {
        let Self { stock, journal } = self;
        let held = HeldThread::accept(new, epoch, now);
        let origin = Origin { any_owner, ..held.origin() };
        let Answer { value: (appended, entries), source } =
            stock.accept(held, |held| held.add(&new.messages, limits, journal, now))?;
        let receipt =
            journal.accept(Accepted { origin, creates: true, entries, touch: None, held_until }, now);
        Ok((Answer { value: appended, source }, receipt))
    }

    pub(super) fn append(
        &mut self,
        append: &Append,
        rules: (Limits, fn(&Message) -> Digest),
        Moment { now, held_until }: Moment,
    ) -> Result<Accepting<Appended>> {
        let Self { stock, journal } = self;
        let Answer { value: (appended, entries, origin), source } = stock.ask(&append.id, now, |held| {
            let origin = held.origin();
            let (appended, entries) = held.append(append, rules, journal, now)?;
            Ok((appended, entries, origin))
        })?;
        let receipt = if entries.is_empty() {
            journal.receipt()
        } else {
            journal.accept(Accepted { origin, creates: false, entries, touch: None, held_until }, now)
        };
        Ok((Answer { value: appended, source }, receipt))
    }

    pub(super) fn touch(
        &mut self,
        id: &ThreadId,
        ttl: Option<Ttl>,
        Moment { now, held_until }: Moment,
    ) -> Result<Accepting<Thread>> {
        let Self { stock, journal } = self;
        let Answer { value: (thread, origin), source } = stock.ask(id, now, |held| {
            journal.admit(u64::from(!held.is_waiting()), 0)?;
            let origin = held.origin();
            held.touch(ttl, now);
            Ok((held.thread().clone(), origin))
        })?;
        let touch =
            Accepted { origin, creates: false, entries: Vec::new(), touch: Some(Touch(ttl)), held_until };
        let receipt = journal.accept(touch, now);
        Ok((Answer { value: thread, source }, receipt))
    }

    /// Brings the copy of a thread up to what a step of the replay came to.
    pub(super) fn settle(&mut self, id: &ThreadId, settled: Settled, now: Timestamp) -> Progress {
        let Self { stock, .. } = self;
        match settled {
            Settled::GoesOn => Progress::Step,
            Settled::Lost(thread) => Progress::Reincarnate(Box::new(thread)),
            Settled::Moved => {
                stock.take(id);
                Progress::Step
            }
            Settled::Dropped => {
                stock.take(id);
                Progress::Over
            }
            Settled::Merged { thread, is_clean } => {
                if let Some(held) = stock.take(id) {
                    stock.put(held.merge(&thread, is_clean, now));
                }
                if is_clean { Progress::Over } else { Progress::Forgotten }
            }
            Settled::Over => Progress::Over,
        }
    }
}
