//! What operations cost Redis: one script each, and appends that do not grow dearer with the thread.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    time::timeout,
};

use crate::support::{
    deployment::run_cases,
    fusewire::{Fusewire, FusewireOptions},
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::{Threads, listing, user},
};

const SOON: Duration = Duration::from_secs(15);
/// The keys of what the service does by itself.
const OF_THE_SERVICE: [&str; 2] = ["conversation_threads:probe", "fusewire:doorbell:"];

/// Everything that Redis runs, as `MONITOR` tells it.
struct Monitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _open: OwnedWriteHalf,
    marks: u32,
}

/// The commands that clients sent and that scripts ran, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Commands {
    of_clients: Vec<String>,
    of_scripts: BTreeMap<String, usize>,
}

impl Monitor {
    async fn of(redis: &RedisServer) -> Self {
        let stream = TcpStream::connect(redis.addr()).await.expect("redis listens");
        let (read, mut write) = stream.into_split();
        write.write_all(b"MONITOR\r\n").await.expect("redis reads");
        let mut lines = BufReader::new(read).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "+OK");
        Self { lines, _open: write, marks: 0 }
    }

    /// The commands since the last mark, but for the marks and for what the service does by itself: its probe of Redis, and
    /// the hash that it writes each second to hear its own notification.
    async fn commands(&mut self, redis: &RedisServer) -> Commands {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        redis.raw().await.run(&["ECHO", &mark]).await;
        let mut commands = Commands::default();
        loop {
            // +1763784000.123456 [0 127.0.0.1:4711] "EVALSHA" "…" …, or [0 lua] for what a script runs.
            let line = timeout(SOON, self.lines.next_line()).await.expect("redis tells").unwrap().unwrap();
            let (source, command) = line.split_once("] ").expect("a source and a command");
            let name = command.split('"').nth(1).expect("a name").to_uppercase();
            if command.contains(&mark) {
                return commands;
            }
            if source.ends_with(" lua") {
                *commands.of_scripts.entry(name).or_default() += 1;
            } else if !OF_THE_SERVICE.iter().any(|key| command.contains(key)) && !source.contains("unix:") {
                commands.of_clients.push(name);
            }
        }
    }
}

struct Measured {
    redis: RedisServer,
    monitor: Monitor,
    _service: Fusewire,
    threads: Threads,
}

/// A thread of 10,000 messages, and one of 100.
async fn measured() -> Measured {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &redis.url())).await;
    let threads = Threads::on(service.channel().await);
    for (id, count) in [("short", 100), ("long", 10_000)] {
        threads.create(id).await;
        threads.fill(id, 1, count).await;
        // So that no operation below has to bring its script first.
        threads.append(id, vec![user("first", "x")]).await;
        threads.context(id, 20, 0).await;
        threads.get(id).await.unwrap();
    }
    let monitor = Monitor::of(&redis).await;
    let mut measured = Measured { redis, monitor, _service: service, threads };
    measured.cost().await;
    measured
}

impl Measured {
    /// What was run since the last time, one script and nothing else.
    async fn cost(&mut self) -> Commands {
        self.monitor.commands(&self.redis).await
    }

    async fn one_script(&mut self, what: &str) -> BTreeMap<String, usize> {
        let cost = self.cost().await;
        eprintln!("{what}: {cost:?}");
        assert_eq!(cost.of_clients, ["EVALSHA"], "{what}");
        // Asked again when the millisecond ends in between.
        let is_of_time = |name: &str| ["TIME", "PTTL"].contains(&name);
        cost.of_scripts.into_iter().filter(|(name, _)| !is_of_time(name)).collect()
    }
}

#[tokio::test]
async fn operations_are_one_script_each_that_does_not_grow_with_the_thread() {
    let mut on = measured().await;
    run_cases!(&mut on, [appends_cost_the_same, a_batch_costs_what_one_message_costs, reads_cost_the_same]);
}

async fn appends_cost_the_same(on: &mut Measured) {
    let mut inside = Vec::new();
    for id in ["short", "long"] {
        on.threads.append(id, vec![user("next", "x")]).await;
        inside.push(on.one_script(&format!("append to {id}")).await);
    }
    assert_eq!(inside[0], inside[1]);
}

async fn a_batch_costs_what_one_message_costs(on: &mut Measured) {
    on.threads.append("long", vec![user("one", "x")]).await;
    let one = on.one_script("one message").await;
    on.threads.fill("long", 20_001, 20_100).await;
    assert_eq!(on.one_script("a hundred messages").await, one);
}

async fn reads_cost_the_same(on: &mut Measured) {
    let mut costs = Vec::new();
    for id in ["short", "long"] {
        assert_eq!(on.threads.context(id, 20, 0).await.messages.len(), 20);
        let context = on.one_script(&format!("the newest 20 of {id}")).await;
        on.threads.get(id).await.unwrap();
        let get = on.one_script(&format!("metadata of {id}")).await;
        on.threads.peek(id).await.unwrap();
        let peek = on.one_script(&format!("metadata of {id}, peeked at")).await;
        on.threads.page(listing(id)).await.unwrap();
        let page = on.one_script(&format!("a page of {id}")).await;
        on.threads.touch(id, None).await.unwrap();
        let touch = on.one_script(&format!("a touch of {id}")).await;
        costs.push([context, get, peek, page, touch]);
    }
    assert_eq!(costs[0], costs[1]);
}
