//! What the journal file keeps when the process dies: nothing that was acknowledged is lost, and nothing comes twice.

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use crate::support::{
    behind_proxy::{BehindProxy, quick},
    eventually::eventually,
    fusewire::FusewireOptions,
    redis_options::RedisOptions,
};

mod disk;
mod full;
mod opening;
mod release;
mod restart;
mod settled;

/// Far above what any step takes, for a loaded machine.
const SOON: Duration = Duration::from_secs(30);
/// What the log says of writes that an earlier process left.
const FOUND: &str = "writes of an earlier process wait in the journal file";
/// What the log says when all is merged.
const MERGED: &str = "serving from redis";

/// A directory for journal files that outlives the services which write there.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("it-journal-").tempdir().unwrap())
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    fn bytes(&self) -> u64 {
        fs::metadata(self.journal()).unwrap().len()
    }

    /// Options of a service with this journal file, which does not take a busy machine for an outage.
    fn options(&self) -> FusewireOptions {
        quick()
            .var("FUSEWIRE__REDIS__OUTAGE_AFTER", "2s")
            .var("FUSEWIRE__FALLBACK__JOURNAL_PATH", self.journal().to_str().unwrap())
    }

    /// A Redis that keeps what it acknowledges, and a service behind a proxy.
    async fn start(&self) -> BehindProxy {
        BehindProxy::start_with(RedisOptions::tcp().append_only(), self.options()).await
    }

    /// Waits until the file holds nothing but its header: everything is merged.
    async fn is_empty(&self) {
        eventually("the journal file is small again", SOON, async || self.bytes() < 32).await;
    }
}
