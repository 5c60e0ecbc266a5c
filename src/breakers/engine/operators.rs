//! What operators do: settings, orders, and a look at the history.

use super::Engine;
use crate::{
    breakers::{
        BreakerStore, ModelKey,
        operations::{Breaker, Configure, Inspected, Order, TransitionsPage, TransitionsQuery},
        policy,
        store::InForce,
    },
    call::Call,
    error::{Error, Result},
};

impl<S: BreakerStore> Engine<S> {
    pub(super) async fn store_settings(
        &self,
        call: &Call,
        key: &ModelKey,
        configure: &Configure,
    ) -> Result<Inspected> {
        for _ in 0..super::ATTEMPTS {
            let (_, in_force) = self.load(call, key).await?;
            let settings = match configure {
                Configure::Set(revise) => Some(revise(&in_force.settings).map_err(Error::Invalid)?),
                Configure::Reset => None,
            };
            if self.0.store.configure(call, key, &in_force.revision, settings.as_ref()).await? {
                let (view, in_force) = self.load(call, key).await?;
                let breaker = self.describe(key, &view, &in_force);
                return Ok(Inspected { breaker, settings: in_force.settings, last_transition: None });
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    pub(super) async fn carry_out(&self, call: &Call, key: &ModelKey, order: &Order) -> Result<Breaker> {
        for _ in 0..super::ATTEMPTS {
            let load = async |in_force: InForce| self.0.store.load(call, key, &in_force, true).await;
            let ((view, history), in_force) = self.with_settings(key, load).await?;
            self.note(key, &view, &in_force);
            let is_repeated =
                order.request_id.as_ref().is_some_and(|request| history.requests.contains(request));
            let change =
                if is_repeated { None } else { policy::ordered(key, &view, &in_force.settings, order)? };
            let Some(change) = change else { return Ok(self.describe(key, &view, &in_force)) };
            let (won, view, in_force) = self.offer(call, key, in_force, &change).await?;
            if won {
                return Ok(self.describe(key, &view, &in_force));
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    pub(super) async fn read_log(&self, call: &Call, query: &TransitionsQuery) -> Result<TransitionsPage> {
        let log = self.0.store.log(call, &query.key, query.after, query.limit).await?;
        match &query.epoch {
            Some(epoch) if *epoch != log.epoch && query.goes_on => Err(Error::TokenStale),
            Some(epoch) if *epoch != log.epoch => Err(Error::EpochMismatch { current: log.epoch }),
            Some(_) | None => {
                Ok(TransitionsPage { epoch: log.epoch, transitions: log.transitions, more: log.more })
            }
        }
    }
}
