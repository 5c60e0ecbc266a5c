//! What callers may ask of breakers, and what they are told.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    BreakerSettings, Counts, Disposition, Mode, ModeOverride, ModelKey, Outcome, Permit, Position,
    RejectionReason, State, Transition,
    watch::{Event, Watch},
};
use crate::{
    call::{Answer, Call},
    clock::Timestamp,
    error::{Result, Violation},
};

/// The most bytes of an operator's reason or a report's detail.
pub const MAX_DETAIL: usize = 512;
/// The most bytes of an operator's name.
pub const MAX_ACTOR: usize = 128;
/// The most keys that one request may choose from.
pub const MAX_CHOICES: usize = 32;

/// A breaker as it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// What it guards.
    pub key: ModelKey,
    /// Its state. OPEN stays OPEN after `open_until` until somebody acquires, or `automatic_half_open`.
    pub state: State,
    /// Who decides; an override that has ended is AUTOMATIC.
    pub mode: Mode,
    /// Where it stands in its history.
    pub position: Position,
    /// When the state began; none for a key never seen.
    pub since: Option<Timestamp>,
    /// Set while OPEN.
    pub open_until: Option<Timestamp>,
    /// What is left of it.
    pub retry_after: Option<Duration>,
    /// 0 to 100; none until `minimum_calls` are in the window.
    pub failure_rate_percent: Option<f64>,
    /// 0 to 100; none until `minimum_calls` are in the window.
    pub slow_rate_percent: Option<f64>,
    /// What is in the window. While OPEN: what was in it when it opened.
    pub counts: Counts,
    /// When the last failure happened; none: never, as far as it is known.
    pub last_failure: Option<Timestamp>,
    /// Calls rejected by this instance since this generation began.
    pub rejected_calls: i64,
    /// Times opened since it was last CLOSED.
    pub attempts: u32,
    /// Set while the mode is not AUTOMATIC.
    pub mode_override: Option<ModeOverride>,
    /// Trial permits that can still be had; 0 unless HALF_OPEN.
    pub permits_left: u32,
}

super::named! {
    /// How fresh the view must be that admits.
    #[derive(Default)]
    pub enum Admission {
        /// What this instance knows, while that is current; else as `Shared`.
        #[default]
        Cached = "CACHED",
        /// The store is asked.
        Shared = "SHARED",
    }
}

/// A wish to call one model.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// Which.
    pub key: ModelKey,
    /// How fresh the view must be.
    pub admission: Admission,
    /// Wanted lease, 1 s to 1 h; none: as the settings say.
    pub lease: Option<Duration>,
    /// Makes a retry the same permit.
    pub request_id: Option<String>,
}

/// The answer to [`Acquire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The call may be made.
    Admitted {
        /// The leave to make it.
        permit: Permit,
        /// State that decided.
        state: State,
    },
    /// It may not.
    Rejected(Rejection),
}

/// Why a model may not be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which.
    pub key: ModelKey,
    /// State that decided.
    pub state: State,
    /// Why.
    pub reason: RejectionReason,
    /// When to ask again; none if nobody knows.
    pub retry_after: Option<Duration>,
}

/// A wish to call the first of several models that may be called.
#[derive(Debug, Clone)]
pub struct AcquireFirst {
    /// In order of preference, 1 to [`MAX_CHOICES`].
    pub keys: Vec<ModelKey>,
    /// As in [`Acquire`].
    pub admission: Admission,
    /// As in [`Acquire`].
    pub lease: Option<Duration>,
    /// As in [`Acquire`].
    pub request_id: Option<String>,
}

/// The answer to [`AcquireFirst`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquiredFirst {
    /// The leave to call one, and its index among the keys; none if all were rejected.
    pub permit: Option<(usize, Permit)>,
    /// Those before it, or all.
    pub rejections: Vec<Rejection>,
}

/// The answer to a wish to keep a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The permit with its new end; none when a report of it will be stale.
    pub permit: Option<Permit>,
}

/// How a call went.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was called.
    pub key: ModelKey,
    /// Its permit; none for a call made without.
    pub permit: Option<Permit>,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Option<Duration>,
    /// What the provider asked for.
    pub retry_after: Option<Duration>,
    /// For people, at most [`MAX_DETAIL`] bytes.
    pub detail: String,
}

/// The answer to [`Report`].
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// What it did.
    pub disposition: Disposition,
    /// The breaker afterwards.
    pub breaker: Breaker,
}

/// A breaker with all that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// The breaker.
    pub breaker: Breaker,
    /// What is in force.
    pub settings: Arc<BreakerSettings>,
    /// The newest change.
    pub last_transition: Option<Transition>,
}

/// Which breakers to list.
#[derive(Debug, Clone)]
pub struct BreakersQuery {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only these states; empty: all.
    pub states: Vec<State>,
    /// At most so many.
    pub limit: usize,
    /// Only keys after this one.
    pub after: Option<ModelKey>,
}

/// A page of breakers by key.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakersPage {
    /// The breakers; perhaps fewer than asked for, or none, where there are more.
    pub breakers: Vec<Breaker>,
    /// The key after which to go on; none at the end.
    pub next: Option<ModelKey>,
}

/// Makes new settings of those in force; the violations' fields are paths in the request. It may run several times.
pub type Revise = Arc<dyn Fn(&BreakerSettings) -> Result<BreakerSettings, Vec<Violation>> + Send + Sync>;

/// What an operator wants of the settings.
#[derive(Clone)]
pub enum Configure {
    /// New ones, made of those in force.
    Set(Revise),
    /// Back to the configured policy.
    Reset,
}

impl std::fmt::Debug for Configure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Set(_) => "Set",
            Self::Reset => "Reset",
        })
    }
}

/// What an operator wants of a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is to happen.
    pub what: Ordered,
    /// Who, at most [`MAX_ACTOR`] bytes.
    pub actor: String,
    /// Why, for people, at most [`MAX_DETAIL`] bytes.
    pub reason: String,
    /// The same id again changes nothing.
    pub request_id: Option<String>,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Open it, for `open_duration` unless told otherwise.
    Trip(Option<Duration>),
    /// Close it, empty its windows, and end an override.
    Reset,
    /// Override what it decides, for so long or until changed; AUTOMATIC ends an override.
    Override(Mode, Option<Duration>),
}

/// Which changes to list.
#[derive(Debug, Clone)]
pub struct TransitionsQuery {
    /// Of which breaker.
    pub key: ModelKey,
    /// Only newer ones.
    pub after: i64,
    /// The epoch that `after` is of; none: the present one, whichever it is.
    pub epoch: Option<String>,
    /// Whether `epoch` is of a page before, so that another one by now is a stale token.
    pub goes_on: bool,
    /// At most so many.
    pub limit: usize,
}

/// A page of changes, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionsPage {
    /// The epoch that they are of.
    pub epoch: String,
    /// The changes.
    pub transitions: Vec<Transition>,
    /// Whether there are more.
    pub more: bool,
}

/// A watch that is open. It ends when it is dropped.
pub trait Following: std::fmt::Debug + Send + 'static {
    /// Waits for the next event; may be dropped at any await, and no event is lost.
    fn next(&mut self) -> impl Future<Output = Answer<Event>> + Send;

    /// Tells every breaker once more as it is, as a resync with this reason for people, and then goes on.
    fn begin_again(&mut self, why: &'static str);

    /// Whether that tells of this breaker even if there is no such breaker (any more).
    fn tells_again(&self, key: &ModelKey) -> bool;
}

/// What callers may ask of breakers.
pub trait Breakers: std::fmt::Debug + Send + Sync + 'static {
    /// A watch on these breakers.
    type Watch: Following;

    /// Watches breakers. Nothing is read before the watch is asked for its first event.
    fn watch(&self, watch: Watch) -> Result<Self::Watch>;

    /// Says whether a model may be called now, if that is known without asking the store: only with
    /// [`Admission::Cached`], and only by what is current.
    fn acquire_known(&self, acquire: &Acquire) -> Option<Answer<Acquired>>;

    /// Asks whether a model may be called now.
    fn acquire(
        &self,
        call: &Call,
        acquire: &Acquire,
    ) -> impl Future<Output = Result<Answer<Acquired>>> + Send;

    /// Asks for the first of several models that may be called now; takes at most one permit.
    fn acquire_first(
        &self,
        call: &Call,
        acquire: &AcquireFirst,
    ) -> impl Future<Output = Result<Answer<AcquiredFirst>>> + Send;

    /// Keeps a leased permit alive for so long from now on.
    fn renew(
        &self,
        call: &Call,
        permit: &Permit,
        lease: Option<Duration>,
    ) -> impl Future<Output = Result<Answer<Renewed>>> + Send;

    /// Tells how a call went. It is recorded even if this future is dropped.
    fn report(&self, call: &Call, report: Report) -> impl Future<Output = Result<Answer<Reported>>> + Send;

    /// Reads a breaker and changes nothing.
    fn inspect(&self, call: &Call, key: &ModelKey) -> impl Future<Output = Result<Answer<Inspected>>> + Send;

    /// Lists breakers in use by key and changes nothing.
    fn list(
        &self,
        call: &Call,
        query: &BreakersQuery,
    ) -> impl Future<Output = Result<Answer<BreakersPage>>> + Send;

    /// Sets a breaker's settings for every instance.
    fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        configure: &Configure,
    ) -> impl Future<Output = Result<Answer<Inspected>>> + Send;

    /// Carries out an operator's order, for every instance.
    fn operate(
        &self,
        call: &Call,
        key: &ModelKey,
        order: &Order,
    ) -> impl Future<Output = Result<Answer<Breaker>>> + Send;

    /// Forgets a breaker, its settings and its history.
    fn delete(&self, call: &Call, key: &ModelKey) -> impl Future<Output = Result<Answer<()>>> + Send;

    /// Pages through the kept history of a breaker.
    fn transitions(
        &self,
        call: &Call,
        query: &TransitionsQuery,
    ) -> impl Future<Output = Result<Answer<TransitionsPage>>> + Send;
}
