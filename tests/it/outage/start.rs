//! A start without Redis: served from memory at once, from Redis as soon as it is there.

use fusewire::grpc::proto::{Authority, GetThreadRequest};
use tonic_health::pb::health_check_response::ServingStatus;

use super::SOON;
use crate::support::{
    behind_proxy::{BACK, LOST, quick},
    fusewire::{Fusewire, FusewireOptions},
    health::{check, redis_is},
    redis_options::RedisOptions,
    redis_server::RedisServer,
    status::merged,
    threads::{Threads, appending, ids, listing, numbered, seqs, thread, user},
};

#[tokio::test]
async fn a_service_started_without_redis_serves_from_memory_and_turns_to_redis_without_a_restart() {
    let mut redis = RedisServer::start(RedisOptions::tcp()).await;
    redis.kill();
    let service = Fusewire::start(quick().var("REDIS_URL", &redis.url())).await;
    let channel = service.channel().await;
    let threads = Threads::on(channel.clone());
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::Serving);
    assert_eq!(check(&channel, "redis").await.unwrap(), ServingStatus::NotServing);

    assert_eq!(threads.try_create(thread("early")).await.unwrap().authority(), Authority::Local);
    let appended = threads.append("early", numbered(1, 2)).await;
    assert_eq!(appended.authority(), Authority::Local);
    assert!(appended.messages.iter().all(|message| message.seq == 0 && message.provisional));
    let page = threads.page(listing("early")).await.unwrap();
    assert_eq!((page.authority(), page.as_of.is_some()), (Authority::Local, true));
    assert_eq!((ids(&page.messages), seqs(&page.messages)), (vec!["m1", "m2"], vec![0, 0]));
    assert!(page.messages.iter().all(|message| message.provisional));
    let request = GetThreadRequest { thread_id: "early".into(), ..Default::default() };
    let answer = threads.client.clone().get_thread(request).await.unwrap().into_inner();
    assert_eq!((answer.authority(), answer.as_of.is_some()), (Authority::Local, true));
    assert_eq!(answer.thread.unwrap().message_count, 2);

    redis.restart().await;
    redis_is(&channel, ServingStatus::Serving).await;
    let created = threads.try_create(thread("late")).await.unwrap();
    assert_eq!(created.authority(), Authority::Shared);
    assert_eq!(redis.raw().await.get::<u64>(&["EXISTS", "conversation_thread:{late}"]).await, 1);
    merged(&channel).await;
    let page = threads.page(listing("early")).await.unwrap();
    assert_eq!(
        (page.authority(), ids(&page.messages), seqs(&page.messages)),
        (Authority::Shared, vec!["m1", "m2"], vec![1, 2])
    );
    assert_eq!(service.logged("starting without redis: serving from local memory until it can be used"), 1);
    service.wait_for_log(BACK, SOON).await;
    assert_eq!((service.logged(LOST), service.logged(BACK)), (0, 1), "{:#?}", service.log());
}

#[tokio::test]
async fn an_append_may_create_a_thread_while_redis_has_not_been_seen_yet() {
    let mut redis = RedisServer::start(RedisOptions::tcp()).await;
    redis.kill();
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &redis.url())).await;
    let threads = Threads::on(service.channel().await);
    let plain = appending("made", vec![user("a", "1")]);
    super::assert_unavailable("append to a thread not held", threads.try_append(plain.clone()).await);
    let creating = fusewire::grpc::proto::AppendMessagesRequest { create_if_missing: true, ..plain };
    let made = threads.try_append(creating).await.unwrap();
    assert_eq!((made.authority(), made.messages[0].provisional), (Authority::Local, true));
}

#[tokio::test]
async fn a_service_that_requires_redis_refuses_to_start_without_it() {
    let mut redis = RedisServer::start(RedisOptions::tcp()).await;
    redis.kill();
    let options = FusewireOptions::unix_socket()
        .var("REDIS_URL", &redis.url())
        .var("FUSEWIRE__REDIS__REQUIRED", "true");
    let mut service = Fusewire::spawn(options);
    assert_eq!(service.wait_exit(SOON).await.code(), Some(1));
    let errors: Vec<String> = service.log().into_iter().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("redis is required") && errors[0].contains("refused"), "{errors:#?}");
    assert_eq!(service.logged("listening"), 0);
}

#[tokio::test]
async fn a_service_that_requires_redis_refuses_to_start_with_a_wrong_password() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("right")).await;
    let options = FusewireOptions::unix_socket()
        .var("REDIS_URL", &redis.url_as("", "wrong"))
        .var("FUSEWIRE__REDIS__REQUIRED", "true");
    let mut service = Fusewire::spawn(options);
    assert_eq!(service.wait_exit(SOON).await.code(), Some(1));
    let errors: Vec<String> = service.log().into_iter().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("WRONGPASS"), "{errors:#?}");
}
