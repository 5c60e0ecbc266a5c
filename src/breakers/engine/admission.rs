//! Whether a model may be called. The reading of its breaker decides while that is current; else the store decides, which
//! also gives the permits of a trial.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::Engine;
use crate::{
    breakers::{
        BreakerStore, Lease, Mode, ModelKey, Permit, State, View,
        keeper::Reading,
        operations::{Acquire, AcquireFirst, Acquired, AcquiredFirst, Admission, Renewed},
        policy::{self, Cause},
        store::{InForce, LeaseRequest, LeaseResult, Leased},
    },
    call::Call,
    error::{Error, Result},
};

impl<S: BreakerStore> Engine<S> {
    async fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        request: LeaseRequest<'_>,
        (id, length): (&str, Option<Duration>),
    ) -> Result<(Leased, InForce)> {
        let lease = async |in_force: InForce| {
            let length = length.unwrap_or(in_force.settings.permit_lease);
            self.0.store.lease(call, key, &in_force, request, (id, length)).await
        };
        let (leased, in_force) = self.with_settings(key, lease).await?;
        self.note(key, &leased.view, &in_force);
        Ok((leased, in_force))
    }

    /// Decides by the reading of a breaker, if that is current and is enough: the breaker is not in a trial, and nothing is
    /// due.
    pub(super) fn admit_unasked(&self, key: &ModelKey) -> Option<Acquired> {
        let reading = self.current(key)?;
        let (view, settings) = (reading.present(), &reading.in_force.settings);
        let cause = Cause { acquires: true, ..Cause::default() };
        let is_trial = view.snapshot.state == State::HalfOpen && view.snapshot.mode == Mode::Automatic;
        if is_trial || policy::due(&view, settings, &cause, 0.0).is_some() {
            return None;
        }
        let (state, position) = (view.snapshot.state, view.snapshot.position.clone());
        let admission = policy::admission(&view, settings, LeaseResult::NotLeasing);
        if let Some(rejection) = admission.rejection(key, state) {
            self.0.keepers.with(key, |keeper| keeper.count_rejection(&position));
            return Some(rejection.into());
        }
        Some(Acquired::Admitted { permit: Permit { key: key.clone(), position, lease: None }, state })
    }

    /// The reading of a breaker, if nothing says that the breaker has changed since, and notifications are to be trusted.
    fn current(&self, key: &ModelKey) -> Option<Arc<Reading>> {
        self.0.keepers.fresh(key).filter(|reading| self.is_trusted(reading.era))
    }

    /// Decides by the reading if the request allows that, else by the store.
    pub(super) async fn admit(&self, call: &Call, acquire: &Acquire) -> Result<Acquired> {
        if acquire.admission == Admission::Cached {
            if let Some(acquired) = self.admit_unasked(&acquire.key) {
                return Ok(acquired);
            }
            let era = self.era();
            if self.is_trusted(era) && self.0.keepers.want(&acquire.key, era) {
                self.start_workers(1);
            }
        }
        self.ask(call, acquire).await
    }

    /// Asks the store until nothing is due any more, and then decides.
    async fn ask(&self, call: &Call, acquire: &Acquire) -> Result<Acquired> {
        let key = &acquire.key;
        let id = acquire.request_id.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let cause = Cause { acquires: true, ..Cause::default() };
        for _ in 0..super::ATTEMPTS {
            let (Leased { view, result }, in_force) =
                self.lease(call, key, LeaseRequest::Grant, (&id, acquire.lease)).await?;
            if let Some(change) = policy::due(&view, &in_force.settings, &cause, rand::random()) {
                self.offer(call, key, in_force, &change).await?;
                continue;
            }
            let (state, position) = (view.snapshot.state, view.snapshot.position.clone());
            let admission = policy::admission(&view, &in_force.settings, result);
            if let Some(rejection) = admission.rejection(key, state) {
                self.0.keepers.with(key, |keeper| keeper.count_rejection(&position));
                return Ok(rejection.into());
            }
            let lease = lease_of(&view, result, &id);
            return Ok(Acquired::Admitted { permit: Permit { key: key.clone(), position, lease }, state });
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// The permit that the same request was given in a trial before, so that a retry takes no second permit.
    async fn find_permit(
        &self,
        call: &Call,
        keys: &[ModelKey],
        request_id: &str,
    ) -> Result<Option<(usize, Permit)>> {
        let leases = keys.iter().map(|key| self.lease(call, key, LeaseRequest::Find, (request_id, None)));
        for ((index, key), leased) in keys.iter().enumerate().zip(join_all(leases).await) {
            let (Leased { view, result }, _) = leased?;
            if let Some(lease) = lease_of(&view, result, request_id) {
                let position = view.snapshot.position;
                return Ok(Some((index, Permit { key: key.clone(), position, lease: Some(lease) })));
            }
        }
        Ok(None)
    }

    /// Admits to the first of several models that may be called.
    pub(super) async fn admit_first(&self, call: &Call, first: &AcquireFirst) -> Result<AcquiredFirst> {
        let mut rejections = Vec::new();
        // Where all breakers are known not to be in a trial, none of them has given a lease that is still live.
        let is_known = |key: &ModelKey| {
            first.admission == Admission::Cached
                && self.current(key).is_some_and(|reading| reading.view.snapshot.state != State::HalfOpen)
        };
        let may_retry = first.keys.len() > 1 && !first.keys.iter().all(is_known);
        if let Some(request_id) = first.request_id.as_deref().filter(|_| may_retry) {
            let permit = self.find_permit(call, &first.keys, request_id).await?;
            if permit.is_some() {
                return Ok(AcquiredFirst { permit, rejections });
            }
        }
        for (index, key) in first.keys.iter().enumerate() {
            let acquire = Acquire {
                key: key.clone(),
                admission: first.admission,
                lease: first.lease,
                request_id: first.request_id.clone(),
            };
            match self.admit(call, &acquire).await? {
                Acquired::Admitted { permit, .. } => {
                    return Ok(AcquiredFirst { permit: Some((index, permit)), rejections });
                }
                Acquired::Rejected(rejection) => rejections.push(rejection),
            }
        }
        Ok(AcquiredFirst { permit: None, rejections })
    }

    /// Keeps a permit alive.
    pub(super) async fn renew_lease(
        &self,
        call: &Call,
        permit: &Permit,
        length: Option<Duration>,
    ) -> Result<Renewed> {
        let key = &permit.key;
        let (view, lease) = match &permit.lease {
            None => (self.load(call, key).await?.0, None),
            Some(lease) => {
                let (Leased { view, result }, _) =
                    self.lease(call, key, LeaseRequest::Renew(&permit.position), (&lease.id, length)).await?;
                let Some(lease) = lease_of(&view, result, &lease.id) else {
                    return Ok(Renewed { permit: None });
                };
                (view, Some(lease))
            }
        };
        let is_current = view.snapshot.is_current(&permit.position);
        let permit = is_current.then(|| Permit { lease, ..permit.clone() });
        Ok(Renewed { permit })
    }
}

/// The lease, if it is live.
fn lease_of(view: &View, result: LeaseResult, id: &str) -> Option<Lease> {
    match result {
        LeaseResult::Live(until) => {
            Some(Lease { id: id.to_owned(), expire_time: Some(until), length: until.since(view.now) })
        }
        LeaseResult::Full | LeaseResult::Settled | LeaseResult::Absent | LeaseResult::NotLeasing => None,
    }
}
