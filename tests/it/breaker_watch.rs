//! `WatchBreakers`, admission by what is known, and what happens by itself: that nothing is left out silently, that nobody
//! is admitted later than the bound, and that what time brings happens once.

use fusewire::grpc::proto::{AcquireRequest, Admission, WatchBreakersRequest};

use crate::support::{
    breakers::{Breakers, asking},
    deployment::{Deployment, Store},
    raw::Raw,
    watch::Watcher,
};

mod by_hand;
mod by_time;
mod cached;
mod churn;
mod end;
mod events;
mod faults;
mod outage;
mod polling;
mod resume;
mod slow;
mod stale;

/// A watch of the same through each service, everything told that was there.
async fn watchers(on: &Deployment, request: &WatchBreakersRequest) -> Vec<Watcher> {
    let breakers = on.breakers();
    let mut watchers = Vec::new();
    for service in 0..on.services() {
        watchers.push(Watcher::open(&breakers.only(service), request.clone()).await);
    }
    for watcher in &watchers {
        watcher.synced().await;
    }
    watchers
}

/// Three services on one Redis, and clients that are asked in turn.
async fn fleet(settings: &[(&str, &str)]) -> (Deployment, Breakers) {
    let mut on = Deployment::start_with(Store::Pair, settings).await;
    on.grow(settings).await;
    let breakers = on.breakers();
    (on, breakers)
}

/// A question that is answered by what is known, if that is current.
fn cached(key: &str) -> AcquireRequest {
    AcquireRequest { admission: Admission::Cached.into(), ..asking(key) }
}

/// How often clients ran a script so far.
async fn scripts_run(raw: &Raw) -> u64 {
    let stats: String = raw.get(&["INFO", "commandstats"]).await;
    let calls = |line: &str| line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok());
    let is_script = |line: &&str| line.starts_with("cmdstat_eval") || line.starts_with("cmdstat_fcall");
    stats.lines().filter(is_script).filter_map(calls).sum()
}
