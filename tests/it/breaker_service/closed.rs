//! CLOSED: what counts, and each rule that opens.

use std::time::Duration;

use fusewire::grpc::proto::{
    BreakerSettings,
    Disposition::{Applied, Neutral, Stale},
    Outcome::{
        self, Cancelled, Failure, InvalidRequest, Overloaded, QuotaExhausted, RateLimited, Success, Timeout,
        Unauthenticated,
    },
    Permit, ReportRequest, State, TransitionReason,
    breaker_settings::Window,
};

use crate::support::{
    breakers::{
        Breakers, SOON, after, assert_did, assert_stands, counts, half_of_the_last, in_a_row, length,
        telling, unpermitted,
    },
    deployment::{Deployment, on_every_store_and_on_a_pair},
    eventually::eventually,
    threads::{millis, wire},
};

on_every_store_and_on_a_pair!(
    calls_count_from_the_first_report_on,
    failures_in_a_row_open,
    a_share_of_the_last_calls_opens,
    a_share_of_a_small_window_needs_no_more_calls_than_it_holds,
    calls_leave_a_time_window,
    a_share_of_a_time_window_opens,
    a_share_of_slow_calls_opens_even_on_a_success,
    neutral_outcomes_neither_count_nor_end_a_row,
    every_outcome_against_the_model_counts,
    a_status_of_http_is_an_outcome,
    an_outcome_wins_over_a_status,
    a_permit_of_another_epoch_or_generation_is_stale_and_changes_nothing,
    a_permit_from_before_the_first_report_stays_current_until_the_breaker_changes,
);

async fn calls_count_from_the_first_report_on(on: &Deployment) {
    let breakers = on.breakers();
    let answer = breakers.ask("first").await;
    assert_eq!(
        (answer.admitted, answer.state(), answer.reason, answer.retry_after),
        (true, State::Closed, 0, None)
    );
    let permit = answer.permit.unwrap();
    let expected = Permit { model_key: "first".into(), ..Default::default() };
    assert_eq!(permit, expected, "nothing is stored of a key never reported");

    let answer = breakers.tell(&permit, Success).await;
    assert_did(&answer, Applied);
    let first = after(answer);
    assert_stands(&first, State::Closed, 0);
    assert_eq!(counts(&first), (1, 0, 0, 0));
    assert!(!first.epoch.is_empty() && first.since.is_some());
    assert_eq!((first.settings, first.last_transition), (None, None));

    let second = after(breakers.tell(&permit, Failure).await);
    assert_eq!(counts(&second), (2, 1, 0, 1));
    assert_eq!((&second.epoch, second.since), (&first.epoch, first.since));
    // The default policy judges rates over ten calls at least.
    assert_eq!((second.failure_rate_percent, second.slow_rate_percent), (None, None));
    let told = breakers.permit("first").await;
    assert_eq!((told.epoch, told.generation, told.lease_id), (first.epoch, 0, String::new()));
    breakers.tell_all("first", &[Success; 8]).await;
    let tenth = breakers.get("first").await;
    assert_eq!((tenth.failure_rate_percent, tenth.slow_rate_percent), (Some(10.0), Some(0.0)));
}

async fn failures_in_a_row_open(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("row", in_a_row(3)).await;
    let closed = after(breakers.tell_all("row", &[Failure, Timeout, Success, Failure, Failure]).await);
    assert_stands(&closed, State::Closed, 0);
    assert_eq!(counts(&closed), (5, 4, 0, 2));

    let permit = breakers.permit("row").await;
    let last = ReportRequest { detail: "overheated".into(), ..telling(&permit, Unauthenticated) };
    let answer = breakers.report(last).await.unwrap();
    assert_did(&answer, Applied);
    let open = after(answer);
    assert_stands(&open, State::Open, 1);
    assert_eq!((open.attempts, open.epoch == closed.epoch), (1, true));
    assert_eq!(counts(&open), (6, 5, 0, 3), "what opened it");
    assert_eq!(millis(open.open_until) - millis(open.since), 60_000);

    let history = breakers.history("row").await;
    assert_eq!(history.len(), 1);
    let change = &history[0];
    assert_eq!((change.from_state(), change.to_state()), (State::Closed, State::Open));
    assert_eq!((change.reason(), change.outcome()), (TransitionReason::ConsecutiveFailures, Unauthenticated));
    assert_eq!((change.detail.as_str(), change.actor.as_str(), change.generation), ("overheated", "", 1));
    assert_eq!((change.transition_time, change.open_until), (open.since, open.open_until));
    assert_eq!((change.model_key.as_str(), &change.epoch), ("row", &open.epoch));
    assert!(!change.instance_id.is_empty());
    assert_eq!(breakers.newest("row").await, *change);
}

async fn a_share_of_the_last_calls_opens(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("last-four", half_of_the_last(4)).await;
    // Two failures, but no four calls.
    let few = after(breakers.tell_all("last-four", &[Failure, Success, Failure]).await);
    assert_stands(&few, State::Closed, 0);
    assert_eq!(few.failure_rate_percent, None);
    breakers.set("last-six", half_of_the_last(6)).await;
    let six = [Failure, Success, Success, Success, Failure, Success];
    let closed = after(breakers.tell_all("last-six", &six).await);
    assert_stands(&closed, State::Closed, 0);
    assert_eq!(closed.failure_rate_percent.map(f64::round), Some(33.0));
    // The oldest call leaves: it was a failure.
    let slid = after(breakers.tell_all("last-six", &[Failure, Success]).await);
    assert_eq!(counts(&slid), (6, 2, 0, 0));
    let open = after(breakers.tell_all("last-six", &[Failure]).await);
    assert_stands(&open, State::Open, 1);
    assert_eq!((counts(&open), open.failure_rate_percent), ((6, 3, 0, 1), Some(50.0)));
    assert_eq!(breakers.newest("last-six").await.reason(), TransitionReason::FailureRate);
}

async fn a_share_of_a_small_window_needs_no_more_calls_than_it_holds(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("two", BreakerSettings { minimum_calls: 10, ..half_of_the_last(2) }).await;
    assert_stands(&after(breakers.tell_all("two", &[Failure]).await), State::Closed, 0);
    assert_stands(&after(breakers.tell_all("two", &[Success]).await), State::Open, 1);
}

fn over(time: Duration) -> BreakerSettings {
    BreakerSettings { window: Some(Window::TimeWindow(wire(time))), ..half_of_the_last(1) }
}

async fn calls_leave_a_time_window(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("ageing", over(Duration::from_secs(1))).await;
    breakers.tell_all("ageing", &[Failure, Failure, Success]).await;
    eventually("the calls leave the window", SOON, async || breakers.get("ageing").await.calls == 0).await;
    let alone = after(breakers.tell_all("ageing", &[Failure]).await);
    assert_stands(&alone, State::Closed, 0);
    assert_eq!((alone.calls, alone.failures), (1, 1));
}

async fn a_share_of_a_time_window_opens(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("hour", over(Duration::from_hours(1))).await;
    let closed = after(breakers.tell_all("hour", &[Failure, Failure, Success]).await);
    assert_stands(&closed, State::Closed, 0);
    let open = after(breakers.tell_all("hour", &[Success]).await);
    assert_stands(&open, State::Open, 1);
    assert_eq!(counts(&open), (4, 2, 0, 0));
    assert_eq!(breakers.newest("hour").await.reason(), TransitionReason::FailureRate);
}

async fn a_share_of_slow_calls_opens_even_on_a_success(on: &Deployment) {
    let breakers = on.breakers();
    let settings = BreakerSettings {
        slow_call_duration: Some(wire(Duration::from_millis(100))),
        slow_rate_percent: 50.0,
        failure_rate_percent: 0.0,
        ..half_of_the_last(4)
    };
    breakers.set("slow", settings).await;
    let took = async |millis: Option<u64>, outcome| {
        let duration = millis.map(|millis| wire(Duration::from_millis(millis)));
        after(breakers.report(ReportRequest { duration, ..unpermitted("slow", outcome) }).await.unwrap())
    };
    took(Some(100), Success).await;
    took(None, Failure).await;
    let one = took(Some(101), Failure).await;
    assert_eq!((one.state(), counts(&one)), (State::Closed, (3, 2, 1, 2)));
    let two = took(Some(9000), Success).await;
    assert_stands(&two, State::Open, 1);
    assert_eq!((counts(&two), two.slow_rate_percent), ((4, 2, 2, 0), Some(50.0)));
    let change = breakers.newest("slow").await;
    assert_eq!((change.reason(), change.outcome()), (TransitionReason::SlowRate, Success));
}

async fn neutral_outcomes_neither_count_nor_end_a_row(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("neutral", in_a_row(2)).await;
    breakers.tell_all("neutral", &[Failure]).await;
    for outcome in [Cancelled, InvalidRequest] {
        let answer = breakers.tell_all("neutral", &[outcome]).await;
        assert_did(&answer, Neutral);
        assert_eq!(counts(&after(answer)), (1, 1, 0, 1));
    }
    assert_stands(&after(breakers.tell_all("neutral", &[Failure]).await), State::Open, 1);
}

async fn every_outcome_against_the_model_counts(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("against", in_a_row(7)).await;
    let against = [Failure, Timeout, RateLimited, Overloaded, QuotaExhausted, Unauthenticated];
    assert_eq!(counts(&after(breakers.tell_all("against", &against).await)), (6, 6, 0, 6));
}

/// The outcome that a status of HTTP is, and one status at each end of its range.
const STATUSES: [(i32, Outcome); 27] = [
    (100, Failure),
    (199, Failure),
    (200, Success),
    (299, Success),
    (300, Failure),
    (399, Failure),
    (400, InvalidRequest),
    (401, Unauthenticated),
    (402, QuotaExhausted),
    (403, Unauthenticated),
    (404, InvalidRequest),
    (407, InvalidRequest),
    (408, Timeout),
    (409, InvalidRequest),
    (428, InvalidRequest),
    (429, RateLimited),
    (430, InvalidRequest),
    (498, InvalidRequest),
    (499, Cancelled),
    (500, Failure),
    (502, Failure),
    (503, Overloaded),
    (504, Timeout),
    (505, Failure),
    (528, Failure),
    (529, Overloaded),
    (599, Failure),
];

async fn a_status_of_http_is_an_outcome(on: &Deployment) {
    let breakers = on.breakers();
    for (http_status, expected) in STATUSES {
        let key = format!("http-{http_status}");
        breakers.set(&key, in_a_row(1)).await;
        let answer = breakers
            .report(ReportRequest { http_status, ..unpermitted(&key, Outcome::Unspecified) })
            .await
            .unwrap();
        let is_neutral = matches!(expected, Cancelled | InvalidRequest);
        assert_did(&answer, if is_neutral { Neutral } else { Applied });
        let breaker = after(answer);
        if is_neutral || expected == Success {
            assert_eq!(
                (breaker.state(), breaker.calls),
                (State::Closed, i64::from(!is_neutral)),
                "{http_status}"
            );
        } else {
            assert_eq!(breaker.state(), State::Open, "{http_status}");
            assert_eq!(breakers.newest(&key).await.outcome(), expected, "{http_status}");
        }
    }
}

async fn an_outcome_wins_over_a_status(on: &Deployment) {
    let breakers = on.breakers();
    let report = ReportRequest { http_status: 500, ..unpermitted("both", Success) };
    assert_eq!(counts(&after(breakers.report(report).await.unwrap())), (1, 0, 0, 0));
}

/// Reports each permit with each kind of outcome: none counts.
async fn assert_stale(breakers: &Breakers, permits: &[Permit]) {
    let key = permits[0].model_key.clone();
    let before = breakers.get(&key).await;
    for permit in permits {
        for outcome in [Success, Failure, Cancelled] {
            let answer = breakers.tell(permit, outcome).await;
            assert_did(&answer, Stale);
        }
    }
    let now = breakers.get(&key).await;
    assert_eq!((now.generation, counts(&now)), (before.generation, counts(&before)));
}

async fn a_permit_of_another_epoch_or_generation_is_stale_and_changes_nothing(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("stale", in_a_row(2)).await;
    breakers.tell_all("stale", &[Success]).await;
    let old = breakers.permit("stale").await;
    let elsewhere = Permit { epoch: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), ..old.clone() };
    let ahead = Permit { generation: 1, ..old.clone() };
    let leased = Permit { lease_id: "never-given".into(), ..old.clone() };
    assert_stale(&breakers, &[elsewhere.clone(), ahead, leased]).await;
    breakers.tell_all("stale", &[Failure, Failure]).await;
    // OPEN takes no results, then CLOSED takes none from before.
    assert_stale(&breakers, std::slice::from_ref(&old)).await;
    breakers.reset("stale").await;
    let unborn = Permit { epoch: String::new(), ..old.clone() };
    assert_stale(&breakers, &[old, unborn, elsewhere]).await;
    let now = breakers.permit("stale").await;
    assert_did(&breakers.tell(&now, Failure).await, Applied);
}

async fn a_permit_from_before_the_first_report_stays_current_until_the_breaker_changes(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("unborn", in_a_row(3)).await;
    let permit = breakers.permit("unborn").await;
    assert_eq!((permit.epoch.as_str(), permit.generation), ("", 0));
    for run in 1..=2 {
        let answer = breakers.tell(&permit, Failure).await;
        assert_did(&answer, Applied);
        assert_eq!(after(answer).consecutive_failures, run);
    }
    assert_stands(&after(breakers.tell(&permit, Failure).await), State::Open, 1);
    assert_did(&breakers.tell(&permit, Failure).await, Stale);
    assert!(length(breakers.ask("unborn").await.retry_after) > 0);
}
