//! What is done with each push of the connection, in the task that reads it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bb8_redis::redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

use super::{
    OnRing,
    channels::{About, Channels},
};

/// Reads the pushes of one connection.
pub(super) struct PushReader {
    channels: Arc<Channels>,
    on_ring: OnRing,
    /// Told when this process heard itself.
    rung: watch::Sender<()>,
    /// Whether the first half of that was heard, that the probe was written.
    is_written: AtomicBool,
}

impl PushReader {
    /// A reader, and what tells that this process heard itself.
    pub(super) fn new(channels: &Arc<Channels>, on_ring: &OnRing) -> (Self, watch::Receiver<()>) {
        let (rung, hears) = watch::channel(());
        (
            Self {
                channels: Arc::clone(channels),
                on_ring: Arc::clone(on_ring),
                rung,
                is_written: AtomicBool::new(false),
            },
            hears,
        )
    }

    /// Takes one push. A ring has been passed on when this returns, so it comes before any ring of our own that the
    /// server sent later.
    pub(super) fn hear(&self, push: &PushInfo) {
        let ((PushKind::Message, [channel, event]) | (PushKind::PMessage, [_, channel, event])) =
            (&push.kind, push.data.as_slice())
        else {
            return;
        };
        match text(channel).and_then(|channel| self.channels.about(channel)) {
            // One half for events of hashes, the other for those of any key: where only one rings, deletions go unheard.
            Some(About::Ourselves) => match text(event) {
                Some("hset") => self.is_written.store(true, Ordering::Relaxed),
                Some("expire") if self.is_written.swap(false, Ordering::Relaxed) => {
                    self.rung.send_replace(());
                }
                Some(_) | None => {}
            },
            Some(About::Data(ring)) => (self.on_ring)(ring),
            None => {}
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
