//! A watch through outage and merge: in the end the watcher knows exactly the thread.

use std::collections::BTreeMap;

use fusewire::grpc::proto::{ServingMode, watch_thread_response::Event};

use super::{append_locally, assert_thread, merge_all, start};
use crate::support::{
    thread_watch::Watch,
    threads::{Threads, ids, numbered, user},
};

/// What a watcher knows of a thread by what it is told.
struct Follower<'a> {
    watch: Watch,
    /// For a RESYNC, which says to read again.
    threads: &'a Threads,
    known: BTreeMap<i64, String>,
    provisional: Vec<String>,
    modes: Vec<ServingMode>,
}

impl Follower<'_> {
    async fn next(&mut self) {
        match self.watch.event().await {
            Event::Appended(appended) => {
                for message in appended.messages {
                    if message.provisional {
                        self.provisional.push(message.id);
                    } else {
                        let was = self.known.insert(message.seq, message.id.clone());
                        assert!(was.is_none(), "{} is told twice, as {was:?}", message.seq);
                    }
                }
            }
            Event::ServingModeChanged(changed) => self.modes.push(changed.mode()),
            Event::Resync(resync) => {
                // What comes after the place of the resync is told.
                let upto = resync.thread.expect("a thread").last_seq;
                let messages = self.threads.messages("t").await;
                let read = messages.into_iter().map(|message| (message.seq, message.id));
                self.known = read.filter(|(seq, _)| *seq <= upto).collect();
            }
            Event::Synced(_) => {}
            other => panic!("nothing else happened: {other:?}"),
        }
    }

    async fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.next().await;
        }
    }
}

#[tokio::test]
async fn a_watcher_knows_the_thread_after_outage_and_merge() {
    let on = start().await;
    let other_service = on.another().await;
    let (threads, other) = (on.threads(), Threads::on(other_service.channel().await));
    threads.create("t").await;
    threads.append("t", numbered(1, 3)).await;
    let watch = threads.watch("t", 0).await;
    let (known, provisional, modes) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut follower = Follower { watch, threads: &threads, known, provisional, modes };
    follower.until(|follower| follower.known.len() == 3).await;

    for round in 0..2 {
        let (from, name) = (4 + 2 * round, format!("n{round}"));
        on.lose().await;
        append_locally(&threads, "t", numbered(from, from + 1)).await;
        other.append("t", vec![user(&name, "meanwhile")]).await;
        follower.until(|follower| follower.provisional.len() == 2).await;
        assert_eq!(follower.provisional, ids(&numbered(from, from + 1)));
        merge_all(&on).await;
        let count = 3 * (usize::try_from(round).unwrap() + 2);
        follower.until(|follower| follower.known.len() == count).await;
        let is_shared = |follower: &Follower<'_>| follower.modes.last() == Some(&ServingMode::Shared);
        follower.until(is_shared).await;
        assert_eq!(follower.modes.first(), Some(&ServingMode::Degraded));
        // Where it is told at all, merging is told between the two.
        follower.modes.retain(|mode| *mode != ServingMode::Reconciling);
        assert_eq!(follower.modes, [ServingMode::Degraded, ServingMode::Shared]);
        follower.modes.clear();
        follower.provisional.clear();
    }
    let messages =
        assert_thread(&threads, "t", &["m1", "m2", "m3", "n0", "m4", "m5", "n1", "m6", "m7"]).await;
    let there: BTreeMap<i64, String> =
        messages.into_iter().map(|message| (message.seq, message.id)).collect();
    assert_eq!(follower.known, there);
    // And it goes on.
    other.append("t", vec![user("after", "x")]).await;
    follower.until(|follower| follower.known.get(&10).is_some_and(|id| id == "after")).await;
}

#[tokio::test]
async fn a_watcher_of_a_thread_made_in_the_outage_sees_it_merged() {
    let on = start().await;
    let threads = on.threads();
    on.lose().await;
    threads.try_create(crate::support::threads::thread("t")).await.unwrap();
    append_locally(&threads, "t", numbered(1, 2)).await;
    let watch = threads.watch("t", 0).await;
    let (known, provisional, modes) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut follower = Follower { watch, threads: &threads, known, provisional, modes };
    follower.until(|follower| follower.provisional.len() == 2).await;
    merge_all(&on).await;
    follower.until(|follower| follower.known.len() == 2).await;
    assert_thread(&threads, "t", &["m1", "m2"]).await;
    assert_eq!(follower.known.into_values().collect::<Vec<_>>(), ["m1", "m2"]);
}
