//! Digests, estimates, and the way of a message into a store and back.

use super::*;
use crate::{
    clock::Timestamp,
    error::Violation,
    grpc::proto::{Media, Opaque, Part, Reasoning, ToolCall, ToolResult, media::Source, part::Kind},
};

fn part(kind: Kind) -> Part {
    Part { kind: Some(kind), ..Default::default() }
}

fn text(text: &str) -> Part {
    part(Kind::Text(text.into()))
}

fn user(id: &str, parts: Vec<Part>) -> proto::Message {
    proto::Message { id: id.into(), role: proto::Role::User.into(), parts, ..Default::default() }
}

fn parsed(messages: Vec<proto::Message>) -> Result<Vec<NewMessage>> {
    let mut check = Check::default();
    let messages = parse_batch(&mut check, messages, None);
    check.finish(|| messages)
}

fn one(message: proto::Message) -> NewMessage {
    parsed(vec![message]).unwrap().remove(0)
}

fn violations(messages: Vec<proto::Message>) -> Vec<String> {
    let Err(Error::Invalid(violations)) = parsed(messages) else { panic!("refused") };
    violations.into_iter().map(|Violation { field, .. }| field).collect()
}

fn thread() -> ThreadId {
    ThreadId::parse("", "t").unwrap()
}

fn stored(message: Message, provisional: bool) -> StoredMessage {
    let commit_time = Timestamp::from_millis(1_763_000_000_123);
    StoredMessage { seq: 5, commit_time, provisional, message: Arc::new(message) }
}

#[test]
fn the_digest_is_a_promise() {
    // Threads outlive upgrades: another encoding would turn every retry into MESSAGE_ID_REUSED.
    let mut message = user("a", vec![text("hello"), part(Kind::Reasoning(Reasoning { text: "hm".into() }))]);
    message.name = "ada".into();
    message.extra = [("openai", "{}"), ("anthropic", "[]")].map(|(k, v)| (k.into(), v.into())).into();
    assert_eq!(one(message).digest.to_string(), "35f6a9aa4519a2d3af1bf70cf38a4ee5");
}

#[test]
fn the_digest_is_of_role_name_parts_and_extra_alone_in_whatever_order_maps_were_sent() {
    let mut first = user("a", vec![text("hello")]);
    first.extra = [("x", "1"), ("y", "2")].map(|(k, v)| (k.into(), v.into())).into();
    let mut second = user("b", vec![text("hello")]);
    second.extra = [("y", "2"), ("x", "1")].map(|(k, v)| (k.into(), v.into())).into();
    second.model = "m".into();
    second.token_count = 9;
    second.status = proto::MessageStatus::InProgress.into();
    second.labels.insert("k".into(), "v".into());
    second.seq = 7;
    let digest = one(first.clone()).digest;
    assert_eq!(digest, one(second).digest);

    let others: [fn(&mut proto::Message); 4] = [
        |message| message.role = proto::Role::Tool.into(),
        |message| message.name = "ada".into(),
        |message| message.parts.push(text("")),
        |message| message.extra.clear(),
    ];
    for change in others {
        let mut other = first.clone();
        change(&mut other);
        assert_ne!(digest, one(other).digest);
    }
}

#[test]
fn a_message_comes_back_as_it_was_sent_but_for_what_the_server_fills_in() {
    let call =
        ToolCall { call_id: "c".into(), name: "f".into(), arguments_json: "{\"n\":9007199254740993".into() };
    let mut sent = user("a", vec![text("\0 🜁 "), part(Kind::ToolCall(call))]);
    sent.create_time = Some(prost_types::Timestamp { seconds: -5, nanos: 999_999_999 });
    sent.seq = 99;
    sent.provisional = true;
    let back = write(&thread(), &stored(one(sent.clone()).message, false)).unwrap();
    let commit_time = Some(prost_types::Timestamp { seconds: 1_763_000_000, nanos: 123_000_000 });
    let status = proto::MessageStatus::Completed.into();
    assert_eq!(back, proto::Message { seq: 5, status, commit_time, provisional: false, ..sent });
}

#[test]
fn a_provisional_message_shows_no_seq() {
    let back = write(&thread(), &stored(one(user("a", vec![])).message, true)).unwrap();
    assert_eq!((back.seq, back.provisional), (0, true));
}

#[test]
fn a_payload_that_does_not_decode_is_corrupt() {
    let mut message = one(user("a", vec![])).message;
    message.payload = Bytes::from_static(&[0xff]);
    let error = write(&thread(), &stored(message, false)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { key, seq: 5 } if key == "thread t"));
}

#[test]
fn tokens_are_the_callers_number_or_estimated_at_4_content_bytes() {
    let tokens = |parts| one(user("a", parts)).message.tokens;
    assert_eq!(tokens(vec![]), 0);
    assert_eq!(tokens(vec![text("12345")]), 2);
    let result = ToolResult { name: "1234".into(), parts: vec![text("1234")], ..Default::default() };
    let data =
        Media { mime_type: "i".into(), source: Some(Source::Data(vec![0; 8].into())), ..Default::default() };
    let opaque = Opaque { mime_type: "m".into(), data: vec![0; 4].into() };
    let kinds = [Kind::ToolResult(result), Kind::Media(data), Kind::Opaque(opaque)];
    assert_eq!(tokens(kinds.map(part).to_vec()), 5);
    assert_eq!(one(proto::Message { token_count: 3, ..user("a", vec![text("12345")]) }).message.tokens, 3);
}

#[test]
fn tools_are_told_in_order() {
    let call = ToolCall { call_id: "c".into(), name: "f".into(), ..Default::default() };
    let result =
        ToolResult { call_id: "c".into(), name: "f".into(), text: "ok".into(), ..Default::default() };
    let message =
        one(user("a", vec![part(Kind::ToolCall(call)), text("x"), part(Kind::ToolResult(result))])).message;
    let told: Vec<_> = message.tools.iter().map(|tool| (tool.is_result, tool.call_id.as_str())).collect();
    assert_eq!(told, [(false, "c"), (true, "c")]);
}

#[test]
fn every_violated_field_is_told_with_its_path() {
    let bad_result = ToolResult {
        text: "x".into(),
        parts: vec![text("y"), part(Kind::ToolCall(ToolCall::default())), Part::default()],
        ..Default::default()
    };
    let data = Media { source: Some(Source::Data(Bytes::new())), ..Default::default() };
    let message = proto::Message {
        id: "a b".into(),
        role: 77,
        name: "n".repeat(129),
        parts: vec![
            Part::default(),
            part(Kind::ToolResult(bad_result)),
            part(Kind::Media(Media::default())),
            part(Kind::Media(data)),
            part(Kind::Opaque(Opaque::default())),
        ],
        status: 9,
        token_count: -1,
        model: "m".repeat(257),
        turn_id: "t".repeat(129),
        labels: [("k".to_owned(), "v".repeat(513))].into(),
        create_time: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
        finish_reason: "f".repeat(65),
        extra: [(String::new(), String::new())].into(),
        ..Default::default()
    };
    let expected = [
        "messages[1].id",
        "messages[1].role",
        "messages[1].name",
        "messages[1].parts[0]",
        "messages[1].parts[1].tool_result",
        "messages[1].parts[1].tool_result.parts[1]",
        "messages[1].parts[1].tool_result.parts[2]",
        "messages[1].parts[2].media",
        "messages[1].parts[3].media.mime_type",
        "messages[1].parts[4].opaque.mime_type",
        "messages[1].status",
        "messages[1].token_count",
        "messages[1].model",
        "messages[1].turn_id",
        "messages[1].labels[\"k\"]",
        "messages[1].create_time",
        "messages[1].finish_reason",
        "messages[1].extra[\"\"]",
    ];
    assert_eq!(violations(vec![user("a", vec![]), message]), expected);
    assert_eq!(violations(vec![proto::Message::default()]), ["messages[0].role"]);
}

#[test]
fn a_message_takes_2_mib_and_a_batch_100_messages_and_3_mib() {
    let sized = |bytes: usize| {
        let overhead = user("a", vec![text(&"x".repeat(1 << 20))]).encoded_len() - (1 << 20);
        let message = user("a", vec![text(&"x".repeat(bytes - overhead))]);
        assert_eq!(message.encoded_len(), bytes);
        message
    };
    assert!(parsed(vec![sized(2 << 20)]).is_ok());
    assert_eq!(violations(vec![sized((2 << 20) + 1)]), ["messages[0]"]);
    assert!(parsed(vec![sized(1 << 20); 3]).is_ok());
    assert_eq!(violations(vec![sized((1 << 20) + 1), sized(1 << 20), sized(1 << 20)]), ["messages"]);
    assert!(parsed(vec![user("a", vec![]); 100]).is_ok());
    assert_eq!(violations(vec![user("a", vec![]); 101]), ["messages"]);
}

#[test]
fn roles_have_the_numbers_of_the_contract() {
    for number in 1..=5_i32 {
        let role = Role::of_number(number).unwrap();
        assert_eq!(i32::from(role.number()), number);
        let name = proto::Role::try_from(number).unwrap().as_str_name();
        assert_eq!(name, format!("ROLE_{role:?}").to_uppercase());
    }
    for unknown in [i32::MIN, -1, 0, 6] {
        assert_eq!(Role::of_number(unknown), None);
    }
    assert!(proto::Role::try_from(6).is_err());
}

fn fields(names: &[&str]) -> Vec<&'static Field> {
    FIELDS.iter().filter(|field| names.contains(&field.name)).collect()
}

#[test]
fn a_revision_replaces_the_masked_fields_and_keeps_the_rest() {
    let mut before = user("a", vec![text("1234")]);
    before.model = "m".into();
    before.set_status(proto::MessageStatus::InProgress);
    let old = one(before).message;
    assert!(old.in_progress);
    let new = proto::Message { parts: vec![text("12345678")], model: "ignored".into(), ..Default::default() };
    let revised = revise(thread(), fields(&["parts", "status"]), new)(&old).unwrap();
    assert_eq!(
        (revised.in_progress, revised.tokens, &revised.id, revised.role),
        (false, 2, &old.id, old.role)
    );
    let back = write(&thread(), &stored(revised.clone(), false)).unwrap();
    assert_eq!(
        (back.model.as_str(), &back.parts, back.status()),
        ("m", &vec![text("12345678")], proto::MessageStatus::Completed)
    );
    let same =
        revise(thread(), fields(&["model"]), proto::Message { model: "m".into(), ..Default::default() });
    assert_eq!(same(&revised).unwrap(), revised);
}

#[test]
fn a_revision_that_makes_the_whole_too_large_is_refused() {
    let old = one(user("a", vec![text(&"x".repeat(1 << 20))])).message;
    let extra = [("k".to_owned(), "x".repeat(1 << 20))].into();
    let error = revise(thread(), fields(&["extra"]), proto::Message { extra, ..Default::default() })(&old);
    assert!(matches!(error, Err(Error::Invalid(violations)) if violations[0].field == "message"));
}
