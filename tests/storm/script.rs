//! What one caller does next: chance, the same for the same seed.

use std::{ops::Range, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

#[derive(Debug)]
pub(super) struct Script {
    rng: StdRng,
}

impl Script {
    /// The script of one caller.
    pub(super) fn of(seed: u64, round: u32, caller: usize) -> Self {
        let caller = u64::try_from(caller).expect("there are few");
        let mixed = seed ^ (u64::from(round) << 32) ^ (caller << 48);
        Self { rng: StdRng::seed_from_u64(mixed) }
    }

    /// Whether what happens in so many of a hundred cases happens now.
    pub(super) fn happens(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(super) fn pick(&mut self, range: Range<usize>) -> usize {
        self.rng.random_range(range)
    }

    /// Waits as callers do between two calls.
    pub(super) async fn pause(&mut self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }
}
