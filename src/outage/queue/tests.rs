use tempfile::TempDir;

use super::*;
use crate::{
    memory::samples::{START, new_thread, said, sized, thread_id, ttl},
    outage::{Opened, SyncPolicy},
    shutdown::Shutdown,
    threads::{
        Digest, MessageId, NewMessage, Role, Thread,
        replay::{Done, MAX_REPLAY, MAX_REPLAY_BYTES},
    },
};

const BOUNDS: JournalBounds = JournalBounds { max_bytes: 64 << 20, max_entries: 10_000 };
const EPOCH: &str = "01J00000000000000000000000";

fn thread(id: &str, revision: i64, last_seq: i64) -> Thread {
    Thread {
        id: thread_id(id),
        profile: new_thread(id, Vec::new()).profile,
        epoch: EPOCH.to_owned(),
        revision,
        message_count: last_seq,
        first_seq: last_seq.min(1),
        last_seq,
        token_count: 0,
        size_bytes: 0,
        parent: None,
        create_time: START,
        update_time: START,
        expire_time: None,
        local: true,
    }
}

fn entry(new: NewMessage) -> PendingMessage {
    let NewMessage { message, digest } = new;
    PendingMessage { message: Arc::new(message), digest, time: START, is_repair: false }
}

fn entries(ids: &[&str]) -> Vec<PendingMessage> {
    ids.iter().map(|id| entry(said(id))).collect()
}

/// Where a write goes that memory accepted: to a thread that Redis had, at revision 3 with 5 messages, or to one that
/// memory created.
fn origin(id: &str, write: &Write) -> Origin {
    let thread = if matches!(write, Write::Create(_)) { thread(id, 0, 0) } else { thread(id, 3, 5) };
    Origin { thread, any_owner: false, created_by: None }
}

fn accept(queue: &mut Queue, id: &str, write: Write) {
    queue.accept(origin(id, &write), write, None, START);
}

/// A queue, and the only batch in it.
fn queue_of(id: &str, write: Write) -> (Queue, BatchId) {
    let mut queue = Queue::new(BOUNDS);
    accept(&mut queue, id, write);
    let batch = queue.due(Instant::now(), false).concat()[0];
    (queue, batch)
}

fn ids(step: &Replay) -> Vec<&str> {
    step.entries.iter().map(|entry| entry.message.id.as_str()).collect()
}

/// What Redis answers that has taken a step just behind what was there.
fn done(step: &Replay) -> Done {
    let was = &step.origin.thread;
    let count = i64::try_from(step.entries.len()).unwrap();
    let thread = Thread {
        revision: was.revision + i64::from(count > 0),
        last_seq: was.last_seq + count,
        local: false,
        ..was.clone()
    };
    Done { thread, previous_last_seq: was.last_seq, duplicates: vec![false; step.entries.len()] }
}

/// Takes a step as given; says whether nothing waits any more, and ends the batch then.
fn take_step(queue: &mut Queue, batch: BatchId, step: &Replay) -> bool {
    let is_over = queue.change(batch, |batch| batch.take_done(step, &done(step))).unwrap();
    if is_over {
        queue.finish(batch, &step.origin.thread.id);
    }
    is_over
}

/// Takes the next step.
fn take(queue: &mut Queue, batch: BatchId) -> bool {
    let step = queue.step(batch).unwrap();
    take_step(queue, batch, &step)
}

#[test]
fn what_would_exceed_the_bounds_is_refused() {
    let mut queue = Queue::new(JournalBounds { max_bytes: 20_000, max_entries: 3 });
    accept(&mut queue, "t", Write::Create(entries(&["a", "b"])));
    assert!(matches!(queue.admit(1, 0), Err(Error::JournalFull { limit: 3, what: "entries" })));
    assert!(matches!(queue.admit(0, 20_000), Err(Error::JournalFull { limit: 20_000, what: "bytes" })));
    assert!(queue.admit(0, 1000).is_ok());
    let batch = queue.due(Instant::now(), false).concat()[0];
    assert!(take(&mut queue, batch));
    assert!(queue.admit(3, 20_000).is_ok(), "what was merged takes no room");
    assert_eq!(queue.status(), JournalStatus::default());
}

#[test]
fn a_batch_is_replayed_in_order_in_steps_that_are_not_too_large() {
    let many: Vec<_> = (0..2500).map(|n| entry(said(&format!("m{n}")))).collect();
    let (mut queue, batch) = queue_of("t", Write::Append(many));
    let mut replayed = Vec::new();
    loop {
        let step = queue.step(batch).unwrap();
        assert!(step.entries.len() <= MAX_REPLAY && !step.creates);
        replayed.extend(step.entries.iter().map(|entry| entry.message.id.to_string()));
        if take(&mut queue, batch) {
            break;
        }
    }
    assert_eq!(replayed, (0..2500).map(|n| format!("m{n}")).collect::<Vec<_>>());
}

#[test]
fn a_step_is_bounded_by_bytes_but_takes_one_message_at_least() {
    let large = |id: &str, size: usize| {
        let mut new = sized(id, Role::User, u32::try_from(size).unwrap());
        new.message.payload = vec![0; size].into();
        entry(new)
    };
    let waiting = vec![large("a", MAX_REPLAY_BYTES / 2), large("b", MAX_REPLAY_BYTES), large("c", 1)];
    let (mut queue, batch) = queue_of("t", Write::Append(waiting));
    for expected in [vec!["a"], vec!["b"], vec!["c"]] {
        assert_eq!(ids(&queue.step(batch).unwrap()), expected);
        take(&mut queue, batch);
    }
}

#[test]
fn what_is_accepted_during_the_replay_joins_the_tail() {
    let (mut queue, batch) = queue_of("t", Write::Append(entries(&["a"])));
    let step = queue.step(batch).unwrap();
    accept(&mut queue, "t", Write::Append(entries(&["b"])));
    assert!(!take_step(&mut queue, batch, &step));
    assert!(queue.is_waiting(&thread_id("t")));
    let step = queue.step(batch).unwrap();
    assert_eq!((ids(&step), step.origin.thread.revision, step.origin.thread.last_seq), (vec!["b"], 4, 6));
    queue.change(batch, |batch| {
        assert!(batch.take_done(&step, &done(&step)) && batch.is_clean());
    });
    queue.finish(batch, &thread_id("t"));
    assert!(!queue.is_waiting(&thread_id("t")));
}

#[test]
fn a_thread_that_is_gone_is_created_from_what_is_known_of_it() {
    let (mut queue, batch) = queue_of("t", Write::Append(entries(&["b", "c"])));
    assert_eq!(queue.change(batch, |batch| batch.create_anew(entries(&["a", "b"]), START)), Some(true));
    let step = queue.step(batch).unwrap();
    assert_eq!((ids(&step), step.creates), (vec!["a", "b", "c"], true), "each once");
    queue.change(batch, |batch| {
        assert!(batch.take_done(&step, &done(&step)) && !batch.is_clean());
    });
}

#[test]
fn a_thread_that_memory_created_is_created_only_if_nobody_else_did() {
    let (mut queue, batch) = queue_of("t", Write::Create(entries(&["a"])));
    assert_eq!(queue.status().entries, 2, "the creation counts");
    assert!(!queue.step(batch).unwrap().creates);
    queue.change(batch, |batch| batch.create_anew(Vec::new(), START));
    assert!(queue.step(batch).unwrap().creates);
    assert!(take(&mut queue, batch));
}

#[test]
fn what_a_failover_lost_comes_first_and_once() {
    let (mut queue, batch) = queue_of("t", Write::Append(entries(&["c"])));
    for _ in 0..2 {
        queue.change(batch, |batch| batch.restore_lost(|| entries(&["a", "b"])));
    }
    let elsewhere = Thread { epoch: "another".to_owned(), ..thread("t", 1, 3) };
    queue.change(batch, |batch| batch.rebase(&elsewhere));
    let step = queue.step(batch).unwrap();
    assert_eq!((ids(&step), step.origin.thread.epoch.as_str()), (vec!["a", "b", "c"], "another"));
}

#[test]
fn one_repair_of_a_thread_goes_on_at_a_time_and_its_calls_go_to_redis() {
    let mut queue = Queue::new(BOUNDS);
    let origin = || origin("t", &Write::Append(Vec::new()));
    queue.repair(origin(), Vec::new(), START);
    assert!(!queue.is_pending(), "nothing is known that could be lost");
    for _ in 0..2 {
        queue.repair(origin(), entries(&["a"]), START);
    }
    assert_eq!(queue.due(Instant::now(), false).concat().len(), 1);
    assert!(queue.is_pending() && !queue.is_waiting(&thread_id("t")));
}

#[test]
fn a_thread_of_another_owner_takes_nothing() {
    let (mut queue, batch) = queue_of("t", Write::Create(entries(&["a"])));
    let moved = |queue: &mut Queue| queue.change(batch, PendingBatch::move_to_another_thread).unwrap();
    let other = format!("t~{EPOCH}");
    assert!(moved(&mut queue).unwrap().contains(&other));
    queue.change(batch, |batch| batch.create_anew(entries(&["other"]), START));
    let step = queue.step(batch).unwrap();
    assert_eq!((step.origin.thread.id.as_str(), ids(&step), step.creates), (&*other, vec!["a"], true));
    assert!(moved(&mut queue).unwrap_err().contains("another owner, too"));
    assert_eq!(queue.status().entries, 2, "it is kept");
}

#[test]
fn an_id_of_other_content_gets_another_that_is_always_the_same() {
    let renamed = || {
        let mut waiting = entries(&["a", "b"]);
        waiting[0].digest = Digest([7; 16]);
        let (mut queue, batch) = queue_of("t", Write::Append(waiting));
        let size = queue.step(batch).unwrap().entries[0].message.size;
        let used = MessageId::parse("id", "a").unwrap();
        queue.change(batch, |batch| batch.rename_message(&used)).unwrap().unwrap();
        let step = queue.step(batch).unwrap();
        let message = &step.entries[0].message;
        assert_eq!(usize::try_from(message.size - size).unwrap(), message.id.as_str().len() - 1);
        assert_eq!(step.entries[1].message.id.as_str(), "b");
        message.id.to_string()
    };
    let id = renamed();
    assert!(id.starts_with("a~") && id.len() == 28, "{id}");
    assert_eq!(renamed(), id);
}

#[test]
fn a_parked_batch_is_kept_and_tried_again_and_what_comes_after_it_stays_behind_it() {
    let (mut queue, batch) = queue_of("t", Write::Append(entries(&["a"])));
    let now = Instant::now();
    queue.park(batch, "redis is at its maxmemory", now);
    assert!(!queue.is_pending(), "it holds nothing up");
    assert!(queue.is_waiting(&thread_id("t")));
    accept(&mut queue, "t", Write::Append(entries(&["b"])));
    assert_eq!(queue.due(now, false), Vec::<Vec<BatchId>>::new());
    assert_eq!(queue.due(now, true).concat(), [batch], "when redis returns");
    assert_eq!(queue.next_due(now), Some(RETRY));
    assert_eq!(queue.due(now + RETRY, false).concat(), [batch]);
    assert_eq!(queue.status().parked[0].reason, "redis is at its maxmemory");
    assert_eq!(ids(&queue.step(batch).unwrap()), ["a", "b"]);
    assert!(take(&mut queue, batch));
    assert_eq!(queue.status(), JournalStatus::default());
}

#[test]
fn a_write_that_may_still_happen_is_not_replayed_before_it_cannot() {
    let (now, wait) = (Instant::now(), Duration::from_secs(6));
    let mut queue = Queue::new(BOUNDS);
    let write = Write::Append(entries(&["a"]));
    queue.accept(origin("t", &write), write, Some(now + wait), START);
    accept(&mut queue, "t", Write::Append(entries(&["b"])));
    assert!(queue.is_pending() && queue.due(now, true).is_empty());
    assert_eq!(queue.next_due(now), Some(wait));
    assert_eq!(queue.due(now + wait, false).len(), 1);
}

#[test]
fn a_renewal_is_replayed_with_its_time_to_live() {
    let renewal = |seconds| Write::Renew(Some(ttl(Duration::from_secs(seconds))));
    let (mut queue, batch) = queue_of("t", renewal(60));
    let step = queue.step(batch).unwrap();
    assert_eq!((step.entries.len(), step.ttl), (0, Some(ttl(Duration::from_mins(1)))));
    accept(&mut queue, "t", renewal(90));
    assert!(!take_step(&mut queue, batch, &step), "the later one is still to be replayed");
    assert_eq!(queue.step(batch).unwrap().ttl, Some(ttl(Duration::from_secs(90))));
    assert!(take(&mut queue, batch));
}

#[test]
fn a_renewal_without_a_time_to_live_leaves_that_of_an_earlier_one() {
    let hour = ttl(Duration::from_hours(1));
    let (mut queue, batch) = queue_of("t", Write::Renew(Some(hour)));
    accept(&mut queue, "t", Write::Renew(None));
    assert_eq!(queue.step(batch).unwrap().ttl, Some(hour));
    assert!(take(&mut queue, batch));
}

#[test]
fn a_renewal_makes_no_empty_thread() {
    let (mut queue, batch) = queue_of("t", Write::Renew(None));
    assert_eq!(queue.change(batch, |batch| batch.create_anew(Vec::new(), START)), Some(false));
}

#[test]
fn what_is_made_anew_step_by_step_keeps_the_epoch_that_its_deletion_names() {
    let (mut queue, batch) = queue_of("t", Write::Append(entries(&["a"])));
    queue.change(batch, |batch| batch.create_anew(Vec::new(), START));
    let step = queue.step(batch).unwrap();
    assert!(step.creates && step.origin.thread.epoch != EPOCH && step.origin.thread.revision == 0);
    let again = queue.step(batch).unwrap();
    assert_eq!(again.origin.thread.epoch, step.origin.thread.epoch);
}

fn open(folder: &TempDir, tasks: &Shutdown) -> Opened {
    FileJournal::open(&folder.path().join("journal"), SyncPolicy::Never, tasks).unwrap()
}

#[tokio::test]
async fn a_file_holds_all_that_waits_and_nothing_else() {
    let (folder, tasks) = (TempDir::new().unwrap(), Shutdown::new());
    let mut queue = Queue::new(BOUNDS);
    accept(&mut queue, "before", Write::Create(entries(&["x"])));
    queue.write_to(open(&folder, &tasks).journal);
    accept(&mut queue, "t", Write::Append(entries(&["a"])));
    accept(&mut queue, "t", Write::Append(entries(&["b"])));
    accept(&mut queue, "t", Write::Renew(None));
    accept(&mut queue, "merged", Write::Append(entries(&["c"])));
    let merged = *queue.due(Instant::now(), false).concat().last().unwrap();
    assert!(take(&mut queue, merged));
    accept(&mut queue, "new", Write::Create(entries(&["d"])));
    queue.receipt().unwrap().await.unwrap().unwrap();
    // The file belongs to one queue at a time.
    let mut was = queue.status();
    let steps: Vec<_> = queue
        .due(Instant::now(), false)
        .concat()
        .into_iter()
        .map(|id| (id, queue.step(id).unwrap()))
        .collect();
    drop(queue);
    tasks.trigger();
    assert!(tasks.wait(Duration::from_secs(30)).await);

    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
    let mut restored = Queue::new(BOUNDS);
    let mut copies = restored.restore(open(&folder, &Shutdown::new()).records, later, START);
    copies.sort_by_key(|(origin, _)| origin.thread.id.to_string());
    let waiting: Vec<_> =
        copies.iter().map(|(origin, waiting)| (origin.thread.id.as_str(), waiting.len())).collect();
    assert_eq!(waiting, [("before", 1), ("new", 1), ("t", 2)]);
    let mut is = restored.status();
    (was.oldest, is.oldest) = (None, None);
    assert_eq!(is, was);
    assert!(restored.due(now, true).is_empty(), "an earlier process's writes may still happen");
    assert_eq!(restored.due(later, false).len(), 3);
    for (batch, step) in steps {
        let is = restored.step(batch).unwrap();
        assert_eq!((is.entries, &is.origin, is.ttl), (step.entries, &step.origin, step.ttl));
    }
    accept(&mut restored, "next", Write::Append(entries(&["e"])));
    assert_eq!(restored.due(later, false).concat().len(), 4, "no batch takes another's number");
}
