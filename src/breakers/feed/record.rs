//! One breaker that is followed: what was read of it, and whether that is all there is to know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{Look, Seen, history::History};
use crate::breakers::{
    ModelKey, Position,
    store::{Followed, Terms},
};

/// By how much a state may be gone before it was due to expire and still count as expired: times are whole ms, read on
/// the way.
const SLACK: Duration = Duration::from_millis(250);

/// Whether a breaker is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Nothing has rung since it was read.
    #[default]
    Settled,
    /// It waits to be read.
    Queued,
    /// It is being read.
    Reading,
    /// It is being read, and has rung since that began.
    RungAgain,
    /// It could not be read.
    Failed,
}

/// What is known of one breaker.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) phase: Phase,
    pub(super) seen: Option<Arc<Seen>>,
    /// Whether admission asked for it of late.
    pub(super) is_wanted: AtomicBool,
    /// Reads that have begun.
    reads: u64,
    /// Those who wait for a read, and for which at the earliest.
    waiting: Vec<(u64, oneshot::Sender<Look>)>,
}

impl Record {
    /// Notes a ring; says whether it is to be queued.
    pub(super) fn ring(&mut self) -> bool {
        let (phase, is_new) = match self.phase {
            Phase::Settled | Phase::Failed => (Phase::Queued, true),
            Phase::Reading => (Phase::RungAgain, false),
            Phase::Queued | Phase::RungAgain => (self.phase, false),
        };
        self.phase = phase;
        is_new
    }

    /// Waits for a read that begins from now on.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Look> {
        let (told, hears) = oneshot::channel();
        self.waiting.push((self.reads + 1, told));
        hears
    }

    pub(super) fn begin_read(&mut self) {
        self.phase = Phase::Reading;
        self.reads += 1;
    }

    /// Ends a read, and tells those who waited for it.
    pub(super) fn settle(&mut self, look: Look) {
        self.phase = match (self.phase, look) {
            (Phase::RungAgain, _) => Phase::Queued,
            (_, Look::Read | Look::Damaged) => Phase::Settled,
            (_, Look::Failed) => Phase::Failed,
        };
        if look == Look::Damaged {
            // What was seen before may not be taken for the present.
            self.seen = None;
        }
        let reads = self.reads;
        for (_, told) in self.waiting.extract_if(.., |(first, _)| *first <= reads) {
            // Whoever does not wait any more is not told.
            let _ = told.send(look);
        }
    }

    /// Whether it may be dropped: nobody waits for it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Settled | Phase::Failed) && self.waiting.is_empty()
    }

    /// Whether there is no such breaker.
    pub(super) fn is_gone(&self) -> bool {
        self.seen.as_ref().is_none_or(|seen| *seen.position == Position::default())
    }

    /// Takes over what was read, with the changes that it brought. Says whether there is anything to tell.
    pub(super) fn install(
        &mut self,
        key: &ModelKey,
        followed: Followed,
        terms: Terms,
        era: u64,
        history: &mut History,
    ) -> bool {
        let Followed { view, newest, expires_in } = followed;
        let read = Instant::now();
        let before = self.seen.take();
        let same =
            before.as_ref().map(|before| &before.position).filter(|was| ***was == view.snapshot.position);
        let is_news = same.is_none();
        let position = same.map_or_else(|| Arc::new(view.snapshot.position.clone()), Arc::clone);
        if is_news {
            history.extend(key, &position, newest);
        }
        let was_due = before.as_ref().and_then(|before| before.expires);
        let has_expired = match *position == Position::default() {
            false => false,
            true if is_news => was_due.is_some_and(|due| read + SLACK >= due),
            // It is still gone, for the same reason as before.
            true => before.as_ref().is_some_and(|before| before.has_expired),
        };
        // Watchers have time to be told that it is gone.
        self.is_wanted.fetch_or(is_news, Ordering::Relaxed);
        let expires = expires_in.and_then(|left| read.checked_add(left));
        self.seen = Some(Arc::new(Seen { view, terms, position, read, era, expires, has_expired }));
        is_news
    }
}
