//! When a breaker trips and how it recovers.

use std::{ops::RangeInclusive, time::Duration};

use self::{
    table::breaker_settings,
    text::{Value, whole_seconds},
};
use crate::error::Violation;

pub(crate) mod table;
mod text;

/// The longest time that a breaker may be told to wait.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Lengths that a lease may have.
pub const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

const DEFAULT_MAX_OPEN: Duration = Duration::from_mins(10);
const TIME: Allowed<Duration> =
    Allowed(Duration::from_millis(1)..=LONGEST, "must be whole milliseconds, 1 ms to 7 days");
const COUNT_WINDOW: Allowed<u32> = Allowed(1..=10_000, "must be 1 to 10000");
const TIME_WINDOW: Allowed<u32> = Allowed(1..=3600, "must be whole seconds, 1 s to 1 h");

/// What rates are computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last so many calls, 1 to 10,000.
    Count(u32),
    /// The last so many whole seconds, the present one included, 1 to 3,600.
    Time(u32),
}

impl Window {
    /// The setting's name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count(_) => "count_window",
            Self::Time(_) => "time_window",
        }
    }
}

super::named! {
    /// What a lease that nobody reported means.
    #[derive(Default)]
    pub enum ExpiredPermit {
        /// The slot goes back to the budget.
        #[default]
        Release = "RELEASE",
        /// It counts as a failure.
        Failure = "FAILURE",
    }
}

/// The values that a setting may have, and the reason that refuses any other.
struct Allowed<T>(RangeInclusive<T>, &'static str);

impl<T: Value + PartialOrd> Allowed<T> {
    /// Whether a setting may have this value. An absent value is always allowed.
    fn admits(&self, value: impl Into<Option<T>>) -> bool {
        value.into().is_none_or(|value| self.0.contains(&value) && value.is_exact())
    }
}

macro_rules! define_settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr $(, $allowed:expr)?;)+) => {
        /// Settings of one breaker. A rule whose number is 0 is off.
        #[derive(Debug, Clone, PartialEq)]
        pub struct BreakerSettings {
            /// The window in which calls are counted and rates computed. None: calls are counted since the state began,
            /// where no rate rule is on.
            pub window: Option<Window>,
            $($(#[$doc])* pub $name: $type,)+
        }

        impl Default for BreakerSettings {
            /// The settings that hold where nobody set any: no rule is on, OPEN lasts 30 s, HALF_OPEN has one permit.
            fn default() -> Self {
                Self { window: None, $($name: $default,)+ }
            }
        }

        impl BreakerSettings {
            /// Name and text of every setting that is not absent; [`Self::set`] takes both.
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                let rows = [$((stringify!($name), self.$name.text())),+];
                let rows = rows.into_iter().filter_map(|(name, text)| Some((name, text?)));
                self.window.map(|window| (window.name(), window.to_string())).into_iter().chain(rows).collect()
            }

            fn put(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    "count_window" => self.window = Some(Window::Count(Value::parse(text)?)),
                    "time_window" => self.window = Some(Window::Time(whole_seconds(text)?)),
                    $(stringify!($name) => self.$name = Value::parse(text)?,)+
                    _ => return Err("there is no such setting of breakers".to_owned()),
                }
                Ok(())
            }

            /// Replaces each number 0 that is out of bounds by the default, which the contract writes as 0.
            pub fn replace_zeros(&mut self) {
                let default = Self::default();
                $($(if self.$name.reads_as_unset() && !$allowed.admits(self.$name) {
                    self.$name = default.$name;
                })?)+
            }

            fn check_rows(&self, check: &mut impl FnMut(&str, bool, &str)) {
                $($(check(stringify!($name), $allowed.admits(self.$name), $allowed.1);)?)+
            }
        }
    };
}
breaker_settings!(define_settings);

impl BreakerSettings {
    /// Sets the setting that the contract calls `name`. The value may be out of bounds: [`Self::violations`] tells that.
    ///
    /// `count_window` and `time_window` replace each other. A 0 sets the default where the contract says so.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), Violation> {
        self.put(name, text).map_err(|reason| Violation::new(name, reason))?;
        self.replace_zeros();
        Ok(())
    }

    /// Every rule that these settings break; settings are named as in the contract.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut check = |field: &str, holds: bool, reason: &str| {
            if !holds {
                found.push(Violation::new(field, reason));
            }
        };
        if let Some(window) = self.window {
            let (size, allowed) = match window {
                Window::Count(size) => (size, COUNT_WINDOW),
                Window::Time(seconds) => (seconds, TIME_WINDOW),
            };
            check(window.name(), allowed.admits(size), allowed.1);
        }
        self.check_rows(&mut check);
        let has_threshold = self.slow_rate_percent <= 0.0 || self.slow_call_duration.is_some();
        check("slow_call_duration", has_threshold, "is required with slow_rate_percent");
        let covers = self.max_open_duration.is_none_or(|most| most >= self.open_duration);
        check("max_open_duration", covers, "must be at least open_duration");
        found
    }

    /// These settings, with the values that hold where `window` or `max_open_duration` is absent.
    #[must_use]
    pub fn filled_in(&self) -> Self {
        let max_open_duration = Some(self.max_open_duration());
        Self { window: self.window(), max_open_duration, ..self.clone() }
    }

    /// The window in which calls are counted: a rate rule without a window has 60 s.
    pub fn window(&self) -> Option<Window> {
        self.window.or_else(|| self.has_rate_rule().then_some(Window::Time(60)))
    }

    /// Whether failure or slow calls are judged by their share.
    pub fn has_rate_rule(&self) -> bool {
        self.failure_rate_percent > 0.0 || self.slow_rate_percent > 0.0
    }

    /// How many calls rates need: a count window that holds fewer is full before.
    pub fn quorum(&self) -> u32 {
        match self.window() {
            Some(Window::Count(size)) => self.minimum_calls.min(size),
            Some(Window::Time(_)) | None => self.minimum_calls,
        }
    }

    /// The longest OPEN by backoff.
    pub fn max_open_duration(&self) -> Duration {
        self.max_open_duration.unwrap_or_else(|| DEFAULT_MAX_OPEN.max(self.open_duration))
    }

    /// Whether a call that took so long is slow.
    pub fn is_slow(&self, duration: Option<Duration>) -> bool {
        duration.zip(self.slow_call_duration).is_some_and(|(took, threshold)| took > threshold)
    }
}
