//! The rules of settings as text.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    breakers::{BreakerSettings, Window},
    error::Violation,
};

/// A length from `least` ms on that is as likely short as long.
fn length(least: u64) -> impl Strategy<Value = Duration> {
    let most = 7 * 86_400_000_u64;
    prop_oneof![least..=least + 2000, least..=most, Just(most), Just(3_600_000), Just(600_000)]
        .prop_map(Duration::from_millis)
}

fn window() -> impl Strategy<Value = Option<Window>> {
    let window = prop_oneof![(1..=10_000_u32).prop_map(Window::Count), (1..=3600_u32).prop_map(Window::Time)];
    prop::option::of(window)
}

/// Valid settings: what rules ask of two fields together is arranged here.
fn settings() -> impl Strategy<Value = BreakerSettings> {
    let numbers = (0..=1_000_000_u32, window(), 1..=1_000_000_u32, 0..=1000_u32, 1..=1000_u32);
    let shares = (0.0..=100.0, 0.0..=100.0, 1.0..=10.0, 0.0..=50.0);
    let lengths = (length(1), length(1), prop::option::of(length(1)), length(1));
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (numbers, shares, lengths, options, 1000..=3_600_000_u64).prop_map(
        |(numbers, shares, lengths, options, lease)| {
            let (slow, open, half_open_max_wait, max_retry_after) = lengths;
            let (is_slow_ruled, is_capped, is_failure, honor_retry_after, automatic_half_open) = options;
            BreakerSettings {
                consecutive_failures: numbers.0,
                window: numbers.1,
                minimum_calls: numbers.2,
                failure_rate_percent: shares.0,
                slow_call_duration: is_slow_ruled.then_some(slow),
                slow_rate_percent: if is_slow_ruled { shares.1 } else { 0.0 },
                open_duration: open.min(slow),
                backoff_multiplier: shares.2,
                max_open_duration: is_capped.then_some(open),
                jitter_percent: shares.3,
                half_open_permits: numbers.3,
                half_open_max_wait,
                permit_lease: Duration::from_millis(lease),
                expired_permit: if is_failure { ExpiredPermit::Failure } else { ExpiredPermit::Release },
                honor_retry_after,
                max_retry_after,
                min_reporters: numbers.4,
                automatic_half_open,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_equal(settings in settings()) {
        prop_assert_eq!(settings.violations(), []);
        let mut read = BreakerSettings::default();
        for (name, text) in settings.fields() {
            prop_assert!(!text.is_empty() && !text.contains(char::is_whitespace), "{}", text);
            prop_assert_eq!(read.set(name, &text), Ok(()));
        }
        prop_assert_eq!(read, settings);
    }

    #[test]
    fn no_text_is_worse_than_refused(name in "[a-z_]{0,20}", text in ".{0,20}") {
        let known = BreakerSettings::default().fields().into_iter().map(|(name, _)| name);
        for name in known.chain([name.as_str(), "count_window", "time_window", "max_open_duration"]) {
            if let Err(violation) = BreakerSettings::default().set(name, &text) {
                prop_assert_eq!(violation.field, name);
                prop_assert!(!violation.reason.contains('\n'));
            }
        }
    }
}

/// The defaults with one field set.
fn with(name: &str, text: &str) -> Result<BreakerSettings, Violation> {
    let mut settings = BreakerSettings::default();
    settings.set(name, text).map(|()| settings)
}

#[test]
fn the_names_are_the_contracts() {
    let contract = include_str!("../../../../proto/fusewire/v1/circuit_breakers.proto");
    let (_, message) = contract.split_once("message BreakerSettings {").unwrap();
    let (message, _) = message.split_once("\n}").unwrap();
    let lines = message.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let named: Vec<_> = lines.filter_map(|line| line.split_once(" = ")?.0.split(' ').next_back()).collect();
    let every = |window| BreakerSettings {
        window: Some(window),
        slow_call_duration: Some(Duration::from_secs(1)),
        max_open_duration: Some(Duration::from_secs(90)),
        half_open_max_wait: Some(Duration::from_millis(1500)),
        ..BreakerSettings::default()
    };
    for (window, other) in [(Window::Count(1), "time_window"), (Window::Time(1), "count_window")] {
        let written: BTreeSet<_> = every(window).fields().into_iter().map(|(name, _)| name).collect();
        let expected: BTreeSet<_> = named.iter().copied().filter(|name| *name != other).collect();
        assert_eq!(written, expected);
    }
    assert_eq!(named.len(), 19);
}

#[test]
fn lengths_are_written_in_their_largest_whole_unit() {
    for (millis, text) in [
        (1, "1ms"),
        (1500, "1500ms"),
        (30_000, "30s"),
        (90_000, "90s"),
        (600_000, "10m"),
        (604_800_000, "7d"),
    ] {
        assert_eq!(written(Duration::from_millis(millis)), text);
        assert_eq!(Duration::parse(text), Ok(Duration::from_millis(millis)));
    }
    assert_eq!(Duration::parse("1m 30s"), Ok(Duration::from_secs(90)));
    assert_eq!(written(Duration::ZERO), "0ms");
}

#[test]
fn the_windows_replace_each_other() {
    let mut settings = with("count_window", "7").unwrap();
    assert_eq!(settings.window, Some(Window::Count(7)));
    settings.set("time_window", "2m").unwrap();
    assert_eq!(settings.window, Some(Window::Time(120)));
    settings.set("count_window", "8").unwrap();
    assert_eq!(settings.window, Some(Window::Count(8)));
}

#[test]
fn zero_stands_for_the_default_where_the_contract_says_so() {
    for name in ["minimum_calls", "min_reporters", "backoff_multiplier"] {
        let mut settings = with(name, "5").unwrap();
        assert_ne!(settings, BreakerSettings::default());
        settings.set(name, "0").unwrap();
        assert_eq!(settings, BreakerSettings::default(), "{name}");
    }
    assert_eq!(with("half_open_permits", "0").unwrap().half_open_permits, 0);
}

#[test]
fn what_cannot_be_read_is_a_violation_of_its_field() {
    for (name, text, reason) in [
        ("Open_Duration", "1s", "there is no such setting of breakers"),
        ("window", "1", "there is no such setting of breakers"),
        ("consecutive_failures", "-1", "must be a whole number, found \"-1\""),
        ("half_open_permits", "", "must be a whole number, found \"\""),
        ("count_window", "1.5", "must be a whole number, found \"1.5\""),
        ("time_window", "1500ms", "must be whole seconds, found \"1500ms\""),
        ("open_duration", "1500us", "must be whole milliseconds, found \"1500us\""),
        ("open_duration", "5", "\"5\" is no duration: time unit needed, for example 5sec or 5ms"),
        ("jitter_percent", "NaN", "must be a number, found \"NaN\""),
        ("failure_rate_percent", "inf", "must be a number, found \"inf\""),
        ("expired_permit", "release", "must be RELEASE or FAILURE, found \"release\""),
        ("honor_retry_after", "1", "must be true or false, found \"1\""),
    ] {
        assert_eq!(with(name, text), Err(Violation::new(name, reason)));
    }
}

#[test]
fn what_is_too_large_for_its_type_breaks_its_limit() {
    for (name, text) in [
        ("consecutive_failures", "99999999999"),
        ("minimum_calls", "4294967296"),
        ("time_window", "4294967296s"),
        ("backoff_multiplier", "1e300"),
    ] {
        let found = with(name, text).unwrap().violations();
        assert_eq!(found.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn lengths_of_valid_settings_are_whole_milliseconds() {
    let odd = Duration::from_nanos(1_000_000_001);
    let settings = BreakerSettings {
        slow_call_duration: Some(odd),
        open_duration: odd,
        max_open_duration: Some(odd),
        half_open_max_wait: Some(odd),
        permit_lease: odd,
        max_retry_after: odd,
        ..BreakerSettings::default()
    };
    let found = settings.violations();
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found.iter().all(|violation| violation.reason.contains("whole milliseconds")), "{found:?}");
}
