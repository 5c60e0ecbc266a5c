//! A disk without room for more: nothing is acknowledged that is not in the file.

use std::process::Command;

use fusewire::grpc::proto::AppendMessagesResponse;

use super::{Folder, SOON};
use crate::{
    outage::{
        assert_unavailable,
        merging::{append_locally, assert_numbered, merge_all},
    },
    support::{
        behind_proxy::BehindProxy,
        eventually::eventually,
        fusewire::{Fusewire, FusewireOptions},
        redis_options::RedisOptions,
        threads::{Threads, appending, numbered},
    },
};

/// A service that is told of the limit on the size of files as of a full disk, and not killed by it.
fn limitable(folder: &Folder) -> FusewireOptions {
    folder.options().prelude("trap '' XFSZ")
}

/// Limits the size of the files that a service writes, as a full disk would.
fn limit_files(service: &Fusewire, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &service.pid().to_string(), &limit]).status();
    assert!(status.expect("prlimit is on PATH (Debian: util-linux)").success());
}

async fn try_append(threads: &Threads, n: i64) -> Result<AppendMessagesResponse, tonic::Status> {
    threads.try_append(appending("t", numbered(n, n))).await
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room_again() {
    let folder = Folder::new();
    let mut on = BehindProxy::start_with(RedisOptions::tcp().append_only(), limitable(&folder)).await;
    let threads = on.threads();
    threads.create("t").await;
    on.lose().await;
    append_locally(&threads, "t", numbered(1, 5)).await;
    limit_files(&on.service, &(folder.bytes() + 10).to_string());
    for n in 6..=20 {
        assert_unavailable("append on a full disk", try_append(&threads, n).await);
        // Nor is it acknowledged when it is repeated.
        assert_unavailable("append on a full disk", try_append(&threads, n).await);
    }
    let told = "the journal file takes nothing more until it is replaced";
    on.service.wait_for_log(told, SOON).await;
    assert_eq!(on.service.logged(told), 1, "once, not for each write");
    assert!(threads.peek("t").await.is_ok(), "reads are answered");

    limit_files(&on.service, "unlimited");
    eventually("there is room again", SOON, async || try_append(&threads, 20).await.is_ok()).await;
    // All that was refused before went with it, and is there when it is repeated.
    for n in 6..=20 {
        let again = try_append(&threads, n).await.unwrap();
        assert!(again.messages[0].duplicate, "{again:?}");
    }
    append_locally(&threads, "t", numbered(21, 21)).await;
    on.replace_service(limitable(&folder)).await;
    merge_all(&on).await;
    assert_numbered(&on.threads(), "t", 21).await;
}

#[tokio::test]
async fn what_a_full_disk_refused_is_not_in_the_file() {
    let folder = Folder::new();
    let mut on = BehindProxy::start_with(RedisOptions::tcp().append_only(), limitable(&folder)).await;
    let threads = on.threads();
    threads.create("t").await;
    on.lose().await;
    append_locally(&threads, "t", numbered(1, 5)).await;
    limit_files(&on.service, &(folder.bytes() + 10).to_string());
    assert_unavailable("append on a full disk", try_append(&threads, 6).await);
    on.replace_service(limitable(&folder)).await;
    merge_all(&on).await;
    assert_numbered(&on.threads(), "t", 5).await;
}

#[tokio::test]
async fn on_a_full_disk_all_is_merged_and_nothing_comes_back() {
    let folder = Folder::new();
    let mut on = BehindProxy::start_with(RedisOptions::tcp().append_only(), limitable(&folder)).await;
    let threads = on.threads();
    threads.create("t").await;
    on.lose().await;
    append_locally(&threads, "t", numbered(1, 5)).await;
    limit_files(&on.service, "10");
    assert_unavailable("append on a full disk", try_append(&threads, 6).await);
    merge_all(&on).await;
    assert_numbered(&threads, "t", 6).await;
    // There is no room for another file, but to empty this one takes none.
    folder.is_empty().await;
    on.replace_service(limitable(&folder)).await;
    assert_eq!(on.service.logged(super::FOUND), 0);
}
