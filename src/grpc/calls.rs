//! What surrounds every call: its deadline, its span, the limit of calls at once, and the end of the server.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, debug, debug_span, field};

use super::{reflection, status};
use crate::{call::Call, error::Error};

/// When the caller stops waiting; every request carries it as an extension.
#[derive(Debug, Clone, Copy, Default)]
struct Deadline(Option<Instant>);

/// What an rpc answers.
pub(super) type Reply<T> = Result<tonic::Response<T>, Status>;

/// The conditions of a call, as its request carries them.
pub(super) fn call<T>(request: &tonic::Request<T>, require_shared: bool) -> Call {
    let Deadline(deadline) = request.extensions().get().copied().unwrap_or_default();
    Call { deadline, require_shared, ..Call::default() }
}

/// The calls of this process, on all its listeners; a layer around every service.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    limit: usize,
    free: Arc<Semaphore>,
    /// Cancelled when no more calls may begin.
    closing: CancellationToken,
    /// Cancelled when calls in flight may not go on.
    cut: CancellationToken,
}

impl Calls {
    /// Lets at most `limit` calls be in flight, and none begin after `closing`.
    pub(super) fn new(limit: usize, closing: CancellationToken) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { limit, free: Arc::new(Semaphore::new(limit)), closing, cut: CancellationToken::new() }
    }

    /// Counts the calls in flight, health checks apart.
    pub(super) fn in_flight(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    /// Ends the calls in flight with UNAVAILABLE.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Decides whether a call may begin. Health is always told: most of all under load and at the end.
    fn admit(&self, path: &str) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if path == "/grpc.health.v1.Health/Check" {
            return Ok(None);
        }
        if self.closing.is_cancelled() {
            return Err(status::shutting_down());
        }
        if path.starts_with("/grpc.health.v1.") {
            return Ok(None);
        }
        Arc::clone(&self.free).try_acquire_owned().map(Some).map_err(|_| status::too_many_calls(self.limit))
    }
}

impl<S> Layer<S> for Calls {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService { calls: self.clone(), inner }
    }
}

/// A service with [`Calls`] around it.
#[derive(Debug, Clone)]
pub(super) struct CallService<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The deadline is reckoned here and not in the future: tonic makes its own timer right after this call, and
        // answers CANCELLED if that one is the first to end.
        let began = Instant::now();
        let deadline = timeout(request.headers()).and_then(|timeout| began.checked_add(timeout));
        let path = request.uri().path().to_owned();
        let permit = match self.calls.admit(&path) {
            Ok(permit) => permit,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        if path.starts_with("/grpc.reflection.") {
            let closing = self.calls.closing.clone();
            request = request.map(|body| reflection::end_at(closing, body));
        }
        request.extensions_mut().insert(Deadline(deadline));
        let method = path.trim_start_matches('/');
        let span = debug_span!("rpc", method, thread = field::Empty, model_key = field::Empty);
        let inner = span.in_scope(|| self.inner.call(request));
        let cut = self.calls.cut.clone();
        let call = async move {
            let ended = Box::pin(bound(inner, deadline, cut)).await;
            drop(permit);
            let answer = ended.unwrap_or_else(|status| Ok(status.into_http())).map(explain_bare);
            let code = answer.as_ref().map_or(Code::Unknown, code_of);
            debug!(?code, elapsed_ms = millis(began.elapsed()), "answered");
            answer
        };
        Box::pin(call.instrument(span))
    }
}

/// Waits for an answer, at most until the deadline and until the server's end.
async fn bound<F: Future>(
    answer: F,
    deadline: Option<Instant>,
    cut: CancellationToken,
) -> Result<F::Output, Status> {
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        () = passed(deadline) => Err(Error::DeadlineExceeded.into()),
        () = cut.cancelled() => Err(status::shutting_down()),
    }
}

/// Ends at the deadline, if there is one. It looks at the clock at every poll, because it may be tonic's timer for the
/// same moment that woke this task, and ours would follow too late.
pub(super) async fn passed(deadline: Option<Instant>) {
    let Some(deadline) = deadline else { return std::future::pending().await };
    let mut sleep = pin!(sleep_until(deadline));
    poll_fn(|cx| if Instant::now() >= deadline { Poll::Ready(()) } else { sleep.as_mut().poll(cx) }).await;
}

/// Replaces tonic's own refusals of a message (too large, undecodable), which carry no details: they are the caller's.
/// Every INTERNAL and `OUT_OF_RANGE` of ours has details.
fn explain_bare(response: Response<Body>) -> Response<Body> {
    let Some(status) = response.extensions().get::<Status>() else { return response };
    if !matches!(status.code(), Code::Internal | Code::OutOfRange) || !status.details().is_empty() {
        return response;
    }
    Status::from(Error::invalid("request", status.message())).into_http()
}

fn code_of(response: &Response<Body>) -> Code {
    response.extensions().get::<Status>().map_or(Code::Ok, Status::code)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `grpc-timeout`: at most 8 digits and a unit. A malformed one counts as none, as with tonic itself.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(count)),
        "M" => Some(Duration::from_mins(count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;
    use tower::service_fn;

    use super::*;

    const APPEND: &str = "/fusewire.v1.ConversationThreads/AppendMessages";

    fn parse(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        timeout(&headers)
    }

    #[test]
    fn grpc_timeouts_have_at_most_8_digits_and_a_unit() {
        assert_eq!(parse("3H"), Some(Duration::from_hours(3)));
        assert_eq!(parse("1M"), Some(Duration::from_mins(1)));
        assert_eq!(parse("42S"), Some(Duration::from_secs(42)));
        assert_eq!(parse("13m"), Some(Duration::from_millis(13)));
        assert_eq!(parse("2u"), Some(Duration::from_micros(2)));
        assert_eq!(parse("82n"), Some(Duration::from_nanos(82)));
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)));
        for malformed in ["", "S", "5", "5s", "-5S", "1.5S", "123456789n", "5 S", "1SS"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    fn request(path: &str, timeout: Option<&str>) -> Request<Body> {
        let mut request = Request::new(Body::default());
        *request.uri_mut() = path.parse().unwrap();
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        request
    }

    fn reason(response: &Response<Body>) -> (Code, String) {
        let status = response.extensions().get::<Status>().unwrap();
        (
            status.code(),
            status.get_error_details().error_info().map_or_else(String::new, |i| i.reason.clone()),
        )
    }

    fn never()
    -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    {
        service_fn(|_| std::future::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_past_its_deadline_is_answered_deadline_exceeded() {
        let began = Instant::now();
        let mut service = Calls::new(10, CancellationToken::new()).layer(never());
        let answer = service.call(request(APPEND, Some("250m"))).await.unwrap();
        assert_eq!(reason(&answer), (Code::DeadlineExceeded, "DEADLINE".into()));
        assert_eq!(began.elapsed(), Duration::from_millis(250));
    }

    #[tokio::test]
    async fn the_deadline_travels_with_the_request() {
        let service = service_fn(|request: Request<Body>| async move {
            assert!(request.extensions().get::<Deadline>().unwrap().0.is_some());
            Ok::<_, Infallible>(Response::new(Body::default()))
        });
        Calls::new(10, CancellationToken::new())
            .layer(service)
            .call(request(APPEND, Some("9S")))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn calls_over_the_limit_are_refused_and_health_is_told_all_the_same() {
        let calls = Calls::new(1, CancellationToken::new());
        let mut service = calls.layer(never());
        let first = service.call(request(APPEND, None));
        assert_eq!(calls.in_flight(), 1);
        let second = service.call(request(APPEND, None)).await.unwrap();
        assert_eq!(reason(&second), (Code::ResourceExhausted, "TOO_MANY_CALLS".into()));
        assert!(calls.admit("/grpc.health.v1.Health/Check").is_ok());
        drop(first);
        assert_eq!(calls.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_call_that_began_before_the_shutdown_goes_on_until_it_is_cut() {
        let closing = CancellationToken::new();
        let calls = Calls::new(10, closing.clone());
        let mut service = calls.layer(never());
        let early = service.call(request(APPEND, None));
        closing.cancel();
        let late = service.call(request(APPEND, None)).await.unwrap();
        assert_eq!(reason(&late), (Code::Unavailable, "SHUTTING_DOWN".into()));
        assert!(calls.admit("/grpc.health.v1.Health/Check").is_ok());
        assert_eq!(calls.in_flight(), 1);
        calls.cut();
        assert_eq!(reason(&early.await.unwrap()), (Code::Unavailable, "SHUTTING_DOWN".into()));
        assert_eq!(calls.in_flight(), 0);
    }

    #[tokio::test]
    async fn what_tonic_refuses_by_itself_is_an_invalid_argument() {
        for bare in [Status::out_of_range("too large"), Status::internal("undecodable")] {
            let service = service_fn(move |_| {
                let answer = bare.clone().into_http();
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut service = Calls::new(10, CancellationToken::new()).layer(service);
            let answer = service.call(request(APPEND, None)).await.unwrap();
            assert_eq!(reason(&answer), (Code::InvalidArgument, "INVALID_FIELDS".into()));
        }
    }
}
