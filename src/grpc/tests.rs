//! The server around a store that only waits: limits of calls, health, reflection, and every way to hold up its end.

use std::{future::Future, net::SocketAddr};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt, iter, pending};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use super::{
    breakers::tests::UpAndDown,
    proto::{
        AcquireRequest, DeleteThreadRequest, GetThreadRequest, WatchBreakersRequest,
        circuit_breakers_client::CircuitBreakersClient,
        conversation_threads_client::ConversationThreadsClient,
    },
    *,
};
use crate::{
    call::{Answer, Call},
    clock::Timestamp,
    settings::Listen,
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Fork, Guard, MessageUpdate, MessagesPage,
        MessagesQuery, NewThread, Swept, Thread, ThreadChange, ThreadId, ThreadsPage, ThreadsQuery,
        UpdatedMessage,
        watch::{Followed, Since},
    },
};

const SERVICES: [&str; 3] =
    ["fusewire.v1.CircuitBreakers", "fusewire.v1.ConversationThreads", "fusewire.v1.Diagnostics"];

/// Holds no thread, and says so to `get` when told to go on.
#[derive(Debug)]
struct Waiting {
    /// A permit for each call that waits.
    waiting: Semaphore,
    /// A permit for each call that may go on.
    going_on: Semaphore,
}

fn refused<T: Send>() -> impl Future<Output = Result<T>> + Send {
    std::future::ready(Err(Error::NeedsShared("this test")))
}

type Ended<T> = Result<Answer<T>>;

impl ThreadStore for Waiting {
    async fn get(&self, _: &Call, id: &ThreadId, _: bool) -> Ended<Thread> {
        self.waiting.add_permits(1);
        let _permit = self.going_on.acquire().await;
        Err(Error::ThreadNotFound { id: id.to_string() })
    }

    async fn delete(&self, _: &Call, id: &ThreadId, _: &Guard) -> Ended<()> {
        Err(Error::ThreadNotFound { id: id.to_string() })
    }

    fn create(&self, _: &Call, _: &NewThread) -> impl Future<Output = Ended<Appended>> + Send {
        refused()
    }

    fn list(&self, _: &Call, _: &ThreadsQuery) -> impl Future<Output = Ended<ThreadsPage>> + Send {
        refused()
    }

    fn update(
        &self,
        _: &Call,
        _: &ThreadId,
        _: &ThreadChange,
        _: &Guard,
    ) -> impl Future<Output = Ended<Thread>> + Send {
        refused()
    }

    fn touch(&self, _: &Call, _: &ThreadId, _: Option<Ttl>) -> impl Future<Output = Ended<Thread>> + Send {
        refused()
    }

    fn append(&self, _: &Call, _: &Append) -> impl Future<Output = Ended<Appended>> + Send {
        refused()
    }

    fn messages(&self, _: &Call, _: &MessagesQuery) -> impl Future<Output = Ended<MessagesPage>> + Send {
        refused()
    }

    fn context(&self, _: &Call, _: &ContextQuery) -> impl Future<Output = Ended<Context>> + Send {
        refused()
    }

    fn update_message(
        &self,
        _: &Call,
        _: &MessageUpdate,
    ) -> impl Future<Output = Ended<UpdatedMessage>> + Send {
        refused()
    }

    fn truncate(
        &self,
        _: &Call,
        _: &ThreadId,
        _: Cut,
        _: &Guard,
    ) -> impl Future<Output = Ended<Thread>> + Send {
        refused()
    }

    fn fork(&self, _: &Call, _: &Fork) -> impl Future<Output = Ended<Thread>> + Send {
        refused()
    }

    fn follow(&self, _: &Call, _: &ThreadId, _: &Since) -> impl Future<Output = Ended<Followed>> + Send {
        refused()
    }

    fn sweep(&self) -> impl Future<Output = Result<Swept>> + Send {
        refused()
    }
}

struct Running {
    address: SocketAddr,
    store: Arc<Waiting>,
    serving: watch::Sender<Serving>,
    shutdown: Shutdown,
    server: JoinHandle<Result<()>>,
}

fn as_of_now(mode: ServingMode) -> Serving {
    Serving { mode, since: Timestamp::default() }
}

/// A process that knows nothing of itself.
fn diagnostics() -> Diagnostics {
    Diagnostics {
        instance: "me".into(),
        started: Timestamp::default(),
        redis: None,
        journal: None,
        doorbell: None,
        local_threads: Box::new(|| 0),
        local_breakers: Box::new(|| 0),
    }
}

impl Running {
    async fn start(drain_deadline: Duration) -> Self {
        let settings = ServerSettings {
            listen: Vec::new(),
            max_request_bytes: 8 << 20,
            max_response_bytes: 64 << 20,
            max_concurrent_streams: 100,
            max_concurrent_calls: 2,
            max_open_streams: 2,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            drain_deadline,
        };
        let ttl = Ttl::new("", Duration::from_hours(2)).unwrap();
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".into())).await.unwrap();
        let address = listener.local_address().parse().unwrap();
        let store = Arc::new(Waiting { waiting: Semaphore::new(0), going_on: Semaphore::new(0) });
        let (serving, told) = watch::channel(as_of_now(ServingMode::Degraded));
        let shutdown = Shutdown::new();
        let breakers = Arc::new(UpAndDown);
        let threads = Arc::clone(&store);
        let wakers = Wakers::default();
        let backend = Backend { threads, wakers, breakers, diagnostics: diagnostics() };
        let server = serve(vec![listener], settings, ttl, backend, told, shutdown.clone());
        let server = shutdown.spawn("server", server);
        Self { address, store, serving, shutdown, server }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// A call that the store keeps waiting.
    async fn call_in_flight(&self) -> JoinHandle<Status> {
        let mut client = ConversationThreadsClient::new(self.channel().await);
        let request = GetThreadRequest { thread_id: "t".into(), ..Default::default() };
        let call = self.shutdown.spawn("call", async move { client.get_thread(request).await.unwrap_err() });
        self.store.waiting.acquire().await.unwrap().forget();
        call
    }

    /// Shuts down and tells how long that took.
    async fn end(self) -> Duration {
        let began = Instant::now();
        self.shutdown.trigger();
        timeout(Duration::from_secs(20), self.server).await.unwrap().unwrap().unwrap();
        began.elapsed()
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map_or_else(String::new, |info| info.reason.clone())
}

fn asked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn an_open_watch_and_an_open_reflection_stream_do_not_hold_the_end() {
    let running = Running::start(Duration::from_secs(10)).await;
    let channel = running.channel().await;
    let mut watch = HealthClient::new(channel.clone()).watch(asked("")).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let requests = iter([list]).chain(pending());
    let mut reflected =
        ServerReflectionClient::new(channel).server_reflection_info(requests).await.unwrap().into_inner();
    let answer = reflected.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    for name in SERVICES {
        assert!(services.service.iter().any(|service| service.name == name), "{name}");
    }

    assert!(running.end().await < Duration::from_secs(5));
    assert_eq!(watch.next().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
    assert!(watch.next().await.is_none());
    assert!(reflected.next().await.is_none());
}

#[tokio::test]
async fn a_call_in_flight_finishes_and_no_connection_is_accepted_meanwhile() {
    let running = Running::start(Duration::from_secs(10)).await;
    let address = running.address;
    let store = Arc::clone(&running.store);
    let call = running.call_in_flight().await;
    let ending = tokio::join!(running.end(), async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.going_on.add_permits(1);
    });
    assert!(ending.0 < Duration::from_secs(5));
    let status = call.await.unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "THREAD_NOT_FOUND"));
}

#[tokio::test]
async fn a_call_that_outlives_the_deadline_is_cut_and_a_silent_client_left_behind() {
    let running = Running::start(Duration::from_secs(1)).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let call = running.call_in_flight().await;
    let took = running.end().await;
    assert!((Duration::from_millis(800)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    let status = call.await.unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    // Still open: it ends with the process.
    let mut byte = [0];
    let _ = timeout(Duration::from_millis(10), silent.read(&mut byte)).await;
}

#[tokio::test]
async fn health_tells_of_redis_under_its_own_name() {
    let running = Running::start(Duration::from_secs(1)).await;
    let mut client = HealthClient::new(running.channel().await);
    let mut redis = client.watch(asked("redis")).await.unwrap().into_inner();
    assert_eq!(redis.next().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
    running.serving.send(as_of_now(ServingMode::Shared)).unwrap();
    assert_eq!(redis.next().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
    for service in SERVICES.into_iter().chain([""]) {
        let check = client.check(asked(service)).await.unwrap().into_inner();
        assert_eq!(check.status, ServingStatus::Serving as i32, "{service}");
    }
}

#[tokio::test]
async fn a_missing_thread_is_deleted_already_if_the_caller_says_so() {
    let running = Running::start(Duration::from_secs(1)).await;
    let mut client = ConversationThreadsClient::new(running.channel().await);
    let request = DeleteThreadRequest { thread_id: "t".into(), ..Default::default() };
    let status = client.delete_thread(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "THREAD_NOT_FOUND");
    let answer = client.delete_thread(DeleteThreadRequest { allow_missing: true, ..request }).await.unwrap();
    assert_eq!(answer.into_inner().authority(), proto::Authority::Shared);
}

#[tokio::test]
async fn breakers_are_served() {
    let running = Running::start(Duration::from_secs(1)).await;
    let mut client = CircuitBreakersClient::new(running.channel().await);
    let request = AcquireRequest { model_key: "up".into(), ..Default::default() };
    assert!(client.acquire(request).await.unwrap().into_inner().admitted);
    let status = client.acquire(AcquireRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
    assert!(client.watch_breakers(WatchBreakersRequest::default()).await.is_ok());
}

#[tokio::test]
async fn a_request_over_the_decode_limit_is_an_invalid_argument() {
    let running = Running::start(Duration::from_secs(1)).await;
    let mut client = ConversationThreadsClient::new(running.channel().await);
    let request = GetThreadRequest { thread_id: "t".repeat((8 << 20) + 1), ..Default::default() };
    let status = client.get_thread(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
}
