//! What becomes of writes that memory accepted in an outage, once Redis is back: they are merged.

use std::time::Duration;

use fusewire::grpc::proto::{Authority, JournalStatus, Message};

use crate::support::{
    behind_proxy::BehindProxy,
    eventually::eventually,
    fusewire::FusewireOptions,
    redis_options::RedisOptions,
    status::{journal, merged},
    threads::{Threads, numbered, seqs},
};

mod conflicts;
mod half_way;
mod losses;
mod plain;
mod together;
mod watching;

/// Far above what any step of a merge takes, for a loaded machine.
const SOON: Duration = Duration::from_secs(30);

/// Settings under which writes that timed out are soon repeated.
fn quick() -> FusewireOptions {
    FusewireOptions::unix_socket().var("FUSEWIRE__REDIS__COMMAND_TIMEOUT", "500ms")
}

/// A Redis that keeps what it acknowledges, and a service behind a proxy.
async fn start() -> BehindProxy {
    start_with(quick()).await
}

async fn start_with(options: FusewireOptions) -> BehindProxy {
    BehindProxy::start_with(RedisOptions::tcp().append_only(), options).await
}

/// Opens the way to Redis again, and returns what is told of the journal when all is merged or parked.
pub(super) async fn merge(on: &BehindProxy) -> JournalStatus {
    on.proxy.forward().await;
    merged(&on.channel).await.journal.unwrap_or_default()
}

/// Opens the way to Redis again; all must be merged, and nothing parked.
pub(super) async fn merge_all(on: &BehindProxy) {
    let told = merge(on).await;
    assert_eq!((told.entries, told.bytes, told.oldest_time), (0, 0, None), "{told:?}");
    assert_eq!(told.parked, []);
}

/// Appends a batch that memory must accept.
pub(super) async fn append_locally(threads: &Threads, id: &str, messages: Vec<Message>) {
    let made = threads.append(id, messages).await;
    assert_eq!(made.authority(), Authority::Local, "{made:?}");
}

/// Appends messages `m<from>` to `m<to>`, at most 100 a call, that memory must accept.
pub(super) async fn fill_locally(threads: &Threads, id: &str, from: i64, to: i64) {
    for batch in numbered(from, to).chunks(100) {
        append_locally(threads, id, batch.to_vec()).await;
    }
}

/// Waits until so many writes wait to be merged.
pub(super) async fn assert_waiting(on: &BehindProxy, entries: i64) {
    eventually(&format!("{entries} writes wait"), SOON, async || {
        journal(&on.channel).await.entries == entries
    })
    .await;
}

/// Checks that a thread is whole: these messages in this order, in Redis, from seq 1 on without a hole.
pub(super) async fn assert_thread(threads: &Threads, id: &str, expected: &[&str]) -> Vec<Message> {
    let messages = threads.recount(id).await;
    assert_eq!(crate::support::threads::ids(&messages), expected, "{id}");
    let places: Vec<i64> = (1..).take(messages.len()).collect();
    assert_eq!(seqs(&messages), places, "{id}");
    assert!(messages.iter().all(|message| !message.provisional && message.commit_time.is_some()));
    messages
}

/// Checks that a thread consists of `numbered(1, last)`.
pub(super) async fn assert_numbered(threads: &Threads, id: &str, last: i64) {
    let expected: Vec<String> = (1..=last).map(|n| format!("m{n}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    assert_thread(threads, id, &expected).await;
}
