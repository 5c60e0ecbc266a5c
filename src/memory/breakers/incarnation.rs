//! The stored state of one breaker, with its window, its leases and its log.

use std::{collections::VecDeque, time::Duration};

use super::{
    instances::Recalled,
    leases::Leases,
    tally::Tally,
    window::{At, Share},
};
use crate::{
    breakers::{
        BreakerSettings, Counts, Disposition, ExpiredPermit, History, Log, Mode, ModeOverride, Position,
        Reason, Snapshot, State, Totals, Transition, View,
        store::{Batch, Change, LOG_KEPT, LeaseRequest, LeaseResult, ORDERS_KEPT, STATE_KEPT, Settlement},
    },
    clock::Timestamp,
};

/// How long a state outlives what happened to it last: the whole of the last millisecond, as keys of Redis do.
const TTL: Duration = STATE_KEPT.saturating_add(Duration::from_millis(1));
/// The most bytes of what operators and reports said in it: who writes much into one log must not fill the memory.
const LOG_TEXTS: usize = 64 << 10;

/// A breaker from the report or change that created it until it expires.
#[derive(Debug)]
pub(super) struct Incarnation {
    snapshot: Snapshot,
    tally: Tally,
    leases: Leases,
    log: VecDeque<Transition>,
    /// Bytes of texts in the log.
    log_texts: usize,
    /// Newest first.
    requests: VecDeque<String>,
    /// When window or leases were written last: a present before it means that the clock went back.
    seen: Timestamp,
    changed: Timestamp,
    /// When it changed or a report was counted last.
    active: Timestamp,
    /// The generation of a state that was adopted from a shared store; 0: none was.
    adopted: i64,
}

impl Incarnation {
    pub(super) fn new(epoch: String, now: Timestamp) -> Self {
        Self {
            snapshot: Snapshot {
                position: Position { epoch, generation: 0 },
                since: now,
                ..Snapshot::default()
            },
            tally: Tally::default(),
            leases: Leases::default(),
            log: VecDeque::new(),
            log_texts: 0,
            requests: VecDeque::new(),
            seen: now,
            changed: now,
            active: now,
            adopted: 0,
        }
    }

    /// A breaker that goes on from a state of a shared breaker, as it was at a time. Its counts and leases are not adopted.
    ///
    /// Its generation is no longer that of a breaker which never changed, and no change led to it: so permits of one that
    /// had no state yet are not current in it, and whoever follows it is told of it as it is.
    pub(super) fn adopted(epoch: String, snapshot: &Snapshot, seen: Timestamp, now: Timestamp) -> Self {
        let generation = 1;
        let snapshot = Snapshot {
            position: Position { epoch, generation },
            fence: generation,
            fence_before: generation,
            // What is known of the other store's clock may lag a little.
            since: snapshot.since.min(now),
            ..snapshot.clone()
        };
        Self { snapshot, active: seen, adopted: generation, ..Self::new(String::new(), now) }
    }

    /// Whether the present state began here.
    pub(super) fn has_begun_here(&self) -> bool {
        self.snapshot.fence > self.adopted
    }

    /// The change with which the present state began, if the log still has it.
    pub(super) fn beginning(&self) -> Option<&Transition> {
        self.log.iter().find(|entry| entry.position.generation == self.snapshot.fence)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// When it was created or changed last.
    pub(super) fn changed(&self) -> Timestamp {
        self.changed
    }

    /// When it expires; none while an override is in force that nothing ends.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        let last = self.snapshot.open_until.map_or(self.active, |until| until.max(self.active));
        match &self.snapshot.mode_override {
            None => Some(last.plus(TTL)),
            Some(stands) => stands.expire_time.map(|end| last.max(end).plus(TTL)),
        }
    }

    /// The moment with the window that counts now: results of trial calls do not age.
    fn here(&self, at: At) -> At {
        match self.snapshot.state {
            State::Closed | State::Open => at,
            State::HalfOpen => At { window: None, ..at },
        }
    }

    pub(super) fn view(&self, at: At) -> View {
        let at = self.here(at);
        let seen = self.as_seen(at);
        let totals = Totals {
            counts: self.tally.counts(seen),
            reporters: self.tally.reporters(seen),
            leases: self.leases.live(seen.now),
            last_failure: self.tally.last_failure(),
            pause: self.tally.pause(seen.now, at.now),
        };
        View { now: at.now, snapshot: self.snapshot.clone(), totals }
    }

    pub(super) fn history(&self) -> History {
        History { last: self.log.back().cloned(), requests: self.requests.iter().cloned().collect() }
    }

    pub(super) fn log(&self, after: i64, limit: usize) -> Log {
        let first = self.log.partition_point(|entry| entry.position.generation <= after);
        let mut newer = self.log.range(first..);
        let transitions = newer.by_ref().take(limit).cloned().collect();
        Log { epoch: self.snapshot.position.epoch.clone(), transitions, more: newer.next().is_some() }
    }

    /// The moment whose counts and leases hold. Where the clock went back, this is the moment of the latest write: the next
    /// write would move everything that was live then to now.
    fn as_seen(&self, at: At) -> At {
        At { now: at.now.max(self.seen), ..at }
    }

    /// Goes back with the clock, before window or leases are written.
    fn follow(&mut self, at: At) {
        if at.now < self.seen {
            self.leases.shift(self.seen.since(at.now));
            self.tally.shift(self.seen.since(at.now));
            self.tally.gather(self.as_seen(at), at);
            self.seen = at.now;
        }
    }

    /// What the instance's last batch came to, if this is that one or one before.
    pub(super) fn recall(&self, batch: &Batch) -> Option<Recalled<'_>> {
        self.tally.recall(batch)
    }

    /// Counts the groups that are applied and tells the longest row of failures that ended or went on in them.
    pub(super) fn record(&mut self, batch: &Batch, groups: &[Disposition], at: At) -> i64 {
        let at = self.here(at);
        self.follow(at);
        (self.seen, self.active) = (at.now, at.now);
        let counted = batch.groups.iter().zip(groups).filter(|(_, came)| **came == Disposition::Applied);
        self.tally.record((batch, groups), counted.map(|(group, _)| group), at)
    }

    /// Removes leases that ended; whoever does so counts them where they mean failures.
    fn purge(&mut self, settings: &BreakerSettings, at: At) {
        self.follow(at);
        let ended = self.leases.purge(at.now);
        if ended > 0 {
            self.seen = at.now;
        }
        if ended > 0 && settings.expired_permit == ExpiredPermit::Failure {
            self.tally.count(std::iter::repeat_n(Share::FAILURE, ended), at);
        }
    }

    pub(super) fn lease(
        &mut self,
        request: LeaseRequest<'_>,
        id: &str,
        end: Timestamp,
        settings: &BreakerSettings,
        at: At,
    ) -> LeaseResult {
        let at = self.here(at);
        self.purge(settings, at);
        if self.leases.settled(id).is_some() {
            return LeaseResult::Settled;
        }
        let end = match (request, self.leases.end(id)) {
            (LeaseRequest::Grant | LeaseRequest::Find, Some(live)) => return LeaseResult::Live(live),
            (LeaseRequest::Find | LeaseRequest::Renew(_), None) => return LeaseResult::Absent,
            (LeaseRequest::Grant, None) if !self.has_permit(settings, at) => return LeaseResult::Full,
            (LeaseRequest::Grant, None) | (LeaseRequest::Renew(_), Some(_)) => end,
        };
        self.leases.put(id, end);
        self.seen = at.now;
        LeaseResult::Live(end)
    }

    fn has_permit(&self, settings: &BreakerSettings, at: At) -> bool {
        let taken = self.leases.live(at.now).saturating_add(self.tally.counts(at).calls);
        taken < i64::from(settings.half_open_permits)
    }

    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
        settings: &BreakerSettings,
        at: At,
    ) -> Disposition {
        let at = self.here(at);
        self.purge(settings, at);
        if let Some(before) = self.leases.settled(&settlement.lease) {
            return before;
        }
        let is_neutral = settlement.result.outcome.is_neutral();
        let disposition = if is_neutral { Disposition::Neutral } else { Disposition::Applied };
        if !self.leases.settle(&settlement.lease, disposition) {
            return Disposition::Stale;
        }
        self.seen = at.now;
        if !is_neutral {
            self.active = at.now;
            self.tally.count(std::iter::once(settlement.result.as_byte()), at);
            self.tally.request_pause(settlement.pause, at.now);
        }
        disposition
    }

    /// Begins another epoch, without any change.
    pub(super) fn begin_epoch(&mut self, epoch: String) {
        self.snapshot.position = Position { epoch, generation: 0 };
        self.snapshot.fence = 0;
        self.log.clear();
        self.log_texts = 0;
    }

    /// The newest changes after a generation, at most so many but at least the very newest.
    pub(super) fn newest(&self, after: i64, limit: usize) -> Vec<Transition> {
        let first = self.log.partition_point(|entry| entry.position.generation <= after);
        let first = first.max(self.log.len().saturating_sub(limit)).min(self.log.len().saturating_sub(1));
        self.log.range(first..).cloned().collect()
    }

    /// Makes a change that found the breaker where it was expected.
    pub(super) fn change(&mut self, change: &Change, instance: &str, at: At) {
        let counts = self.tally.counts(self.as_seen(self.here(at)));
        self.snapshot.last_failure = self.tally.last_failure().or(self.snapshot.last_failure);
        advance(&mut self.snapshot, change, counts, at.now);
        self.remember(change, instance, at.now);
        if change.begins.is_state() || change.empties {
            self.tally.empty();
            self.leases = Leases::default();
            self.seen = at.now;
        }
        self.changed = at.now;
        self.active = at.now;
    }

    fn remember(&mut self, change: &Change, instance: &str, now: Timestamp) {
        self.log.push_back(Transition {
            position: self.snapshot.position.clone(),
            from: change.from,
            to: change.to,
            mode: change.mode,
            time: now,
            reason: change.reason,
            outcome: change.outcome,
            actor: change.actor.clone(),
            detail: change.detail.clone(),
            instance: instance.to_owned(),
            open_until: self.snapshot.open_until.filter(|_| change.to == State::Open),
        });
        self.log_texts += change.actor.len() + change.detail.len();
        while self.log.len() > LOG_KEPT || self.log_texts > LOG_TEXTS {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_texts -= oldest.actor.len() + oldest.detail.len();
        }
        if let Some(request) = &change.request {
            self.requests.push_front(request.clone());
            self.requests.truncate(ORDERS_KEPT);
        }
    }
}

/// Moves a snapshot one generation on.
fn advance(snapshot: &mut Snapshot, change: &Change, counts: Counts, now: Timestamp) {
    snapshot.position.generation += 1;
    if change.begins.is_state() {
        snapshot.fence_before = snapshot.fence;
        snapshot.fence = snapshot.position.generation;
        snapshot.before = counts;
    }
    if change.begins.is_state() || change.reanchors {
        snapshot.since = now;
    }
    let kept = snapshot.open_until.filter(|_| change.to == State::Open);
    snapshot.open_until = change.open_for.map(|length| now.plus(length)).or(kept);
    snapshot.state = change.to;
    snapshot.attempts = change.attempts;
    snapshot.mode = change.mode;
    if change.mode == Mode::Automatic {
        snapshot.mode_override = None;
    } else if change.reason == Reason::Override {
        snapshot.mode_override = Some(ModeOverride {
            reason: change.detail.clone(),
            actor: change.actor.clone(),
            set_time: now,
            expire_time: change.override_for.map(|length| now.plus(length)),
        });
    }
}
