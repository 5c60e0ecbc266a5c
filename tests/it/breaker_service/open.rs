//! OPEN: what callers are told, how long it lasts, and what a provider's wish for a pause does.

use std::time::Duration;

use fusewire::grpc::proto::{
    Breaker, BreakerSettings,
    Disposition::{Applied, Stale},
    Outcome::{Failure, Overloaded, QuotaExhausted, RateLimited, Success, Timeout},
    Permit, RejectionReason, ReportRequest, ReportResponse, State, Transition, TransitionReason,
};

use crate::support::{
    breakers::{
        Breakers, SOON, after, assert_did, assert_stands, in_a_row, length, telling, trial_of, unpermitted,
    },
    deployment::{Deployment, on_every_store_and_on_a_pair},
    eventually::eventually,
    threads::{millis, wire},
};

on_every_store_and_on_a_pair!(
    calls_are_rejected_with_what_is_left_of_the_open_time,
    a_report_without_permit_is_stale,
    it_stays_open_until_somebody_asks_and_then_tries,
    without_trial_calls_it_closes_when_due,
    each_open_time_in_a_row_is_longer_up_to_the_longest,
    an_open_time_varies_by_chance_within_its_bounds,
    a_providers_wish_for_a_pause_opens_at_once,
    a_wish_is_capped_and_counts_only_where_it_is_honored,
    the_longest_of_rule_and_wish_counts,
    late_wishes_of_the_calls_that_led_here_extend_the_open_time,
    a_wish_in_a_trial_opens_again,
);

async fn calls_are_rejected_with_what_is_left_of_the_open_time(on: &Deployment) {
    let breakers = on.breakers();
    breakers.trip("rejecting", Duration::from_secs(30)).await;
    let calls = 2 * on.services();
    for _ in 0..calls {
        let answer = breakers.ask("rejecting").await;
        assert_eq!((answer.admitted, &answer.permit), (false, &None));
        assert_eq!((answer.state(), answer.reason()), (State::Open, RejectionReason::Open));
        let left = length(answer.retry_after);
        assert!((1..=30_000).contains(&left), "{left}");
    }
    let open = breakers.get("rejecting").await;
    assert_eq!(open.rejected_calls, 2, "each instance tells its own");
    assert!((1..=30_000).contains(&length(open.retry_after)));
    assert_eq!(open.permits_left, 0);
}

async fn a_report_without_permit_is_stale(on: &Deployment) {
    let breakers = on.breakers();
    breakers.trip("unpermitted", Duration::from_secs(30)).await;
    for outcome in [Success, Failure] {
        let answer = breakers.tell_all("unpermitted", &[outcome]).await;
        assert_did(&answer, Stale);
        assert_eq!(after(answer).calls, 0);
    }
    // A wish without permit may be of any time.
    let wish = ReportRequest {
        retry_after: Some(wire(Duration::from_mins(5))),
        ..unpermitted("unpermitted", RateLimited)
    };
    assert_did(&breakers.report(wish).await.unwrap(), Stale);
    assert_eq!(breakers.history("unpermitted").await.len(), 1);
}

async fn it_stays_open_until_somebody_asks_and_then_tries(on: &Deployment) {
    let breakers = on.breakers();
    let settings = BreakerSettings { open_duration: Some(wire(Duration::from_millis(200))), ..in_a_row(1) };
    breakers.set("due", settings).await;
    let open = after(breakers.tell_all("due", &[Failure]).await);
    assert_eq!(millis(open.open_until) - millis(open.since), 200);
    eventually("it is due", SOON, async || length(breakers.get("due").await.retry_after) == 0).await;
    assert_stands(&breakers.get("due").await, State::Open, 1);
    assert_did(&breakers.tell_all("due", &[Failure]).await, Stale);
    assert_stands(&breakers.get("due").await, State::Open, 1);

    let answer = breakers.ask("due").await;
    assert_eq!((answer.admitted, answer.state()), (true, State::HalfOpen));
    assert!(!answer.permit.unwrap().lease_id.is_empty());
    let trial = breakers.get("due").await;
    assert_stands(&trial, State::HalfOpen, 2);
    assert_eq!((trial.open_until, trial.retry_after, trial.attempts), (None, None, 1));
    let change = breakers.newest("due").await;
    assert_eq!((change.from_state(), change.to_state()), (State::Open, State::HalfOpen));
    assert_eq!(change.reason(), TransitionReason::OpenElapsed);
    assert!(millis(change.transition_time) >= millis(open.open_until));
    assert_eq!(change.open_until, None);
}

async fn without_trial_calls_it_closes_when_due(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("no-trial", trial_of(0)).await;
    let permit = breakers.begin_trial("no-trial").await;
    assert_eq!((permit.generation, permit.lease_id.as_str(), permit.lease), (2, "", None));
    let closed = breakers.get("no-trial").await;
    assert_stands(&closed, State::Closed, 2);
    assert_eq!((closed.attempts, closed.calls), (0, 0));
    assert_eq!(breakers.newest("no-trial").await.reason(), TransitionReason::OpenElapsed);
    assert_did(&breakers.tell(&permit, Failure).await, Applied);
}

/// How long a breaker that just opened stays so, in ms.
fn open_time(open: &Breaker) -> i64 {
    assert_eq!(open.state(), State::Open, "{open:?}");
    millis(open.open_until) - millis(open.since)
}

async fn each_open_time_in_a_row_is_longer_up_to_the_longest(on: &Deployment) {
    let breakers = on.breakers();
    let settings = BreakerSettings {
        open_duration: Some(wire(Duration::from_millis(10))),
        backoff_multiplier: 3.0,
        max_open_duration: Some(wire(Duration::from_millis(80))),
        ..in_a_row(1)
    };
    breakers.set("backoff", settings).await;
    let mut open = after(breakers.tell_all("backoff", &[Failure]).await);
    for (attempts, expected) in [(1, 10), (2, 30), (3, 80), (4, 80)] {
        assert_eq!((open.attempts, open_time(&open)), (attempts, expected));
        let trial =
            breakers.ask_until("backoff", "it is due", |answer| answer.admitted).await.permit.unwrap();
        open = after(breakers.tell(&trial, Timeout).await);
        let change = breakers.newest("backoff").await;
        assert_eq!((change.reason(), change.outcome()), (TransitionReason::TrialFailed, Timeout));
    }
    let trial = breakers.ask_until("backoff", "it is due", |answer| answer.admitted).await.permit.unwrap();
    let closed = after(breakers.tell(&trial, Success).await);
    assert_eq!((closed.state(), closed.attempts), (State::Closed, 0));
    let open = after(breakers.tell_all("backoff", &[Failure]).await);
    assert_eq!((open.attempts, open_time(&open)), (1, 10), "it begins again");
}

async fn an_open_time_varies_by_chance_within_its_bounds(on: &Deployment) {
    let breakers = on.breakers();
    let mut times = Vec::new();
    for n in 0..8 {
        let key = format!("jitter-{n}");
        breakers.set(&key, BreakerSettings { jitter_percent: 10.0, ..in_a_row(1) }).await;
        times.push(open_time(&after(breakers.tell_all(&key, &[Failure]).await)));
    }
    assert!(times.iter().all(|time| (54_000..=66_000).contains(time)), "{times:?}");
    assert!(times.iter().any(|time| *time != times[0]), "{times:?}");
}

fn wishing(report: ReportRequest, pause: Duration) -> ReportRequest {
    ReportRequest { retry_after: Some(wire(pause)), ..report }
}

async fn wish(breakers: &Breakers, permit: &Permit, seconds: u64) -> ReportResponse {
    let report = wishing(telling(permit, RateLimited), Duration::from_secs(seconds));
    breakers.report(report).await.expect("the report is taken")
}

async fn a_providers_wish_for_a_pause_opens_at_once(on: &Deployment) {
    let breakers = on.breakers();
    for outcome in [RateLimited, Overloaded, QuotaExhausted] {
        let key = format!("pause-{}", outcome.as_str_name());
        let report = wishing(unpermitted(&key, outcome), Duration::from_secs(7));
        let open = after(breakers.report(report).await.unwrap());
        assert_eq!(open_time(&open), 7000, "{key}");
        let change = breakers.newest(&key).await;
        assert_eq!((change.reason(), change.outcome()), (TransitionReason::RetryAfter, outcome));
    }
    // Of other outcomes the time is not the provider's wish, and none is no wish.
    let reports = [
        wishing(unpermitted("no-pause", Failure), Duration::from_secs(7)),
        wishing(unpermitted("no-pause", Success), Duration::from_secs(7)),
        wishing(unpermitted("no-pause", RateLimited), Duration::ZERO),
        unpermitted("no-pause", RateLimited),
    ];
    for report in reports {
        assert_eq!(after(breakers.report(report).await.unwrap()).state(), State::Closed);
    }
}

async fn a_wish_is_capped_and_counts_only_where_it_is_honored(on: &Deployment) {
    let breakers = on.breakers();
    let capped = BreakerSettings { max_retry_after: Some(wire(Duration::from_secs(2))), ..in_a_row(5) };
    breakers.set("capped", capped).await;
    let permits = [breakers.permit("capped").await, breakers.permit("capped").await];
    let open = after(wish(&breakers, &permits[0], 86_400 * 30).await);
    assert_eq!(open_time(&open), 2000);
    let later = after(wish(&breakers, &permits[1], 86_400).await);
    let left = millis(later.open_until) - millis(open.since);
    let newest = breakers.newest("capped").await;
    assert_eq!(
        left,
        2000 + millis(newest.transition_time) - millis(open.since),
        "counted from the late report"
    );

    breakers.set("not-honored", BreakerSettings { honor_retry_after: Some(false), ..in_a_row(2) }).await;
    let permit = breakers.permit("not-honored").await;
    assert_eq!(after(wish(&breakers, &permit, 300).await).state(), State::Closed);
    let open = after(wish(&breakers, &permit, 300).await);
    assert_eq!(open_time(&open), 60_000, "by its rule");
    assert_did(&wish(&breakers, &permit, 300).await, Stale);
    assert_eq!(breakers.history("not-honored").await.len(), 1);
}

async fn the_longest_of_rule_and_wish_counts(on: &Deployment) {
    let breakers = on.breakers();
    for (key, pause, expected) in [("short-wish", 5, 60_000), ("long-wish", 300, 300_000)] {
        breakers.set(key, in_a_row(1)).await;
        let permit = breakers.permit(key).await;
        assert_eq!(open_time(&after(wish(&breakers, &permit, pause).await)), expected);
        assert_eq!(breakers.newest(key).await.reason(), TransitionReason::ConsecutiveFailures);
    }
}

async fn late_wishes_of_the_calls_that_led_here_extend_the_open_time(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("late", in_a_row(5)).await;
    breakers.tell_all("late", &[Success]).await;
    let permit = breakers.permit("late").await;
    let open = after(wish(&breakers, &permit, 10).await);
    assert_eq!(open_time(&open), 10_000);

    let answer = wish(&breakers, &permit, 100).await;
    assert_did(&answer, Stale);
    let longer = after(answer);
    assert_stands(&longer, State::Open, 2);
    assert_eq!((longer.attempts, longer.since, longer.calls), (1, open.since, open.calls));
    let change: Transition = breakers.newest("late").await;
    assert_eq!((change.reason(), change.outcome()), (TransitionReason::Extended, RateLimited));
    assert_eq!((change.from_state(), change.to_state()), (State::Open, State::Open));
    assert_eq!(change.open_until, longer.open_until);
    assert_eq!(millis(change.open_until) - millis(change.transition_time), 100_000);

    // Shorter ones change nothing, nor do those of other outcomes.
    for answer in [wish(&breakers, &permit, 50).await, breakers.tell(&permit, RateLimited).await] {
        assert_did(&answer, Stale);
        assert_stands(&after(answer), State::Open, 2);
    }
    let failure = wishing(telling(&permit, Failure), Duration::from_mins(9));
    assert_stands(&after(breakers.report(failure).await.unwrap()), State::Open, 2);
    assert_stands(&after(wish(&breakers, &permit, 200).await), State::Open, 3);

    // Of an earlier time it did not lead here.
    breakers.reset("late").await;
    breakers.tell_all("late", &[Failure; 5]).await;
    assert_did(&wish(&breakers, &permit, 500).await, Stale);
    assert_eq!(open_time(&breakers.get("late").await), 60_000);
}

async fn a_wish_in_a_trial_opens_again(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("tried", trial_of(3)).await;
    let trial = breakers.begin_trial("tried").await;
    let other = breakers.permit("tried").await;
    let open = after(wish(&breakers, &trial, 200).await);
    assert_eq!((open.attempts, open_time(&open)), (2, 200_000));
    // The other call of that trial led here as well.
    assert_did(&wish(&breakers, &other, 300).await, Stale);
    let longer = breakers.newest("tried").await;
    assert_eq!(longer.reason(), TransitionReason::Extended);
    assert_eq!(millis(longer.open_until) - millis(longer.transition_time), 300_000);
}
