//! What this process knows of one breaker, and whether that is all there is to know.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use self::changes::Changes;
use super::{
    Position, Transition, View,
    operations::{Report, Reported},
    store::{Followed, InForce},
};
use crate::error::Result;

mod changes;
mod last_view;

#[cfg(test)]
pub(super) use changes::MOST_BEHIND;
pub use last_view::{LastView, LastViews};

/// A state may disappear so long before its expiry was due and still count as expired: times are whole ms, and answers
/// take time.
const SLACK: Duration = Duration::from_millis(250);
/// Reports in one script call at most, so that no call holds up Redis for long.
const BATCH: usize = 1000;

/// Whether a breaker is read back, and how far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Knowledge {
    /// Nobody watches the breaker or wants it for admission: it is not read back.
    #[default]
    Unfollowed,
    /// Nothing says that the breaker has changed since it was read.
    Fresh,
    /// The breaker may have changed, and waits to be read.
    Stale,
    /// The read with this number is under way.
    Reading(u64),
    /// The read with this number is under way, and the breaker may have changed since that began.
    Overtaken(u64),
    /// The breaker could not be read.
    Unread,
}

/// A breaker as it was read back.
#[derive(Debug)]
pub struct Reading {
    /// The breaker.
    pub view: View,
    /// The settings in force.
    pub in_force: InForce,
    /// Its position, shared with watchers.
    pub position: Arc<Position>,
    /// When the answer arrived.
    pub read: Instant,
    /// The era of the doorbell in which the read began.
    pub era: u64,
    /// When the state expires, by the clock of this process; none: it does not expire, or there is no state.
    pub expires: Option<Instant>,
    /// Whether the last state expired; only where there is no state now.
    pub has_expired: bool,
}

impl Reading {
    /// The view with the present time of the store, as far as this process knows: never later than it is.
    pub fn present(&self) -> View {
        let mut view = self.view.clone();
        view.now = view.now.plus(self.read.elapsed());
        view
    }

    /// Whether the store has no such breaker.
    pub fn is_gone(&self) -> bool {
        *self.position == Position::default()
    }
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadResult {
    /// The breaker was read.
    Done,
    /// What is stored cannot be read, now or later.
    Damaged,
    /// The store did not answer.
    Failed,
}

/// Where a read of a breaker begins.
#[derive(Debug)]
pub(super) struct ReadFrom {
    /// The number of the read: a later read has a higher number.
    pub(super) number: u64,
    /// Where the breaker stood when it was read last.
    pub(super) after: Option<Arc<Position>>,
    /// The change that led there, if this process still has it.
    pub(super) last: Option<Arc<Transition>>,
}

/// A report that waits for the next batch.
#[derive(Debug)]
pub(super) struct PendingReport {
    pub(super) report: Report,
    pub(super) reply: oneshot::Sender<Result<Reported>>,
}

/// What there is to tell a watcher of one breaker.
#[derive(Debug)]
pub(super) enum News {
    /// Nothing.
    None,
    /// These changes, and where the last one leads.
    Changes(Vec<Arc<Transition>>, Arc<Position>),
    /// Changes are missing, for this reason: the watcher begins again from the reading.
    Resync(Arc<Reading>, &'static str),
    /// The breaker is gone: whether it expired.
    Removed(bool),
    /// No change, but from now on the breaker stands here.
    Stands(Arc<Position>),
}

/// What this process knows of one breaker. A keeper that nothing depends on may be forgotten at any time: the store
/// says when settings are outdated, the count of rejected calls is for people, and a breaker without last view begins
/// CLOSED in an outage.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// The settings in force, as far as this process knows; none: it has not asked for them yet.
    pub(super) in_force: Option<InForce>,
    /// The newest view of all answers, to go on from in an outage.
    pub(super) last: Option<LastView>,
    /// Calls that were rejected at a position.
    rejected: (Position, i64),
    /// Reports that wait for the next batch; none: no batch is under way.
    pub(super) reports: Option<Vec<PendingReport>>,
    /// When time alone may change the breaker.
    pub(super) deadline: Option<Instant>,
    pub(super) knowledge: Knowledge,
    /// How the breaker was read back last.
    pub(super) reading: Option<Arc<Reading>>,
    /// The newest changes up to the reading.
    pub(super) changes: Changes,
    /// Those who wait for a read, with the lowest number that will do.
    waiting: Vec<(u64, oneshot::Sender<ReadResult>)>,
    /// Whether admission asked for the breaker of late.
    pub(super) is_wanted: bool,
    /// Grows with each use of any keeper.
    pub(super) used: u64,
}

impl Keeper {
    /// A breaker of which nothing is known, but that reports of it wait.
    pub(super) fn of_reports(reports: Vec<PendingReport>) -> Self {
        Self { reports: Some(reports), ..Self::default() }
    }

    /// Forgets a breaker that was deleted.
    pub(super) fn forget(&mut self) {
        (self.in_force, self.last, self.rejected) = (None, None, Default::default());
    }

    /// Whether nothing depends on this keeper.
    pub(super) fn is_spare(&self) -> bool {
        !self.is_followed() && self.reports.is_none() && self.deadline.is_none()
    }

    /// Counts a rejected call.
    pub(super) fn count_rejection(&mut self, position: &Position) {
        if self.rejected.0 != *position {
            self.rejected = (position.clone(), 0);
        }
        self.rejected.1 += 1;
    }

    /// The calls that were rejected at a position.
    pub(super) fn rejected(&self, position: &Position) -> i64 {
        if self.rejected.0 == *position { self.rejected.1 } else { 0 }
    }

    /// Adds a report; says whether a batch must be begun for it.
    pub(super) fn add_report(&mut self, report: PendingReport) -> bool {
        let begins = self.reports.is_none();
        self.reports.get_or_insert_default().push(report);
        begins
    }

    /// Takes the reports of the next batch. If there are none, no batch is under way any more.
    pub(super) fn next_batch(&mut self) -> Option<Vec<PendingReport>> {
        let mut batch = self.reports.take().filter(|reports| !reports.is_empty())?;
        self.reports = Some(batch.split_off(batch.len().min(BATCH)));
        Some(batch)
    }

    /// Whether the breaker is read back.
    pub(super) fn is_followed(&self) -> bool {
        self.knowledge != Knowledge::Unfollowed
    }

    /// The reading, if the breaker is as it was read.
    pub(super) fn fresh(&self) -> Option<&Arc<Reading>> {
        self.reading.as_ref().filter(|_| self.knowledge == Knowledge::Fresh)
    }

    /// Whether a followed breaker is known to stand at a position, or will be read anyway.
    pub(super) fn expects(&self, position: &Position) -> bool {
        match self.knowledge {
            Knowledge::Unfollowed => false,
            Knowledge::Stale | Knowledge::Overtaken(_) | Knowledge::Unread => true,
            // A read that is under way may have begun before the breaker stood there.
            Knowledge::Fresh | Knowledge::Reading(_) => {
                self.reading.as_ref().is_some_and(|reading| *reading.position == *position)
            }
        }
    }

    /// Follows the breaker, which may have changed; says whether it must be queued for that.
    pub(super) fn wake(&mut self) -> bool {
        let (knowledge, is_new) = match self.knowledge {
            Knowledge::Unfollowed | Knowledge::Fresh | Knowledge::Unread => (Knowledge::Stale, true),
            Knowledge::Reading(number) => (Knowledge::Overtaken(number), false),
            Knowledge::Stale | Knowledge::Overtaken(_) => (self.knowledge, false),
        };
        self.knowledge = knowledge;
        is_new
    }

    /// Stops following the breaker.
    pub(super) fn unfollow(&mut self) {
        self.knowledge = Knowledge::Unfollowed;
        (self.reading, self.changes, self.waiting) = (None, Changes::default(), Vec::new());
    }

    /// Whether nobody waits for a read.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.knowledge, Knowledge::Fresh | Knowledge::Unread) && self.waiting.is_empty()
    }

    /// Waits for a read with at least this number.
    pub(super) fn wait_for(&mut self, number: u64) -> oneshot::Receiver<ReadResult> {
        let (reply, result) = oneshot::channel();
        self.waiting.push((number, reply));
        result
    }

    /// Begins a read.
    pub(super) fn begin_read(&mut self, number: u64) -> ReadFrom {
        self.knowledge = Knowledge::Reading(number);
        let after = self.reading.as_ref().map(|reading| Arc::clone(&reading.position));
        let last = after.as_deref().and_then(|after| self.changes.last_at(after));
        ReadFrom { number, after, last }
    }

    /// Whether the read with this number is under way.
    pub(super) fn is_reading(&self, number: u64) -> bool {
        self.knowledge == Knowledge::Reading(number) || self.knowledge == Knowledge::Overtaken(number)
    }

    /// Ends the read that is under way, and replies to those who waited for it.
    pub(super) fn end_read(&mut self, number: u64, result: ReadResult) {
        self.knowledge = match (self.knowledge, result) {
            (Knowledge::Overtaken(_), _) => Knowledge::Stale,
            (_, ReadResult::Done | ReadResult::Damaged) => Knowledge::Fresh,
            (_, ReadResult::Failed) => Knowledge::Unread,
        };
        if result == ReadResult::Damaged {
            // The reading before must not be taken for the present.
            self.reading = None;
        }
        for (_, reply) in self.waiting.extract_if(.., |(first, _)| *first <= number) {
            // Nobody may be waiting any more.
            let _ = reply.send(result);
        }
    }

    /// Replaces the reading. Says whether that is news for watchers, and how many changes were added.
    pub(super) fn install(&mut self, followed: Followed, in_force: InForce, era: u64) -> (bool, usize) {
        let Followed { view, newest, expires_in } = followed;
        let read = Instant::now();
        let before = self.reading.take();
        let same =
            before.as_ref().map(|before| &before.position).filter(|was| ***was == view.snapshot.position);
        let is_news = same.is_none();
        let position = same.map_or_else(|| Arc::new(view.snapshot.position.clone()), Arc::clone);
        let added = if is_news { self.changes.extend(&position, newest) } else { 0 };
        let was_due = before.as_ref().and_then(|before| before.expires);
        let is_gone = *position == Position::default();
        let has_just_expired = || was_due.is_some_and(|due| read + SLACK >= due);
        // A breaker that is still gone is so for the same reason as before.
        let expired_before = before.as_ref().is_some_and(|before| before.has_expired);
        let has_expired = is_gone && if is_news { has_just_expired() } else { expired_before };
        // Watchers have time to be told that it is gone.
        self.is_wanted |= is_news;
        let expires = expires_in.and_then(|left| read.checked_add(left));
        self.reading = Some(Arc::new(Reading { view, in_force, position, read, era, expires, has_expired }));
        (is_news, added)
    }

    /// What there is to tell a watcher who was told of the breaker up to a position; none: nothing yet. That watcher takes
    /// the breaker for one that never had a state.
    pub(super) fn news(&self, told: Option<&Arc<Position>>) -> News {
        let Some(reading) = &self.reading else { return News::None };
        let (unborn, here) = (Arc::new(Position::default()), &reading.position);
        let told = told.unwrap_or(&unborn);
        if **told == **here {
            return News::None;
        }
        if reading.is_gone() {
            return News::Removed(reading.has_expired);
        }
        if !told.epoch.is_empty() && told.epoch != here.epoch {
            return News::Resync(Arc::clone(reading), "it is another breaker by now: a new epoch began");
        }
        if told.generation == here.generation {
            // A report created the state, and nothing has changed.
            return News::Stands(Arc::clone(here));
        }
        if told.generation > here.generation {
            return News::Resync(Arc::clone(reading), "changes that were told are lost");
        }
        match self.changes.between(told.generation, here.generation) {
            Some(changes) => News::Changes(changes, Arc::clone(here)),
            None => News::Resync(Arc::clone(reading), "changes in between are not kept any more"),
        }
    }
}
