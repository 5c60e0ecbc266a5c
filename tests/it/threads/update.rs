//! `UpdateMessage`: finishes a streamed answer in place; what makes a message the same message stays.

use fusewire::grpc::proto::{
    ConversationThread, Message, MessageStatus, Role, TrimPolicy, UpdateMessageRequest, part::Kind,
};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        appending, assert_refused, calls, cut_after, ids, keep_last, message, millis, numbered, part, reason,
        result, revising, thread, told, user, violated,
    },
};

on_every_store!(
    a_streamed_answer_is_finished_in_place,
    each_masked_field_changes_and_others_stay,
    the_original_is_a_duplicate_as_before,
    counters_follow_the_change,
    an_update_is_a_compare_and_set_if_it_names_an_etag,
    a_repeated_update_changes_nothing_and_is_checked_before_the_etag,
    an_unknown_message_is_not_found,
    a_dropped_message_is_not_found,
    a_kept_instruction_is_changed_where_it_is_kept,
    a_message_stays_within_2_mib,
    tool_calls_that_come_with_the_last_words_are_grouped,
    concurrent_updates_of_one_message_all_succeed,
);

fn text(text: &str) -> Vec<fusewire::grpc::proto::Part> {
    vec![part(Kind::Text(text.to_owned()))]
}

async fn a_streamed_answer_is_finished_in_place(on: &Deployment) {
    let threads = on.threads();
    threads.create("stream").await;
    threads.fill("stream", 1, 2).await;
    let draft = Message { status: MessageStatus::InProgress.into(), ..message("draft", Role::Assistant, "") };
    threads.append("stream", vec![draft]).await;
    threads.fill("stream", 3, 3).await;
    let before = threads.peek("stream").await.unwrap();
    let stored = threads.messages("stream").await[2].clone();
    let finished = Message {
        parts: text("the whole answer"),
        status: MessageStatus::Completed.into(),
        token_count: 17,
        model: "m".into(),
        finish_reason: "stop".into(),
        ..user("draft", "")
    };
    let paths = ["parts", "status", "token_count", "model", "finish_reason"];
    let updated = threads.update_message(revising("stream", finished.clone(), &paths)).await.unwrap();
    let expected =
        Message { role: Role::Assistant.into(), seq: 3, commit_time: stored.commit_time, ..finished };
    assert_eq!(updated.message.as_ref(), Some(&expected));
    let after = updated.thread.unwrap();
    assert_eq!((after.revision, after.last_seq, after.message_count), (before.revision + 1, 4, 4));
    assert_ne!(after.etag, before.etag);
    assert_eq!(millis(after.expire_time), millis(after.update_time) + 7_200_000);
    assert_eq!(threads.recount("stream").await[2], expected);
    assert_eq!(ids(&threads.context("stream", 0, 0).await.messages), ["m1", "m2", "draft", "m3"]);
}

async fn each_masked_field_changes_and_others_stay(on: &Deployment) {
    let threads = on.threads();
    threads.create("fields").await;
    let one = |pair: (&str, &str)| [(pair.0.to_owned(), pair.1.to_owned())].into();
    let original = Message {
        name: "name".into(),
        status: MessageStatus::InProgress.into(),
        token_count: 3,
        model: "model".into(),
        turn_id: "turn".into(),
        labels: one(("l", "1")),
        create_time: Some(prost_types::Timestamp { seconds: 5, nanos: 6 }),
        finish_reason: "reason".into(),
        extra: one(("app", "{}")),
        ..message("f", Role::Assistant, "text")
    };
    threads.append("fields", vec![original]).await;
    let new = Message {
        name: "never".into(),
        role: Role::User.into(),
        turn_id: "never".into(),
        parts: text("new"),
        status: MessageStatus::Incomplete.into(),
        token_count: 4,
        model: "new".into(),
        labels: one(("l", "2")),
        finish_reason: "new".into(),
        extra: one(("app", "[]")),
        ..user("f", "")
    };
    let mut expected = threads.messages("fields").await.remove(0);
    for path in ["parts", "status", "token_count", "model", "finish_reason", "labels", "extra"] {
        match path {
            "parts" => expected.parts = new.parts.clone(),
            "status" => expected.status = new.status,
            "token_count" => expected.token_count = new.token_count,
            "model" => expected.model = new.model.clone(),
            "finish_reason" => expected.finish_reason = new.finish_reason.clone(),
            "labels" => expected.labels = new.labels.clone(),
            _ => expected.extra = new.extra.clone(),
        }
        let updated = threads.update_message(revising("fields", new.clone(), &[path])).await.unwrap();
        assert_eq!(updated.message.as_ref(), Some(&expected), "{path}");
        assert_eq!(threads.recount("fields").await, [expected.clone()], "{path}");
    }
    let cleared = revising("fields", user("f", ""), &["labels", "extra", "model", "finish_reason"]);
    let cleared = threads.update_message(cleared).await.unwrap().message.unwrap();
    assert_eq!((cleared.labels.len(), cleared.extra.len(), cleared.model.as_str()), (0, 0, ""));
}

async fn the_original_is_a_duplicate_as_before(on: &Deployment) {
    let threads = on.threads();
    threads.create("digest").await;
    let original = message("d", Role::Assistant, "first words");
    threads.append("digest", vec![original.clone()]).await;
    let changed = Message { parts: text("other words"), ..original.clone() };
    threads.update_message(revising("digest", changed.clone(), &["parts"])).await.unwrap();
    let again = threads.append("digest", vec![original]).await;
    assert!(again.messages[0].duplicate);
    assert_eq!(threads.messages("digest").await[0].parts, changed.parts);
    let status = threads.try_append(appending("digest", vec![changed])).await.unwrap_err();
    assert_eq!(reason(&status), "MESSAGE_ID_REUSED");
}

async fn counters_follow_the_change(on: &Deployment) {
    let threads = on.threads();
    threads.create("counters").await;
    threads.fill("counters", 1, 3).await;
    for (length, tokens) in [(4000, 0), (4, 0), (0, 0), (100, 77), (100, 0)] {
        let new = Message { token_count: tokens, ..user("m2", &"x".repeat(length)) };
        threads.update_message(revising("counters", new, &["parts", "token_count"])).await.unwrap();
        threads.recount("counters").await;
        let expected =
            if tokens == 0 { i64::try_from(length.div_ceil(4)).unwrap() } else { i64::from(tokens) };
        assert_eq!(threads.peek("counters").await.unwrap().token_count, 4 + expected);
    }
}

async fn an_update_is_a_compare_and_set_if_it_names_an_etag(on: &Deployment) {
    let threads = on.threads();
    let stale = threads.create("cas").await.etag;
    let current = threads.append("cas", numbered(1, 1)).await.thread.unwrap().etag;
    let update = |etag: &str| UpdateMessageRequest {
        etag: etag.into(),
        ..revising("cas", user("m1", "new"), &["parts"])
    };
    for etag in [stale.as_str(), "x"] {
        let status =
            assert_refused(threads.update_message(update(etag)).await, Code::Aborted, "ETAG_MISMATCH");
        assert_eq!(told(&status, "etag"), current);
    }
    assert_eq!(threads.messages("cas").await[0].parts, text("00000001"));
    threads.update_message(update(&current)).await.unwrap();
    assert_refused(threads.update_message(update(&current)).await, Code::Aborted, "ETAG_MISMATCH");
}

async fn a_repeated_update_changes_nothing_and_is_checked_before_the_etag(on: &Deployment) {
    let threads = on.threads();
    threads.create("repeat").await;
    let etag = threads.append("repeat", numbered(1, 1)).await.thread.unwrap().etag;
    let request = UpdateMessageRequest {
        etag,
        request_id: "m-1".into(),
        ..revising("repeat", user("m1", "one"), &["parts"])
    };
    threads.update_message(request.clone()).await.unwrap();
    let two = revising("repeat", user("m1", "two"), &["parts"]);
    let now = threads.update_message(two).await.unwrap().thread.unwrap();
    let again = threads.update_message(request).await.unwrap();
    assert_eq!(again.thread.unwrap().etag, now.etag);
    assert_eq!(again.message.unwrap().parts, text("two"), "the present state is told");
    assert_eq!(threads.messages("repeat").await[0].parts, text("two"));
}

async fn an_unknown_message_is_not_found(on: &Deployment) {
    let threads = on.threads();
    threads.create("unknown").await;
    let before = threads.append("unknown", numbered(1, 1)).await.thread.unwrap().etag;
    let outcome = threads.update_message(revising("unknown", user("m2", "x"), &["parts"])).await;
    let status = assert_refused(outcome, Code::NotFound, "MESSAGE_NOT_FOUND");
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "m2");
    assert_eq!(threads.peek("unknown").await.unwrap().etag, before);
    let outcome = threads.update_message(revising("unknown-thread", user("m1", "x"), &["parts"])).await;
    assert_refused(outcome, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_dropped_message_is_not_found(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 5, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("dropped") }).await.unwrap();
    for n in 1..=6 {
        threads.fill("dropped", n, n).await;
    }
    threads.truncate(cut_after("dropped", 5)).await.unwrap();
    threads.truncate(keep_last("dropped", 2)).await.unwrap();
    let held = threads.recount("dropped").await;
    assert_eq!(ids(&held), ["m4", "m5"]);
    // Trimmed, cut from the head, cut from the tail.
    for id in ["m1", "m2", "m6"] {
        let outcome = threads.update_message(revising("dropped", user(id, "x"), &["parts"])).await;
        assert_refused(outcome, Code::NotFound, "MESSAGE_NOT_FOUND");
    }
    assert_eq!(threads.recount("dropped").await, held);
    threads.update_message(revising("dropped", user("m4", "x"), &["parts"])).await.unwrap();
    threads.recount("dropped").await;
}

async fn a_kept_instruction_is_changed_where_it_is_kept(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 2, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("kept") }).await.unwrap();
    threads.append("kept", vec![message("sys", Role::System, "old rules")]).await;
    let change = async |words: &str| {
        let new = message("sys", Role::System, words);
        threads.update_message(revising("kept", new, &["parts"])).await.unwrap();
        let held = threads.recount("kept").await;
        assert_eq!(held[0].parts, text(words));
        assert_eq!(threads.context("kept", 1, 0).await.messages[0].parts, text(words));
    };
    change("rules while it is listed").await;
    threads.fill("kept", 1, 5).await;
    change("rules when only instructions keep it, much longer than before").await;
    change("short").await;
    threads.fill("kept", 6, 9).await;
    assert_eq!(ids(&threads.recount("kept").await), ["sys", "m8", "m9"]);
}

async fn a_message_stays_within_2_mib(on: &Deployment) {
    let threads = on.threads();
    threads.create("limit").await;
    let model = "m".repeat(200);
    threads.append("limit", vec![Message { model, ..user("big", "x") }]).await;
    let before = threads.peek("limit").await.unwrap().etag;
    // Within the limit by itself, beyond it together with what stays.
    let text = "x".repeat((2 << 20) - 100);
    let outcome = threads.update_message(revising("limit", user("big", &text), &["parts"])).await;
    assert_eq!(violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")), ["message"]);
    assert_eq!(threads.peek("limit").await.unwrap().etag, before);
    threads.update_message(revising("limit", user("big", &text[300..]), &["parts"])).await.unwrap();
    threads.recount("limit").await;
}

async fn tool_calls_that_come_with_the_last_words_are_grouped(on: &Deployment) {
    let threads = on.threads();
    threads.create("grouped").await;
    let draft = Message { status: MessageStatus::InProgress.into(), ..message("draft", Role::Assistant, "") };
    threads.append("grouped", vec![user("q", "?"), draft]).await;
    let finished = Message { status: MessageStatus::Completed.into(), ..calls("draft", &["x", "y"]) };
    threads.update_message(revising("grouped", finished, &["parts", "status"])).await.unwrap();
    threads.append("grouped", vec![result("rx", "x"), result("ry", "y"), user("next", "!")]).await;
    for (max, expected) in [(1, &["next"][..]), (3, &["next"]), (4, &["draft", "rx", "ry", "next"])] {
        assert_eq!(ids(&threads.context("grouped", max, 0).await.messages), expected, "{max}");
    }
}

async fn concurrent_updates_of_one_message_all_succeed(on: &Deployment) {
    let threads = on.threads();
    threads.create("rush").await;
    threads.fill("rush", 1, 1).await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let threads = threads.clone();
        tasks.spawn(async move {
            for n in 0..10 {
                let new = user("m1", &format!("{task}-{n}"));
                threads
                    .update_message(revising("rush", new, &["parts"]))
                    .await
                    .expect("every update succeeds");
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(threads.peek("rush").await.unwrap().revision, 2 + 80);
    assert_eq!(threads.recount("rush").await.len(), 1);
}
