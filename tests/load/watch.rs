//! What watching costs: how long after a change on one instance a watcher on another is told, with many watchers and
//! many breakers, and what a stream takes of the instance that serves it.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fusewire::grpc::proto::{
    Outcome, ReportRequest, TripBreakerRequest, WatchBreakersRequest,
    circuit_breakers_client::CircuitBreakersClient, watch_breakers_response::Event,
};
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

use crate::{
    drive::cpu_us,
    servers::{Redis, Server},
};

/// Breakers in Redis.
const BREAKERS: usize = 10_000;
/// They are watched by group.
const GROUPS: usize = 100;
/// Watchers on one instance.
const WATCHERS: usize = 1000;
/// Watchers of the first groups; the others share the rest.
const CROWDS: [usize; 3] = [100, 10, 1];
/// Connections that the watchers share.
const CONNECTIONS: usize = 8;
/// The pause between two changes: 100 a second.
const PACE: Duration = Duration::from_millis(10);

/// What was found with so many watchers of each change.
#[derive(Debug, Serialize)]
pub(crate) struct Watched {
    watchers_of_each_change: usize,
    changes: usize,
    /// From the order's being sent to one instance until a watcher of the other has the change.
    p50_ms: f64,
    p99_ms: f64,
    /// CPU time of the watching instance.
    cpu_us_per_change: f64,
    cpu_us_per_change_and_watcher: f64,
}

/// What watching costs.
#[derive(Debug, Serialize)]
pub(crate) struct Watching {
    breakers: usize,
    watchers: usize,
    memory_per_stream_bytes: f64,
    by_watchers: Vec<Watched>,
}

type Client = CircuitBreakersClient<Channel>;

/// When each change was ordered, and how long it took until each watcher had it.
#[derive(Debug, Default)]
struct Times {
    sent: Mutex<HashMap<String, Instant>>,
    taken: Mutex<Vec<Duration>>,
}

/// Measures watching, so many seconds for each crowd.
pub(crate) fn measure(redis: &Redis, seconds: u32) -> Watching {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (changing, watching) = (Server::service(redis), Server::service(redis));
    runtime.block_on(async {
        let mut client = Client::new(connect(&changing).await);
        for n in 0..BREAKERS {
            let request = ReportRequest {
                model_key: key(n % GROUPS, n / GROUPS),
                outcome: Outcome::Success.into(),
                ..Default::default()
            };
            client.report(request).await.expect("the report is counted");
        }
        let before = resident_bytes(watching.pid());
        let times = Arc::new(Times::default());
        watch(&watching, &times).await;
        let memory = (resident_bytes(watching.pid()) - before) / WATCHERS as f64;
        let mut by_watchers = Vec::new();
        for (group, crowd) in CROWDS.into_iter().enumerate() {
            by_watchers.push(change(&mut client, &watching, &times, (group, crowd), seconds).await);
        }
        Watching { breakers: BREAKERS, watchers: WATCHERS, memory_per_stream_bytes: memory, by_watchers }
    })
}

/// Opens all watches, and waits until each was told what there is.
async fn watch(server: &Server, times: &Arc<Times>) {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(connect(server).await);
    }
    let crowds = CROWDS.iter().enumerate().flat_map(|(group, crowd)| std::iter::repeat_n(group, *crowd));
    let rest = (CROWDS.len()..GROUPS).cycle();
    let mut synced = Vec::new();
    for (n, group) in crowds.chain(rest).take(WATCHERS).enumerate() {
        let mut client = Client::new(channels[n % CONNECTIONS].clone());
        let times = Arc::clone(times);
        let (told, hears) = tokio::sync::oneshot::channel();
        synced.push(hears);
        tokio::spawn(async move {
            let request = WatchBreakersRequest { prefix: format!("load:{group}:"), ..Default::default() };
            let mut events = client.watch_breakers(request).await.expect("a watch opens").into_inner();
            let mut told = Some(told);
            while let Ok(Some(event)) = events.message().await {
                match event.event {
                    Some(Event::Synced(_)) => told.take().map(|told| told.send(())),
                    Some(Event::Transition(change)) => {
                        times.note(&change.detail);
                        None
                    }
                    _ => None,
                };
            }
        });
    }
    for synced in synced {
        synced.await.expect("every watch is told what there is");
    }
}

impl Times {
    fn note(&self, change: &str) {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner).get(change).copied();
        let taken = sent.expect("it was ordered").elapsed();
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
    }
}

/// Changes breakers of one group at an even pace.
async fn change(
    client: &mut Client,
    watching: &Server,
    times: &Times,
    (group, crowd): (usize, usize),
    seconds: u32,
) -> Watched {
    let changes = 100 * seconds as usize;
    let cpu = cpu_us(watching.pid());
    let mut pace = tokio::time::interval(PACE);
    for n in 0..changes {
        pace.tick().await;
        let reason = format!("{group}/{n}");
        times.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(reason.clone(), Instant::now());
        let model_key = key(group, n % (BREAKERS / GROUPS));
        let request = TripBreakerRequest { model_key, reason, ..Default::default() };
        client.trip_breaker(request).await.expect("the breaker opens");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let all = changes * crowd;
    while times.taken.lock().unwrap_or_else(PoisonError::into_inner).len() < all {
        assert!(Instant::now() < deadline, "a watcher was not told of every change");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cpu = (cpu_us(watching.pid()) - cpu) / changes as f64;
    let mut taken = std::mem::take(&mut *times.taken.lock().unwrap_or_else(PoisonError::into_inner));
    taken.sort();
    let at = |share: usize| taken[taken.len() * share / 100].as_secs_f64() * 1000.0;
    Watched {
        watchers_of_each_change: crowd,
        changes,
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us_per_change: cpu,
        cpu_us_per_change_and_watcher: cpu / crowd as f64,
    }
}

impl Watching {
    /// Prints what was found as a table.
    pub(crate) fn print(&self) {
        let Self { breakers, watchers, memory_per_stream_bytes, by_watchers } = self;
        println!(
            "\nWatchBreakers: {watchers} watchers on one instance, {breakers} breakers, {:.1} KiB a stream\n",
            memory_per_stream_bytes / 1024.0
        );
        println!(
            "| watchers of each change | changes | told p50 ms | p99 ms | CPU µs/change | CPU µs/change and watcher |"
        );
        println!("|---|---|---|---|---|---|");
        for watched in by_watchers {
            println!(
                "| {} | {} | {:.2} | {:.2} | {:.0} | {:.1} |",
                watched.watchers_of_each_change,
                watched.changes,
                watched.p50_ms,
                watched.p99_ms,
                watched.cpu_us_per_change,
                watched.cpu_us_per_change_and_watcher,
            );
        }
    }
}

fn key(group: usize, n: usize) -> String {
    format!("load:{group}:model-{n}")
}

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).expect("an address");
    endpoint.connect().await.expect("the service answers")
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is told");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024.0
}
