//! What went wrong, as google.rpc statuses: the one place that knows codes, reasons and details.

use std::{collections::HashMap, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{error, warn};

use crate::error::{Error, Violation};

const DOMAIN: &str = "fusewire";
const THREAD: &str = "fusewire.v1.ConversationThread";
const MESSAGE: &str = "fusewire.v1.Message";
/// When a caller may try again what was UNAVAILABLE.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// As long for what ends with this server: another one may answer at once.
const ELSEWHERE_AFTER: Duration = Duration::from_millis(100);
/// A status travels in HTTP/2 headers, its message twice and its details in base64, and some clients (Java) take no
/// more than 8 KiB of headers: these bounds keep it under 7.
const MAX_MESSAGE_BYTES: usize = 256;
const MAX_VIOLATIONS_BYTES: usize = 3 << 10;
const MAX_FIELD_BYTES: usize = 160;

impl From<Error> for Status {
    /// Maps an error and logs the two kinds that someone must look into.
    fn from(error: Error) -> Self {
        if let Error::Internal(cause) = &error {
            error!(%cause, "internal error");
        }
        if let Error::Corrupt { key, seq } = &error {
            warn!(%key, seq, "a stored value is corrupt");
        }
        let message = message(&error);
        let Facts { code, reason, metadata, detail } = facts(&error);
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, metadata);
        detail.add_to(&mut details, reason, &message);
        Self::with_error_details(code, message, details)
    }
}

/// Refuses a call over the limit of calls at once.
pub(super) fn too_many_calls(limit: usize) -> Status {
    let message = format!("the server has {limit} calls in work and takes no more");
    let mut details = ErrorDetails::new();
    details.set_error_info("TOO_MANY_CALLS", DOMAIN, HashMap::new());
    details.add_quota_failure_violation("server", message.as_str());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Refuses a stream over the limit of streams that are open at once.
pub(super) fn too_many_streams(limit: usize) -> Status {
    let message = format!("the server has {limit} streams open and opens no more");
    let mut details = ErrorDetails::new();
    details.set_error_info("TOO_MANY_STREAMS", DOMAIN, HashMap::new());
    details.add_quota_failure_violation("server", message.as_str());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Refuses a call that begins after the shutdown did, or ends one that outlives the drain deadline.
pub(super) fn shutting_down() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("SHUTTING_DOWN", DOMAIN, HashMap::new());
    details.set_retry_info(Some(ELSEWHERE_AFTER));
    Status::with_error_details(Code::Unavailable, "the server is shutting down", details)
}

struct Facts<'a> {
    code: Code,
    reason: &'static str,
    metadata: HashMap<String, String>,
    detail: Detail<'a>,
}

impl<'a> Facts<'a> {
    fn of(code: Code, reason: &'static str, detail: Detail<'a>) -> Self {
        Self { code, reason, metadata: HashMap::new(), detail }
    }

    fn with(mut self, key: &str, value: &impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), cut(&value.to_string(), MAX_FIELD_BYTES));
        self
    }
}

/// The detail that stands beside an `ErrorInfo`.
enum Detail<'a> {
    None,
    Fields(&'a [Violation]),
    Field(&'static str),
    Resource(&'static str, &'a str),
    Retry,
    Quota(Subject<'a>),
    Precondition(Subject<'a>),
}

/// What ran out, or was not as it must be.
enum Subject<'a> {
    Thread(&'a str),
    Breaker(&'a str),
    Named(&'static str),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(id) => write!(f, "thread:{id}"),
            Self::Breaker(key) => write!(f, "breaker:{key}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Detail<'_> {
    fn add_to(self, details: &mut ErrorDetails, reason: &str, message: &str) {
        match self {
            Self::None => {}
            Self::Fields(violations) => add_violations(violations, details),
            Self::Field(field) => {
                details.add_bad_request_violation(field, message);
            }
            Self::Resource(kind, name) => {
                details.set_resource_info(kind, name, "", message);
            }
            Self::Retry => {
                details.set_retry_info(Some(RETRY_AFTER));
            }
            Self::Quota(subject) => {
                details.add_quota_failure_violation(subject.to_string(), message);
            }
            Self::Precondition(subject) => {
                details.add_precondition_failure_violation(reason, subject.to_string(), message);
            }
        }
    }
}

/// The table of the contract: for each error its code, one stable reason, and its detail.
fn facts(error: &Error) -> Facts<'_> {
    use Code::{
        Aborted, AlreadyExists, DataLoss, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
        NotFound, OutOfRange, ResourceExhausted, Unavailable,
    };
    use Detail::{Field, Fields, Precondition, Quota, Resource, Retry};
    use Subject::{Breaker, Named, Thread};
    let of = Facts::of;
    match error {
        Error::Invalid(violations) => of(InvalidArgument, "INVALID_FIELDS", Fields(violations)),
        Error::TokenMismatch => of(InvalidArgument, "TOKEN_MISMATCH", Field("page_token")),
        Error::TokenStale => of(Aborted, "TOKEN_STALE", Precondition(Named("page_token"))),
        Error::ThreadNotFound { id } | Error::ThreadLost { id } => {
            of(NotFound, "THREAD_NOT_FOUND", Resource(THREAD, id))
        }
        Error::MessageNotFound { id, .. } => of(NotFound, "MESSAGE_NOT_FOUND", Resource(MESSAGE, id)),
        Error::ThreadExists { .. } => of(AlreadyExists, "THREAD_EXISTS", Detail::None),
        Error::MessageIdReused { id } => of(AlreadyExists, "MESSAGE_ID_REUSED", Detail::None).with("id", id),
        Error::EtagMismatch { current } => {
            of(Aborted, "ETAG_MISMATCH", Precondition(Named("etag"))).with("etag", current)
        }
        Error::SourceChanged { id } => of(Aborted, "SOURCE_CHANGED", Precondition(Thread(id))),
        Error::ThreadDeleted { id } => of(FailedPrecondition, "THREAD_DELETED", Precondition(Thread(id))),
        Error::OwnerMismatch { id } => of(FailedPrecondition, "OWNER_MISMATCH", Precondition(Thread(id))),
        Error::SeqOutOfRange { last_seq, .. } => {
            of(OutOfRange, "SEQ_OUT_OF_RANGE", Detail::None).with("last_seq", last_seq)
        }
        Error::EpochMismatch { current } => {
            of(OutOfRange, "EPOCH_MISMATCH", Detail::None).with("epoch", current)
        }
        Error::IllegalTransition { key, mode, .. } => {
            of(FailedPrecondition, "ILLEGAL_TRANSITION", Precondition(Breaker(key))).with("mode", mode)
        }
        Error::BreakerChanged { key } => of(Aborted, "BREAKER_CHANGED", Precondition(Breaker(key))),
        Error::ThreadLimit { id, .. } => of(ResourceExhausted, "THREAD_LIMIT", Quota(Thread(id))),
        Error::StoreFull { .. } => of(ResourceExhausted, "STORE_FULL", Quota(Named("server"))),
        Error::JournalFull { .. } => of(ResourceExhausted, "JOURNAL_FULL", Quota(Named("server"))),
        Error::RedisOutOfMemory => of(ResourceExhausted, "REDIS_OUT_OF_MEMORY", Quota(Named("redis"))),
        Error::Unreachable(_) | Error::TimedOut(_) | Error::Misconfigured(_) | Error::NeedsShared(_) => {
            of(Unavailable, "REDIS_UNREACHABLE", Retry)
        }
        Error::DeadlineExceeded => of(DeadlineExceeded, "DEADLINE", Detail::None),
        Error::Corrupt { key, seq } => {
            of(DataLoss, "CORRUPT_ENTRY", Detail::None).with("key", key).with("seq", seq)
        }
        Error::Internal(_) => of(Internal, "INTERNAL", Detail::None),
    }
}

fn add_violations(violations: &[Violation], details: &mut ErrorDetails) {
    let mut room = MAX_VIOLATIONS_BYTES;
    for violation in violations {
        let field = cut(&violation.field, MAX_FIELD_BYTES);
        let reason = cut(&violation.reason, MAX_FIELD_BYTES);
        // 8: tags and lengths.
        let Some(left) = room.checked_sub(field.len() + reason.len() + 8) else { return };
        room = left;
        details.add_bad_request_violation(field, reason);
    }
}

/// What the caller reads. Causes stay in our log: they name hosts and are of no use to a caller.
fn message(error: &Error) -> String {
    let text = match error {
        Error::Internal(_) => "internal error".to_owned(),
        Error::Misconfigured(_) => {
            "redis refuses this server's configuration, which an operator must correct".to_owned()
        }
        Error::Unreachable(_) => "redis cannot be used at the moment".to_owned(),
        Error::Invalid(violations) => match violations.split_first() {
            Some((first, [])) => format!("{}: {}", first.field, first.reason),
            Some((first, others)) => {
                format!("{}: {} (and {} more)", first.field, first.reason, others.len())
            }
            None => "the request is invalid".to_owned(),
        },
        other => other.to_string(),
    };
    cut(&text, MAX_MESSAGE_BYTES)
}

fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    // Room for the ellipsis, 3 bytes in UTF-8.
    let end = text.floor_char_boundary(bytes.saturating_sub(3));
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> crate::error::BoxError {
        "secret-host:6379 refused".into()
    }

    fn id() -> String {
        "t1".to_owned()
    }

    /// One of each variant with its code and reason, as the contract's table has them.
    fn table() -> Vec<(Error, Code, &'static str)> {
        vec![
            (Error::invalid("page_size", "must not be negative"), Code::InvalidArgument, "INVALID_FIELDS"),
            (Error::TokenMismatch, Code::InvalidArgument, "TOKEN_MISMATCH"),
            (Error::TokenStale, Code::Aborted, "TOKEN_STALE"),
            (Error::ThreadNotFound { id: id() }, Code::NotFound, "THREAD_NOT_FOUND"),
            (Error::ThreadLost { id: id() }, Code::NotFound, "THREAD_NOT_FOUND"),
            (Error::MessageNotFound { thread: id(), id: id() }, Code::NotFound, "MESSAGE_NOT_FOUND"),
            (Error::ThreadExists { id: id() }, Code::AlreadyExists, "THREAD_EXISTS"),
            (Error::MessageIdReused { id: id() }, Code::AlreadyExists, "MESSAGE_ID_REUSED"),
            (Error::EtagMismatch { current: "\"e-1\"".into() }, Code::Aborted, "ETAG_MISMATCH"),
            (Error::SourceChanged { id: id() }, Code::Aborted, "SOURCE_CHANGED"),
            (Error::ThreadDeleted { id: id() }, Code::FailedPrecondition, "THREAD_DELETED"),
            (Error::OwnerMismatch { id: id() }, Code::FailedPrecondition, "OWNER_MISMATCH"),
            (Error::SeqOutOfRange { field: "at_seq", last_seq: 9 }, Code::OutOfRange, "SEQ_OUT_OF_RANGE"),
            (Error::EpochMismatch { current: "e".into() }, Code::OutOfRange, "EPOCH_MISMATCH"),
            (
                Error::IllegalTransition { key: id(), mode: "DISABLED", what: "TripBreaker" },
                Code::FailedPrecondition,
                "ILLEGAL_TRANSITION",
            ),
            (Error::BreakerChanged { key: id() }, Code::Aborted, "BREAKER_CHANGED"),
            (
                Error::ThreadLimit { id: id(), what: "messages", limit: 1 },
                Code::ResourceExhausted,
                "THREAD_LIMIT",
            ),
            (Error::StoreFull { what: "bytes", limit: 1 }, Code::ResourceExhausted, "STORE_FULL"),
            (Error::JournalFull { limit: 1, what: "bytes" }, Code::ResourceExhausted, "JOURNAL_FULL"),
            (Error::RedisOutOfMemory, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY"),
            (Error::Unreachable(io()), Code::Unavailable, "REDIS_UNREACHABLE"),
            (Error::TimedOut(Duration::from_millis(200)), Code::Unavailable, "REDIS_UNREACHABLE"),
            (Error::Misconfigured(io()), Code::Unavailable, "REDIS_UNREACHABLE"),
            (Error::NeedsShared("a list of threads"), Code::Unavailable, "REDIS_UNREACHABLE"),
            (Error::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE"),
            (Error::Corrupt { key: "k".into(), seq: 7 }, Code::DataLoss, "CORRUPT_ENTRY"),
            (Error::Internal(io()), Code::Internal, "INTERNAL"),
        ]
    }

    #[test]
    fn every_error_has_its_code_one_reason_and_the_detail_of_its_code() {
        for (error, code, reason) in table() {
            let name = format!("{error:?}");
            let status = Status::from(error);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(
                (status.code(), info.reason.as_str(), info.domain.as_str()),
                (code, reason, "fusewire")
            );
            assert_eq!(details.retry_info().is_some(), code == Code::Unavailable, "{name}");
            assert_eq!(details.resource_info().is_some(), code == Code::NotFound, "{name}");
            assert_eq!(details.bad_request().is_some(), code == Code::InvalidArgument, "{name}");
            assert_eq!(details.quota_failure().is_some(), code == Code::ResourceExhausted, "{name}");
            let is_precondition = matches!(code, Code::Aborted | Code::FailedPrecondition);
            assert_eq!(details.precondition_failure().is_some(), is_precondition, "{name}");
            assert!(!status.message().contains("secret-host"), "{name}");
        }
    }

    #[test]
    fn metadata_carries_what_a_caller_acts_on() {
        let metadata = |error: Error| {
            let mut pairs: Vec<_> = Status::from(error)
                .get_error_details()
                .error_info()
                .unwrap()
                .metadata
                .clone()
                .into_iter()
                .collect();
            pairs.sort();
            pairs
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(metadata(Error::MessageIdReused { id: id() }), [pair("id", "t1")]);
        assert_eq!(metadata(Error::EtagMismatch { current: "\"e-1\"".into() }), [pair("etag", "\"e-1\"")]);
        assert_eq!(metadata(Error::SeqOutOfRange { field: "at_seq", last_seq: 9 }), [pair("last_seq", "9")]);
        assert_eq!(metadata(Error::EpochMismatch { current: "e".into() }), [pair("epoch", "e")]);
        let illegal = Error::IllegalTransition { key: id(), mode: "DISABLED", what: "TripBreaker" };
        assert_eq!(metadata(illegal), [pair("mode", "DISABLED")]);
        let corrupt = Error::Corrupt { key: "thread t1".into(), seq: 7 };
        assert_eq!(metadata(corrupt), [pair("key", "thread t1"), pair("seq", "7")]);
        assert_eq!(metadata(Error::TokenStale), []);
    }

    #[test]
    fn refusals_under_load_and_at_shutdown_have_their_details() {
        let details = too_many_calls(5).get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_CALLS");
        assert!(details.quota_failure().is_some());
        let details = shutting_down().get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "SHUTTING_DOWN");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(100)));
    }

    #[test]
    fn the_worst_status_fits_into_headers_of_8_kib() {
        let worst = Violation::new("ä".repeat(400), "ö".repeat(400));
        let status = Status::from(Error::Invalid(vec![worst; 32]));
        let headers = status.into_http::<()>();
        let size: usize =
            headers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 7 << 10, "{size} bytes");
    }

    #[test]
    fn an_ordinary_request_with_32_violations_tells_all() {
        let violations =
            (0..32).map(|i| Violation::new(format!("messages[{i}].parts[0].tool_call"), "is required"));
        let status = Status::from(Error::Invalid(violations.collect()));
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), 32);
        assert_eq!(status.message(), "messages[0].parts[0].tool_call: is required (and 31 more)");
    }
}
