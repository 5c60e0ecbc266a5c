//! Several instances that wrote during one outage.

use fusewire::grpc::proto::{AppendMessagesRequest, Authority, ListMessagesRequest, Message};

use crate::{
    storm::world::World,
    support::{
        thread_watch::watching,
        threads::{Threads, appending, ids, listing, user},
    },
};

/// Cuts the way of both instances to Redis, and returns when both serve from memory.
async fn lose(world: &World) {
    for side in &world.sides {
        side.proxy.refuse().await;
        side.proxy.cut().await;
        crate::support::health::redis_is(
            &side.channel,
            tonic_health::pb::health_check_response::ServingStatus::NotServing,
        )
        .await;
    }
}

async fn restore(world: &World) {
    for side in &world.sides {
        side.proxy.forward().await;
    }
    world.settled("both runs are merged").await;
}

/// Appends batches of five through both in turn; the ids of each side.
async fn append_to_both(id: &str, sides: &[Threads; 2]) -> [Vec<String>; 2] {
    let mut sent = [Vec::new(), Vec::new()];
    for batch in 0..60 {
        for (side, threads) in sides.iter().enumerate() {
            let name = |n| format!("{}{}", ["a", "b"][side], batch * 5 + n);
            let messages: Vec<Message> = (0..5).map(|n| user(&name(n), &name(n))).collect();
            sent[side].extend((0..5).map(name));
            let request = AppendMessagesRequest { create_if_missing: true, ..appending(id, messages) };
            let made = threads.try_append(request).await.unwrap();
            assert_eq!(made.authority(), Authority::Local);
        }
    }
    sent
}

/// Checks that both runs are there, each in one piece and in its order, behind what was there before.
fn assert_runs(messages: &[Message], before: &[&str], runs: &[Vec<String>; 2]) {
    let found = ids(messages);
    let orders = [[&runs[0], &runs[1]], [&runs[1], &runs[0]]];
    let possible = orders.map(|[one, other]| -> Vec<&str> {
        let runs = one.iter().chain(other).map(String::as_str);
        before.iter().copied().chain(runs).collect()
    });
    assert!(possible.contains(&found), "{found:?}");
}

#[tokio::test]
async fn the_runs_of_two_instances_are_both_kept() {
    let world = World::start().await;
    let sides = world.sides.each_ref().map(|side| Threads::on(side.channel.clone()));
    sides[0].create("t").await;
    sides[0].append("t", vec![user("m1", "1"), user("m2", "2")]).await;
    sides[1].messages("t").await;
    lose(&world).await;
    let runs = append_to_both("t", &sides).await;
    restore(&world).await;
    let messages = sides[0].recount("t").await;
    assert_runs(&messages, &["m1", "m2"], &runs);
    assert_eq!(sides[1].messages("t").await, messages);
}

#[tokio::test]
async fn a_thread_that_two_instances_made_becomes_one() {
    let world = World::start().await;
    let sides = world.sides.each_ref().map(|side| Threads::on(side.channel.clone()));
    lose(&world).await;
    let runs = append_to_both("made", &sides).await;
    restore(&world).await;
    let messages = sides[0].recount("made").await;
    assert_runs(&messages, &[], &runs);
    assert_eq!(sides[1].messages("made").await, messages);
}

#[tokio::test]
async fn one_instance_in_an_outage_does_not_hinder_the_other() {
    let world = World::start().await;
    let [one, other] = world.sides.each_ref().map(|side| Threads::on(side.channel.clone()));
    one.create("t").await;
    world.sides[0].proxy.refuse().await;
    world.sides[0].proxy.cut().await;
    for n in 0..50 {
        let local = one.append("t", vec![user(&format!("a{n}"), "x")]).await;
        let shared = other.append("t", vec![user(&format!("b{n}"), "x")]).await;
        assert_eq!((local.authority(), shared.authority()), (Authority::Local, Authority::Shared));
    }
    restore(&world).await;
    let messages = one.recount("t").await;
    let names = |letter: &'static str| (0..50).map(move |n| format!("{letter}{n}"));
    let expected: Vec<String> = names("b").chain(names("a")).collect();
    assert_eq!(ids(&messages), expected);
    assert_eq!(other.messages("t").await, messages);
}

#[tokio::test]
async fn a_place_that_a_copy_does_not_reach_is_not_said_to_be_beyond_the_thread() {
    let world = World::start().await;
    let [one, other] = world.sides.each_ref().map(|side| Threads::on(side.channel.clone()));
    one.create("t").await;
    one.append("t", vec![user("m1", "x")]).await;
    other.append("t", vec![user("m2", "x"), user("m3", "x")]).await;
    lose(&world).await;
    let after = |after_seq| ListMessagesRequest { after_seq, ..listing("t") };
    let before = |before_seq| ListMessagesRequest { before_seq, ..listing("t") };
    for (what, request) in [("after", after(3)), ("after", after(2)), ("before", before(4))] {
        super::super::assert_unavailable(what, one.page(request).await);
    }
    super::super::assert_unavailable("watch", one.try_watch(watching("t", 3)).await.map(drop));
}
