//! The stored messages of one thread, or the newest of them: what trimming, truncation and changes do to them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::footprint::Tally;
use crate::{
    clock::Timestamp,
    threads::{
        Cut, MAX_INSTRUCTION_BYTES, MAX_INSTRUCTIONS, Message, StoredMessage, Trim,
        context::{Budget, Tail, select},
    },
};

/// So many of the newest messages are looked at first for a context; then four times as many, and so on.
const FIRST_REACH: usize = 256;

/// Messages ascending by seq: a list that is trimmed from the head, and the instructions that outlive trimming.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    /// The list. Seqs that were truncated are simply not there.
    listed: VecDeque<StoredMessage>,
    /// The kept instructions, in the list and trimmed from it.
    instructions: BTreeMap<i64, StoredMessage>,
    /// Whether instructions are kept. Not so where the thread's first ones are unknown.
    keeps_instructions: bool,
    list_tally: Tally,
    tally: Tally,
    instruction_bytes: i64,
}

impl Log {
    /// The log of a whole thread.
    pub(crate) fn whole() -> Self {
        Self {
            listed: VecDeque::new(),
            instructions: BTreeMap::new(),
            keeps_instructions: true,
            list_tally: Tally::default(),
            tally: Tally::default(),
            instruction_bytes: 0,
        }
    }

    /// A log of the newest messages alone, of which none outlives trimming as far as is known.
    pub(crate) fn tail() -> Self {
        Self { keeps_instructions: false, ..Self::whole() }
    }

    /// What the stored messages amount to.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// The bytes of the kept instructions.
    pub(crate) fn instruction_bytes(&self) -> i64 {
        self.instruction_bytes
    }

    /// Whether a stored message is a kept instruction.
    pub(crate) fn keeps(&self, seq: i64) -> bool {
        self.instructions.contains_key(&seq)
    }

    /// Seq of the oldest stored message; 0 when there is none.
    pub(crate) fn first_seq(&self) -> i64 {
        self.range(0..i64::MAX).next().map_or(0, |stored| stored.seq)
    }

    /// Seq of the newest stored message; 0 when there is none.
    pub(crate) fn last_seq(&self) -> i64 {
        self.range(0..i64::MAX).next_back().map_or(0, |stored| stored.seq)
    }

    /// Seq of the oldest in the list, instructions that outlived trimming apart.
    pub(crate) fn listed_from(&self) -> Option<i64> {
        self.listed.front().map(|stored| stored.seq)
    }

    /// Finds a stored message.
    pub(crate) fn find(&self, seq: i64) -> Option<&StoredMessage> {
        self.range(seq..seq.saturating_add(1)).next()
    }

    /// The stored messages with seqs in a range, ascending.
    pub(crate) fn range(&self, seqs: Range<i64>) -> impl DoubleEndedIterator<Item = &StoredMessage> {
        let from = self.listed.partition_point(|stored| stored.seq < seqs.start);
        let to = self.listed.partition_point(|stored| stored.seq < seqs.end).max(from);
        self.departed(seqs).chain(self.listed.range(from..to))
    }

    /// The kept instructions in a range that are in the list no more.
    fn departed(&self, seqs: Range<i64>) -> impl DoubleEndedIterator<Item = &StoredMessage> {
        let list_first = self.listed.front().map_or(i64::MAX, |stored| stored.seq);
        let end = seqs.end.min(list_first).max(seqs.start);
        self.instructions.range(seqs.start..end).map(|(_, stored)| stored)
    }

    /// Adds the newest message. An instruction is kept while there is room for it among the kept ones.
    pub(crate) fn push(&mut self, stored: StoredMessage) {
        let tally = Tally::of(&stored.message);
        let fits = self.instructions.len() < MAX_INSTRUCTIONS
            && self.instruction_bytes + tally.bytes <= as_i64(MAX_INSTRUCTION_BYTES);
        if self.keeps_instructions && stored.message.role.is_instruction() && fits {
            self.instruction_bytes += tally.bytes;
            self.instructions.insert(stored.seq, stored.clone());
        }
        self.list_tally += tally;
        self.tally += tally;
        self.listed.push_back(stored);
    }

    /// Drops the oldest of the list while it exceeds the policy; the newest always stays, and kept instructions stay
    /// stored. Tells how many left the list.
    pub(crate) fn trim(&mut self, policy: Trim) -> usize {
        let before = self.listed.len();
        let exceeds = |limit: i64, value: i64| limit > 0 && value > limit;
        while self.listed.len() > 1
            && (exceeds(policy.max_messages, self.list_tally.count)
                || exceeds(policy.max_bytes, self.list_tally.bytes))
        {
            self.unlist_oldest();
        }
        before - self.listed.len()
    }

    fn unlist_oldest(&mut self) {
        let Some(oldest) = self.listed.pop_front() else { return };
        let tally = Tally::of(&oldest.message);
        self.list_tally -= tally;
        if !self.keeps(oldest.seq) {
            self.tally -= tally;
        }
    }

    /// Takes the oldest instructions from the list where a gap shows that trimming did so before.
    pub(crate) fn unlist_departed(&mut self) {
        let mut departed = 0;
        for (index, pair) in self.listed.iter().zip(self.listed.iter().skip(1)).enumerate() {
            let (stored, next) = pair;
            if !self.keeps(stored.seq) {
                break;
            }
            if stored.seq + 1 < next.seq {
                departed = index + 1;
            }
        }
        for _ in 0..departed {
            self.unlist_oldest();
        }
    }

    /// Drops the tail or the head, kept instructions too.
    pub(crate) fn cut(&mut self, cut: Cut) {
        match cut {
            Cut::After(seq) => {
                while self.range(seq.saturating_add(1)..i64::MAX).next().is_some() {
                    self.drop_newest();
                }
            }
            Cut::KeepLast(count) => {
                while self.tally.count > count.max(0) {
                    self.drop_oldest();
                }
            }
        }
    }

    fn drop_newest(&mut self) {
        if let Some(newest) = self.listed.pop_back() {
            self.list_tally -= Tally::of(&newest.message);
            self.forget(&newest);
        } else if let Some((_, newest)) = self.instructions.last_key_value() {
            self.forget(&newest.clone());
        }
    }

    fn drop_oldest(&mut self) {
        let departed = self.departed(0..i64::MAX).next().cloned();
        if let Some(departed) = departed {
            self.forget(&departed);
        } else if let Some(oldest) = self.listed.pop_front() {
            self.list_tally -= Tally::of(&oldest.message);
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, dropped: &StoredMessage) {
        let tally = Tally::of(&dropped.message);
        self.tally -= tally;
        if self.instructions.remove(&dropped.seq).is_some() {
            self.instruction_bytes -= tally.bytes;
        }
    }

    /// Puts another message in a stored one's place; answers it, none if nothing is stored there.
    pub(crate) fn replace(&mut self, seq: i64, message: Message) -> Option<StoredMessage> {
        let old = self.find(seq)?.clone();
        let new = StoredMessage { message: Arc::new(message), ..old.clone() };
        let (less, more) = (Tally::of(&old.message), Tally::of(&new.message));
        self.tally -= less;
        self.tally += more;
        if let Some(kept) = self.instructions.get_mut(&seq) {
            *kept = new.clone();
            self.instruction_bytes += more.bytes - less.bytes;
        }
        let place = self.listed.binary_search_by_key(&seq, |stored| stored.seq);
        if let Some(listed) = place.ok().and_then(|index| self.listed.get_mut(index)) {
            *listed = new.clone();
            self.list_tally -= less;
            self.list_tally += more;
        }
        Some(new)
    }

    /// Says of every message that Redis has it.
    pub(crate) fn confirm(&mut self) {
        for stored in self.listed.iter_mut().chain(self.instructions.values_mut()) {
            stored.provisional = false;
        }
    }

    /// Makes this a log of the newest messages alone, as many as take at most so many bytes of memory.
    pub(crate) fn shorten(&mut self, memory: u64) {
        self.forget_instructions();
        while self.tally.memory > memory && !self.listed.is_empty() {
            self.unlist_oldest();
        }
    }

    /// Whether all kept instructions are known.
    pub(crate) fn knows_instructions(&self) -> bool {
        self.keeps_instructions
    }

    /// Knows of no instructions any more that outlive trimming.
    pub(crate) fn forget_instructions(&mut self) {
        self.keeps_instructions = false;
        self.instructions.clear();
        self.instruction_bytes = 0;
        self.tally = self.list_tally;
    }

    /// Chooses the context of a thread of which all instructions are known, and the list as a whole if `is_whole`. None
    /// where older messages are needed.
    pub(crate) fn context(&self, budget: Budget, is_whole: bool) -> Option<Vec<StoredMessage>> {
        let instructions: Vec<StoredMessage> = self.instructions.values().cloned().collect();
        let head_was_cut = self.listed.front().is_some_and(|oldest| oldest.seq > 1);
        let mut reach = FIRST_REACH;
        loop {
            let start = self.listed.len().saturating_sub(reach);
            let messages: Vec<StoredMessage> = self.listed.range(start..).cloned().collect();
            let is_whole = start == 0 && is_whole;
            let tail = Tail { messages: &messages, instructions: &instructions, is_whole, head_was_cut };
            let chosen = select(tail, budget);
            if chosen.is_some() || start == 0 {
                return chosen;
            }
            reach = reach.saturating_mul(4);
        }
    }

    /// Copies the messages up to a seq.
    pub(crate) fn up_to(&self, seq: i64) -> Self {
        let mut copy = self.clone();
        copy.cut(Cut::After(seq));
        copy
    }
}

/// A message that was just stored.
pub(crate) fn stored(message: &Message, seq: i64, commit_time: Timestamp) -> StoredMessage {
    StoredMessage { seq, commit_time, provisional: false, message: Arc::new(message.clone()) }
}

/// A constant as the counters have it.
pub(crate) fn as_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
