//! A breaker from its first report or change on, kept as a list of what happened: nothing is counted ahead.

use std::{collections::HashMap, time::Duration};

use fusewire::{
    breakers::{
        BreakerSettings, Counts, Disposition, ExpiredPermit, Mode, ModeOverride, Outcome, Position, Reason,
        State, Transition, Window,
    },
    clock::Timestamp,
};

const DAY: i64 = 86_400_000;

/// What came of a batch: of its groups, and the longest row of failures in it.
type Came = (Vec<Disposition>, i64);

/// A call that was counted.
#[derive(Debug, Clone)]
struct Call {
    second: i64,
    is_failure: bool,
    is_slow: bool,
    /// Whether it had left the window when something was written last.
    is_gone: bool,
}

/// Why something changes, and what is noted of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause {
    pub(super) outcome: Option<Outcome>,
    pub(super) actor: String,
    pub(super) detail: String,
    pub(super) request: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) position: Position,
    pub(super) state: State,
    pub(super) mode: Mode,
    pub(super) mode_override: Option<ModeOverride>,
    pub(super) since: Timestamp,
    pub(super) open_until: Option<Timestamp>,
    pub(super) attempts: u32,
    /// The generations at which this state and the one before it began.
    pub(super) fences: (i64, i64),
    pub(super) before: Counts,
    /// In this state, and before it.
    last_failures: (Option<Timestamp>, Option<Timestamp>),
    kind: Option<Window>,
    calls: Vec<Call>,
    pub(super) wishes: Vec<(Timestamp, Outcome)>,
    pub(super) leases: Vec<(String, Timestamp)>,
    pub(super) settled: Vec<(String, Disposition)>,
    pub(super) log: Vec<Transition>,
    pub(super) requests: Vec<String>,
    /// The last batches of instances, none for the engine: number, what came of it, and when.
    batches: HashMap<Option<u8>, (u64, Came, Timestamp)>,
    active: Timestamp,
}

/// The window that the settings mean.
pub(super) fn window(settings: &BreakerSettings) -> Option<Window> {
    let has_rate = settings.failure_rate_percent > 0.0 || settings.slow_rate_percent > 0.0;
    settings.window.or(if has_rate { Some(Window::Time(60)) } else { None })
}

fn is_same_kind(one: Option<Window>, other: Option<Window>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => matches!(one, Window::Count(_)) == matches!(other, Window::Count(_)),
        _ => false,
    }
}

fn second(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(1000)
}

impl Life {
    pub(super) fn born(epoch: String, now: Timestamp) -> Self {
        Self {
            position: Position { epoch, generation: 0 },
            state: State::Closed,
            mode: Mode::Automatic,
            mode_override: None,
            since: now,
            open_until: None,
            attempts: 0,
            fences: (0, 0),
            before: Counts::default(),
            last_failures: (None, None),
            kind: None,
            calls: Vec::new(),
            wishes: Vec::new(),
            leases: Vec::new(),
            settled: Vec::new(),
            log: Vec::new(),
            requests: Vec::new(),
            batches: HashMap::new(),
            active: now,
        }
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        let override_end = match &self.mode_override {
            None => None,
            Some(ModeOverride { expire_time: None, .. }) => return false,
            Some(ModeOverride { expire_time, .. }) => *expire_time,
        };
        let ends = [Some(self.active), self.open_until, override_end];
        ends.into_iter().flatten().all(|end| now.as_millis() > end.as_millis() + DAY)
    }

    /// Who decides now.
    pub(super) fn decides(&self, now: Timestamp) -> Mode {
        let end = self.mode_override.as_ref().and_then(|stands| stands.expire_time);
        if end.is_some_and(|end| now >= end) { Mode::Automatic } else { self.mode }
    }

    /// Whether an override has ended that still stands there.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        self.mode != self.decides(now)
    }

    pub(super) fn leases_now(&self, now: Timestamp) -> bool {
        self.decides(now) == Mode::Automatic && self.state == State::HalfOpen
    }

    pub(super) fn last_failure(&self) -> Option<Timestamp> {
        self.last_failures.0.or(self.last_failures.1)
    }

    /// What counts now, summed up anew.
    pub(super) fn counts(&self, settings: &BreakerSettings, now: Timestamp) -> Counts {
        let window = self.window(settings);
        if !is_same_kind(self.kind, window) {
            return Counts::default();
        }
        let held = self.held(window, now);
        let count = |which: fn(&Call) -> bool| {
            held.iter().filter(|index| which(&self.calls[**index])).count().try_into().unwrap()
        };
        let run = self.calls.iter().rev().take_while(|call| call.is_failure).count();
        Counts {
            calls: count(|_| true),
            failures: count(|call| call.is_failure),
            slow: count(|call| call.is_slow),
            run: run.try_into().unwrap(),
        }
    }

    fn window(&self, settings: &BreakerSettings) -> Option<Window> {
        if self.state == State::HalfOpen { None } else { window(settings) }
    }

    /// Which calls a window holds.
    fn held(&self, window: Option<Window>, now: Timestamp) -> Vec<usize> {
        let there: Vec<usize> = (0..self.calls.len()).filter(|index| !self.calls[*index].is_gone).collect();
        match window {
            None => there,
            Some(Window::Count(size)) => {
                let over = there.len().saturating_sub(size.try_into().unwrap());
                there[over..].to_vec()
            }
            Some(Window::Time(length)) => {
                let is_young = |index: &usize| self.calls[*index].second > second(now) - i64::from(length);
                there.into_iter().filter(is_young).collect()
            }
        }
    }

    fn forget_old(&mut self, window: Option<Window>, now: Timestamp) {
        let held = self.held(window, now);
        for (index, call) in self.calls.iter_mut().enumerate() {
            call.is_gone = !held.contains(&index);
        }
    }

    /// Begins to count: what another kind of window counted is forgotten.
    pub(super) fn begin_to_count(&mut self, settings: &BreakerSettings, now: Timestamp) {
        let window = self.window(settings);
        if !is_same_kind(self.kind, window) {
            self.calls.clear();
        }
        self.kind = window;
        self.active = now;
        self.forget_old(window, now);
    }

    /// Counts a call; answers the row of failures that it ends, or goes on.
    pub(super) fn count(
        &mut self,
        (is_failure, is_slow): (bool, bool),
        settings: &BreakerSettings,
        now: Timestamp,
    ) -> i64 {
        self.calls.push(Call { second: second(now), is_failure, is_slow, is_gone: false });
        if is_failure {
            self.last_failures.0 = Some(now);
        }
        self.forget_old(self.window(settings), now);
        self.counts(settings, now).run
    }

    /// Removes the leases that ended.
    pub(super) fn purge(&mut self, settings: &BreakerSettings, now: Timestamp) {
        let before = self.leases.len();
        self.leases.retain(|(_, end)| *end > now);
        if settings.expired_permit == ExpiredPermit::Failure {
            for _ in self.leases.len()..before {
                self.count((true, false), settings, now);
            }
        }
    }

    /// What a batch came to that was counted before.
    pub(super) fn recall(&self, instance: u8, number: u64) -> Option<Came> {
        let (counted, came, _) = self.batches.get(&Some(instance))?;
        (number <= *counted).then(|| came.clone())
    }

    /// Remembers a batch. A new instance takes the place of those that were silent for an hour.
    pub(super) fn remember(&mut self, instance: Option<u8>, (number, came): (u64, Came), now: Timestamp) {
        if !self.batches.contains_key(&instance) {
            self.batches.retain(|_, (_, _, heard)| now.since(*heard) < Duration::from_hours(1));
        }
        self.batches.insert(instance, (number, came, now));
    }

    pub(super) fn touch(&mut self, now: Timestamp) {
        self.active = now;
    }

    /// The end of the pause that is wanted, and with what.
    pub(super) fn pause(&self, now: Timestamp) -> Option<(Timestamp, Outcome)> {
        let longest = self.wishes.iter().map(|(end, _)| *end).max().filter(|end| *end > now)?;
        self.wishes.iter().find(|(end, _)| *end == longest).copied()
    }

    pub(super) fn is_current(&self, position: &Position) -> bool {
        let is_unborn =
            position.epoch.is_empty() && position.generation == 0 && self.position.generation == 0;
        let generations = self.fences.0..=self.position.generation;
        is_unborn || (position.epoch == self.position.epoch && generations.contains(&position.generation))
    }

    /// Begins a state.
    pub(super) fn begin(
        &mut self,
        (to, reason): (State, Reason),
        open_for: Option<Duration>,
        cause: Cause,
        (settings, now): (&BreakerSettings, Timestamp),
    ) {
        self.before = self.counts(settings, now);
        let from = self.state;
        self.attempts = match to {
            State::Closed => 0,
            State::Open => self.attempts + 1,
            State::HalfOpen => self.attempts,
        };
        self.fences = (self.position.generation + 1, self.fences.0);
        (self.state, self.since, self.mode, self.mode_override) = (to, now, Mode::Automatic, None);
        self.open_until = open_for.map(|length| now.plus(length));
        self.note((from, reason), cause, now);
        self.start_empty();
    }

    /// Changes the deadline.
    pub(super) fn extend(&mut self, reason: Reason, open_for: Duration, cause: Cause, now: Timestamp) {
        self.open_until = Some(now.plus(open_for));
        if self.decides(now) == Mode::Automatic {
            (self.mode, self.mode_override) = (Mode::Automatic, None);
        }
        self.note((self.state, reason), cause, now);
    }

    /// Lets the state machine decide again after an override that ended.
    pub(super) fn end_override(&mut self, now: Timestamp) {
        (self.mode, self.mode_override) = (Mode::Automatic, None);
        let detail = "the override ended".to_owned();
        self.note((self.state, Reason::Override), Cause { detail, ..Cause::default() }, now);
        self.start_empty();
    }

    /// Changes who decides.
    pub(super) fn hand_over(&mut self, mode: Mode, length: Option<Duration>, cause: Cause, now: Timestamp) {
        self.mode = mode;
        let stands = ModeOverride {
            reason: cause.detail.clone(),
            actor: cause.actor.clone(),
            set_time: now,
            expire_time: length.map(|length| now.plus(length)),
        };
        self.mode_override = Some(stands).filter(|_| mode != Mode::Automatic);
        self.note((self.state, Reason::Override), cause, now);
        self.start_empty();
    }

    fn start_empty(&mut self) {
        self.calls.clear();
        self.wishes.clear();
        self.leases.clear();
        self.settled.clear();
        (self.kind, self.last_failures.0) = (None, None);
    }

    fn note(&mut self, (from, reason): (State, Reason), cause: Cause, now: Timestamp) {
        self.position.generation += 1;
        self.active = now;
        self.last_failures.1 = self.last_failure();
        if let Some(request) = cause.request {
            self.requests.insert(0, request);
            self.requests.truncate(16);
        }
        self.log.push(Transition {
            position: self.position.clone(),
            from,
            to: self.state,
            mode: self.mode,
            time: now,
            reason,
            outcome: cause.outcome,
            actor: cause.actor,
            detail: cause.detail,
            instance: String::new(),
            open_until: self.open_until,
        });
    }
}
