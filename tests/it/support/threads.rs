//! A client of `ConversationThreads` that reads well in tests.

use std::time::Duration;

use fusewire::grpc::proto::{
    AppendMessagesRequest, AppendMessagesResponse, ConversationThread, CreateThreadRequest,
    CreateThreadResponse, DeleteThreadRequest, ForkThreadRequest, GetContextRequest, GetContextResponse,
    GetThreadRequest, ListMessagesRequest, ListMessagesResponse, ListThreadsRequest, Message, Part, Role,
    ToolCall, ToolResult, TouchThreadRequest, TouchThreadResponse, TruncateThreadRequest,
    UpdateMessageRequest, UpdateMessageResponse, UpdateThreadRequest,
    conversation_threads_client::ConversationThreadsClient, part::Kind, truncate_thread_request::Cut,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// The generated client, with limits that fit large pages.
pub(crate) type Client = ConversationThreadsClient<Channel>;

/// Shortcuts for what most tests do.
#[derive(Clone)]
pub(crate) struct Threads {
    pub(crate) client: Client,
}

impl Threads {
    pub(crate) fn on(channel: Channel) -> Self {
        Self { client: ConversationThreadsClient::new(channel) }
    }

    pub(crate) async fn create(&self, id: &str) -> ConversationThread {
        self.try_create(thread(id)).await.expect("the thread is created").thread.expect("a thread")
    }

    pub(crate) async fn try_create(
        &self,
        thread: ConversationThread,
    ) -> Result<CreateThreadResponse, Status> {
        let request = CreateThreadRequest { thread: Some(thread), ..Default::default() };
        Ok(self.client.clone().create_thread(request).await?.into_inner())
    }

    pub(crate) async fn append(&self, id: &str, messages: Vec<Message>) -> AppendMessagesResponse {
        self.try_append(appending(id, messages)).await.expect("the messages are appended")
    }

    pub(crate) async fn try_append(
        &self,
        request: AppendMessagesRequest,
    ) -> Result<AppendMessagesResponse, Status> {
        Ok(self.client.clone().append_messages(request).await?.into_inner())
    }

    /// Reads a thread without renewing it.
    pub(crate) async fn peek(&self, id: &str) -> Result<ConversationThread, Status> {
        let request = GetThreadRequest { thread_id: id.to_owned(), peek: true, ..Default::default() };
        Ok(self.client.clone().get_thread(request).await?.into_inner().thread.expect("a thread"))
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteThreadRequest { thread_id: id.to_owned(), ..Default::default() };
        self.client.clone().delete_thread(request).await.map(drop)
    }

    /// Reads a thread and renews it.
    pub(crate) async fn get(&self, id: &str) -> Result<ConversationThread, Status> {
        let request = GetThreadRequest { thread_id: id.to_owned(), ..Default::default() };
        Ok(self.client.clone().get_thread(request).await?.into_inner().thread.expect("a thread"))
    }

    pub(crate) async fn touch(&self, id: &str, ttl: Option<Duration>) -> Result<TouchThreadResponse, Status> {
        let request = TouchThreadRequest { thread_id: id.to_owned(), ttl: ttl.map(wire) };
        Ok(self.client.clone().touch_thread(request).await?.into_inner())
    }

    pub(crate) async fn update(&self, request: UpdateThreadRequest) -> Result<ConversationThread, Status> {
        Ok(self.client.clone().update_thread(request).await?.into_inner().thread.expect("a thread"))
    }

    pub(crate) async fn update_message(
        &self,
        request: UpdateMessageRequest,
    ) -> Result<UpdateMessageResponse, Status> {
        Ok(self.client.clone().update_message(request).await?.into_inner())
    }

    pub(crate) async fn truncate(
        &self,
        request: TruncateThreadRequest,
    ) -> Result<ConversationThread, Status> {
        Ok(self.client.clone().truncate_thread(request).await?.into_inner().thread.expect("a thread"))
    }

    pub(crate) async fn fork(&self, request: ForkThreadRequest) -> Result<ConversationThread, Status> {
        Ok(self.client.clone().fork_thread(request).await?.into_inner().thread.expect("a thread"))
    }

    pub(crate) async fn page(&self, request: ListMessagesRequest) -> Result<ListMessagesResponse, Status> {
        Ok(self.client.clone().list_messages(request).await?.into_inner())
    }

    /// Appends `numbered(from..=to)`, 100 at a time.
    pub(crate) async fn fill(&self, id: &str, from: i64, to: i64) {
        for batch in numbered(from, to).chunks(100) {
            self.append(id, batch.to_vec()).await;
        }
    }

    /// Checks that the thread's counters are what its messages amount to; answers the messages.
    pub(crate) async fn recount(&self, id: &str) -> Vec<Message> {
        let (thread, messages) = (self.peek(id).await.expect("a thread"), self.messages(id).await);
        let context = self.context(id, 0, 0).await;
        let count = i64::try_from(messages.len()).expect("fits");
        assert_eq!(
            (thread.message_count, thread.size_bytes),
            (count, messages.iter().map(stored_size).sum()),
            "{id}"
        );
        assert_eq!(thread.first_seq, messages.first().map_or(0, |first| first.seq), "{id}");
        let explicit = messages.iter().all(|message| message.token_count > 0);
        if explicit {
            assert_eq!(
                thread.token_count,
                messages.iter().map(|m| i64::from(m.token_count)).sum::<i64>(),
                "{id}"
            );
        }
        if context.omitted_count == 0 {
            assert_eq!(thread.token_count, context.token_count, "{id}");
        }
        messages
    }

    /// All messages, paged through without renewing.
    pub(crate) async fn messages(&self, id: &str) -> Vec<Message> {
        let request = ListMessagesRequest {
            thread_id: id.to_owned(),
            peek: true,
            page_size: 1000,
            ..Default::default()
        };
        self.walk(request).await.expect("the messages are listed")
    }

    /// Follows page tokens to the end.
    pub(crate) async fn walk(&self, mut request: ListMessagesRequest) -> Result<Vec<Message>, Status> {
        let mut messages = Vec::new();
        loop {
            let page = self.client.clone().list_messages(request.clone()).await?.into_inner();
            messages.extend(page.messages);
            if page.next_page_token.is_empty() {
                return Ok(messages);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(crate) async fn context(&self, id: &str, max_messages: i32, max_tokens: i32) -> GetContextResponse {
        let request = GetContextRequest {
            thread_id: id.to_owned(),
            max_messages,
            max_tokens,
            peek: true,
            ..Default::default()
        };
        self.client.clone().get_context(request).await.expect("the context is read").into_inner()
    }

    /// Ids of an owner's threads, all pages.
    pub(crate) async fn owned(&self, owner: &str, page_size: i32) -> Vec<String> {
        let mut ids = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListThreadsRequest { owner: owner.to_owned(), page_size, page_token };
            let page =
                self.client.clone().list_threads(request).await.expect("the threads are listed").into_inner();
            ids.extend(page.threads.into_iter().map(|thread| thread.id));
            if page.next_page_token.is_empty() {
                return ids;
            }
            page_token = page.next_page_token;
        }
    }
}

pub(crate) fn thread(id: &str) -> ConversationThread {
    ConversationThread { id: id.to_owned(), ..Default::default() }
}

pub(crate) fn appending(id: &str, messages: Vec<Message>) -> AppendMessagesRequest {
    AppendMessagesRequest { thread_id: id.to_owned(), messages, ..Default::default() }
}

/// A page of messages to read, without renewing.
pub(crate) fn listing(id: &str) -> ListMessagesRequest {
    ListMessagesRequest { thread_id: id.to_owned(), peek: true, ..Default::default() }
}

pub(crate) fn cut_after(id: &str, seq: i64) -> TruncateThreadRequest {
    TruncateThreadRequest { thread_id: id.to_owned(), cut: Some(Cut::AfterSeq(seq)), ..Default::default() }
}

pub(crate) fn keep_last(id: &str, count: i32) -> TruncateThreadRequest {
    TruncateThreadRequest { thread_id: id.to_owned(), cut: Some(Cut::KeepLast(count)), ..Default::default() }
}

pub(crate) fn forking(id: &str, new_id: &str) -> ForkThreadRequest {
    ForkThreadRequest { thread_id: id.to_owned(), new_thread_id: new_id.to_owned(), ..Default::default() }
}

pub(crate) fn mask(paths: &[&str]) -> prost_types::FieldMask {
    prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }
}

/// New values for a thread's own fields.
pub(crate) fn changing(thread: ConversationThread, paths: &[&str]) -> UpdateThreadRequest {
    UpdateThreadRequest { thread: Some(thread), update_mask: Some(mask(paths)), ..Default::default() }
}

/// New values for one message.
pub(crate) fn revising(id: &str, message: Message, paths: &[&str]) -> UpdateMessageRequest {
    UpdateMessageRequest {
        thread_id: id.to_owned(),
        message: Some(message),
        update_mask: Some(mask(paths)),
        ..Default::default()
    }
}

/// Messages `m<n>`, each of 8 bytes of text: 2 tokens.
pub(crate) fn numbered(from: i64, to: i64) -> Vec<Message> {
    (from..=to).map(|n| user(&format!("m{n}"), &format!("{n:08}"))).collect()
}

/// The size of a message as a reader gets it, without what the server adds.
pub(crate) fn stored_size(message: &Message) -> i64 {
    let bare = Message { seq: 0, commit_time: None, ..message.clone() };
    i64::try_from(prost::Message::encoded_len(&bare)).expect("fits")
}

/// What the server adds, taken away: what was sent is left.
pub(crate) fn sent(message: Message) -> Message {
    Message { seq: 0, commit_time: None, status: 0, ..message }
}

/// A message of one text.
pub(crate) fn message(id: &str, role: Role, text: &str) -> Message {
    Message {
        id: id.to_owned(),
        role: role.into(),
        parts: vec![part(Kind::Text(text.to_owned()))],
        ..Default::default()
    }
}

pub(crate) fn user(id: &str, text: &str) -> Message {
    message(id, Role::User, text)
}

pub(crate) fn part(kind: Kind) -> Part {
    Part { kind: Some(kind), ..Default::default() }
}

/// An assistant's message that calls tools.
pub(crate) fn calls(id: &str, call_ids: &[&str]) -> Message {
    let call = |call_id: &&str| {
        part(Kind::ToolCall(ToolCall {
            call_id: (*call_id).to_owned(),
            name: "look".to_owned(),
            arguments_json: "{}".to_owned(),
        }))
    };
    Message {
        id: id.to_owned(),
        role: Role::Assistant.into(),
        parts: call_ids.iter().map(call).collect(),
        ..Default::default()
    }
}

/// A tool's answer.
pub(crate) fn result(id: &str, call_id: &str) -> Message {
    let result = ToolResult { call_id: call_id.to_owned(), text: "seen".to_owned(), ..Default::default() };
    Message {
        id: id.to_owned(),
        role: Role::Tool.into(),
        parts: vec![part(Kind::ToolResult(result))],
        ..Default::default()
    }
}

pub(crate) fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.id.as_str()).collect()
}

pub(crate) fn seqs(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| message.seq).collect()
}

/// A duration on the wire.
pub(crate) fn wire(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("a duration that fits")
}

/// A time on the wire in milliseconds.
pub(crate) fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("a time");
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

/// What the error tells beside its reason.
pub(crate) fn told(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    info.metadata.get(key).unwrap_or_else(|| panic!("no {key} in {info:?}")).clone()
}

/// The one stable name of why a call failed.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

/// Checks code and reason of a failed call.
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    outcome: Result<T, Status>,
    code: Code,
    expected: &str,
) -> Status {
    let status = outcome.expect_err("the call is refused");
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{status:?}");
    status
}

/// The fields that a refused call names.
pub(crate) fn violated(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().expect("a BadRequest");
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}
