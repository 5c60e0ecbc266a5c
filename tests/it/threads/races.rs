//! Several writers on two servers that share one Redis, and what may happen to connections, servers and memory meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fusewire::grpc::proto::{
    AppendMessagesRequest, AppendMessagesResponse, Authority, ConversationThread, ListMessagesRequest,
};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store},
    eventually::eventually,
    fusewire::Fusewire,
    raw::Raw,
    threads::{
        Threads, appending, assert_refused, forking, ids, keep_last, listing, numbered, seqs, thread, told,
        user,
    },
};

/// Two servers on one Redis.
async fn two_servers() -> (Deployment, Fusewire, [Threads; 2]) {
    let one = Deployment::start(Store::Redis).await;
    let other = one.another(&[]).await;
    let clients = [one.threads(), Threads::on(other.channel().await)];
    (one, other, clients)
}

fn assert_shared(appended: &AppendMessagesResponse) {
    assert_eq!(appended.authority, i32::from(Authority::Shared));
    assert!(appended.messages.iter().all(|message| !message.provisional));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_who_send_everything_twice_leave_no_hole_and_keep_their_order() {
    let (_deployment, _other, clients) = two_servers().await;
    clients[0].create("crowd").await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let clients = clients.clone();
        writers.spawn(async move {
            for n in 0..400 {
                let request = appending("crowd", vec![user(&format!("w{writer}-{n}"), "x")]);
                let (one, two) =
                    tokio::join!(clients[0].try_append(request.clone()), clients[1].try_append(request));
                let (one, two) = (one.unwrap(), two.unwrap());
                assert_shared(&one);
                assert_shared(&two);
                assert_ne!(one.messages[0].duplicate, two.messages[0].duplicate, "one of both was written");
                assert_eq!(one.messages[0].seq, two.messages[0].seq);
            }
        });
    }
    writers.join_all().await;
    let all = clients[1].recount("crowd").await;
    assert_eq!(seqs(&all), (1..=3200).collect::<Vec<_>>());
    let mut order: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for id in ids(&all) {
        let (writer, n) = id.split_once('-').unwrap();
        order.entry(writer).or_default().push(n.parse().unwrap());
    }
    assert_eq!(order.len(), 8);
    assert!(order.values().all(|sent| *sent == (0..400).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_compare_and_sets_exactly_one_wins_each_round() {
    let (_deployment, _other, clients) = two_servers().await;
    clients[0].create("cas").await;
    for round in 0..30 {
        let etag = clients[round % 2].peek("cas").await.unwrap().etag;
        let start = Arc::new(Barrier::new(8));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (threads, etag, start) = (clients[task % 2].clone(), etag.clone(), Arc::clone(&start));
            tasks.spawn(async move {
                let message = user(&format!("r{round}-{task}"), "x");
                start.wait().await;
                threads.try_append(AppendMessagesRequest { etag, ..appending("cas", vec![message]) }).await
            });
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let current = clients[0].peek("cas").await.unwrap().etag;
        for refused in outcomes.into_iter().filter(Result::is_err) {
            assert_eq!(told(&assert_refused(refused, Code::Aborted, "ETAG_MISMATCH"), "etag"), current);
        }
    }
    assert_eq!(clients[1].recount("cas").await.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_creations_exactly_one_succeeds() {
    let (_deployment, _other, clients) = two_servers().await;
    for round in 0..20 {
        let id = format!("born-{round}");
        let start = Arc::new(Barrier::new(8));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (threads, id, start) = (clients[task % 2].clone(), id.clone(), Arc::clone(&start));
            tasks.spawn(async move {
                let new =
                    ConversationThread { owner: "racers".into(), title: format!("{task}"), ..thread(&id) };
                start.wait().await;
                threads.try_create(new).await
            });
        }
        let (made, refused): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        let made = made.into_iter().next().unwrap().unwrap().thread.unwrap();
        assert_eq!(clients[0].peek(&id).await.unwrap(), made);
        for outcome in refused {
            assert_refused(outcome, Code::AlreadyExists, "THREAD_EXISTS");
        }
    }
    assert_eq!(clients[1].owned("racers", 0).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_appends_create_one_thread_and_lose_no_message() {
    let (_deployment, _other, clients) = two_servers().await;
    for round in 0..20 {
        let id = format!("summoned-{round}");
        let start = Arc::new(Barrier::new(8));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (threads, id, start) = (clients[task % 2].clone(), id.clone(), Arc::clone(&start));
            tasks.spawn(async move {
                let append = AppendMessagesRequest {
                    create_if_missing: true,
                    owner: "summoner".into(),
                    ..appending(&id, vec![user(&format!("s{task}"), "x")])
                };
                start.wait().await;
                assert_shared(&threads.try_append(append).await.expect("appends do not fail each other"));
            });
        }
        tasks.join_all().await;
        assert_eq!(seqs(&clients[0].recount(&id).await), (1..=8).collect::<Vec<_>>());
    }
    assert_eq!(clients[1].owned("summoner", 0).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_and_pages_are_true_while_others_append() {
    let (_deployment, _other, clients) = two_servers().await;
    clients[0].create("live").await;
    clients[0].fill("live", 1, 3000).await;
    let (writer, stop) = (clients[0].clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for n in 3001.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            writer.fill("live", n, n).await;
        }
    });
    for (max, tokens) in [(0, 0), (1, 0), (500, 0), (0, 0), (0, 3000), (2500, 0), (0, 0), (7, 100)] {
        let context = clients[1].context("live", max, tokens).await;
        let count = i64::try_from(context.messages.len()).unwrap();
        let thread = context.thread.unwrap();
        assert_eq!(
            seqs(&context.messages),
            (thread.last_seq - count + 1..=thread.last_seq).collect::<Vec<_>>()
        );
        assert_eq!(count + context.omitted_count, thread.message_count);
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_one_server_loses_nothing_acknowledged() {
    let (_deployment, mut victim, [survivor, through_victim]) = two_servers().await;
    survivor.create("victim").await;
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (threads, acknowledged) = (through_victim.clone(), Arc::clone(&acknowledged));
        writers.spawn(async move {
            for n in 0.. {
                let id = format!("v{writer}-{n}");
                match threads.try_append(appending("victim", vec![user(&id, "x")])).await {
                    Ok(made) => acknowledged.lock().unwrap().insert(id, made.messages[0].seq),
                    Err(_) => return n,
                };
            }
            unreachable!("the server is killed before");
        });
    }
    eventually("writers are at work", Duration::from_secs(20), async || {
        acknowledged.lock().unwrap().len() > 200
    })
    .await;
    victim.kill();
    let sent = writers.join_all().await;
    let stored: BTreeMap<String, i64> =
        survivor.recount("victim").await.into_iter().map(|message| (message.id, message.seq)).collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(
        acknowledged.iter().all(|(id, seq)| stored.get(id) == Some(seq)),
        "an acknowledged message is missing"
    );
    // What was under way is written or not, and in either case can be sent again.
    assert!(stored.len() <= sent.iter().sum::<usize>() + 4);
    for id in acknowledged.keys().take(10) {
        assert!(survivor.append("victim", vec![user(id, "x")]).await.messages[0].duplicate);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_flush_is_not_noticed() {
    let deployment = Deployment::start(Store::Redis).await;
    let (threads, raw) = (deployment.threads(), deployment.raw().await);
    threads.create("flush").await;
    for n in 1..=30 {
        raw.run(&["SCRIPT", "FLUSH"]).await;
        match n % 3 {
            0 => drop(threads.page(listing("flush")).await.unwrap()),
            1 => drop(threads.fork(forking("flush", &format!("flush-{n}"))).await.unwrap()),
            _ => drop(threads.truncate(keep_last("flush", 100)).await.unwrap()),
        }
        raw.run(&["SCRIPT", "FLUSH"]).await;
        threads.fill("flush", n, n).await;
    }
    assert_eq!(threads.recount("flush").await.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_are_retried_inside() {
    let deployment = Deployment::start(Store::Redis).await;
    let (threads, raw) = (deployment.threads(), deployment.raw().await);
    threads.create("cut-off").await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (threads, stop, sent) = (threads.clone(), Arc::clone(&stop), Arc::clone(&sent));
        writers.spawn(async move {
            let mut ids = BTreeSet::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("c{writer}-{n}");
                let made = threads.append("cut-off", vec![user(&id, "x")]).await;
                assert_shared(&made);
                ids.insert(id);
                sent.fetch_add(1, Ordering::Relaxed);
            }
            ids
        });
    }
    for round in 1..=10 {
        let goal = sent.load(Ordering::Relaxed) + 20;
        eventually("writers go on", Duration::from_secs(20), async || sent.load(Ordering::Relaxed) >= goal)
            .await;
        let killed: i64 = raw.get(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert!(killed > 0, "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    let sent: BTreeSet<String> = writers.join_all().await.into_iter().flatten().collect();
    let stored = threads.recount("cut-off").await;
    assert_eq!(stored.len(), sent.len());
    assert!(stored.iter().all(|message| sent.contains(&message.id)));
}

/// Everything in Redis, as bytes.
async fn dump(raw: &Raw) -> BTreeMap<String, Vec<u8>> {
    let mut keys: Vec<String> = raw.get(&["KEYS", "*"]).await;
    // The server's own heartbeats.
    keys.retain(|key| !key.ends_with(":probe") && !key.contains("fusewire:doorbell:"));
    let mut dump = BTreeMap::new();
    for key in keys {
        dump.insert(key.clone(), raw.get(&["DUMP", &key]).await);
    }
    dump
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_to_grow_and_writes_nothing() {
    let deployment = Deployment::start(Store::Redis).await;
    let (threads, raw) = (deployment.threads(), deployment.raw().await);
    for id in ["full", "full-other", "full-third"] {
        threads.create(id).await;
        threads.fill(id, 1, 50).await;
    }
    raw.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let before = dump(&raw).await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for count in [1, 100] {
        let outcome = threads.try_append(appending("full", numbered(51, 50 + count))).await;
        let status = assert_refused(outcome, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY");
        assert!(tonic_types::StatusExt::get_details_quota_failure(&status).is_some());
    }
    let create = || threads.try_create(ConversationThread { owner: "full".into(), ..thread("full-new") });
    assert_refused(create().await, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY");
    assert_refused(
        threads.fork(forking("full", "full-copy")).await,
        Code::ResourceExhausted,
        "REDIS_OUT_OF_MEMORY",
    );
    assert_eq!(dump(&raw).await, before, "nothing was written");

    // Duplicates are no growth; reads, truncation and deletion go on.
    assert!(threads.append("full", numbered(1, 3)).await.messages.iter().all(|message| message.duplicate));
    assert_eq!(threads.messages("full").await.len(), 50);
    assert_eq!(threads.context("full", 5, 0).await.messages.len(), 5);
    threads.get("full").await.unwrap();
    let renewing = ListMessagesRequest { peek: false, ..listing("full") };
    threads.page(renewing).await.unwrap();
    threads.truncate(keep_last("full", 10)).await.unwrap();
    assert_eq!(threads.recount("full").await.len(), 10);
    threads.delete("full-other").await.unwrap();
    assert_refused(threads.peek("full-other").await, Code::NotFound, "THREAD_NOT_FOUND");

    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    threads.fill("full", 51, 60).await;
    assert_eq!(threads.recount("full").await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_wrong_type_under_any_key_is_data_loss_and_nothing_is_written() {
    let deployment = Deployment::start(Store::Redis).await;
    let (threads, raw) = (deployment.threads(), deployment.raw().await);
    for name in ["", ":messages", ":system", ":ids", ":ids:old", ":tombstone", ":changes"] {
        let id = format!("typed{}", name.replace(':', "-"));
        threads.create(&id).await;
        threads.fill(&id, 1, 3).await;
        let key = format!("conversation_thread:{{{id}}}{name}");
        raw.run(&["DEL", &key]).await;
        raw.run(&["ZADD", &key, "1", "of no type of ours"]).await;
        let before = dump(&raw).await;
        let refused = [
            threads.try_append(appending(&id, numbered(4, 4))).await.map(drop),
            threads.try_create(thread(&id)).await.map(drop),
            threads.truncate(keep_last(&id, 1)).await.map(drop),
            threads.page(listing(&id)).await.map(drop),
            threads.get(&id).await.map(drop),
            threads.touch(&id, Some(Duration::from_secs(5))).await.map(drop),
            threads.fork(forking(&id, "typed-copy")).await.map(drop),
        ];
        for outcome in refused {
            assert_refused(outcome, Code::DataLoss, "CORRUPT_ENTRY");
        }
        let mut after = dump(&raw).await;
        // An index entry may come before its thread.
        after.retain(|key, _| !key.contains("expiring"));
        let mut before = before;
        before.retain(|key, _| !key.contains("expiring"));
        assert_eq!(after, before, "{key}");
    }
}
