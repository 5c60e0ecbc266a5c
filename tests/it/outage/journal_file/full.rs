//! A journal without room for more: what it has is kept, and more is refused.

use fusewire::grpc::proto::Authority;
use tonic::Code;

use super::Folder;
use crate::{
    outage::merging::{append_locally, assert_numbered, assert_waiting, merge_all},
    support::{
        behind_proxy::BehindProxy,
        fusewire::FusewireOptions,
        redis_options::RedisOptions,
        threads::{Threads, appending, assert_refused, numbered, thread, user},
    },
};

/// Appends one message after the other until the journal is full; answers the number of the last that was accepted.
async fn fill(threads: &Threads, from: i64) -> i64 {
    for n in from.. {
        let request = appending("t", numbered(n, n));
        match threads.try_append(request).await {
            Ok(made) => assert_eq!(made.authority(), Authority::Local),
            refused => {
                assert_refused(refused, Code::ResourceExhausted, "JOURNAL_FULL");
                return n - 1;
            }
        }
    }
    unreachable!("the numbers do not end")
}

async fn assert_full(threads: &Threads, last: i64) {
    let another = appending("t", numbered(last + 1, last + 1));
    assert_refused(threads.try_append(another).await, Code::ResourceExhausted, "JOURNAL_FULL");
    assert_refused(threads.try_create(thread("new")).await, Code::ResourceExhausted, "JOURNAL_FULL");
    // What was accepted can still be asked for and repeated.
    assert_eq!(threads.peek("t").await.unwrap().message_count, last);
    let again = threads.append("t", numbered(last, last)).await;
    assert!(again.messages[0].duplicate && again.authority() == Authority::Local, "{again:?}");
}

async fn assert_bounded(options: impl Fn() -> FusewireOptions) {
    let mut on = BehindProxy::start_with(RedisOptions::tcp().append_only(), options()).await;
    on.threads().create("t").await;
    on.lose().await;
    let last = fill(&on.threads(), 1).await;
    eprintln!("{last} were accepted");
    assert!(last >= 3);
    assert_full(&on.threads(), last).await;
    // The next process finds it as full.
    on.replace_service(options()).await;
    assert_waiting(&on, last).await;
    let more = on.threads().try_append(appending("t", vec![user("other", &"x".repeat(5000))])).await;
    assert_refused(more, Code::ResourceExhausted, "JOURNAL_FULL");
    merge_all(&on).await;
    assert_numbered(&on.threads(), "t", last).await;

    on.lose().await;
    append_locally(&on.threads(), "t", numbered(last + 1, last + 1)).await;
    let all = fill(&on.threads(), last + 2).await;
    assert!(all > last + 1, "there is room again");
    merge_all(&on).await;
    assert_numbered(&on.threads(), "t", all).await;
}

#[tokio::test]
async fn of_so_many_writes() {
    let folder = Folder::new();
    assert_bounded(|| folder.options().var("FUSEWIRE__FALLBACK__JOURNAL_ENTRIES", "5")).await;
}

#[tokio::test]
async fn of_so_many_bytes() {
    let folder = Folder::new();
    assert_bounded(|| folder.options().var("FUSEWIRE__FALLBACK__JOURNAL_BYTES", "6000B")).await;
}
