//! The names of channels: what Redis publishes of a key is on the channel that is named after it.

use crate::{redis::keys::Keys, settings::RedisSettings, threads::ThreadId};

use super::Ring;

/// What something on a channel is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// The hash with which this process rings itself.
    Ourselves,
    /// A breaker or a thread.
    Data(Ring),
}

/// Tells channels of one database from keys, and keys from channels.
#[derive(Debug)]
pub(super) struct Channels {
    keys: Keys,
    /// What stands before a key in the name of its channel.
    keyspace: String,
    probe: String,
}

impl Channels {
    /// Channels of the configured database and prefix, and of the hash with which `instance` rings itself.
    pub(super) fn new(settings: &RedisSettings, instance: &str) -> Self {
        let keys = Keys::new(&settings.key_prefix);
        let probe = keys.doorbell(instance);
        Self { keys, keyspace: format!("__keyspace@{}__:", settings.endpoint.db), probe }
    }

    /// The key of the hash with which this process rings itself.
    pub(super) fn probe_key(&self) -> &str {
        &self.probe
    }

    /// The channel of that hash.
    pub(super) fn probe(&self) -> String {
        format!("{}{}", self.keyspace, self.probe)
    }

    /// The pattern of the channels of all breakers.
    pub(super) fn breakers(&self) -> String {
        format!("{}{}", self.keyspace, self.keys.every_breaker())
    }

    /// The channel of a thread.
    pub(super) fn thread(&self, id: &ThreadId) -> String {
        let [thread, ..] = self.keys.thread(id);
        format!("{}{thread}", self.keyspace)
    }

    /// What a channel is about; none if it is about nothing of ours.
    pub(super) fn about(&self, channel: &str) -> Option<About> {
        let key = channel.strip_prefix(&self.keyspace)?;
        if key == self.probe {
            return Some(About::Ourselves);
        }
        let breaker = || self.keys.breaker_at(key).map(Ring::Breaker);
        let thread = || self.keys.thread_at(key).map(Ring::Thread);
        breaker().or_else(thread).map(About::Data)
    }
}
