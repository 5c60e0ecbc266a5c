//! What providers send, through `Message` and the server and back, without loss. The converters are what a client
//! library would have: a kind where there is one, the rest verbatim in `extra`.

use std::collections::BTreeMap;

use fusewire::grpc::proto::{Message, Opaque, Part, part::Kind};
use serde_json::{Map, Value, json};

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{part, sent},
};

mod anthropic;
pub(super) mod chat;
mod gemini;
mod responses;

on_every_store!(
    openai_chat_messages_come_back_without_loss,
    openai_responses_items_come_back_without_loss,
    anthropic_messages_come_back_without_loss,
    gemini_contents_come_back_without_loss,
);

fn take_text(own: &mut Map<String, Value>, name: &str) -> Option<String> {
    match own.remove(name) {
        Some(Value::String(text)) => Some(text),
        Some(other) => {
            own.insert(name.to_owned(), other);
            None
        }
        None => None,
    }
}

/// What no field holds, as `extra`.
fn kept(writer: &str, own: Map<String, Value>) -> BTreeMap<String, String> {
    if own.is_empty() { BTreeMap::new() } else { [(writer.to_owned(), Value::from(own).to_string())].into() }
}

fn rest(writer: &str, extra: &BTreeMap<String, String>) -> Map<String, Value> {
    extra.get(writer).map(|own| serde_json::from_str(own).unwrap()).unwrap_or_default()
}

fn noted<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A block that has no kind here, as it is.
fn opaque(writer: &str, kind: &str, block: &Value) -> Part {
    let mime_type = format!("application/vnd.{writer}.{kind}+json");
    part(Kind::Opaque(Opaque { mime_type, data: block.to_string().into_bytes().into() }))
}

fn block(kind: Option<&Kind>) -> Value {
    let Some(Kind::Opaque(opaque)) = kind else { panic!("no shape of theirs: {kind:?}") };
    serde_json::from_slice(&opaque.data).unwrap()
}

async fn through(
    on: &Deployment,
    id: &str,
    shapes: Vec<Value>,
    read: impl Fn(&Value) -> Message,
    write: impl Fn(&Message) -> Value,
) {
    let threads = on.threads();
    threads.create(id).await;
    let messages: Vec<Message> = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| Message { id: format!("{id}-{n}"), ..read(shape) })
        .collect();
    for message in &messages {
        assert!(!threads.append(id, vec![message.clone()]).await.messages[0].duplicate);
    }
    assert!(threads.append(id, messages.clone()).await.messages.iter().all(|message| message.duplicate));
    let back: Vec<Message> = threads.recount(id).await.into_iter().map(sent).collect();
    assert_eq!(back, messages);
    for (message, shape) in back.iter().zip(&shapes) {
        assert_eq!(&write(message), shape);
    }
    let context = threads.context(id, 0, 0).await.messages.into_iter().map(sent);
    assert_eq!(context.collect::<Vec<_>>(), messages);
}

/// Arguments that a parser would spoil.
const ARGUMENTS: &str = r#"{ "n":9007199254740993,"a":[],"o":{},"f":1.0,"s":"\u00e9\/😀","dup":1,"dup":2 }"#;
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const SIGNATURE: &str = "EqQBCkgIBxABGAIqQL+/x1zW4dGm9YzPa0pT8cQ==";

async fn openai_chat_messages_come_back_without_loss(on: &Deployment) {
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let shapes = vec![
        json!({"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}),
        json!({"role": "system", "content": ""}),
        json!({"role": "user", "name": "ada", "content": "plain \u{0} 😀"}),
        json!({"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "high"}},
            {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PIXEL}")}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "file", "file": {"file_id": "file-1"}},
        ]}),
        json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            call("call_1", "weather", ARGUMENTS), call("call_2", "weather", "{\"cut\":"), call("call_3", "time", ""),
        ]}),
        json!({"role": "tool", "tool_call_id": "call_2", "content": ARGUMENTS}),
        json!({"role": "tool", "tool_call_id": "call_1", "content": ""}),
        json!({"role": "tool", "tool_call_id": "call_3", "content": [{"type": "text", "text": "12:00"}]}),
        json!({"role": "assistant", "content": "Both, then.", "tool_calls": [
            {"id": "call_1", "type": "function", "index": 0, "function": {"name": "more", "arguments": "{}"}},
        ]}),
        json!({"role": "tool", "tool_call_id": "call_1", "content": "more"}),
        json!({"role": "assistant", "content": null, "refusal": "I cannot help with that."}),
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
        json!({"role": "assistant", "audio": {"id": "audio_1"}, "tool_calls": [call("", "x", "[]")]}),
        json!({"role": "assistant", "content": "done", "annotations": [{"type": "url_citation", "url_citation": {"start_index": 0}}], "reasoning_content": "hm"}),
    ];
    through(on, "chat", shapes, chat::read, chat::write).await;
}

async fn openai_responses_items_come_back_without_loss(on: &Deployment) {
    let shapes = vec![
        json!({"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "Look."},
            {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"},
            {"type": "input_image", "file_id": "file-2", "detail": "low"},
            {"type": "input_file", "file_id": "file-3", "filename": "a.pdf"},
        ]}),
        json!({"type": "reasoning", "id": "rs_1", "summary": [
            {"type": "summary_text", "text": "First…"}, {"type": "summary_text", "text": ""},
        ], "encrypted_content": SIGNATURE, "status": "completed"}),
        json!({"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": SIGNATURE}),
        json!({"type": "reasoning", "id": "rs_3", "summary": [], "content": [{"type": "reasoning_text", "text": "raw"}]}),
        json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": ARGUMENTS, "status": "completed"}),
        json!({"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "weather", "arguments": "{}"}),
        json!({"type": "function_call_output", "call_id": "call_2", "output": "sunny"}),
        json!({"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": [
            {"type": "input_text", "text": "a map:"}, {"type": "input_image", "image_url": "https://example.org/map.png"},
        ]}),
        json!({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}),
        json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "Sunny [1].", "logprobs": [], "annotations": [
                {"type": "url_citation", "start_index": 6, "end_index": 9, "url": "https://example.org", "title": "Ü"},
            ]},
            {"type": "refusal", "refusal": "Not more."},
        ]}),
    ];
    through(on, "responses", shapes, responses::read, responses::write).await;
}

async fn anthropic_messages_come_back_without_loss(on: &Deployment) {
    let shapes = vec![
        json!({"role": "user", "content": "one text"}),
        json!({"role": "user", "content": [
            {"type": "text", "text": "cached", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}, "cache_control": {"type": "ephemeral"}},
            {"type": "document", "title": "Report", "context": "as of May", "citations": {"enabled": true},
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjcK"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}, "title": "T"},
        ]}),
        json!({"role": "assistant", "id": "msg_1", "type": "message", "model": "claude-x", "stop_reason": "tool_use",
            "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 5}, "content": [
            {"type": "thinking", "thinking": "Let me see…", "signature": SIGNATURE},
            {"type": "redacted_thinking", "data": SIGNATURE},
            {"type": "thinking", "thinking": "", "signature": SIGNATURE},
            {"type": "text", "text": "I look.", "citations": null},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"n": 9_007_199_254_740_993_i64, "a": [], "o": {}}},
            {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}, "cache_control": {"type": "ephemeral"}},
        ]}),
        json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": true, "content": "it broke"},
            {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": false, "content": [
                {"type": "text", "text": "a picture:"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                {"type": "search_result", "source": "https://example.org", "title": "x", "content": []},
            ], "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "and?"},
        ]}),
        json!({"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "encrypted_content": "Eo8="}]},
            {"type": "text", "text": "Found.", "citations": [{"type": "char_location", "cited_text": "x", "start_char_index": 0}]},
        ]}),
        json!({"role": "assistant", "content": []}),
    ];
    through(on, "anthropic", shapes, anthropic::read, anthropic::write).await;
}

async fn gemini_contents_come_back_without_loss(on: &Deployment) {
    let shapes = vec![
        json!({"role": "user", "parts": [
            {"text": "What is this?"},
            {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
            {"inlineData": {"mimeType": "image/png", "data": PIXEL, "displayName": "pixel.png"}},
            {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://bucket/a.mp4"}, "videoMetadata": {"startOffset": "1s"}},
            {"fileData": {"fileUri": "https://example.org/b"}},
        ]}),
        json!({"role": "model", "parts": [
            {"text": "Let me think.", "thought": true},
            {"text": "", "thoughtSignature": SIGNATURE},
            {"functionCall": {"name": "look", "args": {"n": 9_007_199_254_740_993_i64, "a": []}}, "thoughtSignature": SIGNATURE},
            {"functionCall": {"name": "look", "args": {}}},
            {"functionCall": {"id": "fn-1", "name": "find"}},
        ]}),
        json!({"role": "user", "parts": [
            {"functionResponse": {"name": "look", "response": {"result": [1, 2.5, null]}}},
            {"functionResponse": {"name": "look", "response": {}}},
            {"functionResponse": {"id": "fn-1", "name": "find", "response": {"error": "none"}}},
        ]}),
        json!({"role": "model", "parts": [
            {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}},
            {"executableCode": {"language": "PYTHON", "code": ""}, "thoughtSignature": SIGNATURE},
            {"text": "It is 1."},
        ]}),
    ];
    through(on, "gemini", shapes, gemini::read, gemini::write).await;
}
