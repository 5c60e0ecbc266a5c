//! What bounds the service from above: a tonic rpc that does nothing, and one that runs an operation's script alone.
//!
//! Both decode the request and answer with as many bytes as the service would; neither validates, converts or decides.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use fusewire::grpc::proto::{AcquireRequest, ReportRequest};
use http::{Request, Response};
use prost::Message as _;
use redis::{Script, ScriptInvocation, Value, aio::MultiplexedConnection};
use tonic::{
    Code, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, UnaryService},
    service::Routes,
    transport::Server,
};
use tower::Service;

const THREAD: &str = include_str!("../../src/redis/scripts/thread.lua");
const APPEND: &str = include_str!("../../src/redis/scripts/append.lua");
const BREAKER: &str = include_str!("../../src/redis/scripts/breaker.lua");
const TRIAL: &str = include_str!("../../src/redis/scripts/breaker_trial.lua");
const LEASE: &str = include_str!("../../src/redis/scripts/breaker_lease.lua");
const RECORD: &str = include_str!("../../src/redis/scripts/breaker_record.lua");
const PAGE: &str = include_str!("../../src/redis/scripts/page.lua");
const READ: &str = include_str!("../../src/redis/scripts/read.lua");

/// As the service's pool.
const CONNECTIONS: usize = 4;

/// Serves both ceilings at an address until the process is ended.
pub(crate) fn serve(arguments: &[String]) {
    let address: SocketAddr = arguments[0].parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = redis::Client::open(arguments[1].as_str()).expect("a URL of Redis");
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(client.get_multiplexed_async_connection().await.expect("redis answers"));
        }
        let ceiling = Arc::new(Ceiling {
            connections,
            next: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
            append: Script::new(&format!("{THREAD}{APPEND}")),
            read: Script::new(&format!("{THREAD}{PAGE}{READ}")),
            lease: Script::new(&format!("{BREAKER}{TRIAL}{LEASE}")),
            record: Script::new(&format!("{BREAKER}{RECORD}")),
        });
        let mut routes = Routes::builder();
        routes.add_service(Echo(Arc::clone(&ceiling)));
        routes.add_service(Bare(ceiling));
        eprintln!("listening address={address}");
        Server::builder().add_routes(routes.routes()).serve(address).await.expect("the ceilings are served");
    });
}

struct Ceiling {
    connections: Vec<MultiplexedConnection>,
    next: AtomicUsize,
    ids: AtomicU64,
    append: Script,
    read: Script,
    lease: Script,
    record: Script,
}

impl Ceiling {
    fn connection(&self) -> MultiplexedConnection {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections[next % self.connections.len()].clone()
    }

    /// Runs the script of an operation; answers how many bytes Redis said.
    async fn run(&self, operation: &str, request: Bytes) -> Result<usize, Status> {
        let undecodable = |error: prost::DecodeError| Status::new(Code::Internal, error.to_string());
        let invocation = match operation {
            "AcquireShared" | "AcquireCached" => {
                self.lease(&AcquireRequest::decode(request).map_err(undecodable)?.model_key)
            }
            "ReportHot" | "ReportMany" => {
                self.record(&ReportRequest::decode(request).map_err(undecodable)?.model_key)
            }
            thread => self.on_thread(thread),
        };
        let mut connection = self.connection();
        let reply: Value = invocation
            .invoke_async(&mut connection)
            .await
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok(size(&reply))
    }

    fn on_thread(&self, operation: &str) -> ScriptInvocation<'_> {
        let id = if operation == "AppendTo100" { "load-100" } else { "load-10000" };
        let thread = format!("conversation_thread:{{{id}}}");
        let parts = ["", ":messages", ":system", ":ids", ":ids:old", ":tombstone", ":changes"];
        let script = if operation.starts_with("Append") { &self.append } else { &self.read };
        let mut invocation = script.prepare_invoke();
        for part in parts {
            invocation.key(format!("{thread}{part}"));
        }
        invocation.arg(0);
        if operation.starts_with("Append") {
            let entry = [0_u8; 1100];
            let id = format!("{:026}", self.ids.fetch_add(1, Ordering::Relaxed));
            invocation.arg(&["append", "", "", "100000", "268435456", "64", "262144", "10000", ""]);
            invocation.arg(&["60000", "0"]);
            invocation
                .arg(id)
                .arg("00112233445566778899aabbccddeeff")
                .arg(0)
                .arg(256)
                .arg(1060)
                .arg(&entry[..]);
        } else {
            let limit = if operation == "ContextOf20" { 28 } else { 0 };
            let with_instructions = u8::from(limit > 0);
            invocation
                .arg(&["1", "", "-1", "0", "0", "1"])
                .arg(limit)
                .arg(3 << 20)
                .arg(0)
                .arg(with_instructions);
        }
        invocation
    }

    fn lease(&self, model: &str) -> ScriptInvocation<'_> {
        let mut invocation = on_breaker(&self.lease, model);
        let id = format!("{:032}", self.ids.fetch_add(1, Ordering::Relaxed));
        invocation.arg(&["0", "GRANT"]).arg(id).arg(&["120000", "1"]);
        invocation
    }

    fn record(&self, model: &str) -> ScriptInvocation<'_> {
        let mut invocation = on_breaker(&self.record, model);
        let number = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        invocation.arg("ceiling").arg(number).arg(&["1", "ceiling", "3600000", "", "-1", "s", "0", ""]);
        invocation
    }
}

/// A script on a breaker under the default policy.
fn on_breaker<'a>(script: &'a Script, model: &str) -> ScriptInvocation<'a> {
    let state = format!("circuit_breaker:{model}");
    let mut invocation = script.prepare_invoke();
    invocation.key(&state);
    for part in ["window", "leases", "settings", "log"] {
        invocation.key(format!("{{{state}}}:{part}"));
    }
    invocation.arg(&["0", "", "time", "60", "1", "86400000"]);
    invocation
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(size).sum(),
        Value::BulkString(bytes) => bytes.len(),
        _ => 8,
    }
}

/// Bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers one call of either ceiling.
struct Call {
    ceiling: Arc<Ceiling>,
    operation: String,
    runs_script: bool,
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = Answering<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (ceiling, operation, runs_script) =
            (Arc::clone(&self.ceiling), self.operation.clone(), self.runs_script);
        Box::pin(async move {
            let length = if runs_script {
                ceiling.run(&operation, request.into_inner()).await?
            } else if operation == "ContextOf20" {
                22_000
            } else {
                200
            };
            Ok(tonic::Response::new(Bytes::from(vec![b'x'; length])))
        })
    }
}

macro_rules! ceiling {
    ($name:ident, $path:literal, $runs_script:literal) => {
        #[derive(Clone)]
        struct $name(Arc<Ceiling>);

        impl NamedService for $name {
            const NAME: &'static str = $path;
        }

        impl Service<Request<Body>> for $name {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Answering<Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                let operation = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                let call = Call { ceiling: Arc::clone(&self.0), operation, runs_script: $runs_script };
                Box::pin(async move { Ok(Grpc::new(Raw).unary(call, request).await) })
            }
        }
    };
}

ceiling!(Echo, "echo", false);
ceiling!(Bare, "bare", true);
