//! What Open SWE, gobreaker and resilience4j really did, step by step, on every store; where we differ, on purpose.

use std::{collections::BTreeSet, fs, path::Path};

use self::{
    case::{Case, Fields, Step},
    divergences::{ALLOWED, Divergence, divergences},
    stage::Stage,
};
use super::world::{InMemory, InRedis, World};

mod case;
mod divergences;
mod gobreaker;
mod open_swe;
mod resilience4j;
mod stage;

/// The systems, each with the file of what it did.
#[derive(Debug, Clone, Copy)]
enum System {
    OpenSwe,
    Gobreaker,
    Resilience4j,
}

const SYSTEMS: [(&str, System); 3] = [
    ("open-swe.json", System::OpenSwe),
    ("gobreaker.json", System::Gobreaker),
    ("resilience4j.json", System::Resilience4j),
];

/// Our breaker in the part of another one.
trait Part {
    /// Does what a step does, and tells what is to be seen afterwards by the names that the file uses.
    async fn play(&mut self, at: usize, step: &Step) -> Fields;
}

fn cases() -> Vec<(System, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conformance");
    let read = |(file, system): (&str, System)| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let cases: Vec<Case> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!cases.is_empty(), "{file} holds cases");
        cases.into_iter().map(move |case| (system, case))
    };
    SYSTEMS.into_iter().flat_map(read).collect()
}

/// Plays a case; the error says where we differ from what is expected.
async fn play<W: World>(
    world: &W,
    story: u32,
    (system, case): &(System, Case),
    divergence: Option<&Divergence>,
) -> Result<(), String> {
    match system {
        System::OpenSwe => {
            let mut part = open_swe::OpenSwe::new(Stage::set(world, story, case, &open_swe::policy(case)));
            follow(&mut part, case, divergence).await
        }
        System::Gobreaker => {
            let mut part =
                gobreaker::Gobreaker::new(Stage::set(world, story, case, &gobreaker::policy(case)));
            follow(&mut part, case, divergence).await
        }
        System::Resilience4j => {
            let stage = Stage::set(world, story, case, &resilience4j::policy(case));
            let mut part = resilience4j::Resilience4j::new(stage, case).await;
            follow(&mut part, case, divergence).await
        }
    }
}

async fn follow(part: &mut impl Part, case: &Case, divergence: Option<&Divergence>) -> Result<(), String> {
    let mut differences = Vec::new();
    for (at, step) in case.steps.iter().enumerate() {
        let mut expected = step.expected.clone();
        for (_, field, ours) in divergence.iter().flat_map(|told| &told.ours).filter(|ours| ours.0 == at) {
            case::put(&mut expected, field, ours.clone());
        }
        let seen = part.play(at, step).await;
        for difference in case::differences(&expected, &seen) {
            differences.push(format!("{}, step {at} ({}): {difference}", case.id, step.op));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

async fn every_case_is_met<W: World>(world: &W) {
    let divergences = divergences();
    let mut failures = Vec::new();
    for (story, case) in (0..).zip(&cases()) {
        let divergence = divergences.iter().find(|divergence| divergence.id == case.1.id);
        if let Err(differences) = play(world, story, case, divergence).await {
            failures.push(format!("{}\n{differences}", case.1.title));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn every_case_is_met_in_memory() {
    every_case_is_met(&InMemory::new()).await;
}

#[tokio::test]
async fn every_case_is_met_in_redis() {
    every_case_is_met(&InRedis::start().await).await;
}

#[tokio::test]
async fn no_divergence_is_without_need_or_leave() {
    let (world, cases) = (InMemory::new(), cases());
    let mut ids = BTreeSet::new();
    for (story, divergence) in (0..).zip(divergences()) {
        let id = divergence.id;
        assert!(ids.insert(id), "{id} is told twice");
        assert!(ALLOWED.contains(&id), "{id} may not differ: {}", divergence.reason);
        let case = cases.iter().find(|(_, case)| case.id == id).unwrap_or_else(|| panic!("there is no {id}"));
        assert!(play(&world, story, case, None).await.is_err(), "{id} does not differ");
    }
}
