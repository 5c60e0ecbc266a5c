//! The service `ConversationThreads` on any store: a request is parsed, the store asked, its answer written.

use std::sync::Arc;

use tonic::{Request, Response, async_trait};
use tracing::Span;

use super::{
    calls::{Reply, call},
    convert, pages,
    proto::{
        AppendMessagesRequest, AppendMessagesResponse, CreateThreadRequest, CreateThreadResponse,
        DeleteThreadRequest, DeleteThreadResponse, ForkThreadRequest, ForkThreadResponse, GetContextRequest,
        GetContextResponse, GetThreadRequest, GetThreadResponse, ListMessagesRequest, ListMessagesResponse,
        ListThreadsRequest, ListThreadsResponse, TouchThreadRequest, TouchThreadResponse,
        TruncateThreadRequest, TruncateThreadResponse, UpdateMessageRequest, UpdateMessageResponse,
        UpdateThreadRequest, UpdateThreadResponse, WatchThreadRequest,
        conversation_threads_server::ConversationThreads,
    },
    requests,
    streams::Streams,
    thread_events::{self, Events},
};
use crate::{
    call::{Answer, Source},
    error::Error,
    threads::{
        ThreadId, ThreadStore, Ttl,
        watch::{ThreadWatch, Wakers},
    },
};

/// The service.
#[derive(Debug)]
pub(super) struct Threads<S> {
    store: Arc<S>,
    default_ttl: Ttl,
    /// Where it was said that a thread does not exist: errors do not tell, and only the store that knows says so.
    knows: Source,
    /// What wakes watchers; every write made here rings.
    wakers: Wakers,
    streams: Streams,
}

impl<S: ThreadStore> Threads<S> {
    /// Serves `store`, which `knows` names; its watches are among `streams`.
    pub(super) fn new(
        store: Arc<S>,
        default_ttl: Ttl,
        knows: Source,
        wakers: Wakers,
        streams: Streams,
    ) -> Self {
        Self { store, default_ttl, knows, wakers, streams }
    }

    /// Lets this process's watchers of a thread look at once, however changes in the store are noticed.
    fn ring(&self, id: &ThreadId) {
        self.wakers.bells.ring(id);
    }
}

#[async_trait]
impl<S: ThreadStore> ConversationThreads for Threads<S> {
    async fn create_thread(&self, request: Request<CreateThreadRequest>) -> Reply<CreateThreadResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let new = requests::create(request.into_inner(), self.default_ttl)?;
        tell(&new.id);
        let Answer { value, source } = self.store.create(&call, &new).await?;
        self.ring(&new.id);
        Ok(Response::new(CreateThreadResponse {
            thread: Some(convert::thread(value.thread)),
            messages: convert::appended(value.messages),
            authority: convert::authority(source),
        }))
    }

    async fn get_thread(&self, request: Request<GetThreadRequest>) -> Reply<GetThreadResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let request = request.into_inner();
        let id = requests::thread_id(&request.thread_id)?;
        tell(&id);
        let Answer { value, source } = self.store.get(&call, &id, !request.peek).await?;
        Ok(Response::new(GetThreadResponse {
            thread: Some(convert::thread(value)),
            authority: convert::authority(source),
            as_of: convert::as_of(source),
        }))
    }

    async fn list_threads(&self, request: Request<ListThreadsRequest>) -> Reply<ListThreadsResponse> {
        let call = call(&request, false);
        let query = requests::list(request.get_ref())?;
        let answer = self.store.list(&call, &query).await?;
        Ok(Response::new(pages::threads(&query.owner, answer)))
    }

    async fn update_thread(&self, request: Request<UpdateThreadRequest>) -> Reply<UpdateThreadResponse> {
        let call = call(&request, false);
        let (id, change, guard) = requests::update(request.into_inner())?;
        tell(&id);
        let Answer { value, source } = self.store.update(&call, &id, &change, &guard).await?;
        self.ring(&id);
        Ok(Response::new(UpdateThreadResponse {
            thread: Some(convert::thread(value)),
            authority: convert::authority(source),
        }))
    }

    async fn delete_thread(&self, request: Request<DeleteThreadRequest>) -> Reply<DeleteThreadResponse> {
        let call = call(&request, false);
        let allow_missing = request.get_ref().allow_missing;
        let (id, guard) = requests::delete(request.into_inner())?;
        tell(&id);
        let source = match self.store.delete(&call, &id, &guard).await {
            Ok(answer) => {
                self.ring(&id);
                answer.source
            }
            Err(Error::ThreadNotFound { .. }) if allow_missing => self.knows,
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(DeleteThreadResponse { authority: convert::authority(source) }))
    }

    async fn touch_thread(&self, request: Request<TouchThreadRequest>) -> Reply<TouchThreadResponse> {
        let call = call(&request, false);
        let (id, ttl) = requests::touch(request.get_ref())?;
        tell(&id);
        let Answer { value, source } = self.store.touch(&call, &id, ttl).await?;
        self.ring(&id);
        Ok(Response::new(TouchThreadResponse {
            expire_time: value.expire_time.map(convert::timestamp),
            authority: convert::authority(source),
        }))
    }

    async fn append_messages(
        &self,
        request: Request<AppendMessagesRequest>,
    ) -> Reply<AppendMessagesResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let append = requests::append(request.into_inner(), self.default_ttl)?;
        tell(&append.id);
        let Answer { value, source } = self.store.append(&call, &append).await?;
        self.ring(&append.id);
        Ok(Response::new(AppendMessagesResponse {
            messages: convert::appended(value.messages),
            previous_last_seq: value.previous_last_seq,
            thread: Some(convert::thread(value.thread)),
            authority: convert::authority(source),
        }))
    }

    async fn list_messages(&self, request: Request<ListMessagesRequest>) -> Reply<ListMessagesResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let query = requests::list_messages(request.get_ref())?;
        tell(&query.id);
        let answer = self.store.messages(&call, &query).await?;
        Ok(Response::new(pages::messages(&query, answer)?))
    }

    async fn get_context(&self, request: Request<GetContextRequest>) -> Reply<GetContextResponse> {
        let call = call(&request, request.get_ref().require_shared);
        let query = requests::context(request.get_ref())?;
        tell(&query.id);
        let answer = self.store.context(&call, &query).await?;
        Ok(Response::new(pages::context(answer)?))
    }

    async fn update_message(&self, request: Request<UpdateMessageRequest>) -> Reply<UpdateMessageResponse> {
        let call = call(&request, false);
        let update = requests::update_message(request.into_inner())?;
        tell(&update.id);
        let answer = self.store.update_message(&call, &update).await?;
        self.ring(&update.id);
        Ok(Response::new(pages::updated_message(answer)?))
    }

    async fn truncate_thread(
        &self,
        request: Request<TruncateThreadRequest>,
    ) -> Reply<TruncateThreadResponse> {
        let call = call(&request, false);
        let (id, cut, guard) = requests::truncate(request.into_inner())?;
        tell(&id);
        let Answer { value, source } = self.store.truncate(&call, &id, cut, &guard).await?;
        self.ring(&id);
        Ok(Response::new(TruncateThreadResponse {
            thread: Some(convert::thread(value)),
            authority: convert::authority(source),
        }))
    }

    async fn fork_thread(&self, request: Request<ForkThreadRequest>) -> Reply<ForkThreadResponse> {
        let call = call(&request, false);
        let fork = requests::fork(request.get_ref())?;
        tell(&fork.source);
        let Answer { value, source } = self.store.fork(&call, &fork).await?;
        self.ring(&fork.id);
        Ok(Response::new(ForkThreadResponse {
            thread: Some(convert::thread(value)),
            authority: convert::authority(source),
        }))
    }

    type WatchThreadStream = Events;

    async fn watch_thread(&self, request: Request<WatchThreadRequest>) -> Reply<Events> {
        let call = call(&request, false);
        let (id, since) = requests::watch(request.into_inner())?;
        tell(&id);
        let place = self.streams.enter(&call)?;
        let store = Arc::clone(&self.store);
        let watch = ThreadWatch::begin(store, &self.wakers, &call, id.clone(), since).await?;
        Ok(place.serve(thread_events::events(id, watch)))
    }
}

/// Names the thread in the call's span.
fn tell(id: &ThreadId) {
    Span::current().record("thread", id.as_str());
}
