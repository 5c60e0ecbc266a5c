//! The instances that report to one breaker: their last batches, and when each saw a failure last.

use std::{collections::HashMap, sync::Arc};

use crate::{
    breakers::{
        Disposition,
        store::{Batch, INSTANCE_KEPT},
    },
    clock::Timestamp,
};

/// Where in a window an instance failed last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    /// The second in which it was counted.
    pub(super) second: i64,
    /// Which of all counted calls it was.
    pub(super) result: u64,
}

#[derive(Debug)]
struct Instance {
    number: u64,
    longest_run: i64,
    groups: Vec<Disposition>,
    heard: Timestamp,
    failed: Option<Failed>,
}

/// What an instance's last batch came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recalled<'a> {
    pub(super) longest_run: i64,
    /// What became of its groups; none where this is a batch before the last.
    pub(super) groups: Option<&'a [Disposition]>,
}

/// All instances heard of lately.
#[derive(Debug, Default)]
pub(super) struct Instances(HashMap<Arc<str>, Instance>);

impl Instances {
    /// What the instance's last batch came to, if this is that one or one before.
    pub(super) fn recall(&self, batch: &Batch) -> Option<Recalled<'_>> {
        let known = self.0.get(&batch.instance).filter(|known| batch.number <= known.number)?;
        let groups = (batch.number == known.number).then_some(&known.groups[..]);
        Some(Recalled { longest_run: known.longest_run, groups })
    }

    /// Remembers a batch that was counted.
    pub(super) fn remember(
        &mut self,
        (batch, groups): (&Batch, &[Disposition]),
        longest_run: i64,
        failed: Option<Failed>,
        now: Timestamp,
    ) {
        let before = self.0.get(&batch.instance);
        let failed = failed.or_else(|| before.and_then(|known| known.failed));
        if before.is_none() {
            self.0.retain(|_, instance| now.since(instance.heard) < INSTANCE_KEPT);
        }
        let (number, groups) = (batch.number, groups.to_vec());
        let instance = Instance { number, longest_run, groups, heard: now, failed };
        self.0.insert(Arc::clone(&batch.instance), instance);
    }

    /// How many have failed where `counts` says that it counts.
    pub(super) fn reporters(&self, counts: impl Fn(Failed) -> bool) -> i64 {
        let reporters = self.0.values().filter(|instance| instance.failed.is_some_and(&counts)).count();
        i64::try_from(reporters).unwrap_or(i64::MAX)
    }

    /// Forgets their failures but not their batches: a late retry must still change nothing.
    pub(super) fn forget_failures(&mut self) {
        self.0.values_mut().for_each(|instance| instance.failed = None);
    }

    /// Puts the failures that `counts` into one second and forgets the others.
    pub(super) fn gather(&mut self, second: i64, counts: impl Fn(Failed) -> bool) {
        for instance in self.0.values_mut() {
            instance.failed =
                instance.failed.filter(|failed| counts(*failed)).map(|failed| Failed { second, ..failed });
        }
    }
}
