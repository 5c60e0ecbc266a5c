//! The bound on staleness: a breaker that one instance has opened is not admitted by another one in the name of all later
//! than 2 s after that was acknowledged, whatever happens to notifications.
//!
//! Both times are read where they make the check weaker, never stronger: the opening counts from when its acknowledgement
//! was read, a question from before it was sent. So a slow machine cannot fail a service that keeps the bound.

use std::time::Duration;

use fusewire::{
    doorbell::TRUSTED_FOR,
    grpc::proto::{AcquireResponse, Authority},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};

use super::{cached, scripts_run};
use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, SOON},
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    raw::Raw,
    redis_options::RedisOptions,
};

const MINUTE: Duration = Duration::from_mins(1);
const ROUNDS: u64 = 4;
const SEED: u64 = 0x5eed_0b5e_55ed;

/// Two instances; the other one reaches Redis through a proxy.
struct Pair {
    here: Breakers,
    _here: Fusewire,
    there: Breakers,
    on: BehindProxy,
    raw: Raw,
}

/// What was answered before the first rejection in the name of all, and after how long that came.
#[derive(Debug)]
struct Course {
    stale: usize,
    latest: Duration,
    local: usize,
    rejected: Duration,
}

impl Pair {
    async fn start() -> Self {
        let options = FusewireOptions::unix_socket().var("FUSEWIRE__REDIS__OUTAGE_AFTER", "1s");
        let on = BehindProxy::start_with(RedisOptions::tcp(), options).await;
        let other = on.another_patient().await;
        let here = Breakers::on([other.channel().await]);
        Self { here, _here: other, there: on.breakers(), raw: on.redis.raw().await, on }
    }

    async fn ask(&self, key: &str) -> AcquireResponse {
        self.there.acquire(cached(key)).await.expect("the question is answered")
    }

    /// Returns once the other instance admits without asking.
    async fn knows(&self, key: &str) {
        eventually("what is known admits", SOON, async || {
            let before = scripts_run(&self.raw).await;
            let answer = self.ask(key).await;
            let is_shared = answer.admitted && answer.authority() == Authority::Shared;
            is_shared && scripts_run(&self.raw).await == before
        })
        .await;
    }

    /// Opens the breaker here, and asks there until it is rejected; never in vain.
    async fn open(&self, key: &str) -> Course {
        self.here.trip(key, 10 * MINUTE).await;
        let opened = Instant::now();
        let mut course = Course { stale: 0, latest: Duration::ZERO, local: 0, rejected: Duration::ZERO };
        loop {
            let sent = opened.elapsed();
            let answer = self.ask(key).await;
            match (answer.authority(), answer.admitted) {
                (Authority::Shared, true) => {
                    assert!(sent <= TRUSTED_FOR, "asked {sent:?} after {key} was opened: {answer:?}");
                    course.stale += 1;
                    course.latest = sent;
                }
                (Authority::Shared, false) => {
                    course.rejected = opened.elapsed();
                    break;
                }
                _ => course.local += 1,
            }
            assert!(sent < SOON, "{key} is never rejected: {course:?}");
        }
        for _ in 0..100 {
            let answer = self.ask(key).await;
            assert!(
                answer.authority() == Authority::Local || !answer.admitted,
                "it was known before: {answer:?}"
            );
        }
        course
    }

    /// Goes through the rounds: `fault` is in force from a moment before the opening, at most so many ms, chosen by chance.
    async fn rounds(&self, most: u64, fault: impl AsyncFn(&mut StdRng), mend: impl AsyncFn(&mut StdRng)) {
        let mut rng = StdRng::seed_from_u64(SEED);
        for round in 0..ROUNDS {
            let key = format!("round-{round}");
            self.knows(&key).await;
            fault(&mut rng).await;
            let before = Duration::from_millis(rng.random_range(0..most));
            let began = Instant::now();
            while began.elapsed() < before {
                self.ask(&key).await;
            }
            let (course, ()) = tokio::join!(self.open(&key), mend(&mut rng));
            eprintln!("{key}: {course:?}, {before:?} after the fault");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_is_well_it_is_known_soon() {
    let on = Pair::start().await;
    on.rounds(1500, async |_| (), async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_subscriber_is_killed_again_and_again() {
    let on = Pair::start().await;
    let (killer, mut killing) = (on.on.redis.raw().await, JoinSet::new());
    killing.spawn(async move {
        loop {
            killer.run(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut rng = StdRng::seed_from_u64(SEED);
    for round in 0..ROUNDS {
        let key = format!("round-{round}");
        eventually("it admits", SOON, async || on.ask(&key).await.admitted).await;
        let before = Duration::from_millis(rng.random_range(0..1500));
        let began = Instant::now();
        while began.elapsed() < before {
            on.ask(&key).await;
        }
        eprintln!("{key}: {:?}", on.open(&key).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_subscriber_was_killed_just_before() {
    let on = Pair::start().await;
    let fault = async |_: &mut StdRng| {
        on.raw.run(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    };
    on.rounds(80, fault, async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_notifications_were_switched_off() {
    let on = Pair::start().await;
    let set = async |flags: &str| {
        on.raw.run(&["CONFIG", "SET", "notify-keyspace-events", flags]).await;
    };
    let (mut rng, key) = (StdRng::seed_from_u64(SEED), |round| format!("round-{round}"));
    for round in 0..ROUNDS {
        set("Kghxe").await;
        on.knows(&key(round)).await;
        set("").await;
        let before = Duration::from_millis(rng.random_range(0..400));
        let began = Instant::now();
        while began.elapsed() < before {
            on.ask(&key(round)).await;
        }
        eprintln!("{}: {:?}, {before:?} after the fault", key(round), on.open(&key(round)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_redis_is_frozen() {
    let on = Pair::start().await;
    let mend = async |rng: &mut StdRng| {
        let thaws = Duration::from_millis(rng.random_range(100..3500));
        tokio::time::sleep(thaws).await;
        on.on.proxy.forward().await;
        eprintln!("thawed after {thaws:?}");
    };
    on.rounds(1500, async |_| on.on.proxy.freeze().await, mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_redis_cannot_be_reached() {
    let on = Pair::start().await;
    let fault = async |_: &mut StdRng| {
        on.on.proxy.refuse().await;
        on.on.proxy.cut().await;
    };
    let mend = async |rng: &mut StdRng| {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..3000))).await;
        on.on.proxy.forward().await;
    };
    on.rounds(1500, fault, mend).await;
}
