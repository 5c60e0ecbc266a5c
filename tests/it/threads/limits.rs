//! What a thread and a store may hold, and what trimming makes of it.

use fusewire::grpc::proto::{ConversationThread, CreateThreadRequest, Message, Role, TrimPolicy};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, Store, on_every_store},
    threads::{
        appending, assert_refused, changing, ids, message, numbered, revising, seqs, stored_size, thread,
        user,
    },
};

on_every_store!(
    a_policy_set_later_trims_at_the_next_append,
    a_creation_with_messages_is_trimmed,
    of_70_instructions_64_outlive_trimming,
    of_300_kib_of_instructions_256_outlive_trimming,
    trimming_counts_bytes_as_readers_get_them,
);

fn trimmed(id: &str, max_messages: i32, max_bytes: i64) -> ConversationThread {
    ConversationThread { trim: Some(TrimPolicy { max_messages, max_bytes }), ..thread(id) }
}

async fn a_policy_set_later_trims_at_the_next_append(on: &Deployment) {
    let threads = on.threads();
    threads.create("later").await;
    threads.fill("later", 1, 20).await;
    let policy = trimmed("later", 5, 0);
    assert_eq!(threads.update(changing(policy, &["trim"])).await.unwrap().message_count, 20);
    threads.append("later", numbered(1, 20)).await;
    assert_eq!(threads.recount("later").await.len(), 20, "duplicates are no append");
    threads.fill("later", 21, 21).await;
    assert_eq!(seqs(&threads.recount("later").await), [17, 18, 19, 20, 21]);
    threads.update(changing(thread("later"), &["trim"])).await.unwrap();
    threads.fill("later", 22, 30).await;
    assert_eq!(threads.recount("later").await.len(), 14);
}

async fn a_creation_with_messages_is_trimmed(on: &Deployment) {
    let threads = on.threads();
    let request = CreateThreadRequest {
        thread: Some(trimmed("born", 3, 0)),
        messages: [vec![message("sys", Role::System, "x")], numbered(1, 9)].concat(),
        ..Default::default()
    };
    let made = threads.client.clone().create_thread(request).await.unwrap().into_inner();
    assert_eq!(
        made.messages.iter().map(|message| message.seq).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    assert_eq!(made.thread.unwrap().revision, 1);
    assert_eq!(ids(&threads.recount("born").await), ["sys", "m7", "m8", "m9"]);
}

async fn of_70_instructions_64_outlive_trimming(on: &Deployment) {
    let threads = on.threads();
    threads.try_create(trimmed("seventy", 2, 0)).await.unwrap();
    let instructions = (1..=70).map(|n| message(&format!("s{n}"), Role::Developer, "x")).collect();
    threads.append("seventy", instructions).await;
    assert_eq!(seqs(&threads.recount("seventy").await), (1..=64).chain([69, 70]).collect::<Vec<_>>());
    threads.fill("seventy", 1, 3).await;
    let expected: Vec<i64> = (1..=64).chain([72, 73]).collect();
    assert_eq!(seqs(&threads.recount("seventy").await), expected);
    assert_eq!(
        seqs(&threads.context("seventy", 1, 0).await.messages),
        (1..=64).chain([73]).collect::<Vec<_>>()
    );
    // Room that was made is used again.
    threads.truncate(crate::support::threads::keep_last("seventy", 10)).await.unwrap();
    threads.append("seventy", vec![message("late", Role::System, "x")]).await;
    threads.fill("seventy", 4, 9).await;
    assert!(ids(&threads.recount("seventy").await).contains(&"late"));
}

async fn of_300_kib_of_instructions_256_outlive_trimming(on: &Deployment) {
    let threads = on.threads();
    threads.try_create(trimmed("weighty", 1, 0)).await.unwrap();
    for n in 1..=3 {
        let large = message(&format!("s{n}"), Role::System, &"x".repeat(100 << 10));
        threads.append("weighty", vec![large]).await;
    }
    threads.append("weighty", vec![message("s4", Role::System, "fits")]).await;
    threads.fill("weighty", 1, 2).await;
    assert_eq!(ids(&threads.recount("weighty").await), ["s1", "s2", "s4", "m2"]);
    let grown = message("s4", Role::System, &"x".repeat(100 << 10));
    let outcome = threads.update_message(revising("weighty", grown, &["parts"])).await;
    assert_refused(outcome, Code::ResourceExhausted, "THREAD_LIMIT");
    assert_eq!(ids(&threads.recount("weighty").await), ["s1", "s2", "s4", "m2"]);
}

async fn trimming_counts_bytes_as_readers_get_them(on: &Deployment) {
    let threads = on.threads();
    threads.create("measure").await;
    threads.fill("measure", 1, 1).await;
    let one = stored_size(&threads.messages("measure").await[0]);
    for (limit, expected) in [(3 * one, 3), (3 * one - 1, 2), (one, 1), (1, 1)] {
        let id = &format!("bytes-{limit}");
        threads.try_create(trimmed(id, 0, limit)).await.unwrap();
        for n in 1..=9 {
            threads.fill(id, n, n).await;
        }
        assert_eq!(threads.recount(id).await.len(), expected, "{limit} of {one}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_holds_only_so_much_and_says_so() {
    let settings = [("FUSEWIRE__THREADS__MAX_MESSAGES", "10"), ("FUSEWIRE__THREADS__MAX_BYTES", "2KiB")];
    for store in [Store::Memory, Store::Redis] {
        let on = Deployment::start_with(store, &settings).await;
        let threads = on.threads();
        let before = threads.create("limited").await;
        let status = assert_refused(
            threads.try_append(appending("limited", numbered(1, 11))).await,
            Code::ResourceExhausted,
            "THREAD_LIMIT",
        );
        assert_eq!(status.get_details_quota_failure().unwrap().violations.len(), 1);
        assert_eq!(threads.peek("limited").await.unwrap().etag, before.etag, "nothing was written");
        threads.fill("limited", 1, 10).await;
        let eleventh = || appending("limited", numbered(10, 11));
        assert_refused(threads.try_append(eleventh()).await, Code::ResourceExhausted, "THREAD_LIMIT");
        assert!(
            threads.append("limited", numbered(1, 10)).await.messages.iter().all(|message| message.duplicate)
        );
        threads.truncate(crate::support::threads::keep_last("limited", 5)).await.unwrap();
        threads.try_append(eleventh()).await.unwrap();
        // Bytes, also when a message grows in place.
        let large = |id: &str| user(id, &"x".repeat(2000));
        let outcome = threads.try_append(appending("limited", vec![large("large")])).await;
        assert_refused(outcome, Code::ResourceExhausted, "THREAD_LIMIT");
        let outcome = threads.update_message(revising("limited", large("m11"), &["parts"])).await;
        assert_refused(outcome, Code::ResourceExhausted, "THREAD_LIMIT");
        assert_eq!(threads.recount("limited").await.len(), 6);
        // Whoever trims is never full.
        threads.try_create(trimmed("rolling", 3, 1024)).await.unwrap();
        threads.append("rolling", numbered(1, 100)).await;
        assert_eq!(threads.recount("rolling").await.len(), 3);
        threads.append("rolling", vec![large("large")]).await;
        assert_eq!(ids(&threads.recount("rolling").await), ["large"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_refuses_and_never_drops_what_it_acknowledged() {
    let on = Deployment::start_with(Store::Memory, &[("FUSEWIRE__MEMORY__MAX_BYTES", "256KiB")]).await;
    let threads = on.threads();
    threads.create("full").await;
    let mut acknowledged: Vec<Message> = Vec::new();
    let refused = loop {
        let next = user(&format!("f{}", acknowledged.len()), &"x".repeat(4000));
        match threads.try_append(appending("full", vec![next.clone()])).await {
            Ok(_) => acknowledged.push(next),
            Err(status) => break status,
        }
        assert!(acknowledged.len() < 70, "more than fits");
    };
    assert!(acknowledged.len() > 30, "{}", acknowledged.len());
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, "STORE_FULL");
    let other = CreateThreadRequest {
        thread: Some(thread("full-other")),
        messages: vec![user("large", &"x".repeat(10_000))],
        ..Default::default()
    };
    let outcome = threads.client.clone().create_thread(other).await;
    assert_refused(outcome, Code::ResourceExhausted, "STORE_FULL");
    let held = threads.recount("full").await;
    assert_eq!(ids(&held), ids(&acknowledged));
    threads.delete("full").await.unwrap();
    threads.create("full").await;
    threads.append("full", acknowledged[..20].to_vec()).await;
}
