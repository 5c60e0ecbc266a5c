//! One watch of breakers through outages: it stays open, says how this process serves, tells what memory knows while that
//! answers, and begins again from what the shared store says once that answers again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    breakers::{
        Breakers, ModelKey, Position,
        operations::Following,
        watch::{Event, Removed, Watch},
    },
    call::{Answer, ModeTeller, Serving, ServingMode, Source},
    error::Result,
};

/// A watch on breakers of a shared store, or of memory while that is unreachable.
#[derive(Debug)]
pub struct FallbackWatch<W, L: Breakers> {
    shared: W,
    local: Arc<L>,
    watch: Watch,
    modes: ModeTeller,
    /// The watch on memory, and the outage that it is for.
    outage: Option<(Serving, L::Watch)>,
    is_synced: bool,
    /// Where memory's breakers were told to stand, in this outage, of which the shared store may have nothing to tell.
    told: BTreeMap<ModelKey, Position>,
}

impl<W: Following, L: Breakers> FallbackWatch<W, L> {
    pub(super) fn new(shared: W, local: Arc<L>, watch: Watch, serving: watch::Receiver<Serving>) -> Self {
        let (modes, told) = (ModeTeller::new(Some(serving)), BTreeMap::new());
        Self { shared, local, watch, modes, outage: None, is_synced: false, told }
    }

    /// Goes over to memory.
    fn leave(&mut self, outage: Serving) -> Result<()> {
        // Memory cannot tell what was missed, and that it does not have a breaker does not mean that it is no more: where
        // the watch was to go on is left to Redis.
        let watch = Watch { resume: HashMap::new(), ..self.watch.clone() };
        let watch = if self.is_synced { watch.going_on(LEFT) } else { watch };
        self.outage = Some((outage, self.local.watch(watch)?));
        Ok(())
    }

    /// Notes what is told of a breaker of memory. It ends with the outage, and Redis may know nothing of it.
    fn note(&mut self, event: &Event) {
        let (key, position) = match event {
            Event::Snapshot(breaker) | Event::Resync(breaker, _) => (&breaker.key, &breaker.position),
            Event::Changed(key, transition) => (key, &transition.position),
            Event::Removed(removed) => {
                self.told.remove(&removed.key);
                return;
            }
            Event::Synced | Event::ModeChanged(_) => return,
        };
        if *position != Position::default() && !self.shared.tells_again(key) {
            self.told.insert(key.clone(), position.clone());
        }
    }

    /// Goes over to where the answers come from now, and says how this process serves, if that is news.
    fn change(&mut self) -> Option<Answer<Event>> {
        let serving = self.modes.serving()?;
        // The shared store is the truth again as soon as it answers, whatever else is still to be merged.
        let is_outage = serving.mode == ServingMode::Degraded;
        let local = |value| Answer { value, source: Source::Local { as_of: None } };
        // One who is slow may hear of the next outage alone, in which memory begins anew.
        if self.outage.as_ref().is_some_and(|(outage, _)| *outage != serving) {
            if let Some((key, position)) = self.told.pop_first() {
                return Some(local(Event::Removed(Removed { key, position, expired: false })));
            }
            self.outage = None;
            self.shared.begin_again(RETURNED);
        }
        if is_outage && self.outage.is_none() {
            self.leave(serving).ok()?;
        }
        let event = Event::ModeChanged(self.modes.news(is_outage).pop()?);
        Some(if is_outage { local(event) } else { Answer::shared(event) })
    }
}

/// Why breakers are told once more in an outage: those that memory goes on with.
const LEFT: &str = "redis is unreachable: this is the state that this instance goes on from";
/// Why everything is told once more after an outage.
const RETURNED: &str = "redis was unreachable: this is the state that all instances share";

impl<W: Following, L: Breakers> Following for FallbackWatch<W, L> {
    async fn next(&mut self) -> Answer<Event> {
        loop {
            if let Some(answer) = self.change() {
                return answer;
            }
            let event = async {
                match &mut self.outage {
                    Some((_, local)) => local.next().await,
                    None => self.shared.next().await,
                }
            };
            let answer = tokio::select! {
                () = self.modes.changed() => continue,
                answer = event => answer,
            };
            if self.outage.is_some() {
                self.note(&answer.value);
            }
            if answer.value != Event::Synced {
                return answer;
            }
            // What was told once is not told again after an outage.
            if !std::mem::replace(&mut self.is_synced, true) {
                return answer;
            }
        }
    }

    fn begin_again(&mut self, why: &'static str) {
        self.shared.begin_again(why);
    }

    fn tells_again(&self, key: &ModelKey) -> bool {
        self.shared.tells_again(key)
    }
}
