//! A failover that lost acknowledged writes: what is written next is never taken for them, and they are appended again.

use std::time::Duration;

use fusewire::grpc::proto::AppendMessagesRequest;
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store},
    eventually::eventually,
    failover::Replica,
    threads::{appending, assert_refused, ids, listing, numbered},
};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_thread_that_lost_writes_gets_a_new_epoch() {
    let on = Deployment::start(Store::Redis).await;
    let (threads, raw) = (on.threads(), on.raw().await);
    threads.create("f").await;
    threads.append("f", numbered(1, 3)).await;
    let replica = Replica::of(&raw, "f").await;
    threads.append("f", numbered(4, 4)).await;
    let lost = threads.append("f", numbered(5, 5)).await.thread.unwrap();
    let mut walk = listing("f");
    walk.page_size = 2;
    let token = threads.page(walk.clone()).await.unwrap().next_page_token;
    replica.promote(&raw).await;

    // A write after it is not taken for one that was lost: the epoch is another.
    let now = threads.append("f", numbered(6, 6)).await.thread.unwrap();
    assert_ne!(now.etag.rsplit_once('-').unwrap().0, lost.etag.rsplit_once('-').unwrap().0);
    let stale = AppendMessagesRequest { etag: lost.etag, ..appending("f", numbered(8, 8)) };
    assert_refused(threads.try_append(stale).await, Code::Aborted, "ETAG_MISMATCH");
    walk.page_token = token;
    assert_refused(threads.page(walk).await, Code::Aborted, "TOKEN_STALE");
    // What was lost is appended again under its own ids.
    eventually("what was lost is there again", SOON, async || threads.messages("f").await.len() == 6).await;
    let messages = threads.messages("f").await;
    let mut found = ids(&messages);
    found.retain(|id| *id != "m6");
    assert_eq!(found, ["m1", "m2", "m3", "m4", "m5"]);
    assert!(threads.append("f", numbered(4, 5)).await.messages.iter().all(|message| message.duplicate));
    assert!(on.service.logged("redis lost acknowledged writes") > 0);
}
