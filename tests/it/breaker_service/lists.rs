//! Reads: one breaker, lists of them, and that neither changes anything.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    Breaker, GetBreakerRequest, ListBreakersRequest, ListTransitionsRequest, Mode,
    Outcome::{Failure, Success},
    State,
};
use tonic::Code;

use super::contents;
use crate::support::{
    breakers::{Breakers, assert_stands, trial_of},
    deployment::{Deployment, Store, on_every_store_and_on_a_pair},
    threads::{assert_refused, violated},
};

on_every_store_and_on_a_pair!(
    a_key_never_seen_is_closed_and_stays_unknown,
    reads_change_nothing,
    a_list_is_by_key_and_holds_what_is_in_use,
    a_list_can_be_of_a_prefix_and_of_states,
    pages_walk_without_repeats_while_breakers_come_and_go,
    a_token_of_another_list_is_refused,
    lists_are_checked,
);

fn listing(prefix: &str) -> ListBreakersRequest {
    ListBreakersRequest { prefix: prefix.into(), ..Default::default() }
}

/// Follows page tokens to the end.
async fn walk(breakers: &Breakers, mut request: ListBreakersRequest) -> Vec<Breaker> {
    let mut found = Vec::new();
    loop {
        let page = breakers.list_breakers(request.clone()).await.expect("the breakers are listed");
        found.extend(page.breakers);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

fn keys(breakers: &[Breaker]) -> Vec<&str> {
    breakers.iter().map(|breaker| breaker.model_key.as_str()).collect()
}

async fn a_key_never_seen_is_closed_and_stays_unknown(on: &Deployment) {
    let breakers = on.breakers();
    let before = if on.redis.is_some() { contents(&on.raw().await).await } else { BTreeMap::new() };
    for _ in 0..2 {
        let unknown = breakers.get("unseen").await;
        assert_stands(&unknown, State::Closed, 0);
        assert_eq!((unknown.epoch.as_str(), unknown.since, unknown.mode()), ("", None, Mode::Automatic));
        assert!(unknown.settings.is_some() && unknown.last_transition.is_none());
        assert!(breakers.ask("unseen").await.admitted);
        assert_eq!(breakers.history("unseen").await, []);
        assert_eq!(walk(&breakers, listing("unseen")).await, []);
    }
    if on.redis.is_some() {
        assert_eq!(contents(&on.raw().await).await, before, "a permit in CLOSED is no write either");
    }
}

async fn reads_change_nothing(on: &Deployment) {
    let breakers = on.breakers();
    breakers.tell_all("read-closed", &[Failure, Success]).await;
    breakers.trip("read-open", Duration::from_hours(1)).await;
    breakers.trip("read-due", Duration::from_millis(1)).await;
    breakers.put("read-forced", Mode::ForcedOpen).await;
    breakers.set("read-trial", trial_of(2)).await;
    breakers.begin_trial("read-trial").await;
    let read = async || {
        let mut told = walk(&breakers, listing("read-")).await;
        for key in ["read-closed", "read-open", "read-due", "read-forced", "read-trial"] {
            told.push(breakers.get(key).await);
            breakers.history(key).await;
        }
        for breaker in &mut told {
            breaker.retry_after = None;
        }
        told
    };
    let first = read().await;
    let before = if on.redis.is_some() { contents(&on.raw().await).await } else { BTreeMap::new() };
    for _ in 0..3 {
        assert_eq!(read().await, first);
    }
    if on.redis.is_some() {
        assert_eq!(contents(&on.raw().await).await, before);
    }
}

async fn a_list_is_by_key_and_holds_what_is_in_use(on: &Deployment) {
    let breakers = on.breakers();
    breakers.tell_all("use/c", &[Success]).await;
    breakers.trip("use/a", Duration::from_hours(1)).await;
    breakers.put("use/B", Mode::Disabled).await;
    // Neither settings nor permits alone are a breaker in use.
    breakers.set("use/settings", trial_of(1)).await;
    breakers.permit("use/permit").await;
    let listed = walk(&breakers, listing("use/")).await;
    assert_eq!(keys(&listed), ["use/B", "use/a", "use/c"]);
    for breaker in listed {
        let read = breakers.get(&breaker.model_key).await;
        let expected = Breaker { settings: None, last_transition: None, ..read };
        let without_time = |breaker: Breaker| Breaker { retry_after: None, rejected_calls: 0, ..breaker };
        assert_eq!(without_time(breaker), without_time(expected));
    }
    breakers.delete("use/a").await;
    assert_eq!(keys(&walk(&breakers, listing("use/")).await), ["use/B", "use/c"]);
}

async fn a_list_can_be_of_a_prefix_and_of_states(on: &Deployment) {
    let breakers = on.breakers();
    for n in 0..4 {
        breakers.tell_all(&format!("state:{n}"), &[Success]).await;
    }
    breakers.trip("state:1", Duration::from_hours(1)).await;
    breakers.trip("state:3", Duration::from_hours(1)).await;
    breakers.set("state:2", trial_of(1)).await;
    breakers.begin_trial("state:2").await;
    let of = async |prefix: &str, states: &[State]| {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let listed = walk(&breakers, ListBreakersRequest { states, page_size: 1, ..listing(prefix) }).await;
        listed.into_iter().map(|breaker| breaker.model_key).collect::<Vec<_>>()
    };
    assert_eq!(of("state:", &[]).await.len(), 4);
    assert_eq!(of("state:", &[State::Open]).await, ["state:1", "state:3"]);
    assert_eq!(of("state:", &[State::HalfOpen, State::Closed]).await, ["state:0", "state:2"]);
    assert_eq!(of("state:3", &[State::Open]).await, ["state:3"]);
    assert_eq!(of("state:*", &[]).await, [""; 0], "a prefix is no pattern");
    assert_eq!(of("State", &[]).await, [""; 0]);
    assert!(of("", &[]).await.len() >= 4);
}

async fn pages_walk_without_repeats_while_breakers_come_and_go(on: &Deployment) {
    let breakers = on.breakers();
    for n in 0..25 {
        breakers.tell_all(&format!("page:{n:02}"), &[Success]).await;
    }
    let page = async |page_token: String| {
        let request = ListBreakersRequest { page_size: 7, page_token, ..listing("page:") };
        breakers.list_breakers(request).await.unwrap()
    };
    let first = page(String::new()).await;
    assert_eq!(keys(&first.breakers), (0..7).map(|n| format!("page:{n:02}")).collect::<Vec<_>>());
    // The one that the token names goes, so does one before and one ahead; others come.
    for gone in ["page:06", "page:00", "page:09"] {
        breakers.delete(gone).await;
    }
    breakers.tell_all("page:05a", &[Success]).await;
    breakers.tell_all("page:11a", &[Success]).await;
    let rest = ListBreakersRequest { page_size: 7, page_token: first.next_page_token, ..listing("page:") };
    let rest = walk(&breakers, rest).await;
    let mut expected: Vec<_> = (7..25).filter(|n| *n != 9).map(|n| format!("page:{n:02}")).collect();
    expected.insert(4, "page:11a".into());
    assert_eq!(keys(&rest), expected);
    // A page that is full exactly is the last.
    let request = ListBreakersRequest { page_size: 24, ..listing("page:") };
    let whole = breakers.list_breakers(request).await.unwrap();
    assert_eq!((whole.breakers.len(), whole.next_page_token.as_str()), (24, ""));
}

async fn a_token_of_another_list_is_refused(on: &Deployment) {
    let breakers = on.breakers();
    for n in 0..3 {
        breakers.tell_all(&format!("token:{n}"), &[Success]).await;
    }
    let request = ListBreakersRequest { page_size: 1, ..listing("token:") };
    let page_token = breakers.list_breakers(request.clone()).await.unwrap().next_page_token;
    let states = vec![State::Closed.into()];
    for other in [
        ListBreakersRequest { page_token: page_token.clone(), ..listing("token") },
        ListBreakersRequest { page_token: page_token.clone(), states, ..request.clone() },
        ListBreakersRequest { page_token: "garbage".into(), ..request.clone() },
    ] {
        assert_refused(breakers.list_breakers(other).await, Code::InvalidArgument, "TOKEN_MISMATCH");
    }
    // The size of a page may change on the way.
    let rest = ListBreakersRequest { page_token, page_size: 50, ..request };
    assert_eq!(keys(&walk(&breakers, rest).await), ["token:1", "token:2"]);
}

async fn lists_are_checked(on: &Deployment) {
    let breakers = on.breakers();
    for (request, field) in [
        (listing("a b"), "prefix"),
        (listing("{"), "prefix"),
        (listing(&"k".repeat(257)), "prefix"),
        (ListBreakersRequest { page_size: -1, ..listing("") }, "page_size"),
        (ListBreakersRequest { states: vec![State::Open.into(), 0], ..listing("") }, "states[1]"),
        (ListBreakersRequest { states: vec![9], ..listing("") }, "states[0]"),
    ] {
        let outcome = breakers.list_breakers(request).await;
        assert_eq!(violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")), [field]);
    }
    let get = GetBreakerRequest { model_key: String::new(), ..Default::default() };
    assert_refused(breakers.get_breaker(get).await, Code::InvalidArgument, "INVALID_FIELDS");
    for request in [
        ListTransitionsRequest { after_generation: -1, model_key: "k".into(), ..Default::default() },
        ListTransitionsRequest { page_size: -1, model_key: "k".into(), ..Default::default() },
        ListTransitionsRequest::default(),
    ] {
        assert_refused(breakers.list_transitions(request).await, Code::InvalidArgument, "INVALID_FIELDS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_vanished_is_listed_no_more_and_taken_off_the_list_after_a_minute() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    for key in ["here", "gone", "long-gone"] {
        breakers.tell_all(key, &[Success]).await;
    }
    raw.run(&["DEL", "circuit_breaker:gone", "circuit_breaker:long-gone"]).await;
    raw.run(&["ZADD", "circuit_breakers", "1000", "long-gone", "1000", "no key of ours {}"]).await;
    for page_size in [1, 50] {
        let listed = walk(&breakers, ListBreakersRequest { page_size, ..listing("") }).await;
        assert_eq!(keys(&listed), ["here"]);
    }
    let left: Vec<String> = raw.get(&["ZRANGE", "circuit_breakers", "0", "-1"]).await;
    // Somebody may be about to make one that was listed just now.
    assert!(left.contains(&"gone".into()) && !left.contains(&"long-gone".into()), "{left:?}");
}
