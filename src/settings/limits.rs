//! Ranges of the settings, and the written forms of durations and sizes.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// Holds the smallest and largest value a setting may have, written as users write it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Span(&'static str, &'static str),
    Size(&'static str, &'static str),
    Count(u64, u64),
}

/// Every setting with a range; `settings.default.toml` repeats each in its comment (a test compares).
pub(super) const LIMITS: &[(&str, Limit)] = &[
    ("server.drain_deadline", Limit::Span("0s", "10m")),
    ("server.max_request_bytes", Limit::Size("4MiB", "64MiB")),
    ("server.max_response_bytes", Limit::Size("4MiB", "1GiB")),
    ("server.max_concurrent_streams", Limit::Count(1, 100_000)),
    ("server.max_concurrent_calls", Limit::Count(1, 100_000)),
    ("server.max_open_streams", Limit::Count(1, 100_000)),
    ("server.keepalive_interval", Limit::Span("1s", "1h")),
    ("server.keepalive_timeout", Limit::Span("1s", "10m")),
    ("redis.port", Limit::Count(1, 65_535)),
    ("redis.db", Limit::Count(0, 2_147_483_647)),
    ("redis.pool_size", Limit::Count(1, 256)),
    ("redis.connect_timeout", Limit::Span("10ms", "60s")),
    ("redis.command_timeout", Limit::Span("100ms", "60s")),
    ("redis.outage_after", Limit::Span("50ms", "30s")),
    ("threads.default_ttl", Limit::Span("1s", "365d")),
    ("threads.sweep_interval", Limit::Span("1s", "7d")),
    ("threads.max_messages", Limit::Count(1, 10_000_000)),
    ("threads.max_bytes", Limit::Size("1KiB", "4GiB")),
    ("memory.max_bytes", Limit::Size("64KiB", "1TiB")),
    ("memory.copy_bytes", Limit::Size("0", "1TiB")),
    ("memory.copy_threads", Limit::Count(0, 10_000_000)),
    ("memory.max_breakers", Limit::Count(100, 10_000_000)),
    ("fallback.journal_bytes", Limit::Size("0", "1TiB")),
    ("fallback.journal_entries", Limit::Count(0, 100_000_000)),
];

impl Limit {
    /// Checks a value as it is written; the error is the reason.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::Span(low, high) => {
                (parse_duration(low)?..=parse_duration(high)?).contains(&parse_duration(text)?)
            }
            Self::Size(low, high) => (parse_bytes(low)?..=parse_bytes(high)?).contains(&parse_bytes(text)?),
            Self::Count(low, high) => text.parse().is_ok_and(|count| (low..=high).contains(&count)),
        };
        if fits { Ok(()) } else { Err(format!("must be {}, found {}", self.range(), text.escape_debug())) }
    }

    /// Returns the range in words: `1s to 365d`.
    pub(super) fn range(self) -> String {
        match self {
            Self::Span(low, high) | Self::Size(low, high) => format!("{low} to {high}"),
            Self::Count(low, high) => format!("{low} to {high}"),
        }
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(super) fn bytes<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let bytes = parse_bytes(&String::deserialize(from)?).map_err(D::Error::custom)?;
    T::try_from(bytes).map_err(|_| D::Error::custom("is too large for this machine"))
}

/// Reads a path; empty is how "none" is written.
pub(super) fn optional_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(from)?;
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        "tib" => Some(1 << 40),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "tb" => Some(1_000_000_000_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(scale)
        .and_then(|(number, scale)| number.checked_mul(scale))
        .ok_or_else(|| format!("{text:?} is no size; write bytes or a unit, for example 256MiB"))
}
