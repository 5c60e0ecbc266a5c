//! What every part needs: a breaker of its own, its clock, and a memory of what was seen of its log.

use std::time::Duration;

use fusewire::{
    breakers::{
        BreakerStore, Breakers, Engine, Mode, ModelKey, Outcome, Permit, Policies, State, Transition, View,
        operations::{Acquire, Acquired, Admission, Breaker, Order, Ordered, Report, Reported},
        policy::{self, Cause},
        store::{Attempt, Change, InForce},
    },
    call::Call,
    clock::Timestamp,
    error::Result,
};

use super::case::Case;
use crate::breakers::world::{World, beginning, engine};

pub(super) struct Stage<'w, W: World> {
    pub(super) id: String,
    world: &'w W,
    engine: Engine<W::Store>,
    key: ModelKey,
    in_force: InForce,
    pub(super) begun: Timestamp,
    now: Timestamp,
    /// The last generation of the log that was looked at.
    seen: i64,
}

impl<'w, W: World> Stage<'w, W> {
    /// A breaker that nobody has seen, with the settings of a policy line.
    pub(super) fn set(world: &'w W, story: u32, case: &Case, policy: &str) -> Self {
        let policies = Policies::parse(&[format!("* {policy}")]);
        let policies = policies.unwrap_or_else(|error| panic!("case {}: {error}", case.id));
        let key = ModelKey::parse("model_key", &format!("{}:{story}", case.id)).unwrap();
        let in_force = InForce { settings: policies.settings_of(&key), revision: "".into() };
        let engine = engine(world, &policies, "player");
        let now = beginning(story);
        world.set(now);
        Self { id: case.id.clone(), world, engine, key, in_force, begun: now, now, seen: 0 }
    }

    /// Moves the clock on. Whoever watches the breaker then offers what is due by time alone, where the settings say
    /// that somebody does: the timers of those who serve it.
    pub(super) async fn advance(&mut self, millis: u64) {
        self.now = self.now.plus(Duration::from_millis(millis));
        self.world.set(self.now);
        let settings = &self.in_force.settings;
        if settings.automatic_half_open || settings.half_open_max_wait.is_some() {
            let cause = Cause { acquires: settings.automatic_half_open, ..Cause::default() };
            if let Some(change) = policy::due(&self.view().await, settings, &cause, 0.5) {
                self.change(&change).await;
            }
        }
    }

    pub(super) async fn acquire(&self) -> Acquired {
        let acquire =
            Acquire { key: self.key.clone(), admission: Admission::Shared, lease: None, request_id: None };
        self.engine.acquire(&Call::default(), &acquire).await.unwrap().value
    }

    pub(super) async fn report(
        &self,
        permit: Option<Permit>,
        outcome: Outcome,
        duration: Option<Duration>,
    ) -> Reported {
        let (key, detail) = (self.key.clone(), String::new());
        let report = Report { key, permit, outcome, duration, retry_after: None, detail };
        self.engine.report(&Call::default(), report).await.unwrap().value
    }

    pub(super) async fn operate(&self, what: Ordered) -> Result<Breaker> {
        let order = Order { what, actor: "tester".to_owned(), reason: String::new(), request_id: None };
        Ok(self.engine.operate(&Call::default(), &self.key, &order).await?.value)
    }

    /// Makes a trial of it, for which operators have no order.
    pub(super) async fn try_out(&self) -> Result<()> {
        let change = policy::trial(&self.key, &self.view().await)?;
        self.change(&change).await;
        Ok(())
    }

    pub(super) async fn inspect(&self) -> Breaker {
        self.engine.inspect(&Call::default(), &self.key).await.unwrap().value.breaker
    }

    /// How it stands by the store, with what is counted now.
    pub(super) async fn view(&self) -> View {
        let loaded = self.engine.store().load(&Call::default(), &self.key, &self.in_force, false).await;
        self.done(loaded).0
    }

    /// The log's entries since the last look.
    pub(super) async fn transitions(&mut self) -> Vec<Transition> {
        let log = self.engine.store().log(&Call::default(), &self.key, self.seen, 1000).await.unwrap();
        self.seen += i64::try_from(log.transitions.len()).unwrap();
        let newest = log.transitions.last().map_or(self.seen, |newest| newest.position.generation);
        assert_eq!(self.seen, newest, "case {}: the log is contiguous", self.id);
        log.transitions
    }

    async fn change(&self, change: &Change) {
        let changed =
            self.engine.store().transition(&Call::default(), &self.key, &self.in_force, change).await;
        assert!(self.done(changed).won, "case {}: nobody else changes it", self.id);
    }

    fn done<T>(&self, told: Result<Attempt<T>>) -> T {
        match told.unwrap() {
            Attempt::Done(done) => done,
            Attempt::Outdated(_) => panic!("case {}: nobody stores settings", self.id),
        }
    }
}

/// The one word that others have for state and mode.
pub(super) fn name(state: State, mode: Mode) -> &'static str {
    match mode {
        Mode::Automatic => state.as_str(),
        Mode::ForcedOpen | Mode::Disabled | Mode::MetricsOnly => mode.as_str(),
    }
}
