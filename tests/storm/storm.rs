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

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use books::Books;
use callers::Leases;
use faults::{Faults, Kind};
use script::Script;
use timing::Timing;
pub(crate) use verdict::Verdict;
use world::World;

const WRITERS: usize = 6;
const READERS: usize = 2;
const CALLERS: usize = 4;

/// What is to happen. The same seed brings the same faults and the same callers; how they meet is up to the machine.
#[derive(Debug)]
pub(crate) struct Storm {
    seed: u64,
    faults: Faults,
    /// How often it has raged.
    round: u32,
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
    /// A storm of these kinds of faults.
    pub(crate) fn of(kinds: &[Kind], seed: u64) -> Self {
        Self { seed, faults: Faults::of(kinds, seed), round: 0 }
    }

    /// Lets faults come for so long, waits until both instances serve from Redis again with nothing left to merge, and
    /// balances the books. The next time goes on with other faults.
    pub(crate) async fn rage(&mut self, world: &mut World, length: Duration) -> Verdict {
        self.round += 1;
        eprintln!("storm: seed {} round {}", self.seed, self.round);
        let shared = Arc::new(Shared {
            round: self.round,
            books: Books::default(),
            leases: Leases::default(),
            timing: Timing::start(),
            is_over: AtomicBool::new(false),
        });
        writers::prepare(world, &shared).await;
        callers::prepare(world).await;
        let mut tasks = self.callers(world, &shared);
        let faults = self.fail(world, length).await;
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

    /// Brings one fault after the other; the name and length of each.
    async fn fail(&mut self, world: &mut World, length: Duration) -> Vec<(Kind, Duration)> {
        let began = Instant::now();
        let mut faults = Vec::new();
        while began.elapsed() < length {
            sleep(self.faults.gap()).await;
            let fault = self.faults.draw();
            eprintln!("storm: {:>7.3} s {fault:?}", began.elapsed().as_secs_f64());
            world.fail(&fault).await;
            sleep(fault.lasts).await;
            world.mend(&fault).await;
            faults.push((fault.kind, fault.lasts));
        }
        eprintln!("storm: {:>7.3} s over", began.elapsed().as_secs_f64());
        faults
    }
}
