//! What a request may say of settings, what that makes of those in force, and how they are told.

use super::*;
use crate::{
    breakers::ExpiredPermit,
    error::Result,
    grpc::check::testing::{mask, paths},
};

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn parse(new: proto::BreakerSettings, mask: Option<&FieldMask>) -> Result<Revise> {
    let mut check = Check::default();
    let revise = revise(&mut check, new, mask);
    check.finish(|| Some(revise))
}

/// What a request makes of the settings in force, or the paths for which it is refused.
fn revised(
    base: &BreakerSettings,
    new: &proto::BreakerSettings,
    masked: &[&str],
) -> Result<BreakerSettings, Vec<String>> {
    let revise = parse(*new, Some(&mask(masked))).unwrap();
    revise(base).map_err(|found| found.into_iter().map(|violation| violation.field).collect())
}

/// Settings of which none is the default.
fn unusual() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 5,
        window: Some(Window::Count(100)),
        minimum_calls: 20,
        failure_rate_percent: 50.0,
        slow_call_duration: Some(Duration::from_millis(1500)),
        slow_rate_percent: 80.0,
        open_duration: Duration::from_mins(1),
        backoff_multiplier: 2.0,
        max_open_duration: Some(Duration::from_hours(1)),
        jitter_percent: 10.0,
        half_open_permits: 3,
        half_open_max_wait: Some(Duration::from_mins(5)),
        permit_lease: Duration::from_mins(1),
        expired_permit: ExpiredPermit::Failure,
        honor_retry_after: false,
        max_retry_after: Duration::from_mins(5),
        min_reporters: 2,
        automatic_half_open: true,
    }
}

#[test]
fn what_a_request_leaves_out_is_the_default_whatever_is_in_force() {
    let revise = parse(proto::BreakerSettings::default(), None).unwrap();
    assert_eq!(revise(&unusual()).unwrap(), BreakerSettings::default());
}

#[test]
fn settings_come_back_as_they_were_told() {
    for settings in [unusual(), BreakerSettings { window: Some(Window::Time(90)), ..unusual() }] {
        let revise = parse(write(&settings), None).unwrap();
        assert_eq!(revise(&BreakerSettings::default()).unwrap(), settings);
    }
}

#[test]
fn what_stands_for_something_absent_is_told() {
    let told = write(&BreakerSettings { failure_rate_percent: 50.0, ..BreakerSettings::default() });
    assert_eq!(told.window, Some(WireWindow::TimeWindow(seconds(60))));
    assert_eq!(told.max_open_duration, Some(seconds(600)));
    assert_eq!((told.minimum_calls, told.min_reporters, told.half_open_permits), (10, 1, Some(1)));
    let told =
        write(&BreakerSettings { open_duration: Duration::from_hours(1), ..BreakerSettings::default() });
    assert_eq!((told.window, told.max_open_duration), (None, Some(seconds(3600))));
}

#[test]
fn every_rule_is_told_by_its_path_and_all_of_them_together() {
    let new = proto::BreakerSettings {
        consecutive_failures: -1,
        window: Some(WireWindow::CountWindow(-1)),
        minimum_calls: -1,
        failure_rate_percent: f64::NAN,
        slow_call_duration: Some(prost_types::Duration { seconds: 1, nanos: -1 }),
        slow_rate_percent: 100.1,
        open_duration: Some(seconds(-1)),
        backoff_multiplier: f64::INFINITY,
        max_open_duration: Some(seconds(8 * 86_400)),
        jitter_percent: 50.1,
        half_open_permits: Some(-1),
        half_open_max_wait: Some(seconds(0)),
        permit_lease: Some(seconds(3601)),
        expired_permit: 3,
        honor_retry_after: None,
        max_retry_after: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000_000 }),
        min_reporters: 1001,
        automatic_half_open: false,
    };
    let mut told = paths(parse(new, None));
    let mut expected: Vec<_> = NAMES
        .iter()
        .filter(|name| !["time_window", "honor_retry_after", "automatic_half_open"].contains(name))
        .map(|name| format!("settings.{name}"))
        .collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn a_time_window_is_1_s_to_1_h_in_whole_seconds() {
    let parse = |length| {
        parse(
            proto::BreakerSettings { window: Some(WireWindow::TimeWindow(length)), ..Default::default() },
            None,
        )
    };
    for whole in [1, 3600] {
        let revised = parse(seconds(whole)).unwrap()(&unusual()).unwrap();
        assert_eq!(revised.window, Some(Window::Time(u32::try_from(whole).unwrap())));
    }
    let half = prost_types::Duration { seconds: 1, nanos: 500_000_000 };
    for bad in [half, seconds(0), seconds(-1), seconds(3601), seconds(i64::MAX)] {
        assert_eq!(paths(parse(bad)), ["settings.time_window"], "{bad:?}");
    }
}

#[test]
fn a_mask_names_fields_of_the_settings() {
    let parse = |paths: &[&str]| parse(proto::BreakerSettings::default(), Some(&mask(paths)));
    assert_eq!(paths(parse(&[])), ["update_mask"]);
    assert_eq!(
        paths(parse(&["open_duration", "*", "window", "settings.open_duration", ""])),
        ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]", "update_mask.paths[4]"]
    );
    let revised = revised(&unusual(), &proto::BreakerSettings::default(), NAMES).unwrap();
    assert_eq!(revised, BreakerSettings::default());
}

#[test]
fn a_mask_replaces_what_it_names_and_nothing_else() {
    let new =
        proto::BreakerSettings { open_duration: Some(seconds(7)), minimum_calls: -1, ..Default::default() };
    let expected = BreakerSettings { open_duration: Duration::from_secs(7), ..unusual() };
    assert_eq!(revised(&unusual(), &new, &["open_duration", "open_duration"]).unwrap(), expected);
    let expected = BreakerSettings { half_open_max_wait: None, honor_retry_after: true, ..unusual() };
    assert_eq!(revised(&unusual(), &new, &["half_open_max_wait", "honor_retry_after"]).unwrap(), expected);
}

#[test]
fn a_masked_change_is_judged_with_what_is_in_force() {
    let new = proto::BreakerSettings {
        slow_rate_percent: 50.0,
        open_duration: Some(seconds(7200)),
        minimum_calls: -1,
        ..Default::default()
    };
    let base = BreakerSettings::default();
    assert_eq!(revised(&base, &new, &["slow_rate_percent"]).unwrap_err(), ["settings.slow_call_duration"]);
    let expected = BreakerSettings { slow_rate_percent: 50.0, ..unusual() };
    assert_eq!(revised(&unusual(), &new, &["slow_rate_percent"]).unwrap(), expected);
    assert_eq!(revised(&unusual(), &new, &["open_duration"]).unwrap_err(), ["settings.max_open_duration"]);
    assert_eq!(revised(&base, &new, &["minimum_calls"]).unwrap_err(), ["settings.minimum_calls"]);
}

#[test]
fn what_has_no_meaning_is_refused_before_anything_is_asked_if_the_mask_names_it() {
    let new = proto::BreakerSettings {
        expired_permit: 3,
        permit_lease: Some(prost_types::Duration { seconds: -1, nanos: 1 }),
        ..Default::default()
    };
    let parse = |paths: &[&str]| parse(new, Some(&mask(paths)));
    let told = paths(parse(&["permit_lease", "expired_permit"]));
    assert_eq!(told, ["settings.permit_lease", "settings.expired_permit"]);
    assert!(parse(&["open_duration"]).is_ok());
}

#[test]
fn a_masked_window_takes_what_is_said_of_it_and_is_cleared_by_nothing_said() {
    let (count, time) = (Window::Count(100), Window::Time(90));
    let said = |window| match window {
        Window::Count(_) => WireWindow::CountWindow(7),
        Window::Time(_) => WireWindow::TimeWindow(seconds(7)),
    };
    let (counted, timed) = (Some(Window::Count(7)), Some(Window::Time(7)));
    let both = ["count_window", "time_window"];
    let cases = [
        (count, Some(count), &both[..1], counted),
        (time, Some(count), &both[..1], counted),
        (count, Some(time), &both[1..], timed),
        (count, Some(time), &both[..1], None),
        (time, Some(time), &both[..1], Some(time)),
        (count, None, &both[..1], None),
        (count, None, &both[1..], Some(count)),
        (count, Some(time), &both, timed),
        (time, Some(count), &both, counted),
        (time, None, &both, None),
    ];
    for (base, new, paths, expected) in cases {
        let in_force = BreakerSettings { window: Some(base), ..unusual() };
        let request = proto::BreakerSettings { window: new.map(said), ..Default::default() };
        let revised = revised(&in_force, &request, paths).unwrap();
        assert_eq!(revised.window, expected, "{base:?}, {new:?} at {paths:?}");
    }
    let request = proto::BreakerSettings { window: Some(said(count)), ..Default::default() };
    let in_force = BreakerSettings { window: Some(time), ..unusual() };
    assert_eq!(revised(&in_force, &request, &["time_window", "count_window"]).unwrap().window, counted);
}
