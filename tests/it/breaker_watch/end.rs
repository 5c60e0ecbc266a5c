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
const DRAIN: &str = "FUSEWIRE__SERVER__DRAIN_DEADLINE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "watches are to end with the service: until that is built they last as long as the drain may"]
async fn open_watches_do_not_hold_the_end() {
    ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_watches_do_not_hold_the_end_beyond_the_drain_deadline() {
    ends(&[(DRAIN, "1s")]).await;
}

async fn ends(settings: &[(&str, &str)]) {
    for store in [Store::Memory, Store::Redis] {
        let mut on = Deployment::start_with(store, settings).await;
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
