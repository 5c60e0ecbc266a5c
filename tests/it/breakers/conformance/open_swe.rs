//! Our breaker in the part of Open SWE's, whose record it shows.

use fusewire::breakers::{Outcome, State, operations::Acquired};
use serde_json::json;

use super::{
    Part,
    case::{Case, Fields, Step, whole},
    stage::Stage,
};
use crate::breakers::world::World;

pub(super) struct OpenSwe<'w, W: World>(Stage<'w, W>);

/// The policy line of a configuration.
pub(super) fn policy(case: &Case) -> String {
    let mut line = vec!["open_swe".to_owned()];
    case.configure(|name, value| {
        let Some(number) = whole(value) else { return false };
        match name {
            "circuitBreakerFailureThreshold" => line.push(format!(" consecutive_failures={number}")),
            "circuitBreakerTimeoutMs" => line.push(format!(" open_duration={number}ms")),
            _ => return false,
        }
        true
    });
    line.concat()
}

impl<'w, W: World> OpenSwe<'w, W> {
    pub(super) fn new(stage: Stage<'w, W>) -> Self {
        Self(stage)
    }
}

impl<W: World> Part for OpenSwe<'_, W> {
    async fn play(&mut self, _at: usize, step: &Step) -> Fields {
        let stage = &mut self.0;
        let mut seen = Fields::new();
        match (step.op.as_str(), step.number()) {
            ("isCircuitClosed", _) => {
                let is_admitted = matches!(stage.acquire().await, Acquired::Admitted { .. });
                seen.insert("result".to_owned(), json!(is_admitted));
            }
            // Its reports know nothing of permits.
            ("recordSuccess", _) => drop(stage.report(None, Outcome::Success, None).await),
            ("recordFailure", _) => drop(stage.report(None, Outcome::Failure, None).await),
            ("getStatus", _) => {}
            ("advance_ms", Some(millis)) => stage.advance(millis).await,
            (op, _) => panic!("case {}: nobody knows how to {op} {}", stage.id, step.arg),
        }
        let breaker = stage.inspect().await;
        let millis = |at: fusewire::clock::Timestamp| at.as_millis() - stage.begun.as_millis();
        let last_failure = breaker.last_failure.map_or_else(|| json!("0 (never)"), |at| json!(millis(at)));
        seen.insert("hash.state".to_owned(), json!(breaker.state.as_str()));
        seen.insert("hash.failureCount".to_owned(), json!(breaker.counts.run));
        seen.insert("hash.lastFailureTime".to_owned(), last_failure);
        if breaker.state == State::Open {
            seen.insert("hash.openedAt".to_owned(), json!(breaker.since.map(millis)));
        }
        seen
    }
}
