//! Random stories: settings, and what callers, operators, instances and the clock do.

use std::time::Duration;

use fusewire::breakers::{BreakerSettings, ExpiredPermit, Mode, Outcome, Window, operations::Ordered};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// One breaker's story.
#[derive(Debug, Clone)]
pub(super) struct Story {
    /// What the policy line says.
    pub(super) settings: BreakerSettings,
    pub(super) acts: Vec<Act>,
}

/// Something that happens. `by` is the engine that is asked; a permit is told by how many were given after it.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Acquire { by: usize, request: Option<u8>, lease: Option<Duration> },
    Report(Told),
    Renew { by: usize, permit: usize, lease: Option<Duration> },
    Advance(Duration),
    GoBack(Duration),
    Order { by: usize, what: Ordered, request: Option<u8> },
    Configure { by: usize, settings: Option<BreakerSettings> },
    Delete { by: usize },
    Batch { instance: u8, is_repeated: bool, groups: Vec<Marks> },
}

/// A report.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) by: usize,
    pub(super) permit: Option<usize>,
    pub(super) outcome: Outcome,
    pub(super) duration: Option<Duration>,
    pub(super) retry_after: Option<Duration>,
}

/// A group of a batch that comes to the store directly.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pub(super) place: Place,
    pub(super) calls: Vec<u8>,
    pub(super) wish: Option<(Duration, Outcome)>,
}

/// Where a group's calls were permitted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Nowhere,
    Permit(usize),
    Here,
    Ahead,
    Elsewhere,
}

/// Stories for a comparison of stores: several instances, and a clock that may go back.
pub(super) fn of_stores() -> impl Strategy<Value = Story> {
    let act = prop_oneof![
        20 => act(2, settings(3).boxed()),
        2 => seconds(0..=9).prop_map(Act::GoBack),
        4 => batch(),
    ];
    (settings(3), vec(act, 1..50)).prop_map(|(settings, acts)| Story { settings, acts })
}

/// Stories for the model, which knows of one instance and of a clock that only goes on.
pub(super) fn of_one_instance() -> impl Strategy<Value = Story> {
    let act = prop_oneof![20 => act(1, settings(1).boxed()), 3 => batch()];
    (settings(1), vec(act, 1..60)).prop_map(|(settings, acts)| Story { settings, acts })
}

fn act(engines: usize, settings: BoxedStrategy<BreakerSettings>) -> impl Strategy<Value = Act> {
    let by = 0..engines;
    let request = || option::weighted(0.3, 0..4_u8);
    let lease = || option::of(seconds(1..=6));
    // Leases need ids that are the same everywhere.
    let acquire = (by.clone(), 0..8_u8, lease());
    let report = (by.clone(), option::weighted(0.85, recent()), outcome(), duration(), retry_after());
    prop_oneof![
        16 => acquire.prop_map(|(by, id, lease)| Act::Acquire { by, request: Some(id), lease }),
        16 => report.prop_map(|(by, permit, outcome, duration, retry_after)| {
            Act::Report(Told { by, permit, outcome, duration, retry_after })
        }),
        3 => (by.clone(), recent(), lease()).prop_map(|(by, permit, lease)| Act::Renew { by, permit, lease }),
        12 => seconds(0..=5).prop_map(Act::Advance),
        1 => Just(Act::Advance(Duration::from_hours(30))),
        3 => (by.clone(), ordered(), request()).prop_map(|(by, what, request)| Act::Order { by, what, request }),
        2 => (by.clone(), option::weighted(0.8, settings))
            .prop_map(|(by, settings)| Act::Configure { by, settings }),
        1 => by.prop_map(|by| Act::Delete { by }),
    ]
}

fn recent() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0_usize), 4 => 0..6_usize]
}

/// Some milliseconds, often whole seconds, where limits lie.
fn seconds(whole: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    (whole, select(vec![0, 0, 0, 1, 400, 999])).prop_map(|(s, ms)| Duration::from_millis(s * 1000 + ms))
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let rare = select(Outcome::ALL.to_vec());
    prop_oneof![4 => Just(Outcome::Failure), 3 => Just(Outcome::Success), 3 => rare]
}

fn duration() -> impl Strategy<Value = Option<Duration>> {
    option::of(select(vec![1, 100, 101, 5000]).prop_map(Duration::from_millis))
}

fn retry_after() -> impl Strategy<Value = Option<Duration>> {
    option::weighted(0.3, seconds(0..=7))
}

fn ordered() -> impl Strategy<Value = Ordered> {
    let mode = select(Mode::ALL.to_vec());
    prop_oneof![
        2 => option::of(seconds(1..=6)).prop_map(Ordered::Trip),
        1 => Just(Ordered::Reset),
        3 => (mode, option::of(seconds(1..=6))).prop_map(|(mode, length)| Ordered::Override(mode, length)),
    ]
}

fn batch() -> impl Strategy<Value = Act> {
    let place = prop_oneof![
        2 => Just(Place::Nowhere),
        2 => recent().prop_map(Place::Permit),
        4 => Just(Place::Here),
        1 => Just(Place::Ahead),
        1 => Just(Place::Elsewhere),
    ];
    let asks = select(vec![Outcome::RateLimited, Outcome::Overloaded, Outcome::QuotaExhausted]);
    let wish = option::weighted(0.2, (seconds(1..=7), asks));
    let mark = || select(b"nsSfFf".to_vec());
    // Long ones fill more than the 128 calls that Redis keeps together.
    let marks = prop_oneof![9 => vec(mark(), 1..6), 1 => vec(mark(), 100..300)];
    let group = (place, marks, wish).prop_map(|(place, calls, wish)| Marks { place, calls, wish });
    (0..3_u8, prop::bool::weighted(0.2), vec(group, 1..5))
        .prop_map(|(instance, is_repeated, groups)| Act::Batch { instance, is_repeated, groups })
}

/// Settings of every kind; no jitter, which is chance.
fn settings(most_reporters: u32) -> impl Strategy<Value = BreakerSettings> {
    let window = prop_oneof![
        Just(None),
        (1..=6_u32).prop_map(|size| Some(Window::Count(size))),
        (1..=8_u32).prop_map(|seconds| Some(Window::Time(seconds))),
        select(vec![127, 128, 129, 300]).prop_map(|size| Some(Window::Count(size))),
    ];
    let rules = (0..=4_u32, window, 1..=6_u32, percent(), percent());
    let open = (seconds(1..=5), select(vec![1.0, 1.5, 2.0]), option::of(seconds(6..=9)));
    let trial = (0..=3_u32, option::weighted(0.3, seconds(1..=4)), seconds(1..=5), any::<bool>());
    let rest = (any::<bool>(), seconds(1..=6), 1..=most_reporters);
    (rules, open, trial, rest).prop_map(|(rules, open, trial, rest)| {
        let (consecutive_failures, window, minimum_calls, failures, slow) = rules;
        let (open_duration, backoff_multiplier, max_open_duration) = open;
        let (half_open_permits, half_open_max_wait, permit_lease, counts_expired) = trial;
        let (honor_retry_after, max_retry_after, min_reporters) = rest;
        BreakerSettings {
            consecutive_failures,
            window,
            minimum_calls,
            failure_rate_percent: failures,
            slow_call_duration: Some(Duration::from_millis(100)),
            slow_rate_percent: slow,
            open_duration,
            backoff_multiplier,
            max_open_duration,
            half_open_permits,
            half_open_max_wait,
            permit_lease,
            expired_permit: if counts_expired { ExpiredPermit::Failure } else { ExpiredPermit::Release },
            honor_retry_after,
            max_retry_after,
            min_reporters,
            ..BreakerSettings::default()
        }
    })
}

fn percent() -> impl Strategy<Value = f64> {
    select(vec![0.0, 0.0, 34.0, 50.0, 100.0])
}
