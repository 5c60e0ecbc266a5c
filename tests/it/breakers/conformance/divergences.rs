//! Where we differ from what others do, each with its reason and with what we do instead.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

/// The cases that may differ at all.
pub(super) const ALLOWED: [&str; 21] = [
    "O06", "O07", "R22", "R23", "R24", "R25", "R12", "R14", "R16", "G03", "O01", "G11", "R21", "G06", "G14",
    "G15", "R34", "O02", "O04", "O05", "O10",
];

/// Step, field, and value; null for none.
type Ours = Vec<(usize, &'static str, Value)>;

/// A case that differs.
#[derive(Debug)]
pub(super) struct Divergence {
    pub(super) id: &'static str,
    pub(super) reason: &'static str,
    /// What we show. All else is as expected.
    pub(super) ours: Ours,
}

/// Every case that differs.
pub(super) fn divergences() -> Vec<Divergence> {
    let mut all = vec![
        Divergence {
            id: "O06",
            reason: "a report without permit while OPEN is stale: it prolongs nothing",
            ours: [
                (3..=4).flat_map(still_open).collect(),
                (5..=9).flat_map(closed_again).collect(),
                vec![(5, "result", json!(true)), (7, "result", json!(true))],
            ]
            .concat(),
        },
        Divergence {
            id: "O07",
            reason: "a report without permit while OPEN is stale: it closes nothing",
            ours: [still_open(3), still_open(4), vec![(4, "result", json!(false))]].concat(),
        },
        Divergence {
            id: "G06",
            reason: "the window slides: what is young enough at the end of an interval stays",
            ours: [
                generation(1, 17..=20),
                vec![(17, "counts.ok", json!(1)), (18, "counts.ok", json!(1)), (19, "counts.ok", json!(2))],
                vec![
                    (20, "counts.ok", json!(2)),
                    (20, "counts.fail", json!(2)),
                    (20, "counts.cfail", json!(1)),
                ],
                vec![(20, "state", json!("closed")), (20, "transitions", Value::Null)],
            ]
            .concat(),
        },
        Divergence {
            id: "G11",
            reason: "the lease of a permit that nobody reported has ended",
            ours: vec![(4, "permitted", json!(true)), (4, "error", Value::Null)],
        },
        Divergence {
            id: "G14",
            reason: "the window slides: no result is dropped for having been begun in another interval",
            ours: [generation(1, 1..=3), vec![(3, "counts.ok", json!(2))]].concat(),
        },
        Divergence {
            id: "G15",
            reason: "rates are judged after every result: a success that fills the quorum may open",
            ours: [
                vec![(2, "state", json!("open")), (2, "transitions", json!(["closed>open"]))],
                vec![(2, "counts.fail", json!(0)), (2, "counts.ok", json!(0)), (2, "generation", json!(2))],
                vec![(3, "permitted", json!(false)), (3, "error", json!("circuit breaker is open"))],
                vec![(3, "transitions", Value::Null)],
            ]
            .concat(),
        },
    ];
    all.extend(of_resilience4j());
    all
}

fn of_resilience4j() -> [Divergence; 9] {
    [
        Divergence {
            id: "R12",
            reason: "the deadline is inclusive, as that of Open SWE",
            ours: [
                untried(3),
                untried(4),
                vec![(3, "permitted", json!(true)), (3, "transitions", json!(["OPEN>HALF_OPEN"]))],
                vec![(5, "transitions", Value::Null)],
            ]
            .concat(),
        },
        Divergence {
            id: "R14",
            reason: "two failures of four are half already: no further call is risked for the verdict",
            ours: [
                vec![(5, "state", json!("OPEN")), (5, "transitions", json!(["HALF_OPEN>OPEN"]))],
                (6..=9).flat_map(|at| failed_early(at, 2)).collect(),
                vec![(6, "permitted", json!(false)), (8, "permitted", json!(false))],
                vec![(6, "notPermitted", json!(1)), (7, "notPermitted", json!(1))],
                vec![(8, "notPermitted", json!(2)), (9, "notPermitted", json!(2))],
                vec![(9, "transitions", Value::Null)],
            ]
            .concat(),
        },
        Divergence {
            id: "R16",
            reason: "two failures of four are half already: no further call is risked for the verdict",
            ours: [
                vec![(4, "state", json!("OPEN")), (4, "transitions", json!(["HALF_OPEN>OPEN"]))],
                failed_early(5, 3),
                vec![(5, "transitions", Value::Null)],
            ]
            .concat(),
        },
        Divergence {
            id: "R21",
            reason: "the leases of permits that nobody reported have ended",
            ours: vec![(5, "permitted", json!(true)), (5, "notPermitted", json!(0))],
        },
        Divergence {
            id: "R22",
            reason: "a result of an older generation is stale: it closes nothing",
            ours: vec![(5, "state", json!("HALF_OPEN")), (5, "transitions", Value::Null)],
        },
        Divergence {
            id: "R23",
            reason: "a result of an older generation is stale: it opens nothing",
            ours: [untried(5), vec![(5, "transitions", Value::Null)]].concat(),
        },
        Divergence {
            id: "R24",
            reason: "a result of an older generation is stale: it gives no permit back",
            ours: vec![(7, "permitted", json!(false)), (7, "notPermitted", json!(2))],
        },
        Divergence {
            id: "R25",
            reason: "a result of an older generation is stale: what opened the breaker stays told",
            ours: (3..=6)
                .flat_map(|at| {
                    let told = [("buffered", 2.0), ("failed", 2.0), ("failureRate", 100.0)];
                    told.map(|(field, value)| (at, field, json!(value)))
                })
                .collect(),
        },
        Divergence {
            id: "R34",
            reason: "every change of the deadline is an entry of the log",
            ours: vec![(2, "transitions", json!(["OPEN>OPEN"]))],
        },
    ]
}

/// What Open SWE's record would show, were it ours: OPEN since two failures at once.
fn still_open(at: usize) -> Ours {
    vec![
        (at, "hash.state", json!("OPEN")),
        (at, "hash.failureCount", json!(2)),
        (at, "hash.lastFailureTime", json!(0)),
        (at, "hash.openedAt", json!(0)),
    ]
}

/// And CLOSED after them.
fn closed_again(at: usize) -> Ours {
    vec![
        (at, "hash.state", json!("CLOSED")),
        (at, "hash.failureCount", json!(0)),
        (at, "hash.lastFailureTime", json!(0)),
        (at, "hash.openedAt", Value::Null),
    ]
}

fn generation(number: i64, steps: RangeInclusive<usize>) -> Ours {
    steps.map(|at| (at, "generation", json!(number))).collect()
}

/// HALF_OPEN without a result and without a rejection.
fn untried(at: usize) -> Ours {
    let mut told = vec![(at, "state", json!("HALF_OPEN"))];
    told.extend(["buffered", "failed", "notPermitted"].map(|field| (at, field, json!(0))));
    told.extend(["failureRate", "slowRate"].map(|field| (at, field, json!(-1))));
    told
}

/// OPEN again after a trial that was decided by two failures among so many results.
fn failed_early(at: usize, results: i64) -> Ours {
    let mut told =
        vec![(at, "state", json!("OPEN")), (at, "buffered", json!(results)), (at, "failed", json!(2))];
    told.extend(["failureRate", "slowRate"].map(|field| (at, field, json!(-1))));
    told
}
