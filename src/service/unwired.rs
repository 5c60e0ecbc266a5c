//! UNFINISHED: stands for the circuit breakers until the service is given some, and refuses whatever is asked.

use std::time::Duration;

use crate::{
    breakers::{
        Breakers, ModelKey, Permit,
        operations::{
            Acquire, AcquireFirst, Acquired, AcquiredFirst, Breaker, BreakersPage, BreakersQuery, Configure,
            Inspected, Order, Renewed, Report, Reported, TransitionsPage, TransitionsQuery,
        },
    },
    call::{Answer, Call},
    error::{Error, Result},
};

/// No breakers.
#[derive(Debug)]
pub(super) struct Unwired;

fn refused<T>() -> Result<T> {
    Err(Error::Internal("the circuit breakers are not wired up yet".into()))
}

impl Breakers for Unwired {
    async fn acquire(&self, _: &Call, _: &Acquire) -> Result<Answer<Acquired>> {
        refused()
    }

    async fn acquire_first(&self, _: &Call, _: &AcquireFirst) -> Result<Answer<AcquiredFirst>> {
        refused()
    }

    async fn renew(&self, _: &Call, _: &Permit, _: Option<Duration>) -> Result<Answer<Renewed>> {
        refused()
    }

    async fn report(&self, _: &Call, _: Report) -> Result<Answer<Reported>> {
        refused()
    }

    async fn inspect(&self, _: &Call, _: &ModelKey) -> Result<Answer<Inspected>> {
        refused()
    }

    async fn list(&self, _: &Call, _: &BreakersQuery) -> Result<Answer<BreakersPage>> {
        refused()
    }

    async fn configure(&self, _: &Call, _: &ModelKey, _: &Configure) -> Result<Answer<Inspected>> {
        refused()
    }

    async fn operate(&self, _: &Call, _: &ModelKey, _: &Order) -> Result<Answer<Breaker>> {
        refused()
    }

    async fn delete(&self, _: &Call, _: &ModelKey) -> Result<Answer<()>> {
        refused()
    }

    async fn transitions(&self, _: &Call, _: &TransitionsQuery) -> Result<Answer<TransitionsPage>> {
        refused()
    }
}
