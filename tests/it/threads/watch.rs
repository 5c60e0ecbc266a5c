//! `WatchThread`: what was there, then what happens, in order and with a position to go on from.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, Message, Part, Role, TrimPolicy, part::Kind,
    watch_thread_response::Event,
};
use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store, on_every_store},
    thread_watch::watching,
    threads::{
        appending, assert_refused, changing, cut_after, forking, ids, keep_last, message, millis, numbered,
        reason, revising, seqs, thread, user, wire,
    },
};

mod keys;
mod redis;
mod resume;

on_every_store!(
    what_was_there_comes_first_then_synced_then_what_is_appended,
    a_watch_begins_after_the_seq_that_it_names,
    a_long_thread_comes_in_pages_and_whole,
    large_messages_come_in_events_that_a_client_with_a_4_mib_limit_takes,
    a_changed_thread_and_a_changed_message_are_told,
    a_dropped_tail_and_a_dropped_head_are_told,
    what_a_policy_trims_is_told,
    a_trimmed_thread_begins_at_what_is_left,
    a_deletion_ends_the_stream,
    an_expiry_is_told_when_it_is_due_though_nobody_touches_the_thread,
    a_touch_is_no_event_and_puts_the_expiry_off,
    a_watch_renews_nothing,
    a_fork_can_be_watched,
    every_watcher_is_told,
    a_thread_that_does_not_exist_is_not_found,
    a_seq_beyond_the_thread_is_out_of_range,
    every_violated_field_is_told,
);

const SECOND: Duration = Duration::from_secs(1);

async fn what_was_there_comes_first_then_synced_then_what_is_appended(on: &Deployment) {
    let threads = on.threads();
    threads.create("w").await;
    threads.append("w", numbered(1, 3)).await;
    let mut watch = threads.watch("w", 0).await;
    let first = watch.told().await;
    let expected = if on.store == Store::Memory { Authority::Local } else { Authority::Shared };
    assert_eq!(first.authority(), expected);
    let Some(Event::Appended(there)) = first.event else { panic!("{first:?}") };
    assert_eq!(there.messages, threads.messages("w").await, "as a page of messages tells them");
    watch.synced().await;
    let now = threads.append("w", numbered(4, 5)).await.thread.unwrap();
    assert_eq!(ids(&watch.appended().await), ["m4", "m5"]);
    assert_eq!((watch.position.revision, watch.position.seq), (now.revision, 5));
    assert_eq!(now.etag, format!("\"{}-{}\"", watch.position.epoch, now.revision));
    // Duplicates are no event.
    threads.append("w", numbered(4, 5)).await;
    threads.append("w", numbered(5, 6)).await;
    assert_eq!(ids(&watch.appended().await), ["m6"]);
}

async fn a_watch_begins_after_the_seq_that_it_names(on: &Deployment) {
    let threads = on.threads();
    threads.create("after").await;
    let mut empty = threads.watch("after", 0).await;
    empty.synced().await;
    threads.append("after", numbered(1, 9)).await;
    assert_eq!(empty.appended().await.len(), 9);
    let mut watch = threads.watch("after", 7).await;
    assert_eq!(seqs(&watch.appended().await), [8, 9]);
    watch.synced().await;
    threads.watch("after", 9).await.synced().await;
}

async fn a_long_thread_comes_in_pages_and_whole(on: &Deployment) {
    let threads = on.threads();
    threads.create("long").await;
    threads.fill("long", 1, 2500).await;
    let mut watch = threads.watch("long", 0).await;
    let mut all = Vec::new();
    // Before the last page, not every revision has been told.
    for (count, revision) in [(1000, 0), (1000, 0), (500, 26)] {
        let page = watch.appended().await;
        assert_eq!((page.len(), watch.position.revision), (count, revision));
        all.extend(page);
    }
    watch.synced().await;
    assert_eq!(seqs(&all), (1..=2500).collect::<Vec<_>>());
}

async fn large_messages_come_in_events_that_a_client_with_a_4_mib_limit_takes(on: &Deployment) {
    let threads = on.threads();
    threads.create("large").await;
    let mut watch = threads.watch_live("large").await;
    let text = "x".repeat(1 << 20);
    for n in 0..8 {
        threads.append("large", vec![user(&format!("l{n}"), &text)]).await;
    }
    for update in 0..8 {
        let part = Part { kind: Some(Kind::Text(text.replace('x', "y"))), ..Default::default() };
        let new = Message { id: format!("l{update}"), parts: vec![part], ..Default::default() };
        threads.update_message(revising("large", new, &["parts"])).await.unwrap();
    }
    // The client's limit is the default one. A message that was changed before it was told comes changed.
    let mut kept = BTreeMap::new();
    while (watch.position.revision, watch.position.seq) != (17, 8) {
        let messages = match watch.event().await {
            Event::Appended(event) => event.messages,
            Event::Updated(event) => event.messages,
            other => panic!("{other:?}"),
        };
        kept.extend(messages.into_iter().map(|message| (message.seq, message)));
    }
    assert_eq!(kept.into_values().collect::<Vec<_>>(), threads.messages("large").await);
}

async fn a_changed_thread_and_a_changed_message_are_told(on: &Deployment) {
    let threads = on.threads();
    threads.create("updated").await;
    threads.append("updated", vec![message("sys", Role::System, "be kind"), user("a", "x")]).await;
    let mut watch = threads.watch_live("updated").await;
    let title = ConversationThread { title: "new".into(), ..thread("updated") };
    let now = threads.update(changing(title, &["title"])).await.unwrap();
    assert_eq!(watch.updated().await, (now, vec![]));
    for id in ["sys", "a"] {
        let now = threads.update_message(revising("updated", user(id, "y"), &["parts"])).await.unwrap();
        assert_eq!(watch.updated().await, (now.thread.unwrap(), vec![now.message.unwrap()]));
    }
    assert_eq!((watch.position.revision, watch.position.seq), (5, 2));
}

async fn a_dropped_tail_and_a_dropped_head_are_told(on: &Deployment) {
    let threads = on.threads();
    threads.create("cut").await;
    threads.append("cut", numbered(1, 9)).await;
    let mut watch = threads.watch_live("cut").await;
    threads.truncate(cut_after("cut", 7)).await.unwrap();
    assert_eq!(watch.truncated().await, (1, 7));
    threads.append("cut", numbered(10, 10)).await;
    assert_eq!(seqs(&watch.appended().await), [10]);
    threads.truncate(keep_last("cut", 3)).await.unwrap();
    assert_eq!(watch.truncated().await, (6, 10));
    threads.truncate(cut_after("cut", 9)).await.unwrap();
    assert_eq!(watch.truncated().await, (6, 7), "what was cut before is no stored message");
    threads.truncate(keep_last("cut", 0)).await.unwrap();
    assert_eq!(watch.truncated().await, (0, 0));
    threads.append("cut", numbered(11, 11)).await;
    assert_eq!(seqs(&watch.appended().await), [11]);
}

async fn what_a_policy_trims_is_told(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 3, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("trim") }).await.unwrap();
    threads.append("trim", vec![message("sys", Role::System, "be kind")]).await;
    threads.append("trim", numbered(2, 3)).await;
    let mut watch = threads.watch_live("trim").await;
    threads.append("trim", numbered(4, 5)).await;
    // The instruction outlives trimming, and is below where the list begins.
    assert_eq!(watch.truncated().await, (3, 5));
    assert_eq!(seqs(&watch.appended().await), [4, 5]);
    assert_eq!(seqs(&threads.messages("trim").await), [1, 3, 4, 5]);
}

async fn a_trimmed_thread_begins_at_what_is_left(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 5, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("left") }).await.unwrap();
    threads.append("left", vec![message("sys", Role::System, "be kind")]).await;
    threads.fill("left", 2, 100).await;
    for (after_seq, expected) in [(0, vec![1, 96, 97, 98, 99, 100]), (50, vec![96, 97, 98, 99, 100])] {
        let mut watch = threads.watch("left", after_seq).await;
        assert_eq!(seqs(&watch.appended().await), expected);
        watch.synced().await;
    }
}

async fn a_deletion_ends_the_stream(on: &Deployment) {
    let threads = on.threads();
    threads.create("deleted").await;
    let mut watch = threads.watch_live("deleted").await;
    threads.delete("deleted").await.unwrap();
    watch.deleted().await;
}

/// A thread that lives for a second, and when it expires by the clock of its store.
async fn short_lived(on: &Deployment, id: &str) -> ConversationThread {
    let new = ConversationThread { ttl: Some(wire(SECOND)), ..thread(id) };
    on.threads().try_create(new).await.unwrap().thread.unwrap()
}

async fn an_expiry_is_told_when_it_is_due_though_nobody_touches_the_thread(on: &Deployment) {
    let threads = on.threads();
    let began = Instant::now();
    short_lived(on, "expires").await;
    let mut watch = threads.watch("expires", 0).await;
    watch.synced().await;
    watch.expired().await;
    let took = began.elapsed();
    assert!(took >= SECOND, "{took:?}");
    assert!(took < 5 * SECOND, "{took:?}");
}

async fn a_touch_is_no_event_and_puts_the_expiry_off(on: &Deployment) {
    let threads = on.threads();
    let made = short_lived(on, "touched").await;
    let mut watch = threads.watch("touched", 0).await;
    watch.synced().await;
    let expire_time = threads.touch("touched", Some(3 * SECOND)).await.unwrap().expire_time;
    assert!(millis(expire_time) > millis(made.expire_time) + 1500);
    let began = Instant::now();
    watch.expired().await;
    assert!(began.elapsed() > 2 * SECOND, "{:?}", began.elapsed());
}

async fn a_watch_renews_nothing(on: &Deployment) {
    let threads = on.threads();
    let made = threads.create("renewed").await;
    let mut watch = threads.watch_live("renewed").await;
    let before = threads.append("renewed", numbered(1, 3)).await.thread.unwrap();
    assert_eq!(watch.appended().await.len(), 3);
    let mut another = threads.watch("renewed", 0).await;
    another.appended().await;
    another.synced().await;
    let after = threads.peek("renewed").await.unwrap();
    assert!(millis(after.expire_time) <= millis(before.expire_time), "{made:?}");
}

async fn a_fork_can_be_watched(on: &Deployment) {
    let threads = on.threads();
    threads.create("source").await;
    threads.append("source", numbered(1, 5)).await;
    threads.truncate(cut_after("source", 3)).await.unwrap();
    threads.fork(forking("source", "copy")).await.unwrap();
    let mut watch = threads.watch("copy", 0).await;
    assert_eq!(seqs(&watch.appended().await), [1, 2, 3]);
    watch.synced().await;
    threads.append("copy", numbered(6, 6)).await;
    assert_eq!(seqs(&watch.appended().await), [6]);
    threads.truncate(cut_after("copy", 2)).await.unwrap();
    assert_eq!(watch.truncated().await, (1, 2));
}

async fn every_watcher_is_told(on: &Deployment) {
    let threads = on.threads();
    threads.create("many").await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(threads.watch_live("many").await);
    }
    threads.append("many", numbered(1, 1)).await;
    for watch in &mut watches {
        assert_eq!(seqs(&watch.appended().await), [1]);
    }
}

async fn a_thread_that_does_not_exist_is_not_found(on: &Deployment) {
    let outcome = on.threads().try_watch(watching("nowhere", 0)).await;
    assert_refused(outcome.map(drop), Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_seq_beyond_the_thread_is_out_of_range(on: &Deployment) {
    let threads = on.threads();
    threads.create("range").await;
    threads.append("range", numbered(1, 3)).await;
    let outcome = threads.try_watch(watching("range", 4)).await;
    assert_refused(outcome.map(drop), Code::OutOfRange, "SEQ_OUT_OF_RANGE");
}

async fn every_violated_field_is_told(on: &Deployment) {
    use crate::support::threads::violated;
    use fusewire::grpc::proto::{ThreadPosition, WatchThreadRequest};
    let threads = on.threads();
    let position = |epoch: &str, revision, seq| ThreadPosition { epoch: epoch.into(), revision, seq };
    let request =
        |id: &str, after_seq, resume| WatchThreadRequest { thread_id: id.into(), after_seq, resume };
    let cases = [
        (request("", -1, None), vec!["thread_id", "after_seq"]),
        (
            request("{}", -1, Some(position("", -1, -1))),
            vec!["thread_id", "resume.epoch", "resume.revision", "resume.seq"],
        ),
        (request("t", -1, Some(position(&"x".repeat(129), 0, 0))), vec!["resume.epoch"]),
    ];
    for (request, fields) in cases {
        let status = threads.try_watch(request).await.map(drop).unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
        assert_eq!(violated(&status), fields);
    }
    // An append that is refused tells nobody anything.
    let request = AppendMessagesRequest { etag: "\"x-1\"".into(), ..appending("range", numbered(9, 9)) };
    let mut watch = threads.watch_live("range").await;
    assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
    threads.append("range", numbered(4, 4)).await;
    assert_eq!(ids(&watch.appended().await), ["m4"]);
}
