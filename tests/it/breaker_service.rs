//! Circuit breakers over gRPC: one test body for memory, Redis, Redis Cluster, a key prefix, and two services on one
//! Redis that are asked in turn.

use std::collections::BTreeMap;

use crate::support::raw::Raw;

mod batches;
mod clocks;
mod closed;
mod damage;
mod first;
mod history;
mod keys;
mod lists;
mod open;
mod operators;
mod overrides;
mod races;
mod settings;
mod trial;

/// Everything in Redis but the service's heartbeats, as bytes, and when it expires.
async fn contents(raw: &Raw) -> BTreeMap<String, (Vec<u8>, i64)> {
    let mut keys: Vec<String> = raw.get(&["KEYS", "*"]).await;
    keys.retain(|key| !key.ends_with(":probe") && !key.contains("fusewire:doorbell:"));
    let mut contents = BTreeMap::new();
    for key in keys {
        let value = (raw.get(&["DUMP", &key]).await, raw.get(&["PEXPIRETIME", &key]).await);
        contents.insert(key, value);
    }
    contents
}
