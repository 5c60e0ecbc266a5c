//! A journal file outlives an upgrade: what release 0.1.0 wrote is merged by this one, every kind of write of it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ConversationThread, CreateThreadRequest, ForkThreadRequest, Media,
    Message, MessageStatus, Role, ThreadParent, TrimPolicy, media::Source, part::Kind,
};
use tonic::Code;

use super::{FOUND, Folder, SOON};
use crate::support::{
    behind_proxy::BehindProxy,
    fusewire::Fusewire,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    status::{merged, status},
    threads::{
        Threads, appending, assert_refused, calls, forking, message, millis, numbered, part, result, sent,
        thread, user, wire,
    },
};

/// What [`accept`] left in the file of a process of release 0.1.0 that was killed.
const FILE: &str = "tests/data/journal-0.1.0";
/// When the first message of `held` in that file was accepted, in ms since the epoch.
const ACCEPTED: i64 = 1_795_854_707_679;
/// Messages, creations and renewals in the file that wait.
const WRITES: i64 = 21;
const DAY: Duration = Duration::from_hours(24);

/// Messages of every role, and of what a message can be.
fn every_kind() -> Vec<Message> {
    let media = Media {
        mime_type: "image/png".into(),
        source: Some(Source::Data(b"\x89PNG\0".to_vec().into())),
        ..Default::default()
    };
    let labels = BTreeMap::from([("kind".to_owned(), "greeting ✓".to_owned())]);
    vec![
        message("s", Role::System, "Be brief."),
        message("d", Role::Developer, "Answer in French."),
        Message { labels, token_count: 7, parts: vec![part(Kind::Media(media))], ..user("u", "") },
        calls("a", &["c1", "c2"]),
        result("r1", "c1"),
        result("r2", "c2"),
        Message { status: MessageStatus::InProgress.into(), ..message("p", Role::Assistant, "Bon") },
    ]
}

fn new_thread() -> ConversationThread {
    ConversationThread {
        owner: "bob".into(),
        title: "Météo".into(),
        labels: BTreeMap::from([("team".to_owned(), "weather".to_owned())]),
        ttl: Some(wire(DAY)),
        trim: Some(TrimPolicy { max_messages: 50, max_bytes: 1 << 20 }),
        ..thread("new")
    }
}

fn creation(thread: ConversationThread) -> CreateThreadRequest {
    CreateThreadRequest {
        thread: Some(thread),
        messages: numbered(1, 2),
        request_id: "request".into(),
        ..Default::default()
    }
}

/// Creates a thread that only memory has.
async fn create_locally(threads: &Threads, thread: ConversationThread) {
    let made = threads.client.clone().create_thread(creation(thread)).await.unwrap().into_inner();
    assert_eq!(made.authority(), Authority::Local);
}

async fn append_locally(threads: &Threads, request: AppendMessagesRequest) {
    let made = threads.try_append(request).await.unwrap();
    assert_eq!(made.authority(), Authority::Local);
}

/// Leaves every kind of record in the journal file, and what one run that is over leaves there.
async fn accept(on: &BehindProxy) {
    let threads = on.threads();
    threads.try_create(ConversationThread { owner: "ann".into(), ..thread("held") }).await.unwrap();
    threads.append("held", numbered(1, 2)).await;
    threads.fork(ForkThreadRequest { at_seq: 1, ..forking("held", "fork") }).await.unwrap();
    for id in ["over", "touched"] {
        threads.create(id).await;
    }

    on.lose().await;
    append_locally(&threads, appending("over", numbered(1, 1))).await;
    create_locally(&threads, thread("stuck")).await;
    // No thread can be made where something else is, so this run goes on waiting when the others are over.
    on.redis.raw().await.run(&["SET", "conversation_thread:{stuck}", "x"]).await;
    on.restore().await;
    assert_eq!(status(&on.channel).await.journal.unwrap().parked.len(), 1);

    on.lose().await;
    append_locally(&threads, appending("held", every_kind())).await;
    append_locally(&threads, appending("fork", numbered(8, 8))).await;
    create_locally(&threads, new_thread()).await;
    create_locally(&threads, ConversationThread { pinned: true, ..thread("pinned") }).await;
    let made = AppendMessagesRequest { create_if_missing: true, ..appending("made", numbered(1, 1)) };
    append_locally(&threads, made).await;
    threads.touch("touched", Some(DAY)).await.unwrap();
    threads.touch("held", None).await.unwrap();
}

/// Checks that a Redis that was empty has all of it.
async fn assert_merged(threads: &Threads) {
    assert_refused(threads.peek("over").await, Code::NotFound, "THREAD_NOT_FOUND");
    // A renewal alone makes no thread.
    assert_refused(threads.peek("touched").await, Code::NotFound, "THREAD_NOT_FOUND");

    let held: Vec<Message> = threads.recount("held").await.into_iter().map(sent).collect();
    let in_progress = |message: &Message| message.status() == MessageStatus::InProgress;
    assert!(threads.messages("held").await.iter().filter(|message| in_progress(message)).count() == 1);
    let kinds = every_kind().into_iter().map(sent).collect::<Vec<_>>();
    assert_eq!(held, kinds);
    assert_eq!(threads.peek("held").await.unwrap().owner, "ann");
    let fork = threads.peek("fork").await.unwrap();
    assert_eq!(fork.parent, Some(ThreadParent { thread_id: "held".into(), seq: 1 }));

    let new = threads.peek("new").await.unwrap();
    let ConversationThread { owner, title, labels, ttl, trim, .. } = new_thread();
    assert_eq!((new.owner, new.title, new.labels, new.ttl, new.trim), (owner, title, labels, ttl, trim));
    assert!(threads.peek("pinned").await.unwrap().pinned);
    for (id, count) in [("fork", 1), ("new", 2), ("pinned", 2), ("made", 1), ("stuck", 2)] {
        assert_eq!(threads.recount(id).await.len(), count, "{id}");
    }

    // Retries of what the killed process acknowledged.
    let again = threads.append("held", every_kind()).await;
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
    let again = threads.client.clone().create_thread(creation(new_thread())).await.unwrap().into_inner();
    assert!(again.messages.iter().all(|message| message.duplicate), "{again:?}");
}

/// Starts a service with the folder's file on a Redis that is empty, and returns when all of the file is merged.
async fn merge_into_an_empty_redis(folder: &Folder) -> (RedisServer, Fusewire, Threads) {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let service = Fusewire::start(folder.options().var("REDIS_URL", &redis.url())).await;
    let found = service.wait_for_log(FOUND, SOON).await;
    assert!(found.contains(&format!("writes={WRITES}")) && found.contains("threads=7"), "{found}");
    let channel = service.channel().await;
    let journal = merged(&channel).await.journal.unwrap_or_default();
    assert_eq!(journal.entries, 0, "{journal:?}");
    (redis, service, Threads::on(channel))
}

#[tokio::test]
async fn the_file_of_the_former_release_is_merged() {
    let folder = Folder::new();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE), folder.journal()).unwrap();
    let (_redis, _service, threads) = merge_into_an_empty_redis(&folder).await;
    assert_merged(&threads).await;
    let held = threads.messages("held").await;
    assert_eq!(millis(held[0].commit_time), ACCEPTED);
    folder.is_empty().await;
}

#[tokio::test]
async fn a_file_with_the_same_writes_is_merged_to_the_same() {
    let folder = Folder::new();
    let mut on = folder.start().await;
    accept(&on).await;
    on.service.kill();
    let (_redis, _service, threads) = merge_into_an_empty_redis(&folder).await;
    assert_merged(&threads).await;
}
