//! The content of messages: what a part must be, and what the domain knows of it.

use super::{
    check::{Check, Path},
    convert,
    proto::{Media, Opaque, Part, Reasoning, ToolCall, ToolResult, media::Source, part::Kind},
};
use crate::threads::ToolRef;

/// Checks every part of a message.
pub(super) fn check_parts(check: &mut Check, path: Path<'_>, parts: &[Part]) {
    for (index, part) in parts.iter().enumerate() {
        if check.is_full() {
            return;
        }
        check_part(check, path.index(index), part);
    }
}

fn check_part(check: &mut Check, path: Path<'_>, part: &Part) {
    convert::check_extra(check, path.field("extra"), &part.extra);
    match &part.kind {
        None => check.refuse(path, "must be of a kind that this server knows"),
        Some(Kind::Text(_) | Kind::Reasoning(_) | Kind::ToolCall(_)) => {}
        Some(Kind::ToolResult(result)) => check_result(check, path.field("tool_result"), result),
        Some(Kind::Media(media)) => check_media(check, path.field("media"), media),
        Some(Kind::Opaque(opaque)) => {
            let path = path.field("opaque");
            check.require(path.field("mime_type"), !opaque.mime_type.is_empty(), "is required");
        }
    }
}

fn check_result(check: &mut Check, path: Path<'_>, result: &ToolResult) {
    check.require(
        path,
        result.text.is_empty() || result.parts.is_empty(),
        "must hold text or parts, not both",
    );
    let parts = path.field("parts");
    for (index, part) in result.parts.iter().enumerate() {
        if check.is_full() {
            return;
        }
        match &part.kind {
            Some(Kind::Reasoning(_) | Kind::ToolCall(_) | Kind::ToolResult(_)) => {
                check.refuse(parts.index(index), "must be text, media or opaque");
            }
            None | Some(Kind::Text(_) | Kind::Media(_) | Kind::Opaque(_)) => {
                check_part(check, parts.index(index), part);
            }
        }
    }
}

fn check_media(check: &mut Check, path: Path<'_>, media: &Media) {
    match &media.source {
        None => check.refuse(path, "must have a uri, data or a file_id"),
        Some(Source::Data(_)) => {
            check.require(path.field("mime_type"), !media.mime_type.is_empty(), "is required with data");
        }
        Some(Source::Uri(_) | Source::FileId(_)) => {}
    }
}

/// Counts the bytes from which tokens are estimated: text, thoughts, names, arguments and results of tools, URIs and
/// data. What only providers and writers read (signatures, extra, ids, MIME types) takes no tokens.
pub(super) fn content_bytes(parts: &[Part]) -> usize {
    parts.iter().filter_map(|part| part.kind.as_ref()).map(kind_bytes).sum()
}

fn kind_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::Text(text) | Kind::Reasoning(Reasoning { text }) => text.len(),
        Kind::ToolCall(ToolCall { name, arguments_json, .. }) => name.len() + arguments_json.len(),
        Kind::ToolResult(ToolResult { name, text, parts, .. }) => {
            name.len() + text.len() + content_bytes(parts)
        }
        Kind::Media(Media { source, .. }) => match source {
            Some(Source::Uri(uri)) => uri.len(),
            Some(Source::Data(data)) => data.len(),
            Some(Source::FileId(_)) | None => 0,
        },
        Kind::Opaque(Opaque { data, .. }) => data.len(),
    }
}

/// Lists the tool calls and results, in order.
pub(super) fn tools(parts: &[Part]) -> Vec<ToolRef> {
    parts.iter().filter_map(|part| part.kind.as_ref().and_then(tool)).collect()
}

fn tool(kind: &Kind) -> Option<ToolRef> {
    let (is_result, call_id, name) = match kind {
        Kind::ToolCall(call) => (false, &call.call_id, &call.name),
        Kind::ToolResult(result) => (true, &result.call_id, &result.name),
        Kind::Text(_) | Kind::Reasoning(_) | Kind::Media(_) | Kind::Opaque(_) => return None,
    };
    Some(ToolRef { is_result, call_id: call_id.clone(), name: name.clone() })
}
