//! `grpc.health.v1` and reflection, as load balancers and grpcurl ask them.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    behind_proxy::BehindProxy,
    fusewire::{Fusewire, FusewireOptions},
    health::{check, watch},
};

const SERVICE: &str = "fusewire.v1.ConversationThreads";
const BREAKERS: &str = "fusewire.v1.CircuitBreakers";
const DIAGNOSTICS: &str = "fusewire.v1.Diagnostics";
const SOON: Duration = Duration::from_secs(15);

async fn without_redis() -> Fusewire {
    Fusewire::start(FusewireOptions::unix_socket().var("USE_REDIS", "false")).await
}

#[tokio::test]
async fn in_an_outage_redis_is_not_serving_and_the_service_is() {
    let on = BehindProxy::start().await;
    let mut redis = watch(&on.channel, "redis").await;
    assert_eq!(redis.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    on.lose().await;
    assert_eq!(redis.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    for name in ["", SERVICE, BREAKERS, DIAGNOSTICS] {
        assert_eq!(check(&on.channel, name).await.unwrap(), ServingStatus::Serving);
    }
    on.restore().await;
    assert_eq!(redis.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn redis_switched_off_and_unknown_services_are_not_found() {
    let service = without_redis().await;
    let channel = service.channel().await;
    for name in ["", SERVICE, BREAKERS, DIAGNOSTICS] {
        assert_eq!(check(&channel, name).await.unwrap(), ServingStatus::Serving);
    }
    for name in ["redis", "fusewire.v1.Nothing"] {
        assert_eq!(check(&channel, name).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_watch_is_told_not_serving_before_it_ends() {
    let mut service = without_redis().await;
    let channel = service.channel().await;
    let mut watches = Vec::new();
    for name in ["", SERVICE, BREAKERS, DIAGNOSTICS] {
        let mut watch = watch(&channel, name).await;
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watches.push(watch);
    }
    service.signal(Signal::SIGTERM);
    for mut watch in watches {
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(watch.next().await.is_none());
    }
    assert!(service.wait_exit(SOON).await.success());
}

fn assert_services(found: &[String]) {
    for service in [SERVICE, BREAKERS, DIAGNOSTICS, "grpc.health.v1.Health"] {
        assert!(found.iter().any(|name| name == service), "{found:?}");
    }
}

#[tokio::test]
async fn reflection_v1_lists_the_services_and_gives_the_files() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let service = without_redis().await;
    let ask = async |channel: Channel, message_request| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let mut client = ServerReflectionClient::new(channel);
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        answers.into_inner().next().await.unwrap().unwrap().message_response.unwrap()
    };
    let channel = service.channel().await;
    let MessageResponse::ListServicesResponse(list) =
        ask(channel.clone(), MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    assert_services(&list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
    for symbol in [SERVICE, BREAKERS, "fusewire.v1.Message", "google.rpc.ErrorInfo", "google.rpc.RetryInfo"] {
        let answer = ask(channel.clone(), MessageRequest::FileContainingSymbol(symbol.into())).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }
}

#[tokio::test]
async fn reflection_v1alpha_lists_the_services() {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let service = without_redis().await;
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut client = ServerReflectionClient::new(service.channel().await);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("no list of services: {answer:?}")
    };
    assert_services(&list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
}
