//! The one subscriber of this process: hears keyspace notifications, and finds out whether it would.
//!
//! Notifications are delivered at most once, and their absence says nothing: someone may have switched them off, a frozen
//! server is silent, and FLUSHALL rings nothing. So the process rings itself on the same connection, second after second;
//! what it does not hear of itself it would not hear of others. Whatever may have been missed is one [`Ring::Everything`].

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{channels::Channels, pushes::PushReader, session::Session};
use super::dialer::Dialer;
use crate::{
    breakers::ModelKey,
    doorbell::{Doorbell, Notices},
    error::{Error, Result},
    settings::RedisSettings,
    threads::{ThreadId, bells::ThreadBells},
};

mod channels;
mod flags;
mod pushes;
mod session;

/// Attempts to connect are at most this far apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The first attempt after a loss comes this soon; each further one after twice the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ring {
    /// The state of this breaker may have changed.
    Breaker(ModelKey),
    /// This thread may have changed, or it is heard of from now on.
    Thread(ThreadId),
    /// Rings may have been lost, or all data may be another: look at everything again.
    Everything,
}

/// Who is told of rings.
type OnRing = Arc<dyn Fn(Ring) + Send + Sync>;

/// The subscriber, not yet listening.
pub struct Notifications {
    dialer: Dialer,
    channels: Arc<Channels>,
    threads: Arc<ThreadBells>,
    teller: Teller,
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl Notifications {
    /// Prepares to listen for all breakers and for the threads that `threads` says are watched. `instance` names this
    /// process among those on the same Redis. Fails on settings that can never work.
    pub fn new(
        settings: &RedisSettings,
        instance: &str,
        doorbell: Arc<Doorbell>,
        threads: Arc<ThreadBells>,
    ) -> Result<Self> {
        Ok(Self {
            dialer: Dialer::new(settings)?,
            channels: Arc::new(Channels::new(settings, instance)),
            threads,
            teller: Teller { doorbell, logged: Logged::Nothing },
        })
    }

    /// Listens until the token is cancelled, on one connection after the other, and tells the doorbell how that goes.
    ///
    /// `on_ring` is called in order, before the doorbell is trusted for what came after. The task that reads the
    /// connection calls it, so it must be quick and must not block.
    pub async fn run(self, token: CancellationToken, on_ring: impl Fn(Ring) + Send + Sync + 'static) {
        let listening = Box::pin(self.listen(Arc::new(on_ring)));
        token.run_until_cancelled_owned(listening).await;
    }

    async fn listen(mut self, on_ring: OnRing) {
        let mut written = None;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let began = Instant::now();
            let lost = self.listen_once(&on_ring, &mut written).await;
            self.teller.is_lost(&lost);
            let jitter = rand::rng().random_range(0.8..1.0);
            sleep(pause.mul_f64(jitter)).await;
            let has_lasted = began.elapsed() > 2 * LONGEST_PAUSE;
            pause = if has_lasted { SHORTEST_PAUSE } else { (2 * pause).min(LONGEST_PAUSE) };
        }
    }

    /// Listens on one connection, and says how it ended.
    async fn listen_once(&mut self, on_ring: &OnRing, written: &mut Option<Instant>) -> Error {
        let (reader, rung) = PushReader::new(&self.channels, on_ring);
        let handle = match self.dialer.dial_hearing(move |push| reader.hear(push)).await {
            Ok(handle) => handle,
            Err(error) => return super::to_error(error),
        };
        let session = Session::new(handle, &self.channels, &self.threads, on_ring, rung);
        super::to_error(session.run(written, &mut self.teller).await)
    }
}

/// What the log was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    Nothing,
    Rings,
    Deaf,
    Lost,
}

/// Tells the doorbell what was found, and the log each change of it once.
#[derive(Debug)]
struct Teller {
    doorbell: Arc<Doorbell>,
    logged: Logged,
}

impl Teller {
    /// Whether the doorbell rang the last time.
    fn has_rung(&self) -> bool {
        self.doorbell.notices() == Notices::Keyspace
    }

    /// A ring of our own was heard that had been sent then.
    fn rings(&mut self, sent: Instant) {
        self.doorbell.hear(sent);
        if self.is_new(Logged::Rings) {
            info!("keyspace notifications ring: changes in redis are noticed at once");
        }
    }

    /// A ring of our own was not heard.
    fn is_deaf(&mut self, reason: &str) {
        self.doorbell.silence(reason);
        if self.is_new(Logged::Deaf) {
            warn!(reason, "keyspace notifications do not ring: redis is asked every second");
        }
    }

    /// There is no connection on which anything could be heard.
    fn is_lost(&mut self, cause: &Error) {
        self.doorbell.silence(&cause.to_string());
        if !self.is_new(Logged::Lost) {
            return;
        }
        if cause.allows_fallback() {
            // Where it is more than a lost connection, the probe of the whole Redis warns.
            info!(error = %cause, "not subscribed to keyspace notifications: redis is asked every second");
        } else {
            warn!(error = %cause, "not subscribed to keyspace notifications: redis is asked every second");
        }
    }

    fn is_new(&mut self, now: Logged) -> bool {
        std::mem::replace(&mut self.logged, now) != now
    }
}
