//! Reports. Those without lease travel together: while a batch of a key is under way, further reports of that key wait for
//! the next batch. A report on an idle key begins a batch at once, so no report waits for a timer.
//!
//! A task of the process records a batch, not the future of a caller: a caller that goes away loses no report, neither its
//! own nor another caller's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::warn;

use super::Engine;
use crate::{
    breakers::{
        BreakerSettings, BreakerStore, Disposition, ModelKey, Position, View,
        keeper::{Keeper, PendingReport},
        keepers::Keepers,
        operations::{Report, Reported},
        policy::{self, Cause},
        store::{Batch, Change, CountedResult, Group, InForce, Recorded, RequestedPause, Settlement},
    },
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
};

/// A batch under way. Should its task panic, further reports of the key begin another batch, and those who wait are told.
struct BatchGuard<'a> {
    keepers: &'a Keepers,
    key: &'a ModelKey,
    has_ended: bool,
}

impl Drop for BatchGuard<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.keepers.with(self.key, |keeper| keeper.reports = None);
        }
    }
}

impl<S: BreakerStore> Engine<S> {
    /// Hands a report over and waits for what comes of it.
    pub(super) async fn enqueue(&self, report: Report) -> Result<Reported> {
        let (reply, reported) = oneshot::channel();
        let key = report.key.clone();
        let begins = self.0.keepers.with(&key, |keeper| keeper.add_report(PendingReport { report, reply }));
        if begins {
            let engine = self.clone();
            self.0.shutdown.spawn("reports", async move { engine.record_batches(&key).await });
        }
        reported.await.map_err(|_| Error::Internal("a batch of reports was given up".into()))?
    }

    /// Records one batch after the other until no report waits.
    async fn record_batches(&self, key: &ModelKey) {
        let mut guard = BatchGuard { keepers: &self.0.keepers, key, has_ended: false };
        while let Some(pending) = self.0.keepers.with(key, Keeper::next_batch) {
            let (reports, callers): (Vec<_>, Vec<_>) =
                pending.into_iter().map(|pending| (pending.report, pending.reply)).unzip();
            // Callers may have gone away.
            match self.record(key, &reports).await {
                Ok(reported) => {
                    for (reply, reported) in callers.into_iter().zip(reported) {
                        let _ = reply.send(Ok(reported));
                    }
                }
                Err(error) => {
                    for reply in callers {
                        let _ = reply.send(Err(share(&error)));
                    }
                }
            }
        }
        guard.has_ended = true;
    }

    /// Records reports, makes the changes that they lead to, and says what each report did.
    async fn record(&self, key: &ModelKey, reports: &[Report]) -> Result<Vec<Reported>> {
        // The deadline of one caller must not end the batch of the others.
        let call = Call::default();
        let (Recorded { view, groups, longest_run }, in_force) = self.count(&call, key, reports).await?;
        let sizes = neighbours(reports).map(<[Report]>::len);
        let dispositions: Vec<_> =
            groups.into_iter().zip(sizes).flat_map(|(did, size)| std::iter::repeat_n(did, size)).collect();
        let cause = cause_of(reports.iter().zip(&dispositions), longest_run);
        let asked: Vec<_> = reports.iter().zip(&dispositions).filter_map(|it| asked(it, &view)).collect();
        let (view, in_force) = self.conclude(&call, key, (view, in_force), cause, &asked).await;
        let breaker = self.describe(key, &view, &in_force);
        let tell = |(report, did): (&Report, Disposition)| {
            let is_neutral = did == Disposition::Applied && report.outcome.is_neutral();
            let disposition = if is_neutral { Disposition::Neutral } else { did };
            Reported { disposition, breaker: breaker.clone() }
        };
        Ok(reports.iter().zip(dispositions).map(tell).collect())
    }

    /// Has the store count reports. Where an override has ended, the change that ends it is made first.
    async fn count(&self, call: &Call, key: &ModelKey, reports: &[Report]) -> Result<(Recorded, InForce)> {
        for _ in 0..super::ATTEMPTS {
            let number = self.0.batches.fetch_add(1, Ordering::Relaxed) + 1;
            let record = async |in_force: InForce| {
                let groups = group(reports, &in_force.settings);
                let batch = Batch { instance: Arc::clone(&self.0.instance), number, groups };
                self.0.store.record(call, key, &in_force, &batch).await
            };
            let (recorded, in_force) = self.with_settings(key, record).await?;
            self.note(key, &recorded.view, &in_force);
            if !recorded.groups.is_empty() {
                return Ok((recorded, in_force));
            }
            self.bring_up_to_date(call, key, (recorded.view, in_force), Cause::default()).await?;
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// Ends the lease of a trial permit with the outcome of its call, in a task of the process as well.
    pub(super) async fn settle_lease(&self, report: Report, lease: String) -> Result<Reported> {
        let engine = self.clone();
        let settling = async move { engine.settle(&Call::default(), &report, &lease).await };
        let settled = self.0.shutdown.spawn("settle", settling).await;
        settled.map_err(|error| Error::Internal(error.into()))?
    }

    async fn settle(&self, call: &Call, report: &Report, lease: &str) -> Result<Reported> {
        let key = &report.key;
        let settle = async |in_force: InForce| {
            let settlement = Settlement {
                position: position_of(report).unwrap_or_default(),
                lease: lease.to_owned(),
                result: result(report, &in_force.settings),
                pause: pause(report, &in_force.settings),
            };
            self.0.store.settle(call, key, &in_force, &settlement).await
        };
        let (settled, in_force) = self.with_settings(key, settle).await?;
        self.note(key, &settled.view, &in_force);
        let cause = cause_of([(report, &settled.disposition)], 0);
        let asked: Vec<_> = asked((report, &settled.disposition), &settled.view).into_iter().collect();
        let (view, in_force) = self.conclude(call, key, (settled.view, in_force), cause, &asked).await;
        Ok(Reported { disposition: settled.disposition, breaker: self.describe(key, &view, &in_force) })
    }

    /// Offers the changes that reports lead to. The reports are stored already: if an offer fails, they must not be sent
    /// again, and the next call on any instance makes the change.
    async fn conclude(
        &self,
        call: &Call,
        key: &ModelKey,
        stands: (View, InForce),
        cause: Cause,
        asked: &[Asked<'_>],
    ) -> (View, InForce) {
        let concluded = async {
            let (mut view, mut in_force) = self.bring_up_to_date(call, key, stands.clone(), cause).await?;
            for _ in 0..super::ATTEMPTS {
                let Some(change) = extension(&view, &in_force, asked) else { break };
                (_, view, in_force) = self.offer(call, key, in_force, &change).await?;
            }
            Ok::<_, Error>((view, in_force))
        };
        match concluded.await {
            Ok(concluded) => concluded,
            Err(error) => {
                warn!(breaker = %key, %error, "a change is due that could not be made yet");
                stands
            }
        }
    }
}

/// A report that asks for a pause.
#[derive(Debug)]
struct Asked<'a> {
    report: &'a Report,
    /// Where the call was permitted, or where the breaker stood when the report was counted.
    position: Position,
    /// When the store received the report.
    at: Timestamp,
}

/// The pause that a report asks for, if the report was counted or came too late. Somebody else may have opened the breaker
/// just before the report was counted: that change knows nothing of this pause.
fn asked<'a>((report, did): (&'a Report, &Disposition), view: &View) -> Option<Asked<'a>> {
    let position = match did {
        Disposition::Applied => Some(view.snapshot.position.clone()),
        Disposition::Stale => position_of(report),
        Disposition::Neutral => None,
    };
    report.retry_after?;
    Some(Asked { report, position: position?, at: view.now })
}

/// The change that moves the end of OPEN, for the longest pause that the reports which led to it ask for.
fn extension(view: &View, in_force: &InForce, asked: &[Asked<'_>]) -> Option<Change> {
    let changes = asked.iter().filter_map(|Asked { report, position, at }| {
        let RequestedPause { length, outcome } = pause(report, &in_force.settings)?;
        let pause = RequestedPause { length: length.saturating_sub(view.now.since(*at)), outcome };
        let change = policy::extension(view, &in_force.settings, position, &pause, &report.detail)?;
        Some((pause.length, change))
    });
    changes.max_by_key(|(length, _)| *length).map(|(_, change)| change)
}

fn position_of(report: &Report) -> Option<Position> {
    report.permit.as_ref().map(|permit| permit.position.clone())
}

fn result(report: &Report, settings: &BreakerSettings) -> CountedResult {
    CountedResult { outcome: report.outcome, is_slow: settings.is_slow(report.duration) }
}

/// The pause that a report asks for, if its outcome allows that.
fn pause(report: &Report, settings: &BreakerSettings) -> Option<RequestedPause> {
    let asks = |length: &Duration| report.outcome.asks_for_pause() && *length >= Duration::from_millis(1);
    let length = report.retry_after.filter(asks)?.min(settings.max_retry_after);
    Some(RequestedPause { length, outcome: report.outcome })
}

fn group(reports: &[Report], settings: &BreakerSettings) -> Vec<Group> {
    let groups = neighbours(reports).map(|reports| Group {
        position: reports.first().and_then(position_of),
        results: reports.iter().map(|report| result(report, settings).as_byte()).collect(),
        pause: reports.iter().filter_map(|report| pause(report, settings)).max_by_key(|pause| pause.length),
    });
    groups.collect()
}

/// Neighbouring reports of the same position.
fn neighbours(reports: &[Report]) -> impl Iterator<Item = &[Report]> {
    reports.chunk_by(|a, b| position_of(a) == position_of(b))
}

/// What counted reports say about a change: the last report against the model, else the last report for it.
fn cause_of<'a>(reports: impl IntoIterator<Item = (&'a Report, &'a Disposition)>, longest_run: i64) -> Cause {
    let counted = reports.into_iter().filter(|(_, did)| **did == Disposition::Applied);
    let (mut last, mut against) = (None, None);
    for (report, _) in counted {
        last = Some(report).filter(|report| !report.outcome.is_neutral()).or(last);
        if report.outcome.is_failure() {
            against = Some(report);
        }
    }
    let report = against.or(last);
    Cause {
        acquires: false,
        longest_run,
        outcome: report.map(|report| report.outcome),
        detail: report.map(|report| report.detail.clone()).unwrap_or_default(),
    }
}

/// The same error for another caller of the same batch.
fn share(error: &Error) -> Error {
    match error {
        Error::Unreachable(cause) => Error::Unreachable(cause.to_string().into()),
        Error::TimedOut(limit) => Error::TimedOut(*limit),
        Error::Misconfigured(cause) => Error::Misconfigured(cause.to_string().into()),
        Error::RedisOutOfMemory => Error::RedisOutOfMemory,
        Error::StoreFull { what, limit } => Error::StoreFull { what, limit: *limit },
        Error::Corrupt { key, seq } => Error::Corrupt { key: key.clone(), seq: *seq },
        Error::BreakerChanged { key } => Error::BreakerChanged { key: key.clone() },
        other => Error::Internal(other.to_string().into()),
    }
}
