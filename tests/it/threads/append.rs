//! Appends: commutative without etag, compare-and-set with one, safe to repeat, all or nothing.

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, Message, MessageStatus, Role, TrimPolicy,
};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{appending, assert_refused, ids, message, reason, seqs, thread, user},
};

on_every_store!(
    seqs_begin_at_1_and_increase_without_holes,
    a_duplicate_batch_is_told_and_not_written,
    a_half_duplicate_batch_writes_the_other_half,
    an_id_reused_with_other_content_writes_nothing,
    an_id_twice_in_one_batch_is_one_message,
    fields_outside_of_the_digest_may_differ,
    ids_without_request_are_made_and_with_one_derived,
    a_stale_etag_fails_even_for_identical_values,
    a_retried_compare_and_set_succeeds,
    an_etag_never_issued_is_a_mismatch,
    an_etag_of_an_earlier_incarnation_is_a_mismatch,
    previous_last_seq_tells_of_another_writer,
    an_append_creates_only_when_asked,
    an_append_with_an_etag_never_creates,
    a_deleted_thread_is_not_created_by_an_append,
    another_owner_is_refused,
    an_all_duplicate_batch_keeps_the_revision,
    trimming_keeps_the_newest_and_the_instructions,
    trimming_by_bytes_keeps_at_least_the_newest,
    trimming_keeps_retries_of_trimmed_messages_idempotent,
    content_comes_back_byte_for_byte,
);

async fn seqs_begin_at_1_and_increase_without_holes(on: &Deployment) {
    let threads = on.threads();
    let created = threads.create("seqs").await;
    assert_eq!((created.first_seq, created.last_seq, created.message_count, created.revision), (0, 0, 0, 1));
    let first = threads.append("seqs", vec![user("a", "1"), user("b", "2")]).await;
    assert_eq!(first.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 2]);
    let second = threads.append("seqs", vec![user("c", "3")]).await;
    assert_eq!((second.previous_last_seq, second.messages[0].seq), (2, 3));
    let thread = second.thread.unwrap();
    assert_eq!((thread.first_seq, thread.last_seq, thread.message_count, thread.revision), (1, 3, 3, 3));
    assert_eq!(seqs(&threads.messages("seqs").await), [1, 2, 3]);
}

async fn a_duplicate_batch_is_told_and_not_written(on: &Deployment) {
    let threads = on.threads();
    threads.create("dup").await;
    let batch = vec![user("a", "1"), user("b", "2")];
    let first = threads.append("dup", batch.clone()).await;
    let again = threads.append("dup", batch).await;
    assert!(first.messages.iter().all(|m| !m.duplicate));
    assert!(again.messages.iter().all(|m| m.duplicate));
    assert_eq!(again.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(again.thread.unwrap().message_count, 2);
}

async fn a_half_duplicate_batch_writes_the_other_half(on: &Deployment) {
    let threads = on.threads();
    threads.create("half").await;
    threads.append("half", vec![user("a", "1")]).await;
    let mixed = threads.append("half", vec![user("a", "1"), user("b", "2")]).await;
    assert_eq!(
        mixed.messages.iter().map(|m| (m.seq, m.duplicate)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    assert_eq!(ids(&threads.messages("half").await), ["a", "b"]);
}

async fn an_id_reused_with_other_content_writes_nothing(on: &Deployment) {
    let threads = on.threads();
    threads.create("reused").await;
    threads.append("reused", vec![user("a", "1")]).await;
    let before = threads.peek("reused").await.unwrap();
    for other in [
        user("a", "other"),
        message("a", Role::Assistant, "1"),
        Message { name: "x".into(), ..user("a", "1") },
    ] {
        let status = assert_refused(
            threads.try_append(appending("reused", vec![user("new", "n"), other])).await,
            Code::AlreadyExists,
            "MESSAGE_ID_REUSED",
        );
        assert!(format!("{status:?}").contains('a'));
    }
    let clash = vec![user("c", "1"), user("c", "2")];
    assert_refused(
        threads.try_append(appending("reused", clash)).await,
        Code::AlreadyExists,
        "MESSAGE_ID_REUSED",
    );
    let after = threads.peek("reused").await.unwrap();
    assert_eq!((before.etag, before.message_count), (after.etag, after.message_count));
}

async fn an_id_twice_in_one_batch_is_one_message(on: &Deployment) {
    let threads = on.threads();
    threads.create("twice").await;
    let made = threads.append("twice", vec![user("a", "1"), user("b", "2"), user("a", "1")]).await;
    assert_eq!(
        made.messages.iter().map(|m| (m.seq, m.duplicate)).collect::<Vec<_>>(),
        [(1, false), (2, false), (1, true)]
    );
    assert_eq!(made.thread.unwrap().message_count, 2);
}

async fn fields_outside_of_the_digest_may_differ(on: &Deployment) {
    let threads = on.threads();
    threads.create("digest").await;
    threads.append("digest", vec![user("a", "1")]).await;
    let other = Message {
        model: "m".into(),
        token_count: 9,
        turn_id: "t".into(),
        status: MessageStatus::Incomplete.into(),
        finish_reason: "stop".into(),
        ..user("a", "1")
    };
    assert!(threads.append("digest", vec![other]).await.messages[0].duplicate);
    assert_eq!(threads.messages("digest").await[0].model, "");
}

async fn ids_without_request_are_made_and_with_one_derived(on: &Deployment) {
    let threads = on.threads();
    threads.create("derived").await;
    let unnamed = || vec![user("", "1"), user("", "2")];
    let made = threads.append("derived", unnamed()).await;
    assert_ne!(made.messages[0].id, made.messages[1].id);
    let request = AppendMessagesRequest { request_id: "r-1".into(), ..appending("derived", unnamed()) };
    let first = threads.try_append(request.clone()).await.unwrap();
    let again = threads.try_append(request).await.unwrap();
    assert_eq!(ids_of(&first), ids_of(&again));
    assert!(again.messages.iter().all(|m| m.duplicate));
    assert_eq!(again.thread.unwrap().message_count, 4);
}

fn ids_of(appended: &fusewire::grpc::proto::AppendMessagesResponse) -> Vec<&str> {
    appended.messages.iter().map(|m| m.id.as_str()).collect()
}

async fn a_stale_etag_fails_even_for_identical_values(on: &Deployment) {
    let threads = on.threads();
    let stale = threads.create("stale").await.etag;
    threads.append("stale", vec![user("a", "same")]).await;
    let request = AppendMessagesRequest { etag: stale, ..appending("stale", vec![user("b", "same")]) };
    let status = assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
    let current = threads.peek("stale").await.unwrap().etag;
    let told = tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata;
    assert_eq!(told.get("etag"), Some(&current));
    assert_eq!(ids(&threads.messages("stale").await), ["a"]);
}

async fn a_retried_compare_and_set_succeeds(on: &Deployment) {
    let threads = on.threads();
    let etag = threads.create("cas").await.etag;
    let request = AppendMessagesRequest { etag, ..appending("cas", vec![user("a", "1")]) };
    let first = threads.try_append(request.clone()).await.unwrap();
    assert!(!first.messages[0].duplicate);
    threads.append("cas", vec![user("b", "2")]).await;
    let again = threads.try_append(request).await.unwrap();
    assert!(again.messages[0].duplicate, "checked before the etag");
}

async fn an_etag_never_issued_is_a_mismatch(on: &Deployment) {
    let threads = on.threads();
    threads.create("never").await;
    for etag in ["x", "\"x\"", "\"01J0000000000000000000000-1\"", "\u{1f600}", "\"-\""] {
        let request = AppendMessagesRequest { etag: etag.into(), ..appending("never", vec![user("a", "1")]) };
        assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
    }
}

async fn an_etag_of_an_earlier_incarnation_is_a_mismatch(on: &Deployment) {
    let threads = on.threads();
    let old = threads.create("again").await.etag;
    threads.delete("again").await.unwrap();
    threads.create("again").await;
    let request = AppendMessagesRequest { etag: old, ..appending("again", vec![user("a", "1")]) };
    assert_refused(threads.try_append(request).await, Code::Aborted, "ETAG_MISMATCH");
}

async fn previous_last_seq_tells_of_another_writer(on: &Deployment) {
    let (one, other) = (on.threads(), on.threads());
    one.create("between").await;
    let mine = one.append("between", vec![user("a", "1")]).await.messages[0].seq;
    other.append("between", vec![user("b", "2")]).await;
    assert_eq!(one.append("between", vec![user("c", "3")]).await.previous_last_seq, mine + 1);
}

async fn an_append_creates_only_when_asked(on: &Deployment) {
    let threads = on.threads();
    let request = appending("implicit", vec![user("a", "1")]);
    assert_refused(threads.try_append(request.clone()).await, Code::NotFound, "THREAD_NOT_FOUND");
    let request = AppendMessagesRequest { create_if_missing: true, owner: "ann".into(), ..request };
    let made = threads.try_append(request).await.unwrap();
    let thread = made.thread.unwrap();
    assert_eq!((thread.owner.as_str(), thread.revision, thread.last_seq), ("ann", 1, 1));
    assert_eq!(thread.ttl.unwrap().seconds, 7200);
    assert_eq!(made.previous_last_seq, 0);
    assert_eq!(threads.owned("ann", 0).await, ["implicit"]);
}

async fn an_append_with_an_etag_never_creates(on: &Deployment) {
    let request = AppendMessagesRequest {
        create_if_missing: true,
        etag: "\"x-1\"".into(),
        ..appending("etag-absent", vec![user("a", "1")])
    };
    let threads = on.threads();
    assert_refused(threads.try_append(request).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.peek("etag-absent").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_deleted_thread_is_not_created_by_an_append(on: &Deployment) {
    let threads = on.threads();
    threads.create("deleted").await;
    threads.delete("deleted").await.unwrap();
    let request =
        AppendMessagesRequest { create_if_missing: true, ..appending("deleted", vec![user("a", "1")]) };
    assert_refused(threads.try_append(request.clone()).await, Code::FailedPrecondition, "THREAD_DELETED");
    threads.create("deleted").await;
    assert_eq!(threads.try_append(request).await.unwrap().messages[0].seq, 1);
}

async fn another_owner_is_refused(on: &Deployment) {
    let threads = on.threads();
    threads.try_create(ConversationThread { owner: "ann".into(), ..thread("owned") }).await.unwrap();
    threads.create("nobodys").await;
    for id in ["owned", "nobodys"] {
        let request = AppendMessagesRequest { owner: "bob".into(), ..appending(id, vec![user("a", "1")]) };
        assert_refused(threads.try_append(request).await, Code::FailedPrecondition, "OWNER_MISMATCH");
    }
    let request = AppendMessagesRequest { owner: "ann".into(), ..appending("owned", vec![user("a", "1")]) };
    threads.try_append(request).await.unwrap();
}

async fn an_all_duplicate_batch_keeps_the_revision(on: &Deployment) {
    let threads = on.threads();
    threads.create("revision").await;
    let first = threads.append("revision", vec![user("a", "1")]).await.thread.unwrap();
    let again = threads.append("revision", vec![user("a", "1")]).await.thread.unwrap();
    assert_eq!(
        (first.revision, first.etag, first.update_time),
        (again.revision, again.etag, again.update_time)
    );
    assert!(again.expire_time.unwrap().seconds >= first.expire_time.unwrap().seconds);
}

async fn trimming_keeps_the_newest_and_the_instructions(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 3, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("trim") }).await.unwrap();
    threads.append("trim", vec![message("sys", Role::System, "be kind"), user("u0", "0")]).await;
    for n in 1..10 {
        threads.append("trim", vec![user(&format!("u{n}"), "x")]).await;
    }
    let all = threads.messages("trim").await;
    assert_eq!(ids(&all), ["sys", "u7", "u8", "u9"]);
    assert_eq!(seqs(&all), [1, 9, 10, 11]);
    let now = threads.peek("trim").await.unwrap();
    assert_eq!((now.message_count, now.first_seq, now.last_seq), (4, 1, 11));
    assert_eq!(now.size_bytes, all.iter().map(size_of).sum::<i64>());
    assert_eq!(ids(&threads.context("trim", 2, 0).await.messages), ["sys", "u9"]);
}

/// The size of a message as it is stored: what the server adds in answers does not count.
fn size_of(message: &Message) -> i64 {
    let sent = Message { seq: 0, commit_time: None, ..message.clone() };
    i64::try_from(prost::Message::encoded_len(&sent)).unwrap()
}

async fn trimming_by_bytes_keeps_at_least_the_newest(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 0, max_bytes: 300 });
    threads.try_create(ConversationThread { trim, ..thread("bytes") }).await.unwrap();
    for n in 0..6 {
        threads.append("bytes", vec![user(&format!("u{n}"), &"x".repeat(80))]).await;
    }
    let now = threads.peek("bytes").await.unwrap();
    assert!(now.size_bytes <= 300 && now.size_bytes > 200, "{now:?}");
    threads.append("bytes", vec![user("big", &"x".repeat(1000))]).await;
    assert_eq!(ids(&threads.messages("bytes").await), ["big"]);
}

async fn trimming_keeps_retries_of_trimmed_messages_idempotent(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 2, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("retry") }).await.unwrap();
    for n in 0..5 {
        threads.append("retry", vec![user(&format!("u{n}"), "x")]).await;
    }
    let again = threads.append("retry", vec![user("u0", "x")]).await;
    assert!(again.messages[0].duplicate);
    assert_eq!(again.messages[0].seq, 1);
    assert_eq!(ids(&threads.messages("retry").await), ["u3", "u4"]);
    let status = threads.try_append(appending("retry", vec![user("u0", "other")])).await.unwrap_err();
    assert_eq!(reason(&status), "MESSAGE_ID_REUSED");
}

async fn content_comes_back_byte_for_byte(on: &Deployment) {
    use fusewire::grpc::proto::{Opaque, ToolCall, part::Kind};

    use crate::support::threads::part;
    let threads = on.threads();
    threads.create("bytewise").await;
    let texts = [
        String::new(),
        "\0 between \0".to_owned(),
        "{\"n\":9007199254740993,\"a\":[],\"b\":{}}".to_owned(),
        "😀 e\u{301} \u{202e}rtl \u{feff}".to_owned(),
        "x".repeat(1 << 20),
    ];
    let sent: Vec<Message> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| Message {
            id: format!("m{n}"),
            role: Role::Assistant.into(),
            parts: vec![
                part(Kind::Text(text.clone())),
                part(Kind::ToolCall(ToolCall {
                    call_id: "c".into(),
                    name: "f".into(),
                    arguments_json: if n == 4 { "{\"cut\":".into() } else { text.clone() },
                })),
                part(Kind::Opaque(Opaque {
                    mime_type: "application/octet-stream".into(),
                    data: (0..=255).collect::<Vec<u8>>().into(),
                })),
            ],
            extra: [("app".to_owned(), "{\"z\":1,\"a\":[]}".to_owned())].into(),
            ..Default::default()
        })
        .collect();
    threads.append("bytewise", sent.clone()).await;
    let back: Vec<Message> = threads
        .messages("bytewise")
        .await
        .into_iter()
        .map(|m| Message { seq: 0, commit_time: None, status: 0, ..m })
        .collect();
    assert_eq!(back, sent);
}
