//! The table of what memory serves in an outage, row by row.

use std::time::Duration;

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, CreateThreadRequest, CreateThreadResponse,
    DeleteThreadRequest, GetContextRequest, GetThreadRequest, ListMessagesRequest, ListMessagesResponse,
    ListThreadsRequest,
};
use tonic::Status;

use super::{SOON, assert_unavailable};
use crate::support::{
    behind_proxy::BehindProxy,
    deployment::run_cases,
    eventually::eventually,
    threads::{
        Threads, appending, changing, cut_after, forking, ids, listing, numbered, revising, seqs, thread,
        user, wire,
    },
};

struct Outage {
    behind: BehindProxy,
    threads: Threads,
}

/// A service that lost its Redis, and knows of the threads there:
/// of `whole` and `twice` everything, of `tail` from m6 on, of `cut` from m4 on because m3 came by another instance, of `seen`
/// the metadata, of `unseen` nothing.
async fn in_outage() -> Outage {
    let on = BehindProxy::start().await;
    let other_service = on.another().await;
    let (here, other) = (on.threads(), Threads::on(other_service.channel().await));
    here.create("whole").await;
    here.append("whole", numbered(1, 3)).await;
    here.create("twice").await;
    here.append("twice", numbered(1, 3)).await;
    for id in ["tail", "seen", "unseen"] {
        other.create(id).await;
        other.append(id, numbered(1, 5)).await;
    }
    here.append("tail", numbered(6, 7)).await;
    here.get("seen").await.unwrap();
    here.create("cut").await;
    here.append("cut", numbered(1, 2)).await;
    other.append("cut", numbered(3, 3)).await;
    here.append("cut", numbered(4, 5)).await;
    on.lose().await;
    Outage { behind: on, threads: here }
}

#[tokio::test]
async fn every_row_of_the_table() {
    let on = in_outage().await;
    run_cases!(
        &on,
        [
            a_held_thread_is_told_with_its_time_and_others_are_never_not_found,
            messages_are_listed_where_the_run_covers_the_answer_and_else_refused,
            a_context_is_built_only_from_a_thread_that_is_known_whole,
            a_list_of_threads_is_refused_and_never_empty,
            what_memory_cannot_decide_alone_is_refused,
            every_request_that_requires_the_shared_truth_is_refused,
            a_touch_counts_locally,
            a_message_that_redis_has_is_a_duplicate_with_its_seq,
            creations_and_plain_appends_are_accepted_as_provisional
        ]
    );
}

async fn context(threads: &Threads, id: &str) -> Result<fusewire::grpc::proto::GetContextResponse, Status> {
    let request = GetContextRequest { thread_id: id.into(), ..Default::default() };
    Ok(threads.client.clone().get_context(request).await?.into_inner())
}

fn assert_local_page(page: &ListMessagesResponse, expected: &[&str]) {
    assert_eq!((page.authority(), page.as_of.is_some()), (Authority::Local, true));
    assert_eq!(ids(&page.messages), expected);
}

async fn a_held_thread_is_told_with_its_time_and_others_are_never_not_found(on: &Outage) {
    let threads = &on.threads;
    for (id, last_seq) in [("whole", 3), ("tail", 7), ("cut", 5), ("seen", 5)] {
        let request = GetThreadRequest { thread_id: id.into(), ..Default::default() };
        let answer = threads.client.clone().get_thread(request).await.unwrap().into_inner();
        assert_eq!((answer.authority(), answer.as_of.is_some()), (Authority::Local, true), "{id}");
        assert_eq!(answer.thread.unwrap().last_seq, last_seq, "{id}");
    }
    assert_unavailable("a thread never seen here", threads.peek("unseen").await);
    assert_unavailable("a thread that never was", threads.peek("nowhere").await);
}

async fn messages_are_listed_where_the_run_covers_the_answer_and_else_refused(on: &Outage) {
    let threads = &on.threads;
    let after = |id: &str, after_seq| ListMessagesRequest { after_seq, ..listing(id) };
    let newest = |id: &str, page_size| ListMessagesRequest { descending: true, page_size, ..listing(id) };
    let page = async |request| threads.page(request).await;

    assert_local_page(&page(listing("whole")).await.unwrap(), &["m1", "m2", "m3"]);
    assert_local_page(&page(after("tail", 5)).await.unwrap(), &["m6", "m7"]);
    assert_local_page(&page(newest("tail", 1)).await.unwrap(), &["m7"]);
    assert_local_page(&page(after("cut", 3)).await.unwrap(), &["m4", "m5"]);
    for (id, first_unknown) in [("tail", 4), ("cut", 2), ("seen", 4)] {
        assert_unavailable(id, page(after(id, first_unknown)).await);
        assert_unavailable(id, page(listing(id)).await);
        assert_unavailable(id, page(newest(id, 50)).await);
    }
    for id in ["unseen", "nowhere"] {
        assert_unavailable(id, page(listing(id)).await);
    }
}

async fn a_context_is_built_only_from_a_thread_that_is_known_whole(on: &Outage) {
    let threads = &on.threads;
    let answer = context(threads, "whole").await.unwrap();
    assert_eq!((answer.authority(), answer.as_of.is_some()), (Authority::Local, true));
    assert_eq!((ids(&answer.messages), answer.omitted_count), (vec!["m1", "m2", "m3"], 0));
    // Instructions may be among what is not known.
    for id in ["tail", "cut", "seen", "unseen", "nowhere"] {
        assert_unavailable(id, context(threads, id).await);
    }
}

#[tokio::test]
async fn what_was_read_before_the_outage_is_held_too() {
    let on = BehindProxy::start().await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    for id in ["listed", "newest", "context"] {
        other.create(id).await;
        other.append(id, numbered(1, 9)).await;
    }
    let here = on.threads();
    here.page(listing("listed")).await.unwrap();
    let newest = |page_size| ListMessagesRequest { descending: true, page_size, ..listing("newest") };
    here.page(newest(4)).await.unwrap();
    context(&here, "context").await.unwrap();
    on.lose().await;
    assert_eq!(here.page(listing("listed")).await.unwrap().messages.len(), 9);
    assert_local_page(&here.page(newest(3)).await.unwrap(), &["m9", "m8", "m7"]);
    // Whether another page follows the fourth message is not known here.
    assert_unavailable("all of the run and no more", here.page(newest(4)).await);
    assert_eq!(context(&here, "context").await.unwrap().messages.len(), 9);
}

async fn a_list_of_threads_is_refused_and_never_empty(on: &Outage) {
    let threads = &on.threads;
    let request = ListThreadsRequest { owner: "ann".into(), ..Default::default() };
    assert_unavailable("a list of threads", threads.client.clone().list_threads(request).await);
}

async fn creations_and_plain_appends_are_accepted_as_provisional(on: &Outage) {
    let threads = &on.threads;
    let request = CreateThreadRequest {
        thread: Some(thread("new")),
        messages: numbered(1, 2),
        request_id: "r".into(),
        ..Default::default()
    };
    let create = async || -> CreateThreadResponse {
        threads.client.clone().create_thread(request.clone()).await.unwrap().into_inner()
    };
    for made in [create().await, create().await] {
        assert_eq!(made.authority(), Authority::Local);
        assert!(made.messages.iter().all(|message| message.seq == 0 && message.provisional));
        assert_eq!(made.thread.unwrap().message_count, 2);
    }

    for (id, batch) in [("whole", numbered(4, 5)), ("tail", numbered(8, 9)), ("new", numbered(3, 3))] {
        let count = batch.len();
        let made = threads.append(id, batch.clone()).await;
        assert_eq!((made.authority(), made.messages.len()), (Authority::Local, count));
        assert!(made.messages.iter().all(|m| m.seq == 0 && m.provisional && !m.duplicate), "{made:?}");
        let again = threads.append(id, batch).await;
        assert!(again.messages.iter().all(|m| m.duplicate && m.seq == 0), "{again:?}");
    }
    let request = AppendMessagesRequest { create_if_missing: true, ..appending("made", numbered(1, 1)) };
    assert_eq!(threads.try_append(request).await.unwrap().authority(), Authority::Local);

    let page = threads.page(listing("whole")).await.unwrap();
    assert_local_page(&page, &["m1", "m2", "m3", "m4", "m5"]);
    assert_eq!(seqs(&page.messages), [1, 2, 3, 0, 0]);
    assert_eq!(ids(&context(threads, "whole").await.unwrap().messages), ["m1", "m2", "m3", "m4", "m5"]);
}

async fn a_message_that_redis_has_is_a_duplicate_with_its_seq(on: &Outage) {
    let threads = &on.threads;
    let made = threads.append("twice", numbered(2, 4)).await;
    let told: Vec<_> = made.messages.iter().map(|m| (m.seq, m.duplicate, m.provisional)).collect();
    assert_eq!(told, [(2, true, false), (3, true, false), (0, false, true)]);
    let other = threads.try_append(appending("twice", vec![user("m1", "other")])).await;
    crate::support::threads::assert_refused(other, tonic::Code::AlreadyExists, "MESSAGE_ID_REUSED");
}

async fn what_memory_cannot_decide_alone_is_refused(on: &Outage) {
    let threads = &on.threads;
    let etag = threads.peek("whole").await.unwrap().etag;
    assert_unavailable("append, not held", threads.try_append(appending("unseen", numbered(6, 6))).await);
    for etag in [etag, "\"x-1\"".to_owned()] {
        let request = AppendMessagesRequest { etag, ..appending("whole", numbered(9, 9)) };
        assert_unavailable("append with an etag", threads.try_append(request).await);
    }
    let title = ConversationThread { title: "t".into(), ..thread("whole") };
    assert_unavailable("update", threads.update(changing(title, &["title"])).await);
    assert_unavailable("delete", threads.delete("whole").await);
    let request =
        DeleteThreadRequest { thread_id: "unseen".into(), allow_missing: true, ..Default::default() };
    assert_unavailable("delete, missing allowed", threads.client.clone().delete_thread(request).await);
    assert_unavailable("truncate", threads.truncate(cut_after("whole", 1)).await);
    assert_unavailable("fork", threads.fork(forking("whole", "copy")).await);
    assert_unavailable(
        "message",
        threads.update_message(revising("whole", user("m1", "x"), &["parts"])).await,
    );
    assert_eq!(ids(&threads.messages("whole").await), ["m1", "m2", "m3"]);
}

async fn every_request_that_requires_the_shared_truth_is_refused(on: &Outage) {
    let threads = &on.threads;
    let mut client = threads.client.clone();
    let id = || "whole".to_owned();
    let create =
        CreateThreadRequest { thread: Some(thread("new")), require_shared: true, ..Default::default() };
    assert_unavailable("create", client.create_thread(create).await);
    let append = AppendMessagesRequest { require_shared: true, ..appending("whole", numbered(4, 4)) };
    assert_unavailable("append", client.append_messages(append).await);
    let get = GetThreadRequest { thread_id: id(), require_shared: true, ..Default::default() };
    assert_unavailable("get", client.get_thread(get).await);
    let list = ListMessagesRequest { thread_id: id(), require_shared: true, ..Default::default() };
    assert_unavailable("list", client.list_messages(list).await);
    let context = GetContextRequest { thread_id: id(), require_shared: true, ..Default::default() };
    assert_unavailable("context", client.get_context(context).await);
    assert_eq!(ids(&threads.messages("whole").await), ["m1", "m2", "m3"]);
}

async fn a_touch_counts_locally(on: &Outage) {
    let (raw, threads) = (on.behind.redis.raw().await, &on.threads);
    let before = raw.get::<i64>(&["PTTL", "conversation_thread:{whole}"]).await;
    let touched = threads.touch("whole", Some(Duration::from_hours(24))).await.unwrap();
    assert_eq!(touched.authority(), Authority::Local);
    let thread = threads.peek("whole").await.unwrap();
    assert_eq!((thread.expire_time, thread.ttl), (touched.expire_time, Some(wire(Duration::from_hours(24)))));
    let after = raw.get::<i64>(&["PTTL", "conversation_thread:{whole}"]).await;
    assert!(after <= before && before <= 7_200_000, "{before} {after}");
    assert_unavailable("touch of a thread not held", threads.touch("unseen", None).await);
}

#[tokio::test]
async fn a_thread_past_its_time_is_not_served_and_not_said_to_be_missing() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    let short = ConversationThread { ttl: Some(wire(Duration::from_secs(2))), ..thread("short") };
    threads.try_create(short).await.unwrap();
    on.lose().await;
    eventually("the copy expires", SOON, async || threads.peek("short").await.is_err()).await;
    assert_unavailable("an expired thread", threads.peek("short").await);
    assert_unavailable("its messages", threads.page(listing("short")).await);
    assert_unavailable("its context", context(&threads, "short").await);
    assert_unavailable("an append to it", threads.try_append(appending("short", numbered(1, 1))).await);
}
