//! `OpenAI` chat completions: one message a `Message`, calls as parts behind the content.

use fusewire::grpc::proto::{Media, Message, Part, Role, ToolCall, ToolResult, media::Source, part::Kind};
use serde_json::{Map, Value, json};

use super::{block, kept, noted, opaque, rest, take_text};
use crate::support::threads::part;

const OWN: &str = "openai";

fn role(name: &str) -> Role {
    match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => panic!("no role of theirs: {other}"),
    }
}

/// Reads a message as the provider has it.
pub(crate) fn read(line: &Value) -> Message {
    let mut own = line.as_object().unwrap().clone();
    let role = role(&take_text(&mut own, "role").unwrap());
    let name = take_text(&mut own, "name").unwrap_or_default();
    let content = own.remove("content");
    let parts: Vec<Part> = match &content {
        Some(Value::Array(blocks)) => blocks.iter().map(read_block).collect(),
        Some(Value::String(text)) => vec![part(Kind::Text(text.clone()))],
        _ => Vec::new(),
    };
    // How the content was given, where the parts do not tell.
    match content {
        Some(Value::Null) => drop(own.insert("content".into(), Value::Null)),
        Some(Value::Array(_)) => drop(own.insert("content".into(), json!("parts"))),
        _ => {}
    }
    let mut parts = match take_text(&mut own, "tool_call_id") {
        None => parts,
        Some(call_id) => vec![part(Kind::ToolResult(answer(call_id, parts, own.contains_key("content"))))],
    };
    if let Some(Value::Array(calls)) = own.remove("tool_calls") {
        parts.extend(calls.iter().map(read_call));
    }
    Message { role: role.into(), name, parts, extra: kept(OWN, own), ..Default::default() }
}

fn answer(call_id: String, parts: Vec<Part>, in_pieces: bool) -> ToolResult {
    let answer = ToolResult { call_id, ..Default::default() };
    match (in_pieces, parts.first()) {
        (false, Some(Part { kind: Some(Kind::Text(text)), .. })) => {
            ToolResult { text: text.clone(), ..answer }
        }
        _ => ToolResult { parts, ..answer },
    }
}

fn read_call(call: &Value) -> Part {
    let mut own = call.as_object().unwrap().clone();
    let call_id = take_text(&mut own, "id").unwrap();
    let mut function = own.remove("function").unwrap();
    let function = function.as_object_mut().unwrap();
    let call = ToolCall {
        call_id,
        name: take_text(function, "name").unwrap(),
        arguments_json: take_text(function, "arguments").unwrap(),
    };
    Part { extra: kept(OWN, own), ..part(Kind::ToolCall(call)) }
}

fn read_block(block: &Value) -> Part {
    let mut own = block.as_object().unwrap().clone();
    match block["type"].as_str().unwrap() {
        "text" => {
            own.remove("type");
            let text = take_text(&mut own, "text").unwrap();
            Part { extra: kept(OWN, own), ..part(Kind::Text(text)) }
        }
        "image_url" => {
            let image = own.get_mut("image_url").unwrap().as_object_mut().unwrap();
            let uri = take_text(image, "url").unwrap();
            let media = Media { source: Some(Source::Uri(uri)), ..Default::default() };
            Part { extra: kept(OWN, own), ..part(Kind::Media(media)) }
        }
        kind => opaque(OWN, kind, block),
    }
}

/// Writes a message as the provider had it.
pub(crate) fn write(message: &Message) -> Value {
    let mut line = rest(OWN, &message.extra);
    line.insert(
        "role".into(),
        json!(message.role().as_str_name().trim_start_matches("ROLE_").to_lowercase()),
    );
    if !message.name.is_empty() {
        line.insert("name".into(), json!(message.name));
    }
    let is_call = |part: &&Part| matches!(part.kind, Some(Kind::ToolCall(_)));
    let calls: Vec<Value> = message.parts.iter().filter(is_call).map(write_call).collect();
    if !calls.is_empty() {
        line.insert("tool_calls".into(), calls.into());
    }
    let mut content: Vec<Part> = message.parts.iter().filter(|part| !is_call(part)).cloned().collect();
    if let [Part { kind: Some(Kind::ToolResult(result)), .. }] = &content[..] {
        line.insert("tool_call_id".into(), json!(result.call_id));
        content = if result.parts.is_empty() && !line.contains_key("content") {
            vec![part(Kind::Text(result.text.clone()))]
        } else {
            result.parts.clone()
        };
    }
    write_content(&mut line, &content);
    line.into()
}

fn write_content(line: &mut Map<String, Value>, content: &[Part]) {
    match (line.get("content"), content) {
        (Some(Value::Null), _) | (None, []) => {}
        (Some(_), blocks) => drop(line.insert("content".into(), blocks.iter().map(write_block).collect())),
        (None, [Part { kind: Some(Kind::Text(text)), .. }]) => {
            line.insert("content".into(), json!(text));
        }
        (None, other) => panic!("content of no shape of theirs: {other:?}"),
    }
}

fn write_call(call: &Part) -> Value {
    let mut own = rest(OWN, &call.extra);
    let Some(Kind::ToolCall(call)) = &call.kind else { unreachable!("filtered") };
    own.insert("id".into(), json!(call.call_id));
    own.insert("function".into(), json!({"name": call.name, "arguments": call.arguments_json}));
    own.into()
}

fn write_block(written: &Part) -> Value {
    let mut own = rest(OWN, &written.extra);
    match &written.kind {
        Some(Kind::Text(text)) => {
            own.extend(noted([("type", json!("text")), ("text", json!(text))]));
            own.into()
        }
        Some(Kind::Media(Media { source: Some(Source::Uri(uri)), .. })) => {
            own["image_url"]["url"] = json!(uri);
            own.into()
        }
        other => block(other.as_ref()),
    }
}
