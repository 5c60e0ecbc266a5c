//! Writes to what a thread has already: its own fields, one message, its tail or head.

use super::{Bounds, Conversation, Kind};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::{
        footprint::{self, Tally},
        log::as_i64,
    },
    threads::{
        Cut, Guard, MAX_INSTRUCTION_BYTES, Message, MessageId, MessageUpdate, Profile, StoredMessage,
        ThreadChange, UpdatedMessage, watch::Changed,
    },
};

impl Conversation {
    /// Changes the thread's own fields and renews.
    pub(in crate::memory) fn update(
        &mut self,
        change: &ThreadChange,
        guard: &Guard,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<()> {
        let request = guard.request_id.as_ref();
        if self.was_requested(Kind::Update, request) {
            return Ok(());
        }
        self.check_etag(guard.etag.as_deref())?;
        let changed = apply(change, &self.thread.profile);
        let before = footprint::of_profile(&self.thread.profile);
        bounds.room.admit(footprint::of_profile(&changed).saturating_sub(before))?;
        self.thread.profile = changed;
        self.remember_request(Kind::Update, request);
        self.revise(now);
        self.note(Changed::Thread);
        self.renew(now);
        Ok(())
    }

    /// Changes one message in place and renews.
    pub(in crate::memory) fn update_message(
        &mut self,
        update: &MessageUpdate,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<UpdatedMessage> {
        let request = update.guard.request_id.as_ref();
        let is_repeat = self.was_requested(Kind::MessageUpdate, request);
        if !is_repeat {
            self.check_etag(update.guard.etag.as_deref())?;
        }
        let old = self.stored(&update.message_id).ok_or_else(|| self.no_message(&update.message_id))?.clone();
        if is_repeat {
            return Ok(UpdatedMessage { thread: self.thread.clone(), message: old });
        }
        let message = (update.revise)(&old.message)?;
        self.admit_change(old.seq, &old.message, &message, bounds)?;
        let replaced = self.log.replace(old.seq, message);
        let message = replaced.ok_or_else(|| self.no_message(&update.message_id))?;
        self.count();
        self.remember_request(Kind::MessageUpdate, request);
        self.revise(now);
        self.note(Changed::Message(message.seq));
        self.renew(now);
        Ok(UpdatedMessage { thread: self.thread.clone(), message })
    }

    fn stored(&self, id: &MessageId) -> Option<&StoredMessage> {
        self.ids.find(id).and_then(|used| self.log.find(used.seq))
    }

    fn no_message(&self, id: &MessageId) -> Error {
        Error::MessageNotFound { thread: self.thread.id.to_string(), id: id.to_string() }
    }

    /// Refuses a change of a message that outgrows a limit; what shrinks always passes.
    fn admit_change(&self, seq: i64, old: &Message, new: &Message, bounds: Bounds) -> Result<()> {
        let (less, more) = (Tally::of(old), Tally::of(new));
        let growth = more.bytes - less.bytes;
        if growth > 0 {
            footprint::admit_bytes(growth, &self.thread, bounds.limits)?;
            let limit = as_i64(MAX_INSTRUCTION_BYTES);
            if self.log.keeps(seq) && self.log.instruction_bytes() + growth > limit {
                let id = self.thread.id.to_string();
                return Err(Error::ThreadLimit { id, what: "bytes of instructions", limit });
            }
        }
        bounds.room.admit(more.memory.saturating_sub(less.memory))
    }

    /// Drops the tail or the head; does not renew. Seqs and ids that were dropped stay used.
    pub(in crate::memory) fn truncate(&mut self, cut: Cut, guard: &Guard, now: Timestamp) -> Result<()> {
        let request = guard.request_id.as_ref();
        if self.was_requested(Kind::Truncate, request) {
            return Ok(());
        }
        self.check_etag(guard.etag.as_deref())?;
        let last_seq = self.thread.last_seq;
        if matches!(cut, Cut::After(seq) if seq > last_seq) {
            return Err(Error::SeqOutOfRange { field: "after_seq", last_seq });
        }
        self.log.cut(cut);
        self.count();
        self.remember_request(Kind::Truncate, request);
        self.revise(now);
        self.note(Changed::Truncated {
            first_seq: self.thread.first_seq,
            last_seq: self.log.last_seq(),
            listed_from: self.log.listed_from().unwrap_or(last_seq + 1),
        });
        Ok(())
    }

    fn note(&mut self, what: Changed) {
        self.history.note(self.thread.revision, what);
    }
}

fn apply(change: &ThreadChange, profile: &Profile) -> Profile {
    Profile {
        owner: profile.owner.clone(),
        title: change.title.as_ref().unwrap_or(&profile.title).clone(),
        labels: change.labels.as_ref().unwrap_or(&profile.labels).clone(),
        ttl: change.ttl.unwrap_or(profile.ttl),
        pinned: change.pinned.unwrap_or(profile.pinned),
        trim: change.trim.unwrap_or(profile.trim),
    }
}
