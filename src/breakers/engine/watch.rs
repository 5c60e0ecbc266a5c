//! One watch: first each breaker as it is, or its changes since the watch before; then all changes, for ever.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};
use tracing::debug;

use super::Engine;
use crate::{
    breakers::{
        BreakerStore, Log, ModelKey, Position, Transition,
        keeper::{News, ReadResult, Reading},
        keepers::Watcher,
        operations::Following,
        watch::{Event, Removed, Watch},
    },
    call::{Answer, Call},
    error::Result,
};

/// Breakers that are read ahead of the one that is told next.
const AHEAD: usize = 32;
/// A breaker that was read so recently is not read again for the beginning of a watch.
const RECENT: Duration = Duration::from_secs(1);
/// The pause after the store failed.
const PAUSE: Duration = Duration::from_millis(250);
/// The most missed changes that are told: as many as a log keeps.
const MOST_MISSED: usize = 1000;

/// How a watch begins, or begins again.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Snapshots,
    /// With the reason, for people.
    Resyncs(&'static str),
}

/// A watch on an engine's breakers.
#[derive(Debug)]
pub struct EngineWatch<S> {
    engine: Engine<S>,
    watch: Watch,
    watcher: Arc<Watcher>,
    /// The position up to which each breaker was told. A breaker without entry counts as never seen.
    told: HashMap<ModelKey, Arc<Position>>,
    manner: Manner,
    /// Breakers that the watch has yet to begin with; none: the list is not read yet.
    first: Option<VecDeque<ModelKey>>,
    /// Breakers that are being read, in order.
    reads: VecDeque<(ModelKey, Option<oneshot::Receiver<ReadResult>>)>,
    is_synced: bool,
    events: VecDeque<Event>,
}

impl<S: BreakerStore> EngineWatch<S> {
    pub(super) fn new(engine: Engine<S>, watch: Watch) -> Self {
        // From here on news is noted: what is read later misses nothing.
        let watcher = engine.0.keepers.watch(watch.interest.clone());
        Self {
            engine,
            is_synced: watch.goes_on.is_some(),
            manner: watch.goes_on.map_or(Manner::Snapshots, Manner::Resyncs),
            watch,
            watcher,
            told: HashMap::new(),
            first: None,
            reads: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The next event; may be dropped at any await, and none is lost.
    async fn advance(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if self.first.is_none() {
                match self.find().await {
                    Ok(found) => self.first = Some(found),
                    Err(error) => {
                        debug!(%error, "could not list breakers for a watch yet");
                        sleep(PAUSE).await;
                    }
                }
                continue;
            }
            self.read_ahead();
            if let Some((_, read)) = self.reads.front_mut() {
                let result = match read {
                    Some(read) => read.await.unwrap_or(ReadResult::Failed),
                    None => ReadResult::Done,
                };
                *read = None;
                self.introduce(result).await;
            } else if self.is_synced {
                let key = self.watcher.next().await;
                self.tell(&key);
            } else {
                self.is_synced = true;
                return Event::Synced;
            }
        }
    }

    /// The breakers to begin with.
    async fn find(&self) -> Result<VecDeque<ModelKey>> {
        let interest = &self.watch.interest;
        let mut keys: BTreeSet<ModelKey> = interest.keys.iter().cloned().collect();
        if interest.prefix.is_some() {
            let listed = self.engine.0.store.list(&Call::default()).await?;
            keys.extend(listed.into_iter().map(|listed| listed.key).filter(|key| interest.includes(key)));
        }
        // The watcher must be told of those that are gone.
        let known = self.watch.resume.keys().chain(self.told.keys());
        keys.extend(known.filter(|key| interest.includes(key)).cloned());
        Ok(keys.into_iter().collect())
    }

    /// Reads the next few breakers while the first of them is told.
    fn read_ahead(&mut self) {
        while self.reads.len() < AHEAD {
            let Some(key) = self.first.as_mut().and_then(VecDeque::pop_front) else { return };
            let read = self.read(&key);
            self.reads.push_back((key, read));
        }
    }

    fn read(&self, key: &ModelKey) -> Option<oneshot::Receiver<ReadResult>> {
        // The position to go on from may be from an instance that knew of more.
        let asks_anew = self.watch.resume.contains_key(key) || !self.engine.is_trusted(self.engine.era());
        let recent = if asks_anew { Duration::ZERO } else { RECENT };
        let read = self.engine.0.keepers.read(key, recent);
        if read.is_some() {
            self.engine.start_workers(1);
        }
        read
    }

    /// Begins with the first of the breakers that are read.
    async fn introduce(&mut self, result: ReadResult) {
        let Some((key, _)) = self.reads.front() else { return };
        let key = key.clone();
        let introduced = match (result, self.engine.0.keepers.with(&key, |keeper| keeper.reading.clone())) {
            (ReadResult::Done, Some(reading)) => self.introduction(&key, reading).await,
            // A damaged breaker must not hide the others. The log tells of it.
            (ReadResult::Damaged, _) => Ok(()),
            (ReadResult::Done | ReadResult::Failed, _) => {
                sleep(PAUSE).await;
                let again = self.read(&key);
                if let Some((_, read)) = self.reads.front_mut() {
                    *read = again;
                }
                // A breaker that cannot be read must not hold up the others.
                self.reads.rotate_left(1);
                return;
            }
        };
        match introduced {
            Ok(()) => {
                self.reads.pop_front();
            }
            Err(error) => {
                debug!(breaker = %key, %error, "could not read the log of a watched breaker yet");
                sleep(PAUSE).await;
            }
        }
    }

    async fn introduction(&mut self, key: &ModelKey, reading: Arc<Reading>) -> Result<()> {
        let told = match self.told.get(key) {
            Some(told) => Some(Position::clone(told)),
            None => self.watch.resume.get(key).cloned(),
        };
        let (is_gone, is_named) = (reading.is_gone(), self.watch.interest.keys.binary_search(key).is_ok());
        match (told, self.manner) {
            (Some(told), _) if is_gone => self.tell_removed(key, told, reading.has_expired),
            (None, _) if is_gone && (!is_named || self.watch.goes_on.is_some()) => {}
            (Some(told), Manner::Snapshots) => self.catch_up(key, &told, reading).await?,
            (None, Manner::Snapshots) => {
                self.events.push_back(Event::Snapshot(Box::new(self.engine.describe_reading(key, &reading))));
                self.stands(key, &reading.position);
            }
            (_, Manner::Resyncs(why)) => self.resync(key, &reading, why),
        }
        Ok(())
    }

    /// Tells the changes of a breaker after the position `told` up to the reading, from the log.
    async fn catch_up(&mut self, key: &ModelKey, told: &Position, reading: Arc<Reading>) -> Result<()> {
        let here = &reading.position;
        // A report may have created the state since, and nothing else has changed.
        let is_same = told.epoch == here.epoch || told.epoch.is_empty();
        if is_same && told.generation == here.generation {
            self.stands(key, here);
            return Ok(());
        }
        let log = self.engine.0.store.log(&Call::default(), key, told.generation, MOST_MISSED).await?;
        match missed(log, told.generation, here).filter(|_| is_same) {
            Some(missed) => {
                let changes = missed.into_iter().map(|change| Event::Changed(key.clone(), Arc::new(change)));
                self.events.extend(changes);
                self.stands(key, here);
            }
            None => self.resync(key, &reading, "what happened since is not kept, or of another epoch"),
        }
        Ok(())
    }

    /// Tells the news of a breaker.
    fn tell(&mut self, key: &ModelKey) {
        match self.engine.0.keepers.news(key, self.told.get(key)) {
            News::None => {}
            News::Stands(position) => self.stands(key, &position),
            News::Resync(reading, why) => self.resync(key, &reading, why),
            News::Removed(expired) => {
                if let Some(told) = self.told.get(key).map(|told| Position::clone(told)) {
                    self.tell_removed(key, told, expired);
                }
            }
            News::Changes(changes, position) => {
                self.events.extend(changes.into_iter().map(|change| Event::Changed(key.clone(), change)));
                self.stands(key, &position);
            }
        }
    }

    fn resync(&mut self, key: &ModelKey, reading: &Arc<Reading>, why: &'static str) {
        self.events.push_back(Event::Resync(Box::new(self.engine.describe_reading(key, reading)), why));
        self.stands(key, &reading.position);
    }

    fn tell_removed(&mut self, key: &ModelKey, position: Position, expired: bool) {
        self.told.remove(key);
        self.watch.resume.remove(key);
        if position != Position::default() {
            self.events.push_back(Event::Removed(Removed { key: key.clone(), position, expired }));
        }
    }

    /// Notes the position up to which a breaker was told. The position to go on from is not needed any more.
    fn stands(&mut self, key: &ModelKey, position: &Arc<Position>) {
        self.watch.resume.remove(key);
        if **position == Position::default() {
            self.told.remove(key);
        } else {
            self.told.insert(key.clone(), Arc::clone(position));
        }
    }
}

/// The changes after a generation up to a position, if the log still has all of them.
fn missed(log: Log, after: i64, here: &Position) -> Option<Vec<Transition>> {
    let mut missed = log.transitions;
    missed.retain(|change| change.position.generation <= here.generation);
    let is_whole =
        usize::try_from(here.generation.saturating_sub(after)).is_ok_and(|count| count == missed.len());
    (is_whole && log.epoch == here.epoch).then_some(missed)
}

impl<S: BreakerStore> Following for EngineWatch<S> {
    async fn next(&mut self) -> Answer<Event> {
        let event = self.advance().await;
        self.engine.answer(event)
    }

    fn tells_again(&self, key: &ModelKey) -> bool {
        let Watch { interest, resume, .. } = &self.watch;
        self.told.contains_key(key) || resume.contains_key(key) || interest.keys.binary_search(key).is_ok()
    }

    fn begin_again(&mut self, why: &'static str) {
        self.manner = Manner::Resyncs(why);
        (self.first, self.reads, self.events) = (None, VecDeque::new(), VecDeque::new());
    }
}
