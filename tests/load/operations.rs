//! The operations that are measured, with their requests.

use fusewire::grpc::proto::{
    AcquireRequest, Admission, AppendMessagesRequest, ConversationThread, CreateThreadRequest,
    GetContextRequest, GetThreadRequest, Message, Outcome, Part, ReportRequest, Role, TrimPolicy,
    circuit_breakers_client::CircuitBreakersClient, conversation_threads_client::ConversationThreadsClient,
    part::Kind,
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use crate::servers::Server;

/// An operation under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// One message of 1 KiB to a thread of 100, which trimming keeps at 100.
    AppendTo100,
    /// The same, at 10,000.
    AppendTo10000,
    /// The newest 20 of 10,000 messages of 1 KiB.
    ContextOf20,
    /// A thread without its messages.
    GetThread,
    /// Leave to call a model whose breaker is CLOSED, asked of Redis.
    AcquireShared,
    /// The same, by what the instance knows.
    AcquireCached,
    /// Reports of calls of one model.
    ReportHot,
    /// Reports of calls of many models.
    ReportMany,
}

/// How many models there are where they are many.
const MODELS: usize = 2048;

impl Operation {
    pub(crate) const ALL: [Self; 8] = [
        Self::AppendTo100,
        Self::AppendTo10000,
        Self::ContextOf20,
        Self::GetThread,
        Self::AcquireShared,
        Self::AcquireCached,
        Self::ReportHot,
        Self::ReportMany,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppendTo100 => "AppendMessages, 1 KiB, to 100",
            Self::AppendTo10000 => "AppendMessages, 1 KiB, to 10,000",
            Self::ContextOf20 => "GetContext, 20 of 10,000",
            Self::GetThread => "GetThread",
            Self::AcquireShared => "Acquire, SHARED",
            Self::AcquireCached => "Acquire, CACHED",
            Self::ReportHot => "Report, one model",
            Self::ReportMany => "Report, 2,048 models",
        }
    }

    /// What it is meant to reach.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::AppendTo100 | Self::AppendTo10000 => "0.85 × bare",
            Self::ContextOf20 => "0.75 × bare",
            Self::GetThread => "",
            Self::AcquireShared | Self::ReportMany => "0.90 × bare",
            Self::AcquireCached => "0.90 × echo, no script calls",
            Self::ReportHot => "0.75 × echo, 0.1 script calls",
        }
    }

    /// The thread that it works on.
    fn thread(self) -> &'static str {
        if self == Self::AppendTo100 { "load-100" } else { "load-10000" }
    }

    fn method(self) -> &'static str {
        match self {
            Self::AppendTo100 | Self::AppendTo10000 => "AppendMessages",
            Self::ContextOf20 => "GetContext",
            Self::GetThread => "GetThread",
            Self::AcquireShared | Self::AcquireCached => "Acquire",
            Self::ReportHot | Self::ReportMany => "Report",
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::AppendTo100 | Self::AppendTo10000 | Self::ContextOf20 | Self::GetThread => {
                "ConversationThreads"
            }
            Self::AcquireShared | Self::AcquireCached | Self::ReportHot | Self::ReportMany => {
                "CircuitBreakers"
            }
        }
    }

    /// The path on one of the servers.
    pub(crate) fn path(self, server: &str) -> String {
        match server {
            "service" => format!("/fusewire.v1.{}/{}", self.service(), self.method()),
            ceiling => format!("/{ceiling}/{self:?}"),
        }
    }

    /// The requests, encoded; several take turns.
    pub(crate) fn requests(self) -> Vec<Vec<u8>> {
        let thread_id = self.thread().to_owned();
        let request = match self {
            Self::AppendTo100 | Self::AppendTo10000 => {
                AppendMessagesRequest { thread_id, messages: vec![message()], ..Default::default() }
                    .encode_to_vec()
            }
            Self::ContextOf20 => {
                GetContextRequest { thread_id, max_messages: 20, ..Default::default() }.encode_to_vec()
            }
            Self::GetThread => GetThreadRequest { thread_id, ..Default::default() }.encode_to_vec(),
            Self::AcquireShared => acquire(Admission::Shared).encode_to_vec(),
            Self::AcquireCached => acquire(Admission::Cached).encode_to_vec(),
            Self::ReportHot => report(0).encode_to_vec(),
            Self::ReportMany => return (0..MODELS).map(|n| report(n).encode_to_vec()).collect(),
        };
        vec![request]
    }

    /// Makes what it works on.
    pub(crate) fn prepare(self, service: &Server) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{}", service.address)).expect("an address");
            let channel = endpoint.connect().await.expect("the service answers");
            match self.service() {
                "ConversationThreads" => self.make_thread(channel).await,
                _ => self.make_breakers(channel).await,
            }
        });
    }

    async fn make_breakers(self, channel: Channel) {
        let mut client = CircuitBreakersClient::new(channel);
        let models = if self == Self::ReportMany { MODELS } else { 1 };
        for n in 0..models {
            client.report(report(n)).await.expect("the report is counted");
        }
    }

    async fn make_thread(self, channel: Channel) {
        let length = if self == Self::AppendTo100 { 100 } else { 10_000 };
        let mut client = ConversationThreadsClient::new(channel);
        let trim = Some(TrimPolicy { max_messages: length, max_bytes: 0 });
        let thread = ConversationThread { id: self.thread().to_owned(), trim, ..Default::default() };
        let made =
            client.create_thread(CreateThreadRequest { thread: Some(thread), ..Default::default() }).await;
        if made.is_err() {
            // An operation before this one made it.
            return;
        }
        for _ in 0..length / 100 {
            let request = AppendMessagesRequest {
                thread_id: self.thread().to_owned(),
                messages: vec![message(); 100],
                ..Default::default()
            };
            client.append_messages(request).await.expect("the messages are appended");
        }
    }
}

fn model(n: usize) -> String {
    format!("provider:model-{n}")
}

fn acquire(admission: Admission) -> AcquireRequest {
    AcquireRequest { model_key: model(0), admission: admission.into(), ..Default::default() }
}

/// The report of a call that went well.
fn report(n: usize) -> ReportRequest {
    ReportRequest { model_key: model(n), outcome: Outcome::Success.into(), ..Default::default() }
}

/// A message of 1 KiB; the server gives it an id.
pub(crate) fn message() -> Message {
    let part = Part { kind: Some(Kind::Text("x".repeat(1024))), ..Default::default() };
    Message { role: Role::User.into(), parts: vec![part], ..Default::default() }
}
