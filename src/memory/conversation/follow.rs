//! What happened to a thread since a watcher was told of it.

use super::Conversation;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::page,
    threads::{
        MAX_BATCH_BYTES, StoredMessage,
        watch::{Change, Changed, Found, MAX_FOLLOWED, Since},
    },
};

/// How much one answer holds of messages that changed, and as much again of new ones.
#[derive(Clone, Copy)]
struct Page {
    messages: usize,
    bytes: usize,
}

impl Conversation {
    /// Tells the thread as it is and what is new to the watcher.
    pub(in crate::memory) fn follow(&self, since: &Since, now: Timestamp) -> Result<Found> {
        self.follow_by(Page { messages: MAX_FOLLOWED, bytes: MAX_BATCH_BYTES }, since, now)
    }

    fn follow_by(&self, page: Page, since: &Since, now: Timestamp) -> Result<Found> {
        let last_seq = self.thread.last_seq;
        let mut found = self.found(now);
        let told = match since {
            Since::Seq(after) if *after > last_seq => {
                return Err(Error::SeqOutOfRange { field: "after_seq", last_seq });
            }
            Since::Seq(after) => *after,
            Since::Told(place) if place.position.epoch != self.thread.epoch => return Ok(found),
            Since::Told(place) => {
                self.take_changes(page, place.position.revision, place.position.seq, &mut found);
                place.position.seq
            }
        };
        if !found.more_changes {
            let new = told.saturating_add(1)..i64::MAX;
            (found.messages, found.more) = page::fill(self.log.range(new), page.messages, page.bytes);
        }
        Ok(found)
    }

    /// The thread as it is, without news.
    pub(crate) fn found(&self, now: Timestamp) -> Found {
        Found {
            now,
            thread: self.thread.clone(),
            listed_from: self.log.listed_from().unwrap_or(self.thread.last_seq + 1),
            last_stored: self.log.last_seq(),
            newest_change: self.history.newest(),
            changes: Vec::new(),
            touched: Vec::new(),
            more_changes: false,
            messages: Vec::new(),
            more: false,
        }
    }

    /// Takes the changes after a revision, and once each those of their messages that were told: at most a page of them.
    fn take_changes(&self, page: Page, revision: i64, told: i64, found: &mut Found) {
        let mut left = page.bytes;
        for change in self.history.after(revision) {
            if let Some(stored) = self.changed_message(change, told)
                && !found.touched.iter().any(|known| known.seq == stored.seq)
            {
                let size = usize::try_from(stored.message.size).unwrap_or(usize::MAX);
                if !found.touched.is_empty() && size > left {
                    found.more_changes = true;
                    return;
                }
                left = left.saturating_sub(size);
                found.touched.push(stored.clone());
            }
            found.changes.push(change.clone());
        }
    }

    fn changed_message(&self, change: &Change, told: i64) -> Option<&StoredMessage> {
        match change.what {
            Changed::Message(seq) if seq <= told => self.log.find(seq),
            Changed::Message(_) | Changed::Thread | Changed::Truncated { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
