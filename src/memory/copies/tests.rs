use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::ManualClock,
    memory::{
        MemoryThreads,
        samples::{
            LIMITS, START, TTL, append, append_or_create, call, instructed, message_id, new_thread, owner,
            pages, request, said, shared_only, sized, thread_id, ttl,
        },
    },
    threads::{AppendedMessage, MessagesCursor, NewMessage, RequestId, Role, ToolRef, Trim, context::Budget},
};

type TestClock = Arc<ManualClock>;

/// A store that plays Redis, and the copies that learn from what it answers.
struct Fleet {
    clock: TestClock,
    redis: MemoryThreads<TestClock>,
    copies: MemoryCopies<TestClock>,
}

const BOUNDS: JournalBounds = JournalBounds { max_bytes: 100_000, max_entries: 100 };

fn fleet_of(max_bytes: u64, max_threads: usize) -> Fleet {
    let clock = Arc::new(ManualClock::at(START));
    Fleet {
        clock: Arc::clone(&clock),
        redis: MemoryThreads::new(Arc::clone(&clock), LIMITS, u64::MAX),
        copies: MemoryCopies::new(clock, LIMITS, (max_bytes, max_threads), BOUNDS, |_| Digest([0; 16])),
    }
}

fn fleet() -> Fleet {
    fleet_of(1 << 20, 100)
}

impl Fleet {
    /// Messages, creations and renewals that wait.
    fn waiting(&self) -> u64 {
        self.copies.journal().entries
    }

    /// Plays the replay of all that waits in a store that has all of it already.
    fn merge(&self) {
        for run in self.copies.due(true).concat() {
            let step = self.copies.step(run).unwrap();
            let thread = Thread { local: false, ..step.origin.thread.clone() };
            let previous_last_seq = thread.last_seq;
            let seqs = vec![0; step.entries.len()];
            let duplicates = vec![true; step.entries.len()];
            let done = Replayed::Done { thread, previous_last_seq, seqs, duplicates };
            assert!(matches!(self.copies.settle(run, &step, done), Progress::Over));
        }
    }

    async fn create(&self, new: &NewThread) {
        let created = self.redis.create(&call(), new).await.unwrap().value;
        self.copies.observe(Observed::Created(new, &created));
    }

    async fn append(&self, append: &Append) -> Appended {
        let appended = self.append_elsewhere(append).await;
        self.copies.observe(Observed::Appended(append, &appended));
        appended
    }

    /// Another instance's write, of which the copies hear nothing.
    async fn append_elsewhere(&self, append: &Append) -> Appended {
        self.redis.append(&call(), append).await.unwrap().value
    }

    async fn read(&self) -> Thread {
        let thread = self.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
        self.copies.observe(Observed::Read(&thread));
        thread
    }

    async fn read_messages(&self, query: &MessagesQuery) {
        let page = self.redis.messages(&call(), query).await.unwrap().value;
        self.copies.observe(Observed::Messages(query, &page));
    }

    async fn read_context(&self, max_messages: i64) {
        let context = self.redis.context(&call(), &window(max_messages)).await.unwrap().value;
        self.copies.observe(Observed::Context(&context));
    }

    /// The seqs that the copy of `t` answers for the newest so many, oldest first.
    async fn newest(&self, count: usize) -> Result<Vec<i64>> {
        let query = MessagesQuery { descending: true, ..pages("t", count) };
        let mut seqs = seqs(&self.copies.messages(&call(), &query).await?.value);
        seqs.reverse();
        Ok(seqs)
    }

    /// The seqs from which on a page can be answered.
    async fn known_from(&self) -> i64 {
        let thread = self.copies.get(&call(), &thread_id("t"), false).await.unwrap().value;
        for after_seq in 0..thread.last_seq {
            if self.copies.messages(&call(), &MessagesQuery { after_seq, ..pages("t", 9) }).await.is_ok() {
                return after_seq + 1;
            }
        }
        thread.last_seq + 1
    }
}

fn window(max_messages: i64) -> ContextQuery {
    ContextQuery { id: thread_id("t"), budget: Budget { max_messages, max_tokens: 0 }, renew: false }
}

fn seqs(page: &MessagesPage) -> Vec<i64> {
    page.messages.iter().map(|stored| stored.seq).collect()
}

fn ids(page: &MessagesPage) -> Vec<&str> {
    page.messages.iter().map(|stored| stored.message.id.as_str()).collect()
}

fn many(range: std::ops::Range<i32>) -> Vec<NewMessage> {
    range.map(|n| said(&format!("m{n}"))).collect()
}

fn needs_shared<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(Error::NeedsShared(_)))
}

fn verdicts(appended: &Appended) -> Vec<(i64, bool, bool)> {
    let verdict = |message: &AppendedMessage| (message.seq, message.duplicate, message.provisional);
    appended.messages.iter().map(verdict).collect()
}

#[tokio::test]
async fn a_created_thread_is_whole_and_answers_say_when_it_was_true() {
    let fleet = fleet();
    fleet.create(&new_thread("t", vec![instructed("s"), said("a")])).await;
    fleet.clock.advance(Duration::from_secs(1));
    fleet.append(&append("t", vec![said("b")])).await;
    fleet.clock.advance(Duration::from_secs(1));
    let answer = fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap();
    assert_eq!(ids(&answer.value), ["s", "a", "b"]);
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START.plus(Duration::from_secs(1))) });
    let context = fleet.copies.context(&call(), &window(2)).await.unwrap().value;
    assert_eq!(context.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 3]);
    assert!(context.thread.local && context.thread.etag().ends_with("-local\""));
}

#[tokio::test]
async fn what_is_not_held_is_never_not_found() {
    let fleet = fleet();
    let id = thread_id("t");
    assert!(needs_shared(&fleet.copies.get(&call(), &id, true).await));
    assert!(needs_shared(&fleet.copies.messages(&call(), &pages("t", 9)).await));
    assert!(needs_shared(&fleet.copies.context(&call(), &window(0)).await));
    assert!(needs_shared(&fleet.copies.touch(&call(), &id, None).await));
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(0..1))).await));
    assert!(fleet.copies.is_empty());
}

#[tokio::test]
async fn what_speaks_for_all_needs_redis_even_where_the_thread_is_held() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let (id, guard) = (thread_id("t"), Guard::default());
    let mut compare = append_or_create("t", many(2..3));
    compare.etag = Some("\"E-1\"".to_owned());
    assert!(needs_shared(&fleet.copies.append(&call(), &compare).await));
    assert!(needs_shared(&fleet.copies.update(&call(), &id, &ThreadChange::default(), &guard).await));
    assert!(needs_shared(&fleet.copies.delete(&call(), &id, &guard).await));
    assert!(needs_shared(&fleet.copies.truncate(&call(), &id, Cut::KeepLast(1), &guard).await));
    let fork = Fork { source: id.clone(), at_seq: 0, id: thread_id("f"), request_id: None };
    assert!(needs_shared(&fleet.copies.fork(&call(), &fork).await));
    let list = ThreadsQuery { owner: owner("ada"), limit: 9, cursor: None };
    assert!(needs_shared(&fleet.copies.list(&call(), &list).await));
    assert!(needs_shared(&fleet.copies.get(&shared_only(), &id, false).await));
    assert!(needs_shared(&fleet.copies.append(&shared_only(), &append("t", many(2..3))).await));
    assert!(needs_shared(&fleet.copies.create(&shared_only(), &new_thread("u", Vec::new())).await));
    assert_eq!(fleet.waiting(), 0);
}

#[tokio::test]
async fn an_append_made_elsewhere_cuts_the_run_at_the_gap() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.append_elsewhere(&append("t", many(3..5))).await;
    fleet.append(&append("t", many(5..7))).await;
    assert_eq!(fleet.known_from().await, 6);
    assert_eq!(fleet.newest(1).await.unwrap(), [7]);
    assert!(needs_shared(&fleet.newest(2).await), "whether older ones follow is not known");
    assert!(needs_shared(&fleet.copies.context(&call(), &window(1)).await), "instructions may be missing");
    fleet.append(&append("t", many(7..8))).await;
    assert_eq!(fleet.newest(2).await.unwrap(), [7, 8], "the run goes on from there");
}

#[tokio::test]
async fn a_change_made_elsewhere_cuts_the_run_though_no_seq_is_missing() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let change = ThreadChange { title: Some("new".to_owned()), ..ThreadChange::default() };
    fleet.redis.update(&call(), &thread_id("t"), &change, &Guard::default()).await.unwrap();
    fleet.append(&append("t", many(3..4))).await;
    assert_eq!(fleet.known_from().await, 4);
}

#[tokio::test]
async fn a_read_of_the_same_revision_refreshes_and_of_another_leaves_metadata_only() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.clock.advance(Duration::from_secs(9));
    fleet.read().await;
    let answer = fleet.copies.get(&call(), &thread_id("t"), false).await.unwrap();
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START.plus(Duration::from_secs(9))) });
    assert_eq!(fleet.known_from().await, 1);
    fleet.append_elsewhere(&append("t", many(3..4))).await;
    fleet.read().await;
    assert_eq!(fleet.known_from().await, 5);
    let thread = fleet.copies.get(&call(), &thread_id("t"), false).await.unwrap().value;
    assert_eq!((thread.last_seq, thread.message_count), (4, 4));
}

#[tokio::test]
async fn an_answer_that_arrives_late_changes_nothing() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let early = fleet.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
    let batches = [append("t", many(3..4)), append("t", many(4..5))];
    let first = fleet.append_elsewhere(&batches[0]).await;
    let second = fleet.append_elsewhere(&batches[1]).await;
    fleet.copies.observe(Observed::Appended(&batches[1], &second));
    fleet.copies.observe(Observed::Appended(&batches[0], &first));
    fleet.copies.observe(Observed::Read(&early));
    assert_eq!(fleet.known_from().await, 5);
    assert_eq!(fleet.copies.get(&call(), &thread_id("t"), false).await.unwrap().value.last_seq, 5);
}

#[tokio::test]
async fn a_read_that_overtakes_its_append_does_not_cost_the_new_messages() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let batch = append("t", many(3..5));
    let appended = fleet.append_elsewhere(&batch).await;
    fleet.read().await;
    assert_eq!(fleet.known_from().await, 6);
    fleet.copies.observe(Observed::Appended(&batch, &appended));
    assert_eq!(fleet.known_from().await, 4);
}

#[tokio::test]
async fn duplicates_in_an_append_are_not_added_twice() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.append(&append("t", many(2..5))).await;
    fleet.append(&append("t", many(0..5))).await;
    assert_eq!(fleet.newest(9).await.unwrap(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_page_that_reaches_the_end_is_a_run() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..10))).await;
    fleet.read_messages(&pages("t", 5)).await;
    assert_eq!(fleet.known_from().await, 11, "a page that ends before the thread does is none");
    fleet.read_messages(&MessagesQuery { after_seq: 7, ..pages("t", 5) }).await;
    assert_eq!(fleet.known_from().await, 8);
    fleet.read_messages(&MessagesQuery { descending: true, ..pages("t", 5) }).await;
    assert_eq!(fleet.known_from().await, 6);
    fleet.read_messages(&MessagesQuery { descending: true, ..pages("t", 2) }).await;
    assert_eq!(fleet.known_from().await, 6, "a shorter one of the same revision tells nothing");
    let epoch = fleet.read().await.epoch;
    let cursor = Some(MessagesCursor { epoch, seq: 4, local: false });
    fleet.read_messages(&MessagesQuery { cursor: cursor.clone(), ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from().await, 5);
    fleet.read_messages(&MessagesQuery { cursor, descending: true, ..pages("t", 9) }).await;
    fleet.read_messages(&MessagesQuery { before_seq: 9, ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from().await, 5, "pages that end below the newest message are none");
    fleet.read_messages(&pages("t", 10)).await;
    assert_eq!(fleet.known_from().await, 1);
    assert_eq!(fleet.copies.context(&call(), &window(0)).await.unwrap().value.messages.len(), 10);
}

#[tokio::test]
async fn a_page_of_a_newer_revision_replaces_a_longer_run() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..5))).await;
    fleet.append_elsewhere(&append("t", many(5..6))).await;
    fleet.read_messages(&MessagesQuery { after_seq: 4, ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from().await, 5);
    assert_eq!(fleet.newest(1).await.unwrap(), [6]);
}

#[tokio::test]
async fn of_a_context_only_the_unbroken_tail_is_a_run() {
    let fleet = fleet();
    let mut messages = vec![instructed("s")];
    messages.extend(many(0..9));
    fleet.append_elsewhere(&append_or_create("t", messages)).await;
    fleet.read_context(4).await;
    assert_eq!(fleet.known_from().await, 8);
    fleet.read_context(0).await;
    assert_eq!(fleet.known_from().await, 1);

    let mut writing = said("w");
    writing.message.in_progress = true;
    fleet.append_elsewhere(&append("t", vec![writing, said("z")])).await;
    fleet.read_context(0).await;
    assert_eq!(fleet.known_from().await, 12, "what is in progress is in no context and breaks the run");
}

#[tokio::test]
async fn own_changes_and_truncations_keep_the_run() {
    let fleet = fleet();
    let (id, guard) = (thread_id("t"), Guard::default());
    fleet.create(&new_thread("t", many(0..6))).await;
    let change = ThreadChange { title: Some("new".to_owned()), ..ThreadChange::default() };
    let changed = fleet.redis.update(&call(), &id, &change, &guard).await.unwrap().value;
    fleet.copies.observe(Observed::Changed(&changed));
    let update = MessageUpdate {
        id: id.clone(),
        message_id: message_id("m1"),
        revise: Arc::new(|old| Ok(Message { size: 7, ..old.clone() })),
        guard: guard.clone(),
    };
    let updated = fleet.redis.update_message(&call(), &update).await.unwrap().value;
    fleet.copies.observe(Observed::MessageUpdated(&updated));
    for cut in [Cut::After(5), Cut::KeepLast(4)] {
        let truncated = fleet.redis.truncate(&call(), &id, cut, &guard).await.unwrap().value;
        fleet.copies.observe(Observed::Truncated(cut, &truncated));
    }
    let page = fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap().value;
    assert_eq!(seqs(&page), [2, 3, 4, 5]);
    let thread = &page.thread;
    assert_eq!((page.messages[0].message.size, &*thread.profile.title, thread.last_seq), (7, "new", 6));
}

#[tokio::test]
async fn own_changes_after_others_cut_the_run() {
    let guard = Guard::default();
    for what in 0..3 {
        let fleet = fleet();
        let id = thread_id("t");
        fleet.create(&new_thread("t", many(0..6))).await;
        fleet.append_elsewhere(&append("t", many(6..7))).await;
        match what {
            0 => {
                let change = ThreadChange::default();
                let changed = fleet.redis.update(&call(), &id, &change, &guard).await.unwrap().value;
                fleet.copies.observe(Observed::Changed(&changed));
            }
            1 => {
                let cut = Cut::KeepLast(6);
                let truncated = fleet.redis.truncate(&call(), &id, cut, &guard).await.unwrap().value;
                fleet.copies.observe(Observed::Truncated(cut, &truncated));
            }
            _ => {
                let (message_id, revise) = (message_id("m1"), Arc::new(|old: &_| Ok(Clone::clone(old))));
                let update = MessageUpdate { id, message_id, revise, guard: guard.clone() };
                let updated = fleet.redis.update_message(&call(), &update).await.unwrap().value;
                fleet.copies.observe(Observed::MessageUpdated(&updated));
            }
        }
        assert_eq!(fleet.known_from().await, 8, "{what}");
    }
}

#[tokio::test]
async fn trimmed_messages_leave_the_copy_and_kept_instructions_stay() {
    let fleet = fleet();
    let mut new = new_thread("t", vec![instructed("s"), said("a")]);
    new.profile.trim = Trim { max_messages: 3, max_bytes: 0 };
    fleet.create(&new).await;
    fleet.append(&append("t", many(0..4))).await;
    assert_eq!(fleet.newest(9).await.unwrap(), [1, 4, 5, 6]);
    fleet.append(&append("t", many(4..5))).await;
    assert_eq!(fleet.newest(9).await.unwrap(), [1, 5, 6, 7]);

    fleet.append_elsewhere(&append("t", many(5..6))).await;
    fleet.append(&append("t", many(6..11))).await;
    assert_eq!(
        fleet.known_from().await,
        11,
        "of a batch that is trimmed itself only what is stored is known"
    );
}

#[tokio::test]
async fn a_result_whose_call_was_trimmed_is_in_no_context_here_either() {
    let fleet = fleet();
    let tool = |id: &str, is_result| {
        let mut new = said(id);
        new.message.tools = vec![ToolRef { is_result, call_id: "c".to_owned(), name: "look".to_owned() }];
        new
    };
    let mut new = new_thread("t", vec![instructed("s"), tool("call", false), tool("result", true)]);
    new.profile.trim = Trim { max_messages: 3, max_bytes: 0 };
    fleet.redis.create(&call(), &new).await.unwrap();
    fleet.append_elsewhere(&append("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    assert_eq!(fleet.newest(9).await.unwrap(), [1, 3, 4, 5]);
    let context = fleet.copies.context(&call(), &window(0)).await.unwrap().value;
    assert_eq!(context.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 4, 5]);
}

#[tokio::test]
async fn a_repeated_creation_with_fewer_messages_does_not_pass_for_the_whole_thread() {
    let fleet = fleet();
    let new = NewThread { request_id: Some(request("r")), ..new_thread("t", many(0..3)) };
    fleet.redis.create(&call(), &new).await.unwrap();
    fleet.create(&NewThread { messages: many(0..2), ..new }).await;
    assert_eq!(fleet.known_from().await, 4);
}

#[tokio::test]
async fn another_incarnation_replaces_the_copy_and_a_deletion_forgets_it() {
    let fleet = fleet();
    let id = thread_id("t");
    fleet.create(&new_thread("t", many(0..6))).await;
    fleet.redis.delete(&call(), &id, &Guard::default()).await.unwrap();
    fleet.redis.create(&call(), &new_thread("t", many(0..1))).await.unwrap();
    fleet.append(&append("t", vec![said("x")])).await;
    assert_eq!(fleet.known_from().await, 2);
    fleet.copies.observe(Observed::Gone(&id));
    assert!(needs_shared(&fleet.copies.get(&call(), &id, false).await));
}

#[tokio::test]
async fn nothing_past_its_expiry_is_served() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(TTL);
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("t"), true).await));
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(2..3))).await));
    let appended = fleet.copies.append(&call(), &append_or_create("t", many(2..3))).await.unwrap().value;
    assert_eq!((appended.thread.revision, appended.thread.message_count), (1, 1), "it begins anew");
}

#[tokio::test]
async fn a_sweep_removes_expired_copies_but_none_with_waiting_writes() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.copies.create(&call(), &new_thread("w", many(0..2))).await.unwrap();
    fleet.clock.advance(TTL);
    assert_eq!(fleet.copies.sweep().await.unwrap(), Swept { removed: 1, repaired: 0 });
    assert_eq!(fleet.copies.len(), 1);
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("w"), true).await));
    assert!(needs_shared(&fleet.copies.append(&call(), &append_or_create("w", many(2..3))).await));
    assert!(needs_shared(&fleet.copies.create(&call(), &new_thread("w", many(2..3))).await));
    assert_eq!(fleet.waiting(), 3);
}

#[tokio::test]
async fn renewals_are_local_until_redis_is_back() {
    let fleet = fleet();
    let id = thread_id("t");
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(TTL / 2);
    let touched = fleet.copies.touch(&call(), &id, Some(ttl(TTL * 3))).await.unwrap().value;
    assert_eq!((touched.expire_time, touched.revision), (Some(START.plus(TTL / 2 + TTL * 3)), 1));
    fleet.clock.advance(TTL);
    let read = fleet.copies.messages(&call(), &MessagesQuery { renew: true, ..pages("t", 9) }).await.unwrap();
    assert_eq!(read.value.thread.expire_time, Some(START.plus(TTL / 2 + TTL * 4)));
    assert_eq!(fleet.copies.renewed(), [], "the renewal that a caller asked for waits");
    assert_eq!(fleet.waiting(), 1);
    let step = fleet.copies.step(fleet.copies.due(false).concat()[0]).unwrap();
    assert_eq!((step.entries.len(), step.ttl, step.creates), (0, Some(ttl(TTL * 3)), false));
}

#[tokio::test]
async fn a_plain_append_is_accepted_as_provisional_and_read_behind_the_run() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(Duration::from_secs(5));
    let appended = fleet.copies.append(&call(), &append("t", many(1..4))).await.unwrap().value;
    assert_eq!(verdicts(&appended), [(2, true, false), (0, false, true), (0, false, true)]);
    assert_eq!(appended.previous_last_seq, 2);
    let thread = &appended.thread;
    assert_eq!((thread.revision, thread.last_seq, thread.message_count, thread.size_bytes), (2, 2, 4, 400));
    assert_eq!(thread.expire_time, Some(START.plus(Duration::from_secs(5) + TTL)));

    let again = fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap().value;
    assert_eq!(verdicts(&again), [(0, true, true)]);
    assert_eq!(again.thread.revision, 2);
    let reused = fleet.copies.append(&call(), &append("t", vec![sized("m3", Role::User, 1)])).await;
    assert!(matches!(reused, Err(Error::MessageIdReused { .. })));

    let page = fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap().value;
    assert_eq!(ids(&page), ["m0", "m1", "m2", "m3"]);
    assert_eq!(page.messages.iter().map(|m| m.provisional).collect::<Vec<_>>(), [false, false, true, true]);
    let first = fleet.copies.messages(&call(), &pages("t", 3)).await.unwrap().value;
    let cursor =
        MessagesCursor { epoch: first.thread.epoch.clone(), seq: first.messages[2].seq, local: true };
    let query = MessagesQuery { cursor: Some(cursor), ..pages("t", 3) };
    let rest = fleet.copies.messages(&call(), &query).await.unwrap().value;
    assert_eq!((ids(&rest), first.more, rest.more), (vec!["m3"], true, false));
    let context = fleet.copies.context(&call(), &window(0)).await.unwrap().value;
    assert_eq!(context.messages.len(), 4);
}

#[tokio::test]
async fn an_id_that_was_read_but_not_written_here_is_not_judged() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(1..3))).await));
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
}

#[tokio::test]
async fn an_id_that_was_read_is_not_judged_after_a_renewal_either() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    fleet.copies.touch(&call(), &thread_id("t"), None).await.unwrap();
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(1..3))).await));
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
}

#[tokio::test]
async fn owners_and_limits_hold_in_an_outage() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let mut foreign = append("t", many(2..3));
    foreign.owner = Some(owner("eve"));
    assert!(matches!(fleet.copies.append(&call(), &foreign).await, Err(Error::OwnerMismatch { .. })));
    let too_many = append("t", (0..999).map(|n| said(&format!("x{n}"))).collect());
    let refused = fleet.copies.append(&call(), &too_many).await;
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "messages", limit: 1000, .. })));
    assert_eq!(fleet.waiting(), 0, "what is refused leaves nothing behind");
}

#[tokio::test]
async fn a_creation_is_accepted_once() {
    let fleet = fleet();
    fleet.create(&new_thread("held", Vec::new())).await;
    let refused = fleet.copies.create(&call(), &new_thread("held", Vec::new())).await;
    assert!(matches!(refused, Err(Error::ThreadExists { .. })));

    let named = |id: Option<RequestId>| NewThread { request_id: id, ..new_thread("t", many(0..2)) };
    let answer = fleet.copies.create(&call(), &named(Some(request("r")))).await.unwrap();
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START) });
    assert_eq!(verdicts(&answer.value), [(0, false, true), (0, false, true)]);
    let thread = &answer.value.thread;
    assert_eq!((thread.revision, thread.first_seq, thread.last_seq, thread.message_count), (1, 0, 0, 2));
    assert!(thread.local);
    let again = fleet.copies.create(&call(), &named(Some(request("r")))).await.unwrap().value;
    assert_eq!(verdicts(&again), [(0, true, true), (0, true, true)]);
    for other in [None, Some(request("q"))] {
        let refused = fleet.copies.create(&call(), &named(other)).await;
        assert!(matches!(refused, Err(Error::ThreadExists { .. })));
    }
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
    let page = fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap().value;
    assert_eq!(ids(&page), ["m0", "m1", "m2"]);
    assert_eq!(fleet.waiting(), 4);
    fleet.copies.get(&call(), &thread_id("held"), false).await.unwrap();
}

#[tokio::test]
async fn a_creation_that_redis_answered_can_be_repeated_in_an_outage() {
    let fleet = fleet();
    let new = NewThread { request_id: Some(request("r")), ..new_thread("t", many(0..2)) };
    fleet.create(&new).await;
    let again = fleet.copies.create(&call(), &new).await.unwrap().value;
    assert_eq!(verdicts(&again), [(1, true, false), (2, true, false)]);
}

#[tokio::test]
async fn a_copy_with_waiting_writes_learns_nothing_until_they_are_merged() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let late = append("t", many(2..3));
    let appended = fleet.append_elsewhere(&late).await;
    fleet.copies.append(&call(), &append("t", many(3..4))).await.unwrap();
    fleet.copies.observe(Observed::Gone(&thread_id("t")));
    assert_eq!(ids(&fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap().value), ["m0", "m1", "m3"]);
    fleet.copies.observe(Observed::Appended(&late, &appended));
    assert!(needs_shared(&fleet.copies.messages(&call(), &pages("t", 9)).await), "m2 was acknowledged");
    assert!(needs_shared(&fleet.copies.context(&call(), &window(0)).await));
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("t"), false).await));
    fleet.copies.append(&call(), &append("t", many(4..5))).await.unwrap();
    fleet.merge();
    assert_eq!(fleet.waiting(), 0);
    fleet.read_messages(&pages("t", 9)).await;
    assert_eq!(ids(&fleet.copies.messages(&call(), &pages("t", 9)).await.unwrap().value), ["m0", "m1", "m2"]);
}

#[tokio::test]
async fn the_copy_used_longest_ago_goes_first_but_never_one_with_waiting_writes() {
    let fleet = fleet_of(1 << 20, 3);
    for id in ["a", "b", "c"] {
        fleet.create(&new_thread(id, many(0..1))).await;
    }
    fleet.copies.append(&call(), &append("a", many(1..2))).await.unwrap();
    fleet.copies.get(&call(), &thread_id("b"), false).await.unwrap();
    fleet.create(&new_thread("d", many(0..1))).await;
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("c"), false).await));
    for id in ["a", "b", "d"] {
        fleet.copies.get(&call(), &thread_id(id), false).await.unwrap();
    }
    for n in 0..5 {
        fleet.copies.create(&call(), &new_thread(&format!("w{n}"), Vec::new())).await.unwrap();
    }
    assert_eq!(fleet.copies.len(), 6, "waiting writes have bounds of their own, and displace the others");
    assert_eq!(fleet.waiting(), 6);
}

#[tokio::test]
async fn bytes_are_bounded_and_waiting_writes_are_never_dropped_for_room() {
    let fleet = fleet_of(100_000, 100);
    for n in 0..20 {
        fleet.create(&new_thread(&format!("t{n}"), vec![sized("m", Role::User, 20_000)])).await;
    }
    assert_eq!(fleet.copies.len(), 4);
    let mut accepted = 0;
    let refused = loop {
        let batch = append_or_create("w", vec![sized(&format!("m{accepted}"), Role::User, 10_000)]);
        match fleet.copies.append(&call(), &batch).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::JournalFull { limit: 100_000, what: "bytes" }));
    assert_eq!(accepted, 9);
    let repeated = append("w", vec![sized("m0", Role::User, 10_000)]);
    assert!(fleet.copies.append(&call(), &repeated).await.unwrap().value.messages[0].duplicate);
    let refused = fleet.copies.create(&call(), &new_thread("x", vec![sized("m", Role::User, 10_000)])).await;
    assert!(matches!(refused, Err(Error::JournalFull { .. })));
    assert_eq!(fleet.copies.len(), 1);
    fleet.create(&new_thread("y", vec![sized("m", Role::User, 20_000)])).await;
    assert_eq!(fleet.copies.len(), 1, "no copy is worth more than a waiting write");
    assert_eq!(fleet.waiting(), 10);
    fleet.merge();
    fleet.create(&new_thread("z", vec![sized("m", Role::User, 20_000)])).await;
    assert_eq!(fleet.copies.len(), 2);
    assert!(lock(&fleet.copies.held).stock.is_balanced());
}

#[tokio::test]
async fn one_long_thread_keeps_its_newest_messages_and_leaves_room_for_others() {
    let fleet = fleet_of(100_000, 100);
    fleet.create(&new_thread("other", many(0..1))).await;
    fleet.create(&new_thread("t", vec![instructed("s")])).await;
    for n in 0..50 {
        fleet.append(&append("t", vec![sized(&format!("m{n}"), Role::User, 2000)])).await;
    }
    fleet.copies.get(&call(), &thread_id("other"), false).await.unwrap();
    let newest = fleet.newest(5).await.unwrap();
    assert_eq!(newest, (47..=51).collect::<Vec<_>>());
    assert!(needs_shared(&fleet.copies.context(&call(), &window(1)).await));
    assert!(lock(&fleet.copies.held).stock.is_balanced());
}

#[derive(Debug, Clone)]
enum Step {
    Append(u16, u8, bool),
    Read,
    Page { after: u8, before: u8, descending: bool, limit: u8 },
    Context(u8),
    Change(u8),
    Truncate(bool, u8),
    Update(u16, u32),
    Recreate,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..300u16, 1..6u8, prop::bool::weighted(0.1)).prop_map(|(id, n, s)| Step::Append(id, n, s)),
        1 => Just(Step::Read),
        2 => (0..40u8, 0..40u8, any::<bool>(), 1..40u8)
            .prop_map(|(after, before, descending, limit)| Step::Page { after, before, descending, limit }),
        2 => (0..30u8).prop_map(Step::Context),
        1 => (0..20u8).prop_map(Step::Change),
        1 => (any::<bool>(), 0..40u8).prop_map(|(tail, n)| Step::Truncate(tail, n)),
        1 => (0..300u16, 1..900u32).prop_map(|(id, size)| Step::Update(id, size)),
        1 => prop::sample::select(vec![Step::Recreate, Step::Read]),
    ]
}

impl Fleet {
    /// Takes a step in Redis and, if it was made here, lets the copies see the answer.
    async fn take(&self, step: &Step, is_here: bool) {
        let (id, guard) = (thread_id("t"), Guard::default());
        let observe = |observed: Observed<'_>| {
            if is_here {
                self.copies.observe(observed);
            }
        };
        match *step {
            Step::Append(first, count, is_instruction) => {
                let role = if is_instruction { Role::System } else { Role::User };
                let message = |n| sized(&format!("m{n}"), role, 100);
                let batch = append_or_create("t", (first..first + u16::from(count)).map(message).collect());
                if let Ok(answer) = self.redis.append(&call(), &batch).await {
                    observe(Observed::Appended(&batch, &answer.value));
                }
            }
            Step::Read => {
                if let Ok(answer) = self.redis.get(&call(), &id, false).await {
                    observe(Observed::Read(&answer.value));
                }
            }
            Step::Page { after, before, descending, limit } => {
                let (after_seq, before_seq) = (i64::from(after), i64::from(before));
                let query =
                    MessagesQuery { after_seq, before_seq, descending, ..pages("t", usize::from(limit)) };
                if let Ok(answer) = self.redis.messages(&call(), &query).await {
                    observe(Observed::Messages(&query, &answer.value));
                }
            }
            Step::Context(max_messages) => {
                if let Ok(answer) = self.redis.context(&call(), &window(i64::from(max_messages))).await {
                    observe(Observed::Context(&answer.value));
                }
            }
            Step::Change(max_messages) => {
                let trim = Some(Trim { max_messages: i64::from(max_messages), max_bytes: 0 });
                let change = ThreadChange { trim, ..ThreadChange::default() };
                if let Ok(answer) = self.redis.update(&call(), &id, &change, &guard).await {
                    observe(Observed::Changed(&answer.value));
                }
            }
            Step::Truncate(is_tail, n) => {
                let n = i64::from(n);
                let cut = if is_tail { Cut::After(n) } else { Cut::KeepLast(n) };
                if let Ok(answer) = self.redis.truncate(&call(), &id, cut, &guard).await {
                    observe(Observed::Truncated(cut, &answer.value));
                }
            }
            Step::Update(n, size) => {
                let message_id = message_id(&format!("m{n}"));
                let revise = Arc::new(move |old: &Message| Ok(Message { size, ..old.clone() }));
                let update = MessageUpdate { id, message_id, revise, guard };
                if let Ok(answer) = self.redis.update_message(&call(), &update).await {
                    observe(Observed::MessageUpdated(&answer.value));
                }
            }
            Step::Recreate => {
                if self.redis.delete(&call(), &id, &guard).await.is_ok() {
                    observe(Observed::Gone(&id));
                }
                let new = new_thread("t", vec![instructed("m0"), said("m1")]);
                if let Ok(answer) = self.redis.create(&call(), &new).await {
                    observe(Observed::Created(&new, &answer.value));
                }
            }
        }
    }

    /// Checks that whatever the copy answers is what Redis answers; tells how much it answered.
    async fn compare(&self) -> usize {
        let mut answered = 0;
        let Ok(held) = self.copies.get(&call(), &thread_id("t"), false).await else { return 0 };
        let truth = self.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
        assert_eq!(Thread { local: false, ..held.value }, truth);
        for limit in [1, 3, 1000] {
            for (after_seq, before_seq, descending) in
                [(0, 0, false), (0, 0, true), (truth.last_seq - 3, 0, false), (2, truth.last_seq, true)]
            {
                let after_seq = after_seq.clamp(0, truth.last_seq);
                let query = MessagesQuery { after_seq, before_seq, descending, ..pages("t", limit) };
                if let Ok(held) = self.copies.messages(&call(), &query).await {
                    answered += 1;
                    let truth = self.redis.messages(&call(), &query).await.unwrap().value;
                    assert_eq!((held.value.messages, held.value.more), (truth.messages, truth.more));
                }
            }
        }
        for max_messages in [1, 4, 0] {
            if let Ok(held) = self.copies.context(&call(), &window(max_messages)).await {
                answered += 1;
                let truth = self.redis.context(&call(), &window(max_messages)).await.unwrap().value;
                assert_eq!(held.value.messages, truth.messages);
            }
        }
        answered
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_copy_answers_after_an_observed_step_is_what_redis_answers(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.8)), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fleet = fleet();
            for (step, is_here) in steps {
                fleet.take(&step, is_here).await;
                let held = fleet.copies.get(&call(), &thread_id("t"), false).await.ok();
                let truth = fleet.redis.get(&call(), &thread_id("t"), false).await.ok();
                let is_current = |held: &Thread, truth: &Thread| {
                    (&held.epoch, held.revision) == (&truth.epoch, truth.revision)
                };
                if held.zip(truth).is_some_and(|(held, truth)| is_current(&held.value, &truth.value)) {
                    fleet.compare().await;
                }
                assert!(lock(&fleet.copies.held).stock.is_balanced());
            }
        });
    }
}

#[tokio::test]
async fn own_writes_alone_keep_everything_answered() {
    let fleet = fleet();
    let steps = [
        Step::Recreate,
        Step::Append(1, 5, false),
        Step::Change(4),
        Step::Append(10, 5, false),
        Step::Truncate(true, 10),
        Step::Append(20, 2, true),
        Step::Update(20, 5),
        Step::Append(30, 5, false),
        Step::Truncate(false, 3),
        Step::Append(40, 1, false),
    ];
    for step in steps {
        fleet.take(&step, true).await;
        assert_eq!(fleet.compare().await, 15, "{step:?}");
    }
}
