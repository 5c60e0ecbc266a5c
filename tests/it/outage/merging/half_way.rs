//! Faults while a replay is under way, and writes meanwhile.

use std::time::Duration;

use fusewire::grpc::proto::{Authority, ServingMode};

use super::{SOON, append_locally, assert_numbered, fill_locally, merge_all, quick, start_with};
use crate::support::{
    behind_proxy::BehindProxy,
    eventually::eventually,
    health::redis_is,
    raw::Raw,
    status::status,
    threads::{Threads, numbered},
};
use tonic_health::pb::health_check_response::ServingStatus;

/// Messages of the long run: several steps, of 1,000 each.
const LONG: i64 = 5000;
/// What a step takes at least.
const STEP: Duration = Duration::from_millis(200);

/// An outage in which a long run was accepted for `big` and short ones for others; Redis is back, slowly, and has part
/// of the long run.
async fn half_way() -> BehindProxy {
    // A slow Redis must not pass for an outage here.
    let on = start_with(quick().var("FUSEWIRE__REDIS__OUTAGE_AFTER", "2s")).await;
    let threads = on.threads();
    for id in ["big", "early", "late", "idle"] {
        threads.create(id).await;
    }
    on.lose().await;
    append_locally(&threads, "early", numbered(1, 3)).await;
    fill_locally(&threads, "big", 1, LONG).await;
    append_locally(&threads, "late", numbered(1, 3)).await;
    on.proxy.delay(STEP).await;
    let raw = on.redis.raw().await;
    eventually("part of the run is merged", SOON, async || last_seq(&raw, "big").await >= 1000).await;
    on
}

async fn last_seq(raw: &Raw, id: &str) -> i64 {
    raw.get::<Option<i64>>(&["HGET", &format!("conversation_thread:{{{id}}}"), "last_seq"]).await.unwrap_or(0)
}

/// A fault in the middle of a replay: afterwards all is there once and in order.
async fn assert_survives(fail: impl AsyncFnOnce(&mut BehindProxy), mend: impl AsyncFnOnce(&mut BehindProxy)) {
    let mut on = half_way().await;
    fail(&mut on).await;
    redis_is(&on.channel, ServingStatus::NotServing).await;
    // More comes while Redis is away again.
    append_locally(&on.threads(), "big", numbered(LONG + 1, LONG + 1)).await;
    mend(&mut on).await;
    let there = last_seq(&on.redis.raw().await, "big").await;
    eprintln!("{there} of {LONG} were there when Redis came back");
    merge_all(&on).await;
    let threads = on.threads();
    assert_numbered(&threads, "big", LONG + 1).await;
    assert_numbered(&threads, "early", 3).await;
    assert_numbered(&threads, "late", 3).await;
    assert!(threads.messages("idle").await.is_empty());
}

#[tokio::test]
async fn a_redis_killed_half_way() {
    assert_survives(async |on| on.redis.kill(), async |on| on.redis.restart().await).await;
}

#[tokio::test]
async fn a_connection_cut_half_way() {
    let fail = async |on: &mut BehindProxy| {
        on.proxy.refuse().await;
        on.proxy.cut().await;
    };
    assert_survives(fail, async |on| on.proxy.forward().await).await;
}

#[tokio::test]
async fn a_network_that_freezes_half_way() {
    let fail = async |on: &mut BehindProxy| on.proxy.freeze().await;
    assert_survives(fail, async |on| on.proxy.forward().await).await;
}

#[tokio::test]
async fn replies_lost_half_way() {
    let fail = async |on: &mut BehindProxy| on.proxy.drop_replies().await;
    assert_survives(fail, async |on| on.proxy.forward().await).await;
}

#[tokio::test]
async fn writes_to_a_waiting_thread_join_it_and_others_go_to_redis() {
    let on = half_way().await;
    let threads = on.threads();
    let mode = async || status(&on.channel).await.mode();
    assert_eq!(mode().await, ServingMode::Reconciling);
    let joined = threads.append("big", numbered(LONG + 1, LONG + 2)).await;
    assert_eq!(joined.authority(), Authority::Local, "{joined:?}");
    assert!(joined.messages.iter().all(|message| message.provisional && message.seq == 0), "{joined:?}");
    // What this instance acknowledged is not missing here.
    assert!(threads.peek("big").await.is_ok());
    let direct = threads.append("idle", numbered(1, 2)).await;
    assert_eq!(direct.authority(), Authority::Shared, "{direct:?}");
    // The run was long enough for all of this.
    assert_eq!(mode().await, ServingMode::Reconciling);
    let other = on.another().await;
    let other = Threads::on(other.channel().await);
    assert!(other.peek("big").await.unwrap().last_seq < LONG, "the run is still waiting");
    merge_all(&on).await;
    for (id, last) in [("big", LONG + 2), ("idle", 2), ("early", 3), ("late", 3)] {
        assert_numbered(&threads, id, last).await;
    }
    let after = threads.append("big", numbered(LONG + 3, LONG + 3)).await;
    assert_eq!((after.authority(), after.messages[0].seq), (Authority::Shared, LONG + 3));
}
