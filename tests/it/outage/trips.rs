//! What memory opened in an outage is offered to Redis once it is back: once, and only where nobody there knows better.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, Breaker, BreakerSettings, Mode,
    Outcome::{Failure, Overloaded},
    ReportRequest, State, Transition, TransitionReason,
};

use super::SOON;
use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, after, assert_stands, in_a_row, unpermitted},
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    redis_options::RedisOptions,
    threads::{millis, wire},
    watch::{Watcher, all, changes_of},
};

const MINUTE: Duration = Duration::from_mins(1);
/// What the log says of a trip that is over, or where Redis knows better.
const DECLINED: &str = "a trip of local memory is over, or redis knows better";
/// Times are read at one moment and used at another, on a loaded machine.
const SLACK_MS: i64 = 2_000;

struct Outage {
    on: BehindProxy,
    here: Breakers,
    there: Breakers,
    _there: Fusewire,
}

impl Outage {
    async fn prepared() -> Self {
        let options = FusewireOptions::unix_socket().var("RUST_LOG", "fusewire=debug");
        let on = BehindProxy::start_with(RedisOptions::tcp(), options).await;
        let other = on.another_patient().await;
        let there = Breakers::on([other.channel().await]);
        Self { here: on.breakers(), on, there, _there: other }
    }

    /// Opens a breaker in memory, by failures.
    async fn fails(&self, key: &str) -> Breaker {
        let failures = [Failure; 5]
            .map(|outcome| ReportRequest { detail: "no answer".into(), ..unpermitted(key, outcome) });
        let mut answer = None;
        for failure in failures {
            answer = Some(self.here.report(failure).await.unwrap());
        }
        let answer = answer.unwrap();
        assert_eq!(answer.authority(), Authority::Local);
        let open = after(answer);
        assert_eq!(open.state(), State::Open, "{open:?}");
        open
    }

    /// Returns once Redis took over a trip, with the change.
    async fn taken_over(&self, key: &str) -> Transition {
        eventually("the trip is taken over", SOON, async || self.reconciled(key).await.len() == 1).await;
        self.reconciled(key).await.remove(0)
    }

    /// The changes in the history of a breaker that took over trips.
    async fn reconciled(&self, key: &str) -> Vec<Transition> {
        let mut history = self.there.history(key).await;
        history.retain(|change| change.reason() == TransitionReason::Reconciled);
        history
    }
}

#[tokio::test]
async fn a_local_trip_is_taken_over_for_what_is_left_of_it_and_told_to_everyone() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    there.set("m", in_a_row(5)).await;
    here.tell_all("m", &[Failure]).await;
    let watchers = [Watcher::open(here, all()).await, Watcher::open(there, all()).await];
    for watcher in &watchers {
        watcher.synced().await;
    }
    on.lose().await;
    here.tell_all("m", &[Failure; 4]).await;
    let local = after(
        here.report(ReportRequest { detail: "529".into(), ..unpermitted("m", Overloaded) }).await.unwrap(),
    );
    assert_eq!(local.state(), State::Open);
    on.restore().await;
    let change = outage.taken_over("m").await;
    assert_eq!((change.from_state(), change.to_state(), change.generation), (State::Closed, State::Open, 1));
    assert_eq!((change.outcome(), change.detail.as_str()), (Overloaded, "529"));
    let (ends, ended) = (millis(change.open_until), millis(local.open_until));
    assert!((ended..ended + SLACK_MS).contains(&ends), "{ends} instead of {ended}");
    let answer = there.ask("m").await;
    assert_eq!(
        (answer.authority(), answer.admitted, answer.state()),
        (Authority::Shared, false, State::Open)
    );
    assert_eq!(there.get("m").await.attempts, 1);
    for watcher in &watchers {
        watcher.agrees(there, &["m".to_owned()]).await;
    }
    let told = changes_of(&watchers[1].told(), "m");
    assert_eq!(told.iter().map(Transition::reason).collect::<Vec<_>>(), [TransitionReason::Reconciled]);
}

#[tokio::test]
async fn a_trip_is_taken_over_once_in_whatever_outages_follow() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    for round in 0..3 {
        on.lose().await;
        let key = format!("round-{round}");
        outage.fails(&key).await;
        if round > 0 {
            assert!(!here.ask("round-0").await.admitted, "what was taken over holds in the next outage, too");
        }
        on.restore().await;
        outage.taken_over(&key).await;
    }
    for round in 0..3 {
        let key = format!("round-{round}");
        assert_stands(&there.get(&key).await, State::Open, 1);
        assert_eq!(there.history(&key).await.len(), 1);
    }
}

#[tokio::test]
async fn what_was_changed_meanwhile_stays_as_it_is() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    let keys = ["closed-again", "open", "forced", "unseen"];
    for key in &keys[..3] {
        here.tell_all(key, &[Failure]).await;
    }
    there.trip("unseen", MINUTE).await;
    there.reset("unseen").await;
    on.lose().await;
    for key in keys {
        outage.fails(key).await;
    }
    there.trip("closed-again", MINUTE).await;
    there.reset("closed-again").await;
    there.trip("open", MINUTE).await;
    there.put("forced", Mode::ForcedOpen).await;
    let mut before = Vec::new();
    for key in keys {
        before.push(there.history(key).await);
    }
    on.restore().await;
    eventually("each is decided", SOON, async || on.service.logged(DECLINED) == keys.len()).await;
    for (key, before) in keys.into_iter().zip(before) {
        assert_eq!(there.history(key).await, before, "{key}");
    }
    assert!(here.ask("closed-again").await.admitted);
}

#[tokio::test]
async fn a_trial_that_goes_on_as_it_was_seen_takes_over_how_it_went_here() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    there.set("trial", in_a_row(3)).await;
    here.begin_trial("trial").await;
    on.lose().await;
    let permit = here.permit("trial").await;
    assert_eq!(after(here.tell(&permit, Failure).await).state(), State::Open);
    on.restore().await;
    let change = outage.taken_over("trial").await;
    assert_eq!((change.from_state(), change.to_state()), (State::HalfOpen, State::Open));
    assert_eq!(there.get("trial").await.attempts, 2);
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_takes_trips_over_and_nothing_else() {
    let outage = Outage::prepared().await;
    let Outage { on, here, there, .. } = &outage;
    here.trip("only-seen", MINUTE).await;
    for _ in 0..2 {
        here.trip("changed", MINUTE).await;
        here.reset("changed").await;
    }
    let short = BreakerSettings { open_duration: Some(wire(Duration::from_millis(1))), ..in_a_row(5) };
    here.set("over", short).await;
    on.lose().await;
    outage.fails("never-seen").await;
    outage.fails("changed").await;
    let over = outage.fails("over").await;
    assert!(!here.ask("only-seen").await.admitted);
    let raw = on.redis.raw().await;
    raw.run(&["FLUSHALL"]).await;
    eventually("it is over", SOON, async || {
        let time: Vec<i64> = raw.get(&["TIME"]).await;
        time[0] * 1000 > millis(over.open_until) + 1000
    })
    .await;
    on.restore().await;
    for key in ["never-seen", "changed"] {
        let change = outage.taken_over(key).await;
        assert_eq!((change.generation, change.to_state()), (1, State::Open), "{key}");
        assert!(!there.ask(key).await.admitted, "{key}");
    }
    for key in ["only-seen", "over"] {
        assert_eq!(there.get(key).await.epoch, "", "{key}");
    }
}

#[tokio::test]
async fn a_service_that_began_without_redis_offers_its_trips_as_well() {
    let outage = Outage::prepared().await;
    let Outage { on, there, .. } = &outage;
    on.proxy.refuse().await;
    on.proxy.cut().await;
    let url = format!("redis://{}", on.proxy.addr());
    let late = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &url)).await;
    let breakers = Breakers::on([late.channel().await]);
    let answer = breakers.tell_all("m", &[Failure; 5]).await;
    assert_eq!((answer.authority(), after(answer).state()), (Authority::Local, State::Open));
    on.proxy.forward().await;
    outage.taken_over("m").await;
    assert_stands(&there.get("m").await, State::Open, 1);
}
