//! What an answer of Redis teaches about a copy. The copy stays whole or unbroken only as long as each revision
//! follows the one before; a revision that was made elsewhere cuts the run.

use std::cmp::Ordering;

use super::{LocalWrites, ThreadCopy};
use crate::{
    clock::Timestamp,
    memory::{
        batch,
        conversation::Creator,
        ids::Use,
        log::{self, Log, as_i64},
    },
    threads::{
        Append, Appended, Context, Cut, IDS_GENERATION, Message, MessagesPage, MessagesQuery, NewMessage,
        NewThread, StoredMessage, Thread,
        watch::{Found, Place, Since},
    },
};

/// What an answer of Redis says of a thread beside its metadata.
#[derive(Debug)]
pub(in crate::outage) enum Observation<'a> {
    /// Nothing.
    Metadata,
    /// The call changed the thread's own fields.
    Updated,
    /// The call created the thread, or had done so before.
    Created(&'a NewThread, &'a Appended),
    /// The call appended messages, or had done so before.
    Appended(&'a Append, &'a Appended),
    /// These are all messages from a seq on, ascending.
    Run(Vec<StoredMessage>, i64),
    /// The context that was read.
    Context(&'a Context),
    /// The call changed a message.
    MessageUpdated(&'a StoredMessage),
    /// The call dropped the tail or the head.
    Truncated(Cut),
}

impl Observation<'_> {
    /// What a page of messages says.
    pub(in crate::outage) fn of_page(query: &MessagesQuery, page: &MessagesPage) -> Self {
        let Some(from) = start_of_run(query, page) else { return Self::Metadata };
        let mut messages = page.messages.clone();
        if query.descending {
            messages.reverse();
        }
        Self::Run(messages, from)
    }

    /// What an answer to a watcher says: perhaps the messages up to the thread's end.
    pub(in crate::outage) fn of_watch(since: &Since, found: &Found) -> Self {
        let after = match since {
            Since::Seq(after) => Some(*after),
            Since::Told(Place { position, .. }) => {
                let is_same =
                    position.epoch == found.thread.epoch && found.newest_change <= position.revision;
                is_same.then_some(position.seq)
            }
        };
        match after {
            Some(after) if !found.more && after <= found.thread.last_seq => {
                Self::Run(found.messages.clone(), after.saturating_add(1))
            }
            Some(_) | None => Self::Metadata,
        }
    }
}

/// Where an answer stands beside what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing is known of this incarnation.
    Unknown,
    /// It is older: answers may arrive in another order than Redis gave them.
    Older,
    /// It tells of the same revision.
    Same,
    /// It tells of the very next revision.
    Next,
    /// Revisions between are missing.
    Later,
}

fn standing(known: &Thread, said: &Thread) -> Standing {
    match said.revision.cmp(&known.revision) {
        Ordering::Less => Standing::Older,
        Ordering::Equal => Standing::Same,
        Ordering::Greater if said.revision == known.revision + 1 => Standing::Next,
        Ordering::Greater => Standing::Later,
    }
}

impl ThreadCopy {
    /// Learns from an answer; `None` begins a copy. A copy in which writes wait stays as it is, and is not read from any more
    /// where the answer tells of other writes.
    pub(in crate::outage) fn learn(
        known: Option<Self>,
        thread: &Thread,
        observed: Observation<'_>,
        now: Timestamp,
    ) -> Self {
        let (mut copy, standing) = match known {
            Some(mut copy) if copy.is_waiting() => {
                let (epoch, revision) = &copy.acknowledged;
                if thread.epoch != *epoch || thread.revision > *revision {
                    copy.local_writes = LocalWrites::Contradicted;
                }
                return copy;
            }
            Some(copy) if copy.thread().epoch == thread.epoch => {
                let standing = standing(copy.thread(), thread);
                (copy, standing)
            }
            Some(_) | None => (Self::of(thread, now), Standing::Unknown),
        };
        if standing != Standing::Older {
            copy.take(thread, observed, standing, now);
        }
        copy
    }

    /// Takes the metadata of an answer.
    pub(super) fn describe(&mut self, thread: &Thread, now: Timestamp) {
        self.conversation.thread = Thread { local: true, ..thread.clone() };
        self.acknowledged = (thread.epoch.clone(), thread.revision);
        self.as_of = now;
        self.is_renewed = false;
    }

    fn take(&mut self, thread: &Thread, observed: Observation<'_>, standing: Standing, now: Timestamp) {
        let known_last_seq = self.thread().last_seq;
        self.describe(thread, now);
        if matches!(observed, Observation::Created(..) | Observation::Appended(..)) {
            self.wrote_at = Some(now);
        }
        let log = &mut self.conversation.log;
        match observed {
            Observation::Created(new, created) if thread.revision == 1 => self.learn_creation(new, created),
            Observation::Appended(append, appended) => {
                self.learn_append(append, appended, standing, known_last_seq);
            }
            Observation::Run(messages, from) => self.learn_run(messages, from, standing, known_last_seq),
            Observation::Context(context) => self.learn_context(context, standing, known_last_seq),
            Observation::Updated if standing == Standing::Next => {}
            Observation::MessageUpdated(updated) if standing == Standing::Next => {
                let message = Message::clone(&updated.message);
                let is_instruction = message.role.is_instruction();
                // A message that was in progress was in no context, so it is not known.
                if log.replace(updated.seq, message).is_none() && is_instruction {
                    log.forget_instructions();
                }
            }
            Observation::Truncated(cut) if standing == Standing::Next => {
                // How many of the newest stay says nothing of instructions among the messages that are not known.
                if self.known_from > 0 && matches!(cut, Cut::KeepLast(_)) {
                    log.forget_instructions();
                }
                log.cut(cut);
            }
            Observation::Created(..)
            | Observation::Metadata
            | Observation::Updated
            | Observation::MessageUpdated(_)
            | Observation::Truncated(_) => self.learn_revision(standing),
        }
        if !self.agrees() {
            self.cut_run();
        }
    }

    /// Learns nothing but where the thread stands now.
    fn learn_revision(&mut self, standing: Standing) {
        if standing != Standing::Same {
            self.cut_run();
        }
    }

    /// Gives up the run: from now on only what is newer than the thread is known.
    pub(super) fn cut_run(&mut self) {
        let is_empty = self.thread().message_count == 0;
        self.conversation.log = if is_empty { Log::whole() } else { Log::tail() };
        self.known_from = if is_empty { 0 } else { self.thread().last_seq.saturating_add(1) };
    }

    /// Learns a thread whose only write so far is this creation, or the one that this repeats.
    fn learn_creation(&mut self, new: &NewThread, created: &Appended) {
        self.conversation.created_by = new.request_id.clone().map(Creator::Create);
        self.conversation.log = Log::whole();
        self.known_from = 0;
        for (new, appended) in new.messages.iter().zip(&created.messages) {
            if appended.seq > self.conversation.log.last_seq() {
                self.conversation.log.push(log::stored(
                    &new.message,
                    appended.seq,
                    created.thread.create_time,
                ));
            }
        }
        self.conversation.log.trim(self.thread().profile.trim);
        self.remember_ids(&new.messages, created);
    }

    fn learn_append(
        &mut self,
        append: &Append,
        appended: &Appended,
        standing: Standing,
        known_last_seq: i64,
    ) {
        self.remember_ids(&append.messages, appended);
        let fresh = batch::fresh(&append.messages, &appended.messages);
        if fresh.is_empty() {
            return self.learn_revision(standing);
        }
        let previous = appended.previous_last_seq;
        let from = if previous == 0 { 0 } else { previous.saturating_add(1) };
        if standing == Standing::Same && self.known_from <= from {
            return;
        }
        if standing != Standing::Next || previous != known_last_seq {
            self.conversation.log = if from == 0 { Log::whole() } else { Log::tail() };
            self.known_from = from;
        }
        for (new, seq) in fresh {
            self.conversation.log.push(log::stored(&new.message, seq, appended.thread.update_time));
        }
        self.trim();
    }

    /// Takes a run that was read, from a seq to the end of the thread, if it tells more than is known.
    fn learn_run(&mut self, run: Vec<StoredMessage>, from: i64, standing: Standing, known_last_seq: i64) {
        let is_whole = as_i64(run.len()) == self.thread().message_count;
        let from = if is_whole { 0 } else { from };
        if standing == Standing::Same && self.known_from <= from {
            return;
        }
        if self.joins(from, standing, known_last_seq) {
            for stored in run.into_iter().filter(|stored| stored.seq > known_last_seq) {
                self.conversation.log.push(stored);
            }
            return self.trim();
        }
        // Instructions that were known of the same revision stay known.
        let knows_instructions = standing == Standing::Same && self.conversation.log.knows_instructions();
        let older: Vec<_> =
            self.conversation.log.range(0..from).filter(|_| knows_instructions).cloned().collect();
        self.relog(is_whole || knows_instructions, older.into_iter().chain(run), from);
    }

    /// Whether a run from there on goes on from what is known. One write that brought messages was an append and nothing else;
    /// a watcher often reads them before the answer to their writer is here.
    fn joins(&self, from: i64, standing: Standing, known_last_seq: i64) -> bool {
        let is_append = standing == Standing::Next && self.thread().last_seq > known_last_seq;
        is_append && self.known_from <= from && from <= known_last_seq.saturating_add(1)
    }

    /// Takes the newest messages of a context, and its instructions: all that are kept are in it.
    fn learn_context(&mut self, context: &Context, standing: Standing, known_last_seq: i64) {
        let (run, from) = run_of_context(context);
        if from == 0 || self.joins(from, standing, known_last_seq) {
            return self.learn_run(run, from, standing, known_last_seq);
        }
        let is_longer = standing == Standing::Same && self.known_from <= from;
        if is_longer && self.conversation.log.knows_instructions() {
            return;
        }
        let from = if is_longer { self.known_from } else { from };
        let known: Vec<_> =
            self.conversation.log.range(from..i64::MAX).filter(|_| is_longer).cloned().collect();
        let run = if is_longer { known } else { run };
        let older = context.messages.iter().filter(|stored| stored.seq < from).cloned();
        self.relog(true, older.chain(run), from);
    }

    /// Begins the log anew, known from a seq on, and instructions that are older.
    fn relog(&mut self, knows_instructions: bool, messages: impl Iterator<Item = StoredMessage>, from: i64) {
        let mut log = if knows_instructions { Log::whole() } else { Log::tail() };
        messages.for_each(|stored| log.push(stored));
        log.unlist_departed();
        self.conversation.log = log;
        self.known_from = from;
    }

    /// Drops what the newest append trimmed.
    pub(super) fn trim(&mut self) {
        // Of what leaves the list, instructions may stay stored: where they are unknown, so is all that is older.
        if self.conversation.log.trim(self.thread().profile.trim) > 0 && self.known_from > 0 {
            self.known_from = self
                .conversation
                .log
                .listed_from()
                .unwrap_or_else(|| self.thread().last_seq.saturating_add(1));
        }
    }

    fn remember_ids(&mut self, messages: &[NewMessage], appended: &Appended) {
        for (new, verdict) in messages.iter().zip(&appended.messages) {
            self.conversation
                .ids
                .insert(new.message.id.clone(), Use { seq: verdict.seq, digest: new.digest });
        }
        self.conversation.ids.rotate(IDS_GENERATION, |_| false);
    }

    /// Whether the log can be what the thread's counters say. If not, something happened that no rule here foresees.
    pub(super) fn agrees(&self) -> bool {
        let (thread, tally) = (self.thread(), self.conversation.log.tally());
        let is_within = self.conversation.log.last_seq() <= thread.last_seq;
        if self.known_from == 0 {
            let counted = (thread.message_count, thread.size_bytes, thread.token_count);
            return is_within && counted == (tally.count, tally.bytes, tally.tokens);
        }
        let is_stored = tally.count == 0 || self.conversation.log.first_seq() >= thread.first_seq;
        is_within && is_stored && tally.count <= thread.message_count
    }
}

/// From which seq on a page holds every message of the thread; none if it does not reach the thread's end.
fn start_of_run(query: &MessagesQuery, page: &MessagesPage) -> Option<i64> {
    let has_end = query.before_seq == 0 || query.before_seq > page.thread.last_seq;
    let cursor = query.cursor.as_ref().map_or(0, |cursor| cursor.seq);
    match (query.descending, page.more) {
        (false, false) if has_end => Some(query.after_seq.max(cursor).saturating_add(1)),
        (true, false) if has_end && cursor == 0 => Some(query.after_seq.saturating_add(1)),
        (true, true) if has_end && cursor == 0 => page.messages.last().map(|oldest| oldest.seq),
        (true | false, true | false) => None,
    }
}

/// The messages of a context behind which nothing was left out, and from which seq on. Where the whole thread is in
/// the context, that is all of them.
fn run_of_context(context: &Context) -> (Vec<StoredMessage>, i64) {
    if as_i64(context.messages.len()) == context.thread.message_count {
        return (context.messages.clone(), 0);
    }
    let mut from = context.thread.last_seq.saturating_add(1);
    let mut run = Vec::new();
    for stored in context.messages.iter().rev() {
        if stored.seq.saturating_add(1) != from {
            break;
        }
        from = stored.seq;
        run.push(stored.clone());
    }
    run.reverse();
    (run, from)
}
