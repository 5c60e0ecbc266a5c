//! A client of `CircuitBreakers` that reads well in tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fusewire::grpc::proto::{
    AcquireFirstRequest, AcquireFirstResponse, AcquireRequest, AcquireResponse, Admission, Breaker,
    BreakerSettings, ConfigureBreakerRequest, ConfigureBreakerResponse, DeleteBreakerRequest,
    DeleteBreakerResponse, Disposition, GetBreakerRequest, GetBreakerResponse, ListBreakersRequest,
    ListBreakersResponse, ListTransitionsRequest, ListTransitionsResponse, Mode, Outcome,
    OverrideBreakerRequest, OverrideBreakerResponse, Permit, RenewPermitRequest, RenewPermitResponse,
    ReportRequest, ReportResponse, ResetBreakerRequest, ResetBreakerResponse, State, Transition,
    TripBreakerRequest, TripBreakerResponse, breaker_settings::Window,
    circuit_breakers_client::CircuitBreakersClient,
};
use tonic::{Status, transport::Channel};

use super::{eventually::eventually, threads::wire};

/// Far above what any change takes, for a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Clients of one or more services, asked in turn.
#[derive(Clone)]
pub(crate) struct Breakers {
    clients: Vec<CircuitBreakersClient<Channel>>,
    calls: Arc<AtomicUsize>,
}

/// Each rpc under its own name: a request in, the answer out.
macro_rules! rpcs {
    ($($rpc:ident: $request:ty => $response:ty),+ $(,)?) => {
        $(pub(crate) async fn $rpc(&self, request: $request) -> Result<$response, Status> {
            Ok(self.client().$rpc(request).await?.into_inner())
        })+
    };
}

impl Breakers {
    pub(crate) fn on(channels: impl IntoIterator<Item = Channel>) -> Self {
        let clients = channels.into_iter().map(CircuitBreakersClient::new).collect();
        Self { clients, calls: Arc::default() }
    }

    /// The client of one of the services alone.
    pub(crate) fn only(&self, index: usize) -> Self {
        let client = self.clients.get(index).expect("there is such a service");
        Self { clients: vec![client.clone()], calls: Arc::default() }
    }

    /// The client whose turn it is.
    pub(crate) fn client(&self) -> CircuitBreakersClient<Channel> {
        let turn = self.calls.fetch_add(1, Ordering::Relaxed);
        self.clients.get(turn % self.clients.len()).expect("a remainder is less").clone()
    }

    rpcs! {
        acquire: AcquireRequest => AcquireResponse,
        acquire_first: AcquireFirstRequest => AcquireFirstResponse,
        renew_permit: RenewPermitRequest => RenewPermitResponse,
        report: ReportRequest => ReportResponse,
        get_breaker: GetBreakerRequest => GetBreakerResponse,
        list_breakers: ListBreakersRequest => ListBreakersResponse,
        configure_breaker: ConfigureBreakerRequest => ConfigureBreakerResponse,
        trip_breaker: TripBreakerRequest => TripBreakerResponse,
        reset_breaker: ResetBreakerRequest => ResetBreakerResponse,
        override_breaker: OverrideBreakerRequest => OverrideBreakerResponse,
        delete_breaker: DeleteBreakerRequest => DeleteBreakerResponse,
        list_transitions: ListTransitionsRequest => ListTransitionsResponse,
    }

    /// Asks whether a model may be called.
    pub(crate) async fn ask(&self, key: &str) -> AcquireResponse {
        self.acquire(asking(key)).await.expect("the question is answered")
    }

    /// Asks, and must be admitted.
    pub(crate) async fn permit(&self, key: &str) -> Permit {
        let answer = self.ask(key).await;
        assert!(answer.admitted, "{answer:?}");
        answer.permit.expect("who is admitted gets a permit")
    }

    /// Tells how a permitted call went.
    pub(crate) async fn tell(&self, permit: &Permit, outcome: Outcome) -> ReportResponse {
        self.report(telling(permit, outcome)).await.expect("the report is taken")
    }

    /// Tells how calls without permit went, one after the other; the answer to the last one.
    pub(crate) async fn tell_all(&self, key: &str, outcomes: &[Outcome]) -> ReportResponse {
        let mut answer = None;
        for outcome in outcomes {
            answer = Some(self.report(unpermitted(key, *outcome)).await.expect("the report is taken"));
        }
        answer.expect("at least one outcome")
    }

    pub(crate) async fn get(&self, key: &str) -> Breaker {
        let request = GetBreakerRequest { model_key: key.to_owned(), ..Default::default() };
        self.get_breaker(request).await.expect("the breaker is read").breaker.expect("a breaker")
    }

    /// Replaces all settings.
    pub(crate) async fn set(&self, key: &str, settings: BreakerSettings) -> Breaker {
        let request = configuring(key, settings);
        self.configure_breaker(request).await.expect("the settings are taken").breaker.expect("a breaker")
    }

    /// Opens a breaker for so long.
    pub(crate) async fn trip(&self, key: &str, open_for: Duration) -> Breaker {
        let request = TripBreakerRequest {
            model_key: key.to_owned(),
            open_for: Some(wire(open_for)),
            ..Default::default()
        };
        self.trip_breaker(request).await.expect("the breaker opens").breaker.expect("a breaker")
    }

    pub(crate) async fn reset(&self, key: &str) -> Breaker {
        let request = ResetBreakerRequest { model_key: key.to_owned(), ..Default::default() };
        self.reset_breaker(request).await.expect("the breaker closes").breaker.expect("a breaker")
    }

    /// Overrides a breaker until it is changed.
    pub(crate) async fn put(&self, key: &str, mode: Mode) -> Breaker {
        let request =
            OverrideBreakerRequest { model_key: key.to_owned(), mode: mode.into(), ..Default::default() };
        self.override_breaker(request).await.expect("the mode is set").breaker.expect("a breaker")
    }

    pub(crate) async fn delete(&self, key: &str) {
        let request = DeleteBreakerRequest { model_key: key.to_owned() };
        self.delete_breaker(request).await.expect("the breaker is deleted");
    }

    /// What is kept of a breaker's history, all pages.
    pub(crate) async fn history(&self, key: &str) -> Vec<Transition> {
        let mut request =
            ListTransitionsRequest { model_key: key.to_owned(), page_size: 1000, ..Default::default() };
        let mut transitions = Vec::new();
        loop {
            let page = self.list_transitions(request.clone()).await.expect("the history is read");
            transitions.extend(page.transitions);
            if page.next_page_token.is_empty() {
                return transitions;
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(crate) async fn newest(&self, key: &str) -> Transition {
        self.get(key).await.last_transition.expect("it changed before")
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn ask_until(
        &self,
        key: &str,
        what: &str,
        is_so: impl Fn(&AcquireResponse) -> bool,
    ) -> AcquireResponse {
        let mut answer = None;
        eventually(what, SOON, async || is_so(answer.insert(self.ask(key).await))).await;
        answer.expect("it was asked")
    }

    /// Opens a breaker for a moment and takes the first permit of the trial that follows.
    pub(crate) async fn begin_trial(&self, key: &str) -> Permit {
        self.trip(key, Duration::from_millis(1)).await;
        self.ask_until(key, "a trial begins", |answer| answer.admitted).await.permit.expect("a permit")
    }
}

/// A question that Redis answers, so that what another service was told a moment ago counts for sure.
pub(crate) fn asking(key: &str) -> AcquireRequest {
    AcquireRequest { model_key: key.to_owned(), admission: Admission::Shared.into(), ..Default::default() }
}

pub(crate) fn telling(permit: &Permit, outcome: Outcome) -> ReportRequest {
    ReportRequest { permit: Some(permit.clone()), outcome: outcome.into(), ..Default::default() }
}

pub(crate) fn unpermitted(key: &str, outcome: Outcome) -> ReportRequest {
    ReportRequest { model_key: key.to_owned(), outcome: outcome.into(), ..Default::default() }
}

pub(crate) fn configuring(key: &str, settings: BreakerSettings) -> ConfigureBreakerRequest {
    ConfigureBreakerRequest { model_key: key.to_owned(), settings: Some(settings), ..Default::default() }
}

/// Settings that open at so many failures in a row, for a minute; one trial call closes again.
pub(crate) fn in_a_row(failures: i32) -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: failures,
        open_duration: Some(wire(Duration::from_mins(1))),
        ..Default::default()
    }
}

/// Settings that open at half of the last so many calls, four at least.
pub(crate) fn half_of_the_last(calls: i32) -> BreakerSettings {
    BreakerSettings {
        window: Some(Window::CountWindow(calls)),
        minimum_calls: 4,
        failure_rate_percent: 50.0,
        open_duration: Some(wire(Duration::from_mins(1))),
        ..Default::default()
    }
}

/// Settings of a trial of so many calls, which one failure ends.
pub(crate) fn trial_of(permits: i32) -> BreakerSettings {
    BreakerSettings { half_open_permits: Some(permits), ..in_a_row(5) }
}

pub(crate) fn assert_did(answer: &ReportResponse, expected: Disposition) {
    assert_eq!(answer.disposition(), expected, "{answer:?}");
}

/// The breaker that a report was answered with.
pub(crate) fn after(answer: ReportResponse) -> Breaker {
    answer.breaker.expect("a report is answered with the breaker")
}

/// Calls, failures, slow calls and failures in a row.
pub(crate) fn counts(breaker: &Breaker) -> (i64, i64, i64, i32) {
    (breaker.calls, breaker.failures, breaker.slow_calls, breaker.consecutive_failures)
}

/// Checks where a breaker stands.
pub(crate) fn assert_stands(breaker: &Breaker, state: State, generation: i64) {
    assert_eq!((breaker.state(), breaker.generation), (state, generation), "{breaker:?}");
}

/// A duration on the wire in milliseconds; it must be there.
pub(crate) fn length(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration.expect("a duration");
    duration.seconds * 1000 + i64::from(duration.nanos) / 1_000_000
}
