//! A breaker's settings: what a request says of them into the domain, and what is in force onto the wire.

use std::{sync::Arc, time::Duration};

use prost_types::FieldMask;

use super::enums::Wire;
use crate::{
    breakers::{BreakerSettings, Window, operations::Revise},
    error::Violation,
    grpc::{
        check::{Check, Path},
        convert,
        fields::masked,
        proto::{self, breaker_settings::Window as WireWindow},
    },
};

/// Where a request has them.
pub(super) const SETTINGS: Path<'static> = Path::Root("settings");

/// A field of the settings by its name in the contract.
type Named = (&'static str, Field);

/// A field of the settings that `ConfigureBreaker` can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    ConsecutiveFailures,
    CountWindow,
    TimeWindow,
    MinimumCalls,
    FailureRatePercent,
    SlowCallDuration,
    SlowRatePercent,
    OpenDuration,
    BackoffMultiplier,
    MaxOpenDuration,
    JitterPercent,
    HalfOpenPermits,
    HalfOpenMaxWait,
    PermitLease,
    ExpiredPermit,
    HonorRetryAfter,
    MaxRetryAfter,
    MinReporters,
    AutomaticHalfOpen,
}

const FIELDS: [Named; 19] = [
    ("consecutive_failures", Field::ConsecutiveFailures),
    ("count_window", Field::CountWindow),
    ("time_window", Field::TimeWindow),
    ("minimum_calls", Field::MinimumCalls),
    ("failure_rate_percent", Field::FailureRatePercent),
    ("slow_call_duration", Field::SlowCallDuration),
    ("slow_rate_percent", Field::SlowRatePercent),
    ("open_duration", Field::OpenDuration),
    ("backoff_multiplier", Field::BackoffMultiplier),
    ("max_open_duration", Field::MaxOpenDuration),
    ("jitter_percent", Field::JitterPercent),
    ("half_open_permits", Field::HalfOpenPermits),
    ("half_open_max_wait", Field::HalfOpenMaxWait),
    ("permit_lease", Field::PermitLease),
    ("expired_permit", Field::ExpiredPermit),
    ("honor_retry_after", Field::HonorRetryAfter),
    ("max_retry_after", Field::MaxRetryAfter),
    ("min_reporters", Field::MinReporters),
    ("automatic_half_open", Field::AutomaticHalfOpen),
];

impl Field {
    fn parse(path: &str) -> Option<Named> {
        FIELDS.into_iter().find(|(name, _)| *name == path)
    }

    /// Sets this field to what the request says; what it does not say is the default. Fails where a value has no
    /// meaning at all: whether it is within its limits is for [`BreakerSettings::violations`] to say.
    fn set(self, new: &proto::BreakerSettings, into: &mut BreakerSettings) -> Result<(), Violation> {
        let default = BreakerSettings::default();
        match self {
            Self::ConsecutiveFailures => into.consecutive_failures = count(new.consecutive_failures),
            // A window under one name leaves alone what was set under the other.
            Self::CountWindow => match new.window {
                Some(WireWindow::CountWindow(size)) => into.window = Some(Window::Count(count(size))),
                Some(WireWindow::TimeWindow(_)) | None => {
                    into.window = into.window.filter(|window| matches!(window, Window::Time(_)));
                }
            },
            Self::TimeWindow => match new.window {
                Some(WireWindow::TimeWindow(length)) => {
                    into.window = Some(Window::Time(whole_seconds(length)));
                }
                Some(WireWindow::CountWindow(_)) | None => {
                    into.window = into.window.filter(|window| matches!(window, Window::Count(_)));
                }
            },
            Self::MinimumCalls => into.minimum_calls = count_or(default.minimum_calls, new.minimum_calls),
            Self::FailureRatePercent => into.failure_rate_percent = new.failure_rate_percent,
            Self::SlowCallDuration => into.slow_call_duration = length(new.slow_call_duration)?,
            Self::SlowRatePercent => into.slow_rate_percent = new.slow_rate_percent,
            Self::OpenDuration => {
                into.open_duration = length(new.open_duration)?.unwrap_or(default.open_duration);
            }
            Self::BackoffMultiplier => {
                let is_set = new.backoff_multiplier != 0.0;
                into.backoff_multiplier =
                    if is_set { new.backoff_multiplier } else { default.backoff_multiplier };
            }
            Self::MaxOpenDuration => into.max_open_duration = length(new.max_open_duration)?,
            Self::JitterPercent => into.jitter_percent = new.jitter_percent,
            Self::HalfOpenPermits => {
                into.half_open_permits = new.half_open_permits.map_or(default.half_open_permits, count);
            }
            Self::HalfOpenMaxWait => into.half_open_max_wait = length(new.half_open_max_wait)?,
            Self::PermitLease => {
                into.permit_lease = length(new.permit_lease)?.unwrap_or(default.permit_lease);
            }
            Self::ExpiredPermit => into.expired_permit = Wire::read(new.expired_permit)?.unwrap_or_default(),
            Self::HonorRetryAfter => {
                into.honor_retry_after = new.honor_retry_after.unwrap_or(default.honor_retry_after);
            }
            Self::MaxRetryAfter => {
                into.max_retry_after = length(new.max_retry_after)?.unwrap_or(default.max_retry_after);
            }
            Self::MinReporters => into.min_reporters = count_or(default.min_reporters, new.min_reporters),
            Self::AutomaticHalfOpen => into.automatic_half_open = new.automatic_half_open,
        }
        Ok(())
    }
}

/// Reads a number. A negative one becomes the largest, which is refused like any other out of bounds.
fn count(raw: i32) -> u32 {
    u32::try_from(raw).unwrap_or(u32::MAX)
}

fn count_or(default: u32, raw: i32) -> u32 {
    if raw == 0 { default } else { count(raw) }
}

/// Reads a duration. A negative one becomes zero, which is refused like any other out of bounds.
fn length(raw: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    raw.map(|raw| Ok(convert::length(raw)?.unwrap_or_default())).transpose()
}

/// Reads whole seconds. What is none becomes zero, which is refused like any other out of bounds.
fn whole_seconds(raw: prost_types::Duration) -> u32 {
    if raw.nanos == 0 { u32::try_from(raw.seconds).unwrap_or_default() } else { 0 }
}

/// Parses new settings: those in force with the fields replaced that the mask names, or without a mask all of them.
pub(super) fn revise(check: &mut Check, new: proto::BreakerSettings, mask: Option<&FieldMask>) -> Revise {
    let fields = match mask {
        Some(mask) => masked(check, mask, Field::parse, "the fields of BreakerSettings"),
        None => FIELDS.to_vec(),
    };
    let mut settings = BreakerSettings::default();
    let mut found = set(&fields, &new, &mut settings);
    if mask.is_none() {
        // Nothing of what is in force remains, so that all can be told together.
        let others = settings.violations().into_iter().map(within_settings);
        let others: Vec<_> = others.filter(|other| found.iter().all(|it| it.field != other.field)).collect();
        found.extend(others);
    }
    for violation in found {
        check.note(violation);
    }
    Arc::new(move |in_force| {
        let mut settings = in_force.clone();
        let mut found = set(&fields, &new, &mut settings);
        found.extend(settings.violations().into_iter().map(within_settings));
        if found.is_empty() { Ok(settings) } else { Err(found) }
    })
}

fn set(fields: &[Named], new: &proto::BreakerSettings, into: &mut BreakerSettings) -> Vec<Violation> {
    let refused = |(name, field): &Named| {
        let Violation { reason, .. } = field.set(new, into).err()?;
        Some(within_settings(Violation::new(*name, reason)))
    };
    fields.iter().filter_map(refused).collect()
}

fn within_settings(violation: Violation) -> Violation {
    Violation { field: format!("{SETTINGS}.{}", violation.field), ..violation }
}

/// Writes settings as they are in force: what stands for something absent is told.
pub(super) fn write(settings: &BreakerSettings) -> proto::BreakerSettings {
    let window = settings.window().map(|window| match window {
        Window::Count(size) => WireWindow::CountWindow(number(size)),
        Window::Time(seconds) => {
            WireWindow::TimeWindow(convert::duration(Duration::from_secs(seconds.into())))
        }
    });
    proto::BreakerSettings {
        consecutive_failures: number(settings.consecutive_failures),
        window,
        minimum_calls: number(settings.minimum_calls),
        failure_rate_percent: settings.failure_rate_percent,
        slow_call_duration: settings.slow_call_duration.map(convert::duration),
        slow_rate_percent: settings.slow_rate_percent,
        open_duration: Some(convert::duration(settings.open_duration)),
        backoff_multiplier: settings.backoff_multiplier,
        max_open_duration: Some(convert::duration(settings.max_open_duration())),
        jitter_percent: settings.jitter_percent,
        half_open_permits: Some(number(settings.half_open_permits)),
        half_open_max_wait: settings.half_open_max_wait.map(convert::duration),
        permit_lease: Some(convert::duration(settings.permit_lease)),
        expired_permit: settings.expired_permit.write(),
        honor_retry_after: Some(settings.honor_retry_after),
        max_retry_after: Some(convert::duration(settings.max_retry_after)),
        min_reporters: number(settings.min_reporters),
        automatic_half_open: settings.automatic_half_open,
    }
}

/// Writes a number that is no larger than the contract's.
pub(super) fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
