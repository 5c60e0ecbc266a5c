//! A watch through an outage: it stays open, says so, tells what memory accepts, and then says to read again.

use fusewire::grpc::proto::{
    AppendMessagesRequest, Authority, ServingMode, WatchThreadResponse, watch_thread_response::Event,
};

use super::assert_unavailable;
use crate::support::{
    behind_proxy::BehindProxy,
    thread_watch::{Watch, resuming, watching},
    threads::{Threads, appending, changing, ids, numbered, seqs, thread},
};

const WAS_LOCAL: &str = "this instance served from its own memory for a while";

fn mode(told: &WatchThreadResponse) -> ServingMode {
    match &told.event {
        Some(Event::ServingModeChanged(changed)) => changed.mode(),
        other => panic!("a change of mode was expected, not {other:?}"),
    }
}

async fn degraded(watch: &mut Watch) {
    let before = watch.position.clone();
    let told = watch.told().await;
    assert_eq!((mode(&told), told.authority()), (ServingMode::Degraded, Authority::Local));
    assert_eq!(watch.position, before);
}

/// Reads on until the watch has told all that is there, and that what all share is served again; answers the last seq.
async fn is_shared_again(watch: &mut Watch) -> i64 {
    let (mut last_seq, mut is_shared) = (None, false);
    loop {
        let told = watch.told().await;
        match told.event {
            // That takes no time where nothing waits for this thread or any other.
            Some(Event::ServingModeChanged(changed)) if changed.mode() == ServingMode::Reconciling => {
                assert!(!is_shared);
            }
            Some(Event::ServingModeChanged(changed)) => {
                assert_eq!(changed.mode(), ServingMode::Shared);
                is_shared = true;
            }
            Some(Event::Resync(resync)) => {
                assert_eq!((resync.why.as_str(), told.authority), (WAS_LOCAL, Authority::Shared.into()));
                last_seq = Some(resync.thread.unwrap().last_seq);
                assert_eq!(Some(watch.position.seq), last_seq);
            }
            event => panic!("{event:?}"),
        }
        if let (Some(last_seq), true) = (last_seq, is_shared) {
            return last_seq;
        }
    }
}

#[tokio::test]
async fn a_watch_of_a_held_thread_tells_what_memory_accepts_and_resyncs() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    let mut watch = threads.watch_live("t").await;
    let before = watch.position.clone();
    for round in 0..2 {
        on.lose().await;
        degraded(&mut watch).await;
        for n in 0..2 {
            let from = 100 * (round + 1) + 2 * n;
            threads.append("t", numbered(from, from + 1)).await;
            let told = watch.told().await;
            assert_eq!(told.authority(), Authority::Local);
            let Some(Event::Appended(appended)) = told.event else { panic!("{told:?}") };
            assert_eq!(ids(&appended.messages), ids(&numbered(from, from + 1)));
            assert!(appended.messages.iter().all(|message| message.provisional && message.seq == 0));
            assert_eq!(watch.position.epoch, before.epoch);
        }
        on.restore().await;
        let last_seq = is_shared_again(&mut watch).await;
        assert_eq!(last_seq, 3 + 4 + round * 5);
        threads.append("t", numbered(last_seq + 1, last_seq + 1)).await;
        assert_eq!(seqs(&watch.appended().await), [last_seq + 1]);
    }
    // A client that went away during the outage goes on from where Redis was.
    let mut again = threads.resume("t", &before).await;
    assert_eq!(seqs(&again.appended().await), (4..=13).collect::<Vec<_>>());
    again.synced().await;
}

#[tokio::test]
async fn a_watch_of_a_thread_that_is_given_up_stays_open_and_tells_the_modes() {
    use crate::support::{fusewire::FusewireOptions, redis_options::RedisOptions};
    // Copies of a single thread are kept.
    let options = FusewireOptions::unix_socket().var("FUSEWIRE__MEMORY__COPY_THREADS", "1");
    let on = BehindProxy::start_with(RedisOptions::tcp(), options).await;
    let threads = on.threads();
    threads.create("t").await;
    let mut watch = threads.watch_live("t").await;
    threads.create("other").await;
    on.lose().await;
    degraded(&mut watch).await;
    let other = on.another().await;
    Threads::on(other.channel().await).append("t", numbered(1, 2)).await;
    on.restore().await;
    assert_eq!(is_shared_again(&mut watch).await, 2);
}

#[tokio::test]
async fn what_is_deleted_during_an_outage_is_told_after_it() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    let mut watch = threads.watch_live("t").await;
    on.lose().await;
    degraded(&mut watch).await;
    let other = on.another().await;
    Threads::on(other.channel().await).delete("t").await.unwrap();
    on.restore().await;
    let told = loop {
        let told = watch.told().await;
        if !matches!(told.event, Some(Event::ServingModeChanged(_))) {
            break told;
        }
    };
    assert!(matches!(told.event, Some(Event::Deleted(_))), "{told:?}");
    watch.ended().await;
}

#[tokio::test]
async fn a_watch_begins_in_an_outage_where_the_thread_is_held() {
    let on = BehindProxy::start().await;
    let other_service = on.another().await;
    let other = Threads::on(other_service.channel().await);
    let threads = on.threads();
    threads.create("whole").await;
    threads.append("whole", numbered(1, 3)).await;
    other.create("tail").await;
    other.append("tail", numbered(1, 3)).await;
    threads.append("tail", numbered(4, 5)).await;
    other.create("unseen").await;
    on.lose().await;
    threads.append("whole", numbered(4, 4)).await;

    let mut watch = threads.watch("whole", 0).await;
    assert_eq!(mode(&watch.told().await), ServingMode::Degraded);
    assert_eq!(seqs(&watch.appended().await), [1, 2, 3]);
    assert_eq!(watch.position.seq, 3);
    let provisional = watch.appended().await;
    assert_eq!((ids(&provisional), seqs(&provisional)), (vec!["m4"], vec![0]));
    watch.synced().await;
    let mut tail = threads.watch("tail", 3).await;
    assert_eq!(mode(&tail.told().await), ServingMode::Degraded);
    assert_eq!(seqs(&tail.appended().await), [4, 5]);
    tail.synced().await;

    let refused = [
        ("a run that does not reach back", watching("tail", 1)),
        ("not held", watching("unseen", 0)),
        ("not held, resumed", resuming("unseen", &watch.position)),
        ("nowhere", watching("nowhere", 0)),
    ];
    for (what, request) in refused {
        assert_unavailable(what, threads.try_watch(request).await.map(drop));
    }
    let request = AppendMessagesRequest { create_if_missing: true, ..appending("made", numbered(1, 1)) };
    threads.try_append(request).await.unwrap();
    let mut made = threads.watch("made", 0).await;
    assert_eq!(mode(&made.told().await), ServingMode::Degraded);
    assert_eq!(ids(&made.appended().await), ["m1"]);

    let position = watch.position.clone();
    let title = fusewire::grpc::proto::ConversationThread { title: "x".into(), ..thread("whole") };
    other.update(changing(title, &["title"])).await.unwrap();
    on.restore().await;
    assert_eq!(is_shared_again(&mut watch).await, 4);
    // A position that an outage gave out hides no change.
    let mut resumed = threads.resume("whole", &position).await;
    assert_eq!(resumed.updated().await.0.title, "x");
    assert_eq!(seqs(&resumed.appended().await), [4]);
    resumed.synced().await;
}

#[tokio::test]
async fn one_who_resumes_in_an_outage_is_synced_after_it() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    let position = threads.watch_live("t").await.position;
    on.lose().await;
    let mut watch = threads.resume("t", &position).await;
    assert_eq!(mode(&watch.told().await), ServingMode::Degraded);
    on.restore().await;
    let (mut is_synced, mut is_shared) = (false, false);
    while !(is_synced && is_shared) {
        let told = watch.told().await;
        match told.event {
            Some(Event::ServingModeChanged(changed)) => is_shared = changed.mode() == ServingMode::Shared,
            Some(Event::Synced(_)) => is_synced = true,
            Some(Event::Resync(resync)) => assert!(!is_synced && resync.thread.unwrap().last_seq == 3),
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_has_lost_the_thread() {
    let mut on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("t").await;
    let mut watch = threads.watch_live("t").await;
    on.redis.restart_empty().await;
    let status = loop {
        match watch.item().await {
            Ok(Some(told)) => assert!(matches!(told.event, Some(Event::ServingModeChanged(_))), "{told:?}"),
            Ok(None) => panic!("it ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
}
