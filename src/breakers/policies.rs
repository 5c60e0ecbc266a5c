//! Policies: which settings a model key has where none are stored for it.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use wildmatch::WildMatch;

use super::{BreakerSettings, ModelKey, Window};
use crate::error::Violation;

/// The most lines; a key is held against them one after the other.
pub const MAX_POLICIES: usize = 1000;

/// A name, and the settings that it stands for.
type Profile = (&'static str, fn() -> BreakerSettings);

const PROFILES: [Profile; 4] =
    [("llm", llm), ("open_swe", open_swe), ("consecutive", consecutive), ("rate", rate)];

/// Lines of `PATTERN PROFILE [SETTING=VALUE]…`; a key goes by the first one whose pattern matches it, and by the
/// profile `llm` where none does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Policies {
    lines: Vec<Policy>,
    otherwise: Arc<BreakerSettings>,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    pattern: WildMatch,
    settings: Arc<BreakerSettings>,
}

impl Policies {
    /// Parses lines; the error is one line that names the first faulty one and what is wrong with it.
    pub fn parse(lines: &[String]) -> Result<Self, String> {
        if lines.len() > MAX_POLICIES {
            return Err(format!("must be at most {MAX_POLICIES} lines, found {}", lines.len()));
        }
        let parse = |(line, number): (&String, usize)| {
            Policy::parse(line).map_err(|reason| format!("line {number}, {line:?}: {reason}"))
        };
        let lines = lines.iter().zip(1..).map(parse).collect::<Result<_, _>>()?;
        Ok(Self { lines, ..Self::default() })
    }

    /// The settings of a key; those of one line are one allocation, shared.
    pub fn settings_of(&self, key: &ModelKey) -> Arc<BreakerSettings> {
        let line = self.lines.iter().find(|line| line.pattern.matches(key.as_str()));
        Arc::clone(line.map_or(&self.otherwise, |line| &line.settings))
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self { lines: Vec::new(), otherwise: Arc::new(llm()) }
    }
}

impl TryFrom<Vec<String>> for Policies {
    type Error = String;

    fn try_from(lines: Vec<String>) -> Result<Self, String> {
        Self::parse(&lines)
    }
}

impl Policy {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(pattern), Some(profile)) = (words.next(), words.next()) else {
            return Err("must be PATTERN PROFILE [SETTING=VALUE]…".to_owned());
        };
        // The wildcards are characters that keys may hold, so what is no key matches none either.
        let pattern = ModelKey::parse("pattern", pattern).map_err(|fault| told(&[fault]))?;
        let mut settings = named(profile)?;
        for word in words {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("{word:?} must be SETTING=VALUE"))?;
            settings.set(name, value).map_err(|fault| told(&[fault]))?;
        }
        let faults = settings.violations();
        if !faults.is_empty() {
            return Err(told(&faults));
        }
        Ok(Self { pattern: WildMatch::new(pattern.as_str()), settings: Arc::new(settings) })
    }
}

/// The settings of a profile.
fn named(profile: &str) -> Result<BreakerSettings, String> {
    let found = PROFILES.iter().find(|(name, _)| *name == profile);
    found.map(|(_, settings)| settings()).ok_or_else(|| {
        let names = PROFILES.map(|(name, _)| name).join(", ");
        format!("there is no profile {profile:?}, only {names}")
    })
}

/// Violations in one line; the name of a field may come from the line itself.
fn told(faults: &[Violation]) -> String {
    let told: Vec<_> =
        faults.iter().map(|fault| format!("{}: {}", fault.field.escape_debug(), fault.reason)).collect();
    told.join("; ")
}

/// For calls to language models. The numbers are this project's own choice: five failures in a row tell a dead provider
/// within few calls, half of at least ten in a minute one that flaps; pauses double from 30 s up to the 10 min that
/// `max_open_duration` has by default, and each ends with a single trial call.
fn llm() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 5,
        window: Some(Window::Time(60)),
        minimum_calls: 10,
        failure_rate_percent: 50.0,
        open_duration: Duration::from_secs(30),
        backoff_multiplier: 2.0,
        half_open_permits: 1,
        ..BreakerSettings::default()
    }
}

/// What the `ModelManager` of Open SWE does by default: `circuitBreakerFailureThreshold` 2 in a row, however far
/// apart, `circuitBreakerTimeoutMs` 180,000, then straight to CLOSED.
fn open_swe() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 2,
        open_duration: Duration::from_mins(3),
        half_open_permits: 0,
        ..BreakerSettings::default()
    }
}

/// The shape of gobreaker's defaults: a run of failures, `Timeout` 60 s, `MaxRequests` 1. Its own `ReadyToTrip` wants
/// more than five failures, this one five.
fn consecutive() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 5,
        open_duration: Duration::from_mins(1),
        half_open_permits: 1,
        ..BreakerSettings::default()
    }
}

/// The shape of resilience4j's defaults: `failureRateThreshold` 50, `slidingWindowSize` 100 calls,
/// `waitDurationInOpenState` 60 s, `permittedNumberOfCallsInHalfOpenState` 10. Its `minimumNumberOfCalls` of 100 would
/// leave a seldom called model unguarded for long; this one judges from ten calls on.
fn rate() -> BreakerSettings {
    BreakerSettings {
        window: Some(Window::Count(100)),
        minimum_calls: 10,
        failure_rate_percent: 50.0,
        open_duration: Duration::from_mins(1),
        half_open_permits: 10,
        ..BreakerSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Policies, String> {
        Policies::parse(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    }

    fn settings(lines: &[&str], key: &str) -> BreakerSettings {
        let key = ModelKey::parse("model_key", key).unwrap();
        BreakerSettings::clone(&parse(lines).unwrap().settings_of(&key))
    }

    #[test]
    fn every_profile_is_valid_and_has_its_numbers() {
        let numbers = PROFILES.map(|(name, profile)| {
            let settings = profile();
            assert_eq!(settings.violations(), [], "{name}");
            let open = (settings.open_duration.as_secs(), settings.max_open_duration().as_secs());
            (settings.consecutive_failures, settings.window(), open, settings.half_open_permits)
        });
        let expected = [
            (5, Some(Window::Time(60)), (30, 600), 1),
            (2, None, (180, 600), 0),
            (5, None, (60, 600), 1),
            (0, Some(Window::Count(100)), (60, 600), 10),
        ];
        assert_eq!(numbers, expected);
        let rates = PROFILES.map(|(_, profile)| {
            let BreakerSettings { failure_rate_percent, minimum_calls, backoff_multiplier, .. } = profile();
            format!("{failure_rate_percent} % of {minimum_calls}, times {backoff_multiplier}")
        });
        let [off, half] = ["0 % of 10, times 1", "50 % of 10, times 1"];
        assert_eq!(rates, ["50 % of 10, times 2", off, off, half]);
    }

    #[test]
    fn a_key_that_no_line_matches_is_of_profile_llm() {
        assert_eq!(settings(&[], "openai:gpt-5"), llm());
        assert_eq!(settings(&["openai:* rate", "a?b rate"], "a:openai:gpt-5"), llm());
        assert_eq!(parse(&[]).unwrap(), Policies::default());
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let lines = ["openai:gpt-5 open_swe", "openai:gpt-? consecutive", "openai:* rate", "* consecutive"];
        for (key, expected) in [
            ("openai:gpt-5", open_swe()),
            ("openai:gpt-4", consecutive()),
            ("openai:gpt-45", rate()),
            ("openai:", rate()),
            ("OpenAI:gpt-5", consecutive()),
            ("*", consecutive()),
        ] {
            assert_eq!(settings(&lines, key), expected, "{key}");
        }
    }

    #[test]
    fn a_line_changes_what_it_names_of_its_profile() {
        let line =
            " openai:*  llm\topen_duration=10s half_open_permits=3 count_window=20 jitter_percent=12.5 ";
        let expected = BreakerSettings {
            open_duration: Duration::from_secs(10),
            half_open_permits: 3,
            window: Some(Window::Count(20)),
            jitter_percent: 12.5,
            ..llm()
        };
        assert_eq!(settings(&[line], "openai:gpt-5"), expected);
        assert_eq!(settings(&["* llm open_duration=1h"], "a").max_open_duration(), Duration::from_hours(1));
    }

    #[test]
    fn keys_of_one_line_share_their_settings() {
        let policies = parse(&["a* rate"]).unwrap();
        let of = |key: &str| policies.settings_of(&ModelKey::parse("model_key", key).unwrap());
        assert!(Arc::ptr_eq(&of("a1"), &of("a2")) && Arc::ptr_eq(&of("b1"), &of("b2")));
    }

    #[test]
    fn an_error_names_line_field_and_limit() {
        for (line, reason) in [
            ("", "must be PATTERN PROFILE [SETTING=VALUE]…"),
            ("openai:*", "must be PATTERN PROFILE [SETTING=VALUE]…"),
            ("* LLM", "there is no profile \"LLM\", only llm, open_swe, consecutive, rate"),
            ("{a} llm", "pattern: must hold only printable ASCII without space, { and }"),
            ("ä* llm", "pattern: must hold only printable ASCII without space, { and }"),
            ("* llm open_duration", "\"open_duration\" must be SETTING=VALUE"),
            ("* llm opened=1s", "opened: there is no such setting of breakers"),
            ("* llm \u{7}=1s", "\\u{7}: there is no such setting of breakers"),
            ("* llm open_duration=0s", "open_duration: must be whole milliseconds, 1 ms to 7 days"),
            ("* llm open_duration=", "open_duration: \"\" is no duration: value was empty"),
            (
                "* rate count_window=0 half_open_permits=1001",
                "count_window: must be 1 to 10000; half_open_permits: must be 0 to 1000",
            ),
            ("* llm max_open_duration=29s", "max_open_duration: must be at least open_duration"),
            ("* llm slow_rate_percent=5", "slow_call_duration: is required with slow_rate_percent"),
        ] {
            assert_eq!(parse(&["a llm", line]), Err(format!("line 2, {line:?}: {reason}")));
        }
    }

    #[test]
    fn patterns_and_lines_have_their_limits() {
        let line = |length: usize| format!("{} llm", "a".repeat(length));
        assert!(parse(&[&line(256)]).is_ok());
        assert!(parse(&[&line(257)]).unwrap_err().ends_with("pattern: must be 1 to 256 characters long"));
        assert!(parse(&["* rate"; MAX_POLICIES]).is_ok());
        assert_eq!(parse(&["* rate"; 1001]).unwrap_err(), "must be at most 1000 lines, found 1001");
    }
}
