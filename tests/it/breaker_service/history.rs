//! The kept history of a breaker.

use std::time::Duration;

use fusewire::grpc::proto::{
    ListTransitionsRequest, Mode,
    Outcome::{Failure, Success},
    State::{Closed, HalfOpen, Open},
    Transition,
    TransitionReason::{ConsecutiveFailures, OpenElapsed, Override, Reset, TrialPassed, Tripped},
};
use tonic::Code;

use crate::support::{
    breakers::{Breakers, in_a_row},
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    threads::{assert_refused, told},
};

on_every_store_and_on_a_pair!(
    every_change_is_one_entry_with_the_next_generation,
    pages_go_on_after_a_generation,
    an_epoch_that_is_another_by_now_is_told,
    a_token_of_a_breaker_that_is_gone_is_stale,
    a_token_belongs_to_its_request,
    the_last_thousand_changes_are_kept,
    nothing_is_after_the_last_generation,
);

fn listing(key: &str) -> ListTransitionsRequest {
    ListTransitionsRequest { model_key: key.into(), ..Default::default() }
}

async fn nothing_is_after_the_last_generation(on: &Deployment) {
    let breakers = on.breakers();
    breakers.trip("last", Duration::from_mins(1)).await;
    for after_generation in [1, 100_000_000_000_000, i64::MAX] {
        let request = ListTransitionsRequest { after_generation, ..listing("last") };
        let page = breakers.list_transitions(request).await.expect("a page");
        assert!(page.transitions.is_empty() && page.next_page_token.is_empty(), "{after_generation}");
    }
}

fn generations(transitions: &[Transition]) -> Vec<i64> {
    transitions.iter().map(|transition| transition.generation).collect()
}

async fn every_change_is_one_entry_with_the_next_generation(on: &Deployment) {
    let breakers = on.breakers();
    breakers.set("whole", in_a_row(1)).await;
    breakers.tell_all("whole", &[Success, Failure]).await;
    breakers.trip("whole", Duration::from_millis(1)).await;
    let trial = breakers.ask_until("whole", "it is due", |answer| answer.admitted).await.permit.unwrap();
    breakers.tell(&trial, Success).await;
    breakers.put("whole", Mode::ForcedOpen).await;
    breakers.put("whole", Mode::Automatic).await;
    breakers.reset("whole").await;
    let history = breakers.history("whole").await;
    assert_eq!(generations(&history), (1..=7).collect::<Vec<_>>());
    let reasons: Vec<_> = history.iter().map(Transition::reason).collect();
    assert_eq!(reasons, [ConsecutiveFailures, Tripped, OpenElapsed, TrialPassed, Override, Override, Reset]);
    let states: Vec<_> = history.iter().map(Transition::to_state).collect();
    assert_eq!(states, [Open, Open, HalfOpen, Closed, Closed, Closed, Closed]);
    for (before, after) in history.iter().zip(&history[1..]) {
        assert_eq!((after.from_state(), &after.epoch), (before.to_state(), &before.epoch));
    }
    assert_eq!(history.iter().filter(|one| one.open_until.is_some()).count(), 2);
    assert_eq!(breakers.newest("whole").await, history[6]);
}

async fn reset_times(breakers: &Breakers, key: &str, times: usize) {
    for _ in 0..times {
        breakers.reset(key).await;
    }
}

async fn pages_go_on_after_a_generation(on: &Deployment) {
    let breakers = on.breakers();
    reset_times(&breakers, "paged", 10).await;
    let list = async |after_generation, page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        let request = ListTransitionsRequest { after_generation, page_size, page_token, ..listing("paged") };
        let page = breakers.list_transitions(request).await.unwrap();
        (generations(&page.transitions), page.next_page_token)
    };
    assert_eq!(list(0, 0, "").await, ((1..=10).collect(), String::new()));
    assert_eq!(list(7, 3, "").await, (vec![8, 9, 10], String::new()));
    assert_eq!(list(10, 0, "").await, (vec![], String::new()));
    assert_eq!(list(99, 0, "").await, (vec![], String::new()));
    let (first, token) = list(2, 4, "").await;
    assert_eq!(first, [3, 4, 5, 6]);
    breakers.reset("paged").await;
    let (second, token) = list(2, 4, &token).await;
    assert_eq!(second, [7, 8, 9, 10]);
    assert_eq!(list(2, 4, &token).await, (vec![11], String::new()));
}

async fn an_epoch_that_is_another_by_now_is_told(on: &Deployment) {
    let breakers = on.breakers();
    reset_times(&breakers, "epochs", 3).await;
    let epoch = breakers.get("epochs").await.epoch;
    let of = |epoch: &str| ListTransitionsRequest {
        epoch: epoch.into(),
        after_generation: 1,
        ..listing("epochs")
    };
    let page = breakers.list_transitions(of(&epoch)).await.unwrap();
    assert_eq!(generations(&page.transitions), [2, 3]);
    let refused = async |request| {
        let outcome = breakers.list_transitions(request).await;
        told(&assert_refused(outcome, Code::OutOfRange, "EPOCH_MISMATCH"), "epoch")
    };
    assert_eq!(refused(of("another")).await, epoch);
    breakers.delete("epochs").await;
    assert_eq!(refused(of(&epoch)).await, "", "there is none");
    reset_times(&breakers, "epochs", 1).await;
    let new = breakers.get("epochs").await.epoch;
    assert_eq!(refused(of(&epoch)).await, new);
    assert_ne!(new, epoch);
}

async fn a_token_of_a_breaker_that_is_gone_is_stale(on: &Deployment) {
    let breakers = on.breakers();
    for epoch_is_given in [false, true] {
        reset_times(&breakers, "stale", 5).await;
        let epoch = if epoch_is_given { breakers.get("stale").await.epoch } else { String::new() };
        let request = ListTransitionsRequest { page_size: 2, epoch, ..listing("stale") };
        let page_token = breakers.list_transitions(request.clone()).await.unwrap().next_page_token;
        let next = ListTransitionsRequest { page_token, ..request };
        assert_eq!(generations(&breakers.list_transitions(next.clone()).await.unwrap().transitions), [3, 4]);
        breakers.delete("stale").await;
        assert_refused(breakers.list_transitions(next.clone()).await, Code::Aborted, "TOKEN_STALE");
        reset_times(&breakers, "stale", 5).await;
        assert_refused(breakers.list_transitions(next).await, Code::Aborted, "TOKEN_STALE");
    }
}

async fn a_token_belongs_to_its_request(on: &Deployment) {
    let breakers = on.breakers();
    reset_times(&breakers, "bound", 3).await;
    let epoch = breakers.get("bound").await.epoch;
    let request = ListTransitionsRequest { page_size: 1, ..listing("bound") };
    let page_token = breakers.list_transitions(request.clone()).await.unwrap().next_page_token;
    let request = ListTransitionsRequest { page_token, ..request };
    for other in [
        ListTransitionsRequest { model_key: "other".into(), ..request.clone() },
        ListTransitionsRequest { after_generation: 1, ..request.clone() },
        ListTransitionsRequest { epoch, ..request.clone() },
        ListTransitionsRequest { page_token: "garbage".into(), ..request },
    ] {
        assert_refused(breakers.list_transitions(other).await, Code::InvalidArgument, "TOKEN_MISMATCH");
    }
}

async fn the_last_thousand_changes_are_kept(on: &Deployment) {
    let breakers = on.breakers();
    for _ in 0..502 {
        breakers.trip("thousand", Duration::from_mins(1)).await;
        breakers.reset("thousand").await;
    }
    breakers.trip("thousand", Duration::from_mins(1)).await;
    let history = breakers.history("thousand").await;
    assert_eq!(generations(&history), (6..=1005).collect::<Vec<_>>());
    let request = ListTransitionsRequest { page_size: 5000, ..listing("thousand") };
    let page = breakers.list_transitions(request).await.unwrap();
    assert_eq!((page.transitions.len(), page.next_page_token.as_str()), (1000, ""));
    let default = breakers.list_transitions(listing("thousand")).await.unwrap();
    assert_eq!((default.transitions.len(), default.next_page_token.is_empty()), (50, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_has_another_epoch_and_tokens_from_before_are_stale() {
    let on = Deployment::start(Store::Pair).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    reset_times(&breakers, "flushed", 5).await;
    let old = breakers.get("flushed").await.epoch;
    let request = ListTransitionsRequest { page_size: 2, ..listing("flushed") };
    let page_token = breakers.list_transitions(request.clone()).await.unwrap().next_page_token;
    raw.run(&["FLUSHALL"]).await;
    assert_eq!(breakers.get("flushed").await.epoch, "");
    reset_times(&breakers, "flushed", 2).await;
    let new = breakers.get("flushed").await;
    assert!(new.epoch != old && !new.epoch.is_empty());
    assert_eq!(generations(&breakers.history("flushed").await), [1, 2]);
    for (page_token, code, reason) in
        [(page_token, Code::Aborted, "TOKEN_STALE"), (String::new(), Code::OutOfRange, "EPOCH_MISMATCH")]
    {
        let epoch = if page_token.is_empty() { old.clone() } else { String::new() };
        let request = ListTransitionsRequest { page_token, epoch, ..request.clone() };
        assert_refused(breakers.list_transitions(request).await, code, reason);
    }
}
