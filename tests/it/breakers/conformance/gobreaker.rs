//! Our breaker in the part of gobreaker's.

use std::collections::HashMap;

use fusewire::breakers::{Outcome, Permit, RejectionReason, State, Transition, operations::Acquired};
use serde_json::{Value, json};

use super::{
    Part,
    case::{Case, Fields, Step, whole},
    stage::Stage,
};
use crate::breakers::world::World;

pub(super) struct Gobreaker<'w, W: World> {
    stage: Stage<'w, W>,
    in_flight: HashMap<String, Permit>,
}

/// The policy line of a configuration. Where nothing is said, gobreaker opens at more than five failures in a row, for
/// a minute, and one call tries it out; it is half-open from the deadline on, whoever looks, which with us the
/// setting `automatic_half_open` sees to.
pub(super) fn policy(case: &Case) -> String {
    let (mut permits, mut timeout, mut interval, mut trip) =
        (1, 60_000, 0, "consecutive_failures>5".to_owned());
    case.configure(|name, value| {
        match (name, whole(value), value.as_str()) {
            ("max_requests", Some(number), _) => permits = number.max(1),
            ("timeout_ms", Some(number), _) => timeout = if number == 0 { 60_000 } else { number },
            ("interval_ms", Some(number), _) => interval = number,
            // Its buckets make the window coarser than whole seconds do; the window is the same.
            ("bucket_ms", Some(_), _) => {}
            ("trip", _, Some(rule)) => trip = rule.to_owned(),
            _ => return false,
        }
        true
    });
    let (mut profile, mut line) = ("consecutive", Vec::new());
    for rule in trip.split("&&").map(str::trim) {
        let (name, at_least) = threshold(rule).unwrap_or_else(|| panic!("case {}: what is {rule}?", case.id));
        line.push(match name {
            "consecutive_failures" => format!(" consecutive_failures={at_least}"),
            "ratio" => {
                profile = "rate";
                format!(" failure_rate_percent={}", at_least * 100.0)
            }
            "valid" | "requests" => format!(" minimum_calls={at_least}"),
            _ => panic!("case {}: what is {rule}?", case.id),
        });
    }
    if interval > 0 {
        line.push(format!(" time_window={interval}ms"));
    } else if profile == "rate" {
        // Calls are counted for ever, or nearly so.
        line.push(" count_window=10000".to_owned());
    }
    let line = line.concat();
    format!("{profile}{line} half_open_permits={permits} open_duration={timeout}ms automatic_half_open=true")
}

/// A rule's name and the least number that fulfils it.
fn threshold(rule: &str) -> Option<(&str, f64)> {
    if let Some((name, number)) = rule.split_once(">=") {
        return Some((name.trim(), number.trim().parse().ok()?));
    }
    let (name, number) = rule.split_once('>')?;
    Some((name.trim(), number.trim().parse::<f64>().ok()? + 1.0))
}

impl<'w, W: World> Gobreaker<'w, W> {
    pub(super) fn new(stage: Stage<'w, W>) -> Self {
        Self { stage, in_flight: HashMap::new() }
    }

    /// Asks for a permit, and notes what gobreaker would say.
    async fn allow(&self, seen: &mut Fields) -> Option<Permit> {
        let (permit, error) = match self.stage.acquire().await {
            Acquired::Admitted { permit, .. } => (Some(permit), None),
            Acquired::Rejected(rejection) => match rejection.reason {
                RejectionReason::NoPermitLeft => (None, Some("too many requests")),
                RejectionReason::Open | RejectionReason::ForcedOpen => {
                    (None, Some("circuit breaker is open"))
                }
            },
        };
        seen.insert("permitted".to_owned(), json!(permit.is_some()));
        if let Some(error) = error {
            seen.insert("error".to_owned(), json!(error));
        }
        permit
    }

    async fn call(&self, outcome: Outcome, seen: &mut Fields) {
        if let Some(permit) = self.allow(seen).await {
            self.stage.report(Some(permit), outcome, None).await;
        }
    }

    async fn end(&mut self, step: &Step, outcome: Outcome) {
        let permit = self.in_flight.remove(&step.text());
        let permit = permit.unwrap_or_else(|| panic!("case {}: no call {}", self.stage.id, step.arg));
        self.stage.report(Some(permit), outcome, None).await;
    }
}

impl<W: World> Part for Gobreaker<'_, W> {
    async fn play(&mut self, _at: usize, step: &Step) -> Fields {
        let mut seen = Fields::new();
        match (step.op.as_str(), step.number()) {
            ("call_ok", _) => self.call(Outcome::Success, &mut seen).await,
            ("call_fail", _) => self.call(Outcome::Failure, &mut seen).await,
            ("call_exclude", _) => self.call(Outcome::Cancelled, &mut seen).await,
            ("allow", _) => {
                if let Some(permit) = self.allow(&mut seen).await {
                    self.in_flight.insert(step.text(), permit);
                }
            }
            ("ok", _) => self.end(step, Outcome::Success).await,
            ("fail", _) => self.end(step, Outcome::Failure).await,
            ("exclude", _) => self.end(step, Outcome::Cancelled).await,
            ("sleep", Some(millis)) => self.stage.advance(millis).await,
            (op, _) => panic!("case {}: nobody knows how to {op} {}", self.stage.id, step.arg),
        }
        let view = self.stage.view().await;
        let counts = view.totals.counts;
        seen.insert("state".to_owned(), json!(word(view.snapshot.state)));
        // It counts generations from 1.
        seen.insert("generation".to_owned(), json!(view.snapshot.position.generation + 1));
        seen.insert("counts.ok".to_owned(), json!(counts.calls - counts.failures));
        seen.insert("counts.fail".to_owned(), json!(counts.failures));
        seen.insert("counts.cfail".to_owned(), json!(counts.run));
        let told = |change: &Transition| json!(format!("{}>{}", word(change.from), word(change.to)));
        let changes: Vec<Value> = self.stage.transitions().await.iter().map(told).collect();
        if !changes.is_empty() {
            seen.insert("transitions".to_owned(), Value::Array(changes));
        }
        seen
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half-open",
    }
}
