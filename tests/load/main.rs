//! Measures the service against two ceilings on this machine, in one run: `cargo bench --bench load`.
//!
//! Calls of one request are driven by h2load, calls of many requests by a client of our own.
//!
//! Machines differ and are shared, so every figure that means something is a ratio within one run. Each operation is
//! driven with 128 calls in flight against three servers in turn, several rounds: `echo`, a bare tonic rpc
//! with an answer of the same size; `bare`, a tonic rpc that runs the operation's script through a cloned connection
//! and answers with as many bytes; and the service itself. Medians go to standard output and, as JSON, to
//! `target/load.json`; a ratio is the median of the rounds' ratios, since machines have slow minutes.
//! `FUSEWIRE_LOAD_SECONDS` (1) and `FUSEWIRE_LOAD_ROUNDS` (9) make it longer,
//! `FUSEWIRE_LOAD_ONLY` shorter: only operations whose name holds it, `WatchBreakers`, or `Degraded`, which measures the
//! service without its Redis.
//!
//! With `FUSEWIRE_SOAK_SECONDS` nothing is measured: two instances go through a storm of faults for so long, see
//! `tests/storm`. `FUSEWIRE_SOAK_SEED` brings another one.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a bench prints, reads its settings and the clock, and fails loudly"
)]

mod ceilings;
mod degraded;
mod drive;
mod operations;
mod rotate;
mod servers;
mod soak;
#[path = "../storm/storm.rs"]
#[expect(dead_code, reason = "it has tests, which a bench does not run")]
mod storm;
#[path = "../it/support"]
#[expect(dead_code, reason = "these are the tests', and the storm needs a part of each")]
mod support {
    pub(crate) mod breakers;
    pub(crate) mod chaos_proxy;
    mod chaos_pump;
    pub(crate) mod eventually;
    pub(crate) mod fusewire;
    mod manual_clock;
    mod port;
    mod process;
    mod raw;
    pub(crate) mod redis_options;
    pub(crate) mod redis_server;
    pub(crate) mod status;
    pub(crate) mod threads;
    mod tls;
}
mod watch;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use degraded::Degraded;
use drive::{Drive, Figures};
use operations::Operation;
use serde::Serialize;
use servers::{Redis, Server};
use watch::Watching;

/// The ceilings have the allocator of the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "serve-ceilings") {
        return ceilings::serve(&arguments[2..]);
    }
    let number = |name: &str, default: u32| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let soak = number("FUSEWIRE_SOAK_SECONDS", 0);
    if soak > 0 {
        return soak::run(Duration::from_secs(soak.into()), number("FUSEWIRE_SOAK_SEED", 1).into());
    }
    let (seconds, rounds) = (number("FUSEWIRE_LOAD_SECONDS", 1), number("FUSEWIRE_LOAD_ROUNDS", 9));

    let only = std::env::var("FUSEWIRE_LOAD_ONLY").unwrap_or_default();
    let is_wanted = |operation: &&Operation| operation.name().contains(&only);
    let redis = Redis::start();
    let service = Server::service(&redis);
    let ceilings = Server::ceilings(&redis);
    let mut results: BTreeMap<&str, BTreeMap<&str, Figures>> = BTreeMap::new();
    for operation in Operation::ALL.iter().filter(is_wanted) {
        operation.prepare(&service);
        let mut rounds_of: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
        for _ in 0..rounds {
            for (name, server) in [("echo", &ceilings), ("bare", &ceilings), ("service", &service)] {
                let drive = Drive {
                    server,
                    redis: &redis,
                    path: operation.path(name),
                    requests: operation.requests(),
                    seconds,
                };
                rounds_of.entry(name).or_default().push(drive.run());
            }
        }
        let (echo, bare) = (rounds_of["echo"].clone(), rounds_of["bare"].clone());
        let medians = rounds_of
            .into_iter()
            .map(|(name, figures)| {
                let mut median = Figures::median(&figures);
                (median.x_echo, median.x_bare) = (ratio(&figures, &echo), ratio(&figures, &bare));
                (name, median)
            })
            .collect();
        results.insert(operation.name(), medians);
    }
    report(&results);
    let watching = "WatchBreakers".contains(&only).then(|| watch::measure(&redis, seconds * rounds));
    if let Some(watching) = &watching {
        watching.print();
    }
    let without_redis =
        "Degraded".contains(&only).then(|| degraded::measure(&redis, &ceilings, seconds, rounds));
    if let Some(without_redis) = &without_redis {
        without_redis.print();
    }
    save(&Measured { operations: &results, watching, without_redis });
}

/// The median of the rates' ratios, round by round.
fn ratio(rounds: &[Figures], to: &[Figures]) -> f64 {
    let mut ratios: Vec<f64> = rounds.iter().zip(to).map(|(figures, to)| figures.rate / to.rate).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

fn report(results: &BTreeMap<&str, BTreeMap<&str, Figures>>) {
    println!(
        "| operation | server | calls/s | × echo | × bare | p50 µs | p99 µs | server CPU µs/call | Redis CPU µs/call | script calls/call | target |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for operation in Operation::ALL {
        let Some(servers) = results.get(operation.name()) else { continue };
        for name in ["echo", "bare", "service"] {
            let figures = &servers[name];
            println!(
                "| {} | {name} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.1} | {:.1} | {:.2} | {} |",
                operation.name(),
                figures.rate,
                figures.x_echo,
                figures.x_bare,
                figures.p50_us,
                figures.p99_us,
                figures.server_cpu_us,
                figures.redis_cpu_us,
                figures.script_calls,
                if name == "service" { operation.target() } else { "" },
            );
        }
    }
}

/// Everything that was measured.
#[derive(Serialize)]
struct Measured<'a> {
    operations: &'a BTreeMap<&'a str, BTreeMap<&'a str, Figures>>,
    watching: Option<Watching>,
    without_redis: Option<Degraded>,
}

fn save(measured: &Measured<'_>) {
    let json = serde_json::to_string_pretty(measured).expect("figures are JSON");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/load.json");
    fs::write(&path, json).expect("target/ can be written to");
}
