//! Settings as names and text: what Redis stores of them, and what policy lines say.

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

use super::{BreakerSettings, ExpiredPermit, Window};
use crate::error::Violation;

#[cfg(test)]
mod tests;

impl BreakerSettings {
    /// Sets the field that the contract calls `name`; whether the value is within its limits, `violations` tells.
    ///
    /// `count_window` and `time_window` replace each other, and a 0 that stands for a default in the contract does so
    /// here.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), Violation> {
        self.put(name, text).map_err(|reason| Violation::new(name, reason))
    }

    /// Every field with its value, as `set` takes them; options that are absent are left out.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        // Named one by one, so that a new field cannot be forgotten.
        let Self {
            consecutive_failures,
            window,
            minimum_calls,
            failure_rate_percent,
            slow_call_duration,
            slow_rate_percent,
            open_duration,
            backoff_multiplier,
            max_open_duration,
            jitter_percent,
            half_open_permits,
            half_open_max_wait,
            permit_lease,
            expired_permit,
            honor_retry_after,
            max_retry_after,
            min_reporters,
            automatic_half_open,
        } = self;
        let optional = |name, length: &Option<Duration>| length.map(|length| (name, written(length)));
        let fields = [
            Some(("consecutive_failures", consecutive_failures.to_string())),
            window.map(Window::field),
            Some(("minimum_calls", minimum_calls.to_string())),
            Some(("failure_rate_percent", failure_rate_percent.to_string())),
            optional("slow_call_duration", slow_call_duration),
            Some(("slow_rate_percent", slow_rate_percent.to_string())),
            Some(("open_duration", written(*open_duration))),
            Some(("backoff_multiplier", backoff_multiplier.to_string())),
            optional("max_open_duration", max_open_duration),
            Some(("jitter_percent", jitter_percent.to_string())),
            Some(("half_open_permits", half_open_permits.to_string())),
            optional("half_open_max_wait", half_open_max_wait),
            Some(("permit_lease", written(*permit_lease))),
            Some(("expired_permit", expired_permit.as_str().to_owned())),
            Some(("honor_retry_after", honor_retry_after.to_string())),
            Some(("max_retry_after", written(*max_retry_after))),
            Some(("min_reporters", min_reporters.to_string())),
            Some(("automatic_half_open", automatic_half_open.to_string())),
        ];
        fields.into_iter().flatten().collect()
    }

    fn put(&mut self, name: &str, text: &str) -> Result<(), String> {
        let standard = Self::default();
        match name {
            "consecutive_failures" => self.consecutive_failures = number(text)?,
            "count_window" => self.window = Some(Window::Count(number(text)?)),
            "time_window" => self.window = Some(Window::Time(seconds(text)?)),
            "minimum_calls" => self.minimum_calls = unless_zero(number(text)?, standard.minimum_calls),
            "failure_rate_percent" => self.failure_rate_percent = decimal(text)?,
            "slow_call_duration" => self.slow_call_duration = Some(duration(text)?),
            "slow_rate_percent" => self.slow_rate_percent = decimal(text)?,
            "open_duration" => self.open_duration = duration(text)?,
            "backoff_multiplier" => {
                self.backoff_multiplier = unless_zero(decimal(text)?, standard.backoff_multiplier);
            }
            "max_open_duration" => self.max_open_duration = Some(duration(text)?),
            "jitter_percent" => self.jitter_percent = decimal(text)?,
            "half_open_permits" => self.half_open_permits = number(text)?,
            "half_open_max_wait" => self.half_open_max_wait = Some(duration(text)?),
            "permit_lease" => self.permit_lease = duration(text)?,
            "expired_permit" => self.expired_permit = ExpiredPermit::parse(text)?,
            "honor_retry_after" => self.honor_retry_after = boolean(text)?,
            "max_retry_after" => self.max_retry_after = duration(text)?,
            "min_reporters" => self.min_reporters = unless_zero(number(text)?, standard.min_reporters),
            "automatic_half_open" => self.automatic_half_open = boolean(text)?,
            _ => return Err("there is no such setting of breakers".to_owned()),
        }
        Ok(())
    }
}

impl Window {
    fn field(self) -> (&'static str, String) {
        match self {
            Self::Count(size) => ("count_window", size.to_string()),
            Self::Time(seconds) => ("time_window", written(Duration::from_secs(seconds.into()))),
        }
    }
}

impl ExpiredPermit {
    fn as_str(self) -> &'static str {
        match self {
            Self::Release => "RELEASE",
            Self::Failure => "FAILURE",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "RELEASE" => Ok(Self::Release),
            "FAILURE" => Ok(Self::Failure),
            _ => Err(format!("must be RELEASE or FAILURE, found {text:?}")),
        }
    }
}

fn unless_zero<T: Default + PartialEq>(value: T, standard: T) -> T {
    if value == T::default() { standard } else { value }
}

/// Reads a whole number. One that is too large stays so as the largest there is: `violations` names its limit.
fn number(text: &str) -> Result<u32, String> {
    text.parse().or_else(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => Ok(u32::MAX),
        _ => Err(format!("must be a whole number, found {text:?}")),
    })
}

fn decimal(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| format!("must be a number, found {text:?}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("must be true or false, found {text:?}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let length =
        humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))?;
    if !super::is_whole_millis(length) {
        return Err(format!("must be whole milliseconds, found {text:?}"));
    }
    Ok(length)
}

/// Reads whole seconds; too many stay so, as in [`number`].
fn seconds(text: &str) -> Result<u32, String> {
    let length = duration(text)?;
    if length.subsec_millis() != 0 {
        return Err(format!("must be whole seconds, found {text:?}"));
    }
    Ok(u32::try_from(length.as_secs()).unwrap_or(u32::MAX))
}

/// Writes whole milliseconds in the largest unit that holds them without rest, so that the text has no space.
fn written(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.into_iter().find(|(size, _)| millis != 0 && millis.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "ms"));
    format!("{}{name}", millis / size)
}
