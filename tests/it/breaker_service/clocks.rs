//! Machines whose clocks are wrong: only that of Redis counts.

use std::time::Duration;

use fusewire::{
    clock::{Clock, SystemClock, Timestamp},
    grpc::proto::{
        BreakerSettings, Disposition,
        Outcome::{Failure, Success},
        RenewPermitRequest, State,
    },
};
use tempfile::TempDir;

use crate::support::{
    breakers::{after, assert_did, assert_stands, in_a_row, length},
    deployment::{Deployment, Store},
    manual_clock::ManualRedisClock,
    threads::wire,
};

const HOUR: Duration = Duration::from_hours(1);
const OPEN: Duration = Duration::from_millis(400);

/// A clock that stands at so many milliseconds from now, for ever.
fn clock_at(dir: &TempDir, from_now: i64) -> ManualRedisClock {
    let clock = ManualRedisClock::new(dir.path());
    clock.set(Timestamp::from_millis(SystemClock.now().as_millis() + from_now));
    clock
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_whose_clocks_are_an_hour_ahead_and_behind_change_nothing() {
    let hour = i64::try_from(HOUR.as_millis()).expect("fits");
    let dirs = [TempDir::new().expect("a folder"), TempDir::new().expect("a folder")];
    let wrong = [clock_at(&dirs[0], hour), clock_at(&dirs[1], -hour)];
    let mut on = Deployment::start(Store::Redis).await;
    for clock in &wrong {
        let variables = clock.variables();
        let variables: Vec<_> =
            variables.iter().map(|(name, path)| (*name, path.to_str().expect("UTF-8"))).collect();
        on.grow(&variables).await;
    }
    let all = on.breakers();
    let [right, ahead, behind] = [0, 1, 2].map(|index| all.only(index));
    let settings = BreakerSettings { open_duration: Some(wire(OPEN)), ..in_a_row(3) };
    ahead.set("wrong", settings).await;

    for (service, state) in [(&ahead, State::Closed), (&behind, State::Closed), (&right, State::Open)] {
        assert_eq!(after(service.tell_all("wrong", &[Failure]).await).state(), state);
    }
    for service in [&ahead, &behind, &right] {
        let answer = service.ask("wrong").await;
        assert!(answer.admitted || length(answer.retry_after) <= 400, "{answer:?}");
    }
    let permit = behind.ask_until("wrong", "a trial begins", |answer| answer.admitted).await.permit;
    let permit = permit.expect("a permit");
    for service in [&ahead, &right] {
        assert!(!service.ask("wrong").await.admitted, "the one trial call is under way");
        let request = RenewPermitRequest { permit: Some(permit.clone()), lease: Some(wire(OPEN * 50)) };
        assert!(service.renew_permit(request).await.expect("an answer").renewed);
    }
    let told = ahead.tell(&permit, Success).await;
    assert_did(&told, Disposition::Applied);
    assert_stands(&after(told), State::Closed, 3);

    // What is told of times is told by the clock of Redis, whoever made the change.
    for transition in right.history("wrong").await {
        let seconds = transition.transition_time.expect("a time").seconds;
        let off = (SystemClock.now().as_millis() / 1000 - seconds).abs();
        assert!(off < 600, "{off} s off");
    }
}
