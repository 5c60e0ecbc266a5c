//! The end of the service, and of a client, while watches are open.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::watchers;
use crate::support::{
    deployment::{Deployment, Store},
    watch::{Watcher, all, keys},
};

/// Well within the default drain deadline of 10 s.
const WELL_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_watches_do_not_hold_the_end() {
    for store in [Store::Memory, Store::Redis] {
        let mut on = Deployment::start(store).await;
        let mut opened = watchers(&on, &all()).await;
        opened.push(Watcher::open(&on.breakers(), keys(["a", "b"])).await);
        on.breakers().trip("a", Duration::from_mins(1)).await;
        opened[0].changes("a", 1).await;
        let began = Instant::now();
        on.service.signal(Signal::SIGTERM);
        assert_eq!(on.service.wait_exit(WELL_WITHIN).await.code(), Some(0));
        eprintln!("{store:?}: ended after {:?}", began.elapsed());
    }
}
