//! TLS to Redis: authorities, names and client certificates.

use std::path::Path;

use fusewire::grpc::proto::Authority;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{options, serves};
use crate::support::{
    fusewire::{Fusewire, FusewireOptions},
    health::check,
    redis_options::{ClientCertificates, RedisOptions},
    redis_server::RedisServer,
    threads::{Threads, thread},
    tls::TlsFiles,
};

fn file(options: FusewireOptions, name: &str, path: &Path) -> FusewireOptions {
    options.var(&format!("FUSEWIRE__REDIS__TLS__{name}"), path.to_str().unwrap())
}

fn with_client(options: FusewireOptions, files: &TlsFiles) -> FusewireOptions {
    file(file(options, "CERT_FILE", &files.client_cert), "KEY_FILE", &files.client_key)
}

/// Checks that a service starts but cannot use this Redis, and that one line of its log says why.
async fn assert_unusable(options: FusewireOptions, why: &str) {
    let service = Fusewire::start(options).await;
    let channel = service.channel().await;
    let redis = check(&channel, "redis").await.unwrap();
    assert_eq!(redis, ServingStatus::NotServing, "{:#?}", service.log());
    let threads = Threads::on(channel);
    if let Ok(made) = threads.try_create(thread("t")).await {
        assert_eq!(made.authority(), Authority::Local, "{:#?}", service.log());
    }
    let lines: Vec<String> =
        service.log().into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    eprintln!("{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].to_lowercase().contains(&why.to_lowercase()), "{why:?} in {lines:#?}");
}

#[tokio::test]
async fn an_own_authority_is_trusted_when_it_is_named() {
    let files = TlsFiles::for_localhost();
    let redis = RedisServer::start(RedisOptions::tls(&files, ClientCertificates::Ignored)).await;
    let options = options().var("REDIS_URL", &redis.url());
    let service = serves(file(options.clone(), "CA_FILE", &files.ca)).await;
    assert_eq!(service.logged(&format!("rediss://{}/0", redis.addr())), 1, "{:#?}", service.log());
    drop(service);
    redis.raw().await.run(&["FLUSHALL"]).await;
    // By name, and with the scheme of Valkey.
    let by_name = format!("valkeys://localhost:{}", redis.addr().port());
    serves(file(options.clone().var("REDIS_URL", &by_name), "CA_FILE", &files.ca)).await;
    assert_unusable(file(options.clone(), "CA_FILE", &files.other_ca), "certificate").await;
    assert_unusable(options, "certificate").await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_it_is_configured() {
    let files = TlsFiles::for_localhost();
    for clients in [ClientCertificates::Required, ClientCertificates::Optional] {
        let redis = RedisServer::start(RedisOptions::tls(&files, clients)).await;
        let options = file(options().var("REDIS_URL", &redis.url()), "CA_FILE", &files.ca);
        serves(with_client(options.clone(), &files)).await;
        redis.raw().await.run(&["FLUSHALL"]).await;
        match clients {
            ClientCertificates::Required => assert_unusable(options, "redis").await,
            ClientCertificates::Optional | ClientCertificates::Ignored => drop(serves(options).await),
        }
    }
}

#[tokio::test]
async fn a_user_of_the_access_list_logs_in_over_tls() {
    let files = TlsFiles::for_localhost();
    let redis = RedisOptions::tls(&files, ClientCertificates::Required)
        .require_password("default-password")
        .acl_user("app", "s3cr3t", "~conversation_thread* +@all");
    let redis = RedisServer::start(redis).await;
    let options = file(options().var("REDIS_URL", &redis.url_as("app", "s3cr3t")), "CA_FILE", &files.ca);
    let service = serves(with_client(options, &files)).await;
    assert_eq!(service.logged(&format!("rediss://app:***@{}/0", redis.addr())), 1, "{:#?}", service.log());
    assert_eq!(service.logged("s3cr3t"), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_accepted_only_when_told_to() {
    let files = TlsFiles::for_another_name();
    let redis = RedisServer::start(RedisOptions::tls(&files, ClientCertificates::Ignored)).await;
    let options = file(options().var("REDIS_URL", &redis.url()), "CA_FILE", &files.ca);
    assert_unusable(options.clone(), "certificate").await;
    let accepting =
        |options: FusewireOptions| options.var("FUSEWIRE__REDIS__TLS__ACCEPT_UNVERIFIED_NAME", "true");
    serves(accepting(options.clone())).await;
    // The name alone: the authority is still asked for.
    assert_unusable(accepting(file(options, "CA_FILE", &files.other_ca)), "certificate").await;
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to_in_the_clear() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let url = redis.url().replace("redis://", "rediss://");
    assert_unusable(options().var("REDIS_URL", &url), "redis").await;
}
