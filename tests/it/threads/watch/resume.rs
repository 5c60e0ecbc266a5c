//! Going on where a stream broke off: nothing lost, no message twice, or a resync that says why.

use fusewire::grpc::proto::{ConversationThread, ThreadPosition, TrimPolicy, watch_thread_response::Event};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    eventually::eventually,
    thread_watch::Watch,
    threads::{
        Threads, assert_refused, changing, cut_after, ids, keep_last, numbered, revising, seqs, thread, user,
        wire,
    },
};

on_every_store!(
    what_happened_meanwhile_is_told_in_order,
    every_event_is_a_place_to_go_on_from,
    large_changes_come_in_several_answers_and_before_what_was_appended,
    a_resume_within_the_stored_messages_goes_on_there,
    a_deletion_meanwhile_is_told,
    an_expiry_meanwhile_is_told,
    a_thread_made_anew_is_a_resync,
    a_thread_that_was_never_known_and_is_not_there_has_expired,
    messages_that_were_trimmed_meanwhile_are_a_resync,
    what_was_trimmed_and_told_before_is_none,
    more_changes_than_are_kept_are_a_resync_and_as_many_are_none,
    a_position_ahead_of_the_thread_is_a_resync,
    a_thread_deleted_and_made_anew_under_a_watch_is_a_resync,
);

async fn made(on: &Deployment, id: &str) -> (Threads, Watch) {
    let threads = on.threads();
    threads.create(id).await;
    threads.append(id, numbered(1, 5)).await;
    let watch = threads.watch_live(id).await;
    (threads, watch)
}

fn titled(id: &str, title: &str) -> ConversationThread {
    ConversationThread { title: title.into(), ..thread(id) }
}

async fn what_happened_meanwhile_is_told_in_order(on: &Deployment) {
    let (threads, watch) = made(on, "resumed").await;
    let position = watch.position.clone();
    drop(watch);
    threads.update(changing(titled("resumed", "t"), &["title"])).await.unwrap();
    threads.append("resumed", numbered(6, 7)).await;
    threads.update_message(revising("resumed", user("m2", "new"), &["parts"])).await.unwrap();
    threads.truncate(cut_after("resumed", 6)).await.unwrap();
    threads.append("resumed", numbered(8, 8)).await;
    let mut watch = threads.resume("resumed", &position).await;
    assert_eq!(watch.updated().await.0.title, "t");
    assert_eq!(ids(&watch.updated().await.1), ["m2"]);
    assert_eq!(watch.truncated().await, (1, 6));
    assert_eq!(seqs(&watch.appended().await), [6, 8]);
    watch.synced().await;
    // And from there, live.
    threads.append("resumed", numbered(9, 9)).await;
    assert_eq!(seqs(&watch.appended().await), [9]);
}

async fn every_event_is_a_place_to_go_on_from(on: &Deployment) {
    let (threads, watch) = made(on, "places").await;
    let began = watch.position.clone();
    drop(watch);
    threads.update_message(revising("places", user("m2", "new"), &["parts"])).await.unwrap();
    threads.update(changing(titled("places", "t"), &["title"])).await.unwrap();
    threads.append("places", numbered(6, 9)).await;
    let mut all = Vec::new();
    let mut watch = threads.resume("places", &began).await;
    for _ in 0..3 {
        all.push((watch.event().await, watch.position.clone()));
    }
    watch.synced().await;
    for (index, (_, position)) in all.iter().enumerate() {
        let mut again = threads.resume("places", position).await;
        for (expected, _) in &all[index + 1..] {
            assert_eq!(&again.event().await, expected);
        }
        again.synced().await;
    }
}

async fn large_changes_come_in_several_answers_and_before_what_was_appended(on: &Deployment) {
    let threads = on.threads();
    threads.create("large").await;
    let text = |letter: &str| letter.repeat(1 << 20);
    for n in 1..=5 {
        threads.append("large", vec![user(&format!("m{n}"), &text("x"))]).await;
    }
    let position = threads.watch_live("large").await.position;
    for n in 1..=5 {
        let changed = user(&format!("m{n}"), &text("y"));
        threads.update_message(revising("large", changed, &["parts"])).await.unwrap();
    }
    threads.append("large", numbered(6, 6)).await;
    threads.truncate(cut_after("large", 5)).await.unwrap();
    threads.append("large", numbered(7, 7)).await;
    let mut watch = threads.resume("large", &position).await;
    for n in 1..=5 {
        assert_eq!(ids(&watch.updated().await.1), [format!("m{n}")]);
    }
    assert_eq!(watch.truncated().await, (1, 5));
    assert_eq!(seqs(&watch.appended().await), [7]);
    watch.synced().await;
}

async fn a_resume_within_the_stored_messages_goes_on_there(on: &Deployment) {
    let threads = on.threads();
    threads.create("pages").await;
    threads.fill("pages", 1, 1500).await;
    let mut watch = threads.watch("pages", 0).await;
    assert_eq!(watch.appended().await.len(), 1000);
    let position = watch.position.clone();
    drop(watch);
    threads.update_message(revising("pages", user("m7", "new"), &["parts"])).await.unwrap();
    threads.update_message(revising("pages", user("m1400", "new"), &["parts"])).await.unwrap();
    let mut watch = threads.resume("pages", &position).await;
    // What was not told yet comes as it is.
    assert_eq!(ids(&watch.updated().await.1), ["m7"]);
    let rest = watch.appended_up_to(1500).await;
    assert_eq!(seqs(&rest), (1001..=1500).collect::<Vec<_>>());
    assert_eq!(rest[399].parts, user("", "new").parts);
    watch.synced().await;
}

async fn a_deletion_meanwhile_is_told(on: &Deployment) {
    let (threads, watch) = made(on, "gone").await;
    threads.delete("gone").await.unwrap();
    threads.resume("gone", &watch.position).await.deleted().await;
    // An earlier incarnation's, too.
    threads.create("gone").await;
    threads.delete("gone").await.unwrap();
    let mut watch = threads.resume("gone", &watch.position).await;
    watch.deleted().await;
}

async fn an_expiry_meanwhile_is_told(on: &Deployment) {
    let threads = on.threads();
    let second = std::time::Duration::from_secs(1);
    let new = ConversationThread { ttl: Some(wire(second)), ..thread("over") };
    threads.try_create(new).await.unwrap();
    let watch = threads.watch_live("over").await;
    let position = watch.position.clone();
    drop(watch);
    eventually("it expires", 10 * second, async || threads.peek("over").await.is_err()).await;
    threads.resume("over", &position).await.expired().await;
}

async fn a_thread_made_anew_is_a_resync(on: &Deployment) {
    let (threads, watch) = made(on, "anew").await;
    threads.delete("anew").await.unwrap();
    threads.create("anew").await;
    let now = threads.append("anew", numbered(1, 9)).await.thread.unwrap();
    let mut watch = threads.resume("anew", &watch.position).await;
    let (thread, why) = watch.resynced().await;
    assert_eq!((thread.etag, watch.position.seq), (now.etag, 9));
    assert!(!why.is_empty());
    watch.synced().await;
    threads.append("anew", numbered(10, 10)).await;
    assert_eq!(seqs(&watch.appended().await), [10]);
}

async fn a_thread_that_was_never_known_and_is_not_there_has_expired(on: &Deployment) {
    let position = ThreadPosition { epoch: "never".into(), revision: 1, seq: 0 };
    on.threads().resume("never", &position).await.expired().await;
}

async fn messages_that_were_trimmed_meanwhile_are_a_resync(on: &Deployment) {
    let (threads, watch) = made(on, "lost").await;
    let trim = Some(TrimPolicy { max_messages: 3, max_bytes: 0 });
    let policy = ConversationThread { trim, ..thread("lost") };
    threads.update(changing(policy, &["trim"])).await.unwrap();
    threads.append("lost", numbered(6, 9)).await;
    let mut watch = threads.resume("lost", &watch.position).await;
    let (thread, _) = watch.resynced().await;
    assert_eq!((thread.first_seq, thread.last_seq, watch.position.seq), (7, 9, 9));
    watch.synced().await;
}

async fn what_was_trimmed_and_told_before_is_none(on: &Deployment) {
    let (threads, watch) = made(on, "kept").await;
    threads.truncate(keep_last("kept", 2)).await.unwrap();
    threads.append("kept", numbered(6, 6)).await;
    let mut watch = threads.resume("kept", &watch.position).await;
    assert_eq!(watch.truncated().await, (4, 5));
    assert_eq!(seqs(&watch.appended().await), [6]);
    watch.synced().await;
}

async fn more_changes_than_are_kept_are_a_resync_and_as_many_are_none(on: &Deployment) {
    for (count, is_resync) in [(256, false), (257, true)] {
        let id = format!("log-{count}");
        let (threads, watch) = made(on, &id).await;
        for n in 0..count {
            threads.update(changing(titled(&id, &n.to_string()), &["title"])).await.unwrap();
        }
        let mut again = threads.resume(&id, &watch.position).await;
        let thread = if is_resync { again.resynced().await.0 } else { again.updated().await.0 };
        assert_eq!(thread.title, (count - 1).to_string());
        again.synced().await;
    }
}

async fn a_position_ahead_of_the_thread_is_a_resync(on: &Deployment) {
    let (threads, watch) = made(on, "ahead").await;
    let told = &watch.position;
    for (revision, seq) in
        [(told.revision + 1, told.seq), (told.revision, told.seq + 1), (i64::MAX, i64::MAX)]
    {
        let position = ThreadPosition { revision, seq, ..told.clone() };
        let mut watch = threads.resume("ahead", &position).await;
        watch.resynced().await;
        assert_eq!(&watch.position, told);
        watch.synced().await;
    }
}

async fn a_thread_deleted_and_made_anew_under_a_watch_is_a_resync(on: &Deployment) {
    let (threads, mut watch) = made(on, "under").await;
    threads.delete("under").await.unwrap();
    // The watch may see the gap between the two, and then ends.
    let created = threads.try_create(thread("under")).await.unwrap().thread.unwrap();
    match watch.event().await {
        Event::Deleted(_) => watch.ended().await,
        Event::Resync(resync) => assert_eq!(resync.thread.unwrap().etag, created.etag),
        other => panic!("{other:?}"),
    }
    threads.delete("under").await.unwrap();
    assert_refused(threads.peek("under").await, Code::NotFound, "THREAD_NOT_FOUND");
}
