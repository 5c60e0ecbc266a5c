//! A Redis whose clock jumps: a script that finds itself late because of it is sent once more and goes through.

use std::time::Duration;

use fusewire::{
    breakers::{
        Breakers, ModelKey, Outcome, Policies, State,
        operations::{Acquire, Acquired, Admission, Order, Ordered, Report},
    },
    call::Call,
    clock::Timestamp,
};

use super::world::{InRedis, World, engine};

#[tokio::test]
async fn redis_tells_the_time_that_the_test_set() {
    let world = InRedis::start().await;
    let (raw, clock) = (world.server().raw().await, world.server().clock());
    let told = async |command: &[&str]| {
        let (seconds, micros): (i64, i64) = raw.get(command).await;
        Timestamp::from_millis(seconds * 1000 + micros / 1000)
    };
    for by in [Duration::ZERO, Duration::from_millis(1), Duration::from_hours(24)] {
        clock.advance(by);
        assert_eq!(told(&["TIME"]).await, clock.now());
        assert_eq!(told(&["EVAL", "return redis.call('TIME')", "0"]).await, clock.now());
    }
    let earlier = Timestamp::from_millis(clock.now().as_millis() - 3_600_000);
    clock.set(earlier);
    assert_eq!(told(&["TIME"]).await, earlier);
}

#[tokio::test]
async fn redis_expires_keys_by_the_time_that_the_test_set() {
    let world = InRedis::start().await;
    let (raw, clock) = (world.server().raw().await, world.server().clock());
    raw.run(&["SET", "k", "v", "PX", "86400000"]).await;
    clock.advance(Duration::from_hours(24));
    assert_eq!(raw.get::<i64>(&["EXISTS", "k"]).await, 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(raw.get::<i64>(&["EXISTS", "k"]).await, 0);
}

#[tokio::test]
async fn every_operation_goes_through_when_the_clock_of_redis_jumps() {
    let world = InRedis::start().await;
    let policies = Policies::parse(&["* open_swe".to_owned()]).unwrap();
    let engine = engine(&world, &policies, "me");
    let (key, call) = (ModelKey::parse("model_key", "m").unwrap(), Call::default());
    let acquire = Acquire { key: key.clone(), admission: Admission::Shared, lease: None, request_id: None };
    let start = world.server().clock().now();
    // On and back, each further than any command may be late.
    for hours in [1, 5, 2, 20, 3] {
        let jump = |quarter: u64| world.set(start.plus(Duration::from_mins(60 * hours + 15 * quarter)));
        jump(0);
        let acquired = engine.acquire(&call, &acquire).await.unwrap().value;
        let Acquired::Admitted { permit, .. } = acquired else { panic!("{acquired:?}") };
        jump(1);
        let (outcome, detail) = (Outcome::Success, String::new());
        let permit = Some(permit);
        let report = Report { key: key.clone(), permit, outcome, duration: None, retry_after: None, detail };
        engine.report(&call, report).await.unwrap();
        jump(2);
        let order = |what| Order { what, actor: String::new(), reason: String::new(), request_id: None };
        let tripped = engine.operate(&call, &key, &order(Ordered::Trip(None))).await.unwrap().value;
        assert_eq!((tripped.state, tripped.retry_after), (State::Open, Some(Duration::from_mins(3))));
        jump(3);
        let reset = engine.operate(&call, &key, &order(Ordered::Reset)).await.unwrap().value;
        assert_eq!(reset.state, State::Closed);
    }
}
