//! What a store of breakers must offer: a few atomic mechanisms, and no policy.
//!
//! Each mechanism is one atomic step, and its answer holds the state afterwards. The caller sends the settings that it takes
//! for those in force ([`InForce`]). Where other settings are stored by now, the mechanism does nothing and replies with
//! these: so no step ever goes by settings that are not in force.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    BreakerSettings, Disposition, History, Log, Mode, ModelKey, Outcome, Position, Reason, Snapshot, State,
    Transition, View,
};
use crate::{
    call::{Call, Source},
    clock::Timestamp,
    error::Result,
};

/// How long a state outlives what happened to it last.
pub const STATE_KEPT: Duration = Duration::from_hours(24);
/// The most changes that a breaker's log keeps.
pub const LOG_KEPT: usize = 1000;
/// The most requests of operators that a breaker remembers.
pub const ORDERS_KEPT: usize = 16;
/// The most settled leases that a breaker remembers.
pub const SETTLED_KEPT: usize = 10_000;
/// How long a silent instance is remembered: after that it sends no late retry any more.
pub const INSTANCE_KEPT: Duration = Duration::from_hours(1);

/// The settings in force, with their revision.
#[derive(Debug, Clone)]
pub struct InForce {
    /// The settings.
    pub settings: Arc<BreakerSettings>,
    /// The revision of the stored settings; empty where no settings are stored and the configured policy holds.
    pub revision: Arc<str>,
}

/// Settings as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSettings {
    /// The settings; none where the stored text cannot be read, so that the configured policy holds.
    pub settings: Option<BreakerSettings>,
    /// A new revision with each change.
    pub revision: String,
}

/// What a mechanism came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Attempt<T> {
    /// The mechanism did its step.
    Done(T),
    /// Nothing happened, since the caller's settings are not in force. These are; none where the configured policy holds.
    Outdated(Option<StoredSettings>),
}

/// The result of one call, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedResult {
    /// How the call went.
    pub outcome: Outcome,
    /// Whether the call took longer than `slow_call_duration`.
    pub is_slow: bool,
}

impl CountedResult {
    /// The result as one byte: `n` is neutral, `s` a success, `f` a failure, in capitals when slow.
    pub fn as_byte(self) -> u8 {
        let byte = match self.outcome {
            outcome if outcome.is_neutral() => return b'n',
            Outcome::Success => b's',
            _ => b'f',
        };
        if self.is_slow { byte.to_ascii_uppercase() } else { byte }
    }
}

/// A pause that a provider asks for. It begins when the report is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedPause {
    /// How long, clamped to `max_retry_after`.
    pub length: Duration,
    /// The outcome of the call that the provider answered so.
    pub outcome: Outcome,
}

/// Reports without lease, of one instance, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The instance that reports.
    pub instance: Arc<str>,
    /// Grows from batch to batch of an instance: a batch whose number is not above the last stored one changes nothing.
    pub number: u64,
    /// The reports. Neighbours of the same position are one group.
    pub groups: Vec<Group>,
}

/// Neighbouring reports of calls that were permitted at the same position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The position of their permits; none for calls without permit.
    pub position: Option<Position>,
    /// The reports, each as [`CountedResult::as_byte`].
    pub results: Vec<u8>,
    /// The longest pause that one of the reports asks for.
    pub pause: Option<RequestedPause>,
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The breaker afterwards.
    pub view: View,
    /// What happened to each group: [`Disposition::Neutral`] where the mode records nothing. The same batch again has the
    /// same answer. Empty where an override has ended: nothing counts before the change that ends it is made.
    pub groups: Vec<Disposition>,
    /// The most failures in a row that this batch ended or continued.
    pub longest_run: i64,
}

/// What is wanted with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseRequest<'a> {
    /// A new one, or the one with this id if it is live.
    Grant,
    /// The one with this id if it is live, never a new one.
    Find,
    /// As `Find`, and a new end; only if the permit of this position is not stale.
    Renew(&'a Position),
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseResult {
    /// The lease is live until then.
    Live(Timestamp),
    /// No permit is left.
    Full,
    /// The lease was settled already.
    Settled,
    /// There is no such lease.
    Absent,
    /// The breaker gives no leases now: it is not HALF_OPEN, or an operator decides.
    NotLeasing,
}

/// What a request for a lease came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The breaker afterwards.
    pub view: View,
    /// The lease.
    pub result: LeaseResult,
}

/// The report of a leased permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Where the lease was given.
    pub position: Position,
    /// The lease.
    pub lease: String,
    /// How the call counts.
    pub result: CountedResult,
    /// The pause that the report asks for.
    pub pause: Option<RequestedPause>,
}

/// What a settlement came to. The same again comes to the same until the generation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The breaker afterwards.
    pub view: View,
    /// What the report did.
    pub disposition: Disposition,
}

/// What begins with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// Nothing: mode or deadline moves.
    Nothing,
    /// A state: the fence moves to the new generation, and `since` to now.
    State,
    /// A state in an epoch of its own, with this change as its first: the store lost changes of the epoch before.
    Epoch,
}

impl Begins {
    /// Whether a state begins.
    pub fn is_state(self) -> bool {
        self != Self::Nothing
    }
}

/// One change that the policy wants. Times are counted from the moment at which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where the breaker must stand, else nothing happens.
    pub expected: Position,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Mode after.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
    /// What begins with it.
    pub begins: Begins,
    /// Whether windows and leases start empty. A state that begins has them empty in any case.
    pub empties: bool,
    /// How long it is OPEN from now on. None: as before where it is OPEN afterwards.
    pub open_for: Option<Duration>,
    /// Whether `since` moves to now although no state begins: the clock went back.
    pub reanchors: bool,
    /// `attempts` afterwards.
    pub attempts: u32,
    /// How long an override lasts; only with a mode other than AUTOMATIC.
    pub override_for: Option<Duration>,
    /// The outcome that caused it.
    pub outcome: Option<Outcome>,
    /// Who caused it, if an operator did.
    pub actor: String,
    /// The operator's reason, or the report's detail.
    pub detail: String,
    /// The operator's request, remembered.
    pub request: Option<String>,
}

/// What an offered change came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Whether it happened; else the breaker stood elsewhere.
    pub won: bool,
    /// The breaker afterwards.
    pub view: View,
}

/// A breaker that was read back with its newest changes, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Followed {
    /// The breaker.
    pub view: View,
    /// The newest changes in its log, oldest first and contiguous: those after the position asked for, and perhaps the one
    /// at it, as far as there are no more than asked for; always the very newest.
    pub newest: Vec<Transition>,
    /// How long its state stays if nothing happens; none: for ever, or there is none.
    pub expires_in: Option<Duration>,
}

/// The few fields that show whether a breaker has changed since it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Glance {
    /// Where it stands in its history.
    pub position: Position,
    /// Its state.
    pub state: State,
    /// Who decides, as it is stored.
    pub mode: Mode,
    /// Set while OPEN.
    pub open_until: Option<Timestamp>,
}

impl From<&Snapshot> for Glance {
    fn from(snapshot: &Snapshot) -> Self {
        let Snapshot { position, state, mode, open_until, .. } = snapshot;
        Self { position: position.clone(), state: *state, mode: *mode, open_until: *open_until }
    }
}

/// A key in the store's list of breakers, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: ModelKey,
    /// When it changed last, as the list says.
    pub changed: Timestamp,
}

/// Keeps breakers. Every write is all or nothing; every method may be dropped at any await, and a write may then
/// still happen.
pub trait BreakerStore: std::fmt::Debug + Send + Sync + 'static {
    /// Where its answers come from.
    fn source(&self) -> Source;

    /// Reads a breaker and writes nothing. A key never seen is [`super::Snapshot::default`]. The history is read only if
    /// asked for.
    fn load(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        with_history: bool,
    ) -> impl Future<Output = Result<Attempt<(View, History)>>> + Send;

    /// Adds outcomes. A group counts where calls are counted: in CLOSED while the mode is AUTOMATIC, and in every state
    /// while it is METRICS_ONLY; a group of a stale position changes nothing. The first report of a new key creates it.
    fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        batch: &Batch,
    ) -> impl Future<Output = Result<Attempt<Recorded>>> + Send;

    /// Grants, finds or renews a lease in HALF_OPEN, after removing those that ended: a grant while live leases and
    /// results together are fewer than `half_open_permits`. `lease` is its id and its length from now on.
    fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        request: LeaseRequest<'_>,
        lease: (&str, Duration),
    ) -> impl Future<Output = Result<Attempt<Leased>>> + Send;

    /// Ends a live lease with an outcome; a neutral one frees its slot.
    fn settle(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        settlement: &Settlement,
    ) -> impl Future<Output = Result<Attempt<Settled>>> + Send;

    /// Makes a change, if the breaker stands where it is expected.
    fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        change: &Change,
    ) -> impl Future<Output = Result<Attempt<Changed>>> + Send;

    /// Stores settings, or forgets them, if those stored are of revision `expected` (empty: none). Says whether it
    /// did.
    fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        expected: &str,
        settings: Option<&BreakerSettings>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Forgets a breaker, its settings and its history.
    fn remove(&self, call: &Call, key: &ModelKey) -> impl Future<Output = Result<()>> + Send;

    /// Lists all keys with stored state by name, perhaps with some that have none any more.
    fn list(&self, call: &Call) -> impl Future<Output = Result<Vec<Listed>>> + Send;

    /// Takes a key without stored state off the list, unless it changed since it was read or within a minute.
    fn unlist(&self, call: &Call, listed: &Listed) -> impl Future<Output = Result<()>> + Send;

    /// Reads a breaker back with the newest changes of its log: those after `after` if that is of the present epoch, else
    /// some, at most `limit`. Writes nothing.
    fn follow(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<Attempt<Followed>>> + Send;

    /// Looks at many breakers at once; one that cannot be read is none.
    fn glance(
        &self,
        call: &Call,
        keys: &[ModelKey],
    ) -> impl Future<Output = Result<Vec<Option<Glance>>>> + Send;

    /// Lists the keys that were made, changed or removed in the last so long, by the clocks of those who did it.
    fn list_changed(
        &self,
        call: &Call,
        within: Duration,
    ) -> impl Future<Output = Result<Vec<ModelKey>>> + Send;

    /// Reads the log after a generation.
    fn log(
        &self,
        call: &Call,
        key: &ModelKey,
        after: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Log>> + Send;
}
