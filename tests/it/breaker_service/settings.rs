//! Settings of one breaker: replaced, changed in part, given back to the configured policy.

use std::time::Duration;

use fusewire::grpc::proto::{
    Breaker, BreakerSettings, ConfigureBreakerRequest, ExpiredPermit,
    Outcome::{Failure, Success},
    State,
    breaker_settings::Window,
};
use tonic::{Code, Status};

use crate::support::{
    breakers::{Breakers, after, configuring, in_a_row},
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    threads::{assert_refused, mask, violated, wire},
};

on_every_store_and_on_a_pair!(
    settings_replace_all_and_answers_tell_what_is_in_force,
    a_mask_replaces_only_what_it_names,
    a_mask_of_the_window_clears_only_what_it_names,
    a_reset_of_settings_goes_back_to_the_policy,
    other_instances_go_by_new_settings_with_their_next_call,
    settings_are_no_change_of_the_breaker,
    every_limit_is_told_with_its_field,
    requests_that_contradict_themselves_are_refused,
);

async fn configure(breakers: &Breakers, request: ConfigureBreakerRequest) -> BreakerSettings {
    let breaker: Breaker = breakers.configure_breaker(request).await.unwrap().breaker.unwrap();
    let settings = breaker.settings.expect("settings are told");
    assert_eq!(breakers.get(&breaker.model_key).await.settings, Some(settings));
    settings
}

fn changing(key: &str, settings: BreakerSettings, paths: &[&str]) -> ConfigureBreakerRequest {
    ConfigureBreakerRequest { update_mask: Some(mask(paths)), ..configuring(key, settings) }
}

fn resetting(key: &str) -> ConfigureBreakerRequest {
    ConfigureBreakerRequest { model_key: key.into(), reset_settings: true, ..Default::default() }
}

/// What holds where nothing is said.
fn plain() -> BreakerSettings {
    BreakerSettings {
        minimum_calls: 10,
        open_duration: Some(wire(Duration::from_secs(30))),
        backoff_multiplier: 1.0,
        max_open_duration: Some(wire(Duration::from_mins(10))),
        half_open_permits: Some(1),
        permit_lease: Some(wire(Duration::from_mins(2))),
        expired_permit: ExpiredPermit::Release.into(),
        honor_retry_after: Some(true),
        max_retry_after: Some(wire(Duration::from_mins(10))),
        min_reporters: 1,
        ..Default::default()
    }
}

fn everything() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 1_000_000,
        window: Some(Window::CountWindow(10_000)),
        minimum_calls: 1_000_000,
        failure_rate_percent: 33.25,
        slow_call_duration: Some(wire(Duration::from_millis(1))),
        slow_rate_percent: 100.0,
        open_duration: Some(wire(Duration::from_millis(1))),
        backoff_multiplier: 10.0,
        max_open_duration: Some(wire(Duration::from_hours(168))),
        jitter_percent: 50.0,
        half_open_permits: Some(1000),
        half_open_max_wait: Some(wire(Duration::from_hours(168))),
        permit_lease: Some(wire(Duration::from_hours(1))),
        expired_permit: ExpiredPermit::Failure.into(),
        honor_retry_after: Some(false),
        max_retry_after: Some(wire(Duration::from_millis(1))),
        min_reporters: 1000,
        automatic_half_open: true,
    }
}

async fn settings_replace_all_and_answers_tell_what_is_in_force(on: &Deployment) {
    let breakers = on.breakers();
    assert_eq!(configure(&breakers, configuring("all", everything())).await, everything());
    assert_eq!(configure(&breakers, configuring("all", BreakerSettings::default())).await, plain());
    // What follows from others is told too.
    let rate = BreakerSettings {
        failure_rate_percent: 1.0,
        open_duration: Some(wire(Duration::from_hours(2))),
        half_open_permits: Some(0),
        ..Default::default()
    };
    let told = configure(&breakers, configuring("all", rate)).await;
    assert_eq!(told.window, Some(Window::TimeWindow(wire(Duration::from_mins(1)))));
    assert_eq!((told.max_open_duration, told.half_open_permits), (rate.open_duration, Some(0)));
}

async fn a_mask_replaces_only_what_it_names(on: &Deployment) {
    let breakers = on.breakers();
    configure(&breakers, configuring("masked", everything())).await;
    let new = BreakerSettings {
        consecutive_failures: 7,
        min_reporters: 3,
        jitter_percent: 1.0,
        ..Default::default()
    };
    let told =
        configure(&breakers, changing("masked", new, &["consecutive_failures", "min_reporters"])).await;
    assert_eq!(told, BreakerSettings { consecutive_failures: 7, min_reporters: 3, ..everything() });
    // What is named and not set gets its default.
    let told =
        configure(&breakers, changing("masked", new, &["half_open_permits", "honor_retry_after"])).await;
    let expected = BreakerSettings {
        consecutive_failures: 7,
        min_reporters: 3,
        half_open_permits: Some(1),
        honor_retry_after: Some(true),
        ..everything()
    };
    assert_eq!(told, expected);
    // Of a key without settings of its own, what is in force is the policy's.
    let told = configure(&breakers, changing("by-policy", new, &["consecutive_failures"])).await;
    assert_eq!(
        (told.consecutive_failures, told.failure_rate_percent, told.backoff_multiplier),
        (7, 50.0, 2.0)
    );
}

async fn a_mask_of_the_window_clears_only_what_it_names(on: &Deployment) {
    let breakers = on.breakers();
    configure(&breakers, configuring("window", everything())).await;
    let minute = Some(Window::TimeWindow(wire(Duration::from_mins(1))));
    let none = BreakerSettings::default();
    let told = configure(&breakers, changing("window", none, &["time_window"])).await;
    assert_eq!(told.window, Some(Window::CountWindow(10_000)));
    let two = BreakerSettings { window: Some(Window::TimeWindow(wire(Duration::from_secs(2)))), ..none };
    assert_eq!(configure(&breakers, changing("window", two, &["time_window"])).await.window, two.window);
    assert_eq!(configure(&breakers, changing("window", none, &["count_window"])).await.window, two.window);
    // Rates want a window all the same.
    assert_eq!(configure(&breakers, changing("window", none, &["time_window"])).await.window, minute);
}

async fn a_reset_of_settings_goes_back_to_the_policy(on: &Deployment) {
    let breakers = on.breakers();
    let policy = breakers.get("given-back").await.settings.unwrap();
    assert_eq!((policy.consecutive_failures, policy.minimum_calls), (5, 10));
    configure(&breakers, configuring("given-back", everything())).await;
    for _ in 0..2 {
        assert_eq!(configure(&breakers, resetting("given-back")).await, policy);
    }
}

async fn other_instances_go_by_new_settings_with_their_next_call(on: &Deployment) {
    let breakers = on.breakers();
    // Each instance has an opinion of its own before.
    for _ in 0..on.services() {
        breakers.tell_all("fleet", &[Failure, Success]).await;
    }
    for failures in [3, 2, 1] {
        breakers.set("fleet", in_a_row(failures)).await;
        for run in 1..=failures {
            let state = after(breakers.tell_all("fleet", &[Failure]).await).state();
            assert_eq!(state == State::Open, run == failures, "{run} of {failures}");
        }
        breakers.reset("fleet").await;
    }
}

async fn settings_are_no_change_of_the_breaker(on: &Deployment) {
    let breakers = on.breakers();
    configure(&breakers, configuring("quiet", in_a_row(9))).await;
    let quiet = breakers.get("quiet").await;
    assert_eq!((quiet.epoch.as_str(), quiet.generation, quiet.since), ("", 0, None));
    breakers.tell_all("quiet", &[Failure, Failure]).await;
    let permit = breakers.permit("quiet").await;
    let before = breakers.get("quiet").await;
    configure(&breakers, configuring("quiet", in_a_row(3))).await;
    let now = breakers.get("quiet").await;
    assert_eq!(
        (&now.epoch, now.generation, now.calls),
        (&before.epoch, 0, 2),
        "what was counted still counts"
    );
    assert_eq!(breakers.history("quiet").await, []);
    assert_eq!(after(breakers.tell(&permit, Failure).await).state(), State::Open);
}

async fn refused(breakers: &Breakers, request: ConfigureBreakerRequest) -> Vec<String> {
    let outcome: Result<_, Status> = breakers.configure_breaker(request).await;
    violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS"))
}

async fn every_limit_is_told_with_its_field(on: &Deployment) {
    let breakers = on.breakers();
    let ms = |millis| Some(wire(Duration::from_millis(millis)));
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let fine = Some(prost_types::Duration { seconds: 1, nanos: 1 });
    let week = 604_800_001;
    let d = BreakerSettings::default();
    let cases = [
        (BreakerSettings { consecutive_failures: -1, ..d }, "consecutive_failures"),
        (BreakerSettings { consecutive_failures: 1_000_001, ..d }, "consecutive_failures"),
        (BreakerSettings { window: Some(Window::CountWindow(0)), ..d }, "count_window"),
        (BreakerSettings { window: Some(Window::CountWindow(10_001)), ..d }, "count_window"),
        (BreakerSettings { window: ms(999).map(Window::TimeWindow), ..d }, "time_window"),
        (BreakerSettings { window: ms(1500).map(Window::TimeWindow), ..d }, "time_window"),
        (BreakerSettings { window: ms(3_601_000).map(Window::TimeWindow), ..d }, "time_window"),
        (BreakerSettings { minimum_calls: 1_000_001, ..d }, "minimum_calls"),
        (BreakerSettings { failure_rate_percent: -0.1, ..d }, "failure_rate_percent"),
        (BreakerSettings { failure_rate_percent: 100.1, ..d }, "failure_rate_percent"),
        (BreakerSettings { failure_rate_percent: f64::NAN, ..d }, "failure_rate_percent"),
        (BreakerSettings { slow_rate_percent: 1.0, ..d }, "slow_call_duration"),
        (BreakerSettings { slow_call_duration: ms(0), ..d }, "slow_call_duration"),
        (BreakerSettings { slow_rate_percent: 101.0, slow_call_duration: ms(1), ..d }, "slow_rate_percent"),
        (BreakerSettings { open_duration: ms(0), ..d }, "open_duration"),
        (BreakerSettings { open_duration: ms(week), ..d }, "open_duration"),
        (BreakerSettings { open_duration: negative, ..d }, "open_duration"),
        (BreakerSettings { open_duration: fine, ..d }, "open_duration"),
        (BreakerSettings { backoff_multiplier: 0.9, ..d }, "backoff_multiplier"),
        (BreakerSettings { backoff_multiplier: 10.1, ..d }, "backoff_multiplier"),
        (BreakerSettings { max_open_duration: ms(29_999), ..d }, "max_open_duration"),
        (BreakerSettings { jitter_percent: 50.1, ..d }, "jitter_percent"),
        (BreakerSettings { half_open_permits: Some(1001), ..d }, "half_open_permits"),
        (BreakerSettings { half_open_permits: Some(-1), ..d }, "half_open_permits"),
        (BreakerSettings { half_open_max_wait: ms(week), ..d }, "half_open_max_wait"),
        (BreakerSettings { permit_lease: ms(999), ..d }, "permit_lease"),
        (BreakerSettings { permit_lease: ms(3_600_001), ..d }, "permit_lease"),
        (BreakerSettings { expired_permit: 9, ..d }, "expired_permit"),
        (BreakerSettings { max_retry_after: ms(0), ..d }, "max_retry_after"),
        (BreakerSettings { min_reporters: 1001, ..d }, "min_reporters"),
    ];
    for (settings, field) in cases {
        let expected = [format!("settings.{field}")];
        assert_eq!(refused(&breakers, configuring("limits", settings)).await, expected, "{settings:?}");
        // What is wrong with one may follow from the other.
        let slow = ["slow_call_duration", "slow_rate_percent"];
        let paths = if slow.contains(&field) { &slow[..] } else { &[field] };
        let masked = changing("limits", settings, paths);
        assert_eq!(refused(&breakers, masked).await, expected, "{field} by mask");
    }
    let many = BreakerSettings {
        consecutive_failures: -1,
        jitter_percent: 51.0,
        min_reporters: 1001,
        open_duration: negative,
        ..d
    };
    let told = refused(&breakers, configuring("{", many)).await;
    let expected =
        ["model_key", "settings.consecutive_failures", "settings.open_duration", "settings.jitter_percent"];
    assert!(expected.iter().all(|field| told.contains(&(*field).to_owned())), "{told:?}");
    // Nothing of all that was stored.
    let kept = breakers.get("limits").await.settings.unwrap();
    assert_eq!(Some(kept), breakers.get("never-configured").await.settings);
}

async fn requests_that_contradict_themselves_are_refused(on: &Deployment) {
    let breakers = on.breakers();
    let both = ConfigureBreakerRequest { reset_settings: true, ..configuring("odd", in_a_row(1)) };
    assert_eq!(refused(&breakers, both).await, ["settings"]);
    let neither = ConfigureBreakerRequest { model_key: "odd".into(), ..Default::default() };
    assert_eq!(refused(&breakers, neither).await, ["settings"]);
    let masked = ConfigureBreakerRequest { update_mask: Some(mask(&["jitter_percent"])), ..resetting("odd") };
    assert_eq!(refused(&breakers, masked).await, ["update_mask"]);
    assert_eq!(refused(&breakers, changing("odd", in_a_row(1), &[])).await, ["update_mask"]);
    let unknown = changing("odd", in_a_row(1), &["settings.open_duration"]);
    let told = refused(&breakers, unknown).await;
    assert!(told[0].starts_with("update_mask"), "{told:?}");
}

const POLICIES: (&str, &str) = (
    "FUSEWIRE__BREAKERS__POLICIES",
    "anthropic:* llm open_duration=45s,*:swe open_swe,slow-* rate,* consecutive consecutive_failures=3",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_policy_whose_pattern_matches_holds_until_settings_are_stored() {
    for store in [Store::Memory, Store::Pair] {
        let on = Deployment::start_with(store, &[POLICIES]).await;
        let breakers = on.breakers();
        let in_force = async |key| breakers.get(key).await.settings.unwrap();
        let llm = in_force("anthropic:swe").await;
        assert_eq!((llm.consecutive_failures, llm.open_duration), (5, Some(wire(Duration::from_secs(45)))));
        let swe = in_force("openai:swe").await;
        assert_eq!((swe.consecutive_failures, swe.half_open_permits, swe.window), (2, Some(0), None));
        assert_eq!(swe.open_duration, Some(wire(Duration::from_mins(3))));
        assert_eq!(in_force("slow-one").await.consecutive_failures, 0);
        assert_eq!(in_force("anything").await.consecutive_failures, 3);

        assert_eq!(after(breakers.tell_all("openai:swe", &[Failure, Failure]).await).state(), State::Open);
        assert_eq!(after(breakers.tell_all("anything", &[Failure, Failure]).await).state(), State::Closed);
        assert_eq!(after(breakers.tell_all("anything", &[Failure]).await).state(), State::Open);
        configure(&breakers, configuring("other", in_a_row(1))).await;
        assert_eq!(after(breakers.tell_all("other", &[Failure]).await).state(), State::Open);
        configure(&breakers, resetting("other")).await;
        assert_eq!(in_force("other").await, in_force("anything").await);
    }
}
