//! Watches through every mode of the process, where the tests themselves say how it serves.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::{
    breakers::{
        ModelKey, Outcome, Policies, Reason, State as Breaker,
        operations::{Following, Inspected, Order, Ordered, Report},
        watch::{Event as BreakerEvent, Interest, Watch},
    },
    call::{Answer, Call, Source},
    outage::{Copies, Fallback, FallbackBreakers, Handover, JournalBounds, Reachability, State},
    threads::{
        Append, Digest, Message, MessageId, NewMessage, NewThread, Profile, Role, SharedThreads, Thread,
        ThreadId, Trim,
        replay::{Replay, Replayed},
        watch::{Event, Since, ThreadWatch},
    },
};

const LIMITS: Limits = Limits { max_messages: 1000, max_bytes: 4 << 20 };

/// A process of which the tests say whether its Redis answers and, apart from that, how it serves.
struct Process {
    reachability: Arc<Reachability>,
    is_up: Arc<AtomicBool>,
    serving: watch::Sender<Serving>,
    shutdown: Shutdown,
}

impl Process {
    fn start() -> Self {
        let reachability = Arc::new(Reachability::new(&Ok(()), Duration::from_millis(200)));
        let (is_up, shutdown) = (Arc::new(AtomicBool::new(true)), Shutdown::new());
        let (probed, known, token) = (Arc::clone(&is_up), Arc::clone(&reachability), shutdown.token());
        let probe = move || {
            let found = probed.load(Ordering::SeqCst).then_some(());
            async move { found.ok_or(Error::TimedOut(Duration::ZERO)) }
        };
        shutdown.spawn("probe", async move { known.run(token, probe, |_| {}).await });
        let serving = watch::Sender::new(Serving { mode: ServingMode::Shared, since: SystemClock.now() });
        Self { reachability, is_up, serving, shutdown }
    }

    /// Returns once calls go to Redis, or to memory.
    async fn reaches(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
        let mut state = self.reachability.watch();
        state.wait_for(|state| matches!(state, State::Reachable) == is_up).await.unwrap();
    }

    fn serves(&self, mode: ServingMode) {
        self.serving.send_replace(Serving { mode, since: SystemClock.now() });
    }
}

fn said(id: &str) -> NewMessage {
    let message = Message {
        id: MessageId::parse("id", id).unwrap(),
        role: Role::User,
        in_progress: false,
        tokens: 1,
        size: 4,
        tools: Vec::new(),
        payload: Bytes::new(),
    };
    NewMessage { message, digest: Digest([0; 16]) }
}

fn thread_id() -> ThreadId {
    ThreadId::parse("id", "t").unwrap()
}

/// Memory that plays Redis. It is the only truth, so that nothing is ever replayed there.
impl SharedThreads for MemoryThreads<SystemClock> {
    async fn reincarnate(&self, call: &Call, thread: &Thread) -> Result<Answer<Thread>> {
        self.get(call, &thread.id, false).await
    }

    async fn replay(&self, _: &Call, _: &Replay) -> Result<Replayed> {
        Err(Error::NeedsShared("a replay"))
    }
}

type Threads = Fallback<MemoryThreads<SystemClock>>;

/// One thread on a shared store, which is memory here, and a watch of it that is told all there was.
struct Watched {
    process: Process,
    store: Arc<Threads>,
    wakers: Wakers,
    watch: ThreadWatch<Threads>,
}

impl Watched {
    async fn start() -> Self {
        let process = Process::start();
        let shared = MemoryThreads::new(SystemClock, LIMITS, 1 << 20);
        let bounds = JournalBounds { max_bytes: 1 << 20, max_entries: 100 };
        let copies = Copies::new(Arc::new(SystemClock), LIMITS, (1 << 20, 10), bounds, |_| Digest([0; 16]));
        let reachability = Arc::clone(&process.reachability);
        let store = Arc::new(Fallback::new(shared, copies, reachability, Duration::ZERO));
        let ttl = Ttl::new("ttl", Duration::from_hours(1)).unwrap();
        let (title, labels, trim) = (String::new(), std::collections::BTreeMap::new(), Trim::default());
        let profile = Profile { owner: None, title, labels, ttl, pinned: false, trim };
        let new = NewThread { id: thread_id(), profile, messages: Vec::new(), request_id: None };
        store.create(&Call::default(), &new).await.unwrap();
        let wakers = Wakers { serving: Some(process.serving.subscribe()), ..Wakers::default() };
        let watch = Self::begin(&store, &wakers).await;
        let mut watched = Self { process, store, wakers, watch };
        assert_eq!(watched.next().await, Event::Synced);
        watched
    }

    async fn begin(store: &Arc<Threads>, wakers: &Wakers) -> ThreadWatch<Threads> {
        let call = Call::default();
        ThreadWatch::begin(Arc::clone(store), wakers, &call, thread_id(), Since::Seq(0)).await.unwrap()
    }

    /// Nothing waits any more that memory answers for.
    fn drop_waiting(&self) {
        let copies = self.store.copies();
        let waiting = copies.lock().queue.due(Instant::now(), true).concat();
        for batch in waiting {
            copies.give_up(batch, &thread_id());
        }
    }

    async fn next(&mut self) -> Event {
        self.watch.next().await.unwrap().unwrap().event
    }

    /// Appends a message, which must be what is told next, by the shared store or by memory.
    async fn append(&mut self, id: &str, is_local: bool) {
        let (messages, owner, create, etag) = (vec![said(id)], None, None, None);
        let append = Append { id: thread_id(), messages, owner, create, etag };
        self.store.append(&Call::default(), &append).await.unwrap();
        self.wakers.bells.ring(&thread_id());
        let told = self.watch.next().await.unwrap().unwrap();
        let Event::Appended(messages) = told.event else { panic!("{:?}", told.event) };
        assert_eq!(messages.last().unwrap().message.id.to_string(), id);
        assert_eq!(matches!(told.source, Source::Local { as_of: Some(_) }), is_local);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_thread_tells_each_mode_and_resyncs_where_the_shared_store_answers_again() {
    let mut on = Watched::start().await;
    for round in 0..2 {
        on.append(&format!("before-{round}"), false).await;
        on.process.reaches(false).await;
        on.process.serves(ServingMode::Degraded);
        assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Degraded));
        on.append(&format!("outage-{round}"), true).await;
        // What was accepted is being merged: memory still answers for this thread.
        on.process.serves(ServingMode::Reconciling);
        assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Reconciling));
        on.append(&format!("merging-{round}"), true).await;
        on.drop_waiting();
        on.process.reaches(true).await;
        on.wakers.bells.ring_all();
        assert!(matches!(on.next().await, Event::Resync { .. }));
        on.append(&format!("merged-{round}"), false).await;
        on.process.serves(ServingMode::Shared);
        assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Shared));
    }
    on.append("after", false).await;
    on.process.shutdown.trigger();
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_the_process_says_late_is_told_as_well() {
    let mut on = Watched::start().await;
    on.process.reaches(false).await;
    on.wakers.bells.ring_all();
    assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Degraded), "memory answered");
    on.process.serves(ServingMode::Degraded);
    on.append("outage", true).await;
    on.drop_waiting();
    on.process.reaches(true).await;
    on.wakers.bells.ring_all();
    // Redis answers, but what it shares comes after the mode. The clock stands still: no time passes but in this sleep.
    let later = async {
        sleep(Duration::from_secs(5)).await;
        on.process.serves(ServingMode::Shared);
    };
    let (told, ()) = tokio::join!(on.watch.next(), later);
    assert_eq!(told.unwrap().unwrap().event, Event::ModeChanged(ServingMode::Shared));
    assert!(matches!(on.next().await, Event::Resync { .. }));
    on.append("after", false).await;
    on.process.shutdown.trigger();
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_thread_that_begins_while_writes_are_merged_is_told_so() {
    let mut on = Watched::start().await;
    on.process.serves(ServingMode::Reconciling);
    on.watch = Watched::begin(&on.store, &on.wakers).await;
    assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Reconciling));
    assert_eq!(on.next().await, Event::Synced);
    on.process.serves(ServingMode::Shared);
    assert_eq!(on.next().await, Event::ModeChanged(ServingMode::Shared));
    on.append("after", false).await;
    on.process.shutdown.trigger();
}

type Engines = Engine<MemoryBreakers<SystemClock>>;

fn engine(shutdown: &Shutdown) -> Engines {
    let store = MemoryBreakers::new(SystemClock, 100);
    Engine::new(store, Policies::default(), "here", None, shutdown.clone())
}

fn key(name: &str) -> ModelKey {
    ModelKey::parse("key", name).unwrap()
}

async fn trip(engine: &Engines) {
    let what = Ordered::Trip(None);
    let order = Order { what, actor: String::new(), reason: String::new(), request_id: None };
    engine.operate(&Call::default(), &key("m"), &order).await.unwrap();
}

async fn fail(engine: &Engines, name: &str) {
    for _ in 0..5 {
        let (permit, outcome, detail) = (None, Outcome::Failure, String::new());
        let report = Report { key: key(name), permit, outcome, duration: None, retry_after: None, detail };
        engine.report(&Call::default(), report).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_breakers_tells_each_mode_and_what_all_share_from_the_merging_on() {
    let process = Process::start();
    let (shared, local) = (engine(&process.shutdown), engine(&process.shutdown));
    let (reachability, serving) = (Arc::clone(&process.reachability), process.serving.subscribe());
    let breakers =
        FallbackBreakers::new(shared.clone(), local.clone(), reachability, serving, Arc::new(SystemClock));
    let interest = Interest { keys: Vec::new(), prefix: Some(String::new()) };
    let mut watch = breakers.watch(Watch { interest, ..Watch::default() }).unwrap();
    assert_eq!(watch.next().await.value, BreakerEvent::Synced);
    let opens = |event: BreakerEvent| match event {
        BreakerEvent::Changed(_, change) => {
            (change.to == Breaker::Open).then_some(change.position.generation)
        }
        // What happens while the watch goes over may be part of what it begins with.
        BreakerEvent::Resync(breaker, _) => {
            (breaker.state == Breaker::Open).then_some(breaker.position.generation)
        }
        other => panic!("{other:?}"),
    };
    trip(&shared).await;
    assert_eq!(opens(watch.next().await.value), Some(1));
    process.serves(ServingMode::Degraded);
    let told = watch.next().await;
    assert_eq!(told.value, BreakerEvent::ModeChanged(ServingMode::Degraded));
    for name in ["m", "only-here"] {
        fail(&local, name).await;
        assert_eq!(opens(watch.next().await.value), Some(1));
    }
    trip(&shared).await;
    process.serves(ServingMode::Reconciling);
    let BreakerEvent::Removed(removed) = watch.next().await.value else { panic!("not removed") };
    assert_eq!(removed.key, key("only-here"), "what memory alone had is no more");
    let told = watch.next().await;
    assert_eq!(told.value, BreakerEvent::ModeChanged(ServingMode::Reconciling));
    assert_eq!(told.source, Source::Shared);
    let BreakerEvent::Resync(breaker, _) = watch.next().await.value else { panic!("no resync") };
    assert_eq!(breaker.position.generation, 2);
    process.serves(ServingMode::Shared);
    assert_eq!(watch.next().await.value, BreakerEvent::ModeChanged(ServingMode::Shared));
    trip(&shared).await;
    assert_eq!(opens(watch.next().await.value), Some(3), "it goes on without a gap");
    process.shutdown.trigger();
}

async fn read(engine: &Engines) -> Inspected {
    engine.inspect(&Call::default(), &key("m")).await.unwrap().value
}

#[tokio::test(start_paused = true)]
async fn a_trip_that_redis_was_lost_for_holds_in_the_next_outage_and_is_offered_after_it() {
    let process = Process::start();
    let (shared, local) = (engine(&process.shutdown), engine(&process.shutdown));
    let reachability = Arc::clone(&process.reachability);
    let handover = Arc::new(Handover::new(shared.clone(), local.clone(), reachability));
    handover.begin();
    fail(&local, "m").await;
    let open_until = read(&local).await.breaker.open_until;
    // Redis is gone again before anything could be offered.
    let offers = handover.end();
    assert_eq!(read(&local).await.breaker.state, Breaker::Closed, "memory forgot it");
    handover.begin();
    process.reaches(false).await;
    offers.await;
    assert_eq!(read(&shared).await.breaker.state, Breaker::Closed);
    handover.begin();
    let again = read(&local).await.breaker;
    assert_eq!((again.state, again.attempts), (Breaker::Open, 1));
    assert!(again.open_until.unwrap().since(open_until.unwrap()) < Duration::from_secs(5));
    process.reaches(true).await;
    handover.end().await;
    let taken = read(&shared).await;
    assert_eq!(taken.last_transition.unwrap().reason, Reason::Reconciled);
    assert_eq!((taken.breaker.state, taken.breaker.position.generation), (Breaker::Open, 1));
    // The next outage begins with that, and ends without anything to offer.
    handover.begin();
    assert_eq!(read(&local).await.breaker.state, Breaker::Open);
    handover.end().await;
    assert_eq!(read(&shared).await.breaker.position.generation, 1);
    process.shutdown.trigger();
}

#[tokio::test(start_paused = true)]
async fn a_trip_that_waits_gives_way_to_what_was_seen_of_the_shared_breaker_since() {
    let process = Process::start();
    let (shared, local) = (engine(&process.shutdown), engine(&process.shutdown));
    let handover = Arc::new(Handover::new(shared.clone(), local.clone(), Arc::clone(&process.reachability)));
    handover.begin();
    fail(&local, "m").await;
    drop(handover.end());
    trip(&shared).await;
    let what = Ordered::Reset;
    let order = Order { what, actor: String::new(), reason: String::new(), request_id: None };
    shared.operate(&Call::default(), &key("m"), &order).await.unwrap();
    handover.begin();
    assert_eq!(read(&local).await.breaker.state, Breaker::Closed);
    handover.end().await;
    assert_eq!(read(&shared).await.breaker.position.generation, 2);
    process.shutdown.trigger();
}
