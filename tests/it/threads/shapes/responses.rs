//! `OpenAI` responses: one item a `Message`, its summaries and content blocks as parts.

use fusewire::grpc::proto::{
    Media, Message, Part, Reasoning, Role, ToolCall, ToolResult, media::Source, part::Kind,
};
use serde_json::{Value, json};

use super::{block, kept, noted, opaque, rest, take_text};
use crate::support::threads::part;

const OWN: &str = "openai";

/// Reads an item as the provider has it.
pub(super) fn read(item: &Value) -> Message {
    let mut own = item.as_object().unwrap().clone();
    let (role, parts) = match item["type"].as_str().unwrap() {
        "message" => {
            let role = match take_text(&mut own, "role").unwrap().as_str() {
                "user" => Role::User,
                "developer" => Role::Developer,
                "system" => Role::System,
                _ => Role::Assistant,
            };
            let Some(Value::Array(content)) = own.remove("content") else { panic!("content is a list") };
            (role, content.iter().map(read_block).collect())
        }
        "reasoning" => {
            let signature = take_text(&mut own, "encrypted_content").unwrap_or_default();
            let Some(Value::Array(summary)) = own.remove("summary") else { panic!("a summary is a list") };
            let mut parts: Vec<Part> = summary.iter().map(read_thought).collect();
            if parts.is_empty() {
                // Hidden: a thought without words carries the signature.
                own.insert("summary".into(), json!([]));
                parts.push(part(Kind::Reasoning(Reasoning::default())));
            }
            parts[0].signature = signature;
            (Role::Assistant, parts)
        }
        "function_call" => {
            let call = ToolCall {
                call_id: take_text(&mut own, "call_id").unwrap(),
                name: take_text(&mut own, "name").unwrap(),
                arguments_json: take_text(&mut own, "arguments").unwrap(),
            };
            (Role::Assistant, vec![part(Kind::ToolCall(call))])
        }
        "function_call_output" => {
            let call_id = take_text(&mut own, "call_id").unwrap();
            let result = match own.remove("output").unwrap() {
                Value::String(text) => ToolResult { call_id, text, ..Default::default() },
                Value::Array(blocks) => ToolResult {
                    call_id,
                    parts: blocks.iter().map(read_block).collect(),
                    ..Default::default()
                },
                other => panic!("no output of theirs: {other}"),
            };
            (Role::Tool, vec![part(Kind::ToolResult(result))])
        }
        kind => {
            own.clear();
            (Role::Assistant, vec![opaque(OWN, kind, item)])
        }
    };
    Message { role: role.into(), parts, extra: kept(OWN, own), ..Default::default() }
}

fn read_thought(summary: &Value) -> Part {
    let mut own = summary.as_object().unwrap().clone();
    let text = take_text(&mut own, "text").unwrap();
    Part { extra: kept(OWN, own), ..part(Kind::Reasoning(Reasoning { text })) }
}

fn read_block(block: &Value) -> Part {
    let mut own = block.as_object().unwrap().clone();
    match block["type"].as_str().unwrap() {
        "input_text" | "output_text" => {
            let text = take_text(&mut own, "text").unwrap();
            Part { extra: kept(OWN, own), ..part(Kind::Text(text)) }
        }
        "input_image" => {
            let source = match take_text(&mut own, "image_url") {
                Some(url) => Source::Uri(url),
                None => Source::FileId(take_text(&mut own, "file_id").unwrap()),
            };
            let media = Media { source: Some(source), ..Default::default() };
            Part { extra: kept(OWN, own), ..part(Kind::Media(media)) }
        }
        kind => opaque(OWN, kind, block),
    }
}

/// Writes an item as the provider had it.
pub(super) fn write(message: &Message) -> Value {
    let mut own = rest(OWN, &message.extra);
    let first = message.parts.first();
    match first.and_then(|part| part.kind.as_ref()) {
        Some(Kind::Opaque(_)) if own.is_empty() => return block(first.unwrap().kind.as_ref()),
        Some(Kind::Reasoning(_)) => {
            let signature = &first.unwrap().signature;
            if !signature.is_empty() {
                own.insert("encrypted_content".into(), json!(signature));
            }
            if !own.contains_key("summary") {
                own.insert("summary".into(), message.parts.iter().map(write_block).collect());
            }
        }
        Some(Kind::ToolCall(call)) => own.extend(noted([
            ("call_id", json!(call.call_id)),
            ("name", json!(call.name)),
            ("arguments", json!(call.arguments_json)),
        ])),
        Some(Kind::ToolResult(result)) => {
            let output = if result.parts.is_empty() {
                json!(result.text)
            } else {
                result.parts.iter().map(write_block).collect()
            };
            own.extend(noted([("call_id", json!(result.call_id)), ("output", output)]));
        }
        _ => {
            let role = message.role().as_str_name().trim_start_matches("ROLE_").to_lowercase();
            own.insert("role".into(), json!(role));
            own.insert("content".into(), message.parts.iter().map(write_block).collect());
        }
    }
    own.into()
}

fn write_block(written: &Part) -> Value {
    let mut own = rest(OWN, &written.extra);
    match &written.kind {
        Some(Kind::Text(text) | Kind::Reasoning(Reasoning { text })) => {
            own.insert("text".into(), json!(text))
        }
        Some(Kind::Media(Media { source: Some(Source::Uri(url)), .. })) => {
            own.insert("image_url".into(), json!(url))
        }
        Some(Kind::Media(Media { source: Some(Source::FileId(id)), .. })) => {
            own.insert("file_id".into(), json!(id))
        }
        other => return block(other.as_ref()),
    };
    own.into()
}
