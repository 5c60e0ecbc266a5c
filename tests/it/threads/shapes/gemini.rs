//! `Gemini` contents: parts as parts, a thought signature beside whatever part carries it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusewire::grpc::proto::{
    Media, Message, Part, Reasoning, Role, ToolCall, ToolResult, media::Source, part::Kind,
};
use serde_json::{Value, json};

use super::{block, kept, noted, opaque, rest, take_text};

const OWN: &str = "google";

/// Reads a content as the provider has it.
pub(super) fn read(content: &Value) -> Message {
    let mut own = content.as_object().unwrap().clone();
    let role = if take_text(&mut own, "role").unwrap() == "user" { Role::User } else { Role::Assistant };
    let Some(Value::Array(parts)) = own.remove("parts") else { panic!("parts are a list") };
    let parts = parts.iter().map(read_part).collect();
    Message { role: role.into(), parts, extra: kept(OWN, own), ..Default::default() }
}

fn read_part(given: &Value) -> Part {
    let mut own = given.as_object().unwrap().clone();
    let signature = take_text(&mut own, "thoughtSignature").unwrap_or_default();
    let mut take = |name: &str| own.remove(name).map(|value| value.as_object().unwrap().clone());
    let kind = if let Some(mut call) = take("functionCall") {
        Kind::ToolCall(ToolCall {
            call_id: take_text(&mut call, "id").unwrap_or_default(),
            name: take_text(&mut call, "name").unwrap(),
            arguments_json: call.remove("args").map(|args| args.to_string()).unwrap_or_default(),
        })
    } else if let Some(mut answer) = take("functionResponse") {
        Kind::ToolResult(ToolResult {
            call_id: take_text(&mut answer, "id").unwrap_or_default(),
            name: take_text(&mut answer, "name").unwrap(),
            text: answer.remove("response").unwrap().to_string(),
            ..Default::default()
        })
    } else if let Some(mut data) = take("inlineData") {
        let bytes = STANDARD.decode(take_text(&mut data, "data").unwrap()).unwrap();
        let mime_type = take_text(&mut data, "mimeType").unwrap();
        let name = take_text(&mut data, "displayName").unwrap_or_default();
        Kind::Media(Media { mime_type, name, source: Some(Source::Data(bytes.into())) })
    } else if let Some(mut file) = take("fileData") {
        let mime_type = take_text(&mut file, "mimeType").unwrap_or_default();
        let uri = take_text(&mut file, "fileUri").unwrap();
        Kind::Media(Media { mime_type, source: Some(Source::Uri(uri)), ..Default::default() })
    } else if given.get("text").is_none() {
        let kind = own.keys().next().unwrap().clone();
        return Part { signature, ..opaque(OWN, &kind, &own.into()) };
    } else {
        let text = take_text(&mut own, "text").unwrap();
        if given["thought"] == true { Kind::Reasoning(Reasoning { text }) } else { Kind::Text(text) }
    };
    Part { kind: Some(kind), signature, extra: kept(OWN, own) }
}

/// Writes a content as the provider had it.
pub(super) fn write(message: &Message) -> Value {
    let mut own = rest(OWN, &message.extra);
    own.insert("role".into(), json!(if message.role() == Role::User { "user" } else { "model" }));
    own.insert("parts".into(), message.parts.iter().map(write_part).collect());
    own.into()
}

fn write_part(written: &Part) -> Value {
    let mut own = rest(OWN, &written.extra);
    let named = |id: &str, name: &str| {
        let mut named = noted([("name", json!(name))]);
        if !id.is_empty() {
            named.insert("id".into(), json!(id));
        }
        named
    };
    match written.kind.as_ref().unwrap() {
        Kind::Text(text) | Kind::Reasoning(Reasoning { text }) => own.extend(noted([("text", json!(text))])),
        Kind::ToolCall(call) => {
            let mut value = named(&call.call_id, &call.name);
            if !call.arguments_json.is_empty() {
                value.insert("args".into(), serde_json::from_str(&call.arguments_json).unwrap());
            }
            own.insert("functionCall".into(), value.into());
        }
        Kind::ToolResult(result) => {
            let mut value = named(&result.call_id, &result.name);
            value.insert("response".into(), serde_json::from_str(&result.text).unwrap());
            own.insert("functionResponse".into(), value.into());
        }
        Kind::Media(Media { mime_type, name, source: Some(Source::Data(data)) }) => {
            let mut value = noted([("mimeType", json!(mime_type)), ("data", json!(STANDARD.encode(data)))]);
            if !name.is_empty() {
                value.insert("displayName".into(), json!(name));
            }
            own.insert("inlineData".into(), value.into());
        }
        Kind::Media(Media { mime_type, source: Some(Source::Uri(uri)), .. }) => {
            let mut value = noted([("fileUri", json!(uri))]);
            if !mime_type.is_empty() {
                value.insert("mimeType".into(), json!(mime_type));
            }
            own.insert("fileData".into(), value.into());
        }
        other => {
            let Value::Object(kind) = block(Some(other)) else { panic!("a block is an object") };
            own.extend(kind);
        }
    }
    if !written.signature.is_empty() {
        own.insert("thoughtSignature".into(), json!(written.signature));
    }
    own.into()
}
