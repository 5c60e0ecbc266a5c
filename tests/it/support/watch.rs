//! A watcher of breakers that keeps all that it is told, and an account of it: what was told in order, and what was not.

use std::{collections::BTreeMap, fmt, time::Duration};

use fusewire::grpc::proto::{
    Authority, Breaker, BreakerPosition, BreakerRemoved, Mode, ServingMode, State, Transition,
    WatchBreakersRequest, WatchBreakersResponse, watch_breakers_response::Event,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{Status, Streaming};

use super::breakers::{Breakers, SOON};

/// One event, and where it came from.
pub(crate) type Told = (Event, Authority);

/// Reads a stream to its end in a task of its own.
#[derive(Debug)]
pub(crate) struct Watcher {
    told: watch::Receiver<Vec<Told>>,
    began: BTreeMap<String, BreakerPosition>,
    _task: JoinSet<()>,
}

impl Watcher {
    /// Watches through one service.
    pub(crate) async fn open(breakers: &Breakers, request: WatchBreakersRequest) -> Self {
        let began = request.resume.clone();
        let stream = open(breakers, request).await.expect("the watch is accepted");
        Self { began, ..Self::of(stream) }
    }

    /// Reads on in a stream of which nothing was read.
    pub(crate) fn of(mut stream: Streaming<WatchBreakersResponse>) -> Self {
        let (sender, told) = watch::channel(Vec::new());
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                let event = (response.event.clone().expect("an event"), response.authority());
                sender.send_modify(|told| told.push(event));
            }
        });
        Self { told, began: BTreeMap::new(), _task: task }
    }

    /// All that was told so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.borrow().clone()
    }

    /// Returns once what was told so far is as wanted.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Told]) -> bool) {
        self.within(SOON, what, is_so).await;
    }

    /// As [`Watcher::until`], for what takes longer.
    pub(crate) async fn within(&self, deadline: Duration, what: &str, is_so: impl Fn(&[Told]) -> bool) {
        let mut told = self.told.clone();
        let waited = timeout(deadline, told.wait_for(|told| is_so(told))).await;
        let is_so = matches!(waited, Ok(Ok(_)));
        let has_ended = matches!(waited, Ok(Err(_)));
        drop(waited);
        assert!(
            is_so,
            "waited {deadline:?} in vain: {what} (has the stream ended: {has_ended}). The last events:\n{}",
            self.shown()
        );
    }

    /// Returns once all that was there has been told.
    pub(crate) async fn synced(&self) {
        self.until("the watch is synced", |told| told.iter().any(|(event, _)| is_synced(event))).await;
    }

    /// Returns once this many changes of a breaker were told, with them.
    pub(crate) async fn changes(&self, key: &str, count: usize) -> Vec<Transition> {
        let what = format!("{count} changes of {key} are told");
        let is_it = |event: &Event| matches!(event, Event::Transition(one) if one.model_key == key);
        self.until(&what, |told| told.iter().filter(|(event, _)| is_it(event)).count() >= count).await;
        changes_of(&self.told(), key)
    }

    /// Returns once it was told that a breaker is no more, with what was told of that.
    pub(crate) async fn removed(&self, key: &str) -> BreakerRemoved {
        let find = |told: &[Told]| {
            told.iter().rev().find_map(|(event, _)| match event {
                Event::Removed(removed) if removed.model_key == key => Some(removed.clone()),
                _ => None,
            })
        };
        self.until(&format!("{key} is told to be no more"), |told| find(told).is_some()).await;
        find(&self.told()).expect("it was told")
    }

    /// Returns once it was told that this instance serves in this mode, so often.
    pub(crate) async fn serves(&self, mode: ServingMode, times: usize) {
        let is_it = |event: &Event| matches!(event, Event::ServingModeChanged(now) if now.mode() == mode);
        let what = format!("it serves as {}", mode.as_str_name());
        self.until(&what, |told| told.iter().filter(|(event, _)| is_it(event)).count() >= times).await;
    }

    /// How often it was told that a breaker is no more.
    pub(crate) fn removals(told: &[Told], key: &str) -> usize {
        let is_it = |event: &Event| matches!(event, Event::Removed(removed) if removed.model_key == key);
        told.iter().filter(|(event, _)| is_it(event)).count()
    }

    /// Checks that no change was left out silently, and says what was told.
    pub(crate) fn assert_gap_free(&self) -> Account {
        let account = self.account();
        assert_eq!(
            account.overtaken,
            0,
            "a state that nobody told of before. The last events:\n{}",
            self.shown()
        );
        account
    }

    fn account(&self) -> Account {
        match Account::of(&self.began, &self.told()) {
            Ok(account) => account,
            Err(gap) => panic!("{gap}. The last events:\n{}", self.shown()),
        }
    }

    /// Returns once this watcher believes of these breakers what Redis says, by way of what it was told without gaps.
    pub(crate) async fn agrees(&self, breakers: &Breakers, keys: &[String]) -> Account {
        self.agrees_in_the_end(breakers, keys).await;
        self.assert_gap_free()
    }

    /// As [`Watcher::agrees`], where changes by hand may be overtaken by others before anyone takes them over: such a change
    /// shows only in what the next one says was before.
    pub(crate) async fn agrees_in_the_end(&self, breakers: &Breakers, keys: &[String]) -> Account {
        let mut expected = Vec::new();
        for key in keys {
            let standing = Standing::from(&breakers.get(key).await);
            let what = format!("{key} stands as {standing:?}");
            self.until(&what, |told| standing.is_believed_by(last_of(told, key).as_ref())).await;
            expected.push((key, standing));
        }
        let account = self.account();
        for (key, expected) in expected {
            let believed = account.stands(key);
            assert!(expected.is_believed_by(believed), "{key}: {believed:?} instead of {expected:?}");
        }
        account
    }

    fn shown(&self) -> String {
        let told = self.told.borrow();
        let last = told.iter().skip(told.len().saturating_sub(40));
        last.map(|(event, authority)| format!("{authority:?} {event:?}")).collect::<Vec<_>>().join("\n")
    }
}

/// Opens a watch without reading it.
pub(crate) async fn open(
    breakers: &Breakers,
    request: WatchBreakersRequest,
) -> Result<Streaming<WatchBreakersResponse>, Status> {
    Ok(breakers.client().watch_breakers(request).await?.into_inner())
}

/// A watch of all breakers.
pub(crate) fn all() -> WatchBreakersRequest {
    WatchBreakersRequest::default()
}

/// A watch of these breakers.
pub(crate) fn keys<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> WatchBreakersRequest {
    let model_keys = keys.into_iter().map(|key| key.as_ref().to_owned()).collect();
    WatchBreakersRequest { model_keys, ..Default::default() }
}

/// A watch of those that begin so.
pub(crate) fn beginning(prefix: &str) -> WatchBreakersRequest {
    WatchBreakersRequest { prefix: prefix.to_owned(), ..Default::default() }
}

/// A watch of a breaker that goes on from there.
pub(crate) fn from(key: &str, epoch: &str, generation: i64) -> WatchBreakersRequest {
    let place = BreakerPosition { epoch: epoch.to_owned(), generation };
    WatchBreakersRequest { resume: [(key.to_owned(), place)].into(), ..keys([key]) }
}

pub(crate) fn is_synced(event: &Event) -> bool {
    matches!(event, Event::Synced(_))
}

/// Where the last event of a breaker left it; none if it is no more.
fn last_of(told: &[Told], key: &str) -> Option<Standing> {
    let last = |(event, _): &Told| match event {
        Event::Snapshot(breaker) => (breaker.model_key == key).then(|| Some(breaker.into())),
        Event::Resync(resync) => {
            let breaker = resync.breaker.as_ref().filter(|breaker| breaker.model_key == key);
            breaker.map(|breaker| Some(breaker.into()))
        }
        Event::Transition(transition) => (transition.model_key == key).then(|| Some(transition.into())),
        Event::Removed(removed) => (removed.model_key == key).then_some(None),
        Event::Synced(_) | Event::ServingModeChanged(_) => None,
    };
    told.iter().rev().find_map(last).flatten()
}

/// The changes of one breaker.
pub(crate) fn changes_of(told: &[Told], key: &str) -> Vec<Transition> {
    let change = |(event, _): &Told| match event {
        Event::Transition(transition) if transition.model_key == key => Some(transition.clone()),
        _ => None,
    };
    told.iter().filter_map(change).collect()
}

/// The resyncs of one breaker.
pub(crate) fn resyncs_of(told: &[Told], key: &str) -> Vec<Breaker> {
    let resync = |(event, _): &Told| match event {
        Event::Resync(resync) => resync.breaker.clone().filter(|breaker| breaker.model_key == key),
        _ => None,
    };
    told.iter().filter_map(resync).collect()
}

/// The breakers as they were told when the watch began.
pub(crate) fn snapshots(told: &[Told]) -> Vec<Breaker> {
    let snapshot = |(event, _): &Told| match event {
        Event::Snapshot(breaker) => Some(breaker.clone()),
        _ => None,
    };
    told.iter().filter_map(snapshot).collect()
}

/// What a watcher believes of a breaker.
#[derive(Clone, PartialEq)]
pub(crate) struct Standing {
    pub(crate) epoch: String,
    pub(crate) generation: i64,
    pub(crate) state: State,
    pub(crate) mode: Mode,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, generation, state, mode } = self;
        write!(
            f,
            "{}/{generation} {state:?} {mode:?}",
            epoch.get(epoch.len().saturating_sub(6)..).unwrap_or("")
        )
    }
}

impl Standing {
    /// Whether who was told this knows all that there is to know. That a report made a breaker is not told: one of which
    /// nothing is known stands just as it began.
    fn is_believed_by(&self, told: Option<&Self>) -> bool {
        match told.filter(|told| !told.epoch.is_empty()) {
            Some(told) => told == self,
            None => self.generation == 0,
        }
    }
}

impl From<&Breaker> for Standing {
    fn from(breaker: &Breaker) -> Self {
        let (epoch, generation) = (breaker.epoch.clone(), breaker.generation);
        Self { epoch, generation, state: breaker.state(), mode: breaker.mode() }
    }
}

impl From<&Transition> for Standing {
    fn from(transition: &Transition) -> Self {
        let (epoch, generation) = (transition.epoch.clone(), transition.generation);
        Self { epoch, generation, state: transition.to_state(), mode: transition.mode() }
    }
}

/// What a watcher was told, reckoned up.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) snapshots: usize,
    pub(crate) transitions: usize,
    pub(crate) removed: usize,
    /// Changes that began in another state than was told.
    overtaken: usize,
    /// Of which breaker, and why.
    pub(crate) resyncs: Vec<(String, String)>,
    /// Where each breaker of Redis stands after all that.
    standing: BTreeMap<String, Standing>,
    /// Of those, the ones that must be told as they are before anything else is told of them.
    unsure: BTreeMap<String, Standing>,
    /// Where the breakers of memory stand, in this outage if it is one.
    local: BTreeMap<String, Standing>,
    is_synced: bool,
    /// How the instance was told to serve last.
    mode: ServingMode,
    is_outage: bool,
}

impl Account {
    /// Goes through what was told; the first gap that is not owned up to is an error.
    fn of(began: &BTreeMap<String, BreakerPosition>, told: &[Told]) -> Result<Self, String> {
        let mut account = Self::default();
        for (key, BreakerPosition { epoch, generation }) in began {
            // What state it was in is not known.
            let standing = Standing {
                epoch: epoch.clone(),
                generation: *generation,
                state: State::Unspecified,
                mode: Mode::Unspecified,
            };
            account.standing.insert(key.clone(), standing.clone());
            account.local.insert(key.clone(), standing);
        }
        for (event, authority) in told {
            account.take(event, *authority)?;
        }
        Ok(account)
    }

    /// What the watcher believes of a breaker.
    pub(crate) fn stands(&self, key: &str) -> Option<&Standing> {
        self.standing.get(key).or_else(|| self.local.get(key))
    }

    fn take(&mut self, event: &Event, authority: Authority) -> Result<(), String> {
        let is_local = authority == Authority::Local;
        let standing = if is_local { &mut self.local } else { &mut self.standing };
        match event {
            Event::Snapshot(breaker) => {
                self.snapshots += 1;
                if self.is_synced || standing.contains_key(&breaker.model_key) {
                    return Err(format!("a snapshot where there should be none: {breaker:?}"));
                }
                standing.insert(breaker.model_key.clone(), breaker.into());
            }
            Event::Synced(_) if self.is_synced => return Err("synced twice".to_owned()),
            Event::Synced(_) => self.is_synced = true,
            Event::Transition(transition) => {
                self.transitions += 1;
                let key = &transition.model_key;
                if !is_local && self.unsure.contains_key(key) {
                    return Err(format!("no resync after the outage before {transition:?}"));
                }
                self.overtaken += usize::from(follows(standing.get(key), transition)?);
                standing.insert(key.clone(), transition.into());
            }
            Event::Resync(resync) => {
                let breaker = resync.breaker.as_ref().ok_or("a resync without breaker")?;
                self.resyncs.push((breaker.model_key.clone(), resync.why.clone()));
                standing.insert(breaker.model_key.clone(), breaker.into());
                if !is_local {
                    self.unsure.remove(&breaker.model_key);
                }
            }
            Event::Removed(removed) => {
                self.removed += 1;
                self.unsure.remove(&removed.model_key);
                let was = standing.remove(&removed.model_key);
                let is_there = was
                    .as_ref()
                    .is_some_and(|was| (&was.epoch, was.generation) == (&removed.epoch, removed.generation));
                // That a report made it is not told.
                let is_made = removed.generation == 0 && was.as_ref().is_none_or(|was| was.epoch.is_empty());
                if !is_there && !is_made {
                    return Err(format!("{removed:?} where it stood at {was:?}"));
                }
            }
            Event::ServingModeChanged(changed) => {
                if changed.mode() == std::mem::replace(&mut self.mode, changed.mode()) {
                    return Err(format!("{:?} was told twice", changed.mode()));
                }
                // What all share is told from the end of the outage on, whatever else is still to be merged.
                if std::mem::replace(&mut self.is_outage, changed.mode() == ServingMode::Degraded) {
                    self.unsure = self.standing.clone();
                }
                self.local.clear();
            }
        }
        Ok(())
    }
}

/// Checks that a change is the next one; says whether the state before it was another than was told.
fn follows(was: Option<&Standing>, next: &Transition) -> Result<bool, String> {
    let is_first = |epoch: &str, generation| generation == 0 && (epoch.is_empty() || epoch == next.epoch);
    let is_next = match was {
        None => next.generation == 1,
        Some(was) if is_first(&was.epoch, was.generation) => next.generation == 1,
        Some(was) => was.epoch == next.epoch && was.generation + 1 == next.generation,
    };
    if !is_next {
        return Err(format!("a gap: after {was:?} came {next:?}"));
    }
    let state = was.map_or(State::Closed, |was| was.state);
    Ok(state != State::Unspecified && next.from_state() != state)
}
