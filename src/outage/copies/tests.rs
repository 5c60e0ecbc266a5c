//! What copies learn and answer; `accepting` has what they accept, `learning` what they learn, `replaying` what
//! a replay means for them, `model` compares them with a store by chance.

use std::{sync::Arc, time::Duration};

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
    threads::{
        AppendedMessage, Cut, Guard, MessageUpdate, MessagesCursor, NewMessage, RequestId, Role,
        ThreadChange, ThreadStore, ToolRef, Trim,
        context::Budget,
        replay::{BatchId, Done, Replay},
    },
};

mod accepting;
mod learning;
mod model;
mod replaying;

type TestClock = Arc<ManualClock>;

/// A store that plays Redis, and the copies that learn from what it answers.
struct Fleet {
    clock: TestClock,
    redis: MemoryThreads<TestClock>,
    copies: Copies,
}

const BOUNDS: JournalBounds = JournalBounds { max_bytes: 100_000, max_entries: 100 };

fn fleet_of(max_bytes: u64, max_threads: usize) -> Fleet {
    let clock = Arc::new(ManualClock::at(START));
    Fleet {
        clock: Arc::clone(&clock),
        redis: MemoryThreads::new(Arc::clone(&clock), LIMITS, u64::MAX),
        copies: Copies::new(Arc::new(clock), LIMITS, (max_bytes, max_threads), BOUNDS, |_| Digest([0; 16])),
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

    /// The batches that wait.
    fn due(&self) -> Vec<BatchId> {
        self.copies.lock().queue.due(Instant::now(), true).concat()
    }

    fn step(&self, batch: BatchId) -> Replay {
        self.copies.lock().queue.step(batch).unwrap()
    }

    /// Plays the replay of all that waits in a store that has all of it already.
    fn merge(&self) {
        for run in self.due() {
            let step = self.step(run);
            let thread = Thread { local: false, ..step.origin.thread.clone() };
            let previous_last_seq = thread.last_seq;
            let duplicates = vec![true; step.entries.len()];
            let done = Done { thread, previous_last_seq, duplicates };
            assert!(self.copies.settle(run, &step, &done), "not just as it was here");
        }
    }

    async fn create(&self, new: &NewThread) {
        let created = self.redis.create(&call(), new).await.unwrap().value;
        self.copies.learn(&created.thread, Observation::Created(new, &created));
    }

    /// Lets the copies see that Redis has a thread, and nothing of its messages.
    async fn read_nothing_but(&self, new: &NewThread) {
        let created = self.redis.create(&call(), new).await.unwrap().value;
        self.copies.learn(&created.thread, Observation::Metadata);
    }

    async fn append(&self, append: &Append) -> Appended {
        let appended = self.append_elsewhere(append).await;
        self.copies.learn(&appended.thread, Observation::Appended(append, &appended));
        appended
    }

    /// Another instance's write, of which the copies hear nothing.
    async fn append_elsewhere(&self, append: &Append) -> Appended {
        self.redis.append(&call(), append).await.unwrap().value
    }

    async fn read(&self) -> Thread {
        let thread = self.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
        self.copies.learn(&thread, Observation::Metadata);
        thread
    }

    async fn read_messages(&self, query: &MessagesQuery) {
        let page = self.redis.messages(&call(), query).await.unwrap().value;
        self.copies.learn(&page.thread, Observation::of_page(query, &page));
    }

    async fn read_context(&self, max_messages: i64) {
        let context = self.redis.context(&call(), &window(max_messages)).await.unwrap().value;
        self.copies.learn(&context.thread, Observation::Context(&context));
    }

    /// The seqs that the copy of `t` answers for the newest so many, oldest first.
    async fn truncate(&self, cut: Cut) {
        let truncated = self.redis.truncate(&call(), &thread_id("t"), cut, &Guard::default()).await.unwrap();
        self.copies.learn(&truncated.value, Observation::Truncated(cut));
    }

    fn newest(&self, count: usize) -> Result<Vec<i64>> {
        let query = MessagesQuery { descending: true, ..pages("t", count) };
        let mut seqs = seqs(&self.copies.messages(&call(), &query)?.value);
        seqs.reverse();
        Ok(seqs)
    }

    /// The seqs from which on a page can be answered.
    fn known_from(&self) -> i64 {
        let thread = self.copies.get(&call(), &thread_id("t"), false).unwrap().value;
        for after_seq in 0..thread.last_seq {
            if self.copies.messages(&call(), &MessagesQuery { after_seq, ..pages("t", 9) }).is_ok() {
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
