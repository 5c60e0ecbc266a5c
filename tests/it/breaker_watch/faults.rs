//! What may happen to Redis and to the connections in the midst of thousands of changes: each watcher is told every one of
//! them in order, or that some are missing, and in the end believes what Redis says.

use std::time::Duration;

use fusewire::grpc::proto::{ResetBreakerRequest, ServingMode, TripBreakerRequest};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::watchers;
use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, SOON},
    deployment::{Deployment, Store},
    eventually::POLL,
    fusewire::FusewireOptions,
    redis_options::RedisOptions,
    threads::wire,
    watch::{Account, Watcher, all, beginning},
};

const MINUTE: Duration = Duration::from_mins(1);
const BREAKERS: usize = 20;
/// Of each breaker, where nothing else is said.
const CHANGES: i64 = 60;

fn names() -> Vec<String> {
    (0..BREAKERS).map(|n| format!("busy-{n}")).collect()
}

/// Opens and closes the breakers, so often each, through one service; what is refused is tried again until it is done.
fn write(breakers: &Breakers, changes: i64) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for names in names().chunks(BREAKERS / 4) {
        let (breakers, names) = (breakers.clone(), names.to_vec());
        writers.spawn(async move {
            for n in 0..changes {
                for name in &names {
                    let made = async {
                        while !change(&breakers, name, n).await {
                            sleep(POLL).await;
                        }
                    };
                    timeout(4 * SOON, made).await.expect("the change is made");
                }
            }
        });
    }
    writers
}

async fn change(breakers: &Breakers, name: &str, n: i64) -> bool {
    let model_key = name.to_owned();
    if n % 2 == 0 {
        let open_for = Some(wire(MINUTE));
        breakers.trip_breaker(TripBreakerRequest { model_key, open_for, ..Default::default() }).await.is_ok()
    } else {
        breakers.reset_breaker(ResetBreakerRequest { model_key, ..Default::default() }).await.is_ok()
    }
}

/// Two services on one Redis; changes are made through the first, and watched through both.
struct Busy {
    on: Deployment,
    watchers: Vec<Watcher>,
}

impl Busy {
    async fn start() -> Self {
        let on = Deployment::start(Store::Pair).await;
        let mut opened = watchers(&on, &all()).await;
        opened.extend(watchers(&on, &beginning("busy-1")).await);
        Self { on, watchers: opened }
    }

    fn write(&self, changes: i64) -> JoinSet<()> {
        write(&self.on.breakers().only(0), changes)
    }

    /// Returns once so many changes were told to the first watcher, or begun anew with.
    async fn is_under_way(&self, events: usize) {
        self.watchers[0].until("changes are under way", |told| told.len() >= events).await;
    }

    async fn agree(&self) -> Vec<Account> {
        agree(&self.watchers, &self.on.breakers().only(1)).await
    }
}

async fn agree(watchers: &[Watcher], breakers: &Breakers) -> Vec<Account> {
    let mut accounts = Vec::new();
    for (n, watcher) in watchers.iter().enumerate() {
        let names: Vec<_> = names().into_iter().filter(|name| n < 2 || name.starts_with("busy-1")).collect();
        let account = watcher.agrees(breakers, &names).await;
        let Account { transitions, removed, resyncs, .. } = &account;
        eprintln!("{transitions} changes, {} resyncs, {removed} removed", resyncs.len());
        accounts.push(account);
    }
    accounts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_every_change_is_told() {
    let busy = Busy::start().await;
    busy.write(CHANGES).join_all().await;
    let whole = BREAKERS * usize::try_from(CHANGES).unwrap();
    for (n, account) in busy.agree().await.iter().enumerate() {
        let expected = if n < 2 { whole } else { whole * 11 / 20 };
        assert_eq!((account.transitions, account.resyncs.as_slice()), (expected, &[][..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_killed_again_and_again() {
    let busy = Busy::start().await;
    let raw = busy.on.raw().await;
    let mut writers = busy.write(150);
    let mut killed = 0;
    while !writers.is_empty() {
        killed += raw.get::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        tokio::select! {
            Some(written) = writers.join_next() => written.unwrap(),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    eprintln!("{killed} connections were killed");
    assert!(killed >= 4);
    for account in busy.agree().await {
        assert!(account.transitions > 0, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_switched_off_and_on() {
    let busy = Busy::start().await;
    let (raw, mut writers) = (busy.on.raw().await, busy.write(CHANGES));
    for (events, flags) in [(150, ""), (450, "Kghxe"), (750, "")] {
        busy.is_under_way(events).await;
        raw.run(&["CONFIG", "SET", "notify-keyspace-events", flags]).await;
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    busy.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_restarts_with_its_data() {
    let mut busy = Busy::start().await;
    let writers = busy.write(CHANGES);
    for events in [150, 600] {
        busy.is_under_way(events).await;
        busy.on.redis.as_mut().unwrap().restart().await;
    }
    writers.join_all().await;
    busy.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_restarts_without_its_data() {
    let mut busy = Busy::start().await;
    let writers = busy.write(CHANGES);
    for events in [150, 600] {
        busy.is_under_way(events).await;
        busy.on.redis.as_mut().unwrap().restart_empty().await;
    }
    writers.join_all().await;
    for account in busy.agree().await {
        let begun = account.resyncs.len() + account.removed;
        assert!(begun > 0, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_restarts_without_its_data_when_nothing_changes_any_more() {
    let mut busy = Busy::start().await;
    write(&busy.on.breakers().only(0), 1).join_all().await;
    busy.agree().await;
    busy.on.redis.as_mut().unwrap().restart_empty().await;
    for (n, account) in busy.agree().await.iter().enumerate() {
        assert_eq!((account.removed, account.transitions), if n < 2 { (20, 20) } else { (11, 11) });
    }
}

/// A service whose Redis freezes for this one alone, while another one makes changes; and the watchers through both.
async fn frozen(until: impl AsyncFnOnce(&Breakers)) {
    let on = BehindProxy::start_with(RedisOptions::tcp(), FusewireOptions::unix_socket()).await;
    let other = on.another_patient().await;
    let (here, there) = (on.breakers(), Breakers::on([other.channel().await]));
    let mut watchers = Vec::new();
    for (breakers, request) in [(&here, all()), (&there, all()), (&here, beginning("busy-1"))] {
        let watcher = Watcher::open(breakers, request).await;
        watcher.synced().await;
        watchers.push(watcher);
    }
    write(&there, 10).join_all().await;
    agree(&watchers, &there).await;
    on.proxy.freeze().await;
    until(&there).await;
    watchers[0].serves(ServingMode::Degraded, 1).await;
    on.proxy.forward().await;
    watchers[0].serves(ServingMode::Shared, 1).await;
    write(&there, 10).join_all().await;
    let accounts = agree(&watchers, &there).await;
    assert_eq!(accounts[1].resyncs, [], "nothing happened to this one");
    assert!(accounts[0].resyncs.len() >= BREAKERS, "{:?}", accounts[0].resyncs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_while_more_happens_than_is_kept() {
    frozen(async |there| {
        write(there, 20).join_all().await;
        for n in 0..600 {
            assert!(change(there, "busy-1", n).await);
        }
    })
    .await;
}

/// The one test that takes as long as it says: what ends connections may do so only after that time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_of_thirty_seconds() {
    frozen(async |there| {
        let writers = write(there, 50);
        sleep(Duration::from_secs(30)).await;
        writers.join_all().await;
    })
    .await;
}
