//! What calls cost while Redis is away, how soon the first of them is answered, and what the journal file costs.
//!
//! The service has a Redis of its own here, which is killed or frozen; memory then answers for threads that it holds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fusewire::grpc::proto::{
    AcquireRequest, AppendMessagesRequest, Authority, GetStatusRequest, GetThreadRequest,
    ListMessagesRequest, ServingMode, circuit_breakers_client::CircuitBreakersClient,
    conversation_threads_client::ConversationThreadsClient, diagnostics_client::DiagnosticsClient,
};
use prost::Message as _;
use serde::Serialize;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    drive::{Drive, Figures},
    operations::message,
    ratio,
    servers::{Redis, Server},
};

/// Held threads that are appended to, in turn.
const THREADS: usize = 128;
/// Messages of the thread that is read.
const MESSAGES: usize = 20;
/// Outages that are timed.
const OUTAGES: usize = 15;
/// Far above what any change of mode takes.
const SOON: Duration = Duration::from_secs(30);

/// A call that memory answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Append,
    GetThread,
    ListMessages,
    Acquire,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Append, Self::GetThread, Self::ListMessages, Self::Acquire];

    fn name(self) -> &'static str {
        match self {
            Self::Append => "AppendMessages, 1 KiB, to 128 threads",
            Self::GetThread => "GetThread",
            Self::ListMessages => "ListMessages, 20 of 1 KiB",
            Self::Acquire => "Acquire",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Append => "/fusewire.v1.ConversationThreads/AppendMessages",
            Self::GetThread => "/fusewire.v1.ConversationThreads/GetThread",
            Self::ListMessages => "/fusewire.v1.ConversationThreads/ListMessages",
            Self::Acquire => "/fusewire.v1.CircuitBreakers/Acquire",
        }
    }

    /// The ceiling whose answer is of the same size.
    fn echo(self) -> &'static str {
        if self == Self::ListMessages { "/echo/ContextOf20" } else { "/echo/GetThread" }
    }

    fn requests(self) -> Vec<Vec<u8>> {
        match self {
            Self::Append => (0..THREADS).map(|n| append(&thread(n)).encode_to_vec()).collect(),
            Self::GetThread => vec![get().encode_to_vec()],
            Self::ListMessages => vec![list().encode_to_vec()],
            Self::Acquire => vec![acquire().encode_to_vec()],
        }
    }
}

fn thread(n: usize) -> String {
    format!("load-{n}")
}

fn append(thread_id: &str) -> AppendMessagesRequest {
    AppendMessagesRequest {
        thread_id: thread_id.to_owned(),
        messages: vec![message()],
        create_if_missing: true,
        ..Default::default()
    }
}

fn get() -> GetThreadRequest {
    GetThreadRequest { thread_id: "read".to_owned(), ..Default::default() }
}

fn list() -> ListMessagesRequest {
    ListMessagesRequest { thread_id: "read".to_owned(), ..Default::default() }
}

fn acquire() -> AcquireRequest {
    AcquireRequest { model_key: "provider:model".to_owned(), ..Default::default() }
}

/// What an outage costs.
#[derive(Debug, Serialize)]
pub(crate) struct Degraded {
    operations: BTreeMap<&'static str, Costs>,
    noticed: Noticed,
    /// Appends, by when the journal file is forced to disk.
    journal_file: BTreeMap<&'static str, Costs>,
}

#[derive(Debug, Serialize)]
struct Costs {
    echo: Figures,
    service: Figures,
}

/// How long the first call of an outage took.
#[derive(Debug, Serialize)]
struct Noticed {
    outages: usize,
    p50_ms: f64,
    worst_ms: f64,
}

/// Measures all of it; `redis` and `ceilings` stay.
pub(crate) fn measure(redis: &Redis, ceilings: &Server, seconds: u32, rounds: u32) -> Degraded {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let compare = |service: &Server, operation: Operation| {
        let drive = |server, path: &str| {
            let (path, requests) = (path.to_owned(), operation.requests());
            Drive { server, redis, path, requests, seconds }.run()
        };
        let rounds: Vec<(Figures, Figures)> = (0..rounds)
            .map(|_| (drive(ceilings, operation.echo()), drive(service, operation.path())))
            .collect();
        runtime.block_on(async { assert_local(&connect(service).await).await });
        let (echo, service): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        let mut costs = Costs { echo: Figures::median(&echo), service: Figures::median(&service) };
        (costs.echo.x_echo, costs.service.x_echo) = (1.0, ratio(&service, &echo));
        costs
    };
    let noticed = runtime.block_on(notice());
    let service = runtime.block_on(outage(&[]));
    let operations = Operation::ALL
        .into_iter()
        .map(|operation| (operation.name(), compare(&service, operation)))
        .collect();
    drop(service);
    let mut journal_file = BTreeMap::new();
    for policy in ["none", "no", "everysec", "always"] {
        // Where the program is, for a temporary directory may be no disk.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made");
        let path = folder.path().join("journal").display().to_string();
        let file = [("JOURNAL_PATH", path.as_str()), ("JOURNAL_FSYNC", policy)];
        let service = runtime.block_on(outage(if policy == "none" { &[] } else { &file }));
        journal_file.insert(policy, compare(&service, Operation::Append));
    }
    Degraded { operations, noticed, journal_file }
}

/// A service that has made threads and lost its Redis.
async fn outage(settings: &[(&str, &str)]) -> Server {
    let redis = Redis::start();
    let service = Server::service_with(&redis, |command| {
        // Nothing is merged here, and nothing is to be refused.
        command
            .env("FUSEWIRE__FALLBACK__JOURNAL_BYTES", "64GiB")
            .env("FUSEWIRE__FALLBACK__JOURNAL_ENTRIES", "100000000")
            .env("FUSEWIRE__MEMORY__COPY_BYTES", "64GiB")
            .env("FUSEWIRE__THREADS__MAX_BYTES", "4GiB")
            .env("FUSEWIRE__THREADS__MAX_MESSAGES", "10000000");
        for (name, value) in settings {
            command.env(format!("FUSEWIRE__FALLBACK__{name}"), value);
        }
    });
    let channel = prepare(&service).await;
    drop(redis);
    serves(&channel, ServingMode::Degraded).await;
    assert_local(&channel).await;
    service
}

/// Checks that memory answers every operation: what drives them looks at no answer.
async fn assert_local(channel: &Channel) {
    let mut threads = ConversationThreadsClient::new(channel.clone());
    let told = threads.get_thread(get()).await.expect("memory holds it").into_inner();
    assert_eq!(told.authority(), Authority::Local);
    let told = threads.append_messages(append(&thread(0))).await.expect("memory holds it").into_inner();
    assert_eq!(told.authority(), Authority::Local);
    let told = threads.list_messages(list()).await.expect("memory holds it").into_inner();
    assert_eq!((told.authority(), told.messages.len()), (Authority::Local, MESSAGES));
    let mut breakers = CircuitBreakersClient::new(channel.clone());
    let told = breakers.acquire(acquire()).await.expect("memory decides").into_inner();
    assert_eq!((told.authority(), told.admitted), (Authority::Local, true));
}

async fn connect(service: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.address)).expect("an address");
    endpoint.connect().await.expect("the service answers")
}

/// Makes threads that the service then holds.
async fn prepare(service: &Server) -> Channel {
    let channel = connect(service).await;
    let mut threads = ConversationThreadsClient::new(channel.clone());
    for n in 0..THREADS {
        threads.append_messages(append(&thread(n))).await.expect("the message is appended");
    }
    let request = AppendMessagesRequest { messages: vec![message(); MESSAGES], ..append("read") };
    threads.append_messages(request).await.expect("the messages are appended");
    channel
}

async fn serves(channel: &Channel, mode: ServingMode) {
    let deadline = Instant::now() + SOON;
    let mut diagnostics = DiagnosticsClient::new(channel.clone());
    while diagnostics.get_status(GetStatusRequest {}).await.expect("it is told").into_inner().mode() != mode {
        assert!(Instant::now() < deadline, "the service does not come to {mode:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Freezes Redis again and again, and times the call that meets it.
async fn notice() -> Noticed {
    let redis = Redis::start();
    let service = Server::service(&redis);
    let channel = prepare(&service).await;
    let mut threads = ConversationThreadsClient::new(channel.clone());
    let mut taken = Vec::new();
    for n in 0..OUTAGES {
        redis.freeze();
        let began = Instant::now();
        let authority = if n % 2 == 0 {
            threads.get_thread(get()).await.expect("memory answers").into_inner().authority()
        } else {
            threads.append_messages(append("read")).await.expect("memory accepts").into_inner().authority()
        };
        taken.push(began.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(authority, Authority::Local);
        redis.thaw();
        serves(&channel, ServingMode::Shared).await;
        // Read again, so that memory holds it as it is now.
        threads.list_messages(list()).await.expect("redis answers");
    }
    taken.sort_by(f64::total_cmp);
    Noticed { outages: OUTAGES, p50_ms: taken[OUTAGES / 2], worst_ms: taken[OUTAGES - 1] }
}

impl Degraded {
    /// Prints what was found as tables.
    pub(crate) fn print(&self) {
        let Self { operations, noticed: Noticed { outages, p50_ms, worst_ms }, journal_file } = self;
        println!("\nWithout Redis\n");
        let rows = |costs: &BTreeMap<&str, Costs>, order: &[&str]| {
            for (name, Costs { echo, service }) in order.iter().map(|name| (name, &costs[name])) {
                for (server, figures) in [("echo", echo), ("service", service)] {
                    println!(
                        "| {name} | {server} | {:.0} | {:.2} | {:.0} | {:.0} | {:.1} |",
                        figures.rate, figures.x_echo, figures.p50_us, figures.p99_us, figures.server_cpu_us
                    );
                }
            }
        };
        println!("| operation | server | calls/s | × echo | p50 µs | p99 µs | server CPU µs/call |");
        println!("|---|---|---|---|---|---|---|");
        rows(operations, &Operation::ALL.map(Operation::name));
        println!("\nAppendMessages by when the journal file is forced to disk\n");
        println!("| journal_fsync | server | calls/s | × echo | p50 µs | p99 µs | server CPU µs/call |");
        println!("|---|---|---|---|---|---|---|");
        rows(journal_file, &["none", "no", "everysec", "always"]);
        println!(
            "\nthe first call after Redis froze: median {p50_ms:.0} ms, worst {worst_ms:.0} ms of {outages}"
        );
    }
}
