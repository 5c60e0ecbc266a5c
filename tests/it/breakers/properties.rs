//! Random stories of breakers: the stores must tell the same, and the engine what a naive model tells.

use std::{cell::Cell, collections::BTreeSet};

use proptest::{
    prelude::{Strategy, TestCaseError},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::runtime::{Builder, Runtime};

use self::{actor::Actor, model::Model, story::Story};
use super::world::{InMemory, InRedis};

mod actor;
mod model;
mod story;

/// Holds a claim of the same random stories every time; a failure is told with the shortest story that shows it.
fn holds_of(
    stories: impl Strategy<Value = Story>,
    cases: u32,
    mut claim: impl AsyncFnMut(u32, &Story) -> Result<(), String>,
    runtime: &Runtime,
) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (number, claim) = (Cell::new(0), std::cell::RefCell::new(&mut claim));
    let outcome = runner.run(&stories, |story| {
        number.set(number.get() + 1);
        let told = runtime.block_on((claim.borrow_mut())(number.get(), &story));
        told.map_err(TestCaseError::fail)
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// The lines that differ, each with the last line before it that is the same and says whose it is.
fn differences(one: &str, other: &str) -> String {
    let (mut one, mut other) = (one.lines().peekable(), other.lines().peekable());
    let mut told = Vec::new();
    let mut before = "";
    while one.peek().is_some() || other.peek().is_some() {
        let (ours, theirs) = (one.next().unwrap_or_default(), other.next().unwrap_or_default());
        if ours == theirs {
            before = if ours.ends_with(['{', '(']) { ours.trim() } else { before };
        } else if told.len() < 30 {
            told.push(format!("  {before} {} | {}\n", ours.trim(), theirs.trim()));
        }
    }
    told.concat()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn memory_and_redis_tell_the_same() {
    let runtime = runtime();
    let (memory, redis) = (InMemory::new(), runtime.block_on(InRedis::start()));
    let claim = async |number, story: &Story| {
        let mut here = Actor::new(&memory, number, story);
        let mut there = Actor::new(&redis, number, story);
        for (at, act) in story.acts.iter().enumerate() {
            let (ours, theirs) = (here.perform(act, true).await, there.perform(act, true).await);
            if ours != theirs {
                let differences = differences(&ours, &theirs);
                return Err(format!("act {at}, {act:?}: memory and Redis tell\n{differences}"));
            }
        }
        Ok(())
    };
    holds_of(story::of_stores(), 150, claim, &runtime);
}

/// What stories must come to at least once, or they say little.
const EVENTS: [&str; 20] = [
    "reason: ConsecutiveFailures",
    "reason: FailureRate",
    "reason: SlowRate",
    "reason: RetryAfter",
    "reason: OpenElapsed",
    "reason: TrialPassed",
    "reason: TrialFailed",
    "reason: TrialTimedOut",
    "reason: Tripped",
    "reason: Reset",
    "reason: Override",
    "reason: Extended",
    "detail: \"the override ended\"",
    "reason: Open,",
    "reason: NoPermitLeft",
    "reason: ForcedOpen",
    "disposition: Applied",
    "disposition: Neutral",
    "disposition: Stale",
    "needs mode AUTOMATIC",
];

#[test]
fn the_engine_tells_what_a_naive_model_tells() {
    let memory = InMemory::new();
    let mut missed = BTreeSet::from(EVENTS);
    let claim = async |number, story: &Story| {
        let mut engine = Actor::new(&memory, number, story);
        let mut model = Model::new(number, story);
        for (at, act) in story.acts.iter().enumerate() {
            let (ours, theirs) = (engine.perform(act, false).await, model.perform(act));
            missed.retain(|event| !ours.contains(event));
            if ours != theirs {
                let differences = differences(&ours, &theirs);
                return Err(format!("act {at}, {act:?}: engine and model tell\n{differences}"));
            }
        }
        Ok(())
    };
    holds_of(story::of_one_instance(), 500, claim, &runtime());
    assert!(missed.is_empty(), "no story came to {missed:?}");
}
