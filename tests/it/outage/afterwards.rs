//! When Redis is back, what it has is the truth, and nothing made in the outage passes for it; what was accepted is merged
//! into it.

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, GetThreadRequest, ListMessagesRequest, ListMessagesResponse,
};
use tonic::Code;

use crate::support::{
    behind_proxy::BehindProxy,
    threads::{Threads, appending, assert_refused, ids, listing, numbered},
};

#[tokio::test]
async fn redis_is_served_again_and_its_state_is_what_callers_see() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    threads.append("t", numbered(4, 5)).await;
    let other = on.another().await;
    Threads::on(other.channel().await).append("t", numbered(6, 6)).await;
    on.restore().await;

    let request = GetThreadRequest { thread_id: "t".into(), ..Default::default() };
    let answer = threads.client.clone().get_thread(request).await.unwrap().into_inner();
    assert_eq!((answer.authority(), answer.as_of), (Authority::Shared, None));
    assert_eq!(ids(&threads.messages("t").await), ["m1", "m2", "m3", "m6", "m4", "m5"]);
    let again = threads.append("t", numbered(4, 5)).await;
    assert_eq!(again.authority(), Authority::Shared);
    assert!(again.messages.iter().all(|message| message.duplicate && message.seq > 4));
    on.assert_told(1).await;
}

#[tokio::test]
async fn an_etag_made_locally_matches_nothing_afterwards() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    let shared = threads.create("t").await.etag;
    on.lose().await;
    let read = threads.peek("t").await.unwrap().etag;
    let written = threads.append("t", numbered(1, 1)).await.thread.unwrap().etag;
    assert!(read != shared && written != shared && read != written);
    on.restore().await;
    for etag in [read, written] {
        let request = AppendMessagesRequest { etag, ..appending("t", numbered(2, 2)) };
        assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
    }
    let request = AppendMessagesRequest { etag: shared, ..appending("t", numbered(2, 2)) };
    assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
    let etag = threads.peek("t").await.unwrap().etag;
    let request = AppendMessagesRequest { etag, ..appending("t", numbered(2, 2)) };
    threads.try_append(request).await.unwrap();
}

#[tokio::test]
async fn a_page_token_made_locally_is_stale_afterwards() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 5)).await;
    let first = |descending| ListMessagesRequest { page_size: 2, descending, ..listing("t") };
    let shared: ListMessagesResponse = threads.page(first(false)).await.unwrap();
    on.lose().await;
    let mut local = Vec::new();
    for descending in [false, true] {
        let page = threads.page(first(descending)).await.unwrap();
        let next = ListMessagesRequest { page_token: page.next_page_token, ..first(descending) };
        assert_eq!(threads.page(next.clone()).await.unwrap().messages.len(), 2, "good in the outage");
        local.push(next);
    }
    on.restore().await;
    for next in local {
        assert_refused(threads.page(next).await, Code::Aborted, "TOKEN_STALE");
    }
    let next = ListMessagesRequest { page_token: shared.next_page_token, ..first(false) };
    assert_eq!(ids(&threads.page(next).await.unwrap().messages), ["m3", "m4"]);
}

#[tokio::test]
async fn a_second_outage_is_told_again_and_serves_what_was_learnt_between() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    for round in 1..=3 {
        threads.append("t", numbered(round, round)).await;
        on.lose().await;
        let page = threads.page(listing("t")).await.unwrap();
        assert_eq!(
            (page.authority(), page.messages.len()),
            (Authority::Local, usize::try_from(round).unwrap())
        );
        on.restore().await;
    }
    on.assert_told(3).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_says_so_itself() {
    let mut on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    on.redis.restart_empty().await;
    on.is_back().await;
    assert_refused(threads.peek("t").await, Code::NotFound, "THREAD_NOT_FOUND");
    on.lose().await;
    // What Redis said to be gone is not brought back from memory.
    super::assert_unavailable("a thread that is gone", threads.peek("t").await);
}
