//! Values of settings as text: Redis stores them so, and policy lines hold them so.

use std::{
    fmt,
    num::{IntErrorKind, ParseIntError},
    time::Duration,
};

use super::{ExpiredPermit, Window};

#[cfg(test)]
mod tests;

/// A type that settings have.
pub(super) trait Value: Sized {
    /// Reads a value; the error is the reason without the setting's name.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes a value; none if it is absent.
    fn text(self) -> Option<String>;

    /// Whether this is the number 0, which the contract reads as not set where the bounds exclude 0.
    fn reads_as_unset(&self) -> bool {
        false
    }

    /// Whether stores keep the whole value.
    fn is_exact(&self) -> bool {
        true
    }
}

impl Value for u32 {
    /// Reads a whole number. One that is too large becomes the largest: its bounds then refuse it.
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().or_else(|error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => Ok(Self::MAX),
            _ => Err(format!("must be a whole number, found {text:?}")),
        })
    }

    fn text(self) -> Option<String> {
        Some(self.to_string())
    }

    fn reads_as_unset(&self) -> bool {
        *self == 0
    }
}

impl Value for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        let value = text.parse().ok().filter(|value: &Self| value.is_finite());
        value.ok_or_else(|| format!("must be a number, found {text:?}"))
    }

    fn text(self) -> Option<String> {
        Some(self.to_string())
    }

    fn reads_as_unset(&self) -> bool {
        *self == 0.0
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be true or false, found {text:?}"))
    }

    fn text(self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for ExpiredPermit {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("must be RELEASE or FAILURE, found {text:?}"))
    }

    fn text(self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let length =
            humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))?;
        if !length.is_exact() {
            return Err(format!("must be whole milliseconds, found {text:?}"));
        }
        Ok(length)
    }

    fn text(self) -> Option<String> {
        Some(written(self))
    }

    /// Stores count in milliseconds.
    fn is_exact(&self) -> bool {
        self.subsec_nanos().is_multiple_of(1_000_000)
    }
}

impl Value for Option<Duration> {
    fn parse(text: &str) -> Result<Self, String> {
        Value::parse(text).map(Some)
    }

    fn text(self) -> Option<String> {
        self.and_then(Value::text)
    }
}

/// Reads whole seconds. Too many become the most that there are: its bounds then refuse them.
pub(super) fn whole_seconds(text: &str) -> Result<u32, String> {
    let length = Duration::parse(text)?;
    if length.subsec_millis() != 0 {
        return Err(format!("must be whole seconds, found {text:?}"));
    }
    Ok(u32::try_from(length.as_secs()).unwrap_or(u32::MAX))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(size) => size.fmt(f),
            Self::Time(seconds) => written(Duration::from_secs(seconds.into())).fmt(f),
        }
    }
}

/// Writes whole milliseconds in the largest unit that holds them without rest, so that the text has no space.
fn written(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.into_iter().find(|(size, _)| millis != 0 && millis.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "ms"));
    format!("{}{name}", millis / size)
}
