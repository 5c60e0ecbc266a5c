//! A watcher of breakers that keeps all that it is told, and an account of it: what was told in order, and what was not.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    Authority, Breaker, BreakerPosition, BreakerRemoved, ServingMode, Transition, WatchBreakersRequest,
    WatchBreakersResponse, watch_breakers_response::Event,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{Status, Streaming};

use super::breakers::{Breakers, SOON};

mod account;

pub(crate) use account::{Account, Standing};

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

    /// Returns once it was told that a breaker stands so, as it is or by a change.
    pub(crate) async fn stands(&self, key: &str, breaker: &Breaker) {
        let standing = Standing::from(breaker);
        let what = format!("{key} stands as {standing:?}");
        self.until(&what, |told| standing.is_believed_by(last_of(told, key).as_ref())).await;
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
            let breaker = breakers.get(key).await;
            self.stands(key, &breaker).await;
            expected.push((key, Standing::from(&breaker)));
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
