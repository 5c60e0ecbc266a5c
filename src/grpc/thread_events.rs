//! Events of a watched thread as a stream of the wire.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::Status;

use super::{
    convert, messages,
    proto::{self, watch_thread_response as wire},
};
use crate::{
    error::Result,
    threads::{
        StoredMessage, ThreadId, ThreadStore,
        watch::{Event, Position, ThreadWatch, Told},
    },
};

/// What `WatchThread` answers with.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<proto::WatchThreadResponse, Status>> + Send>>;

/// The events of a watch; the stream ends with the watch, and with the first error.
pub(super) fn events<S: ThreadStore>(id: ThreadId, watch: ThreadWatch<S>) -> Events {
    let next = move |watch: Option<ThreadWatch<S>>| {
        let id = id.clone();
        async move {
            let mut watch = watch?;
            let written = watch.next().await?.and_then(|told| write(&id, told)).map_err(Status::from);
            // Nothing follows an error.
            let rest = written.is_ok().then_some(watch);
            Some((written, rest))
        }
    };
    Box::pin(stream::unfold(Some(watch), next))
}

fn write(id: &ThreadId, told: Told) -> Result<proto::WatchThreadResponse> {
    let Told { event, position, source } = told;
    Ok(proto::WatchThreadResponse {
        event: Some(write_event(id, event)?),
        position: Some(write_position(position)),
        authority: convert::authority(source),
    })
}

fn write_position(position: Position) -> proto::ThreadPosition {
    let Position { epoch, revision, seq } = position;
    proto::ThreadPosition { epoch, revision, seq }
}

fn write_event(id: &ThreadId, event: Event) -> Result<wire::Event> {
    Ok(match event {
        Event::Appended(stored) => {
            wire::Event::Appended(proto::MessagesAppended { messages: write_messages(id, &stored)? })
        }
        Event::Updated { thread, messages } => wire::Event::Updated(proto::ThreadUpdated {
            thread: Some(convert::thread(*thread)),
            messages: write_messages(id, &messages)?,
        }),
        Event::Truncated { first_seq, last_seq } => {
            wire::Event::Truncated(proto::ThreadTruncated { first_seq, last_seq })
        }
        Event::Deleted => wire::Event::Deleted(proto::ThreadDeleted {}),
        Event::Expired => wire::Event::Expired(proto::ThreadExpired {}),
        Event::Synced => wire::Event::Synced(proto::Synced {}),
        Event::Resync { thread, why } => wire::Event::Resync(proto::ThreadResync {
            thread: Some(convert::thread(*thread)),
            why: why.to_owned(),
        }),
        Event::ModeChanged(mode) => {
            wire::Event::ServingModeChanged(proto::ServingModeChanged { mode: convert::serving_mode(mode) })
        }
    })
}

fn write_messages(id: &ThreadId, stored: &[StoredMessage]) -> Result<Vec<proto::Message>> {
    stored.iter().map(|stored| messages::write(id, stored)).collect()
}
