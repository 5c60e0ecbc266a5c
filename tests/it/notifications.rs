//! The subscriber on real servers: what rings, what is noticed when nothing does, and what is looked at again after.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fusewire::{
    breakers::ModelKey,
    doorbell::{Doorbell, Notices},
    redis::{Notifications, Ring},
    settings::{self, Flags},
    shutdown::Shutdown,
    threads::{ThreadId, bells::ThreadBells},
};

use crate::support::{eventually::eventually, raw::Raw};

mod flags;
mod losses;
mod rings;

/// Far above what any change takes, for a loaded machine.
const SOON: Duration = Duration::from_secs(15);

/// A subscriber, and all that it said.
struct Subscriber {
    doorbell: Arc<Doorbell>,
    bells: Arc<ThreadBells>,
    rings: Arc<Mutex<Vec<Ring>>>,
    shutdown: Shutdown,
}

impl Subscriber {
    /// Listens on the database that the URL names.
    fn on(url: &str) -> Self {
        Self::behind(url, "")
    }

    /// The same, for keys behind a prefix.
    fn behind(url: &str, prefix: &str) -> Self {
        let variables = [("REDIS_URL", url), ("FUSEWIRE__REDIS__KEY_PREFIX", prefix)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let loaded = settings::load(&Flags::default(), &BTreeMap::from(variables), None).unwrap();
        let (doorbell, bells) = (Arc::new(Doorbell::new()), Arc::new(ThreadBells::new()));
        let notifications =
            Notifications::new(&loaded.settings.redis, "me", Arc::clone(&doorbell), Arc::clone(&bells));
        let (rings, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let heard = Arc::clone(&rings);
        let on_ring = move |ring| Mutex::lock(&heard).unwrap().push(ring);
        shutdown.spawn("notifications", notifications.unwrap().run(shutdown.token(), on_ring));
        Self { doorbell, bells, rings, shutdown }
    }

    /// Returns when notifications ring.
    async fn rings(&self) {
        let rings = async || self.doorbell.notices() == Notices::Keyspace && self.doorbell.is_trusted();
        eventually("notifications ring", SOON, rings).await;
    }

    /// Returns, when they do not ring and a reason with these words is told, the reason.
    async fn is_silent_because(&self, words: &str) -> String {
        let mut reason = String::new();
        let what = format!("notifications do not ring because {words}");
        eventually(&what, SOON, async || {
            if let Notices::Polling(why) = self.doorbell.notices() {
                reason = why.to_string();
            }
            reason.contains(words) && !self.doorbell.is_trusted()
        })
        .await;
        eprintln!("{reason}");
        reason
    }

    fn heard(&self) -> Vec<Ring> {
        self.rings.lock().unwrap().clone()
    }

    fn count(&self, ring: &Ring) -> usize {
        self.rings.lock().unwrap().iter().filter(|heard| *heard == ring).count()
    }

    /// Returns when this rang more than so many times.
    async fn rang_beyond(&self, ring: &Ring, times: usize) {
        eventually(&format!("{ring:?} rings"), SOON, async || self.count(ring) > times).await;
    }

    /// Returns when this rang.
    async fn rang(&self, ring: &Ring) {
        self.rang_beyond(ring, 0).await;
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn breaker(key: &str) -> Ring {
    Ring::Breaker(ModelKey::parse("", key).unwrap())
}

fn thread_id(id: &str) -> ThreadId {
    ThreadId::parse("", id).unwrap()
}

fn thread(id: &str) -> Ring {
    Ring::Thread(thread_id(id))
}

/// The flags in force, each once and sorted.
async fn flags_of(raw: &Raw) -> String {
    let told: Vec<String> = raw.get(&["CONFIG", "GET", "notify-keyspace-events"]).await;
    let mut flags: Vec<char> = told[1].chars().collect();
    flags.sort_unstable();
    flags.into_iter().collect()
}

async fn set_flags(raw: &Raw, flags: &str) {
    raw.run(&["CONFIG", "SET", "notify-keyspace-events", flags]).await;
}
