use super::*;
use crate::breakers::{Counts, ModeOverride, Pause, Totals, Window};

const NOW: Timestamp = Timestamp::from_millis(1_763_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const HALF: f64 = 0.5;

fn ago(length: Duration) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - i64::try_from(length.as_millis()).unwrap())
}

fn settings() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 5,
        window: Some(Window::Time(60)),
        failure_rate_percent: 50.0,
        slow_call_duration: Some(4 * SECOND),
        slow_rate_percent: 80.0,
        backoff_multiplier: 2.0,
        ..BreakerSettings::default()
    }
}

fn view(state: State) -> View {
    let position = Position { epoch: "e".into(), generation: 7 };
    let open_until = (state == State::Open).then(|| NOW.plus(10 * SECOND));
    let snapshot = Snapshot {
        position,
        fence: 5,
        fence_before: 3,
        state,
        since: ago(20 * SECOND),
        open_until,
        attempts: u32::from(state != State::Closed),
        ..Snapshot::default()
    };
    let totals = Totals { reporters: 1, ..Totals::default() };
    View { now: NOW, snapshot, totals }
}

fn counted(state: State, calls: i64, failures: i64, slow: i64, run: i64) -> View {
    let counts = Counts { calls, failures, slow, run };
    View { totals: Totals { counts, ..view(state).totals }, ..view(state) }
}

fn overridden(mode: Mode, expire_time: Option<Timestamp>) -> View {
    let mut view = view(State::Closed);
    view.snapshot.mode = mode;
    let (reason, actor) = ("incident 7".into(), "ada".into());
    view.snapshot.mode_override = Some(ModeOverride { reason, actor, set_time: ago(SECOND), expire_time });
    view
}

fn change(view: &View, settings: &BreakerSettings) -> Option<(State, Reason, Option<Duration>)> {
    due(view, settings, &Cause::default(), HALF).map(|change| (change.to, change.reason, change.open_for))
}

fn acquiring() -> Cause {
    Cause { acquires: true, ..Cause::default() }
}

#[test]
fn closed_opens_when_failures_in_a_row_reach_their_number() {
    assert_eq!(change(&counted(State::Closed, 4, 4, 0, 4), &settings()), None);
    let opens = Some((State::Open, Reason::ConsecutiveFailures, Some(30 * SECOND)));
    assert_eq!(change(&counted(State::Closed, 5, 5, 0, 5), &settings()), opens);
    // The row may have ended within the batch that was just recorded.
    let ended = counted(State::Closed, 6, 5, 0, 0);
    let cause = Cause { longest_run: 5, ..Cause::default() };
    assert_eq!(due(&ended, &settings(), &cause, HALF).unwrap().reason, Reason::ConsecutiveFailures);
    assert_eq!(change(&ended, &settings()), None);
}

#[test]
fn closed_opens_when_a_share_is_reached_once_enough_calls_are_in_the_window() {
    let reason = |view: &View| change(view, &settings()).map(|(_, reason, _)| reason);
    assert_eq!(reason(&counted(State::Closed, 9, 9, 9, 1)), None);
    assert_eq!(reason(&counted(State::Closed, 11, 5, 0, 0)), None);
    assert_eq!(reason(&counted(State::Closed, 10, 5, 0, 0)), Some(Reason::FailureRate));
    assert_eq!(reason(&counted(State::Closed, 10, 0, 8, 0)), Some(Reason::SlowRate));
    assert_eq!(reason(&counted(State::Closed, 10, 0, 7, 0)), None);
    // A count window that holds fewer than the minimum is full before.
    let small = BreakerSettings { window: Some(Window::Count(3)), ..settings() };
    assert_eq!(
        change(&counted(State::Closed, 3, 2, 0, 0), &small).map(|(_, reason, _)| reason),
        Some(Reason::FailureRate)
    );
}

#[test]
fn failures_that_too_few_instances_have_seen_do_not_open() {
    let settings = BreakerSettings { min_reporters: 2, ..settings() };
    assert_eq!(change(&counted(State::Closed, 10, 10, 0, 10), &settings), None);
    let mut seen = counted(State::Closed, 10, 10, 0, 10);
    seen.totals.reporters = 2;
    assert!(change(&seen, &settings).is_some());
    assert_eq!(
        change(&counted(State::Closed, 10, 0, 10, 0), &settings).map(|(_, reason, _)| reason),
        Some(Reason::SlowRate),
        "slow calls are no failures"
    );
}

#[test]
fn a_wished_pause_opens_at_once_for_as_long_as_wished_at_most_the_cap() {
    let wishing = |length: Duration| {
        let mut view = counted(State::Closed, 1, 1, 0, 1);
        view.totals.pause = Some(Pause { until: NOW.plus(length), outcome: Outcome::RateLimited });
        view
    };
    let opens = |length| Some((State::Open, Reason::RetryAfter, Some(length)));
    assert_eq!(change(&wishing(2 * SECOND), &settings()), opens(2 * SECOND));
    assert_eq!(change(&wishing(3600 * SECOND), &settings()), opens(600 * SECOND));
    assert_eq!(change(&wishing(Duration::ZERO), &settings()), None);
    let deaf = BreakerSettings { honor_retry_after: false, ..settings() };
    assert_eq!(change(&wishing(2 * SECOND), &deaf), None);
    // A rule that holds at the same time: the longer of the two.
    let mut both = wishing(100 * SECOND);
    both.totals.counts.run = 5;
    assert_eq!(
        change(&both, &settings()),
        Some((State::Open, Reason::ConsecutiveFailures, Some(100 * SECOND)))
    );
}

#[test]
fn open_times_grow_with_each_opening_in_a_row_up_to_the_cap_and_jitter_swings_them() {
    let settings = BreakerSettings { jitter_percent: 50.0, ..settings() };
    let open_for = |attempts, chance| backoff(&settings, attempts, chance);
    assert_eq!([1, 2, 3, 5].map(|n| open_for(n, HALF).as_secs()), [30, 60, 120, 480]);
    assert_eq!(open_for(6, HALF), 600 * SECOND);
    assert_eq!(open_for(u32::MAX, HALF), 600 * SECOND);
    assert_eq!(open_for(1, 0.0), 15 * SECOND);
    assert_eq!(open_for(1, 0.75).as_millis(), 37_500);
    assert_eq!(open_for(6, 0.999), 600 * SECOND);
    let shortest = BreakerSettings { open_duration: Duration::from_millis(1), ..settings.clone() };
    assert_eq!(backoff(&shortest, 1, 0.0), Duration::from_millis(1));
}

#[test]
fn open_is_due_at_open_until_and_only_for_whoever_acquires() {
    let mut due_now = view(State::Open);
    due_now.snapshot.open_until = Some(NOW);
    assert_eq!(change(&due_now, &settings()), None);
    let change_of =
        |view: &View, settings: &BreakerSettings| due(view, settings, &acquiring(), HALF).map(|c| c.to);
    assert_eq!(change_of(&due_now, &settings()), Some(State::HalfOpen));
    assert_eq!(change_of(&view(State::Open), &settings()), None);
    let straight = BreakerSettings { half_open_permits: 0, ..settings() };
    assert_eq!(change_of(&due_now, &straight), Some(State::Closed));
}

#[test]
fn an_open_time_that_began_in_the_future_is_counted_anew() {
    let mut ahead = view(State::Open);
    ahead.snapshot.since = NOW.plus(3600 * SECOND);
    ahead.snapshot.open_until = Some(NOW.plus(3630 * SECOND));
    let change = due(&ahead, &settings(), &Cause::default(), HALF).unwrap();
    assert_eq!((change.reason, change.reanchors, change.begins), (Reason::Extended, true, Begins::Nothing));
    assert_eq!(change.open_for, Some(30 * SECOND));
}

#[test]
fn a_trial_fails_as_soon_as_its_share_is_reached_and_passes_when_all_results_are_in() {
    let settings = BreakerSettings { half_open_permits: 4, ..settings() };
    let verdict = |calls, failures, slow| {
        change(&counted(State::HalfOpen, calls, failures, slow, 0), &settings)
            .map(|(to, reason, _)| (to, reason))
    };
    assert_eq!(verdict(1, 1, 0), None);
    assert_eq!(verdict(2, 2, 0), Some((State::Open, Reason::TrialFailed)));
    assert_eq!(verdict(4, 0, 4), Some((State::Open, Reason::TrialFailed)));
    assert_eq!(verdict(3, 0, 0), None);
    assert_eq!(verdict(4, 1, 3), Some((State::Closed, Reason::TrialPassed)));
    let few = BreakerSettings { minimum_calls: 2, ..settings.clone() };
    assert!(change(&counted(State::HalfOpen, 2, 0, 0, 0), &few).is_some());
    // Where no trial calls are wanted any more, there is nothing to wait for.
    let none = BreakerSettings { half_open_permits: 0, ..settings.clone() };
    assert_eq!(change(&counted(State::HalfOpen, 0, 0, 0, 0), &none).map(|(to, ..)| to), Some(State::Closed));
}

#[test]
fn without_a_rate_rule_the_first_failure_reopens_and_as_many_successes_as_permits_close() {
    let settings =
        BreakerSettings { consecutive_failures: 3, half_open_permits: 2, ..BreakerSettings::default() };
    let to = |calls, failures| {
        change(&counted(State::HalfOpen, calls, failures, 0, failures), &settings).map(|(to, ..)| to)
    };
    assert_eq!(to(1, 0), None);
    assert_eq!(to(2, 0), Some(State::Closed));
    assert_eq!(to(1, 1), Some(State::Open));
}

#[test]
fn a_trial_that_takes_too_long_opens_again_for_longer() {
    let settings = BreakerSettings { half_open_max_wait: Some(20 * SECOND), ..settings() };
    let late = view(State::HalfOpen);
    assert_eq!(
        change(&late, &settings),
        Some((State::Open, Reason::TrialTimedOut, Some(60 * SECOND))),
        "the second time in a row"
    );
    let patient = BreakerSettings { half_open_max_wait: Some(21 * SECOND), ..settings };
    assert_eq!(change(&late, &patient), None);
}

#[test]
fn permits_of_another_epoch_or_before_the_fence_are_stale() {
    let snapshot = view(State::Closed).snapshot;
    let position = |epoch: &str, generation| Position { epoch: epoch.into(), generation };
    let current = |epoch, generation| snapshot.is_current(&position(epoch, generation));
    assert!(current("e", 5) && current("e", 6) && current("e", 7));
    assert!(!current("e", 4) && !current("e", 8) && !current("f", 7) && !current("", 0));
    let mut first = snapshot.clone();
    (first.position.generation, first.fence) = (0, 0);
    assert!(first.is_current(&position("", 0)) && first.is_current(&position("e", 0)));
    assert!(!first.is_current(&position("f", 0)));
    assert!(Snapshot::default().is_current(&Position::default()));
    assert!(!Snapshot::default().is_current(&position("e", 0)));
}

#[test]
fn late_reports_of_what_led_to_open_extend_it_to_the_longest_wish() {
    let open = view(State::Open);
    let extends = |epoch: &str, generation, length, outcome| {
        let position = Position { epoch: epoch.into(), generation };
        extension(&open, &settings(), &position, &RequestedPause { length, outcome }, "")
    };
    let longer = extends("e", 4, 20 * SECOND, Outcome::RateLimited).unwrap();
    assert_eq!(
        (longer.reason, longer.open_for, longer.begins),
        (Reason::Extended, Some(20 * SECOND), Begins::Nothing)
    );
    assert_eq!(extends("e", 4, 10 * SECOND, Outcome::RateLimited), None, "no longer than it is");
    assert_eq!(extends("e", 2, 20 * SECOND, Outcome::RateLimited), None, "an older state");
    assert_eq!(extends("e", 5, 20 * SECOND, Outcome::RateLimited), None, "of this state");
    assert_eq!(extends("f", 4, 20 * SECOND, Outcome::RateLimited), None, "another epoch");
    assert_eq!(extends("e", 4, 20 * SECOND, Outcome::Failure), None, "no wish");
    assert_eq!(
        extends("e", 4, Duration::from_millis(10_900), Outcome::RateLimited),
        None,
        "hardly longer than it is"
    );
    let capped = extends("e", 4, 7200 * SECOND, Outcome::Overloaded).unwrap();
    assert_eq!(capped.open_for, Some(600 * SECOND));
}

#[test]
fn overrides_decide_until_they_end() {
    let admitted = |view: &View| admission(view, &settings(), LeaseResult::NotLeasing);
    let ends = Some(NOW.plus(5 * SECOND));
    let forced = Admission::Rejected { reason: RejectionReason::ForcedOpen, retry_after: Some(5 * SECOND) };
    assert_eq!(admitted(&overridden(Mode::ForcedOpen, ends)), forced);
    for mode in [Mode::Disabled, Mode::MetricsOnly] {
        assert_eq!(admitted(&overridden(mode, None)), Admission::Free);
        assert_eq!(change(&overridden(mode, None), &settings()), None);
    }
    for before in [Mode::ForcedOpen, Mode::Disabled, Mode::MetricsOnly] {
        let ended = overridden(before, Some(NOW));
        assert_eq!(mode(&ended), Mode::Automatic);
        let change = due(&ended, &settings(), &Cause::default(), HALF).unwrap();
        assert_eq!((change.mode, change.reason, change.empties), (Mode::Automatic, Reason::Override, true));
    }
}

#[test]
fn orders_trip_reset_and_override() {
    let key = ModelKey::parse("", "m").unwrap();
    let order = |what| Order { what, actor: "ada".into(), reason: "why".into(), request_id: None };
    let carried = |view: &View, what| ordered(&key, view, &settings(), &order(what));
    let trip = carried(&view(State::Closed), Ordered::Trip(None)).unwrap().unwrap();
    assert_eq!((trip.to, trip.open_for, trip.attempts), (State::Open, Some(30 * SECOND), 1));
    let again = carried(&view(State::Open), Ordered::Trip(Some(SECOND))).unwrap().unwrap();
    assert_eq!((again.begins, again.open_for, again.attempts), (Begins::Nothing, Some(SECOND), 1));
    let forced = overridden(Mode::ForcedOpen, None);
    assert!(matches!(carried(&forced, Ordered::Trip(None)), Err(Error::IllegalTransition { .. })));
    let reset = carried(&forced, Ordered::Reset).unwrap().unwrap();
    assert_eq!((reset.to, reset.mode, reset.attempts), (State::Closed, Mode::Automatic, 0));
    let disabled = carried(&view(State::Open), Ordered::Override(Mode::Disabled, Some(SECOND)));
    let disabled = disabled.unwrap().unwrap();
    assert_eq!((disabled.to, disabled.mode), (State::Open, Mode::Disabled));
    assert_eq!((disabled.override_for, disabled.actor.as_str()), (Some(SECOND), "ada"));
    assert_eq!(carried(&view(State::Open), Ordered::Override(Mode::Automatic, None)).unwrap(), None);
}

#[test]
fn open_tells_what_opened_it_and_rates_only_of_enough_calls() {
    let key = ModelKey::parse("", "m").unwrap();
    let mut open = view(State::Open);
    open.snapshot.before = Counts { calls: 12, failures: 9, slow: 3, run: 2 };
    let told = describe(&key, &open, &settings(), 4);
    assert_eq!((told.failure_rate_percent, told.slow_rate_percent), (Some(75.0), Some(25.0)));
    assert_eq!((told.counts.calls, told.rejected_calls), (12, 4));
    assert_eq!((told.retry_after, told.permits_left), (Some(10 * SECOND), 0));
    let few = describe(&key, &counted(State::Closed, 9, 9, 0, 0), &settings(), 0);
    assert_eq!((few.failure_rate_percent, few.counts.failures), (None, 9));
    let mut trial = counted(State::HalfOpen, 1, 0, 0, 0);
    trial.totals.leases = 1;
    let settings = BreakerSettings { half_open_permits: 3, ..settings() };
    assert_eq!(describe(&key, &trial, &settings, 0).permits_left, 1);
}

#[test]
fn what_time_alone_brings_has_a_deadline() {
    let automatic = BreakerSettings { automatic_half_open: true, ..settings() };
    assert_eq!(deadline(&view(State::Closed), &automatic), None);
    assert_eq!(deadline(&view(State::Open), &settings()), None, "it waits for somebody to ask");
    assert_eq!(deadline(&view(State::Open), &automatic), Some(NOW.plus(10 * SECOND)));
    assert_eq!(deadline(&view(State::HalfOpen), &automatic), None);
    let waits = BreakerSettings { half_open_max_wait: Some(25 * SECOND), ..settings() };
    assert_eq!(deadline(&view(State::HalfOpen), &waits), Some(NOW.plus(5 * SECOND)));
    let ends = Some(NOW.plus(SECOND));
    assert_eq!(deadline(&overridden(Mode::ForcedOpen, ends), &automatic), ends);
    assert_eq!(deadline(&overridden(Mode::ForcedOpen, None), &automatic), None);
}

#[test]
fn with_automatic_half_open_nobody_needs_to_ask() {
    let automatic = BreakerSettings { automatic_half_open: true, ..settings() };
    let mut open = view(State::Open);
    assert_eq!(change(&open, &automatic), None, "it is not due");
    open.snapshot.open_until = Some(NOW);
    assert_eq!(change(&open, &settings()), None);
    assert_eq!(change(&open, &automatic), Some((State::HalfOpen, Reason::OpenElapsed, None)));
}
