//! Overrides: an operator decides instead of the state machine.

use std::time::Duration;

use fusewire::grpc::proto::{
    Disposition::{Applied, Neutral, Stale},
    Mode,
    Outcome::{Cancelled, Failure, Success},
    OverrideBreakerRequest, RejectionReason, State, TransitionReason,
};
use tonic::Code;

use crate::support::{
    breakers::{SOON, after, assert_did, assert_stands, counts, in_a_row, length, trial_of},
    deployment::{Deployment, on_every_store_and_on_a_pair},
    eventually::eventually,
    threads::{assert_refused, millis, violated, wire},
};

on_every_store_and_on_a_pair!(
    forced_open_rejects_and_records_nothing,
    disabled_admits_and_records_nothing,
    metrics_only_admits_and_records_and_never_opens,
    an_override_tells_who_set_it_when_and_why,
    an_override_ends_with_its_time,
    reports_count_from_the_end_of_an_override_on,
    automatic_ends_an_override_and_counts_begin_anew,
    the_state_below_stays_as_it_was,
    an_override_ends_a_trials_leases,
    a_repeated_override_changes_nothing,
    overrides_are_checked,
);

fn overriding(key: &str, mode: Mode) -> OverrideBreakerRequest {
    OverrideBreakerRequest { model_key: key.into(), mode: mode.into(), ..Default::default() }
}

async fn forced_open_rejects_and_records_nothing(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("forced", in_a_row(2)).await;
    let permit = breakers.permit("forced").await;
    breakers.put("forced", Mode::ForcedOpen).await;
    for _ in 0..2 {
        let answer = breakers.ask("forced").await;
        assert_eq!((answer.admitted, answer.state()), (false, State::Closed));
        assert_eq!((answer.reason(), answer.retry_after), (RejectionReason::ForcedOpen, None));
    }
    for _ in 0..3 {
        assert_did(&breakers.tell_all("forced", &[Failure]).await, Neutral);
    }
    // The key had no state before the override, and such permits are of generation 0.
    assert_did(&breakers.tell(&permit, Failure).await, Stale);
    let forced = breakers.get("forced").await;
    assert_eq!(
        (forced.state(), forced.mode(), counts(&forced)),
        (State::Closed, Mode::ForcedOpen, (0, 0, 0, 0))
    );

    let ttl = Some(wire(Duration::from_mins(1)));
    breakers
        .override_breaker(OverrideBreakerRequest { ttl, ..overriding("timed", Mode::ForcedOpen) })
        .await
        .unwrap();
    let left = length(breakers.ask("timed").await.retry_after);
    assert!((1..=60_000).contains(&left), "{left}");
}

async fn disabled_admits_and_records_nothing(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("disabled", in_a_row(1)).await;
    breakers.trip("disabled", Duration::from_hours(1)).await;
    breakers.put("disabled", Mode::Disabled).await;
    for _ in 0..3 {
        let permit = breakers.permit("disabled").await;
        assert_eq!(permit.lease_id, "");
        for outcome in [Failure, Success, Cancelled] {
            assert_did(&breakers.tell(&permit, outcome).await, Neutral);
        }
    }
    let disabled = breakers.get("disabled").await;
    assert_stands(&disabled, State::Open, 2);
    assert_eq!((disabled.mode(), counts(&disabled)), (Mode::Disabled, (0, 0, 0, 0)));
}

async fn metrics_only_admits_and_records_and_never_opens(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("metrics", in_a_row(2)).await;
    breakers.put("metrics", Mode::MetricsOnly).await;
    for run in 1..=5 {
        let permit = breakers.permit("metrics").await;
        let answer = breakers.tell(&permit, Failure).await;
        assert_did(&answer, Applied);
        let breaker = after(answer);
        assert_stands(&breaker, State::Closed, 1);
        assert_eq!(
            (breaker.mode(), counts(&breaker)),
            (Mode::MetricsOnly, (i64::from(run), i64::from(run), 0, run))
        );
    }
    assert_eq!(breakers.history("metrics").await.len(), 1);
    // Nothing of it opens the breaker when it decides again.
    let automatic = breakers.put("metrics", Mode::Automatic).await;
    assert_eq!((automatic.state(), automatic.calls), (State::Closed, 0));
    assert!(breakers.ask("metrics").await.admitted);
}

async fn an_override_tells_who_set_it_when_and_why(on: &Deployment) {
    let breakers = on.breakers();
    let ttl = Some(wire(Duration::from_hours(2)));
    let (reason, actor) = ("maintenance until noon".to_owned(), "carol".to_owned());
    let request = OverrideBreakerRequest { ttl, reason, actor, ..overriding("told", Mode::ForcedOpen) };
    let set = breakers.override_breaker(request).await.unwrap().breaker.unwrap();
    let told = set.mode_override.clone().unwrap();
    assert_eq!((told.reason.as_str(), told.actor.as_str()), ("maintenance until noon", "carol"));
    assert_eq!(millis(told.expire_time) - millis(told.set_time), 7_200_000);
    assert_eq!(breakers.get("told").await.mode_override, set.mode_override);
    let change = breakers.newest("told").await;
    assert_eq!((change.reason(), change.mode()), (TransitionReason::Override, Mode::ForcedOpen));
    assert_eq!((change.from_state(), change.to_state()), (State::Closed, State::Closed));
    assert_eq!((change.actor, change.detail), (told.actor, told.reason));
    assert_eq!(change.transition_time, told.set_time);
    // Another one replaces it whole.
    let next = breakers.put("told", Mode::Disabled).await;
    let told = next.mode_override.unwrap();
    assert_eq!((told.reason.as_str(), told.actor.as_str(), told.expire_time), ("", "", None));
    assert_eq!(breakers.put("told", Mode::Automatic).await.mode_override, None);
}

async fn an_override_ends_with_its_time(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("ends", in_a_row(2)).await;
    let ttl = Some(wire(Duration::from_secs(1)));
    breakers
        .override_breaker(OverrideBreakerRequest { ttl, ..overriding("ends", Mode::ForcedOpen) })
        .await
        .unwrap();
    eventually("a read tells that it ended", SOON, async || {
        let read = breakers.get("ends").await;
        read.mode() == Mode::Automatic && read.mode_override.is_none()
    })
    .await;
    assert!(breakers.ask("ends").await.admitted);
    let [set, ended] = &breakers.history("ends").await[..] else { panic!("two changes") };
    assert_eq!((ended.reason(), ended.mode()), (TransitionReason::Override, Mode::Automatic));
    assert!(millis(ended.transition_time) - millis(set.transition_time) >= 1000);
    assert_eq!(after(breakers.tell_all("ends", &[Failure, Failure]).await).state(), State::Open);
}

async fn reports_count_from_the_end_of_an_override_on(on: &Deployment) {
    let breakers = on.breakers();
    let ttl = Some(wire(Duration::from_secs(1)));
    for mode in [Mode::ForcedOpen, Mode::Disabled] {
        let key = format!("counts-{}", mode.as_str_name());
        breakers.set(&key, in_a_row(2)).await;
        breakers.override_breaker(OverrideBreakerRequest { ttl, ..overriding(&key, mode) }).await.unwrap();
        eventually("it ends", SOON, async || breakers.get(&key).await.mode() == Mode::Automatic).await;
        let answer = breakers.tell_all(&key, &[Failure]).await;
        assert_did(&answer, Applied);
        assert_eq!(counts(&after(answer)), (1, 1, 0, 1), "{key}");
        assert_stands(&after(breakers.tell_all(&key, &[Failure]).await), State::Open, 3);
    }
    // What was recorded under METRICS_ONLY opens nothing once it has ended.
    breakers.set("counts-metrics", in_a_row(2)).await;
    let metrics = overriding("counts-metrics", Mode::MetricsOnly);
    breakers.override_breaker(OverrideBreakerRequest { ttl, ..metrics }).await.unwrap();
    breakers.tell_all("counts-metrics", &[Failure; 5]).await;
    eventually("it ends", SOON, async || breakers.get("counts-metrics").await.mode() == Mode::Automatic)
        .await;
    assert!(breakers.ask("counts-metrics").await.admitted);
    assert_stands(&after(breakers.tell_all("counts-metrics", &[Failure]).await), State::Closed, 2);
}

async fn automatic_ends_an_override_and_counts_begin_anew(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("back", in_a_row(2)).await;
    let before = after(breakers.tell_all("back", &[Failure]).await);
    // What is not overridden has nothing to end.
    assert_eq!(breakers.put("back", Mode::Automatic).await.generation, before.generation);
    breakers.put("back", Mode::MetricsOnly).await;
    breakers.tell_all("back", &[Failure]).await;
    let back = breakers.put("back", Mode::Automatic).await;
    assert_stands(&back, State::Closed, 2);
    assert_eq!(counts(&back), (0, 0, 0, 0));
    assert_stands(&after(breakers.tell_all("back", &[Failure]).await), State::Closed, 2);
}

async fn the_state_below_stays_as_it_was(on: &Deployment) {
    let breakers = on.breakers();
    let open = breakers.trip("below", Duration::from_hours(1)).await;
    for mode in [Mode::Disabled, Mode::MetricsOnly, Mode::ForcedOpen] {
        let set = breakers.put("below", mode).await;
        assert_eq!((set.state(), set.open_until, set.since), (State::Open, open.open_until, open.since));
        assert_eq!(breakers.ask("below").await.admitted, mode != Mode::ForcedOpen);
    }
    let back = breakers.put("below", Mode::Automatic).await;
    assert_eq!((back.state(), back.open_until, back.attempts), (State::Open, open.open_until, 1));
    assert_eq!(breakers.ask("below").await.reason(), RejectionReason::Open);
}

async fn an_override_ends_a_trials_leases(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("trial", trial_of(1)).await;
    let permit = breakers.begin_trial("trial").await;
    breakers.put("trial", Mode::ForcedOpen).await;
    assert_eq!(breakers.get("trial").await.permits_left, 0);
    assert_did(&breakers.tell(&permit, Success).await, Stale);
    let back = breakers.put("trial", Mode::Automatic).await;
    assert_eq!((back.state(), back.permits_left), (State::HalfOpen, 1));
    assert!(breakers.ask("trial").await.admitted);
}

async fn a_repeated_override_changes_nothing(on: &Deployment) {
    let breakers = on.breakers();
    let request_id = "night".to_owned();
    let force = OverrideBreakerRequest { request_id, ..overriding("repeated", Mode::ForcedOpen) };
    breakers.override_breaker(force.clone()).await.unwrap();
    assert_eq!(breakers.override_breaker(force.clone()).await.unwrap().breaker.unwrap().generation, 1);
    breakers.reset("repeated").await;
    let again = breakers.override_breaker(force).await.unwrap().breaker.unwrap();
    assert_eq!((again.generation, again.mode()), (2, Mode::Automatic));
}

async fn overrides_are_checked(on: &Deployment) {
    let breakers = on.breakers();
    let of = |mode: i32, ttl: Option<Duration>| OverrideBreakerRequest {
        model_key: "checked".into(),
        mode,
        ttl: ttl.map(wire),
        ..Default::default()
    };
    let forced = Mode::ForcedOpen.into();
    let longest = Duration::from_hours(365 * 24);
    for (request, field) in [
        (of(0, None), "mode"),
        (of(99, None), "mode"),
        (of(Mode::Automatic.into(), Some(longest)), "ttl"),
        (of(forced, Some(Duration::from_millis(999))), "ttl"),
        (of(forced, Some(longest + Duration::from_secs(1))), "ttl"),
        (OverrideBreakerRequest { actor: "a".repeat(129), ..of(forced, None) }, "actor"),
        (OverrideBreakerRequest { reason: "r".repeat(513), ..of(forced, None) }, "reason"),
    ] {
        let outcome = breakers.override_breaker(request).await;
        assert_eq!(violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")), [field]);
    }
    breakers.override_breaker(of(forced, Some(longest))).await.unwrap();
}
