//! The names of everything kept in Redis. Keys of one thread share a hash tag and so a cluster slot.

use crate::{
    breakers::ModelKey,
    threads::{Owner, ThreadId},
};

/// How many sorted sets the threads' expiries are spread over.
pub(super) const SHARDS: u32 = 16;

/// Builds keys, each with the configured prefix before its name.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// The seven keys of a thread, in the order that every script on threads takes them.
pub(super) type ThreadKeys = [String; 7];

/// The five keys of a breaker, in the order that every script on breakers takes them.
pub(super) type BreakerKeys = [String; 5];

/// The types of a breaker's keys, in the same order.
pub(super) const BREAKER_TYPES: [&str; 5] = ["hash", "hash", "zset", "hash", "stream"];

impl Keys {
    /// Keys behind `prefix`, which holds no braces.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The thread, its messages, instructions, ids, older ids, tombstone and changes.
    pub(super) fn thread(&self, id: &ThreadId) -> ThreadKeys {
        let thread = format!("{}conversation_thread:{{{id}}}", self.prefix);
        let part = |name: &str| format!("{thread}:{name}");
        let (ids, older_ids) = (part("ids"), part("ids:old"));
        let (tombstone, changes) = (part("tombstone"), part("changes"));
        [thread.clone(), part("messages"), part("system"), ids, older_ids, tombstone, changes]
    }

    /// Messages, instructions and ids of a copy in the making, in the slot of the thread that it will be.
    pub(super) fn staging(&self, id: &ThreadId, token: &str) -> [String; 3] {
        ["messages", "system", "ids"]
            .map(|name| format!("{}conversation_thread:{{{id}}}:fork:{token}:{name}", self.prefix))
    }

    /// An owner's threads by last activity.
    pub(super) fn owner(&self, owner: &Owner) -> String {
        format!("{}conversation_threads:owner:{{{owner}}}", self.prefix)
    }

    /// Threads of one shard by expiry.
    pub(super) fn expiring(&self, shard: u32) -> String {
        format!("{}conversation_threads:expiring:{{{shard}}}", self.prefix)
    }

    /// The shard that a thread's expiry is kept in.
    pub(super) fn shard_of(id: &ThreadId) -> u32 {
        crc32fast::hash(id.as_str().as_bytes()) % SHARDS
    }

    /// What the sweeping instance holds.
    pub(super) fn sweep_lease(&self) -> String {
        format!("{}conversation_threads:sweep", self.prefix)
    }

    /// A breaker's state, window, leases, settings and log. The hash tag is the whole name of the state.
    pub(super) fn breaker(&self, key: &ModelKey) -> BreakerKeys {
        let state = format!("{}circuit_breaker:{key}", self.prefix);
        let part = |name: &str| format!("{{{state}}}:{name}");
        [state.clone(), part("window"), part("leases"), part("settings"), part("log")]
    }

    /// Every breaker with a state, by its last change.
    pub(super) fn breakers(&self) -> String {
        format!("{}circuit_breakers", self.prefix)
    }

    /// The breaker whose state is kept there, if one is.
    pub(super) fn breaker_at(&self, key: &str) -> Option<ModelKey> {
        let name = key.strip_prefix(&self.prefix)?.strip_prefix("circuit_breaker:")?;
        ModelKey::parse("", name).ok()
    }

    /// The thread that is kept there, if one is.
    pub(super) fn thread_at(&self, key: &str) -> Option<ThreadId> {
        let tag = key.strip_prefix(&self.prefix)?.strip_prefix("conversation_thread:")?;
        ThreadId::parse("", tag.strip_prefix('{')?.strip_suffix('}')?).ok()
    }

    /// The pattern of all breakers' states, which no other key of ours matches.
    pub(super) fn every_breaker(&self) -> String {
        let mut pattern = String::new();
        for c in self.prefix.chars() {
            if r"\*?[]".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + "circuit_breaker:*"
    }

    /// What a process rings itself with.
    pub(super) fn doorbell(&self, instance: &str) -> String {
        format!("{}fusewire:doorbell:{instance}", self.prefix)
    }

    /// What a probe writes.
    pub(super) fn probe(&self) -> String {
        format!("{}conversation_threads:probe", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_thread_share_its_hash_tag() {
        let id = ThreadId::parse("id", "a:b").unwrap();
        let keys = Keys::new("prod:");
        for key in keys.thread(&id).iter().chain(&keys.staging(&id, "x")) {
            assert!(key.starts_with("prod:conversation_thread:{a:b}"), "{key}");
        }
        let breaker = keys.breaker(&ModelKey::parse("", "openai:gpt-5").unwrap());
        assert_eq!(breaker[0], "prod:circuit_breaker:openai:gpt-5");
        assert_eq!(breaker[4], "{prod:circuit_breaker:openai:gpt-5}:log");
        assert_eq!(keys.thread(&id)[1], "prod:conversation_thread:{a:b}:messages");
    }

    #[test]
    fn states_of_breakers_and_threads_are_told_from_all_other_keys() {
        let id = ThreadId::parse("id", "a:b").unwrap();
        let model = ModelKey::parse("", "openai:gpt-5").unwrap();
        for prefix in ["", "prod:", "a*[b]?"] {
            let keys = Keys::new(prefix);
            let [thread, parts @ ..] = keys.thread(&id);
            let [breaker, companions @ ..] = keys.breaker(&model);
            assert_eq!((keys.thread_at(&thread), keys.breaker_at(&thread)), (Some(id.clone()), None));
            assert_eq!((keys.thread_at(&breaker), keys.breaker_at(&breaker)), (None, Some(model.clone())));
            let others =
                [keys.breakers(), keys.probe(), keys.doorbell("x"), format!("x{breaker}"), "x".into()];
            for other in parts.iter().chain(&companions).chain(&others) {
                assert_eq!((keys.thread_at(other), keys.breaker_at(other)), (None, None), "{other}");
            }
        }
    }

    #[test]
    fn the_pattern_takes_the_prefix_literally() {
        assert_eq!(Keys::new("").every_breaker(), "circuit_breaker:*");
        assert_eq!(Keys::new(r"a*[b]?\c").every_breaker(), r"a\*\[b\]\?\\ccircuit_breaker:*");
    }
}
