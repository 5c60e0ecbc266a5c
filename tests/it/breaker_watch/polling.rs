//! Where notifications do not ring and may not be switched on: the same is told, only later, and nothing that is known is
//! taken for current.

use std::time::Duration;

use fusewire::grpc::proto::{Mode, Outcome::Success, State, TransitionReason};

use super::{cached, scripts_run};
use crate::support::{
    breakers::{Breakers, SOON},
    deployment::run_cases,
    fusewire::{Fusewire, FusewireOptions},
    raw::Raw,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    watch::{Watcher, all, keys},
};

const MINUTE: Duration = Duration::from_mins(1);
/// What the test and the watchers know by name.
const NAMED: [&str; 3] = ["named", "by-hand", "never"];

struct Polling {
    raw: Raw,
    breakers: Breakers,
    watchers: Vec<Watcher>,
    _services: [Fusewire; 2],
    _redis: RedisServer,
}

impl Polling {
    async fn start() -> Self {
        let options = RedisOptions::unix_socket().acl_user("app", "pw", "~* &* +@all -config");
        let redis = RedisServer::start(options).await;
        let url = redis.url_as("app", "pw");
        let options =
            FusewireOptions::unix_socket().var("REDIS_URL", &url).var("FUSEWIRE__REDIS__OUTAGE_AFTER", "10s");
        let services = [Fusewire::start(options.clone()).await, Fusewire::start(options).await];
        let mut channels = Vec::new();
        for service in &services {
            service.wait_for_log("keyspace notifications do not ring", SOON).await;
            channels.push(service.channel().await);
        }
        let breakers = Breakers::on(channels);
        let mut watchers = Vec::new();
        for service in 0..services.len() {
            for request in [keys(NAMED), all()] {
                let watcher = Watcher::open(&breakers.only(service), request).await;
                watcher.synced().await;
                watchers.push(watcher);
            }
        }
        Self { raw: redis.raw().await, breakers, watchers, _services: services, _redis: redis }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_rings() {
    let on = Polling::start().await;
    run_cases!(
        &on,
        [
            every_change_is_told,
            a_change_by_hand_is_told_once,
            a_record_made_by_hand_is_told_where_it_is_named,
            a_deleted_breaker_is_told,
            a_breaker_that_expires_is_told,
            nothing_known_is_taken_for_current,
            a_flush_is_told
        ]
    );
}

async fn every_change_is_told(on: &Polling) {
    for _ in 0..10 {
        on.breakers.trip("named", MINUTE).await;
        on.breakers.put("named", Mode::Disabled).await;
        on.breakers.reset("named").await;
    }
    let history = on.breakers.history("named").await;
    for watcher in &on.watchers {
        assert_eq!(watcher.changes("named", 30).await, history);
        assert_eq!(watcher.assert_gap_free().resyncs, []);
    }
}

async fn a_change_by_hand_is_told_once(on: &Polling) {
    on.raw.run(&["HSET", "circuit_breaker:named", "state", "OPEN"]).await;
    for watcher in &on.watchers {
        let change = watcher.changes("named", 31).await.pop().unwrap();
        assert_eq!((change.reason(), change.to_state()), (TransitionReason::External, State::Open));
    }
    assert_eq!(on.breakers.history("named").await.len(), 31);
}

async fn a_record_made_by_hand_is_told_where_it_is_named(on: &Polling) {
    on.raw.run(&["HSET", "circuit_breaker:by-hand", "state", "OPEN"]).await;
    for watcher in &on.watchers {
        let change = watcher.changes("by-hand", 1).await.pop().unwrap();
        assert_eq!((change.reason(), change.generation), (TransitionReason::External, 1));
    }
    assert_eq!(on.breakers.history("by-hand").await.len(), 1);
}

async fn a_deleted_breaker_is_told(on: &Polling) {
    on.raw.run(&["DEL", "circuit_breaker:by-hand"]).await;
    on.breakers.delete("named").await;
    for watcher in &on.watchers {
        assert!(!watcher.removed("by-hand").await.expired);
        assert!(!watcher.removed("named").await.expired);
        watcher.assert_gap_free();
    }
}

async fn a_breaker_that_expires_is_told(on: &Polling) {
    on.breakers.trip("expiring", MINUTE).await;
    on.breakers.trip("named", MINUTE).await;
    for watcher in &on.watchers {
        watcher.changes("named", 32).await;
    }
    for key in ["expiring", "named"] {
        on.raw.run(&["PEXPIRE", &format!("circuit_breaker:{key}"), "4000"]).await;
    }
    for (n, watcher) in on.watchers.iter().enumerate() {
        let key = if n % 2 == 0 { "named" } else { "expiring" };
        watcher
            .until(&format!("{key} is no more"), |told| {
                Watcher::removals(told, key) == if key == "named" { 2 } else { 1 }
            })
            .await;
        eprintln!("expired: {}", watcher.removed(key).await.expired);
    }
}

async fn nothing_known_is_taken_for_current(on: &Polling) {
    on.breakers.tell_all("asked", &[Success]).await;
    on.breakers.acquire(cached("asked")).await.unwrap();
    let before = scripts_run(&on.raw).await;
    for _ in 0..50 {
        assert!(on.breakers.acquire(cached("asked")).await.unwrap().admitted);
    }
    let run = scripts_run(&on.raw).await - before;
    assert!(run >= 50, "{run}");
}

async fn a_flush_is_told(on: &Polling) {
    on.breakers.trip("never", MINUTE).await;
    for watcher in &on.watchers {
        watcher.changes("never", 1).await;
    }
    on.raw.run(&["FLUSHALL"]).await;
    for watcher in &on.watchers {
        assert!(!watcher.removed("never").await.expired);
        watcher.assert_gap_free();
    }
}
