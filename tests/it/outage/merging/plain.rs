//! Merges without conflict: order, times, renewals, limits.

use std::time::Duration;

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, CreateThreadRequest, ListThreadsRequest,
    ServingMode, TrimPolicy,
};

use super::{SOON, append_locally, assert_thread, assert_waiting, merge_all, quick, start, start_with};
use crate::support::{
    eventually::eventually,
    status::status,
    threads::{Threads, appending, listing, numbered, revising, seqs, thread, user, wire},
};

#[tokio::test]
async fn what_memory_accepted_comes_to_redis_in_its_order_and_with_its_times() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    append_locally(&threads, "t", numbered(6, 6)).await;
    let creation = CreateThreadRequest {
        thread: Some(ConversationThread {
            owner: "ann".into(),
            title: "Weather".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ttl: Some(wire(Duration::from_hours(5))),
            ..thread("new")
        }),
        messages: numbered(1, 2),
        request_id: "r".into(),
        ..Default::default()
    };
    let create = async || threads.client.clone().create_thread(creation.clone()).await.unwrap().into_inner();
    assert_eq!(create().await.authority(), Authority::Local);
    let request = AppendMessagesRequest { create_if_missing: true, ..appending("made", numbered(1, 1)) };
    assert_eq!(threads.try_append(request).await.unwrap().authority(), Authority::Local);
    let (accepted, made) = (threads.messages("t").await, threads.peek("new").await.unwrap());
    // Six messages and two creations.
    assert_waiting(&on, 8).await;
    let told = status(&on.channel).await;
    let waiting = told.journal.clone().unwrap();
    assert!(waiting.bytes > 0 && waiting.oldest_time.is_some(), "{waiting:?}");
    assert_eq!((told.mode(), waiting.parked.len()), (ServingMode::Degraded, 0));

    merge_all(&on).await;
    let merged = assert_thread(&threads, "t", &["m1", "m2", "m3", "m4", "m5", "m6"]).await;
    let times = |messages: &[fusewire::grpc::proto::Message]| -> Vec<_> {
        messages.iter().map(|message| message.commit_time).collect()
    };
    assert_eq!(times(&merged), times(&accepted));
    assert_thread(&threads, "new", &["m1", "m2"]).await;
    assert_thread(&threads, "made", &["m1"]).await;
    let new = threads.peek("new").await.unwrap();
    assert_eq!(new.create_time, made.create_time);
    assert_eq!(
        (&new.owner, &new.title, &new.labels, new.ttl),
        (&made.owner, &made.title, &made.labels, made.ttl)
    );
    assert_eq!(threads.owned("ann", 10).await, ["new"]);

    // Retries of what was acknowledged in the outage.
    let again = threads.append("t", numbered(4, 6)).await;
    assert_eq!(again.authority(), Authority::Shared);
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
    assert_eq!(again.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [4, 5, 6]);
    let again = create().await;
    assert_eq!((again.authority(), again.messages.len()), (Authority::Shared, 2));
    assert!(again.messages.iter().all(|message| message.duplicate && message.seq > 0), "{again:?}");
    // Another instance sees the same.
    let other = on.another().await;
    let other = Threads::on(other.channel().await);
    assert_eq!(other.messages("t").await, merged);
}

#[tokio::test]
async fn a_second_outage_is_merged_like_the_first() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    for round in 0..3 {
        let from = 1 + 4 * round;
        threads.append("t", numbered(from, from + 1)).await;
        on.lose().await;
        append_locally(&threads, "t", numbered(from + 2, from + 2)).await;
        append_locally(&threads, "t", numbered(from + 3, from + 3)).await;
        merge_all(&on).await;
        super::assert_numbered(&threads, "t", from + 3).await;
    }
}

#[tokio::test]
async fn a_write_that_timed_out_is_there_once_whether_it_ran_or_not() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    for round in 0..3 {
        let from = 1 + 3 * round;
        // Redis gets it, the caller is answered from memory.
        on.proxy.drop_replies().await;
        append_locally(&threads, "t", numbered(from, from)).await;
        on.is_lost().await;
        append_locally(&threads, "t", numbered(from + 1, from + 1)).await;
        merge_all(&on).await;
        heard(&threads).await;
        super::assert_numbered(&threads, "t", from + 1).await;
        // Redis gets it late.
        on.proxy.freeze().await;
        append_locally(&threads, "t", numbered(from + 2, from + 2)).await;
        on.is_lost().await;
        merge_all(&on).await;
        heard(&threads).await;
        super::assert_numbered(&threads, "t", from + 2).await;
    }
}

/// Returns once a call does not end up on connections any more that lost replies.
async fn heard(threads: &Threads) {
    eventually("redis answers", SOON, async || threads.peek("t").await.is_ok()).await;
}

#[tokio::test]
async fn limits_do_not_keep_out_what_was_accepted() {
    let on = start_with(quick().var("FUSEWIRE__THREADS__MAX_MESSAGES", "10")).await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 8)).await;
    on.lose().await;
    append_locally(&threads, "t", numbered(11, 12)).await;
    let other = on.another().await;
    Threads::on(other.channel().await).append("t", numbered(9, 10)).await;
    merge_all(&on).await;
    super::assert_numbered(&threads, "t", 12).await;
}

#[tokio::test]
async fn the_trim_policy_applies_to_what_is_merged() {
    let on = start().await;
    let threads = on.threads();
    let trim = TrimPolicy { max_messages: 5, max_bytes: 0 };
    threads.try_create(ConversationThread { trim: Some(trim), ..thread("t") }).await.unwrap();
    threads.append("t", numbered(1, 4)).await;
    on.lose().await;
    for n in 5..=12 {
        append_locally(&threads, "t", numbered(n, n)).await;
    }
    merge_all(&on).await;
    let messages = threads.recount("t").await;
    assert_eq!(seqs(&messages), [8, 9, 10, 11, 12]);
    assert_eq!(crate::support::threads::ids(&messages), ["m8", "m9", "m10", "m11", "m12"]);
}

#[tokio::test]
async fn renewals_are_made_good() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let ids = ["touched", "lengthened", "read", "left"];
    for id in ids {
        threads.create(id).await;
        threads.append(id, numbered(1, 2)).await;
    }
    let ttl = async |id: &str| raw.get::<i64>(&["PTTL", &format!("conversation_thread:{{{id}}}")]).await;
    on.lose().await;
    // As if the outage had lasted long.
    for id in ids {
        for part in ["", ":messages", ":ids"] {
            raw.run(&["PEXPIRE", &format!("conversation_thread:{{{id}}}{part}"), "900000"]).await;
        }
    }
    threads.touch("touched", None).await.unwrap();
    threads.touch("lengthened", Some(Duration::from_hours(24))).await.unwrap();
    threads.get("read").await.unwrap();
    threads.page(listing("left")).await.unwrap();
    merge_all(&on).await;
    let (hour, two_hours) = (3_600_000, 7_200_000);
    assert!((hour..=two_hours).contains(&ttl("touched").await), "{}", ttl("touched").await);
    assert!(ttl("lengthened").await > 23 * hour, "{}", ttl("lengthened").await);
    assert!((hour..=two_hours).contains(&ttl("read").await), "{}", ttl("read").await);
    assert!(ttl("left").await <= 900_000, "a peek renews nothing");
    assert_eq!(threads.peek("lengthened").await.unwrap().ttl, Some(wire(Duration::from_hours(24))));
}

#[tokio::test]
async fn a_new_time_to_live_is_not_lost_to_a_renewal_after_it() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    on.lose().await;
    threads.touch("t", Some(Duration::from_hours(24))).await.unwrap();
    threads.touch("t", None).await.unwrap();
    assert_eq!(threads.peek("t").await.unwrap().ttl, Some(wire(Duration::from_hours(24))));
    merge_all(&on).await;
    assert_eq!(threads.peek("t").await.unwrap().ttl, Some(wire(Duration::from_hours(24))));
}

#[tokio::test]
async fn a_copy_that_was_renewed_while_others_changed_the_thread_does_not_pass_for_it() {
    let on = start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", vec![user("m1", "before")]).await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    on.lose().await;
    threads.touch("t", None).await.unwrap();
    other.update_message(revising("t", user("m1", "after!"), &["parts"])).await.unwrap();
    merge_all(&on).await;
    on.lose().await;
    // What is held by then was read after the merge, or nothing is.
    if let Ok(page) = threads.page(listing("t")).await {
        assert_eq!(page.messages[0].parts, user("m1", "after!").parts);
    }
}

#[tokio::test]
async fn a_list_does_not_leave_out_a_thread_that_is_still_to_be_merged() {
    let on = start().await;
    let threads = on.threads();
    on.proxy.refuse().await;
    on.proxy.cut().await;
    // The call that notices: it may have been carried out, so it waits for a while before it is repeated.
    let made = threads.try_create(ConversationThread { owner: "ann".into(), ..thread("t") }).await;
    assert_eq!(made.unwrap().authority(), Authority::Local);
    on.proxy.forward().await;
    eventually("threads are listed", SOON, async || {
        let query = ListThreadsRequest { owner: "ann".into(), page_size: 10, ..Default::default() };
        let Ok(page) = threads.client.clone().list_threads(query).await else { return false };
        let found: Vec<_> = page.into_inner().threads.into_iter().map(|thread| thread.id).collect();
        assert_eq!(found, ["t"]);
        true
    })
    .await;
}
