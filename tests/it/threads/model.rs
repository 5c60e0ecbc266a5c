//! Random writes against a naive model of a thread: after each one, both hold the same.

use std::collections::{BTreeMap, BTreeSet};

use fusewire::grpc::proto::{
    ConversationThread, ForkThreadRequest, ListMessagesRequest, Message, Role, TrimPolicy,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        Threads, assert_refused, changing, cut_after, forking, ids, keep_last, listing, message, revising,
        seqs, stored_size, thread,
    },
};

on_every_store!(a_thread_is_what_a_naive_model_says);

const ROUNDS: usize = 120;

/// A thread as the design tells it.
#[derive(Clone, Default)]
struct Model {
    /// Ascending by seq: what trimming has not reached.
    listed: Vec<Message>,
    /// Instructions that outlived trimming.
    departed: Vec<Message>,
    /// Seqs of instructions that do or will outlive it.
    kept: BTreeSet<i64>,
    last_seq: i64,
    policy: TrimPolicy,
    /// What was sent under each id, and its seq.
    used: BTreeMap<String, (i64, Message)>,
}

impl Model {
    fn stored(&self) -> Vec<Message> {
        [self.departed.clone(), self.listed.clone()].concat()
    }

    fn append(&mut self, batch: &[Message]) -> Vec<(i64, bool)> {
        let mut told = Vec::new();
        let mut is_write = false;
        for new in batch {
            if let Some((seq, _)) = self.used.get(&new.id) {
                told.push((*seq, true));
                continue;
            }
            is_write = true;
            self.last_seq += 1;
            told.push((self.last_seq, false));
            self.used.insert(new.id.clone(), (self.last_seq, new.clone()));
            if matches!(new.role(), Role::System | Role::Developer) && self.kept.len() < 64 {
                self.kept.insert(self.last_seq);
            }
            self.listed.push(Message { seq: self.last_seq, status: 2, ..new.clone() });
        }
        while is_write && self.listed.len() > 1 && self.is_over() {
            let oldest = self.listed.remove(0);
            if self.kept.contains(&oldest.seq) {
                self.departed.push(oldest);
            }
        }
        told
    }

    fn is_over(&self) -> bool {
        let TrimPolicy { max_messages, max_bytes } = self.policy;
        let bytes: i64 = self.listed.iter().map(stored_size).sum();
        (max_messages > 0 && self.listed.len() > usize::try_from(max_messages).unwrap())
            || (max_bytes > 0 && bytes > max_bytes)
    }

    fn retain(&mut self, stays: impl Fn(i64) -> bool) {
        self.listed.retain(|message| stays(message.seq));
        self.departed.retain(|message| stays(message.seq));
        self.kept.retain(|seq| stays(*seq));
    }

    fn keep_last(&mut self, count: usize) {
        let stored = seqs(&self.stored());
        let first = stored.len().checked_sub(count).and_then(|index| stored.get(index)).copied();
        match first {
            Some(first) => self.retain(|seq| seq >= first),
            None if count == 0 => self.retain(|_| false),
            None => {}
        }
    }

    fn fork(&self, at_seq: i64) -> Self {
        let mut copy = self.clone();
        copy.retain(|seq| seq <= at_seq);
        copy.last_seq = at_seq;
        let stored: BTreeSet<String> = copy.stored().into_iter().map(|message| message.id).collect();
        copy.used.retain(|id, _| stored.contains(id));
        copy
    }

    /// Seqs of the context of at most `max` messages, where nothing calls tools.
    fn context(&self, max: usize) -> Vec<i64> {
        let (instructions, rest): (Vec<i64>, Vec<i64>) =
            seqs(&self.stored()).into_iter().partition(|seq| self.kept.contains(seq));
        let room = max.saturating_sub(instructions.len()).max(1);
        let mut chosen = [instructions, rest[rest.len().saturating_sub(room)..].to_vec()].concat();
        chosen.sort_unstable();
        chosen
    }
}

/// The model, the thread, and where the randomness comes from.
struct Walk {
    threads: Threads,
    random: StdRng,
    id: String,
    model: Model,
    count: usize,
}

impl Walk {
    fn new_message(&mut self) -> Message {
        self.count += 1;
        let role = match self.random.random_range(0..6) {
            0 => Role::System,
            1 => Role::Developer,
            2 | 3 => Role::User,
            _ => Role::Assistant,
        };
        let length = self.random.random_range(0..60);
        message(&format!("{}-{}", self.id, self.count), role, &"x".repeat(length))
    }

    fn any_used(&mut self) -> Option<(i64, Message)> {
        let index = self.random.random_range(0..self.model.used.len().max(1));
        self.model.used.values().nth(index).cloned()
    }

    async fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..10 => self.append().await,
            10 | 11 => self.set_policy().await,
            12 | 13 => {
                let seq = self.random.random_range((self.model.last_seq - 8).max(0)..=self.model.last_seq);
                self.threads.truncate(cut_after(&self.id, seq)).await.unwrap();
                self.model.retain(|stored| stored <= seq);
            }
            14 => {
                let count = self.random.random_range(0..=self.model.stored().len() + 1);
                self.threads.truncate(keep_last(&self.id, i32::try_from(count).unwrap())).await.unwrap();
                self.model.keep_last(count);
            }
            15..18 => self.update_message().await,
            _ => self.fork().await,
        }
    }

    async fn append(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..self.random.random_range(1..6) {
            let repeated = if self.random.random_range(0..4) == 0 { self.any_used() } else { None };
            let next = repeated.map(|(_, sent)| sent);
            batch.push(next.unwrap_or_else(|| self.new_message()));
        }
        let appended = self.threads.append(&self.id, batch.clone()).await;
        let told: Vec<(i64, bool)> = appended.messages.iter().map(|m| (m.seq, m.duplicate)).collect();
        assert_eq!(told, self.model.append(&batch));
    }

    async fn set_policy(&mut self) {
        let max_messages = if self.random.random() { 0 } else { self.random.random_range(1..12) };
        let max_bytes = if self.random.random() { 0 } else { self.random.random_range(1..900) };
        self.model.policy = TrimPolicy { max_messages, max_bytes };
        let new = ConversationThread { trim: Some(self.model.policy), ..thread(&self.id) };
        self.threads.update(changing(new, &["trim"])).await.unwrap();
    }

    async fn update_message(&mut self) {
        let Some((seq, sent)) = self.any_used() else { return };
        let parts = self.new_message().parts;
        let new = Message { parts: parts.clone(), ..sent };
        let outcome = self.threads.update_message(revising(&self.id, new, &["parts"])).await;
        let mut all = self.model.listed.iter_mut().chain(&mut self.model.departed);
        match all.find(|message| message.seq == seq) {
            Some(message) => {
                outcome.unwrap();
                message.parts = parts;
            }
            None => drop(assert_refused(outcome, Code::NotFound, "MESSAGE_NOT_FOUND")),
        }
    }

    /// Forks and goes on with the copy.
    async fn fork(&mut self) {
        let at_seq = self.random.random_range((self.model.last_seq - 6).max(0)..=self.model.last_seq);
        self.count += 1;
        let copy = format!("{}+{}", self.id.split('+').next().unwrap(), self.count);
        self.threads.fork(ForkThreadRequest { at_seq, ..forking(&self.id, &copy) }).await.unwrap();
        let at_seq = if at_seq == 0 { self.model.last_seq } else { at_seq };
        (self.model, self.id) = (self.model.fork(at_seq), copy);
    }

    async fn compare(&mut self) {
        let expected = self.model.stored();
        let held = self.threads.recount(&self.id).await;
        let bare: Vec<Message> = held.iter().cloned().map(|m| Message { commit_time: None, ..m }).collect();
        assert_eq!((ids(&bare), seqs(&bare)), (ids(&expected), seqs(&expected)));
        assert_eq!(bare, expected);
        let thread = self.threads.peek(&self.id).await.unwrap();
        assert_eq!(thread.last_seq, self.model.last_seq);
        let page_size = self.random.random_range(1..8);
        let back = ListMessagesRequest { page_size, descending: true, ..listing(&self.id) };
        let mut walked = self.threads.walk(back).await.unwrap();
        walked.reverse();
        assert_eq!(walked, held);
        let max = self.random.random_range(1..12);
        let context = self.threads.context(&self.id, i32::try_from(max).unwrap(), 0).await;
        assert_eq!(seqs(&context.messages), self.model.context(max));
    }
}

async fn a_thread_is_what_a_naive_model_says(on: &Deployment) {
    for seed in 0..4 {
        let id = format!("seed-{seed}");
        on.threads().create(&id).await;
        let random = StdRng::seed_from_u64(seed);
        let mut walk = Walk { threads: on.threads(), random, id, model: Model::default(), count: 0 };
        for round in 0..ROUNDS {
            eprintln!("seed {seed}, round {round}");
            walk.step().await;
            walk.compare().await;
        }
    }
}
