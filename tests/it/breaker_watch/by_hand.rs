//! What others do to the data: taken over once by the fleet, and told to every watcher.

use std::time::Duration;

use fusewire::grpc::proto::{
    Disposition, Mode, Outcome::Failure, State, Transition, TransitionReason::External,
};
use tokio::time::Instant;

use super::{fleet, watchers};
use crate::support::{
    breakers::{Breakers, assert_did, in_a_row},
    deployment::{Deployment, Store, run_cases},
    raw::Raw,
    threads::millis,
    watch::{Watcher, all, keys, resyncs_of, snapshots},
};

const MINUTE: Duration = Duration::from_mins(1);

struct Fleet {
    on: Deployment,
    breakers: Breakers,
    raw: Raw,
    watchers: Vec<Watcher>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_fleet_of_three_that_all_watch() {
    let (on, breakers) = fleet(&[]).await;
    let (raw, watchers) = (on.raw().await, watchers(&on, &all()).await);
    let mut fleet = Fleet { on, breakers, raw, watchers };
    run_cases!(
        &mut fleet,
        [
            a_breaker_opened_by_hand_is_taken_over_once,
            a_breaker_closed_by_hand_is_taken_over_once,
            another_end_of_open_is_taken_over_once,
            a_mode_is_taken_over_once,
            a_record_of_others_is_taken_over_once,
            a_change_of_nothing_is_no_change,
            a_deleted_state_is_a_breaker_that_is_no_more,
            a_state_that_cannot_be_read_hides_no_other,
            changes_that_redis_lost_begin_a_new_epoch,
            changes_that_redis_lost_are_noticed_where_others_took_their_place,
            another_change_under_the_number_of_one_that_was_told_is_noticed,
            a_flush_is_noticed_though_it_rings_nothing
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_that_takes_no_change_over_hides_nothing() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    for key in ["a", "b"] {
        breakers.trip(key, MINUTE).await;
    }
    raw.run(&["HSET", "circuit_breaker:a", "state", "CLOSED"]).await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let watcher = Watcher::open(&breakers, all()).await;
    watcher.synced().await;
    let states: Vec<_> = snapshots(&watcher.told()).iter().map(|one| (one.generation, one.state())).collect();
    assert_eq!(states, [(1, State::Closed), (1, State::Open)]);
    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(watcher.changes("a", 1).await[0].reason(), External);
}

impl Fleet {
    async fn write(&self, key: &str, fields: &[&str]) {
        let key = format!("circuit_breaker:{key}");
        self.raw.run(&[&["HSET", &key], fields].concat()).await;
    }

    /// Returns once every watcher was told of so many changes, with the last of them; none is told of more, and none of
    /// them begins again.
    async fn told(&self, key: &str, count: usize) -> Transition {
        for watcher in &self.watchers {
            watcher.changes(key, count).await;
        }
        let history = self.breakers.history(key).await;
        assert_eq!(history.len(), count, "taken over once: {history:#?}");
        for watcher in &self.watchers {
            assert_eq!(watcher.changes(key, count).await, history);
            let account = watcher.assert_gap_free();
            assert!(account.resyncs.iter().all(|(resynced, _)| resynced != key), "{account:?}");
        }
        history.last().expect("one at least").clone()
    }
}

async fn a_breaker_opened_by_hand_is_taken_over_once(fleet: &mut Fleet) {
    fleet.breakers.set("opened", in_a_row(5)).await;
    fleet.breakers.tell_all("opened", &[Failure]).await;
    let permit = fleet.breakers.permit("opened").await;
    fleet.write("opened", &["state", "OPEN"]).await;
    let change = fleet.told("opened", 1).await;
    assert_eq!(
        (change.from_state(), change.to_state(), change.reason()),
        (State::Closed, State::Open, External)
    );
    let open_for = millis(change.open_until) - millis(change.transition_time);
    assert_eq!(open_for, 60_000, "as long as the settings say");
    assert_did(&fleet.breakers.tell(&permit, Failure).await, Disposition::Stale);
    assert!(!fleet.breakers.ask("opened").await.admitted);
}

async fn a_breaker_closed_by_hand_is_taken_over_once(fleet: &mut Fleet) {
    fleet.breakers.trip("closed", MINUTE).await;
    fleet.told("closed", 1).await;
    fleet.write("closed", &["state", "CLOSED", "failureCount", "0"]).await;
    let change = fleet.told("closed", 2).await;
    assert_eq!(
        (change.from_state(), change.to_state(), change.reason()),
        (State::Open, State::Closed, External)
    );
    assert!(fleet.breakers.ask("closed").await.admitted);
}

async fn another_end_of_open_is_taken_over_once(fleet: &mut Fleet) {
    let open = fleet.breakers.trip("until", MINUTE).await;
    fleet.told("until", 1).await;
    let until = millis(open.open_until) + 3_600_000;
    fleet.write("until", &["openUntil", &until.to_string()]).await;
    let change = fleet.told("until", 2).await;
    assert_eq!((change.to_state(), change.reason()), (State::Open, External));
    assert!((millis(change.open_until) - until).abs() <= 1000, "{change:?}");
}

async fn a_mode_is_taken_over_once(fleet: &mut Fleet) {
    fleet.breakers.trip("mode", MINUTE).await;
    fleet.told("mode", 1).await;
    fleet.write("mode", &["mode", "DISABLED"]).await;
    let change = fleet.told("mode", 2).await;
    assert_eq!((change.to_state(), change.mode(), change.reason()), (State::Open, Mode::Disabled, External));
    assert!(fleet.breakers.ask("mode").await.admitted);
    fleet.write("mode", &["mode", "AUTOMATIC"]).await;
    let change = fleet.told("mode", 3).await;
    assert_eq!((change.mode(), change.reason()), (Mode::Automatic, External));
    assert!(!fleet.breakers.ask("mode").await.admitted);
}

async fn a_record_of_others_is_taken_over_once(fleet: &mut Fleet) {
    let permit = fleet.breakers.permit("foreign").await;
    fleet.breakers.set("foreign", in_a_row(5)).await;
    let time: Vec<i64> = fleet.raw.get(&["TIME"]).await;
    let now = time[0] * 1000 + time[1] / 1000;
    let at = |ms: i64| ms.to_string();
    let (failed, opened) = (at(now - 10_001), at(now - 10_000));
    fleet
        .write(
            "foreign",
            &["state", "OPEN", "failureCount", "2", "lastFailureTime", &failed, "openedAt", &opened],
        )
        .await;
    let change = fleet.told("foreign", 1).await;
    assert_eq!(
        (change.from_state(), change.to_state(), change.reason()),
        (State::Closed, State::Open, External)
    );
    assert!((millis(change.open_until) - (now + 50_000)).abs() <= 1000, "{change:?} at {now}");
    assert_did(&fleet.breakers.tell(&permit, Failure).await, Disposition::Stale);
}

async fn a_change_of_nothing_is_no_change(fleet: &mut Fleet) {
    fleet.breakers.trip("nothing", MINUTE).await;
    fleet.told("nothing", 1).await;
    // Each of these rings.
    fleet.write("nothing", &["state", "OPEN"]).await;
    fleet.write("nothing", &["note", "by hand"]).await;
    fleet.raw.run(&["EXPIRE", "circuit_breaker:nothing", "100000"]).await;
    fleet.breakers.reset("nothing").await;
    fleet.told("nothing", 2).await;
}

async fn a_deleted_state_is_a_breaker_that_is_no_more(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("gone", MINUTE).await;
    fleet.told("gone", 1).await;
    fleet.raw.run(&["DEL", "circuit_breaker:gone"]).await;
    for watcher in &fleet.watchers {
        let removed = watcher.removed("gone").await;
        assert_eq!((&removed.epoch, removed.generation, removed.expired), (&was.epoch, 1, false));
    }
    // Its companions stayed, and are not its successor's.
    let again = fleet.breakers.trip("gone", MINUTE).await;
    assert_eq!(again.generation, 1);
    for watcher in &fleet.watchers {
        assert_eq!(watcher.changes("gone", 2).await[1].epoch, again.epoch);
        watcher.assert_gap_free();
    }
}

async fn a_state_that_cannot_be_read_hides_no_other(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("damaged", MINUTE).await;
    fleet.told("damaged", 1).await;
    let replace = "redis.call('UNLINK', KEYS[1]) redis.call('SET', KEYS[1], 'x')";
    fleet.raw.run(&["EVAL", replace, "1", "circuit_breaker:damaged"]).await;
    let late = Watcher::open(&fleet.breakers, keys(["damaged", "sound"])).await;
    late.synced().await;
    assert_eq!(late.assert_gap_free().snapshots, 1, "{:#?}", late.told());
    fleet.breakers.trip("sound", MINUTE).await;
    late.changes("sound", 1).await;
    fleet.told("sound", 1).await;
    fleet.raw.run(&["DEL", "circuit_breaker:damaged"]).await;
    for watcher in &fleet.watchers {
        let removed = watcher.removed("damaged").await;
        assert_eq!((&removed.epoch, removed.generation, removed.expired), (&was.epoch, 1, false));
    }
    fleet.breakers.trip("damaged", MINUTE).await;
    late.changes("damaged", 1).await;
    late.assert_gap_free();
}

/// A breaker as a replica has it that lags behind: the log before the state, so that none is ahead of the other.
async fn dump(raw: &Raw, key: &str) -> Vec<(String, Vec<u8>)> {
    let mut parts = Vec::new();
    for key in [format!("{{circuit_breaker:{key}}}:log"), format!("circuit_breaker:{key}")] {
        parts.push((key.clone(), raw.get(&["DUMP", &key]).await));
    }
    parts
}

/// What is left when that replica becomes the primary.
async fn fail_over(raw: &Raw, parts: &[(String, Vec<u8>)]) {
    for (key, value) in parts {
        let command: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"7200000", value, b"REPLACE"];
        raw.run(&command).await;
    }
}

/// Checks that a new epoch began once, and that every watcher was told to begin again with that.
async fn assert_begun_anew(fleet: &Fleet, key: &str, was: &str, changes: i64) {
    let keys = [key.to_owned()];
    for watcher in &fleet.watchers {
        watcher
            .until("the new epoch is told", |told| {
                resyncs_of(told, key).iter().any(|resync| resync.epoch != was)
            })
            .await;
    }
    let now = fleet.breakers.get(key).await;
    assert_eq!(now.generation, changes);
    let history = fleet.breakers.history(key).await;
    let begun = history.iter().filter(|change| change.reason() == External).count();
    assert_eq!((history.len(), begun), (usize::try_from(changes).unwrap(), 1), "{history:#?}");
    fleet.breakers.trip(key, MINUTE).await;
    fleet.breakers.reset(key).await;
    for watcher in &fleet.watchers {
        let account = watcher.agrees(&fleet.breakers, &keys).await;
        eprintln!("{:?}", account.resyncs);
        assert_eq!(account.resyncs.iter().filter(|(resynced, _)| resynced == key).count(), 1);
    }
}

async fn changes_that_redis_lost_begin_a_new_epoch(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("lost", MINUTE).await.epoch;
    fleet.breakers.reset("lost").await;
    let replica = dump(&fleet.raw, "lost").await;
    fleet.breakers.trip("lost", MINUTE).await;
    fleet.breakers.reset("lost").await;
    let permit = fleet.breakers.permit("lost").await;
    fleet.told("lost", 4).await;
    fail_over(&fleet.raw, &replica).await;
    assert_begun_anew(fleet, "lost", &was, 1).await;
    assert_did(&fleet.breakers.tell(&permit, Failure).await, Disposition::Stale);
}

async fn changes_that_redis_lost_are_noticed_where_others_took_their_place(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("retold", MINUTE).await.epoch;
    let replica = dump(&fleet.raw, "retold").await;
    for _ in 0..10 {
        fleet.breakers.reset("retold").await;
        fleet.breakers.trip("retold", MINUTE).await;
    }
    fleet.told("retold", 21).await;
    fail_over(&fleet.raw, &replica).await;
    // An instance may not know yet; whatever comes of this, nobody takes it for what was lost.
    fleet.breakers.only(1).reset("retold").await;
    for watcher in &fleet.watchers {
        watcher
            .until("the new epoch is told", |told| {
                resyncs_of(told, "retold").iter().any(|resync| resync.epoch != was)
            })
            .await;
        watcher.agrees(&fleet.breakers, &["retold".to_owned()]).await;
    }
}

/// What is left of a breaker where a change was lost, and others made another one since that has the same number.
const REPLACE_NEWEST: &str = "
    local entries = redis.call('XRANGE', KEYS[2], '-', '+')
    redis.call('DEL', KEYS[2])
    for n, entry in ipairs(entries) do
      local fields = entry[2]
      if n == #entries then fields[#fields + 1], fields[#fields + 2] = 'actor', 'another' end
      redis.call('XADD', KEYS[2], entry[1], unpack(fields))
    end
    redis.call('HSET', KEYS[1], 'generation', #entries)";

async fn another_change_under_the_number_of_one_that_was_told_is_noticed(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("replaced", MINUTE).await.epoch;
    fleet.breakers.reset("replaced").await;
    fleet.told("replaced", 2).await;
    let (state, log) = ("circuit_breaker:replaced", "{circuit_breaker:replaced}:log");
    fleet.raw.run(&["EVAL", REPLACE_NEWEST, "2", state, log]).await;
    assert_begun_anew(fleet, "replaced", &was, 1).await;
}

async fn a_flush_is_noticed_though_it_rings_nothing(fleet: &mut Fleet) {
    let was = fleet.breakers.trip("flushed", MINUTE).await;
    fleet.told("flushed", 1).await;
    let began = Instant::now();
    fleet.raw.run(&["FLUSHALL"]).await;
    for watcher in &fleet.watchers {
        let removed = watcher.removed("flushed").await;
        assert_eq!((&removed.epoch, removed.generation, removed.expired), (&was.epoch, 1, false));
    }
    eprintln!("noticed after {:?}", began.elapsed());
    fleet.breakers.trip("flushed", MINUTE).await;
    for watcher in &fleet.watchers {
        watcher.changes("flushed", 2).await;
        watcher.agrees(&fleet.breakers, &["opened", "lost", "mode"].map(str::to_owned)).await;
    }
    assert_eq!(fleet.on.services(), 3);
}
