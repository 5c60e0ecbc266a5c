//! Tests of breakers in memory, through the mechanisms.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::{
    breakers::{
        Counts, Disposition, Mode,
        Mode::Automatic,
        Outcome, Position, Reason, State, Totals, Window,
        store::{Begins, CountedResult, Group, LeaseResult, RequestedPause, StoredSettings},
    },
    memory::samples::{START, call, shared_only},
};

mod batches;
mod bounds;
mod changes;
mod leases;
mod outage;
mod windows;

/// A clock that goes wherever it is put.
#[derive(Debug)]
struct Dial(AtomicI64);

impl Clock for Dial {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A store, its clock, and the settings that the tests go by.
struct Rig {
    clock: Arc<Dial>,
    store: MemoryBreakers<Arc<Dial>>,
    in_force: InForce,
}

fn after(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

fn key(name: &str) -> ModelKey {
    ModelKey::parse("model_key", name).unwrap()
}

fn in_force(settings: BreakerSettings) -> InForce {
    InForce { settings: Arc::new(settings), revision: "".into() }
}

fn windowed(window: Option<Window>) -> BreakerSettings {
    BreakerSettings { window, ..BreakerSettings::default() }
}

fn group(position: Option<&Position>, results: &str) -> Group {
    Group { position: position.cloned(), results: results.as_bytes().to_vec(), pause: None }
}

fn batch(instance: &str, number: u64, groups: Vec<Group>) -> Batch {
    Batch { instance: instance.into(), number, groups }
}

fn pause(seconds: u64, outcome: Outcome) -> RequestedPause {
    RequestedPause { length: Duration::from_secs(seconds), outcome }
}

fn counts(calls: i64, failures: i64, slow: i64, run: i64) -> Counts {
    Counts { calls, failures, slow, run }
}

fn settlement(position: &Position, lease: &str, outcome: Outcome) -> Settlement {
    let result = CountedResult { outcome, is_slow: false };
    Settlement { position: position.clone(), lease: lease.to_owned(), result, pause: None }
}

/// A change that begins a state.
fn begin(expected: &Position, to: State) -> Change {
    Change {
        expected: expected.clone(),
        from: State::Closed,
        to,
        mode: Automatic,
        reason: Reason::Tripped,
        begins: Begins::State,
        empties: false,
        open_for: (to == State::Open).then(|| Duration::from_secs(30)),
        reanchors: false,
        attempts: u32::from(to != State::Closed),
        override_for: None,
        outcome: None,
        actor: "ada".to_owned(),
        detail: "why".to_owned(),
        request: None,
    }
}

/// A change that begins nothing and sets a mode.
fn overridden(expected: &Position, state: State, mode: Mode, seconds: Option<u64>) -> Change {
    let override_for = seconds.map(Duration::from_secs);
    let change = begin(expected, state);
    Change { mode, override_for, reason: Reason::Override, begins: Begins::Nothing, open_for: None, ..change }
}

fn done<T>(told: Result<Attempt<T>>) -> T {
    match told.unwrap() {
        Attempt::Done(done) => done,
        Attempt::Outdated(stored) => panic!("the settings are outdated: {stored:?}"),
    }
}

impl Rig {
    fn new(settings: BreakerSettings) -> Self {
        Self::holding(settings, 100)
    }

    fn holding(settings: BreakerSettings, max: usize) -> Self {
        let clock = Arc::new(Dial(AtomicI64::new(START.as_millis())));
        let store = MemoryBreakers::new(Arc::clone(&clock), max).of_instance("me".into());
        Self { clock, store, in_force: in_force(settings) }
    }

    /// Puts the clock so many milliseconds after the start.
    fn at(&self, millis: i64) -> &Self {
        self.clock.0.store(after(millis).as_millis(), Ordering::SeqCst);
        self
    }

    fn with(self, settings: BreakerSettings) -> Self {
        Self { in_force: in_force(settings), ..self }
    }

    async fn view_of(&self, name: &str) -> View {
        done(self.store.load(&call(), &key(name), &self.in_force, false).await).0
    }

    async fn view(&self) -> View {
        self.view_of("k").await
    }

    async fn counts(&self) -> Counts {
        self.view().await.totals.counts
    }

    async fn position(&self) -> Position {
        self.view().await.snapshot.position
    }

    async fn send(&self, batch: &Batch) -> Recorded {
        done(self.store.record(&call(), &key("k"), &self.in_force, batch).await)
    }

    /// Records calls that were made without permit.
    async fn record(&self, instance: &str, number: u64, results: &str) -> Recorded {
        self.send(&batch(instance, number, vec![group(None, results)])).await
    }

    async fn change(&self, change: &Change) -> Changed {
        done(self.store.transition(&call(), &key("k"), &self.in_force, change).await)
    }

    /// Begins a state from wherever it stands.
    async fn go(&self, to: State) -> Position {
        let changed = self.change(&begin(&self.position().await, to)).await;
        assert!(changed.won);
        changed.view.snapshot.position
    }

    async fn ask(&self, request: LeaseRequest<'_>, id: &str, seconds: u64) -> Leased {
        let lease = (id, Duration::from_secs(seconds));
        done(self.store.lease(&call(), &key("k"), &self.in_force, request, lease).await)
    }

    async fn grant(&self, id: &str, seconds: u64) -> LeaseResult {
        self.ask(LeaseRequest::Grant, id, seconds).await.result
    }

    async fn settle(&self, settlement: &Settlement) -> Settled {
        done(self.store.settle(&call(), &key("k"), &self.in_force, settlement).await)
    }

    async fn configure(&self, name: &str, expected: &str, settings: Option<&BreakerSettings>) -> bool {
        self.store.configure(&call(), &key(name), expected, settings).await.unwrap()
    }

    async fn listed(&self) -> Vec<(String, Timestamp)> {
        let listed = self.store.list(&call()).await.unwrap();
        listed.iter().map(|listed| (listed.key.to_string(), listed.changed)).collect()
    }

    fn is_balanced(&self) -> bool {
        lock(&self.store.index).is_balanced(self.clock.now())
    }
}

#[tokio::test]
async fn a_key_never_seen_is_closed_and_reading_it_creates_nothing() {
    let rig = Rig::new(BreakerSettings::default());
    assert_eq!(rig.store.source(), Source::Local { as_of: None });
    assert_eq!(rig.view().await, View { now: START, ..View::default() });
    assert_eq!(rig.store.log(&call(), &key("k"), 0, 10).await.unwrap(), Log::default());
    assert!(rig.store.is_empty());
    let refused = rig.store.load(&shared_only(), &key("k"), &rig.in_force, false).await;
    assert!(matches!(refused, Err(Error::NeedsShared("this call"))));
}

#[tokio::test]
async fn settings_are_compared_by_revision_and_outdated_terms_do_nothing() {
    let rig = Rig::new(BreakerSettings::default());
    let settings = BreakerSettings { consecutive_failures: 7, ..BreakerSettings::default() };
    assert!(!rig.configure("k", "other", Some(&settings)).await);
    assert!(rig.configure("k", "", Some(&settings)).await);
    let told =
        rig.store.record(&call(), &key("k"), &rig.in_force, &batch("i", 1, vec![group(None, "f")])).await;
    let Attempt::Outdated(Some(StoredSettings { settings: stored, revision })) = told.unwrap() else {
        panic!("outdated settings were taken")
    };
    assert_eq!((stored, revision.len()), (Some(settings), 26));
    assert!(rig.listed().await.is_empty());
    let in_force = InForce { revision: revision.as_str().into(), ..rig.in_force.clone() };
    done(rig.store.load(&call(), &key("k"), &in_force, false).await);
    assert!(!rig.configure("k", "", None).await);
    assert!(rig.configure("k", &revision, None).await);
    assert!(rig.store.is_empty());
    let told = rig.store.load(&call(), &key("k"), &in_force, false).await.unwrap();
    assert_eq!(told, Attempt::Outdated(None));
}

#[tokio::test]
async fn settings_outlive_the_state_and_removal_forgets_both() {
    let rig = Rig::new(BreakerSettings::default());
    rig.record("i", 1, "f").await;
    assert!(rig.configure("k", "", Some(&BreakerSettings::default())).await);
    assert_eq!(rig.listed().await, [("k".to_owned(), START)]);
    rig.at(24 * 3_600_000 + 1);
    assert!(rig.listed().await.is_empty());
    assert_eq!(rig.store.len(), 1);
    assert!(rig.is_balanced());
    rig.store.remove(&call(), &key("k")).await.unwrap();
    assert!(rig.store.is_empty());
    assert_eq!(rig.view().await.totals, Totals::default());
}
