//! Our breaker in the part of resilience4j's.

use std::{collections::VecDeque, time::Duration};

use fusewire::breakers::{
    Mode, Outcome, Permit, State,
    operations::{Acquired, Breaker, Ordered},
};
use fusewire::error::{Error, Result};
use serde_json::{Value, json};

use super::{
    Part,
    case::{Case, Fields, Step, whole},
    stage::{Stage, name},
};
use crate::breakers::world::World;

pub(super) struct Resilience4j<'w, W: World> {
    stage: Stage<'w, W>,
    wait: Duration,
    /// Calls that were begun by an `acquire` and not reported, oldest first.
    begun: VecDeque<Permit>,
    /// The last permit that was given.
    last: Option<Permit>,
    /// The step at which the very first call ends, in cases that are about its coming late.
    late: Option<usize>,
    late_call: Option<Permit>,
    shown: &'static str,
}

/// The policy line of a configuration. Where nothing is said, resilience4j's own defaults hold.
pub(super) fn policy(case: &Case) -> String {
    let (mut window, mut size, mut line) = ("count_window", 100, Vec::new());
    let (mut slow_rate, mut slow) = (json!(100), json!(60_000));
    case.configure(|name, value| {
        match (name, whole(value), value) {
            ("type", _, Value::String(kind)) if kind == "COUNT" => window = "count_window",
            ("type", _, Value::String(kind)) if kind == "TIME" => window = "time_window",
            ("window", Some(number), _) => size = number,
            ("failureRate", _, Value::Number(rate)) => line.push(format!(" failure_rate_percent={rate}")),
            ("slowRate", _, rate @ Value::Number(_)) => slow_rate = rate.clone(),
            ("slowMs", Some(_), millis) => slow = millis.clone(),
            ("min", Some(number), _) => line.push(format!(" minimum_calls={number}")),
            ("permitted", Some(number), _) => line.push(format!(" half_open_permits={number}")),
            ("waitMs", Some(number), _) => line.push(format!(" open_duration={number}ms")),
            // There, 0 is no bound.
            ("maxWaitHalfOpenMs" | "halfOpenMaxWaitMs", Some(0), _) | ("t0", Some(_), _) => {}
            ("maxWaitHalfOpenMs" | "halfOpenMaxWaitMs", Some(number), _) => {
                line.push(format!(" half_open_max_wait={number}ms"));
            }
            ("autoHalfOpen", _, Value::Bool(is_on)) => line.push(format!(" automatic_half_open={is_on}")),
            _ => return false,
        }
        true
    });
    let line = line.concat();
    let unit = if window == "time_window" { "s" } else { "" };
    format!("rate {window}={size}{unit} slow_rate_percent={slow_rate} slow_call_duration={slow}ms{line}")
}

impl<'w, W: World> Resilience4j<'w, W> {
    pub(super) async fn new(mut stage: Stage<'w, W>, case: &Case) -> Self {
        let (mut wait, mut t0) = (60_000, 0);
        case.configure(|name, value| {
            match (name, whole(value)) {
                ("waitMs", Some(number)) => wait = number,
                ("t0", Some(number)) => t0 = number,
                _ => {}
            }
            true
        });
        stage.advance(t0).await;
        // That the call was begun in CLOSED only the title says: its steps show one acquire too many, and who reports.
        let is_late = case.title.starts_with("call begun in CLOSED");
        let late = case.steps.iter().rposition(|step| outcome(step).is_some()).filter(|_| is_late);
        let (begun, wait) = (VecDeque::new(), Duration::from_millis(wait));
        Self { stage, wait, begun, last: None, late, late_call: None, shown: "CLOSED" }
    }

    /// Asks for a permit; without one the breaker has rejected and counted it.
    async fn acquire(&mut self) -> Option<Permit> {
        let Acquired::Admitted { permit, .. } = self.stage.acquire().await else { return None };
        self.last = Some(permit.clone());
        Some(permit)
    }

    /// The call that a report is of: the oldest that was begun and not reported, else one that begins just now without
    /// being counted as rejected, or one begun before an OPEN.
    async fn call(&mut self, at: usize) -> Option<Permit> {
        if self.late == Some(at) {
            return self.late_call.take();
        }
        if let Some(permit) = self.begun.pop_front() {
            return Some(permit);
        }
        let Breaker { mode, state, permits_left, .. } = self.stage.inspect().await;
        match (mode, state) {
            (Mode::Disabled | Mode::MetricsOnly, _) | (Mode::Automatic, State::Closed) => {
                self.acquire().await
            }
            (Mode::Automatic, State::HalfOpen) if permits_left > 0 => self.acquire().await,
            (Mode::Automatic, State::Open) => self.last.clone(),
            (Mode::ForcedOpen | Mode::Automatic, _) => None,
        }
    }

    async fn change(&mut self, step: &Step) -> Result<()> {
        let wait = step.number().map_or(self.wait, Duration::from_millis);
        let what = match step.op.as_str() {
            "open" | "openFor" => Ordered::Trip(Some(wait)),
            "close" | "reset" => Ordered::Reset,
            "forceopen" => Ordered::Override(Mode::ForcedOpen, None),
            "disable" => Ordered::Override(Mode::Disabled, None),
            "metricsonly" => Ordered::Override(Mode::MetricsOnly, None),
            "halfopen" => return self.stage.try_out().await,
            op => panic!("case {}: nobody knows how to {op} {}", self.stage.id, step.arg),
        };
        self.stage.operate(what).await.map(drop)
    }

    /// The new entries of the log. Those of ours name the mode afterwards alone.
    async fn transitions(&mut self) -> Vec<Value> {
        let mut told = Vec::new();
        for change in self.stage.transitions().await {
            let to = name(change.to, change.mode);
            told.push(json!(format!("{}>{to}", self.shown)));
            self.shown = to;
        }
        told
    }
}

fn outcome(step: &Step) -> Option<Outcome> {
    match step.op.as_str() {
        "ok" => Some(Outcome::Success),
        "fail" => Some(Outcome::Failure),
        "ignore" => Some(Outcome::Cancelled),
        _ => None,
    }
}

impl<W: World> Part for Resilience4j<'_, W> {
    async fn play(&mut self, at: usize, step: &Step) -> Fields {
        let mut seen = Fields::new();
        if let Some(outcome) = outcome(step) {
            let permit = self.call(at).await;
            let duration = Duration::from_millis(step.number().unwrap_or_default());
            self.stage.report(permit, outcome, Some(duration)).await;
        } else if step.op == "acquire" {
            let permit = self.acquire().await;
            seen.insert("permitted".to_owned(), json!(permit.is_some()));
            match permit {
                Some(permit) if self.late.is_some() && at == 0 => self.late_call = Some(permit),
                permit => self.begun.extend(permit),
            }
        } else if step.op == "advance" {
            let millis = step.number().unwrap_or_else(|| panic!("case {}: how long?", self.stage.id));
            self.stage.advance(millis).await;
        } else {
            match self.change(step).await {
                Ok(()) => {}
                Err(Error::IllegalTransition { .. }) => {
                    seen.insert("error".to_owned(), json!("illegal_transition"));
                }
                Err(error) => panic!("case {}, {}: {error}", self.stage.id, step.op),
            }
        }
        let breaker = self.stage.inspect().await;
        seen.insert("state".to_owned(), json!(name(breaker.state, breaker.mode)));
        seen.insert("failureRate".to_owned(), json!(breaker.failure_rate_percent.unwrap_or(-1.0)));
        seen.insert("slowRate".to_owned(), json!(breaker.slow_rate_percent.unwrap_or(-1.0)));
        seen.insert("buffered".to_owned(), json!(breaker.counts.calls));
        seen.insert("failed".to_owned(), json!(breaker.counts.failures));
        seen.insert("slow".to_owned(), json!(breaker.counts.slow));
        seen.insert("notPermitted".to_owned(), json!(breaker.rejected_calls));
        let changes = self.transitions().await;
        if !changes.is_empty() {
            seen.insert("transitions".to_owned(), Value::Array(changes));
        }
        seen
    }
}
