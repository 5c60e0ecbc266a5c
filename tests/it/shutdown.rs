//! The end: nothing acknowledged is lost, nobody can hold it up, and a second signal does not wait.

use std::{collections::HashMap, time::Duration};

use fusewire::grpc::proto::{AppendMessagesResponse, Authority};
use nix::sys::signal::Signal;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_stream::StreamExt;
use tonic::Status;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, Store},
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    health::watch,
    raw_call::RawCall,
    threads::{Threads, appending, reason, user},
};

const SOON: Duration = Duration::from_secs(15);
/// Well within the default drain deadline of 10 s.
const WELL_WITHIN: Duration = Duration::from_secs(5);
const DRAIN: &str = "FUSEWIRE__SERVER__DRAIN_DEADLINE";

fn without_redis() -> FusewireOptions {
    FusewireOptions::tcp().var("USE_REDIS", "false")
}

/// Holds a call open: its headers are there, its message is not. The service takes only one at a time.
async fn held(service: &Fusewire, threads: &Threads) -> RawCall {
    threads.create("t").await;
    let mut call = RawCall::begin(service, "AppendMessages", None).await;
    eventually("the call is under way", SOON, async || {
        // The look below takes the only place for a moment. A call that comes just then is refused.
        if call.is_refused() {
            call = RawCall::begin(service, "AppendMessages", None).await;
        }
        threads.peek("t").await.is_err_and(|status| reason(&status) == "TOO_MANY_CALLS")
    })
    .await;
    call
}

fn one_at_a_time() -> FusewireOptions {
    without_redis().var("FUSEWIRE__SERVER__MAX_CONCURRENT_CALLS", "1")
}

#[tokio::test]
async fn either_signal_ends_an_idle_service_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut service = Fusewire::start(without_redis()).await;
        let channel = service.channel().await;
        Threads::on(channel).create("t").await;
        let began = Instant::now();
        service.signal(signal);
        assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
        eprintln!("{signal}: ended after {:?}", began.elapsed());
        assert!(service.log().last().unwrap().contains("fusewire ended"), "{:#?}", service.log());
    }
}

#[tokio::test]
async fn a_client_that_never_speaks_does_not_hold_the_end_beyond_the_drain_deadline() {
    let mut service = Fusewire::start(without_redis().var(DRAIN, "1s")).await;
    let addr = service.uri().strip_prefix("http://").unwrap().to_owned();
    let _silent = TcpStream::connect(addr).await.unwrap();
    let _speaking = service.channel().await;
    let began = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
    eprintln!("ended after {:?}, the drain deadline is 1 s", began.elapsed());
}

#[tokio::test]
async fn an_open_watch_of_health_does_not_hold_the_end() {
    let mut service = Fusewire::start(without_redis()).await;
    let mut open = watch(&service.channel().await, "").await;
    assert_eq!(open.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let began = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
    eprintln!("ended after {:?}", began.elapsed());
}

#[tokio::test]
async fn an_open_reflection_stream_does_not_hold_the_end() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let mut service = Fusewire::start(without_redis()).await;
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut client = ServerReflectionClient::new(service.channel().await);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
}

#[tokio::test]
async fn a_call_under_way_finishes_and_others_do_not_begin() {
    let mut service = Fusewire::start(one_at_a_time()).await;
    let channel = service.channel().await;
    let threads = Threads::on(channel.clone());
    let mut health = watch(&channel, "").await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let call = held(&service, &threads).await;
    service.signal(Signal::SIGTERM);
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(health.next().await.is_none());
    assert_closed(&threads.peek("t").await.unwrap_err());
    let answer: AppendMessagesResponse = call.finish(&appending("t", vec![user("a", "1")])).await.unwrap();
    assert_eq!((answer.messages[0].seq, answer.authority()), (1, Authority::Local));
    assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
    let log = service.log();
    assert!(log.iter().any(|line| line.contains("shutting down") && line.contains("calls=1")), "{log:#?}");
}

#[tokio::test]
async fn a_call_that_outlives_the_drain_deadline_is_cut() {
    let mut service = Fusewire::start(one_at_a_time().var(DRAIN, "1s")).await;
    let threads = Threads::on(service.channel().await);
    let call = held(&service, &threads).await;
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(0));
    assert_eq!(service.logged("the server stopped at the drain deadline"), 1, "{:#?}", service.log());
    let cut = call.finish::<AppendMessagesResponse>(&appending("t", vec![user("a", "1")])).await;
    cut.expect_err("the call was cut");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut service = Fusewire::start(one_at_a_time()).await;
        let threads = Threads::on(service.channel().await);
        let _call = held(&service, &threads).await;
        service.signal(Signal::SIGTERM);
        service.wait_for_log("shutting down", SOON).await;
        let began = Instant::now();
        service.signal(signal);
        assert_eq!(service.wait_exit(WELL_WITHIN).await.code(), Some(code));
        eprintln!("{signal}: ended after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_file_of_a_unix_socket_goes_with_the_service() {
    let mut service = Fusewire::start(FusewireOptions::unix_socket().var("USE_REDIS", "false")).await;
    let socket = service.dir().join("fusewire.sock");
    assert!(socket.exists());
    service.signal(Signal::SIGTERM);
    assert!(service.wait_exit(WELL_WITHIN).await.success());
    assert!(!socket.exists());
}

/// Checks that a call failed because the service ends, and for nothing else. One that meets the closing connection is
/// never begun, which the client says in words of its own.
fn assert_closed(status: &Status) {
    let said = status.get_details_error_info().map(|info| info.reason);
    assert!(said.is_none_or(|reason| reason == "SHUTTING_DOWN"), "{status:?}");
}

/// What a writer was told: ids that are in Redis, and how its last call failed.
type Told = (Vec<String>, Status);

/// Lets 8 writers append until they fail, which `end` brings about; answers what each was told.
async fn written_until(on: &mut Deployment, end: impl FnOnce(&mut Fusewire)) -> Vec<Told> {
    on.threads().create("t").await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let threads = Threads::on(on.service.channel().await);
        writers.spawn(async move {
            let mut told = Vec::new();
            for n in 0.. {
                let id = format!("{writer}-{n}");
                match threads.try_append(appending("t", vec![user(&id, "x")])).await {
                    Ok(made) if made.authority() == Authority::Shared => told.push(id),
                    // On a machine that is busy enough to be taken for an outage; no promise is made then.
                    Ok(made) => assert!(made.messages[0].provisional, "{made:?}"),
                    Err(status) => return (told, status),
                }
            }
            unreachable!("the numbers do not end")
        });
    }
    let threads = on.threads();
    eventually("the load is under way", SOON, async || {
        threads.peek("t").await.is_ok_and(|thread| thread.message_count > 400)
    })
    .await;
    end(&mut on.service);
    writers.join_all().await
}

/// Checks through another service that each message is there once.
async fn assert_kept(on: &Deployment, told: &[Told]) {
    let other = on.another(&[]).await;
    let mut found: HashMap<String, usize> = HashMap::new();
    for message in Threads::on(other.channel().await).messages("t").await {
        *found.entry(message.id).or_default() += 1;
    }
    for (ids, status) in told {
        eprintln!("{} acknowledged, then {status:?}", ids.len());
        for id in ids {
            assert_eq!(found.get(id), Some(&1), "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_under_load_loses_no_acknowledged_message() {
    let mut on = Deployment::start(Store::Redis).await;
    let told = written_until(&mut on, |service| service.signal(Signal::SIGTERM)).await;
    assert_eq!(on.service.wait_exit(WELL_WITHIN).await.code(), Some(0));
    for (_, status) in &told {
        assert_closed(status);
    }
    assert_kept(&on, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_under_load_loses_no_acknowledged_message() {
    let mut on = Deployment::start(Store::Redis).await;
    let told = written_until(&mut on, Fusewire::kill).await;
    assert_kept(&on, &told).await;
}
