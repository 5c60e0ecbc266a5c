//! What each request refuses, by path.

use std::time::Duration;

use super::*;
use crate::{
    error::Error,
    grpc::check::testing::{mask, paths},
};

fn default_ttl() -> Ttl {
    Ttl::new("", Duration::from_hours(2)).unwrap()
}

#[test]
fn an_empty_creation_gets_an_id_and_the_defaults() {
    let new = create(proto::CreateThreadRequest::default(), default_ttl()).unwrap();
    assert_eq!((new.id.as_str().len(), new.profile.ttl, new.profile.owner), (26, default_ttl(), None));
}

#[test]
fn a_repeated_creation_names_the_same_thread_and_messages() {
    let message = || proto::Message { role: proto::Role::User.into(), ..Default::default() };
    let request = || proto::CreateThreadRequest {
        request_id: "r".into(),
        messages: vec![message(), message()],
        ..Default::default()
    };
    let [first, second] =
        [create(request(), default_ttl()), create(request(), default_ttl())].map(Result::unwrap);
    assert_eq!(first.id, second.id);
    let ids: Vec<_> = second.messages.iter().map(|new| new.message.id.as_str()).collect();
    assert_eq!(ids, ["r~0", "r~1"]);
}

#[test]
fn a_creation_tells_every_violated_field() {
    let labels = (0..17).map(|n| (format!("k{n}"), String::new())).chain([(String::new(), "x".repeat(513))]);
    let thread = proto::ConversationThread {
        id: "x".repeat(101),
        owner: "{}".into(),
        title: "t".repeat(513),
        labels: labels.collect(),
        ttl: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        trim: Some(proto::TrimPolicy { max_messages: -1, max_bytes: -1 }),
        ..Default::default()
    };
    let request = proto::CreateThreadRequest {
        thread: Some(thread),
        request_id: "x".repeat(101),
        messages: vec![proto::Message::default()],
        require_shared: false,
    };
    let expected = [
        "request_id",
        "thread.owner",
        "thread.id",
        "thread.title",
        "thread.labels",
        "thread.labels[\"\"]",
        "thread.labels[\"\"]",
        "thread.ttl",
        "thread.trim.max_messages",
        "thread.trim.max_bytes",
        "messages[0].role",
    ];
    assert_eq!(paths(create(request, default_ttl())), expected);
}

#[test]
fn references_may_be_longer_than_new_ids() {
    let long = "x".repeat(128);
    assert!(thread_id(&long).is_ok());
    assert_eq!(paths(thread_id(&"x".repeat(129))), ["thread_id"]);
    let message = proto::Message { role: proto::Role::User.into(), ..Default::default() };
    let request =
        proto::AppendMessagesRequest { thread_id: long, messages: vec![message], ..Default::default() };
    assert!(append(request.clone(), default_ttl()).is_ok());
    let creating = proto::AppendMessagesRequest { create_if_missing: true, ..request };
    assert_eq!(paths(append(creating, default_ttl())), ["thread_id"]);
}

#[test]
fn an_append_has_messages() {
    let request = proto::AppendMessagesRequest { thread_id: "t".into(), ..Default::default() };
    assert_eq!(paths(append(request, default_ttl())), ["messages"]);
}

#[test]
fn a_thread_update_takes_exactly_its_five_fields() {
    let request = |paths: &[&str]| proto::UpdateThreadRequest {
        thread: Some(proto::ConversationThread { id: "t".into(), ..Default::default() }),
        update_mask: Some(mask(paths)),
        ..Default::default()
    };
    assert_eq!(
        paths(update(request(&["title", "*", "owner", "trim.max_bytes"]))),
        ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]"]
    );
    assert_eq!(paths(update(request(&[]))), ["update_mask"]);
    assert_eq!(paths(update(proto::UpdateThreadRequest::default())), ["thread.id", "update_mask"]);
    let (_, change, _) = update(request(&["labels", "ttl", "trim", "pinned", "title"])).unwrap();
    assert_eq!((change.ttl, change.pinned, change.title.as_deref()), (None, Some(false), Some("")));
    assert!(change.labels.is_some() && change.trim.is_some());
}

#[test]
fn only_masked_fields_are_checked() {
    let thread = proto::ConversationThread { id: "t".into(), title: "t".repeat(513), ..Default::default() };
    let request = |paths: &[&str]| proto::UpdateThreadRequest {
        thread: Some(thread.clone()),
        update_mask: Some(mask(paths)),
        ..Default::default()
    };
    assert!(update(request(&["pinned"])).is_ok());
    assert_eq!(paths(update(request(&["title"]))), ["thread.title"]);

    let message = proto::Message { id: "m".into(), token_count: -1, status: 8, ..Default::default() };
    let request = |paths: &[&str]| proto::UpdateMessageRequest {
        thread_id: "t".into(),
        message: Some(message.clone()),
        update_mask: Some(mask(paths)),
        ..Default::default()
    };
    assert!(update_message(request(&["parts", "parts"])).is_ok());
    assert_eq!(
        paths(update_message(request(&["token_count", "status"]))),
        ["message.token_count", "message.status"]
    );
    assert_eq!(paths(update_message(request(&["role"]))), ["update_mask.paths[0]"]);
}

#[test]
fn numbers_are_not_negative_and_pages_are_clamped() {
    let request =
        |page_size| proto::ListMessagesRequest { thread_id: "t".into(), page_size, ..Default::default() };
    let limit = |page_size| list_messages(&request(page_size)).unwrap().limit;
    assert_eq!([0, 1, 1000, i32::MAX].map(limit), [50, 1, 1000, 1000]);
    let negative = proto::ListMessagesRequest { after_seq: -1, before_seq: -1, ..request(-1) };
    assert_eq!(paths(list_messages(&negative)), ["after_seq", "before_seq", "page_size"]);
    let negative = proto::GetContextRequest {
        thread_id: "t".into(),
        max_messages: -1,
        max_tokens: -1,
        ..Default::default()
    };
    assert_eq!(paths(context(&negative)), ["max_messages", "max_tokens"]);
    let negative = proto::ForkThreadRequest { thread_id: "t".into(), at_seq: -1, ..Default::default() };
    assert_eq!(paths(fork(&negative)), ["at_seq"]);
    assert_eq!(
        paths(list(&proto::ListThreadsRequest { page_size: -1, ..Default::default() })),
        ["owner", "page_size"]
    );
}

#[test]
fn a_truncation_says_where_to_cut() {
    let request = |cut| proto::TruncateThreadRequest { thread_id: "t".into(), cut, ..Default::default() };
    assert_eq!(paths(truncate(request(None))), ["cut"]);
    assert_eq!(paths(truncate(request(Some(truncate::Cut::AfterSeq(-1))))), ["after_seq"]);
    assert_eq!(paths(truncate(request(Some(truncate::Cut::KeepLast(-1))))), ["keep_last"]);
    assert_eq!(truncate(request(Some(truncate::Cut::KeepLast(0)))).unwrap().1, Cut::KeepLast(0));
}

#[test]
fn a_page_token_is_of_its_request() {
    let request = proto::ListMessagesRequest { thread_id: "t".into(), ..Default::default() };
    let query = list_messages(&request).unwrap();
    let cursor = crate::threads::MessagesCursor { epoch: "e".into(), seq: 4, local: false };
    let page_token = tokens::seal_messages(&query, &cursor);
    let next = proto::ListMessagesRequest { page_token, page_size: 7, peek: true, ..request };
    assert_eq!(list_messages(&next).unwrap().cursor.unwrap().seq, 4);
    let other = proto::ListMessagesRequest { after_seq: 1, ..next };
    assert!(matches!(list_messages(&other), Err(Error::TokenMismatch)));
}

#[test]
fn a_watch_begins_after_a_seq_or_after_an_event() {
    let request = proto::WatchThreadRequest { thread_id: "t".into(), after_seq: 7, resume: None };
    assert_eq!(watch(request.clone()).unwrap().1, Since::Seq(7));
    // What is ignored is not checked.
    let position = proto::ThreadPosition { epoch: "E".into(), revision: 4, seq: 3 };
    let resumed = proto::WatchThreadRequest { after_seq: -1, resume: Some(position), ..request };
    let place = Place::at(Position { epoch: "E".into(), revision: 4, seq: 3 });
    assert_eq!(watch(resumed).unwrap().1, Since::Told(place));
}

#[test]
fn a_watch_tells_every_violated_field() {
    let position = |epoch: &str, revision, seq| proto::ThreadPosition { epoch: epoch.into(), revision, seq };
    let request =
        |after_seq, resume| proto::WatchThreadRequest { thread_id: String::new(), after_seq, resume };
    assert_eq!(paths(watch(request(-1, None))), ["thread_id", "after_seq"]);
    let violated = ["thread_id", "resume.epoch", "resume.revision", "resume.seq"];
    assert_eq!(paths(watch(request(0, Some(position("", -1, -1))))), violated);
    let long = "x".repeat(129);
    assert_eq!(paths(watch(request(0, Some(position(&long, 0, 0))))), ["thread_id", "resume.epoch"]);
}
