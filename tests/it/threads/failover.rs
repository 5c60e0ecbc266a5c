//! A failover that lost acknowledged writes: what is written next is never taken for them.

use fusewire::grpc::proto::AppendMessagesRequest;
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store},
    failover::Replica,
    threads::{appending, assert_refused, ids, listing, numbered},
};

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

    // As many writes as were lost lead to the same revision, but to another etag.
    threads.append("f", numbered(6, 6)).await;
    let now = threads.append("f", numbered(7, 7)).await.thread.unwrap();
    assert_eq!(now.revision, lost.revision);
    assert_ne!(now.etag, lost.etag);
    let stale = AppendMessagesRequest { etag: lost.etag, ..appending("f", numbered(8, 8)) };
    assert_refused(threads.try_append(stale).await, Code::Aborted, "ETAG_MISMATCH");
    walk.page_token = token;
    assert_refused(threads.page(walk).await, Code::Aborted, "TOKEN_STALE");
    assert_eq!(ids(&threads.messages("f").await), ["m1", "m2", "m3", "m6", "m7"]);
    // What was lost can be appended again under its own ids.
    assert!(threads.append("f", numbered(4, 5)).await.messages.iter().all(|message| !message.duplicate));
    let told = on.service.log().iter().filter(|line| line.contains("redis lost acknowledged writes")).count();
    assert_eq!(told, 1, "once is enough: the new epoch has no past");
}
