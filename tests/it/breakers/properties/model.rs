//! A breaker as the design tells it, written without a thought of cost: what the engine says must be what this says.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use fusewire::{
    breakers::{
        BreakerSettings, Disposition, Lease, Mode, ModelKey, Outcome, Permit, Position, RejectionReason,
        State,
        operations::{Acquired, Inspected, Ordered, Rejection, Renewed, Reported},
    },
    clock::Timestamp,
    error::Error,
};

use self::{
    life::{Cause, Life},
    rules::Seen,
};
use super::story::{Act, Marks, Place, Story, Told};
use crate::breakers::world::beginning;

mod life;
mod rules;

/// A group of a batch that comes to the store directly.
#[derive(Debug, Clone)]
struct Group {
    position: Option<Position>,
    marks: Vec<u8>,
    wish: Option<(Duration, Outcome)>,
}

pub(super) struct Model {
    key: ModelKey,
    now: Timestamp,
    policy: BreakerSettings,
    stored: Option<BreakerSettings>,
    life: Option<Life>,
    lives: usize,
    permits: Vec<Permit>,
    batches: HashMap<u8, (u64, Vec<Group>)>,
    /// Where calls were rejected last, and how many there.
    rejected: (Position, i64),
}

impl Model {
    pub(super) fn new(number: u32, story: &Story) -> Self {
        Self {
            key: ModelKey::parse("model_key", &format!("story:{number}")).unwrap(),
            now: beginning(number),
            policy: story.settings.clone(),
            stored: None,
            life: None,
            lives: 0,
            permits: Vec::new(),
            batches: HashMap::new(),
            rejected: (Position::default(), 0),
        }
    }

    /// What an act must come to, and how the breaker must stand then.
    pub(super) fn perform(&mut self, act: &Act) -> String {
        let answer = self.act(act);
        let history = self.life.as_ref().map(|life| (life.log.clone(), life.requests.clone()));
        let (log, requests) = history.unwrap_or_default();
        let last = log.last().map(|last| (last.position.clone(), last.reason));
        let (breaker, settings) = (self.describe(), self.settings());
        format!("{answer}\n{breaker:#?}\n{settings:#?}\n{last:?}\n{log:#?}\n{requests:?}\n")
    }

    fn settings(&self) -> BreakerSettings {
        self.stored.clone().unwrap_or_else(|| self.policy.clone())
    }

    fn position(&self) -> Position {
        self.life.as_ref().map(|life| life.position.clone()).unwrap_or_default()
    }

    fn state(&self) -> State {
        self.life.as_ref().map_or(State::Closed, |life| life.state)
    }

    fn mode(&self) -> Mode {
        self.life.as_ref().map_or(Mode::Automatic, |life| life.decides(self.now))
    }

    fn is_overdue(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.is_overdue(self.now))
    }

    fn is_current(&self, position: &Position) -> bool {
        match &self.life {
            Some(life) => life.is_current(position),
            None => *position == Position::default(),
        }
    }

    fn alive(&mut self) -> &mut Life {
        let (now, lives) = (self.now, &mut self.lives);
        self.life.get_or_insert_with(|| {
            *lives += 1;
            Life::born(format!("epoch {}", *lives - 1), now)
        })
    }

    fn permit(&self, back: usize) -> Option<Permit> {
        let last = self.permits.len().checked_sub(1)?;
        self.permits.get(last.saturating_sub(back)).cloned()
    }

    fn act(&mut self, act: &Act) -> String {
        match act {
            Act::Acquire { request, lease, .. } => {
                let id = format!("r{}", request.expect("leases have ids in stories"));
                let acquired = self.acquire(&id, *lease);
                if let Acquired::Admitted { permit, .. } = &acquired {
                    self.permits.push(permit.clone());
                }
                told(acquired)
            }
            Act::Report(report) => told(self.report(report)),
            Act::Renew { permit, lease, .. } => match self.permit(*permit) {
                Some(permit) => told(self.renew(permit, *lease)),
                None => String::new(),
            },
            Act::Advance(by) => {
                self.now = self.now.plus(*by);
                self.life.take_if(|life| life.has_expired(self.now));
                String::new()
            }
            Act::GoBack(_) => unreachable!("the clock of this story only goes on"),
            Act::Order { what, request, .. } => self.order(*what, request.map(|id| format!("o{id}"))),
            Act::Configure { settings, .. } => {
                self.stored.clone_from(settings);
                let (breaker, settings) = (self.describe(), Arc::new(self.settings()));
                told(Inspected { breaker, settings, last_transition: None })
            }
            Act::Delete { .. } => {
                (self.life, self.stored, self.rejected) = (None, None, (Position::default(), 0));
                told(())
            }
            Act::Batch { instance, is_repeated, groups } => self.batch(*instance, *is_repeated, groups),
        }
    }

    fn acquire(&mut self, id: &str, length: Option<Duration>) -> Acquired {
        loop {
            let (settings, now) = (self.settings(), self.now);
            let lease = match self.life.as_mut().filter(|life| life.leases_now(now)) {
                None => None,
                Some(life) => {
                    life.purge(&settings, now);
                    let taken = i64::try_from(life.leases.len()).unwrap() + life.counts(&settings, now).calls;
                    let is_settled = life.settled.iter().any(|(settled, _)| settled == id);
                    let is_live = life.leases.iter().any(|(live, _)| live == id);
                    if !is_settled && !is_live && taken < settings.half_open_permits.into() {
                        let end = now.plus(length.unwrap_or(settings.permit_lease));
                        life.leases.push((id.to_owned(), end));
                    }
                    life.leases.iter().find(|(live, _)| live == id).map(|(_, end)| *end)
                }
            };
            if self.change_if_due(&Seen { acquires: true, ..Seen::default() }) {
                continue;
            }
            return self.admit(id, lease);
        }
    }

    fn admit(&mut self, id: &str, lease: Option<Timestamp>) -> Acquired {
        let (key, state, now) = (self.key.clone(), self.state(), self.now);
        let (reason, until) = match (self.mode(), state) {
            (Mode::ForcedOpen, _) => {
                let stands = self.life.as_ref().and_then(|life| life.mode_override.clone());
                (RejectionReason::ForcedOpen, stands.and_then(|stands| stands.expire_time))
            }
            (Mode::Automatic, State::Open) => {
                (RejectionReason::Open, self.life.as_ref().and_then(|life| life.open_until))
            }
            (Mode::Automatic, State::HalfOpen) if lease.is_none() => (RejectionReason::NoPermitLeft, None),
            _ => {
                let length = |end: Timestamp| end.since(now);
                let lease =
                    lease.map(|end| Lease { id: id.to_owned(), expire_time: Some(end), length: length(end) });
                return Acquired::Admitted {
                    permit: Permit { key, position: self.position(), lease },
                    state,
                };
            }
        };
        let position = self.position();
        if self.rejected.0 != position {
            self.rejected = (position, 0);
        }
        self.rejected.1 += 1;
        Acquired::Rejected(Rejection { key, state, reason, retry_after: until.map(|until| until.since(now)) })
    }

    fn report(&mut self, report: &Told) -> Reported {
        let permit = report.permit.and_then(|back| self.permit(back));
        let settings = self.settings();
        let is_slow = report.duration > settings.slow_call_duration;
        let asks = report.outcome.asks_for_pause();
        let wish = report.retry_after.filter(|length| asks && !length.is_zero());
        let wish = wish.map(|length| (length.min(settings.max_retry_after), report.outcome));
        let lease = permit.as_ref().and_then(|permit| permit.lease.clone());
        let is_leased = lease.is_some();
        let position = permit.map(|permit| permit.position);
        let mark = if report.outcome.is_neutral() {
            b'n'
        } else {
            match (report.outcome == Outcome::Success, is_slow) {
                (true, false) => b's',
                (true, true) => b'S',
                (false, false) => b'f',
                (false, true) => b'F',
            }
        };
        let (came, longest_run) = if let Some(lease) = lease {
            (self.settle(&lease.id, position.as_ref().unwrap(), mark, wish), 0)
        } else {
            // The change that ends an override comes before anything counts.
            while self.is_overdue() && self.change_if_due(&Seen::default()) {}
            let group = Group { position: position.clone(), marks: vec![mark], wish };
            let (came, longest_run) = self.record((None, 0), &[group]);
            (came[0], longest_run)
        };
        let is_counted = came == Disposition::Applied;
        let tells = is_counted && !report.outcome.is_neutral();
        let mut seen = Seen {
            longest_run,
            outcome: Some(report.outcome).filter(|_| tells),
            detail: if tells { "why".to_owned() } else { String::new() },
            ..Seen::default()
        };
        while self.change_if_due(&seen) {
            seen = Seen::default();
        }
        if came == Disposition::Stale
            && let (Some(position), Some(wish)) = (position, wish)
        {
            self.prolong(&position, wish);
        }
        // A repeat of a trial's report is told what came of the first.
        let is_neutral = is_counted && report.outcome.is_neutral() && !is_leased;
        let disposition = if is_neutral { Disposition::Neutral } else { came };
        Reported { disposition, breaker: self.describe() }
    }

    fn settle(
        &mut self,
        id: &str,
        position: &Position,
        mark: u8,
        wish: Option<(Duration, Outcome)>,
    ) -> Disposition {
        let (settings, now, is_current) = (self.settings(), self.now, self.is_current(position));
        let Some(life) = self.life.as_mut().filter(|life| is_current && life.leases_now(now)) else {
            return Disposition::Stale;
        };
        life.purge(&settings, now);
        if let Some((_, came)) = life.settled.iter().find(|(settled, _)| settled == id) {
            return *came;
        }
        let Some(index) = life.leases.iter().position(|(live, _)| live == id) else {
            return Disposition::Stale;
        };
        life.leases.remove(index);
        let came = if mark == b'n' { Disposition::Neutral } else { Disposition::Applied };
        life.settled.push((id.to_owned(), came));
        if came == Disposition::Applied {
            life.touch(now);
            life.count(kind_of(mark), &settings, now);
            life.wishes.extend(wish.map(|(length, outcome)| (now.plus(length), outcome)));
        }
        came
    }

    /// What would come of a group now.
    fn judge(&self, group: &Group) -> Disposition {
        if group.position.as_ref().is_some_and(|position| !self.is_current(position)) {
            return Disposition::Stale;
        }
        match (self.mode(), self.state()) {
            (Mode::ForcedOpen | Mode::Disabled, _) => Disposition::Neutral,
            (Mode::MetricsOnly, _) | (Mode::Automatic, State::Closed) => Disposition::Applied,
            (Mode::Automatic, State::Open | State::HalfOpen) => Disposition::Stale,
        }
    }

    fn record(&mut self, (instance, number): (Option<u8>, u64), groups: &[Group]) -> (Vec<Disposition>, i64) {
        let came: Vec<_> = groups.iter().map(|group| self.judge(group)).collect();
        let (settings, now) = (self.settings(), self.now);
        let mut longest_run = 0;
        if came.contains(&Disposition::Applied) {
            let life = self.alive();
            life.begin_to_count(&settings, now);
            for (group, _) in groups.iter().zip(&came).filter(|(_, came)| **came == Disposition::Applied) {
                for mark in group.marks.iter().filter(|mark| **mark != b'n') {
                    longest_run = longest_run.max(life.count(kind_of(*mark), &settings, now));
                }
                life.wishes.extend(group.wish.map(|(length, outcome)| (now.plus(length), outcome)));
            }
            life.remember(instance, (number, (came.clone(), longest_run)), now);
        }
        (came, longest_run)
    }

    fn batch(&mut self, instance: u8, is_repeated: bool, groups: &[Marks]) -> String {
        let here = self.position();
        let most = self.settings().max_retry_after;
        let group = |told: &Marks| Group {
            position: match told.place {
                Place::Nowhere => None,
                Place::Permit(back) => self.permit(back).map(|permit| permit.position),
                Place::Here => Some(here.clone()),
                Place::Ahead => Some(Position { generation: here.generation + 1, ..here.clone() }),
                Place::Elsewhere => Some(Position { epoch: "another".to_owned(), ..here.clone() }),
            },
            marks: told.calls.clone(),
            wish: told.wish.map(|(length, outcome)| (length.min(most), outcome)),
        };
        let last = self.batches.get(&instance);
        let (number, groups) = match last.filter(|_| is_repeated) {
            Some(last) => last.clone(),
            None => (last.map_or(1, |(number, _)| number + 1), groups.iter().map(group).collect()),
        };
        self.batches.insert(instance, (number, groups.clone()));
        let counted = self.life.as_ref().and_then(|life| life.recall(instance, number));
        let (came, longest_run) = match counted {
            _ if self.is_overdue() => (Vec::new(), 0),
            Some(came) => came,
            None => self.record((Some(instance), number), &groups),
        };
        format!("{came:?}, longest run {longest_run}")
    }

    fn renew(&mut self, permit: Permit, length: Option<Duration>) -> Renewed {
        let (settings, now, is_current) = (self.settings(), self.now, self.is_current(&permit.position));
        let mut renewed = None;
        if let Some(lease) = &permit.lease {
            let life = self.life.as_mut().filter(|life| life.leases_now(now));
            let Some(life) = life else { return Renewed { permit: None } };
            life.purge(&settings, now);
            if !is_current {
                return Renewed { permit: None };
            }
            let found = life.leases.iter_mut().find(|(id, _)| *id == lease.id);
            let Some((_, end)) = found else { return Renewed { permit: None } };
            *end = now.plus(length.unwrap_or(settings.permit_lease));
            let (expire_time, length) = (Some(*end), end.since(now));
            renewed = Some(Lease { id: lease.id.clone(), expire_time, length });
        }
        Renewed { permit: is_current.then_some(Permit { lease: renewed, ..permit }) }
    }

    fn order(&mut self, what: Ordered, request: Option<String>) -> String {
        let (settings, now, mode) = (self.settings(), self.now, self.mode());
        let is_repeated = |life: &Life| request.as_ref().is_some_and(|id| life.requests.contains(id));
        if self.life.as_ref().is_some_and(is_repeated) {
            return told(self.describe());
        }
        let (actor, detail) = ("ada".to_owned(), "so".to_owned());
        let cause = Cause { outcome: None, actor, detail, request };
        let stored_mode = self.life.as_ref().map_or(Mode::Automatic, |life| life.mode);
        match what {
            Ordered::Trip(_) if mode != Mode::Automatic => {
                let (key, what) = (self.key.to_string(), "TripBreaker");
                return Error::IllegalTransition { key, mode: mode.as_str(), what }.to_string();
            }
            Ordered::Override(Mode::Automatic, _) if stored_mode == Mode::Automatic => {}
            Ordered::Trip(length) => self.alive().trip(length, cause, (&settings, now)),
            Ordered::Reset => self.alive().reset(cause, (&settings, now)),
            Ordered::Override(mode, length) => self.alive().hand_over(mode, length, cause, now),
        }
        told(self.describe())
    }
}

/// Whether a mark is of a failure, and of a slow call.
fn kind_of(mark: u8) -> (bool, bool) {
    (mark.eq_ignore_ascii_case(&b'f'), mark.is_ascii_uppercase())
}

fn told(answer: impl Debug) -> String {
    format!("{answer:#?}")
}
