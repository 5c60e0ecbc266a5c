//! The fault matrix: under each fault alone, and under all of them at random, nothing acknowledged is lost, duplicated
//! or told out of order, no call hangs, and both instances serve from Redis again.

use std::{env, time::Duration};

use crate::storm::{Storm, faults::Kind, world::World};

/// Long enough for a few faults of one kind and the merging between them.
const SHORT: Duration = Duration::from_secs(4);
const MINUTE: Duration = Duration::from_mins(1);
/// Faults come for so long before the books are balanced.
const ROUND: Duration = Duration::from_secs(20);

async fn weathers(kind: Kind) {
    let mut world = World::start().await;
    let seed = 1 + kind as u64;
    Storm::of(&[kind], seed).rage(&mut world, SHORT).await.assert(seed);
}

macro_rules! each_alone {
    ($($name:ident: $kind:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            weathers(Kind::$kind).await;
        })+
    };
}

each_alone! {
    refused_connections: Refuse,
    cut_connections: Cut,
    a_network_that_moves_nothing: Freeze,
    a_slow_network: Delay,
    replies_that_never_arrive: DropReplies,
    a_killed_redis: Kill,
    a_stopped_redis: Stop,
    a_primary_that_becomes_a_replica: Demote,
    a_disk_that_takes_no_snapshot: Misconf,
    forgotten_scripts: FlushScripts,
    killed_connections: KillClients,
    a_script_that_does_not_end: Busy,
    a_replica_too_few: FewReplicas,
}

/// A number from the environment, to make the storm longer or another one.
fn number(name: &str) -> Option<u64> {
    env::var_os(name).map(|text| text.to_str().and_then(|text| text.parse().ok()).expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_holds_for_a_minute() {
    let seed = number("FUSEWIRE_MATRIX_SEED").unwrap_or(20_261_122);
    let mut left = number("FUSEWIRE_MATRIX_SECONDS").map_or(MINUTE, Duration::from_secs);
    let mut world = World::start().await;
    let mut storm = Storm::of(&Kind::ALL, seed);
    while !left.is_zero() {
        let length = ROUND.min(left);
        storm.rage(&mut world, length).await.assert(seed);
        left = left.saturating_sub(length);
    }
}
