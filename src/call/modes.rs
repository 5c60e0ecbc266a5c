//! Tells a watcher how this process serves.

use std::future::pending;

use tokio::sync::watch;

use super::{
    Serving,
    ServingMode::{self, Degraded, Local, Reconciling, Shared},
};

/// Tells one watcher each serving mode once and in order. A watcher is told SHARED only after another mode.
#[derive(Debug)]
pub struct ModeTeller {
    /// None where memory is the only truth: no other mode ever comes.
    serving: Option<watch::Receiver<Serving>>,
    told: ServingMode,
}

impl ModeTeller {
    /// A watcher that begins.
    pub fn new(serving: Option<watch::Receiver<Serving>>) -> Self {
        Self { serving, told: Shared }
    }

    /// The mode that the watcher was told last.
    pub fn told(&self) -> ServingMode {
        self.told
    }

    /// How the process serves now; none where memory is the only truth. A later [`ModeTeller::changed`] waits for a change
    /// after this.
    pub fn serving(&mut self) -> Option<Serving> {
        self.serving.as_mut().map(|serving| *serving.borrow_and_update())
    }

    /// The modes to tell the watcher now, before an answer that came from memory in place of Redis if `is_local`.
    pub fn news(&mut self, is_local: bool) -> Vec<ServingMode> {
        let Some(Serving { mode, .. }) = self.serving() else { return Vec::new() };
        let news = modes(self.told, mode, is_local);
        self.told = news.last().copied().unwrap_or(self.told);
        news
    }

    /// Waits until the process serves in another way; for ever where it never does. May be dropped at any time.
    pub async fn changed(&mut self) {
        let has_changed = match &mut self.serving {
            Some(serving) => serving.changed().await.is_ok(),
            None => false,
        };
        // The sender lives as long as the process serves.
        if !has_changed {
            pending::<()>().await;
        }
    }
}

/// The modes to tell a watcher who was told `told` last, while the process says that it serves in the mode `now`.
///
/// An answer may be faster than the process: an answer from memory shows an outage that the process does not say yet, or
/// that has just ended. So DEGRADED comes before anything from memory, and SHARED not before Redis answers.
fn modes(told: ServingMode, now: ServingMode, is_local: bool) -> Vec<ServingMode> {
    match (told, now) {
        // Memory is the only truth: there is no other mode.
        (_, Local) => Vec::new(),
        (Shared, Shared) if is_local => vec![Degraded],
        (Shared, Reconciling) if is_local => vec![Degraded, Reconciling],
        (Degraded | Reconciling, Shared) if is_local => Vec::new(),
        (told, now) if told == now => Vec::new(),
        (_, now) => vec![now],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of modes and answers that come one after the other.
    fn told(answers: &[(ServingMode, bool)]) -> Vec<ServingMode> {
        let mut told = Vec::new();
        for (now, is_local) in answers {
            let last = told.last().copied().unwrap_or(Shared);
            told.extend(modes(last, *now, *is_local));
        }
        told
    }

    #[test]
    fn each_mode_is_told_once_and_in_order() {
        let outage = [
            (Shared, false),
            (Degraded, true),
            (Degraded, true),
            (Reconciling, true),
            (Reconciling, false),
            (Shared, false),
            (Shared, false),
        ];
        assert_eq!(told(&outage), [Degraded, Reconciling, Shared]);
        let without_merging = [(Degraded, true), (Shared, false), (Degraded, false), (Shared, false)];
        assert_eq!(told(&without_merging), [Degraded, Shared, Degraded, Shared]);
        let cut_off_again = [(Degraded, true), (Reconciling, true), (Degraded, true), (Reconciling, false)];
        assert_eq!(told(&cut_off_again), [Degraded, Reconciling, Degraded, Reconciling]);
    }

    #[test]
    fn an_answer_from_memory_shows_an_outage_that_is_not_said_yet_or_not_any_more() {
        assert_eq!(
            told(&[(Shared, true), (Degraded, true), (Shared, true), (Shared, false)]),
            [Degraded, Shared]
        );
        assert_eq!(
            told(&[(Reconciling, true), (Shared, true), (Shared, false)]),
            [Degraded, Reconciling, Shared]
        );
        assert_eq!(told(&[(Shared, true), (Shared, false)]), [Degraded, Shared], "however short it was");
    }

    #[test]
    fn a_mode_during_which_nothing_came_from_memory_may_be_told_or_not() {
        assert_eq!(told(&[(Shared, false), (Shared, false)]), []);
        assert_eq!(told(&[(Reconciling, false), (Shared, false)]), [Reconciling, Shared]);
    }

    #[test]
    fn where_memory_is_the_only_truth_no_mode_is_told() {
        assert_eq!(told(&[(Local, true), (Local, false)]), []);
    }
}
