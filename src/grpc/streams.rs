//! Streams that stay open, of all services and listeners: how many there may be, and when each of them ends.
//!
//! The layer around every call knows nothing of them any more once their headers are sent: it gives back the call's
//! permit, and neither a deadline nor the drain would end them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, stream::BoxStream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::{calls::passed, status};
use crate::{call::Call, error::Error};

/// The open streams of this process. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    limit: usize,
    free: Arc<Semaphore>,
    /// Cancelled when every stream has to end.
    closing: CancellationToken,
}

impl Streams {
    /// Lets at most `limit` streams be open, and none beyond `closing`.
    pub(super) fn new(limit: usize, closing: CancellationToken) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { limit, free: Arc::new(Semaphore::new(limit)), closing }
    }

    /// Counts the places that are taken.
    pub(super) fn open_now(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    /// Takes a place for the stream that answers this call, or refuses it. Whoever holds the place counts as open.
    pub(super) fn enter(&self, call: &Call) -> Result<StreamPlace, Status> {
        let taken = Arc::clone(&self.free).try_acquire_owned();
        let taken = taken.map_err(|_| status::too_many_streams(self.limit))?;
        Ok(StreamPlace { taken, deadline: call.deadline, closing: self.closing.clone() })
    }
}

/// One stream's place. It is free again when this, or the stream made of it, ends or is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    taken: OwnedSemaphorePermit,
    deadline: Option<Instant>,
    closing: CancellationToken,
}

impl StreamPlace {
    /// Serves events until they end or one is an error, until the client goes away, or until the deadline of the call or
    /// the end of the server, which is then the last item: `DEADLINE_EXCEEDED`, or UNAVAILABLE with a hint when to retry.
    pub(super) fn serve<T: Send + 'static>(
        self,
        events: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<BoxStream<'static, Result<T, Status>>> {
        let Self { taken, deadline, closing } = self;
        let end = async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => status::shutting_down(),
                () = passed(deadline) => Error::DeadlineExceeded.into(),
            }
        };
        let running = Running { end: Box::pin(end), events: Box::pin(events), _taken: taken };
        Response::new(Box::pin(Served(Some(running))))
    }
}

struct Running<T> {
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
    events: BoxStream<'static, Result<T, Status>>,
    _taken: OwnedSemaphorePermit,
}

/// A stream in its place; none once it has ended.
struct Served<T>(Option<Running<T>>);

impl<T> fmt::Debug for Served<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("has_ended", &self.0.is_none()).finish()
    }
}

impl<T> Stream for Served<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(running) = &mut self.0 else { return Poll::Ready(None) };
        // The end comes first: events that never pause would put it off for ever.
        let item = match running.end.as_mut().poll(cx) {
            Poll::Ready(status) => Some(Err(status)),
            Poll::Pending => std::task::ready!(running.events.as_mut().poll_next(cx)),
        };
        if !matches!(item, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, StreamExt, stream};
    use tokio::time::advance;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    fn streams(limit: usize) -> (Streams, CancellationToken) {
        let closing = CancellationToken::new();
        (Streams::new(limit, closing.clone()), closing)
    }

    fn reason(status: &Status) -> (Code, String) {
        (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
    }

    /// A stream of the numbers from 0 that is always ready.
    fn numbers() -> impl Stream<Item = Result<u32, Status>> {
        stream::iter(0..).map(Ok)
    }

    #[test]
    fn a_stream_over_the_limit_is_refused_until_another_has_gone() {
        let (streams, _closing) = streams(2);
        let one = streams.enter(&Call::default()).unwrap();
        let served = streams.enter(&Call::default()).unwrap().serve(numbers());
        assert_eq!(streams.open_now(), 2);
        let refused = streams.clone().enter(&Call::default()).unwrap_err();
        assert_eq!(reason(&refused), (Code::ResourceExhausted, "TOO_MANY_STREAMS".into()));
        assert!(refused.get_details_quota_failure().is_some());
        drop(served);
        assert_eq!(streams.open_now(), 1);
        drop(one);
        assert_eq!(streams.open_now(), 0);
        assert!(streams.enter(&Call::default()).is_ok());
    }

    #[tokio::test]
    async fn events_are_served_to_their_end_and_the_place_is_free_then() {
        let (streams, _closing) = streams(1);
        let place = streams.enter(&Call::default()).unwrap();
        let mut served = place.serve(numbers().take(2)).into_inner();
        assert_eq!(served.next().await.unwrap().unwrap(), 0);
        assert_eq!(served.next().await.unwrap().unwrap(), 1);
        assert_eq!(streams.open_now(), 1);
        assert!(served.next().await.is_none());
        assert_eq!(streams.open_now(), 0);
        assert!(served.next().await.is_none());
    }

    #[tokio::test]
    async fn an_error_is_the_last_event() {
        let (streams, _closing) = streams(1);
        let events = stream::iter([Ok(0), Err(Status::aborted("resync")), Ok(1)]);
        let mut served = streams.enter(&Call::default()).unwrap().serve(events).into_inner();
        assert!(served.next().await.unwrap().is_ok());
        assert_eq!(served.next().await.unwrap().unwrap_err().code(), Code::Aborted);
        assert!(served.next().await.is_none());
        assert_eq!(streams.open_now(), 0);
    }

    #[tokio::test]
    async fn the_end_of_the_server_ends_idle_and_busy_streams_with_a_hint() {
        let (streams, closing) = streams(2);
        let idle = streams.enter(&Call::default()).unwrap().serve(stream::pending::<Result<u32, Status>>());
        let busy = streams.enter(&Call::default()).unwrap().serve(numbers());
        let (mut idle, mut busy) = (idle.into_inner(), busy.into_inner());
        assert!(idle.next().now_or_never().is_none());
        assert!(busy.next().await.unwrap().is_ok());
        let (last, ()) = tokio::join!(idle.next(), async { closing.cancel() });
        let after = idle.next().await;
        let last = last.unwrap().unwrap_err();
        assert_eq!(reason(&last), (Code::Unavailable, "SHUTTING_DOWN".into()));
        assert!(last.get_details_retry_info().is_some() && after.is_none());
        assert_eq!(busy.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert!(busy.next().await.is_none());
        assert_eq!(streams.open_now(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_the_call_ends_the_stream() {
        let (streams, _closing) = streams(1);
        let call = Call { deadline: Some(Instant::now() + Duration::from_secs(3)), ..Call::default() };
        let mut served = streams.enter(&call).unwrap().serve(numbers()).into_inner();
        advance(Duration::from_millis(2999)).await;
        assert!(served.next().await.unwrap().is_ok());
        advance(Duration::from_millis(1)).await;
        let last = served.next().await.unwrap().unwrap_err();
        assert_eq!(reason(&last), (Code::DeadlineExceeded, "DEADLINE".into()));
        assert!(served.next().await.is_none());
    }
}
