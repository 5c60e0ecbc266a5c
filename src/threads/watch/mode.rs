//! Which modes of this process a watcher is told of.

use crate::call::ServingMode::{self, Degraded, Local, Reconciling, Shared};

/// The modes to be told to a watcher who was told `told` last, where the process says that it serves in the mode `now`
/// and memory gave the last answer or not.
///
/// An answer may be faster than what the process says: one from memory shows an outage that is not said yet, or one that
/// has just ended. So nothing is told from memory before DEGRADED was, and SHARED is not told before the shared store
/// answers.
pub(super) fn modes(told: ServingMode, now: ServingMode, is_local: bool) -> Vec<ServingMode> {
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
