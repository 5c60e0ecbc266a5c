//! A process that is killed in an outage, and the one that follows.

use std::{fs, time::Duration};

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, CreateThreadRequest, ListMessagesRequest, Message,
    ServingMode,
};
use nix::sys::signal::Signal;

use super::{FOUND, Folder, MERGED, SOON};
use crate::{
    outage::merging::{
        append_locally, assert_numbered, assert_thread, assert_waiting, fill_locally, merge_all,
    },
    support::{
        behind_proxy::BehindProxy,
        eventually::eventually,
        status::{merged, status},
        threads::{Threads, appending, ids, listing, numbered, thread, wire},
    },
};

/// Messages, creations and renewals that [`accept`] leaves.
const ACCEPTED: i64 = 9;

fn creation() -> CreateThreadRequest {
    CreateThreadRequest {
        thread: Some(ConversationThread { owner: "ann".into(), title: "Weather".into(), ..thread("new") }),
        messages: numbered(1, 2),
        request_id: "r".into(),
        ..Default::default()
    }
}

/// Has a service accept everything that it can in an outage.
async fn accept(on: &BehindProxy) {
    let threads = on.threads();
    threads.create("t").await;
    threads.create("touched").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    append_locally(&threads, "t", numbered(6, 6)).await;
    let made = threads.client.clone().create_thread(creation()).await.unwrap().into_inner();
    assert_eq!(made.authority(), Authority::Local);
    let request = AppendMessagesRequest { create_if_missing: true, ..appending("made", numbered(1, 1)) };
    assert_eq!(threads.try_append(request).await.unwrap().authority(), Authority::Local);
    threads.touch("touched", Some(Duration::from_hours(24))).await.unwrap();
    // One that only renews leaves the time to live as it was told to be.
    threads.touch("touched", None).await.unwrap();
    assert_waiting(on, ACCEPTED).await;
}

/// Checks that Redis has all of it, once and in order.
async fn assert_there(threads: &Threads) {
    assert_numbered(threads, "t", 6).await;
    assert_thread(threads, "new", &["m1", "m2"]).await;
    assert_thread(threads, "made", &["m1"]).await;
    let new = threads.peek("new").await.unwrap();
    assert_eq!((new.owner.as_str(), new.title.as_str()), ("ann", "Weather"));
    let touched = threads.peek("touched").await.unwrap();
    assert_eq!(touched.ttl, Some(wire(Duration::from_hours(24))));
    // A retry of what was acknowledged to a caller of the first process.
    let again = threads.append("t", numbered(4, 6)).await;
    assert_eq!(again.authority(), Authority::Shared);
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
    let again = threads.client.clone().create_thread(creation()).await.unwrap().into_inner();
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
}

async fn after(threads: &Threads, id: &str, seq: i64) -> Vec<Message> {
    let page = threads.page(ListMessagesRequest { after_seq: seq, ..listing(id) }).await.unwrap();
    assert_eq!(page.authority(), Authority::Local);
    assert!(page.messages.iter().all(|message| message.provisional));
    page.messages
}

#[tokio::test]
async fn while_redis_is_away_what_was_accepted_is_served_and_merged_later() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    accept(&on).await;
    on.replace_service(folder.options()).await;
    let found = on.service.wait_for_log(FOUND, SOON).await;
    assert!(found.contains(&format!("writes={ACCEPTED}")) && found.contains("threads=4"), "{found}");

    let threads = on.threads();
    let told = status(&on.channel).await;
    assert_eq!((told.mode(), told.journal.unwrap().entries), (ServingMode::Degraded, ACCEPTED));
    assert_eq!(threads.peek("t").await.unwrap().message_count, 6);
    assert_eq!(ids(&after(&threads, "t", 3).await), ["m4", "m5", "m6"]);
    assert_eq!(ids(&after(&threads, "new", 0).await), ["m1", "m2"]);
    let again = threads.append("t", numbered(4, 6)).await;
    assert_eq!(again.authority(), Authority::Local);
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
    append_locally(&threads, "new", numbered(3, 3)).await;
    assert_eq!(ids(&after(&threads, "new", 0).await), ["m1", "m2", "m3"]);

    merge_all(&on).await;
    assert_thread(&threads, "new", &["m1", "m2", "m3"]).await;
    assert_numbered(&threads, "t", 6).await;
    folder.is_empty().await;
}

#[tokio::test]
async fn with_redis_back_it_is_merged_at_the_start() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    accept(&on).await;
    on.service.kill();
    on.proxy.forward().await;
    on.replace_service(folder.options()).await;
    // Whichever of the two a caller sees: what waits is not missing.
    assert_eq!(on.threads().peek("t").await.unwrap().message_count, 6);
    on.service.wait_for_log(MERGED, SOON).await;
    // It was RECONCILING from the start: else it would have said so later.
    assert_eq!((on.service.logged(FOUND), on.service.logged("reconciling:")), (1, 0));
    let told = merged(&on.channel).await;
    assert_eq!(told.journal.unwrap_or_default().parked, []);
    assert_there(&on.threads()).await;
    folder.is_empty().await;
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_leaves_the_same() {
    for policy in ["always", "everysec", "no"] {
        let folder = Folder::new();
        let mut on = folder.start().await;
        let options = || folder.options().var("FUSEWIRE__FALLBACK__JOURNAL_FSYNC", policy);
        on.replace_service(options()).await;
        on.is_back().await;
        accept(&on).await;
        on.service.signal(Signal::SIGTERM);
        assert_eq!(on.service.wait_exit(SOON).await.code(), Some(0));
        on.replace_service(options()).await;
        merge_all(&on).await;
        assert_there(&on.threads()).await;
    }
}

#[tokio::test]
async fn a_process_killed_in_the_middle_of_the_replay_leaves_the_rest_to_the_next() {
    const LONG: i64 = 5000;
    let folder = Folder::new();
    let mut on = folder.start().await;
    let threads = on.threads();
    threads.create("big").await;
    threads.append("big", numbered(1, 10)).await;
    on.lose().await;
    fill_locally(&threads, "big", 11, LONG).await;
    let raw = on.redis.raw().await;
    let last_seq = async || raw.get::<i64>(&["HGET", "conversation_thread:{big}", "last_seq"]).await;
    on.service.kill();
    on.proxy.delay(Duration::from_millis(200)).await;
    for part in [1000, 2000] {
        on.replace_service(folder.options()).await;
        eventually("part of the run is merged", SOON, async || last_seq().await >= part).await;
        on.service.kill();
        eprintln!("killed when {} of {LONG} were there", last_seq().await);
    }
    on.proxy.forward().await;
    on.replace_service(folder.options()).await;
    merge_all(&on).await;
    assert_numbered(&on.threads(), "big", LONG).await;
    folder.is_empty().await;
}

#[tokio::test]
async fn a_journal_that_is_merged_twice_changes_nothing_the_second_time() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    accept(&on).await;
    on.service.kill();
    let kept = fs::read(folder.journal()).unwrap();
    on.proxy.forward().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        fs::write(folder.journal(), &kept).unwrap();
        on.replace_service(folder.options()).await;
        on.service.wait_for_log(FOUND, SOON).await;
        merge_all(&on).await;
        let threads = on.threads();
        assert_there(&threads).await;
        let mut all = Vec::new();
        for id in ["t", "new", "made"] {
            all.extend(threads.messages(id).await);
        }
        seen.push(all);
        on.service.kill();
    }
    assert_eq!(seen[0], seen[1]);
}
