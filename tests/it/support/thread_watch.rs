//! A client of `WatchThread` that reads well in tests.

use std::time::Duration;

use fusewire::grpc::proto::{
    ConversationThread, Message, ThreadPosition, ThreadResync, ThreadTruncated, ThreadUpdated,
    WatchThreadRequest, WatchThreadResponse, watch_thread_response::Event,
};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::threads::Threads;

/// Far above what any event takes, for a loaded machine.
const SOON: Duration = Duration::from_secs(20);

/// An open stream.
pub(crate) struct Watch {
    stream: Streaming<WatchThreadResponse>,
    /// Where to resume after the last event.
    pub(crate) position: ThreadPosition,
}

pub(crate) fn watching(id: &str, after_seq: i64) -> WatchThreadRequest {
    WatchThreadRequest { thread_id: id.to_owned(), after_seq, resume: None }
}

pub(crate) fn resuming(id: &str, position: &ThreadPosition) -> WatchThreadRequest {
    WatchThreadRequest { thread_id: id.to_owned(), after_seq: 0, resume: Some(position.clone()) }
}

impl Threads {
    pub(crate) async fn try_watch(&self, request: WatchThreadRequest) -> Result<Watch, Status> {
        let stream = self.client.clone().watch_thread(request).await?.into_inner();
        Ok(Watch { stream, position: ThreadPosition::default() })
    }

    /// Watches from a seq on.
    pub(crate) async fn watch(&self, id: &str, after_seq: i64) -> Watch {
        self.try_watch(watching(id, after_seq)).await.expect("the watch begins")
    }

    /// Watches a thread whose messages are known.
    pub(crate) async fn watch_live(&self, id: &str) -> Watch {
        let last_seq = self.peek(id).await.expect("a thread").last_seq;
        let mut watch = self.watch(id, last_seq).await;
        watch.synced().await;
        watch
    }

    pub(crate) async fn resume(&self, id: &str, position: &ThreadPosition) -> Watch {
        self.try_watch(resuming(id, position)).await.expect("the watch goes on")
    }
}

impl Watch {
    /// The next item, whatever it is.
    pub(crate) async fn item(&mut self) -> Result<Option<WatchThreadResponse>, Status> {
        timeout(SOON, self.stream.message()).await.expect("an event, or the end")
    }

    pub(crate) async fn told(&mut self) -> WatchThreadResponse {
        let told = self.item().await.expect("no error").expect("no end");
        self.position = told.position.clone().expect("every event has a position");
        told
    }

    pub(crate) async fn event(&mut self) -> Event {
        self.told().await.event.expect("an event")
    }

    pub(crate) async fn appended(&mut self) -> Vec<Message> {
        match self.event().await {
            Event::Appended(appended) => appended.messages,
            other => panic!("appended was expected, not {other:?}"),
        }
    }

    /// Messages up to a seq, in as many events as they take.
    pub(crate) async fn appended_up_to(&mut self, seq: i64) -> Vec<Message> {
        let mut messages = self.appended().await;
        while messages.last().is_some_and(|message| message.seq < seq) {
            messages.extend(self.appended().await);
        }
        messages
    }

    pub(crate) async fn updated(&mut self) -> (ConversationThread, Vec<Message>) {
        match self.event().await {
            Event::Updated(ThreadUpdated { thread, messages }) => (thread.expect("a thread"), messages),
            other => panic!("updated was expected, not {other:?}"),
        }
    }

    /// `first_seq` and `last_seq`.
    pub(crate) async fn truncated(&mut self) -> (i64, i64) {
        match self.event().await {
            Event::Truncated(ThreadTruncated { first_seq, last_seq }) => (first_seq, last_seq),
            other => panic!("truncated was expected, not {other:?}"),
        }
    }

    pub(crate) async fn resynced(&mut self) -> (ConversationThread, String) {
        match self.event().await {
            Event::Resync(ThreadResync { thread, why }) => (thread.expect("a thread"), why),
            other => panic!("resync was expected, not {other:?}"),
        }
    }

    pub(crate) async fn synced(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Synced(_)), "synced was expected, not {event:?}");
    }

    pub(crate) async fn deleted(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Deleted(_)), "deleted was expected, not {event:?}");
        self.ended().await;
    }

    pub(crate) async fn expired(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Expired(_)), "expired was expected, not {event:?}");
        self.ended().await;
    }

    /// Checks that the stream has ended with OK.
    pub(crate) async fn ended(&mut self) {
        let end = self.item().await.expect("no error");
        assert!(end.is_none(), "{end:?}");
    }
}
