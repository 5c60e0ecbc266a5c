//! `TruncateThread`: drops the tail or the head; seqs and ids stay used, the time to live runs on.

use fusewire::grpc::proto::{ConversationThread, Role, TrimPolicy, TruncateThreadRequest};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        Threads, appending, assert_refused, cut_after, ids, keep_last, listing, message, millis, numbered,
        reason, seqs, thread, told, user,
    },
};

on_every_store!(
    the_tail_is_dropped_after_a_seq,
    the_head_is_dropped_but_for_the_newest,
    zero_drops_all,
    a_seq_beyond_the_thread_is_refused,
    a_seq_is_never_reused,
    holes_are_skipped_and_not_counted,
    truncations_may_follow_each_other_in_any_order,
    ids_of_dropped_messages_stay_used,
    instructions_are_dropped_too,
    kept_instructions_are_dropped_by_either_cut,
    a_retry_after_others_appended_changes_nothing,
    a_truncation_is_a_compare_and_set_if_it_names_an_etag,
    a_truncation_that_drops_nothing_is_a_write_all_the_same,
    a_truncated_thread_goes_on_trimming,
    a_thread_that_does_not_exist_is_not_found,
);

async fn made(on: &Deployment, id: &str, count: i64) -> Threads {
    let threads = on.threads();
    threads.create(id).await;
    threads.fill(id, 1, count).await;
    threads
}

async fn the_tail_is_dropped_after_a_seq(on: &Deployment) {
    let threads = made(on, "tail", 10).await;
    for (seq, expected) in [(10, 10), (7, 7), (7, 7), (1, 1)] {
        let cut = threads.truncate(cut_after("tail", seq)).await.unwrap();
        assert_eq!((cut.message_count, cut.first_seq, cut.last_seq), (expected, 1, 10));
        assert_eq!(seqs(&threads.recount("tail").await), (1..=seq).collect::<Vec<_>>());
    }
}

async fn the_head_is_dropped_but_for_the_newest(on: &Deployment) {
    let threads = made(on, "head", 10).await;
    for (count, first) in [(11, 1), (10, 1), (4, 7), (1, 10)] {
        let cut = threads.truncate(keep_last("head", count)).await.unwrap();
        assert_eq!((cut.first_seq, cut.last_seq), (first, 10));
        assert_eq!(seqs(&threads.recount("head").await), (first..=10).collect::<Vec<_>>());
    }
}

async fn zero_drops_all(on: &Deployment) {
    for (id, request) in [("all-tail", cut_after("all-tail", 0)), ("all-head", keep_last("all-head", 0))] {
        let threads = made(on, id, 5).await;
        let cut = threads.truncate(request.clone()).await.unwrap();
        assert_eq!((cut.message_count, cut.first_seq, cut.last_seq), (0, 0, 5));
        assert_eq!((cut.size_bytes, cut.token_count), (0, 0));
        assert_eq!(threads.recount(id).await, []);
        threads.truncate(request).await.unwrap();
        let next = threads.append(id, numbered(6, 7)).await;
        assert_eq!((next.messages[0].seq, next.previous_last_seq), (6, 5));
        assert_eq!(seqs(&threads.recount(id).await), [6, 7]);
        threads.create(&format!("{id}-empty")).await;
        threads.truncate(keep_last(&format!("{id}-empty"), 0)).await.unwrap();
    }
}

async fn a_seq_beyond_the_thread_is_refused(on: &Deployment) {
    let threads = made(on, "beyond", 5).await;
    let before = threads.peek("beyond").await.unwrap().etag;
    for seq in [6, i64::MAX] {
        let status = assert_refused(
            threads.truncate(cut_after("beyond", seq)).await,
            Code::OutOfRange,
            "SEQ_OUT_OF_RANGE",
        );
        assert_eq!(told(&status, "last_seq"), "5");
    }
    assert_eq!(threads.peek("beyond").await.unwrap().etag, before);
    // More than there are is no seq, and no error.
    threads.truncate(keep_last("beyond", i32::MAX)).await.unwrap();
    assert_eq!(threads.recount("beyond").await.len(), 5);
}

async fn a_seq_is_never_reused(on: &Deployment) {
    let threads = made(on, "reuse", 5).await;
    threads.truncate(cut_after("reuse", 3)).await.unwrap();
    assert_eq!(threads.append("reuse", numbered(6, 6)).await.messages[0].seq, 6);
    threads.truncate(cut_after("reuse", 0)).await.unwrap();
    assert_eq!(threads.append("reuse", numbered(7, 7)).await.messages[0].seq, 7);
    assert_eq!(seqs(&threads.recount("reuse").await), [7]);
}

async fn holes_are_skipped_and_not_counted(on: &Deployment) {
    let threads = made(on, "holes", 10).await;
    threads.truncate(cut_after("holes", 4)).await.unwrap();
    threads.fill("holes", 11, 13).await;
    let now = threads.peek("holes").await.unwrap();
    assert_eq!((now.message_count, now.first_seq, now.last_seq), (7, 1, 13));
    assert_eq!(seqs(&threads.recount("holes").await), [1, 2, 3, 4, 11, 12, 13]);
    for n in 1..=7 {
        let page =
            fusewire::grpc::proto::ListMessagesRequest { page_size: n, descending: true, ..listing("holes") };
        let expected: Vec<i64> =
            [13, 12, 11, 4, 3, 2, 1].into_iter().take(usize::try_from(n).unwrap()).collect();
        assert_eq!(seqs(&threads.page(page).await.unwrap().messages), expected);
        let context = threads.context("holes", n, 0).await;
        assert_eq!(seqs(&context.messages).into_iter().rev().collect::<Vec<_>>(), expected);
        assert_eq!(context.omitted_count, 7 - i64::from(n));
    }
    // Newest so many messages, not seqs.
    threads.truncate(keep_last("holes", 5)).await.unwrap();
    assert_eq!(seqs(&threads.recount("holes").await), [3, 4, 11, 12, 13]);
    threads.truncate(cut_after("holes", 8)).await.unwrap();
    assert_eq!(seqs(&threads.recount("holes").await), [3, 4]);
}

async fn truncations_may_follow_each_other_in_any_order(on: &Deployment) {
    let threads = made(on, "series", 0).await;
    // What the thread must hold, kept beside it.
    let (mut model, mut last): (Vec<i64>, i64) = (Vec::new(), 0);
    let steps = [
        (40, 30, 25),
        (3, 28, 9),
        (0, 20, 9),
        (150, 100, 200),
        (2, 90, 3),
        (7, 0, 5),
        (1, 115, 1),
        (9, 210, 4),
    ];
    for (round, (appended, after, keep)) in steps.into_iter().enumerate() {
        let new =
            (1..=appended).map(|n| user(&format!("r{round}-{n}"), &"x".repeat(usize::try_from(n).unwrap())));
        for batch in new.collect::<Vec<_>>().chunks(100) {
            threads.append("series", batch.to_vec()).await;
        }
        model.extend(last + 1..=last + appended);
        last += appended;
        assert_eq!(seqs(&threads.recount("series").await), model, "appended in round {round}");
        if after <= last {
            threads.truncate(cut_after("series", after)).await.unwrap();
            model.retain(|seq| *seq <= after);
        }
        assert_eq!(seqs(&threads.recount("series").await), model, "cut in round {round}");
        threads.truncate(keep_last("series", keep)).await.unwrap();
        model.drain(..model.len().saturating_sub(usize::try_from(keep).unwrap()));
        assert_eq!(seqs(&threads.recount("series").await), model, "kept in round {round}");
    }
}

async fn ids_of_dropped_messages_stay_used(on: &Deployment) {
    let threads = made(on, "used", 5).await;
    threads.truncate(cut_after("used", 3)).await.unwrap();
    threads.truncate(keep_last("used", 2)).await.unwrap();
    let again = threads.append("used", numbered(1, 6)).await;
    let told: Vec<(i64, bool)> = again.messages.iter().map(|m| (m.seq, m.duplicate)).collect();
    assert_eq!(told, [(1, true), (2, true), (3, true), (4, true), (5, true), (6, false)]);
    assert_eq!(seqs(&threads.recount("used").await), [2, 3, 6]);
    let other = threads.try_append(appending("used", vec![user("m5", "other")])).await.unwrap_err();
    assert_eq!(reason(&other), "MESSAGE_ID_REUSED");
}

async fn instructions_are_dropped_too(on: &Deployment) {
    let threads = on.threads();
    for id in ["instr-tail", "instr-head"] {
        threads.create(id).await;
        threads.append(id, vec![message("s1", Role::System, "one")]).await;
        threads.fill(id, 1, 2).await;
        threads.append(id, vec![message("s2", Role::Developer, "two")]).await;
        threads.fill(id, 3, 4).await;
    }
    threads.truncate(cut_after("instr-tail", 3)).await.unwrap();
    assert_eq!(ids(&threads.recount("instr-tail").await), ["s1", "m1", "m2"]);
    assert_eq!(ids(&threads.context("instr-tail", 1, 0).await.messages), ["s1", "m2"]);
    threads.truncate(keep_last("instr-head", 3)).await.unwrap();
    assert_eq!(ids(&threads.recount("instr-head").await), ["s2", "m3", "m4"]);
    assert_eq!(ids(&threads.context("instr-head", 1, 0).await.messages), ["s2", "m4"]);
    threads.truncate(keep_last("instr-head", 1)).await.unwrap();
    assert_eq!(ids(&threads.context("instr-head", 0, 0).await.messages), ["m4"]);
}

async fn kept_instructions_are_dropped_by_either_cut(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 3, max_bytes: 0 });
    let make = async |id: &str| {
        threads.try_create(ConversationThread { trim, ..thread(id) }).await.unwrap();
        for n in 1..=4 {
            threads.append(id, vec![message(&format!("s{n}"), Role::System, &"x".repeat(n))]).await;
        }
        threads.fill(id, 1, 5).await;
        assert_eq!(seqs(&threads.recount(id).await), [1, 2, 3, 4, 7, 8, 9]);
    };
    for (cut, expected) in [(9, 7), (7, 5), (6, 4), (4, 4), (2, 2), (0, 0)] {
        let id = &format!("kept-after-{cut}");
        make(id).await;
        let after = threads.truncate(cut_after(id, cut)).await.unwrap();
        assert_eq!(seqs(&threads.recount(id).await), [1, 2, 3, 4, 7, 8, 9][..expected]);
        assert_eq!((after.message_count, after.last_seq), (i64::try_from(expected).unwrap(), 9));
    }
    for keep in [8, 7, 6, 4, 3, 2, 1, 0] {
        let id = &format!("kept-last-{keep}");
        make(id).await;
        threads.truncate(keep_last(id, keep)).await.unwrap();
        let dropped = 7_usize.saturating_sub(usize::try_from(keep).unwrap());
        assert_eq!(seqs(&threads.recount(id).await), [1, 2, 3, 4, 7, 8, 9][dropped..], "{keep}");
        threads.fill(id, 6, 12).await;
        threads.recount(id).await;
    }
}

async fn a_retry_after_others_appended_changes_nothing(on: &Deployment) {
    let threads = made(on, "retry", 10).await;
    let etag = threads.peek("retry").await.unwrap().etag;
    for (request, name) in [(cut_after("retry", 6), "t-1"), (keep_last("retry", 3), "t-2")] {
        let etag = if name == "t-1" { etag.clone() } else { String::new() };
        let request = TruncateThreadRequest { request_id: name.into(), etag, ..request };
        threads.truncate(request.clone()).await.unwrap();
        let now = threads.append("retry", vec![user(&format!("after-{name}"), "x")]).await.thread.unwrap();
        let held = threads.messages("retry").await;
        let again = threads.truncate(request).await.unwrap();
        assert_eq!((again.etag, again.message_count), (now.etag, now.message_count));
        assert_eq!(threads.recount("retry").await, held);
    }
    assert_eq!(ids(&threads.messages("retry").await), ["m5", "m6", "after-t-1", "after-t-2"]);
}

async fn a_truncation_is_a_compare_and_set_if_it_names_an_etag(on: &Deployment) {
    let threads = made(on, "cas", 5).await;
    let stale = threads.peek("cas").await.unwrap().etag;
    let current = threads.append("cas", numbered(6, 6)).await.thread.unwrap().etag;
    let cut = |etag: &str| TruncateThreadRequest { etag: etag.into(), ..cut_after("cas", 0) };
    for etag in [stale.as_str(), "x"] {
        let status = assert_refused(threads.truncate(cut(etag)).await, Code::Aborted, "ETAG_MISMATCH");
        assert_eq!(told(&status, "etag"), current);
    }
    assert_eq!(threads.recount("cas").await.len(), 6);
    let after = threads.truncate(cut(&current)).await.unwrap();
    assert_ne!(after.etag, current);
    assert_refused(threads.truncate(cut(&current)).await, Code::Aborted, "ETAG_MISMATCH");
}

async fn a_truncation_that_drops_nothing_is_a_write_all_the_same(on: &Deployment) {
    let threads = made(on, "nothing", 5).await;
    let before = threads.peek("nothing").await.unwrap();
    let after = threads.truncate(cut_after("nothing", 5)).await.unwrap();
    assert_eq!((after.revision, after.message_count), (before.revision + 1, 5));
    assert!(millis(after.expire_time) <= millis(before.expire_time), "it does not renew");
}

async fn a_truncated_thread_goes_on_trimming(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 4, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("policy") }).await.unwrap();
    threads.fill("policy", 1, 6).await;
    threads.truncate(cut_after("policy", 4)).await.unwrap();
    assert_eq!(seqs(&threads.recount("policy").await), [3, 4]);
    threads.fill("policy", 7, 8).await;
    assert_eq!(seqs(&threads.recount("policy").await), [3, 4, 7, 8]);
    threads.fill("policy", 9, 11).await;
    assert_eq!(seqs(&threads.recount("policy").await), [8, 9, 10, 11]);
}

async fn a_thread_that_does_not_exist_is_not_found(on: &Deployment) {
    let threads = on.threads();
    assert_refused(threads.truncate(cut_after("none", 0)).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.truncate(keep_last("none", 0)).await, Code::NotFound, "THREAD_NOT_FOUND");
}
