//! Fields that requests of several services have.

use std::{ops::RangeInclusive, time::Duration};

use prost_types::FieldMask;

use super::{
    check::{Check, Path},
    convert,
};
use crate::{error::Violation, threads::RequestId};

const DEFAULT_PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: usize = 1000;
/// What an update changes.
pub(super) const MASK: Path<'static> = Path::Root("update_mask");

/// Parses a text that may be empty, which is none.
pub(super) fn optional<T>(
    check: &mut Check,
    path: Path<'_>,
    raw: &str,
    parse: fn(&str, &str) -> Result<T, Violation>,
) -> Option<T> {
    if raw.is_empty() { None } else { check.take(path, parse("", raw)) }
}

/// Parses the id of a write that may be repeated.
pub(super) fn request_id(check: &mut Check, raw: &str) -> Option<RequestId> {
    optional(check, Path::Root("request_id"), raw, RequestId::parse_new)
}

/// Parses the most that a page may hold.
pub(super) fn page_size(check: &mut Check, size: i32) -> usize {
    convert::check_count(check, Path::Root("page_size"), size);
    match usize::try_from(size) {
        Ok(0) | Err(_) => DEFAULT_PAGE_SIZE,
        Ok(size) => size.min(MAX_PAGE_SIZE),
    }
}

/// Parses a duration that may be absent and has bounds; `rule` tells these.
pub(super) fn length(
    check: &mut Check,
    path: Path<'_>,
    raw: Option<prost_types::Duration>,
    bounds: RangeInclusive<Duration>,
    rule: &str,
) -> Option<Duration> {
    let length = check.take(path, convert::length(raw?))?.filter(|length| bounds.contains(length));
    check.require(path, length.is_some(), rule);
    length
}

/// Parses an update mask, whose paths are each one of `names`; a path that is there twice counts once. Refusals list the
/// names, or say what they are together.
pub(super) fn masked(
    check: &mut Check,
    mask: &FieldMask,
    names: &[&'static str],
    together: Option<&str>,
) -> Vec<&'static str> {
    let told = || together.map_or_else(|| names.join(", "), str::to_owned);
    if mask.paths.is_empty() {
        check.refuse(MASK, format!("must name at least one of {}", told()));
    }
    let mut found = Vec::new();
    for (index, path) in mask.paths.iter().enumerate() {
        match names.iter().find(|name| *name == path) {
            Some(name) if found.contains(name) => {}
            Some(name) => found.push(*name),
            None => check.refuse(MASK.field("paths").index(index), format!("must be one of {}", told())),
        }
        if check.is_full() {
            break;
        }
    }
    found
}
