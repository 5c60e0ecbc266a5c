//! The operations that are measured, with their requests.

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, CreateThreadRequest, GetContextRequest, GetThreadRequest,
    Message, Part, Role, TrimPolicy, conversation_threads_client::ConversationThreadsClient, part::Kind,
};
use prost::Message as _;
use tonic::transport::Endpoint;

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
}

impl Operation {
    pub(crate) const ALL: [Self; 4] =
        [Self::AppendTo100, Self::AppendTo10000, Self::ContextOf20, Self::GetThread];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppendTo100 => "AppendMessages, 1 KiB, to 100",
            Self::AppendTo10000 => "AppendMessages, 1 KiB, to 10,000",
            Self::ContextOf20 => "GetContext, 20 of 10,000",
            Self::GetThread => "GetThread",
        }
    }

    /// The thread that it works on.
    pub(crate) fn thread(self) -> &'static str {
        match self {
            Self::AppendTo100 => "load-100",
            Self::AppendTo10000 | Self::ContextOf20 | Self::GetThread => "load-10000",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::AppendTo100 | Self::AppendTo10000 => "AppendMessages",
            Self::ContextOf20 => "GetContext",
            Self::GetThread => "GetThread",
        }
    }

    /// The path on one of the servers.
    pub(crate) fn path(self, server: &str) -> String {
        match server {
            "service" => format!("/fusewire.v1.ConversationThreads/{}", self.method()),
            ceiling => format!("/{ceiling}/{self:?}"),
        }
    }

    /// The request, encoded.
    pub(crate) fn body(self) -> Vec<u8> {
        let thread_id = self.thread().to_owned();
        match self {
            Self::AppendTo100 | Self::AppendTo10000 => {
                AppendMessagesRequest { thread_id, messages: vec![message()], ..Default::default() }
                    .encode_to_vec()
            }
            Self::ContextOf20 => {
                GetContextRequest { thread_id, max_messages: 20, ..Default::default() }.encode_to_vec()
            }
            Self::GetThread => GetThreadRequest { thread_id, ..Default::default() }.encode_to_vec(),
        }
    }

    /// Makes the thread.
    pub(crate) fn prepare(self, service: &Server) {
        let length = if self == Self::AppendTo100 { 100 } else { 10_000 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{}", service.address)).expect("an address");
            let mut client =
                ConversationThreadsClient::new(endpoint.connect().await.expect("the service answers"));
            let trim = Some(TrimPolicy { max_messages: length, max_bytes: 0 });
            let thread = ConversationThread { id: self.thread().to_owned(), trim, ..Default::default() };
            let made = client
                .create_thread(CreateThreadRequest { thread: Some(thread), ..Default::default() })
                .await;
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
        });
    }
}

/// A message of 1 KiB; the server gives it an id.
fn message() -> Message {
    let part = Part { kind: Some(Kind::Text("x".repeat(1024))), ..Default::default() };
    Message { role: Role::User.into(), parts: vec![part], ..Default::default() }
}
