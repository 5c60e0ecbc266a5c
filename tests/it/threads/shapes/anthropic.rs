//! `Anthropic` messages: content blocks as parts, thinking with its signature.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusewire::grpc::proto::{
    Media, Message, Part, Reasoning, Role, ToolCall, ToolResult, media::Source, part::Kind,
};
use serde_json::{Map, Value, json};

use super::{block, kept, noted, opaque, rest, take_text};
use crate::support::threads::part;

const OWN: &str = "anthropic";

/// Reads a message as the provider has it.
pub(super) fn read(message: &Value) -> Message {
    let mut own = message.as_object().unwrap().clone();
    let role = if take_text(&mut own, "role").unwrap() == "user" { Role::User } else { Role::Assistant };
    let parts = read_content(&mut own);
    let model = take_text(&mut own, "model").unwrap_or_default();
    let finish_reason = take_text(&mut own, "stop_reason").unwrap_or_default();
    Message { role: role.into(), parts, model, finish_reason, extra: kept(OWN, own), ..Default::default() }
}

/// Takes the content; leaves a note where it was one text.
fn read_content(own: &mut Map<String, Value>) -> Vec<Part> {
    match own.remove("content") {
        Some(Value::String(text)) => {
            own.insert("content".into(), json!("text"));
            vec![part(Kind::Text(text))]
        }
        Some(Value::Array(blocks)) => blocks.iter().map(read_block).collect(),
        _ => Vec::new(),
    }
}

fn read_block(block: &Value) -> Part {
    let mut own = block.as_object().unwrap().clone();
    let mut signature = String::new();
    let kind = match block["type"].as_str().unwrap() {
        "text" => Kind::Text(take_text(&mut own, "text").unwrap()),
        "thinking" => {
            signature = take_text(&mut own, "signature").unwrap();
            Kind::Reasoning(Reasoning { text: take_text(&mut own, "thinking").unwrap() })
        }
        "redacted_thinking" => {
            signature = take_text(&mut own, "data").unwrap();
            Kind::Reasoning(Reasoning::default())
        }
        "tool_use" => Kind::ToolCall(ToolCall {
            call_id: take_text(&mut own, "id").unwrap(),
            name: take_text(&mut own, "name").unwrap(),
            arguments_json: own.remove("input").unwrap().to_string(),
        }),
        "tool_result" => Kind::ToolResult(read_result(&mut own)),
        "image" | "document" if block["source"]["type"] != "text" => Kind::Media(read_media(&mut own)),
        kind => return opaque(OWN, kind, block),
    };
    Part { kind: Some(kind), signature, extra: kept(OWN, own) }
}

fn read_result(own: &mut Map<String, Value>) -> ToolResult {
    let call_id = take_text(own, "tool_use_id").unwrap();
    // Absent and false are told apart by the note that stays.
    let is_error = own.get("is_error") == Some(&json!(true));
    let parts = read_content(own);
    match (own.remove("content"), parts.first()) {
        (Some(_), Some(Part { kind: Some(Kind::Text(text)), .. })) => {
            ToolResult { call_id, is_error, text: text.clone(), ..Default::default() }
        }
        _ => ToolResult { call_id, is_error, parts, ..Default::default() },
    }
}

fn read_media(own: &mut Map<String, Value>) -> Media {
    let mut source = own.remove("source").unwrap();
    let source = source.as_object_mut().unwrap();
    let mime_type = take_text(source, "media_type").unwrap_or_default();
    let name = take_text(own, "title").unwrap_or_default();
    let source = match source["type"].as_str().unwrap() {
        "base64" => Source::Data(STANDARD.decode(take_text(source, "data").unwrap()).unwrap().into()),
        "url" => Source::Uri(take_text(source, "url").unwrap()),
        _ => Source::FileId(take_text(source, "file_id").unwrap()),
    };
    Media { mime_type, name, source: Some(source) }
}

/// Writes a message as the provider had it.
pub(super) fn write(message: &Message) -> Value {
    let mut own = rest(OWN, &message.extra);
    own.insert("role".into(), json!(if message.role() == Role::User { "user" } else { "assistant" }));
    for (name, value) in [("model", &message.model), ("stop_reason", &message.finish_reason)] {
        if !value.is_empty() {
            own.insert(name.into(), json!(value));
        }
    }
    let content = match (own.contains_key("content"), &message.parts[..]) {
        (true, [Part { kind: Some(Kind::Text(text)), .. }]) => json!(text),
        (_, parts) => parts.iter().map(write_block).collect(),
    };
    own.insert("content".into(), content);
    own.into()
}

fn write_block(written: &Part) -> Value {
    let mut own = rest(OWN, &written.extra);
    match written.kind.as_ref().unwrap() {
        Kind::Text(text) => own.extend(noted([("text", json!(text))])),
        Kind::Reasoning(_) if own["type"] == "redacted_thinking" => {
            own.extend(noted([("data", json!(written.signature))]));
        }
        Kind::Reasoning(thought) => {
            own.extend(noted([("thinking", json!(thought.text)), ("signature", json!(written.signature))]));
        }
        Kind::ToolCall(call) => own.extend(noted([
            ("id", json!(call.call_id)),
            ("name", json!(call.name)),
            ("input", serde_json::from_str(&call.arguments_json).unwrap()),
        ])),
        Kind::ToolResult(result) => {
            own.insert("tool_use_id".into(), json!(result.call_id));
            let content = if result.parts.is_empty() {
                json!(result.text)
            } else {
                result.parts.iter().map(write_block).collect()
            };
            own.insert("content".into(), content);
        }
        Kind::Media(media) => write_media(&mut own, media),
        opaque @ Kind::Opaque(_) => return block(Some(opaque)),
    }
    own.into()
}

fn write_media(own: &mut Map<String, Value>, media: &Media) {
    let mut source = match media.source.as_ref().unwrap() {
        Source::Data(data) => json!({"type": "base64", "data": STANDARD.encode(data)}),
        Source::Uri(uri) => json!({"type": "url", "url": uri}),
        Source::FileId(id) => json!({"type": "file", "file_id": id}),
    };
    if !media.mime_type.is_empty() {
        source["media_type"] = json!(media.mime_type);
    }
    if !media.name.is_empty() {
        own.insert("title".into(), json!(media.name));
    }
    own.insert("source".into(), source);
}
