//! What others did meanwhile: deleted the thread, made another of the same id, used a message id, stored something else.

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, CreateThreadRequest, JournalStatus, ParkedRun,
};
use tonic::Code;

use super::{SOON, append_locally, assert_thread, merge, merge_all, start};
use crate::support::{
    eventually::eventually,
    status::{journal, status},
    threads::{Threads, appending, assert_refused, ids, numbered, thread, user},
};

/// The one run that is listed, of this thread.
fn parked(told: &JournalStatus, id: &str) -> ParkedRun {
    let [run] = &told.parked[..] else { panic!("one run is parked: {told:?}") };
    assert_eq!(run.thread_id, id, "{run:?}");
    assert!(!run.reason.is_empty(), "{run:?}");
    run.clone()
}

/// The thread that a run became.
fn became(run: &ParkedRun) -> String {
    let prefix = format!("{}~", run.thread_id);
    let is_other = |c: char| !(c.is_ascii_alphanumeric() || "._~:@/+=-".contains(c));
    let mut words = run.reason.split(is_other);
    words
        .find(|word| word.starts_with(&prefix))
        .unwrap_or_else(|| panic!("no other thread: {run:?}"))
        .to_owned()
}

#[tokio::test]
async fn a_deleted_thread_stays_deleted() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    let other = on.another().await;
    Threads::on(other.channel().await).delete("t").await.unwrap();
    let told = merge(&on).await;
    assert_eq!(parked(&told, "t").entries, 2);
    assert_refused(threads.peek("t").await, Code::NotFound, "THREAD_NOT_FOUND");
    let late = AppendMessagesRequest { create_if_missing: true, ..appending("t", numbered(6, 6)) };
    assert_refused(threads.try_append(late).await, Code::FailedPrecondition, "THREAD_DELETED");
}

#[tokio::test]
async fn a_thread_made_anew_under_a_deleted_id_is_left_alone() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    other.delete("t").await.unwrap();
    other.create("t").await;
    other.append("t", vec![user("n1", "new")]).await;
    let before = other.peek("t").await.unwrap();
    let told = merge(&on).await;
    assert_eq!(parked(&told, "t").entries, 2);
    assert_thread(&threads, "t", &["n1"]).await;
    assert_eq!(threads.peek("t").await.unwrap(), before);
    assert_eq!(threads.append("t", vec![user("n2", "new")]).await.authority(), Authority::Shared);
}

#[tokio::test]
async fn a_thread_of_another_owner_takes_nothing_and_the_run_becomes_one_of_its_own() {
    let on = start().await;
    let threads = on.threads();
    on.lose().await;
    let of = |owner: &str| ConversationThread { owner: owner.into(), title: owner.into(), ..thread("t") };
    let request =
        CreateThreadRequest { thread: Some(of("ann")), messages: numbered(1, 2), ..Default::default() };
    let made = threads.client.clone().create_thread(request).await.unwrap().into_inner();
    assert_eq!(made.authority(), Authority::Local);
    append_locally(&threads, "t", numbered(3, 3)).await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    other.try_create(of("bob")).await.unwrap();
    other.append("t", vec![user("n1", "bob's")]).await;
    let told = merge(&on).await;
    let instead = became(&parked(&told, "t"));
    assert_thread(&threads, "t", &["n1"]).await;
    assert_eq!(threads.peek("t").await.unwrap().owner, "bob");
    assert_thread(&threads, &instead, &["m1", "m2", "m3"]).await;
    let kept = threads.peek(&instead).await.unwrap();
    assert_eq!((kept.owner.as_str(), kept.title.as_str()), ("ann", "ann"));
    assert_eq!(threads.owned("ann", 10).await, [instead]);
    assert_eq!(threads.owned("bob", 10).await, ["t"]);
}

#[tokio::test]
async fn an_id_used_for_other_content_meanwhile_is_kept_under_another() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", vec![user("m4", "accepted"), user("m5", "accepted")]).await;
    append_locally(&threads, "t", numbered(6, 6)).await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    other.append("t", vec![user("m4", "other")]).await;
    merge(&on).await;
    let messages = threads.recount("t").await;
    let found = ids(&messages);
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!(found[..4], ["m1", "m2", "m3", "m4"]);
    assert!(found[4].starts_with("m4~"), "{found:?}");
    assert_eq!(found[5..], ["m5", "m6"]);
    assert_eq!(messages[3].parts, user("m4", "other").parts);
    assert_eq!(messages[4].parts, user("m4", "accepted").parts);
    let again = threads.try_append(appending("t", vec![user("m4", "accepted")])).await;
    assert_refused(again, Code::AlreadyExists, "MESSAGE_ID_REUSED");
}

#[tokio::test]
async fn what_both_appended_under_one_id_with_one_content_is_there_once() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    on.lose().await;
    append_locally(&threads, "t", numbered(1, 2)).await;
    append_locally(&threads, "t", numbered(3, 3)).await;
    let other = on.another().await;
    Threads::on(other.channel().await).append("t", numbered(1, 2)).await;
    merge_all(&on).await;
    assert_thread(&threads, "t", &["m1", "m2", "m3"]).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_merged_yet_is_parked_and_merged_when_it_can_be() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    for id in ["blocked", "free"] {
        threads.create(id).await;
        threads.append(id, numbered(1, 2)).await;
    }
    on.lose().await;
    let foreign = "conversation_thread:{blocked}:tombstone";
    raw.run(&["HSET", foreign, "somebody", "else's"]).await;
    for id in ["blocked", "free"] {
        append_locally(&threads, id, numbered(3, 4)).await;
    }
    let told = merge(&on).await;
    assert_eq!(parked(&told, "blocked").entries, 2);
    assert_eq!(told.entries, 2);
    assert_thread(&threads, "free", &["m1", "m2", "m3", "m4"]).await;
    let joins = AppendMessagesRequest { create_if_missing: true, ..appending("blocked", numbered(5, 5)) };
    assert_eq!(threads.try_append(joins).await.unwrap().authority(), Authority::Local);
    raw.run(&["DEL", foreign]).await;
    eventually("the parked run is merged", SOON, async || {
        let told = journal(&on.channel).await;
        told.entries == 0 && told.parked.is_empty()
    })
    .await;
    assert_thread(&threads, "blocked", &["m1", "m2", "m3", "m4", "m5"]).await;
    assert_eq!(status(&on.channel).await.journal.unwrap_or_default().oldest_time, None);
}

#[tokio::test]
async fn a_run_whose_keys_redis_forbids_is_parked_and_hinders_no_other() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    for id in ["blocked", "free"] {
        threads.create(id).await;
    }
    on.lose().await;
    for id in ["blocked", "free"] {
        append_locally(&threads, id, numbered(1, 2)).await;
    }
    let rights =
        ["resetkeys", "~conversation_threads:*", "~conversation_thread:{free}*", "~circuit_breaker*"];
    raw.run(&[&["ACL", "SETUSER", "default"], &rights[..]].concat()).await;
    let told = merge(&on).await;
    assert_eq!((parked(&told, "blocked").entries, told.entries), (2, 2));
    assert_thread(&threads, "free", &["m1", "m2"]).await;
    raw.run(&["ACL", "SETUSER", "default", "~*"]).await;
    eventually("the parked run is merged", SOON, async || journal(&on.channel).await.entries == 0).await;
    assert_thread(&threads, "blocked", &["m1", "m2"]).await;
}
