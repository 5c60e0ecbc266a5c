//! Redis switched off: memory is the only truth, bounded, and never drops what it acknowledged before its time.

use std::time::Duration;

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, GetContextRequest, GetThreadRequest,
    ListThreadsRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    health::check,
    threads::{
        Threads, appending, assert_refused, changing, cut_after, forking, listing, numbered, thread, user,
        wire,
    },
};

const SOON: Duration = Duration::from_secs(15);

async fn started(settings: &[(&str, &str)]) -> (Fusewire, Threads) {
    let options = FusewireOptions::unix_socket().var("USE_REDIS", "false");
    let options = settings.iter().fold(options, |options, (name, value)| options.var(name, value));
    let service = Fusewire::start(options).await;
    let threads = Threads::on(service.channel().await);
    (service, threads)
}

#[tokio::test]
async fn every_answer_is_local_and_none_is_of_another_time() {
    let (service, threads) = started(&[]).await;
    let mut client = threads.client.clone();
    let owned = ConversationThread { owner: "ann".into(), ..thread("t") };
    assert_eq!(threads.try_create(owned).await.unwrap().authority(), Authority::Local);
    let made = threads.append("t", numbered(1, 3)).await;
    assert_eq!(made.authority(), Authority::Local);
    assert_eq!(
        made.messages.iter().map(|m| (m.seq, m.provisional)).collect::<Vec<_>>(),
        [(1, false), (2, false), (3, false)]
    );
    let get = GetThreadRequest { thread_id: "t".into(), ..Default::default() };
    let got = client.get_thread(get).await.unwrap().into_inner();
    assert_eq!((got.authority(), got.as_of), (Authority::Local, None));
    let page = threads.page(listing("t")).await.unwrap();
    assert_eq!((page.authority(), page.as_of, page.messages.len()), (Authority::Local, None, 3));
    let context = GetContextRequest { thread_id: "t".into(), ..Default::default() };
    let context = client.get_context(context).await.unwrap().into_inner();
    assert_eq!((context.authority(), context.as_of, context.messages.len()), (Authority::Local, None, 3));
    let list = ListThreadsRequest { owner: "ann".into(), ..Default::default() };
    let list = client.list_threads(list).await.unwrap().into_inner();
    assert_eq!((list.authority(), list.threads.len()), (Authority::Local, 1));
    // Everything that an outage forbids works here.
    let request = AppendMessagesRequest { etag: got.thread.unwrap().etag, ..appending("t", numbered(4, 4)) };
    threads.try_append(request).await.unwrap();
    threads
        .update(changing(ConversationThread { title: "x".into(), ..thread("t") }, &["title"]))
        .await
        .unwrap();
    threads.truncate(cut_after("t", 2)).await.unwrap();
    threads.fork(forking("t", "copy")).await.unwrap();
    threads.delete("t").await.unwrap();
    assert_refused(threads.peek("t").await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_eq!(check(&service.channel().await, "redis").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_shared_truth_cannot_be_required_where_there_is_none() {
    let (_service, threads) = started(&[]).await;
    threads.create("t").await;
    let append = AppendMessagesRequest { require_shared: true, ..appending("t", numbered(1, 1)) };
    assert_refused(threads.try_append(append).await, Code::Unavailable, "REDIS_UNREACHABLE");
    let get = GetThreadRequest { thread_id: "t".into(), require_shared: true, ..Default::default() };
    assert_refused(threads.client.clone().get_thread(get).await, Code::Unavailable, "REDIS_UNREACHABLE");
}

fn kibibyte(n: usize) -> fusewire::grpc::proto::Message {
    user(&format!("m{n}"), &"x".repeat(1024))
}

/// Appends until the store is full; answers how many messages it took.
async fn fill(threads: &Threads, id: &str) -> (usize, Status) {
    for n in 0..1000 {
        if let Err(status) = threads.try_append(appending(id, vec![kibibyte(n)])).await {
            return (n, status);
        }
    }
    panic!("the store took a thousand messages");
}

#[tokio::test]
async fn a_full_store_refuses_and_loses_nothing_that_it_acknowledged() {
    let (_service, threads) = started(&[("FUSEWIRE__MEMORY__MAX_BYTES", "64KiB")]).await;
    threads.create("first").await;
    threads.append("first", numbered(1, 10)).await;
    threads.create("big").await;
    let (taken, status) = fill(&threads, "big").await;
    assert_refused(Err::<(), _>(status.clone()), Code::ResourceExhausted, "STORE_FULL");
    assert!(!status.get_details_quota_failure().unwrap().violations.is_empty());
    eprintln!("64 KiB took {taken} messages of 1 KiB");
    assert!((32..64).contains(&taken), "{taken}");
    // A batch is all or nothing, here too.
    let batch = vec![user("small", "x"), kibibyte(2000)];
    assert_refused(threads.try_append(appending("big", batch)).await, Code::ResourceExhausted, "STORE_FULL");
    assert_eq!(threads.recount("big").await.len(), taken);
    assert_eq!(threads.recount("first").await.len(), 10);
    // Room that a deletion makes is room.
    threads.delete("big").await.unwrap();
    threads.create("next").await;
    let (again, _) = fill(&threads, "next").await;
    assert!(again + 2 >= taken, "{again} of {taken}");
    assert_eq!(threads.messages("first").await.len(), 10);
}

#[tokio::test]
async fn expired_threads_make_room() {
    let (_service, threads) = started(&[("FUSEWIRE__MEMORY__MAX_BYTES", "64KiB")]).await;
    let short = ConversationThread { ttl: Some(wire(Duration::from_secs(1))), ..thread("short") };
    threads.try_create(short).await.unwrap();
    let (_, status) = fill(&threads, "short").await;
    assert_refused(Err::<(), _>(status), Code::ResourceExhausted, "STORE_FULL");
    // The sweep comes once an hour: the room must not wait for it.
    eventually("the expired thread made room", SOON, async || {
        let request =
            AppendMessagesRequest { create_if_missing: true, ..appending("new", vec![kibibyte(0)]) };
        threads.try_append(request).await.is_ok()
    })
    .await;
    assert_refused(threads.peek("short").await, Code::NotFound, "THREAD_NOT_FOUND");
}

#[tokio::test]
async fn the_default_time_to_live_and_the_sweep_are_the_same_as_with_redis() {
    let (service, threads) =
        started(&[("FUSEWIRE__THREADS__DEFAULT_TTL", "1s"), ("FUSEWIRE__THREADS__SWEEP_INTERVAL", "1s")])
            .await;
    for n in 0..3 {
        threads.create(&format!("t{n}")).await;
    }
    assert_eq!(threads.peek("t0").await.unwrap().ttl, Some(wire(Duration::from_secs(1))));
    let pinned = ConversationThread { pinned: true, ..thread("kept") };
    threads.try_create(pinned).await.unwrap();
    eventually("all three were swept", SOON, async || {
        let log = service.log();
        let swept = log.iter().filter(|line| line.contains("swept expired threads"));
        let count = |line: &String| line.split("removed=").nth(1)?.split(' ').next()?.parse::<u64>().ok();
        swept.filter_map(count).sum::<u64>() == 3
    })
    .await;
    assert_refused(threads.peek("t0").await, Code::NotFound, "THREAD_NOT_FOUND");
    threads.peek("kept").await.unwrap();
}
