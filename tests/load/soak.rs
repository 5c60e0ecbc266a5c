//! The storm of the fault matrix, for as long as one likes, over the program as it is released.

use std::time::{Duration, Instant};

use crate::storm::{Storm, faults::Kind, world::World};

/// The books are balanced, and new threads begun, so often.
const ROUND: Duration = Duration::from_mins(1);

/// Lets the storm rage, and tells after each round what it came to.
pub(crate) fn run(length: Duration, seed: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::start().await;
        let mut storm = Storm::of(&Kind::ALL, seed);
        let (began, mut rounds) = (Instant::now(), 0);
        while began.elapsed() < length {
            let left = length.saturating_sub(began.elapsed());
            storm.rage(&mut world, ROUND.min(left)).await.assert(seed);
            rounds += 1;
        }
        println!("{rounds} rounds in {:.0} s: lost 0, duplicated 0", began.elapsed().as_secs_f64());
    });
}
