//! What is kept of one key: settings, and a state from its first report or change until a day after its last.

use super::{incarnation::Incarnation, window::At};
use crate::{
    breakers::{
        BreakerSettings, Disposition, History, Log, Mode, Position, Snapshot, State, Transition, View,
        keeper::LastView,
        store::{
            Batch, Begins, Change, Changed, Followed, Glance, InForce, LeaseRequest, LeaseResult, Leased,
            Recorded, Settled, Settlement, StoredSettings,
        },
    },
    clock::Timestamp,
};

/// Settings and state; either may be missing.
#[derive(Debug, Default)]
pub(super) struct Entry {
    settings: Option<StoredSettings>,
    incarnation: Option<Incarnation>,
}

impl Entry {
    /// Whether nothing is kept.
    pub(super) fn is_vacant(&self) -> bool {
        self.settings.is_none() && self.incarnation.is_none()
    }

    /// Whether the entry may be dropped for another key: apart from its counts, it decides what a new one does.
    pub(super) fn is_spare(&self, now: Timestamp) -> bool {
        self.settings.is_none()
            && self.incarnation.as_ref().is_none_or(|incarnation| {
                let snapshot = incarnation.snapshot();
                snapshot.state == State::Closed && snapshot.mode_at(now) == Mode::Automatic
            })
    }

    /// When it expires, or becomes spare, by time alone.
    pub(super) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let incarnation = self.incarnation.as_ref()?;
        let override_end = incarnation.snapshot().mode_override.as_ref().and_then(|set| set.expire_time);
        [override_end, incarnation.expires()].into_iter().flatten().filter(|due| *due > now).min()
    }

    /// Begins a state as the last view of a shared breaker describes it, unless that is CLOSED without override: such a
    /// breaker decides nothing.
    pub(super) fn adopt(&mut self, last: &LastView, now: Timestamp, epoch: impl FnOnce() -> String) {
        let LastView { at, snapshot } = last;
        let decides = snapshot.state != State::Closed || snapshot.mode_at(now) != Mode::Automatic;
        self.incarnation = decides.then(|| Incarnation::adopted(epoch(), snapshot, *at, now));
        self.expire(now);
    }

    /// A state that is OPEN because it was opened here, and with what change, if that is still known.
    pub(super) fn opening(&self, now: Timestamp) -> Option<(&Snapshot, Option<&Transition>)> {
        let incarnation = self.incarnation.as_ref()?;
        let snapshot = incarnation.snapshot();
        let is_open = snapshot.state == State::Open
            && snapshot.mode_at(now) == Mode::Automatic
            && snapshot.open_until.is_some_and(|until| until > now);
        (is_open && incarnation.has_begun_here()).then(|| (snapshot, incarnation.beginning()))
    }

    /// Forgets a state that has expired, with all that belongs to it.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.incarnation.take_if(|incarnation| incarnation.expires().is_some_and(|at| now >= at));
    }

    /// When the state was created or changed last; none without state.
    pub(super) fn changed(&self) -> Option<Timestamp> {
        self.incarnation.as_ref().map(Incarnation::changed)
    }

    /// The stored settings.
    pub(super) fn settings(&self) -> Option<&StoredSettings> {
        self.settings.as_ref()
    }

    /// Whether these settings are in force.
    pub(super) fn goes_by(&self, in_force: &InForce) -> bool {
        *in_force.revision == *self.revision()
    }

    fn revision(&self) -> &str {
        self.settings.as_ref().map_or("", |stored| &stored.revision)
    }

    /// Replaces the settings of the expected revision.
    pub(super) fn configure(
        &mut self,
        expected: &str,
        settings: Option<&BreakerSettings>,
        revision: impl FnOnce() -> String,
    ) -> bool {
        if self.revision() != expected {
            return false;
        }
        self.settings = settings
            .map(|settings| StoredSettings { settings: Some(settings.clone()), revision: revision() });
        true
    }

    pub(super) fn view(&self, at: At) -> View {
        let absent = || View { now: at.now, ..View::default() };
        self.incarnation.as_ref().map_or_else(absent, |incarnation| incarnation.view(at))
    }

    /// The breaker with its newest changes.
    pub(super) fn follow(&self, after: Option<&Position>, limit: usize, at: At) -> Followed {
        let view = self.view(at);
        let Some(incarnation) = &self.incarnation else { return Followed { view, ..Followed::default() } };
        let after = after.filter(|after| after.epoch == view.snapshot.position.epoch);
        let newest = incarnation.newest(after.map_or(0, |after| after.generation), limit);
        let expires_in = incarnation.expires().map(|expires| expires.since(at.now));
        Followed { view, newest, expires_in }
    }

    /// What shows whether it has changed.
    pub(super) fn glance(&self) -> Glance {
        self.incarnation.as_ref().map(|found| Glance::from(found.snapshot())).unwrap_or_default()
    }

    pub(super) fn history(&self) -> History {
        self.incarnation.as_ref().map(Incarnation::history).unwrap_or_default()
    }

    pub(super) fn log(&self, after: i64, limit: usize) -> Log {
        self.incarnation.as_ref().map(|incarnation| incarnation.log(after, limit)).unwrap_or_default()
    }

    /// What a report comes to that was permitted at a position, or without permit.
    fn judge(&self, position: Option<&Position>, now: Timestamp) -> Disposition {
        self.incarnation.as_ref().map_or_else(
            || judge(&Snapshot::default(), position, now),
            |incarnation| judge(incarnation.snapshot(), position, now),
        )
    }

    pub(super) fn record(&mut self, batch: &Batch, at: At, epoch: impl FnOnce() -> String) -> Recorded {
        let has_ended = |found: &Incarnation| found.snapshot().mode != found.snapshot().mode_at(at.now);
        if self.incarnation.as_ref().is_some_and(has_ended) {
            return Recorded { view: self.view(at), groups: Vec::new(), longest_run: 0 };
        }
        let groups: Vec<_> =
            batch.groups.iter().map(|group| self.judge(group.position.as_ref(), at.now)).collect();
        let recalled = self.incarnation.as_ref().and_then(|incarnation| incarnation.recall(batch));
        if let Some(recalled) = recalled {
            let groups = recalled.groups.map_or(groups, <[_]>::to_vec);
            return Recorded { view: self.view(at), groups, longest_run: recalled.longest_run };
        }
        if !groups.contains(&Disposition::Applied) {
            return Recorded { view: self.view(at), groups, longest_run: 0 };
        }
        let incarnation = self.incarnation.get_or_insert_with(|| Incarnation::new(epoch(), at.now));
        let longest_run = incarnation.record(batch, &groups, at);
        Recorded { view: incarnation.view(at), groups, longest_run }
    }

    pub(super) fn lease(
        &mut self,
        request: LeaseRequest<'_>,
        (id, end): (&str, Timestamp),
        settings: &BreakerSettings,
        at: At,
    ) -> Leased {
        let result = match self.incarnation.as_mut().filter(|found| is_leasing(found.snapshot(), at.now)) {
            None => LeaseResult::NotLeasing,
            Some(incarnation) => {
                let is_stale = matches!(request, LeaseRequest::Renew(position) if !incarnation.snapshot().is_current(position));
                // One that is stale brings the leases to the present, and no more.
                let request = if is_stale { LeaseRequest::Find } else { request };
                let result = incarnation.lease(request, id, end, settings, at);
                if is_stale { LeaseResult::Absent } else { result }
            }
        };
        Leased { view: self.view(at), result }
    }

    pub(super) fn settle(&mut self, settlement: &Settlement, settings: &BreakerSettings, at: At) -> Settled {
        let takes = |found: &&mut Incarnation| {
            found.snapshot().is_current(&settlement.position) && is_leasing(found.snapshot(), at.now)
        };
        let disposition = match self.incarnation.as_mut().filter(takes) {
            None => Disposition::Stale,
            Some(incarnation) => incarnation.settle(settlement, settings, at),
        };
        Settled { view: self.view(at), disposition }
    }

    pub(super) fn transition(
        &mut self,
        change: &Change,
        instance: &str,
        at: At,
        epoch: impl FnOnce() -> String,
    ) -> Changed {
        let won = self.incarnation.as_ref().map_or_else(
            || change.expected == Position::default(),
            |found| found.snapshot().position == change.expected,
        );
        if won {
            match &mut self.incarnation {
                Some(incarnation) if change.begins == Begins::Epoch => incarnation.begin_epoch(epoch()),
                Some(_) => {}
                none => *none = Some(Incarnation::new(epoch(), at.now)),
            }
            if let Some(incarnation) = &mut self.incarnation {
                incarnation.change(change, instance, at);
            }
        }
        Changed { won, view: self.view(at) }
    }
}

fn is_leasing(snapshot: &Snapshot, now: Timestamp) -> bool {
    snapshot.state == State::HalfOpen && snapshot.mode_at(now) == Mode::Automatic
}

fn judge(snapshot: &Snapshot, position: Option<&Position>, now: Timestamp) -> Disposition {
    if position.is_some_and(|position| !snapshot.is_current(position)) {
        return Disposition::Stale;
    }
    match snapshot.mode_at(now) {
        Mode::ForcedOpen | Mode::Disabled => Disposition::Neutral,
        Mode::MetricsOnly => Disposition::Applied,
        Mode::Automatic if snapshot.state == State::Closed => Disposition::Applied,
        Mode::Automatic => Disposition::Stale,
    }
}
