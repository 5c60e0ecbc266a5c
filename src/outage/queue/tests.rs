use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::{
    memory::samples::{START, new_thread, said, sized, thread_id, ttl},
    threads::{
        Digest, MessageId, NewMessage, Role, Thread,
        replay::{MAX_REPLAY, MAX_REPLAY_BYTES},
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

fn entry(new: NewMessage) -> Entry {
    let NewMessage { message, digest } = new;
    Entry { message: Arc::new(message), digest, time: START, is_repair: false }
}

fn entries(ids: &[&str]) -> Vec<Entry> {
    ids.iter().map(|id| entry(said(id))).collect()
}

/// Messages for a thread that Redis had, at revision 3 with 5 messages.
fn appended(id: &str, entries: Vec<Entry>) -> Accepted {
    let origin = Origin { thread: thread(id, 3, 5), any_owner: false, created_by: None };
    Accepted { origin, creates: false, entries, touch: None, held_until: Timestamp::default() }
}

/// A thread that memory created.
fn created(id: &str, entries: Vec<Entry>) -> Accepted {
    let origin = Origin { thread: thread(id, 0, 0), any_owner: false, created_by: None };
    Accepted { origin, creates: true, ..appended(id, entries) }
}

/// A journal, and the only run in it.
fn journal_of(accepted: Accepted) -> (Journal, RunId) {
    let mut journal = Journal::new(BOUNDS);
    journal.accept(accepted, START);
    let run = journal.due(START, false).concat()[0];
    (journal, run)
}

fn ids(step: &Replay) -> Vec<&str> {
    step.entries.iter().map(|entry| entry.message.id.as_str()).collect()
}

/// What Redis answers that has taken a step just behind what was there.
fn done(step: &Replay) -> Replayed {
    let was = &step.origin.thread;
    let count = i64::try_from(step.entries.len()).unwrap();
    let thread = Thread {
        revision: was.revision + i64::from(count > 0),
        last_seq: was.last_seq + count,
        local: false,
        ..was.clone()
    };
    Replayed::Done {
        thread,
        previous_last_seq: was.last_seq,
        seqs: (was.last_seq + 1..).take(step.entries.len()).collect(),
        duplicates: vec![false; step.entries.len()],
    }
}

fn no_base(_: Base) -> Vec<Entry> {
    Vec::new()
}

fn settle(journal: &mut Journal, run: RunId, replayed: Replayed) -> Settled {
    let step = journal.step(run).unwrap();
    journal.settle(run, &step, replayed, no_base, START)
}

/// Takes a step; says whether the run goes on.
fn take(journal: &mut Journal, run: RunId) -> bool {
    let step = journal.step(run).unwrap();
    matches!(journal.settle(run, &step, done(&step), no_base, START), Settled::GoesOn)
}

#[test]
fn what_would_exceed_the_bounds_is_refused() {
    let mut journal = Journal::new(JournalBounds { max_bytes: 20_000, max_entries: 3 });
    journal.accept(created("t", entries(&["a", "b"])), START);
    assert!(matches!(journal.admit(1, 0), Err(Error::JournalFull { limit: 3, what: "entries" })));
    assert!(matches!(journal.admit(0, 20_000), Err(Error::JournalFull { limit: 20_000, what: "bytes" })));
    assert!(journal.admit(0, 1000).is_ok());
    let run = journal.due(START, false).concat()[0];
    assert!(!take(&mut journal, run));
    assert!(journal.admit(3, 20_000).is_ok(), "what was merged takes no room");
    assert_eq!(journal.status(), JournalStatus::default());
}

#[test]
fn a_run_is_replayed_in_order_in_steps_that_are_not_too_large() {
    let many: Vec<_> = (0..2500).map(|n| entry(said(&format!("m{n}")))).collect();
    let (mut journal, run) = journal_of(appended("t", many));
    let mut told = Vec::new();
    loop {
        let step = journal.step(run).unwrap();
        assert!(step.entries.len() <= MAX_REPLAY && !step.creates);
        told.extend(step.entries.iter().map(|entry| entry.message.id.to_string()));
        if !take(&mut journal, run) {
            break;
        }
    }
    assert_eq!(told, (0..2500).map(|n| format!("m{n}")).collect::<Vec<_>>());
}

#[test]
fn a_step_is_bounded_by_bytes_but_takes_one_message_at_least() {
    let large = |id: &str, size: usize| {
        let mut new = sized(id, Role::User, u32::try_from(size).unwrap());
        new.message.payload = vec![0; size].into();
        entry(new)
    };
    let waiting = vec![large("a", MAX_REPLAY_BYTES / 2), large("b", MAX_REPLAY_BYTES), large("c", 1)];
    let (mut journal, run) = journal_of(appended("t", waiting));
    for expected in [vec!["a"], vec!["b"], vec!["c"]] {
        assert_eq!(ids(&journal.step(run).unwrap()), expected);
        take(&mut journal, run);
    }
}

#[test]
fn what_is_accepted_during_the_replay_joins_the_tail() {
    let (mut journal, run) = journal_of(appended("t", entries(&["a"])));
    let step = journal.step(run).unwrap();
    journal.accept(appended("t", entries(&["b"])), START);
    let settled = journal.settle(run, &step, done(&step), no_base, START);
    assert!(matches!(settled, Settled::GoesOn));
    assert!(journal.is_waiting(&thread_id("t")));
    let step = journal.step(run).unwrap();
    assert_eq!((ids(&step), step.origin.thread.revision, step.origin.thread.last_seq), (vec!["b"], 4, 6));
    let settled = journal.settle(run, &step, done(&step), no_base, START);
    assert!(matches!(settled, Settled::Merged { is_clean: true, .. }), "{settled:?}");
    assert!(!journal.is_waiting(&thread_id("t")));
}

#[test]
fn a_thread_that_is_gone_is_created_from_what_is_known_of_it() {
    let (mut journal, run) = journal_of(appended("t", entries(&["b", "c"])));
    let step = journal.step(run).unwrap();
    let base = |wanted| {
        assert_eq!(wanted, Base::All);
        entries(&["a", "b"])
    };
    assert!(matches!(journal.settle(run, &step, Replayed::Absent, base, START), Settled::GoesOn));
    let step = journal.step(run).unwrap();
    assert_eq!((ids(&step), step.creates), (vec!["a", "b", "c"], true), "each once");
    let settled = journal.settle(run, &step, done(&step), no_base, START);
    assert!(matches!(settled, Settled::Merged { is_clean: false, .. }), "{settled:?}");
}

#[test]
fn a_thread_that_memory_created_is_created_only_if_nobody_else_did() {
    let (mut journal, run) = journal_of(created("t", entries(&["a"])));
    assert_eq!(journal.status().entries, 2, "the creation counts");
    assert!(!journal.step(run).unwrap().creates);
    settle(&mut journal, run, Replayed::Absent);
    assert!(journal.step(run).unwrap().creates);
    assert!(!take(&mut journal, run));
}

#[test]
fn what_a_failover_lost_comes_first_and_once() {
    let (mut journal, run) = journal_of(appended("t", entries(&["c"])));
    let lost = || Replayed::Behind(thread("t", 1, 3));
    let base = |wanted| {
        assert_eq!(wanted, Base::Acknowledged);
        let mut known = entries(&["a", "b"]);
        for entry in &mut known {
            entry.is_repair = true;
        }
        known
    };
    for _ in 0..2 {
        let step = journal.step(run).unwrap();
        assert!(matches!(journal.settle(run, &step, lost(), base, START), Settled::Lost(_)));
    }
    journal.rebase(run, "another", 1);
    let step = journal.step(run).unwrap();
    assert_eq!((ids(&step), step.origin.thread.epoch.as_str()), (vec!["a", "b", "c"], "another"));
    let Replayed::Done { thread, previous_last_seq, seqs, .. } = done(&step) else { unreachable!() };
    let duplicates = vec![true, false, false];
    let replayed = Replayed::Done { thread, previous_last_seq, seqs, duplicates };
    journal.settle(run, &step, replayed, no_base, START);
    assert_eq!(journal.status().lost_writes_repaired, 1, "one was still there, one is new");
}

#[test]
fn one_repair_of_a_thread_goes_on_at_a_time_and_its_calls_go_to_redis() {
    let mut journal = Journal::new(BOUNDS);
    let origin = || appended("t", Vec::new()).origin;
    journal.repair(origin(), Vec::new(), START);
    assert!(!journal.is_pending(), "nothing is known that could be lost");
    for _ in 0..2 {
        journal.repair(origin(), entries(&["a"]), START);
    }
    assert_eq!(journal.due(START, false).concat().len(), 1);
    assert!(journal.is_pending() && !journal.is_waiting(&thread_id("t")));
}

#[test]
fn a_deleted_incarnation_is_dropped_and_told() {
    let (mut journal, run) = journal_of(appended("t", entries(&["a", "b"])));
    assert!(matches!(settle(&mut journal, run, Replayed::Deleted), Settled::Dropped));
    let JournalStatus { entries, bytes, parked, .. } = journal.status();
    assert_eq!((entries, bytes, parked.len()), (0, 0, 1));
    assert_eq!((parked[0].thread.as_str(), parked[0].entries), ("t", 2));
    assert!(!journal.is_waiting(&thread_id("t")));
}

#[test]
fn a_thread_of_another_owner_takes_nothing() {
    let (mut journal, run) = journal_of(created("t", entries(&["a"])));
    assert!(matches!(settle(&mut journal, run, Replayed::OtherOwner), Settled::Moved));
    let other = format!("t~{EPOCH}");
    assert!(!journal.is_waiting(&thread_id("t")), "its calls go to redis");
    assert!(journal.status().parked[0].reason.contains(&other));
    settle(&mut journal, run, Replayed::Absent);
    let step = journal.step(run).unwrap();
    assert_eq!((step.origin.thread.id.as_str(), ids(&step), step.creates), (&*other, vec!["a"], true));
    assert!(matches!(settle(&mut journal, run, Replayed::OtherOwner), Settled::Over));
    assert!(journal.status().parked.iter().any(|run| run.reason.contains("another owner, too")));
    assert_eq!(journal.status().entries, 2, "it is kept");
}

#[test]
fn an_id_of_other_content_gets_another_that_is_always_the_same() {
    let renamed = || {
        let mut waiting = entries(&["a", "b"]);
        waiting[0].digest = Digest([7; 16]);
        let (mut journal, run) = journal_of(appended("t", waiting));
        let size = journal.step(run).unwrap().entries[0].message.size;
        settle(&mut journal, run, Replayed::Reused(MessageId::parse("id", "a").unwrap()));
        let step = journal.step(run).unwrap();
        let message = &step.entries[0].message;
        assert_eq!(usize::try_from(message.size - size).unwrap(), message.id.as_str().len() - 1);
        assert_eq!(step.entries[1].message.id.as_str(), "b");
        assert_eq!(journal.status().parked.len(), 1);
        message.id.to_string()
    };
    let id = renamed();
    assert!(id.starts_with("a~") && id.len() == 28, "{id}");
    assert_eq!(renamed(), id);
}

#[test]
fn a_parked_run_is_kept_and_tried_again_and_what_comes_after_it_stays_behind_it() {
    let (mut journal, run) = journal_of(appended("t", entries(&["a"])));
    journal.park(run, "redis is at its maxmemory", START);
    assert!(!journal.is_pending(), "it holds nothing up");
    assert!(journal.is_waiting(&thread_id("t")));
    journal.accept(appended("t", entries(&["b"])), START);
    assert_eq!(journal.due(START, false), Vec::<Vec<RunId>>::new());
    assert_eq!(journal.due(START, true).concat(), [run], "when redis returns");
    assert_eq!(journal.next_due(START), Some(RETRY));
    assert_eq!(journal.due(START.plus(RETRY), false).concat(), [run]);
    assert_eq!(journal.status().parked[0].reason, "redis is at its maxmemory");
    assert_eq!(ids(&journal.step(run).unwrap()), ["a", "b"]);
    assert!(!take(&mut journal, run));
    assert_eq!(journal.status(), JournalStatus::default());
}

#[test]
fn a_write_that_may_still_happen_is_not_replayed_before_it_cannot() {
    let late = START.plus(Duration::from_secs(6));
    let mut journal = Journal::new(BOUNDS);
    journal.accept(Accepted { held_until: late, ..appended("t", entries(&["a"])) }, START);
    journal.accept(appended("t", entries(&["b"])), START);
    assert!(journal.is_pending() && journal.due(START, true).is_empty());
    assert_eq!(journal.next_due(START), Some(Duration::from_secs(6)));
    assert_eq!(journal.due(late, false).len(), 1);
}

#[test]
fn a_renewal_is_replayed_with_its_time_to_live() {
    let touch = |seconds| Some(Touch(Some(ttl(Duration::from_secs(seconds)))));
    let (mut journal, run) = journal_of(Accepted { touch: touch(60), ..appended("t", Vec::new()) });
    let step = journal.step(run).unwrap();
    assert_eq!((step.entries.len(), step.ttl), (0, Some(ttl(Duration::from_mins(1)))));
    journal.accept(Accepted { touch: touch(90), ..appended("t", Vec::new()) }, START);
    let settled = journal.settle(run, &step, done(&step), no_base, START);
    assert!(matches!(settled, Settled::GoesOn), "the later one was not told yet");
    assert_eq!(journal.step(run).unwrap().ttl, Some(ttl(Duration::from_secs(90))));
    assert!(!take(&mut journal, run));
}

#[test]
fn a_renewal_without_a_time_to_live_leaves_that_of_an_earlier_one() {
    let hour = ttl(Duration::from_hours(1));
    let (mut journal, run) =
        journal_of(Accepted { touch: Some(Touch(Some(hour))), ..appended("t", Vec::new()) });
    journal.accept(Accepted { touch: Some(Touch(None)), ..appended("t", Vec::new()) }, START);
    assert_eq!(journal.step(run).unwrap().ttl, Some(hour));
    assert!(!take(&mut journal, run));
}

#[test]
fn a_renewal_makes_no_empty_thread() {
    let touch = Some(Touch(None));
    let (mut journal, run) = journal_of(Accepted { touch, ..appended("t", Vec::new()) });
    assert!(matches!(settle(&mut journal, run, Replayed::Absent), Settled::Dropped));
    assert_eq!((journal.status().entries, journal.status().parked.len()), (0, 1));
}

/// A file that keeps what it was given, and fails while it is told to.
#[derive(Debug, Default)]
struct Kept(Mutex<(Vec<Record>, bool)>);

impl JournalFile for Kept {
    fn append(&self, records: Vec<Record>) -> Receipt {
        self.0.lock().unwrap().0.extend(records);
        oneshot::channel().1
    }

    fn replace(&self, records: Vec<Record>) -> Receipt {
        *self.0.lock().unwrap() = (records, false);
        oneshot::channel().1
    }

    fn has_failed(&self) -> bool {
        self.0.lock().unwrap().1
    }

    fn may_replace(&self) -> bool {
        true
    }

    fn bytes(&self) -> u64 {
        0
    }
}

#[test]
fn a_file_says_all_that_waits_and_nothing_else() {
    let mut journal = Journal::new(BOUNDS);
    journal.accept(created("before", entries(&["x"])), START);
    let file = Arc::new(Kept::default());
    journal.write_to(Arc::clone(&file) as Arc<dyn JournalFile>);
    journal.accept(appended("t", entries(&["a"])), START);
    journal.accept(Accepted { touch: Some(Touch(None)), ..appended("t", entries(&["b"])) }, START);
    journal.accept(appended("merged", entries(&["c"])), START);
    let merged = *journal.due(START, false).concat().last().unwrap();
    assert!(!take(&mut journal, merged));
    // What cannot be written now is written with the rest.
    file.0.lock().unwrap().1 = true;
    journal.accept(created("new", entries(&["d"])), START);

    let mut restored = Journal::new(BOUNDS);
    let records = file.0.lock().unwrap().0.clone();
    let later = START.plus(Duration::from_secs(1));
    let mut held: Vec<_> = restored.restore(records, (START, later));
    held.sort_by_key(|(origin, _)| origin.thread.id.to_string());
    let told: Vec<_> =
        held.iter().map(|(origin, waiting)| (origin.thread.id.as_str(), waiting.len())).collect();
    assert_eq!(told, [("before", 1), ("new", 1), ("t", 2)]);
    let (mut was, mut is) = (journal.status(), restored.status());
    (was.oldest, is.oldest) = (None, None);
    assert_eq!(is, was);
    assert!(restored.due(START, true).is_empty(), "an earlier process's writes may still happen");
    for run in restored.due(later, false).concat() {
        let (step, is) = (journal.step(run).unwrap(), restored.step(run).unwrap());
        assert_eq!((is.entries, &is.origin, is.ttl), (step.entries, &step.origin, step.ttl));
    }
    restored.accept(appended("next", entries(&["e"])), START);
    assert_eq!(restored.due(later, false).concat().len(), 4, "no run takes another's number");
}

#[test]
fn a_clock_that_steps_back_keeps_no_run_waiting_longer_than_it_was_to() {
    let hold = Duration::from_secs(5);
    let (mut journal, run) = journal_of(appended("t", entries(&["a"])));
    journal.accept(Accepted { held_until: START.plus(hold), ..appended("t", entries(&["b"])) }, START);
    let back = Timestamp::from_millis(START.as_millis() - 3_600_000);
    assert!(journal.due(back, false).is_empty());
    assert!(journal.next_due(back).unwrap() <= hold);
    assert_eq!(journal.due(back.plus(hold), false).concat(), [run]);
    journal.park(run, "for a test", START);
    assert!(journal.due(back, false).is_empty());
    assert_eq!(journal.due(back.plus(RETRY), false).concat(), [run]);
}

#[test]
fn what_is_made_anew_step_by_step_keeps_the_epoch_that_its_deletion_names() {
    let (mut journal, run) = journal_of(appended("t", entries(&["a"])));
    settle(&mut journal, run, Replayed::Absent);
    let step = journal.step(run).unwrap();
    assert!(step.creates && step.origin.thread.epoch != EPOCH && step.origin.thread.revision == 0);
    let again = journal.step(run).unwrap();
    assert_eq!(again.origin.thread.epoch, step.origin.thread.epoch);
}
