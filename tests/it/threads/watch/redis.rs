//! Watches over Redis itself: other instances, readers that fall behind, and a thread that Redis loses.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{ConversationThread, watch_thread_response::Event};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store},
    raw::Raw,
    thread_watch::Watch,
    threads::{
        Threads, changing, cut_after, ids, keep_last, listing, numbered, reason, revising, seqs, thread,
        told, user, wire,
    },
};

async fn two() -> (Deployment, Threads, crate::support::fusewire::Fusewire) {
    let on = Deployment::start(Store::Redis).await;
    let other = on.another(&[]).await;
    let there = Threads::on(other.channel().await);
    (on, there, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_instance_writes_is_told() {
    let (on, there, _other) = two().await;
    let here = on.threads();
    there.create("t").await;
    let mut watch = here.watch_live("t").await;
    there.append("t", numbered(1, 3)).await;
    assert_eq!(watch.appended_up_to(3).await.len(), 3);
    there.update_message(revising("t", user("m2", "y"), &["parts"])).await.unwrap();
    assert_eq!(ids(&watch.updated().await.1), ["m2"]);
    there.truncate(cut_after("t", 1)).await.unwrap();
    assert_eq!(watch.truncated().await, (1, 1));
    there.delete("t").await.unwrap();
    watch.deleted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_that_another_instance_shortened_or_put_off_is_told_when_it_is_due() {
    let (on, there, _other) = two().await;
    let here = on.threads();
    let short = ConversationThread { ttl: Some(wire(Duration::from_secs(2))), ..thread("t") };
    there.try_create(short).await.unwrap();
    let mut watch = here.watch_live("t").await;
    there.touch("t", Some(Duration::from_secs(4))).await.unwrap();
    let began = tokio::time::Instant::now();
    watch.expired().await;
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    there.create("u").await;
    let mut watch = here.watch_live("u").await;
    there.touch("u", Some(Duration::from_secs(3))).await.unwrap();
    watch.expired().await;
}

/// What a client keeps of a thread.
async fn mirror(watch: &mut Watch, until: &str, threads: &Threads) -> Vec<(i64, String)> {
    let mut kept: BTreeMap<i64, String> = BTreeMap::default();
    loop {
        match watch.event().await {
            Event::Appended(event) => {
                for message in event.messages {
                    let is_last = message.id == until;
                    let known = kept.insert(message.seq, format!("{:?}", message.parts));
                    assert!(known.is_none(), "{} told twice", message.seq);
                    if is_last {
                        return kept.into_iter().collect();
                    }
                }
            }
            Event::Updated(event) => {
                for message in event.messages {
                    assert!(kept.insert(message.seq, format!("{:?}", message.parts)).is_some());
                }
            }
            Event::Truncated(event) => {
                kept.retain(|seq, _| (event.first_seq..=event.last_seq).contains(seq));
            }
            Event::Resync(_) => {
                let stored = threads.messages("t").await;
                // Read again; what was appended meanwhile is told again and must not count as twice.
                kept = stored
                    .into_iter()
                    .filter(|message| message.seq <= watch.position.seq)
                    .map(|message| (message.seq, format!("{:?}", message.parts)))
                    .collect();
            }
            Event::Synced(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_what_is_stored_while_two_instances_write() {
    let (on, there, _other) = two().await;
    let here = on.threads();
    here.create("t").await;
    let mut watch = here.watch("t", 0).await;
    let write = async |threads: Threads, first: i64| {
        for n in 0..60 {
            let id = format!("m{}", first + n);
            threads.append("t", vec![user(&id, "x")]).await;
            if n % 3 == 0 {
                // It may have been cut by the other.
                drop(threads.update_message(revising("t", user(&id, "changed"), &["parts"])).await);
            }
            if n % 10 == 9 {
                let last = threads.peek("t").await.unwrap().last_seq;
                threads.truncate(cut_after("t", last - 2)).await.unwrap();
            }
            if n % 25 == 24 {
                threads.truncate(keep_last("t", 20)).await.unwrap();
            }
        }
    };
    let writes = async {
        tokio::join!(write(here.clone(), 0), write(there.clone(), 1000));
        there.append("t", vec![user("last", "x")]).await;
    };
    let (kept, ()) = tokio::join!(mirror(&mut watch, "last", &here), writes);
    let stored: Vec<_> = here.messages("t").await.iter().map(|m| (m.seq, format!("{:?}", m.parts))).collect();
    assert_eq!(kept, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_costs_nothing_and_is_told_to_read_again() {
    let on = Deployment::start(Store::Redis).await;
    let threads = on.threads();
    threads.create("t").await;
    let large = "x".repeat(64 << 10);
    // More than the stream's window takes.
    for n in 0..100 {
        threads.append("t", vec![user(&format!("m{n}"), &large)]).await;
    }
    let mut watch = threads.watch_live("t").await;
    for n in 0..300 {
        let new = ConversationThread { title: n.to_string(), ..thread("t") };
        threads.update(changing(new, &["title"])).await.unwrap();
        let changed = user(&format!("m{}", n % 100), &large);
        threads.update_message(revising("t", changed, &["parts"])).await.unwrap();
    }
    // It ends with what is stored, by whatever way.
    let mut was_resynced = false;
    loop {
        match watch.event().await {
            Event::Resync(_) => was_resynced = true,
            Event::Updated(_) => {}
            other => panic!("{other:?}"),
        }
        if watch.position.revision == threads.peek("t").await.unwrap().revision {
            break;
        }
    }
    assert!(was_resynced);
    threads.append("t", numbered(900, 900)).await;
    assert_eq!(ids(&watch.appended().await), ["m900"]);
}

async fn is_lost(watch: &mut Watch) {
    let status = loop {
        match watch.item().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "THREAD_NOT_FOUND"));
    assert!(status.message().contains("lost"), "{status:?}");
}

async fn lose(command: &[&str], threads: &Threads, raw: &Raw) {
    threads.create("t").await;
    let mut watch = threads.watch_live("t").await;
    raw.run(command).await;
    is_lost(&mut watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_redis_lost_ends_the_stream_with_a_status_that_says_so() {
    let on = Deployment::start(Store::Redis).await;
    let (threads, raw) = (on.threads(), on.raw().await);
    lose(&["FLUSHALL"], &threads, &raw).await;
    lose(&["DEL", "conversation_thread:{t}"], &threads, &raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_ends_the_stream_after_what_is_before_it() {
    let on = Deployment::start(Store::Redis).await;
    let (threads, raw) = (on.threads(), on.raw().await);
    threads.create("t").await;
    threads.append("t", numbered(1, 5)).await;
    raw.run(&["LSET", "conversation_thread:{t}:messages", "3", "garbage"]).await;
    let mut watch = threads.watch("t", 0).await;
    assert_eq!(seqs(&watch.appended().await), [1, 2, 3]);
    let status = watch.item().await.unwrap_err();
    assert_eq!((status.code(), told(&status, "seq").as_str()), (Code::DataLoss, "4"));
    let mut behind = threads.watch("t", 4).await;
    assert_eq!(seqs(&behind.appended().await), [5]);
    behind.synced().await;
    assert_eq!(threads.page(listing("t")).await.unwrap().messages.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_ends_with_unavailable_when_the_service_ends() {
    let mut on = Deployment::start(Store::Redis).await;
    let threads = on.threads();
    threads.create("t").await;
    let mut watch = threads.watch_live("t").await;
    on.service.signal(nix::sys::signal::Signal::SIGTERM);
    let status = watch.item().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert_eq!(on.service.wait_exit(Duration::from_secs(5)).await.code(), Some(0));
}
