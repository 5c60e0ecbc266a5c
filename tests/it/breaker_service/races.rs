//! Many callers of three services that share one Redis, and what may happen to that Redis meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fusewire::grpc::proto::{
    AcquireRequest, BreakerSettings, Disposition,
    Outcome::{self, Failure, Success},
    RejectionReason, ReportRequest, ReportResponse, ResetBreakerRequest, State, TransitionReason,
};
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

use crate::support::{
    breakers::{
        Breakers, SOON, after, asking, assert_stands, configuring, in_a_row, telling, trial_of, unpermitted,
    },
    deployment::{Deployment, Store},
    eventually::eventually,
    threads::{mask, millis, wire},
};

/// Three services on one Redis.
async fn three_services() -> (Deployment, Breakers) {
    let mut on = Deployment::start(Store::Pair).await;
    on.grow(&[]).await;
    let breakers = on.breakers();
    (on, breakers)
}

/// So many callers at once, each reporting so often without permit; all answers.
async fn crowd(
    breakers: &Breakers,
    key: &str,
    callers: usize,
    each: usize,
    outcome: Outcome,
) -> Vec<ReportResponse> {
    let start = Arc::new(Barrier::new(callers));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (breakers, start, key) = (breakers.clone(), Arc::clone(&start), key.to_owned());
        tasks.spawn(async move {
            start.wait().await;
            let mut answers = Vec::new();
            for _ in 0..each {
                answers.push(breakers.report(unpermitted(&key, outcome)).await.expect("the report is taken"));
            }
            answers
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

fn applied(answers: &[ReportResponse]) -> i64 {
    let applied = answers.iter().filter(|answer| answer.disposition() == Disposition::Applied);
    i64::try_from(applied.count()).expect("fits")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reports_count_exactly() {
    let (_on, breakers) = three_services().await;
    breakers.set("exact", in_a_row(1_000_000)).await;
    let answers = crowd(&breakers, "exact", 30, 40, Failure).await;
    assert_eq!(applied(&answers), 1200);
    let closed = breakers.get("exact").await;
    assert_eq!((closed.calls, closed.failures, closed.consecutive_failures), (1200, 1200, 1200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_failures_open_exactly_once() {
    let (_on, breakers) = three_services().await;
    for round in 0..10 {
        let key = format!("once-{round}");
        breakers.set(&key, in_a_row(20)).await;
        let answers = crowd(&breakers, &key, 30, 4, Failure).await;
        let open = breakers.get(&key).await;
        assert_stands(&open, State::Open, 1);
        assert_eq!((open.calls, open.failures), (applied(&answers), applied(&answers)));
        assert!(open.calls >= 20 && open.attempts == 1);
        let stale = answers.iter().filter(|answer| answer.disposition() == Disposition::Stale).count();
        assert_eq!(i64::try_from(stale).unwrap() + applied(&answers), 120, "counted, or stale");
        let history = breakers.history(&key).await;
        assert_eq!(history.len(), 1, "{history:?}");
        assert_eq!(history[0].reason(), TransitionReason::ConsecutiveFailures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_of_a_crowd_come_to_the_longest() {
    let (_on, breakers) = three_services().await;
    for round in 0..10 {
        let key = format!("storm-{round}");
        breakers.tell_all(&key, &[Success]).await;
        let permit = breakers.permit(&key).await;
        let start = Arc::new(Barrier::new(20));
        let mut tasks = JoinSet::new();
        for n in 1..=20 {
            let (breakers, start) = (breakers.clone(), Arc::clone(&start));
            // With a permit or without: the longest comes with one, and counts where it opens the breaker or is late.
            let report = if n % 3 == 1 {
                unpermitted(&key, Outcome::RateLimited)
            } else {
                telling(&permit, Outcome::RateLimited)
            };
            let report = ReportRequest { retry_after: Some(wire(Duration::from_secs(10 * n))), ..report };
            tasks.spawn(async move {
                start.wait().await;
                breakers.report(report).await.expect("the report is taken");
            });
        }
        tasks.join_all().await;
        let open = breakers.get(&key).await;
        assert_eq!((open.state(), open.attempts), (State::Open, 1));
        let history = breakers.history(&key).await;
        assert_eq!(history.len(), usize::try_from(open.generation).unwrap());
        let ends: Vec<_> = history.iter().map(|one| millis(one.open_until)).collect();
        assert!(ends.is_sorted(), "it never became shorter: {ends:?}");
        let left = millis(open.open_until) - millis(open.since);
        assert!((199_000..230_000).contains(&left), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_the_deadline_gets_exactly_the_permits_there_are() {
    let (_on, breakers) = three_services().await;
    for permits in [1, 3, 7] {
        let key = format!("rush-{permits}");
        breakers.set(&key, trial_of(permits)).await;
        breakers.trip(&key, Duration::from_millis(300)).await;
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let (breakers, key) = (breakers.clone(), key.clone());
            tasks.spawn(async move {
                loop {
                    let answer = breakers.ask(&key).await;
                    if answer.reason() != RejectionReason::Open {
                        return answer.permit.map(|permit| permit.lease_id);
                    }
                }
            });
        }
        let leases = timeout(SOON, tasks.join_all()).await.expect("the trial begins");
        let mut leases: Vec<_> = leases.into_iter().flatten().collect();
        leases.sort();
        leases.dedup();
        assert_eq!(leases.len(), usize::try_from(permits).unwrap());
        let trial = breakers.get(&key).await;
        assert_stands(&trial, State::HalfOpen, 2);
        assert_eq!((trial.permits_left, breakers.history(&key).await.len()), (0, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_death_holds_a_slot_no_longer_than_its_lease() {
    let (_on, breakers) = three_services().await;
    breakers.set("dead", trial_of(2)).await;
    breakers.trip("dead", Duration::from_millis(1)).await;
    let dying = AcquireRequest { lease: Some(wire(Duration::from_secs(1))), ..asking("dead") };
    let mut dead = Vec::new();
    eventually("both slots are taken", SOON, async || {
        dead.extend(breakers.acquire(dying.clone()).await.unwrap().permit);
        dead.len() == 2
    })
    .await;
    let ends = dead.iter().map(|permit| millis(permit.expire_time)).max().unwrap();
    let mut living = Vec::new();
    eventually("both slots are free again", SOON, async || {
        living.extend(breakers.ask("dead").await.permit);
        living.len() == 2
    })
    .await;
    let given = millis(living[1].expire_time) - 120_000;
    assert!((ends - 1000..ends + 2000).contains(&given), "{given} {ends}");
    for permit in &living {
        breakers.tell(permit, Success).await;
    }
    assert_eq!(breakers.get("dead").await.state(), State::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_seen_by_one_instance_alone_may_be_too_few() {
    let (_on, breakers) = three_services().await;
    breakers.set("seen", BreakerSettings { min_reporters: 2, ..in_a_row(3) }).await;
    let [one, other] = [breakers.only(0), breakers.only(1)];
    let closed = after(one.tell_all("seen", &[Failure; 10]).await);
    assert_stands(&closed, State::Closed, 0);
    assert_stands(&after(other.tell_all("seen", &[Failure]).await), State::Open, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_orders_take_effect_one_by_one_and_a_repeated_one_once() {
    let (_on, breakers) = three_services().await;
    let mut tasks = JoinSet::new();
    for n in 0..24 {
        let breakers = breakers.clone();
        tasks.spawn(async move {
            let request_id = if n % 2 == 0 { "the-same".to_owned() } else { String::new() };
            let reset = ResetBreakerRequest {
                model_key: "orders".into(),
                request_id,
                ..ResetBreakerRequest::default()
            };
            breakers.reset_breaker(reset).await.expect("the order is carried out");
        });
    }
    tasks.join_all().await;
    let generations: Vec<_> = breakers.history("orders").await.iter().map(|one| one.generation).collect();
    assert_eq!(generations, (1..=13).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_settings_all_take_effect() {
    let (_on, breakers) = three_services().await;
    let new = BreakerSettings {
        minimum_calls: 7,
        jitter_percent: 7.0,
        half_open_permits: Some(7),
        min_reporters: 7,
        backoff_multiplier: 7.0,
        ..in_a_row(7)
    };
    let paths = [
        "consecutive_failures",
        "minimum_calls",
        "jitter_percent",
        "half_open_permits",
        "min_reporters",
        "backoff_multiplier",
    ];
    let mut tasks = JoinSet::new();
    for path in paths {
        let (breakers, mut request) = (breakers.clone(), configuring("settings", new));
        request.update_mask = Some(mask(&[path]));
        tasks
            .spawn(async move { breakers.configure_breaker(request).await.expect("the settings are taken") });
    }
    tasks.join_all().await;
    let told = breakers.get("settings").await.settings.unwrap();
    assert_eq!((told.consecutive_failures, told.minimum_calls, told.min_reporters), (7, 7, 7));
    assert_eq!((told.half_open_permits, told.jitter_percent, told.backoff_multiplier), (Some(7), 7.0, 7.0));
    assert_eq!((told.failure_rate_percent, told.permit_lease), (50.0, Some(wire(Duration::from_mins(2)))));
}

/// Callers of three keys at work until they are told to stop: one always succeeds, one always fails, and one acquires.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: JoinSet<Vec<ReportResponse>>,
}

const STEADY: &str = "load-steady";
const FAILING: &str = "load-failing";
const TRIED: &str = "load-tried";

impl Load {
    fn start(breakers: &Breakers) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for n in 0..9 {
            let (breakers, stop, done) = (breakers.clone(), Arc::clone(&stop), Arc::clone(&done));
            callers.spawn(async move {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = match n % 3 {
                        0 => breakers.report(unpermitted(STEADY, Success)).await.map(Some),
                        1 => breakers.report(unpermitted(FAILING, Failure)).await.map(Some),
                        _ => {
                            let answer = breakers.acquire(asking(TRIED)).await.expect("acquire is answered");
                            match answer.permit {
                                Some(permit) => breakers.report(telling(&permit, Failure)).await.map(Some),
                                None => Ok(None),
                            }
                        }
                    };
                    answers.extend(answer.expect("every call is answered"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        Self { stop, done, callers }
    }

    async fn goes_on(&self) {
        let goal = self.done.load(Ordering::Relaxed) + 60;
        eventually("callers go on", SOON, async || self.done.load(Ordering::Relaxed) >= goal).await;
    }

    async fn stop(self) -> Vec<ReportResponse> {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.into_iter().flatten().collect()
    }
}

/// Policies for the load, which a flush does not take away: no window that ages, trials that come at once.
const POLICIES: (&str, &str) = (
    "FUSEWIRE__BREAKERS__POLICIES",
    "load-steady consecutive,load-failing consecutive,load-tried consecutive open_duration=1ms",
);

async fn under_load() -> (Deployment, Breakers, Load) {
    let mut on = Deployment::start_with(Store::Pair, &[POLICIES]).await;
    on.grow(&[POLICIES]).await;
    let breakers = on.breakers();
    let load = Load::start(&breakers);
    load.goes_on().await;
    (on, breakers, load)
}

/// Reports that counted, by breaker and epoch.
fn applied_by_epoch(answers: &[ReportResponse]) -> BTreeMap<(String, String), i64> {
    let mut counted = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.disposition() == Disposition::Applied) {
        let breaker = answer.breaker.as_ref().expect("a breaker");
        *counted.entry((breaker.model_key.clone(), breaker.epoch.clone())).or_default() += 1;
    }
    counted
}

/// Checks that each breaker is one consistent story.
async fn assert_consistent(breakers: &Breakers, answers: &[ReportResponse]) {
    let counted = applied_by_epoch(answers);
    let steady = breakers.get(STEADY).await;
    assert_stands(&steady, State::Closed, 0);
    assert_eq!(counted.get(&(STEADY.into(), steady.epoch.clone())), Some(&steady.calls), "{counted:?}");
    let failing = breakers.get(FAILING).await;
    assert_stands(&failing, State::Open, 1);
    assert_eq!(counted.get(&(FAILING.into(), failing.epoch.clone())), Some(&failing.calls), "{counted:?}");
    for key in [FAILING, TRIED] {
        let (breaker, history) = (breakers.get(key).await, breakers.history(key).await);
        let newest = history.last().expect("it changed");
        assert_eq!((newest.generation, newest.to_state()), (breaker.generation, breaker.state()), "{key}");
        for (before, after) in history.iter().zip(&history[1..]) {
            assert_eq!(after.generation, before.generation + 1, "{key}");
            assert_eq!((after.from_state(), &after.epoch), (before.to_state(), &breaker.epoch), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_of_scripts_under_load_is_not_noticed() {
    let (on, breakers, load) = under_load().await;
    let raw = on.raw().await;
    for _ in 0..10 {
        raw.run(&["SCRIPT", "FLUSH"]).await;
        load.goes_on().await;
    }
    let answers = load.stop().await;
    assert_consistent(&breakers, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_of_everything_under_load_begins_breakers_anew_and_fails_no_call() {
    let (on, breakers, load) = under_load().await;
    let raw = on.raw().await;
    let mut epochs = vec![breakers.get(STEADY).await.epoch];
    for _ in 0..5 {
        raw.run(&["FLUSHALL"]).await;
        load.goes_on().await;
        eventually("all three are in use again", SOON, async || {
            breakers.get(FAILING).await.state() == State::Open
                && breakers.get(TRIED).await.generation > 0
                && breakers.get(STEADY).await.calls > 0
        })
        .await;
        let epoch = breakers.get(STEADY).await.epoch;
        assert!(!epochs.contains(&epoch), "{epoch} is not new");
        epochs.push(epoch);
    }
    let answers = load.stop().await;
    assert_consistent(&breakers, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_under_load_are_retried_inside_and_count_nothing_twice() {
    let (on, breakers, load) = under_load().await;
    let raw = on.raw().await;
    for _ in 0..10 {
        raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        load.goes_on().await;
    }
    let answers = load.stop().await;
    assert_consistent(&breakers, &answers).await;
}
