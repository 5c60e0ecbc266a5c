//! `WatchBreakers`, admission by what is known, and what happens by itself: that nothing is left out silently, that nobody
//! is admitted later than the bound, and that what time brings happens once.

use crate::support::{
    breakers::Breakers,
    deployment::{Deployment, Store},
    raw::Raw,
    watch::Watcher,
};

mod events;

use fusewire::grpc::proto::WatchBreakersRequest;

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

/// How often clients ran a script so far.
async fn scripts_run(raw: &Raw) -> u64 {
    let stats: String = raw.get(&["INFO", "commandstats"]).await;
    let calls = |line: &str| line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok());
    let is_script = |line: &&str| line.starts_with("cmdstat_eval") || line.starts_with("cmdstat_fcall");
    stats.lines().filter(is_script).filter_map(calls).sum()
}
