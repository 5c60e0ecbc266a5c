//! Values between the wire and the domain: times, labels, threads, where an answer came from.

use std::{collections::BTreeMap, time::Duration};

use super::{
    check::{Check, Path},
    proto,
};
use crate::{
    call::{ServingMode, Source},
    clock::Timestamp,
    error::Violation,
    threads::{AppendedMessage, Parent, Thread, Trim, Ttl},
};

const MAX_TITLE_BYTES: usize = 512;
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 512;
const MAX_EXTRAS: usize = 8;
const MAX_KEY_BYTES: usize = 64;
/// The year 1 to the end of 9999: what `google.protobuf.Timestamp` may tell.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Checks a title.
pub(super) fn check_title(check: &mut Check, path: Path<'_>, title: &str) {
    check.at_most(path, title, MAX_TITLE_BYTES);
}

/// Checks the labels of a thread or of a message.
pub(super) fn check_labels(check: &mut Check, path: Path<'_>, labels: &BTreeMap<String, String>) {
    check.require(path, labels.len() <= MAX_LABELS, "must hold at most 16 entries");
    for (key, value) in labels.iter().take(MAX_LABELS) {
        check_key(check, path, key);
        check.at_most(path.key(key), value, MAX_LABEL_BYTES);
    }
}

/// Checks the extra of a message or of a part; its values are the writer's business.
pub(super) fn check_extra(check: &mut Check, path: Path<'_>, extra: &BTreeMap<String, String>) {
    check.require(path, extra.len() <= MAX_EXTRAS, "must hold at most 8 entries");
    for key in extra.keys().take(MAX_EXTRAS) {
        check_key(check, path, key);
    }
}

fn check_key(check: &mut Check, path: Path<'_>, key: &str) {
    check.require(
        path.key(key),
        (1..=MAX_KEY_BYTES).contains(&key.len()),
        "must have a key of 1 to 64 bytes",
    );
}

/// Checks that a caller's time is one that every client can read back.
pub(super) fn check_timestamp(check: &mut Check, path: Path<'_>, time: Option<&prost_types::Timestamp>) {
    let is_valid = |time: &prost_types::Timestamp| {
        TIMESTAMP_SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos)
    };
    check.require(path, time.is_none_or(is_valid), "is no valid timestamp");
}

/// Checks that a number counts something.
pub(super) fn check_count(check: &mut Check, path: Path<'_>, count: impl Into<i64>) {
    check.require(path, count.into() >= 0, "must not be negative");
}

/// Parses a duration; a negative one is none.
pub(super) fn length(duration: prost_types::Duration) -> Result<Option<Duration>, Violation> {
    let prost_types::Duration { seconds, nanos } = duration;
    if nanos.unsigned_abs() > 999_999_999 || (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0) {
        return Err(Violation::new("", "is no valid duration"));
    }
    let (seconds, nanos) = (u64::try_from(seconds).ok(), u32::try_from(nanos).ok());
    Ok(seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos)))
}

/// Parses a time to live.
pub(super) fn ttl(duration: prost_types::Duration) -> Result<Ttl, Violation> {
    // What is negative becomes zero, which is refused like any other duration out of bounds.
    Ttl::new("ttl", length(duration)?.unwrap_or_default())
}

/// Parses a trim policy; none trims nothing.
pub(super) fn trim(check: &mut Check, path: Path<'_>, policy: Option<proto::TrimPolicy>) -> Trim {
    let policy = policy.unwrap_or_default();
    check_count(check, path.field("max_messages"), policy.max_messages);
    check_count(check, path.field("max_bytes"), policy.max_bytes);
    Trim { max_messages: policy.max_messages.into(), max_bytes: policy.max_bytes }
}

/// Writes a time, exact in milliseconds.
pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

/// Writes a duration.
pub(super) fn duration(length: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(length.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds, nanos }
}

/// Writes a thread.
pub(super) fn thread(thread: Thread) -> proto::ConversationThread {
    let etag = thread.etag();
    let Thread { id, profile, parent, .. } = thread;
    let trim = Some(profile.trim).filter(|trim| *trim != Trim::default()).map(trim_policy);
    proto::ConversationThread {
        id: id.to_string(),
        owner: profile.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        title: profile.title,
        labels: profile.labels,
        ttl: Some(duration(profile.ttl.as_duration())),
        pinned: profile.pinned,
        trim,
        etag,
        revision: thread.revision,
        message_count: thread.message_count,
        first_seq: thread.first_seq,
        last_seq: thread.last_seq,
        token_count: thread.token_count,
        size_bytes: thread.size_bytes,
        parent: parent
            .map(|Parent { thread_id, seq }| proto::ThreadParent { thread_id: thread_id.to_string(), seq }),
        create_time: Some(timestamp(thread.create_time)),
        update_time: Some(timestamp(thread.update_time)),
        expire_time: thread.expire_time.map(timestamp),
    }
}

fn trim_policy(trim: Trim) -> proto::TrimPolicy {
    let max_messages = i32::try_from(trim.max_messages).unwrap_or(i32::MAX);
    proto::TrimPolicy { max_messages, max_bytes: trim.max_bytes }
}

/// Writes what became of the messages of an append.
pub(super) fn appended(messages: Vec<AppendedMessage>) -> Vec<proto::AppendedMessage> {
    let write = |AppendedMessage { id, seq, duplicate, provisional }| proto::AppendedMessage {
        id: id.to_string(),
        seq,
        duplicate,
        provisional,
    };
    messages.into_iter().map(write).collect()
}

/// Says how this instance serves.
pub(super) fn serving_mode(mode: ServingMode) -> i32 {
    let mode = match mode {
        ServingMode::Shared => proto::ServingMode::Shared,
        ServingMode::Degraded => proto::ServingMode::Degraded,
        ServingMode::Reconciling => proto::ServingMode::Reconciling,
        ServingMode::Local => proto::ServingMode::Local,
    };
    mode.into()
}

/// Writes where an answer came from.
pub(super) fn authority(source: Source) -> i32 {
    let authority = match source {
        Source::Shared => proto::Authority::Shared,
        Source::Local { .. } => proto::Authority::Local,
    };
    authority.into()
}

/// Writes how old an answer may be.
pub(super) fn as_of(source: Source) -> Option<prost_types::Timestamp> {
    match source {
        Source::Shared => None,
        Source::Local { as_of } => as_of.map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    #[test]
    fn times_to_live_go_from_1_s_to_365_days_and_must_be_well_formed() {
        assert_eq!(ttl(seconds(7200, 0)).unwrap().as_millis(), 7_200_000);
        assert_eq!(ttl(seconds(1, 500_000_000)).unwrap().as_millis(), 1500);
        assert_eq!(ttl(seconds(365 * 86_400, 0)).unwrap().as_millis(), 365 * 86_400_000);
        let bad = [
            seconds(0, 0),
            seconds(0, 999_000_000),
            seconds(-1, 0),
            seconds(0, -1),
            seconds(i64::MIN, i32::MIN),
            seconds(i64::MAX, 0),
            seconds(365 * 86_400, 1),
            seconds(5, 1_000_000_000),
            seconds(5, -1),
        ];
        for duration in bad {
            assert!(ttl(duration).is_err(), "{duration:?}");
        }
    }

    #[test]
    fn times_are_exact_in_milliseconds() {
        let at = |millis| timestamp(Timestamp::from_millis(millis));
        assert_eq!(
            at(1_763_000_000_123),
            prost_types::Timestamp { seconds: 1_763_000_000, nanos: 123_000_000 }
        );
        assert_eq!(at(-1), prost_types::Timestamp { seconds: -1, nanos: 999_000_000 });
    }
}
