//! Acts on engines over one store, and tells all that is to be seen, in words that are the same on every store.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use fusewire::{
    breakers::{
        BreakerSettings, BreakerStore, Breakers, Engine, ModelKey, Permit, Policies, Position, State, View,
        operations::{Acquire, Acquired, Admission, Configure, Order, Report, TransitionsQuery},
        store::{Attempt, Batch, Group, InForce, RequestedPause},
    },
    call::Call,
    clock::Timestamp,
};

use super::story::{Act, Marks, Place, Story};
use crate::breakers::world::{World, beginning, engine};

/// Engines over one store, of one breaker.
pub(super) struct Actor<'w, W: World> {
    world: &'w W,
    engines: [Engine<W::Store>; 2],
    policy: Arc<BreakerSettings>,
    key: ModelKey,
    now: Timestamp,
    permits: Vec<Permit>,
    /// The last batches of instances that come to the store directly.
    batches: HashMap<u8, Batch>,
    /// Epochs in the order of their first occurrence.
    epochs: Vec<String>,
}

/// The policy line that says these settings.
fn line(settings: &BreakerSettings) -> String {
    let words = settings.fields().into_iter().map(|(name, value)| format!(" {name}={value}"));
    format!("* open_swe{}", words.collect::<String>())
}

impl<'w, W: World> Actor<'w, W> {
    pub(super) fn new(world: &'w W, number: u32, story: &Story) -> Self {
        let policies = Policies::parse(&[line(&story.settings)]).unwrap();
        let key = ModelKey::parse("model_key", &format!("story:{number}")).unwrap();
        let policy = policies.settings_of(&key);
        assert_eq!(*policy, story.settings);
        let engines = ["one", "two"].map(|name| engine(world, &policies, name));
        let now = beginning(number);
        world.set(now);
        Self {
            world,
            engines,
            policy,
            key,
            now,
            permits: Vec::new(),
            batches: HashMap::new(),
            epochs: Vec::new(),
        }
    }

    /// Does what an act says and tells what came of it, and how the breaker stands then; also what the store says of
    /// it, if wanted.
    pub(super) async fn perform(&mut self, act: &Act, is_store_asked: bool) -> String {
        let answer = self.act(act).await;
        let (stands, view) = self.look(act).await;
        let view = if is_store_asked { format!("{view:#?}") } else { String::new() };
        let mut told = format!("{answer}\n{stands}\n{view}");
        for (at, epoch) in self.epochs.iter().enumerate() {
            told = told.replace(epoch, &format!("epoch {at}"));
        }
        told
    }

    async fn act(&mut self, act: &Act) -> String {
        let call = Call::default();
        let key = self.key.clone();
        match act {
            Act::Acquire { by, request, lease } => {
                let request_id = request.map(|id| format!("r{id}"));
                let acquire = Acquire { key, admission: Admission::Shared, lease: *lease, request_id };
                let acquired = self.engines[*by].acquire(&call, &acquire).await.map(|answer| answer.value);
                if let Ok(Acquired::Admitted { permit, .. }) = &acquired {
                    self.permits.push(permit.clone());
                }
                told(acquired)
            }
            Act::Report(report) => {
                let by = &self.engines[report.by];
                let permit = report.permit.and_then(|back| self.permit(back));
                let (outcome, duration, retry_after) = (report.outcome, report.duration, report.retry_after);
                let detail = "why".to_owned();
                let report = Report { key, permit, outcome, duration, retry_after, detail };
                told(by.report(&call, report).await.map(|answer| answer.value))
            }
            Act::Renew { by, permit, lease } => {
                let Some(permit) = self.permit(*permit) else { return String::new() };
                told(self.engines[*by].renew(&call, &permit, *lease).await.map(|answer| answer.value))
            }
            Act::Advance(by) => self.set(self.now.plus(*by)),
            Act::GoBack(by) => {
                let by = i64::try_from(by.as_millis()).unwrap();
                self.set(Timestamp::from_millis(self.now.as_millis() - by))
            }
            Act::Order { by, what, request } => {
                let request_id = request.map(|id| format!("o{id}"));
                let (actor, reason) = ("ada".to_owned(), "so".to_owned());
                let order = Order { what: *what, actor, reason, request_id };
                told(self.engines[*by].operate(&call, &key, &order).await.map(|answer| answer.value))
            }
            Act::Configure { by, settings } => {
                let configure = match settings.clone() {
                    Some(settings) => Configure::Set(Arc::new(move |_| Ok(settings.clone()))),
                    None => Configure::Reset,
                };
                told(self.engines[*by].configure(&call, &key, &configure).await.map(|answer| answer.value))
            }
            Act::Delete { by } => {
                told(self.engines[*by].delete(&call, &key).await.map(|answer| answer.value))
            }
            Act::Batch { instance, is_repeated, groups } => self.batch(*instance, *is_repeated, groups).await,
        }
    }

    fn permit(&self, back: usize) -> Option<Permit> {
        let last = self.permits.len().checked_sub(1)?;
        self.permits.get(last.saturating_sub(back)).cloned()
    }

    fn set(&mut self, now: Timestamp) -> String {
        self.now = now;
        self.world.set(now);
        String::new()
    }

    /// Brings a batch to the store directly: whoever comes next finds what is due.
    async fn batch(&mut self, instance: u8, is_repeated: bool, groups: &[Marks]) -> String {
        let (in_force, here) = self.in_force().await;
        let last = self.batches.get(&instance).filter(|_| is_repeated).cloned();
        let number = self.batches.get(&instance).map_or(1, |batch| batch.number + 1);
        let group = |told: &Marks| {
            let position = match told.place {
                Place::Nowhere => None,
                Place::Permit(back) => self.permit(back).map(|permit| permit.position),
                Place::Here => Some(here.clone()),
                Place::Ahead => Some(Position { generation: here.generation + 1, ..here.clone() }),
                Place::Elsewhere => Some(Position { epoch: "another".to_owned(), ..here.clone() }),
            };
            let most = in_force.settings.max_retry_after;
            let wish =
                told.wish.map(|(length, outcome)| RequestedPause { length: length.min(most), outcome });
            Group { position, results: told.calls.clone(), pause: wish }
        };
        let batch = last.unwrap_or_else(|| Batch {
            instance: format!("i{instance}").into(),
            number,
            groups: groups.iter().map(group).collect(),
        });
        self.batches.insert(instance, batch.clone());
        let recorded = self.engines[0].store().record(&Call::default(), &self.key, &in_force, &batch).await;
        match recorded.unwrap() {
            Attempt::Done(recorded) => format!("{:?}, longest run {}", recorded.groups, recorded.longest_run),
            Attempt::Outdated(_) => panic!("the settings were just told"),
        }
    }

    /// The settings in force, and where the breaker stands.
    async fn in_force(&self) -> (InForce, Position) {
        let mut in_force = InForce { settings: Arc::clone(&self.policy), revision: "".into() };
        loop {
            let store = self.engines[0].store();
            match store.load(&Call::default(), &self.key, &in_force, false).await.unwrap() {
                Attempt::Done((view, _)) => return (in_force, view.snapshot.position),
                Attempt::Outdated(stored) => {
                    let stored = stored.expect("settings are outdated by stored ones");
                    in_force = InForce {
                        settings: Arc::new(stored.settings.unwrap()),
                        revision: stored.revision.into(),
                    };
                }
            }
        }
    }

    /// All that can be seen of the breaker.
    async fn look(&mut self, act: &Act) -> (String, View) {
        let call = Call::default();
        let by = match act {
            Act::Acquire { by, .. } | Act::Report(super::story::Told { by, .. }) => *by,
            _ => 0,
        };
        let by = &self.engines[by];
        let inspected = by.inspect(&call, &self.key).await.unwrap().value;
        let query =
            TransitionsQuery { key: self.key.clone(), after: 0, epoch: None, goes_on: false, limit: 1000 };
        let mut page = by.transitions(&call, &query).await.unwrap().value;
        let (in_force, position) = self.in_force().await;
        let loaded = by.store().load(&call, &self.key, &in_force, true).await.unwrap();
        let Attempt::Done((mut view, history)) = loaded else { panic!("the settings were just told") };
        if !position.epoch.is_empty() && !self.epochs.contains(&position.epoch) {
            self.epochs.push(position.epoch);
        }
        // What the policy does not look at may be told or not.
        if view.snapshot.state != State::Open {
            view.snapshot.before = fusewire::breakers::Counts::default();
        }
        let wanted = i64::from(in_force.settings.min_reporters);
        let reporters = wanted <= 1 || view.totals.reporters >= wanted;
        view.totals.reporters = reporters.into();
        view.totals.pause = view.totals.pause.filter(|pause| pause.until > view.now);
        // Memory is of one instance.
        page.transitions.iter_mut().for_each(|change| change.instance.clear());
        let last = inspected.last_transition.map(|last| (last.position, last.reason));
        let (breaker, settings, requests) = (inspected.breaker, inspected.settings, history.requests);
        let log = page.transitions;
        (format!("{breaker:#?}\n{settings:#?}\n{last:?}\n{log:#?}\n{requests:?}"), view)
    }
}

fn told<T: Debug>(answer: fusewire::error::Result<T>) -> String {
    match answer {
        Ok(answer) => format!("{answer:#?}"),
        Err(error) => error.to_string(),
    }
}
