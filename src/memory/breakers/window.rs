//! The calls that a window holds: running totals, and what is needed to take from them what falls out.

use std::collections::VecDeque;

use crate::{breakers::Window, clock::Timestamp};

/// A moment, and the window that the settings name.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) now: Timestamp,
    pub(super) window: Option<Window>,
}

impl At {
    /// The whole second of the moment.
    pub(super) fn second(self) -> i64 {
        self.now.as_millis().div_euclid(1000)
    }

    /// Whether a second is in a time window of this length.
    pub(super) fn holds(self, length: u32, second: i64) -> bool {
        second > self.second().saturating_sub(i64::from(length))
    }
}

/// How calls went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    pub(super) calls: i64,
    pub(super) failures: i64,
    pub(super) slow: i64,
}

impl Share {
    /// A failed call that was not slow.
    pub(super) const FAILURE: u8 = b'f';

    /// What a report's result stands for; none where it counts nothing.
    pub(super) fn of(result: u8) -> Option<Self> {
        let (failures, slow) = match result {
            b's' => (0, 0),
            b'S' => (0, 1),
            b'f' => (1, 0),
            b'F' => (1, 1),
            _ => return None,
        };
        Some(Self { calls: 1, failures, slow })
    }

    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.slow += other.slow;
    }

    fn take(&mut self, other: Self) {
        self.calls -= other.calls;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    second: i64,
    share: Share,
}

/// What may still fall out. One kind of window says nothing about another: a change of kind begins anew.
#[derive(Debug, Default)]
enum Kept {
    /// Nothing does: calls are counted since the state began.
    #[default]
    Nothing,
    /// The last calls, oldest first, one result each.
    Marks { ring: VecDeque<u8>, size: usize },
    /// Seconds with calls, oldest first.
    Seconds(VecDeque<Bucket>),
}

/// The calls in a window.
#[derive(Debug, Default)]
pub(super) struct Held {
    kept: Kept,
    totals: Share,
}

impl Held {
    /// Whether these calls were counted in a window of this kind.
    pub(super) fn is_of(&self, window: Option<Window>) -> bool {
        match self.kept {
            Kept::Nothing => window.is_none(),
            Kept::Marks { .. } => matches!(window, Some(Window::Count(_))),
            Kept::Seconds(_) => matches!(window, Some(Window::Time(_))),
        }
    }

    /// The totals as of a moment; those of another kind of window are empty.
    pub(super) fn totals(&self, at: At) -> Share {
        if !self.is_of(at.window) {
            return Share::default();
        }
        let mut totals = self.totals;
        match (&self.kept, at.window) {
            (Kept::Seconds(buckets), Some(Window::Time(length))) => buckets
                .iter()
                .take_while(|bucket| !at.holds(length, bucket.second))
                .for_each(|bucket| totals.take(bucket.share)),
            // More than the window holds where it was made smaller.
            (Kept::Marks { ring, .. }, Some(Window::Count(size))) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let over = ring.len().saturating_sub(size);
                ring.iter().take(over).for_each(|result| totals.take(Share::of(*result).unwrap_or_default()));
            }
            (Kept::Nothing | Kept::Marks { .. } | Kept::Seconds(_), None | Some(_)) => {}
        }
        totals
    }

    /// Lets fall out what the window does not hold now, before calls are added.
    pub(super) fn fit(&mut self, at: At) {
        if !self.is_of(at.window) {
            self.begin(at.window);
        }
        match (&mut self.kept, at.window) {
            (Kept::Marks { ring, size }, Some(Window::Count(wanted))) => {
                *size = usize::try_from(wanted).unwrap_or(usize::MAX);
                shorten(ring, *size, &mut self.totals);
            }
            (Kept::Seconds(buckets), Some(Window::Time(length))) => {
                age(buckets, at, length, &mut self.totals);
            }
            (Kept::Nothing | Kept::Marks { .. } | Kept::Seconds(_), None | Some(_)) => {}
        }
    }

    fn begin(&mut self, window: Option<Window>) {
        self.totals = Share::default();
        self.kept = match window {
            None => Kept::Nothing,
            Some(Window::Count(_)) => Kept::Marks { ring: VecDeque::new(), size: 0 },
            Some(Window::Time(_)) => Kept::Seconds(VecDeque::new()),
        };
    }

    /// Adds a call to a window that was fitted at this moment.
    pub(super) fn add(&mut self, result: u8, share: Share, at: At) {
        self.totals.add(share);
        match &mut self.kept {
            Kept::Nothing => {}
            Kept::Marks { ring, size } => {
                ring.push_back(result);
                shorten(ring, *size, &mut self.totals);
            }
            Kept::Seconds(buckets) => match buckets.back_mut() {
                Some(last) if last.second == at.second() => last.share.add(share),
                Some(_) | None => buckets.push_back(Bucket { second: at.second(), share }),
            },
        }
    }

    /// Puts what a time window held at an earlier write into the present second: the clock went back since.
    pub(super) fn gather(&mut self, seen: At, second: i64) {
        let Kept::Seconds(buckets) = &mut self.kept else { return };
        if let Some(Window::Time(length)) = seen.window {
            age(buckets, seen, length, &mut self.totals);
        }
        buckets.clear();
        if self.totals != Share::default() {
            buckets.push_back(Bucket { second, share: self.totals });
        }
    }
}

fn shorten(ring: &mut VecDeque<u8>, size: usize, totals: &mut Share) {
    while ring.len() > size {
        let Some(oldest) = ring.pop_front() else { return };
        totals.take(Share::of(oldest).unwrap_or_default());
    }
}

fn age(buckets: &mut VecDeque<Bucket>, at: At, length: u32, totals: &mut Share) {
    while let Some(oldest) = buckets.front().copied().filter(|bucket| !at.holds(length, bucket.second)) {
        totals.take(oldest.share);
        buckets.pop_front();
    }
}
