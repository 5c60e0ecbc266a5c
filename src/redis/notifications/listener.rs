//! What is done with each push of the connection, in the task that reads it.

use std::sync::Arc;

use bb8_redis::redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

use super::{
    OnRing,
    channels::{About, Channels},
};

/// Hears the pushes of one connection.
pub(super) struct Listener {
    channels: Arc<Channels>,
    on_ring: OnRing,
    /// Told when this process heard itself.
    rung: watch::Sender<()>,
}

impl Listener {
    /// A listener, and what tells that this process heard itself.
    pub(super) fn new(channels: &Arc<Channels>, on_ring: &OnRing) -> (Self, watch::Receiver<()>) {
        let (rung, hears) = watch::channel(());
        (Self { channels: Arc::clone(channels), on_ring: Arc::clone(on_ring), rung }, hears)
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
            // The probe also renews its expiry, which rings as well and proves nothing about what was written.
            Some(About::Ourselves) if text(event) == Some("hset") => {
                self.rung.send_replace(());
            }
            Some(About::Data(ring)) => (self.on_ring)(ring),
            Some(About::Ourselves) | None => {}
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
