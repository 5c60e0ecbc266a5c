//! Admission by what is known: it costs Redis nothing, and knows what this instance itself did.

use std::time::Duration;

use fusewire::grpc::proto::{
    AcquireFirstRequest, AcquireRequest, AcquireResponse, Admission, Authority, Disposition, Mode,
    Outcome::Success, RejectionReason, State,
};
use tokio::task::JoinSet;

use super::{cached, scripts_run};
use crate::support::{
    breakers::{Breakers, SOON, assert_did, in_a_row, trial_of},
    deployment::{Deployment, Store, run_cases},
    eventually::eventually,
    raw::Raw,
    threads::millis,
};

const MINUTE: Duration = Duration::from_mins(1);
const MANY: usize = 25;

struct Cached {
    on: Deployment,
    /// One service alone.
    here: Breakers,
    /// Another one.
    there: Breakers,
    raw: Raw,
}

async fn pair() -> Cached {
    let on = Deployment::start(Store::Pair).await;
    let breakers = on.breakers();
    Cached { here: breakers.only(0), there: breakers.only(1), raw: on.raw().await, on }
}

async fn ask(breakers: &Breakers, key: &str) -> AcquireResponse {
    breakers.acquire(cached(key)).await.expect("the question is answered")
}

/// Returns once many questions in a row cost Redis nothing, with the answer to the last one. A look at what may have been
/// missed comes in between now and then.
async fn asks_for_nothing(on: &Cached, key: &str) -> AcquireResponse {
    let mut answer = None;
    eventually(&format!("questions about {key} cost nothing"), SOON, async || {
        let before = scripts_run(&on.raw).await;
        for _ in 0..MANY {
            answer = Some(ask(&on.here, key).await);
        }
        scripts_run(&on.raw).await == before
    })
    .await;
    answer.expect("it was asked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_is_not_asked_for() {
    let on = pair().await;
    run_cases!(
        &on,
        [
            a_closed_breaker_costs_nothing,
            an_open_breaker_costs_nothing_until_it_is_due,
            the_first_of_several_costs_nothing,
            an_override_is_respected,
            a_trial_is_asked_for_every_time,
            what_this_instance_did_is_known_at_once,
            what_this_instance_did_is_known_at_once_though_it_rings_all_the_time,
            what_another_did_is_known_soon,
            it_costs_nothing_again_after_the_subscriber_was_killed
        ]
    );
    assert_eq!(on.on.services(), 2);
}

async fn a_closed_breaker_costs_nothing(on: &Cached) {
    let answer = asks_for_nothing(on, "closed").await;
    assert_eq!((answer.admitted, answer.authority()), (true, Authority::Shared));
    let permit = answer.permit.unwrap();
    assert_eq!((permit.epoch.as_str(), permit.generation, permit.lease_id.as_str()), ("", 0, ""));
    assert_did(&on.here.tell(&permit, Success).await, Disposition::Applied);
    let permit = asks_for_nothing(on, "closed").await.permit.unwrap();
    assert_eq!(permit.epoch, on.there.get("closed").await.epoch);
    assert_did(&on.there.tell(&permit, Success).await, Disposition::Applied);
}

async fn an_open_breaker_costs_nothing_until_it_is_due(on: &Cached) {
    on.here.trip("open", Duration::from_secs(3)).await;
    let answer = asks_for_nothing(on, "open").await;
    let told = (answer.admitted, answer.reason(), answer.state(), answer.authority());
    assert_eq!(told, (false, RejectionReason::Open, State::Open, Authority::Shared));
    let left = answer.retry_after.expect("it is known when");
    assert!(left.seconds < 3, "{left:?}");
    let what = "it is on trial as soon as it is due";
    eventually(what, SOON, async || ask(&on.here, "open").await.admitted).await;
    let changes = on.here.history("open").await;
    let [open, trial] = changes.as_slice() else { panic!("{changes:#?}") };
    assert!(millis(trial.transition_time) >= millis(open.open_until), "not before: {changes:#?}");
}

async fn the_first_of_several_costs_nothing(on: &Cached) {
    on.here.trip("first-open", MINUTE).await;
    let request = AcquireFirstRequest {
        model_keys: ["first-open", "first-closed"].map(str::to_owned).to_vec(),
        admission: Admission::Cached.into(),
        request_id: "the-same".to_owned(),
        ..Default::default()
    };
    eventually("questions cost nothing", SOON, async || {
        let before = scripts_run(&on.raw).await;
        for _ in 0..MANY {
            let answer = on.here.acquire_first(request.clone()).await.unwrap();
            assert_eq!((answer.admitted, answer.index), (true, Some(1)));
        }
        scripts_run(&on.raw).await == before
    })
    .await;
}

async fn an_override_is_respected(on: &Cached) {
    asks_for_nothing(on, "override").await;
    on.here.put("override", Mode::ForcedOpen).await;
    assert_eq!(ask(&on.here, "override").await.reason(), RejectionReason::ForcedOpen);
    assert_eq!(asks_for_nothing(on, "override").await.reason(), RejectionReason::ForcedOpen);
    on.here.put("override", Mode::Automatic).await;
    on.here.trip("override", MINUTE).await;
    assert_eq!(ask(&on.here, "override").await.reason(), RejectionReason::Open);
    on.here.put("override", Mode::Disabled).await;
    assert!(ask(&on.here, "override").await.admitted);
    assert!(asks_for_nothing(on, "override").await.admitted);
}

async fn a_trial_is_asked_for_every_time(on: &Cached) {
    on.here.set("trial", trial_of(3)).await;
    on.here.begin_trial("trial").await;
    for admitted in [true, true, false, false] {
        let before = scripts_run(&on.raw).await;
        let answer = ask(&on.here, "trial").await;
        assert_eq!((answer.admitted, answer.state()), (admitted, State::HalfOpen));
        assert!(scripts_run(&on.raw).await > before);
    }
}

async fn opened_and_closed(on: &Cached, key: &str) {
    for n in 0..120 {
        on.here.trip(key, MINUTE).await;
        assert!(!ask(&on.here, key).await.admitted, "after the opening {n}");
        on.here.reset(key).await;
        assert!(ask(&on.here, key).await.admitted, "after the closing {n}");
    }
}

async fn what_this_instance_did_is_known_at_once(on: &Cached) {
    asks_for_nothing(on, "own").await;
    opened_and_closed(on, "own").await;
    on.here.trip("own", MINUTE).await;
    on.here.delete("own").await;
    assert!(ask(&on.here, "own").await.admitted);
}

async fn what_this_instance_did_is_known_at_once_though_it_rings_all_the_time(on: &Cached) {
    on.here.trip("rung", MINUTE).await;
    asks_for_nothing(on, "rung").await;
    let mut ringing = JoinSet::new();
    for _ in 0..4 {
        // Rings, and changes nothing: the breaker is read back again and again meanwhile.
        let raw = on.raw().await;
        ringing.spawn(async move {
            loop {
                raw.run(&["HSET", "circuit_breaker:rung", "note", "x"]).await;
            }
        });
    }
    opened_and_closed(on, "rung").await;
}

async fn what_another_did_is_known_soon(on: &Cached) {
    on.there.set("others", in_a_row(5)).await;
    for _ in 0..10 {
        assert!(asks_for_nothing(on, "others").await.admitted);
        on.there.trip("others", MINUTE).await;
        eventually("it is known here", SOON, async || !ask(&on.here, "others").await.admitted).await;
        assert!(!asks_for_nothing(on, "others").await.admitted);
        on.there.reset("others").await;
        eventually("it is known here", SOON, async || ask(&on.here, "others").await.admitted).await;
    }
}

async fn it_costs_nothing_again_after_the_subscriber_was_killed(on: &Cached) {
    let names: Vec<_> = (0..64).map(|n| format!("again-{n}")).collect();
    for killed in 0..6 {
        eventually(&format!("nothing costs anything after {killed} losses"), SOON, async || {
            let before = scripts_run(&on.raw).await;
            for name in &names {
                assert!(ask(&on.here, name).await.admitted);
            }
            scripts_run(&on.raw).await == before
        })
        .await;
        on.raw.run(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}

impl Cached {
    async fn raw(&self) -> Raw {
        self.on.raw().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_alone_knows_everything_at_once() {
    let on = Deployment::start(Store::Memory).await;
    let breakers = on.breakers();
    breakers.trip("m", MINUTE).await;
    let request = AcquireRequest { admission: Admission::Unspecified.into(), ..cached("m") };
    let answer = breakers.acquire(request).await.unwrap();
    assert_eq!((answer.admitted, answer.authority()), (false, Authority::Local));
}
