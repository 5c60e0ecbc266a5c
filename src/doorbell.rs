//! The doorbell: how this process notices that something changed in Redis, and whether it would notice at all.
//!
//! A ring says where to look, never what happened: whoever hears it reads. So a lost ring costs time and nothing else;
//! and since a doorbell that is silent looks like one that is broken, the process rings itself, again and again. What it
//! knows of the world is current only while it heard itself a moment ago.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// How long after this process rang itself, and heard it, what it knows may be taken for current. This is the bound on
/// how stale an answer can be that was given without asking Redis, whatever happens to notifications.
pub const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notices {
    /// Keyspace notifications ring.
    Keyspace,
    /// They do not, for this reason: Redis is asked, again and again.
    Polling(Arc<str>),
}

/// One doorbell a process, and what is known of it.
#[derive(Debug)]
pub struct Doorbell {
    notices: watch::Sender<Notices>,
    began: Instant,
    /// When the newest ring of our own that was heard had been sent, in ms since it began, plus one; 0: none counts.
    heard: AtomicU64,
    /// How often it began to ring.
    era: AtomicU64,
}

impl Doorbell {
    /// A doorbell that does not ring yet.
    pub fn new() -> Self {
        let notices = Notices::Polling("not subscribed yet".into());
        Self {
            notices: watch::Sender::new(notices),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            era: AtomicU64::new(0),
        }
    }

    /// Whether every change until a moment ago has rung: this process rang itself at most [`TRUSTED_FOR`] ago, and
    /// heard that.
    pub fn is_trusted(&self) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        heard > 0 && self.millis(Instant::now()).saturating_sub(heard - 1) < millis(TRUSTED_FOR)
    }

    /// Counts how often it began to ring. What was asked for in an earlier era may have changed while it was silent.
    pub fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// How changes are noticed now.
    pub fn notices(&self) -> Notices {
        self.notices.borrow().clone()
    }

    /// Watches how changes are noticed.
    pub fn watch(&self) -> watch::Receiver<Notices> {
        self.notices.subscribe()
    }

    /// Notes that a ring of our own was heard that had been sent then. Says whether the doorbell had not rung before.
    pub fn hear(&self, sent: Instant) -> bool {
        // The era begins before anything counts as heard in it.
        let begins = *self.notices.borrow() != Notices::Keyspace;
        if begins {
            self.era.fetch_add(1, Ordering::AcqRel);
        }
        self.heard.store(self.millis(sent) + 1, Ordering::Release);
        self.notices.send_if_modified(|notices| {
            *notices = Notices::Keyspace;
            begins
        })
    }

    /// Notes that it does not ring, and why. Says whether that is news.
    pub fn silence(&self, reason: &str) -> bool {
        self.heard.store(0, Ordering::Release);
        let silent = Notices::Polling(reason.into());
        self.notices.send_if_modified(|notices| {
            let is_new = *notices != silent;
            *notices = silent;
            is_new
        })
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.began))
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_trusted_for_two_seconds_after_the_newest_ring_that_was_heard_had_been_sent() {
        let bell = Doorbell::new();
        assert!(!bell.is_trusted());
        let sent = Instant::now();
        advance(Duration::from_millis(300)).await;
        assert!(bell.hear(sent), "it rings for the first time");
        advance(Duration::from_millis(1699)).await;
        assert!(bell.is_trusted());
        advance(Duration::from_millis(1)).await;
        assert!(!bell.is_trusted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_doorbell_is_not_trusted_and_says_why() {
        let bell = Doorbell::new();
        bell.hear(Instant::now());
        assert!(!bell.hear(Instant::now()), "that is no news");
        assert!(bell.silence("CONFIG is refused"));
        assert!(!bell.is_trusted());
        assert_eq!(bell.notices(), Notices::Polling("CONFIG is refused".into()));
        assert!(!bell.silence("CONFIG is refused"), "nor is that");
    }
}
