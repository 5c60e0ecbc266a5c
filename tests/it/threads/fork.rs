//! `ForkThread`: a copy with the same messages and seqs, independent from then on.

use std::time::Duration;

use fusewire::grpc::proto::{ConversationThread, ForkThreadRequest, Message, Role, ThreadParent, TrimPolicy};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        Threads, assert_refused, calls, cut_after, forking, ids, keep_last, message, numbered, reason,
        result, revising, seqs, thread, told, user, wire,
    },
};

on_every_store!(
    a_whole_copy_equals_its_source,
    a_copy_up_to_a_seq_ends_there,
    two_thousand_five_hundred_messages_are_copied,
    a_copy_of_a_trimmed_and_cut_thread_equals_it,
    an_empty_thread_has_an_empty_copy,
    a_copy_survives_the_deletion_of_its_source_and_the_other_way_round,
    source_and_copy_go_separate_ways,
    a_copy_knows_the_ids_of_what_it_holds,
    an_id_in_use_is_refused,
    a_repeated_fork_answers_the_copy_as_it_is,
    an_absent_id_is_derived_from_the_request,
    a_seq_beyond_the_source_is_refused,
    of_concurrent_forks_to_one_id_exactly_one_succeeds,
    a_fork_while_others_append_is_a_true_prefix,
);

async fn source(on: &Deployment, id: &str) -> Threads {
    let threads = on.threads();
    let new = ConversationThread {
        owner: format!("{id}-owner"),
        title: "source".into(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ttl: Some(wire(Duration::from_mins(10))),
        ..thread(id)
    };
    threads.try_create(new).await.unwrap();
    threads
        .append(id, vec![message("sys", Role::System, "be kind"), calls("call", &["x"]), result("back", "x")])
        .await;
    threads.fill(id, 1, 7).await;
    threads
}

async fn a_whole_copy_equals_its_source(on: &Deployment) {
    let threads = source(on, "whole").await;
    let copy = threads.fork(forking("whole", "whole-copy")).await.unwrap();
    let was = threads.peek("whole").await.unwrap();
    let expected = ConversationThread {
        id: "whole-copy".into(),
        etag: copy.etag.clone(),
        revision: 1,
        parent: Some(ThreadParent { thread_id: "whole".into(), seq: 10 }),
        create_time: copy.create_time,
        update_time: copy.update_time,
        expire_time: copy.expire_time,
        ..was.clone()
    };
    assert_eq!(copy, expected);
    assert_ne!(copy.etag, was.etag);
    assert_eq!(threads.recount("whole-copy").await, threads.messages("whole").await);
    assert_eq!(
        threads.context("whole-copy", 8, 0).await.messages,
        threads.context("whole", 8, 0).await.messages
    );
    assert_eq!(threads.owned("whole-owner", 0).await.len(), 2);
    assert_eq!(threads.append("whole-copy", numbered(100, 100)).await.messages[0].seq, 11);
}

async fn a_copy_up_to_a_seq_ends_there(on: &Deployment) {
    let threads = source(on, "partly").await;
    for at_seq in [1, 3, 9, 10] {
        let id = &format!("partly-{at_seq}");
        let copy = threads.fork(ForkThreadRequest { at_seq, ..forking("partly", id) }).await.unwrap();
        assert_eq!((copy.last_seq, copy.message_count), (at_seq, at_seq));
        assert_eq!(copy.parent, Some(ThreadParent { thread_id: "partly".into(), seq: at_seq }));
        let expected = threads.messages("partly").await;
        assert_eq!(threads.recount(id).await, expected[..usize::try_from(at_seq).unwrap()]);
        assert_eq!(threads.append(id, vec![user("next", "x")]).await.messages[0].seq, at_seq + 1);
    }
}

async fn two_thousand_five_hundred_messages_are_copied(on: &Deployment) {
    let threads = on.threads();
    threads.create("large").await;
    threads.fill("large", 1, 2500).await;
    threads.fork(forking("large", "large-copy")).await.unwrap();
    let copied = threads.recount("large-copy").await;
    assert_eq!(copied.len(), 2500);
    assert_eq!(copied, threads.messages("large").await);
    let half = ForkThreadRequest { at_seq: 1250, ..forking("large", "large-half") };
    threads.fork(half).await.unwrap();
    assert_eq!(seqs(&threads.recount("large-half").await), (1..=1250).collect::<Vec<_>>());
}

async fn a_copy_of_a_trimmed_and_cut_thread_equals_it(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 6, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("scarred") }).await.unwrap();
    threads.append("scarred", vec![message("sys", Role::System, "be kind")]).await;
    threads.fill("scarred", 1, 8).await;
    threads.append("scarred", vec![message("dev", Role::Developer, "be brief")]).await;
    threads.truncate(cut_after("scarred", 8)).await.unwrap();
    threads.fill("scarred", 11, 12).await;
    let expected = threads.recount("scarred").await;
    assert_eq!(seqs(&expected), [1, 5, 6, 7, 8, 11, 12]);
    threads.fork(forking("scarred", "scarred-copy")).await.unwrap();
    assert_eq!(threads.recount("scarred-copy").await, expected);
    // At a hole, and where only the instruction is left.
    for (at_seq, length) in [(9, 5), (8, 5), (5, 2), (3, 1), (1, 1)] {
        let id = &format!("scarred-{at_seq}");
        let copy = threads.fork(ForkThreadRequest { at_seq, ..forking("scarred", id) }).await.unwrap();
        assert_eq!(copy.last_seq, at_seq);
        assert_eq!(threads.recount(id).await, expected[..length], "at {at_seq}");
        assert_eq!(threads.append(id, vec![user("next", "x")]).await.messages[0].seq, at_seq + 1);
        threads.recount(id).await;
    }
    // The policy is the copy's too.
    threads.fill("scarred-copy", 21, 30).await;
    assert_eq!(
        ids(&threads.recount("scarred-copy").await),
        ["sys", "m25", "m26", "m27", "m28", "m29", "m30"]
    );
}

async fn an_empty_thread_has_an_empty_copy(on: &Deployment) {
    let threads = on.threads();
    threads.create("void").await;
    let copy = threads.fork(forking("void", "void-copy")).await.unwrap();
    assert_eq!((copy.message_count, copy.first_seq, copy.last_seq), (0, 0, 0));
    threads.fill("void", 1, 3).await;
    threads.truncate(keep_last("void", 0)).await.unwrap();
    let copy = threads.fork(forking("void", "void-again")).await.unwrap();
    assert_eq!((copy.message_count, copy.first_seq, copy.last_seq), (0, 0, 3));
    assert_eq!(threads.append("void-again", numbered(9, 9)).await.messages[0].seq, 4);
    assert_refused(threads.fork(forking("void-none", "x")).await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_copy_survives_the_deletion_of_its_source_and_the_other_way_round(on: &Deployment) {
    let threads = source(on, "survivor").await;
    let expected = threads.messages("survivor").await;
    for id in ["survivor-1", "survivor-2"] {
        threads.fork(forking("survivor", id)).await.unwrap();
    }
    threads.delete("survivor-1").await.unwrap();
    assert_eq!(threads.recount("survivor").await, expected);
    threads.delete("survivor").await.unwrap();
    assert_eq!(threads.recount("survivor-2").await, expected);
    assert_eq!(threads.peek("survivor-2").await.unwrap().parent.unwrap().thread_id, "survivor");
}

async fn source_and_copy_go_separate_ways(on: &Deployment) {
    let threads = source(on, "separate").await;
    threads.fork(forking("separate", "separate-copy")).await.unwrap();
    let (source, copy) = (threads.messages("separate").await, threads.messages("separate-copy").await);
    threads.append("separate-copy", vec![user("mine", "x")]).await;
    threads.update_message(revising("separate-copy", user("m1", "changed"), &["parts"])).await.unwrap();
    threads.truncate(keep_last("separate-copy", 2)).await.unwrap();
    assert_eq!(threads.recount("separate").await, source);
    threads.fork(forking("separate", "separate-third")).await.unwrap();
    threads.update_message(revising("separate", user("m1", "changed"), &["parts"])).await.unwrap();
    threads.truncate(cut_after("separate", 0)).await.unwrap();
    assert_eq!(threads.recount("separate-third").await, copy);
}

async fn a_copy_knows_the_ids_of_what_it_holds(on: &Deployment) {
    let threads = source(on, "known").await;
    threads.fork(ForkThreadRequest { at_seq: 6, ..forking("known", "known-copy") }).await.unwrap();
    let again = threads.append("known-copy", numbered(1, 5)).await;
    let told: Vec<(i64, bool)> = again.messages.iter().map(|m| (m.seq, m.duplicate)).collect();
    assert_eq!(told, [(4, true), (5, true), (6, true), (7, false), (8, false)]);
    let status =
        threads.try_append(crate::support::threads::appending("known-copy", vec![user("m1", "other")]));
    assert_eq!(reason(&status.await.unwrap_err()), "MESSAGE_ID_REUSED");
    assert!(
        threads.append("known-copy", vec![message("sys", Role::System, "be kind")]).await.messages[0]
            .duplicate
    );
}

async fn an_id_in_use_is_refused(on: &Deployment) {
    let threads = source(on, "taken").await;
    let before = threads.create("taken-already").await;
    for id in ["taken-already", "taken"] {
        assert_refused(threads.fork(forking("taken", id)).await, Code::AlreadyExists, "THREAD_EXISTS");
    }
    assert_eq!(threads.peek("taken-already").await.unwrap().etag, before.etag);
    threads.delete("taken-already").await.unwrap();
    threads.fork(forking("taken", "taken-already")).await.unwrap();
}

async fn a_repeated_fork_answers_the_copy_as_it_is(on: &Deployment) {
    let threads = source(on, "retry").await;
    let request = ForkThreadRequest { request_id: "f-1".into(), ..forking("retry", "retry-copy") };
    threads.fork(request.clone()).await.unwrap();
    let now = threads.append("retry-copy", vec![user("more", "x")]).await.thread.unwrap();
    threads.fill("retry", 8, 9).await;
    let again = threads.fork(request.clone()).await.unwrap();
    assert_eq!((again.etag, again.last_seq), (now.etag.clone(), 11));
    let other = ForkThreadRequest { request_id: "f-2".into(), ..request.clone() };
    assert_refused(threads.fork(other).await, Code::AlreadyExists, "THREAD_EXISTS");
    // A retry is as safe when the source is gone or shorter meanwhile.
    threads.delete("retry").await.unwrap();
    assert_eq!(threads.fork(request).await.unwrap().etag, now.etag);
}

async fn an_absent_id_is_derived_from_the_request(on: &Deployment) {
    let threads = source(on, "unnamed").await;
    let request = ForkThreadRequest { request_id: "n-1".into(), ..forking("unnamed", "") };
    let first = threads.fork(request.clone()).await.unwrap();
    let again = threads.fork(request).await.unwrap();
    assert_eq!((&first.id, &first.etag), (&again.id, &again.etag));
    let free = threads.fork(forking("unnamed", "")).await.unwrap();
    assert_ne!(free.id, threads.fork(forking("unnamed", "")).await.unwrap().id);
    assert_ne!(free.id, first.id);
}

async fn a_seq_beyond_the_source_is_refused(on: &Deployment) {
    let threads = source(on, "beyond").await;
    for at_seq in [11, i64::MAX] {
        let request = ForkThreadRequest { at_seq, ..forking("beyond", "beyond-copy") };
        let status = assert_refused(threads.fork(request).await, Code::OutOfRange, "SEQ_OUT_OF_RANGE");
        assert_eq!(told(&status, "last_seq"), "10");
    }
    assert_refused(threads.peek("beyond-copy").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn of_concurrent_forks_to_one_id_exactly_one_succeeds(on: &Deployment) {
    let threads = source(on, "rush").await;
    let mut forks = JoinSet::new();
    for _ in 0..8 {
        let threads = threads.clone();
        forks.spawn(async move { threads.fork(forking("rush", "rush-copy")).await });
    }
    let outcomes = forks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter(Result::is_err) {
        assert_refused(refused, Code::AlreadyExists, "THREAD_EXISTS");
    }
    assert_eq!(threads.recount("rush-copy").await, threads.messages("rush").await);
}

async fn a_fork_while_others_append_is_a_true_prefix(on: &Deployment) {
    let threads = on.threads();
    threads.create("moving").await;
    threads.fill("moving", 1, 1200).await;
    let writer = threads.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { writer.fill("moving", 1201, 2000).await });
    for n in 0.. {
        let is_last = threads.peek("moving").await.unwrap().last_seq == 2000;
        let id = format!("moving-{n}");
        match threads.fork(forking("moving", &id)).await {
            Ok(copy) => {
                let copied: Vec<Message> = threads.recount(&id).await;
                assert_eq!(seqs(&copied), (1..=copy.last_seq).collect::<Vec<_>>());
            }
            // A source that never rests may be given up.
            Err(status) => assert_eq!((status.code(), is_last), (Code::Aborted, false), "{status:?}"),
        }
        if is_last {
            break;
        }
    }
    tasks.join_all().await;
}
