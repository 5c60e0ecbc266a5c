//! A client that opens a watch and does not read: it holds up nobody, costs little, and is told later what it missed.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::watchers;
use crate::support::{
    breakers::Breakers,
    deployment::{Deployment, Store, on_stores},
    fusewire::Fusewire,
    watch::{self, Watcher, all},
};

on_stores!([memory: Memory, redis: Redis], [clients_that_do_not_read_hold_up_nobody]);

const MINUTE: Duration = Duration::from_mins(1);
const BREAKERS: usize = 20;
const CHANGES: usize = 280;
const SLOW: usize = 20;
/// What is kept of changes for all watchers together is a few MiB.
const MOST_KIB: u64 = 64 * 1024;

/// A connection of its own that takes hardly more than one event before it is read.
async fn narrow(service: &Fusewire) -> Channel {
    let endpoint = service.endpoint().initial_stream_window_size(512).initial_connection_window_size(65_535);
    endpoint.connect().await.expect("the service listens")
}

async fn clients_that_do_not_read_hold_up_nobody(on: &Deployment) {
    let breakers = on.breakers();
    let names: Vec<_> = (0..BREAKERS).map(|n| format!("slow-{n}")).collect();
    for name in &names {
        breakers.trip(name, MINUTE).await;
    }
    let mut streams = Vec::new();
    for _ in 0..SLOW {
        let slow = Breakers::on([narrow(&on.service).await]);
        streams.push(watch::open(&slow, all()).await.expect("the watch is accepted"));
    }
    let quick = watchers(on, &all()).await;
    let before = on.service.resident();
    let mut writers = JoinSet::new();
    for names in names.chunks(BREAKERS / 4) {
        let (breakers, names) = (breakers.clone(), names.to_vec());
        writers.spawn(async move {
            for _ in 0..CHANGES / 2 {
                for name in &names {
                    breakers.reset(name).await;
                    breakers.trip(name, MINUTE).await;
                }
            }
        });
    }
    writers.join_all().await;
    for watcher in &quick {
        let account = watcher.agrees(&breakers, &names).await;
        assert_eq!((account.transitions, account.resyncs.len()), (BREAKERS * CHANGES, 0));
    }
    let grown = on.service.resident().saturating_sub(before);
    eprintln!("{grown} KiB more after {} changes for {SLOW} that did not read", BREAKERS * CHANGES);
    assert!(grown < MOST_KIB, "{grown} KiB");
    for stream in streams {
        let account = Watcher::of(stream).agrees(&breakers, &names).await;
        assert!(account.transitions < BREAKERS * CHANGES / 2, "it was behind: {account:?}");
    }
    assert!(matches!(on.store, Store::Memory | Store::Redis));
}
