//! The pace of a watch, under clocks that only the test moves, and how it ends.

use tokio::time::{Instant, sleep};

use super::*;
use crate::threads::watch::{Event, Place, Position, ThreadWatch, Wakers};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    wakers: Wakers,
}

impl World {
    async fn with_thread(life: Duration) -> Self {
        let (clock, store) = endless();
        let mut new = new_thread("t", vec![said("a")]);
        new.profile.ttl = ttl(life);
        store.create(&call(), &new).await.unwrap();
        Self { clock, store: Arc::new(store), wakers: Wakers::default() }
    }

    async fn try_watch(&self, since: Since) -> Result<ThreadWatch<Store>> {
        let (store, id) = (Arc::clone(&self.store), thread_id("t"));
        ThreadWatch::begin(store, &self.wakers, &call(), id, since).await
    }

    /// A watch that has been told what was there.
    async fn watch(&self) -> ThreadWatch<Store> {
        let mut watch = self.try_watch(Since::Seq(1)).await.unwrap();
        assert_eq!(event(&mut watch).await, Event::Synced);
        watch
    }

    async fn append(&self, id: &str) {
        self.store.append(&call(), &append("t", vec![said(id)])).await.unwrap();
    }

    fn changes_ring(&self) {
        self.wakers.doorbell.hear(Instant::now());
    }
}

async fn event(watch: &mut ThreadWatch<Store>) -> Event {
    watch.next().await.unwrap().unwrap().event
}

/// How long the next event takes.
async fn pace(watch: &mut ThreadWatch<Store>) -> Duration {
    let began = Instant::now();
    assert!(matches!(event(watch).await, Event::Appended(_)));
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_ring_is_answered_at_once_and_a_lost_one_within_a_second_or_ten() {
    let world = World::with_thread(TTL).await;
    let mut watch = world.watch().await;
    world.append("b").await;
    assert_eq!(pace(&mut watch).await, SECOND, "changes do not ring");
    world.changes_ring();
    world.append("c").await;
    assert_eq!(pace(&mut watch).await, 10 * SECOND, "they do, but this one did not");
    world.append("d").await;
    world.wakers.bells.ring(&thread_id("t"));
    assert_eq!(pace(&mut watch).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_doorbell_that_falls_silent_is_reason_to_look() {
    let world = World::with_thread(TTL).await;
    world.changes_ring();
    let mut watch = world.watch().await;
    let falls_silent = async {
        sleep(3 * SECOND).await;
        world.append("b").await;
        world.wakers.doorbell.silence("lost");
    };
    assert_eq!(tokio::join!(pace(&mut watch), falls_silent).0, 3 * SECOND);
    world.append("c").await;
    assert_eq!(pace(&mut watch).await, SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_told_when_it_is_due() {
    let world = World::with_thread(5 * SECOND).await;
    world.changes_ring();
    let mut watch = world.watch().await;
    let began = Instant::now();
    let time_passes = async {
        sleep(5 * SECOND).await;
        world.clock.advance(5 * SECOND);
    };
    let (told, ()) = tokio::join!(event(&mut watch), time_passes);
    assert_eq!(told, Event::Expired);
    assert!(began.elapsed() < 5 * SECOND + Duration::from_millis(10), "{:?}", began.elapsed());
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_told_and_one_of_another_incarnation_is_not_taken_for_it() {
    let world = World::with_thread(TTL).await;
    let mut watch = world.watch().await;
    let delete = async || world.store.delete(&call(), &thread_id("t"), &Guard::default()).await.unwrap();
    delete().await;
    assert_eq!(event(&mut watch).await, Event::Deleted);
    assert!(watch.next().await.is_none());
    let stranger = Position { epoch: "another".into(), revision: 1, seq: 1 };
    let mut watch = world.try_watch(Since::Told(Place::at(stranger))).await.unwrap();
    assert_eq!(event(&mut watch).await, Event::Expired);
    let absent = world.try_watch(Since::Seq(0)).await;
    assert!(matches!(absent, Err(Error::ThreadNotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_thread_is_watched_as_long_as_the_watch_lives() {
    let world = World::with_thread(TTL).await;
    let watch = world.watch().await;
    assert_eq!(world.wakers.bells.watched().len(), 1);
    drop(watch);
    assert!(world.wakers.bells.watched().is_empty());
}
