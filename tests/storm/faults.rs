//! What can fail: the way to Redis of one instance or of both, and Redis itself.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use redis::RedisResult;

use super::world::World;
use crate::support::{chaos_proxy::ChaosProxy, eventually::eventually};

/// Far above what any fault takes to come about, for a loaded machine.
const SOON: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Connections are cut, new ones refused.
    Refuse,
    /// Connections are cut, once at the beginning and once at the end.
    Cut,
    /// Nothing moves; then all that was held back does.
    Freeze,
    /// Requests arrive later.
    Delay,
    /// Requests arrive, replies do not.
    DropReplies,
    /// Redis is killed, and started again with its data.
    Kill,
    /// Redis stands still.
    Stop,
    /// Redis is a replica of nobody.
    Demote,
    /// Redis cannot save, and so takes no writes.
    Misconf,
    /// Redis forgets all scripts.
    FlushScripts,
    /// Redis closes all connections.
    KillClients,
    /// Redis runs somebody's endless script.
    Busy,
    /// Redis wants more replicas than it has.
    FewReplicas,
}

impl Kind {
    pub(crate) const ALL: [Self; 13] = [
        Self::Refuse,
        Self::Cut,
        Self::Freeze,
        Self::Delay,
        Self::DropReplies,
        Self::Kill,
        Self::Stop,
        Self::Demote,
        Self::Misconf,
        Self::FlushScripts,
        Self::KillClients,
        Self::Busy,
        Self::FewReplicas,
    ];
}

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The instances whose way to Redis fails; Redis itself fails both.
    pub(crate) sides: &'static [usize],
    pub(crate) lasts: Duration,
    /// For [`Kind::Delay`].
    pub(crate) delay: Duration,
}

/// Faults by chance, each kind as often as any other.
#[derive(Debug)]
pub(super) struct Faults {
    kinds: Vec<Kind>,
    /// What is left of the present turn.
    deck: Vec<Kind>,
    rng: StdRng,
}

impl Faults {
    pub(super) fn of(kinds: &[Kind], seed: u64) -> Self {
        Self { kinds: kinds.to_vec(), deck: Vec::new(), rng: StdRng::seed_from_u64(seed) }
    }

    /// How long all is well before the next one.
    pub(super) fn gap(&mut self) -> Duration {
        // Short ones let a fault meet the merging that the one before made necessary.
        let range = if self.rng.random_bool(0.5) { 30..600 } else { 600..3000 };
        Duration::from_millis(self.rng.random_range(range))
    }

    pub(super) fn draw(&mut self) -> Fault {
        let kind = self.deck.pop().unwrap_or_else(|| {
            self.deck.clone_from(&self.kinds);
            self.deck.shuffle(&mut self.rng);
            self.deck.pop().expect("there are kinds of faults")
        });
        let sides: [&'static [usize]; 3] = [&[0], &[1], &[0, 1]];
        let sides = sides[self.rng.random_range(0..sides.len())];
        let longest = if self.rng.random_bool(0.7) { 1000 } else { 3000 };
        let lasts = Duration::from_millis(self.rng.random_range(100..longest));
        // From a slow network to one that passes for none.
        let delay = Duration::from_millis(self.rng.random_range(20..400));
        Fault { kind, sides, lasts, delay }
    }
}

impl World {
    /// Lets a fault begin.
    pub(crate) async fn fail(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::Refuse => {
                for proxy in self.proxies(fault) {
                    proxy.refuse().await;
                    proxy.cut().await;
                }
            }
            Kind::Cut => self.cut(fault).await,
            Kind::Freeze => {
                for proxy in self.proxies(fault) {
                    proxy.freeze().await;
                }
            }
            Kind::Delay => {
                for proxy in self.proxies(fault) {
                    proxy.delay(fault.delay).await;
                }
            }
            Kind::DropReplies => {
                for proxy in self.proxies(fault) {
                    proxy.drop_replies().await;
                }
            }
            Kind::Kill => self.redis.kill(),
            Kind::Stop => self.redis.stop_signal(),
            Kind::Demote => self.tell(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Kind::Misconf => self.fail_to_save().await,
            Kind::FlushScripts => self.tell(&["SCRIPT", "FLUSH"]).await,
            Kind::KillClients => self.kill_clients().await,
            Kind::Busy => self.keep_busy().await,
            Kind::FewReplicas => self.tell(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await,
        }
    }

    /// Lets a fault end.
    pub(crate) async fn mend(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::Refuse | Kind::Freeze | Kind::Delay | Kind::DropReplies => {
                for proxy in self.proxies(fault) {
                    proxy.forward().await;
                }
            }
            Kind::Cut => self.cut(fault).await,
            Kind::Kill => self.redis.restart().await,
            Kind::Stop => self.redis.continue_signal(),
            Kind::Demote => self.tell(&["REPLICAOF", "NO", "ONE"]).await,
            Kind::Misconf => self.tell(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await,
            Kind::FlushScripts => self.tell(&["SCRIPT", "FLUSH"]).await,
            Kind::KillClients => self.kill_clients().await,
            Kind::Busy => {
                self.tell(&["SCRIPT", "KILL"]).await;
                while self.running.join_next().await.is_some() {}
            }
            Kind::FewReplicas => self.tell(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await,
        }
    }

    fn proxies(&self, fault: &Fault) -> impl Iterator<Item = &ChaosProxy> {
        fault.sides.iter().map(|side| &self.sides[*side].proxy)
    }

    async fn cut(&self, fault: &Fault) {
        for proxy in self.proxies(fault) {
            proxy.cut().await;
        }
    }

    async fn tell(&self, command: &[&str]) {
        self.redis.raw().await.run(command).await;
    }

    /// Takes away the folder that snapshots are written to, until one has failed.
    async fn fail_to_save(&self) {
        let raw = self.redis.raw().await;
        let folder: Vec<String> = raw.get(&["CONFIG", "GET", "dir"]).await;
        // Where nobody can make a file.
        raw.run(&["CONFIG", "SET", "dir", "/proc"]).await;
        raw.run(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]).await;
        raw.run(&["BGSAVE"]).await;
        eventually("the snapshot failed", SOON, async || {
            raw.get::<String>(&["INFO", "persistence"]).await.contains("rdb_last_bgsave_status:err")
        })
        .await;
        raw.run(&["CONFIG", "SET", "dir", &folder[1]]).await;
    }

    async fn kill_clients(&self) {
        for kind in ["normal", "pubsub"] {
            self.tell(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
    }

    /// Runs an endless script, and returns when nobody else is served.
    async fn keep_busy(&mut self) {
        let raw = self.redis.raw().await;
        self.running.spawn(async move {
            // It is killed in the end.
            let _: RedisResult<()> = raw.try_get(&["EVAL", "while true do end", "0"]).await;
        });
        let raw = self.redis.raw().await;
        eventually("redis is busy", SOON, async || {
            raw.try_get::<()>(&["GET", "x"]).await.is_err_and(|error| error.code() == Some("BUSY"))
        })
        .await;
    }
}
