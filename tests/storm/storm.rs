//! A storm: callers on two instances, while the way to Redis and Redis itself fail at random, and books of what the
//! callers were told, which must balance when it is over.

mod books;
mod callers;
pub(crate) mod faults;
mod readers;
mod script;
mod timing;
mod verdict;
pub(crate) mod world;
mod writers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use books::Books;
use callers::Leases;
use faults::Kind;
use script::Script;
use timing::Timing;
pub(crate) use verdict::Verdict;
use world::World;

const WRITERS: usize = 6;
const READERS: usize = 2;
const CALLERS: usize = 4;

/// What is to happen. The same seed brings the same faults and the same callers; how they meet is up to the machine.
#[derive(Debug, Clone)]
pub(crate) struct Storm {
    pub(crate) seed: u64,
    /// The faults to choose from.
    pub(crate) kinds: Vec<Kind>,
    /// How long faults come, at least.
    pub(crate) length: Duration,
}

/// What all callers share.
#[derive(Debug)]
struct Shared {
    /// Sets names apart where one world sees several storms.
    round: u32,
    books: Books,
    leases: Leases,
    timing: Timing,
    is_over: AtomicBool,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

impl Storm {
    /// Lets it rage, waits until both instances serve from Redis again with nothing left to merge, and balances the
    /// books.
    pub(crate) async fn rage(&self, world: &mut World, round: u32) -> Verdict {
        eprintln!("storm: seed {} round {round}", self.seed);
        let shared = Arc::new(Shared {
            round,
            books: Books::default(),
            leases: Leases::default(),
            timing: Timing::start(),
            is_over: AtomicBool::new(false),
        });
        writers::prepare(world, &shared).await;
        callers::prepare(world).await;
        let mut tasks = self.callers(world, &shared);
        let faults = self.fail(world, round).await;
        // Under load: what is appended meanwhile must not keep a run from ever ending.
        world.settled("the journals empty while callers go on").await;
        shared.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                shared.books.wrong(format!("a caller failed: {error}"));
            }
        }
        world.settled("the journals are empty").await;
        callers::close(world, &shared).await;
        verdict::balance(world, &shared, faults).await
    }

    fn callers(&self, world: &World, shared: &Arc<Shared>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for index in 0..WRITERS {
            let script = Script::of(self.seed, shared.round, index);
            tasks.spawn(writers::run(world.clients(), Arc::clone(shared), script, index));
        }
        for index in 0..READERS {
            let script = Script::of(self.seed, shared.round, 100 + index);
            tasks.spawn(readers::run(world.clients(), Arc::clone(shared), script, index % 2));
        }
        for index in 0..CALLERS {
            let script = Script::of(self.seed, shared.round, 200 + index);
            tasks.spawn(callers::run(world.clients(), Arc::clone(shared), script, index % 2));
        }
        tasks
    }

    /// Brings one fault after the other; each one's name and length.
    async fn fail(&self, world: &mut World, round: u32) -> Vec<(Kind, Duration)> {
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(u64::from(round)));
        let began = Instant::now();
        let mut faults = Vec::new();
        while began.elapsed() < self.length || faults.is_empty() {
            // Short ones let a fault meet the merging that the last one made necessary.
            let (shortest, longest) = if rng.random_bool(0.5) { (30, 600) } else { (600, 3000) };
            sleep(Duration::from_millis(rng.random_range(shortest..longest))).await;
            let fault = faults::Fault::any(&mut rng, &self.kinds);
            eprintln!("storm: {:>7.3} s {fault:?}", began.elapsed().as_secs_f64());
            faults.push((fault.kind, fault.lasts));
            world.fail(&fault).await;
            sleep(fault.lasts).await;
            world.mend(&fault).await;
        }
        eprintln!("storm: {:>7.3} s over", began.elapsed().as_secs_f64());
        faults
    }
}
