//! A unary call by hand over HTTP/2: sent in two halves, or with a deadline that only the server keeps. Generated
//! clients keep it too, and would be the first to give up.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{
    Ping, RecvStream, SendStream,
    client::{ResponseFuture, handshake},
};
use http::{HeaderMap, Request};
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Code, Status};

use super::fusewire::Fusewire;

/// A call whose request is not sent yet. Its connection is its own and closes with it.
pub(crate) struct RawCall {
    answer: ResponseFuture,
    body: SendStream<Bytes>,
    _connection: JoinSet<()>,
}

impl RawCall {
    /// Connects over TCP and sends the headers; `timeout` as in `grpc-timeout`.
    pub(crate) async fn begin(service: &Fusewire, method: &str, timeout: Option<&str>) -> Self {
        let addr =
            service.uri().strip_prefix("http://").expect("a service started with FusewireOptions::tcp()");
        let stream = TcpStream::connect(addr).await.expect("the service listens");
        let (client, mut connection) = handshake(stream).await.expect("the service speaks HTTP/2");
        let mut pings = connection.ping_pong().expect("the first to ask");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // However it ends, the call shows it.
            let _ = connection.await;
        });
        let mut request =
            Request::post(format!("{}/fusewire.v1.ConversationThreads/{method}", service.uri()))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let mut client = client.ready().await.expect("the service takes streams");
        let request = request.body(()).expect("the headers are valid");
        let (answer, body) = client.send_request(request, false).expect("the stream opens");
        // What was sent before a ping has arrived when that is answered.
        pings.ping(Ping::opaque()).await.expect("the service answers pings");
        Self { answer, body, _connection: tasks }
    }

    /// Whether the service has answered before the request was sent, as it does where it has too many calls. Once it says so,
    /// nothing more may be asked of this call.
    pub(crate) fn is_refused(&mut self) -> bool {
        (&mut self.answer).now_or_never().is_some()
    }

    /// Sends the request and waits for the answer.
    pub(crate) async fn finish<A: prost::Message + Default>(
        mut self,
        request: &impl prost::Message,
    ) -> Result<A, Status> {
        let message = request.encode_to_vec();
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).expect("a small message"));
        framed.put_slice(&message);
        self.body.send_data(framed.freeze(), true).map_err(broken)?;
        let (head, mut body) = self.answer.await.map_err(broken)?.into_parts();
        judge(&head.headers)?;
        let answer = read(&mut body).await.map_err(broken)?;
        judge(&body.trailers().await.map_err(broken)?.unwrap_or_default())?;
        A::decode(answer.slice(5..)).map_err(|fault| Status::internal(fault.to_string()))
    }
}

fn judge(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        Some(_) | None => Ok(()),
    }
}

async fn read(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it away")]
fn broken(error: h2::Error) -> Status {
    Status::unknown(format!("the connection failed: {error}"))
}
