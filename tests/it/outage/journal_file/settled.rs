//! What was merged is over: it does not come back with the next process.

use std::time::Duration;

use fusewire::grpc::proto::ServingMode;
use tonic::Code;

use super::{FOUND, Folder, SOON};
use crate::{
    outage::merging::{append_locally, assert_numbered, fill_locally, merge_all},
    support::{
        eventually::eventually,
        status::{merged, status},
        threads::{assert_refused, numbered},
    },
};

/// Every key of a thread: without them it has expired.
fn keys(id: &str) -> Vec<String> {
    ["", ":messages", ":system", ":ids", ":ids:old", ":changes"]
        .map(|part| format!("conversation_thread:{{{id}}}{part}"))
        .to_vec()
}

fn expiry(id: &str) -> Vec<String> {
    [vec!["DEL".to_owned()], keys(id)].concat()
}

#[tokio::test]
async fn threads_that_went_after_the_merge_stay_away() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    let threads = on.threads();
    for id in ["deleted", "expired", "kept"] {
        threads.create(id).await;
    }
    on.lose().await;
    for id in ["deleted", "expired", "kept"] {
        append_locally(&threads, id, numbered(1, 3)).await;
    }
    merge_all(&on).await;
    folder.is_empty().await;
    threads.delete("deleted").await.unwrap();
    on.redis.raw().await.run(&expiry("expired")).await;

    on.replace_service(folder.options()).await;
    let told = status(&on.channel).await;
    assert_eq!((told.mode(), told.journal.unwrap_or_default().entries), (ServingMode::Shared, 0));
    assert_eq!(on.service.logged(FOUND), 0);
    let threads = on.threads();
    for id in ["deleted", "expired"] {
        assert_refused(threads.peek(id).await, Code::NotFound, "THREAD_NOT_FOUND");
    }
    assert_numbered(&threads, "kept", 3).await;
}

#[tokio::test]
async fn a_run_that_was_merged_is_over_though_others_still_wait() {
    const LONG: i64 = 5000;
    let folder = Folder::new();
    let mut on = folder.start().await;
    let threads = on.threads();
    for id in ["big", "short"] {
        threads.create(id).await;
    }
    on.lose().await;
    append_locally(&threads, "short", numbered(1, 3)).await;
    fill_locally(&threads, "big", 1, LONG).await;
    let before = folder.bytes();
    on.proxy.delay(Duration::from_millis(200)).await;
    // Nothing but the end of a run is written while nobody calls.
    eventually("the file says that one run is over", SOON, async || folder.bytes() > before).await;
    on.service.kill();
    let raw = on.redis.raw().await;
    raw.run(&expiry("short")).await;
    let merged_so_far: i64 = raw.get(&["HGET", "conversation_thread:{big}", "last_seq"]).await;
    assert!(merged_so_far < LONG, "the other run is still waiting");

    on.proxy.forward().await;
    on.replace_service(folder.options()).await;
    merged(&on.channel).await;
    let threads = on.threads();
    assert_refused(threads.peek("short").await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_numbered(&threads, "big", LONG).await;
}
