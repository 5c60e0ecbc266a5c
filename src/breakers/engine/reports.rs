//! Reports. Those without lease travel together: while a batch of a key is under way, further ones of that key wait and
//! go with the next. A report on an idle key starts at once, so nothing waits on a timer.
//!
//! A batch is carried by a task of the process, never by a caller's future: a caller that goes away takes no other
//! caller's report with it, nor its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::warn;

use super::Engine;
use crate::{
    breakers::{
        BreakerSettings, BreakerStore, Disposition, ModelKey, Position, View,
        operations::{Report, Reported},
        policy::{self, Cause},
        store::{Batch, Change, Group, Mark, Recorded, Settlement, Terms, Wish},
    },
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
};

/// Reports in one script call at most, so that no call holds up Redis for long.
const BATCH: usize = 1000;

/// The keys with a batch under way, and the reports that wait for the next.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<ModelKey, Vec<Waiting>>>);

#[derive(Debug)]
struct Waiting {
    report: Report,
    told: oneshot::Sender<Result<Reported>>,
}

impl Flights {
    /// Adds a report; says whether a flight must be started for it.
    fn board(&self, waiting: Waiting) -> bool {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut starts = false;
        let key = waiting.report.key.clone();
        let queue = flights.entry(key).or_insert_with(|| {
            starts = true;
            Vec::new()
        });
        queue.push(waiting);
        starts
    }

    /// Takes the reports that wait; none ends the flight.
    fn next(&self, key: &ModelKey) -> Option<Vec<Waiting>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = flights.get_mut(key)?;
        if queue.is_empty() {
            flights.remove(key);
            return None;
        }
        let rest = queue.split_off(queue.len().min(BATCH));
        Some(std::mem::replace(queue, rest))
    }
}

/// A flight under way. Should its task die, its key is free again, and those who wait are told.
struct Flight<'a> {
    flights: &'a Flights,
    key: &'a ModelKey,
    has_landed: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.has_landed {
            self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.key);
        }
    }
}

impl<S: BreakerStore> Engine<S> {
    /// Hands a report over and waits for what comes of it.
    pub(super) async fn enqueue(&self, report: Report) -> Result<Reported> {
        let (told, hears) = oneshot::channel();
        let key = report.key.clone();
        if self.0.flights.board(Waiting { report, told }) {
            let engine = self.clone();
            self.0.shutdown.spawn("reports", async move { engine.fly(&key).await });
        }
        hears.await.map_err(|_| Error::Internal("a batch of reports was given up".into()))?
    }

    async fn fly(&self, key: &ModelKey) {
        let mut flight = Flight { flights: &self.0.flights, key, has_landed: false };
        while let Some(waiting) = self.0.flights.next(key) {
            let (reports, callers): (Vec<_>, Vec<_>) =
                waiting.into_iter().map(|waiting| (waiting.report, waiting.told)).unzip();
            match self.record(key, &reports).await {
                Ok(reported) => {
                    for (told, reported) in callers.into_iter().zip(reported) {
                        // Whoever does not wait any more is not told.
                        let _ = told.send(Ok(reported));
                    }
                }
                Err(error) => {
                    for told in callers {
                        let _ = told.send(Err(share(&error)));
                    }
                }
            }
        }
        flight.has_landed = true;
    }

    /// Records reports, brings about what they lead to, and says what each one did.
    async fn record(&self, key: &ModelKey, reports: &[Report]) -> Result<Vec<Reported>> {
        // No caller's deadline counts for the others.
        let call = Call::default();
        let (Recorded { view, groups, longest_run }, terms) = self.count(&call, key, reports).await?;
        let sizes = group_sizes(reports);
        let dispositions: Vec<_> =
            groups.into_iter().zip(sizes).flat_map(|(did, size)| std::iter::repeat_n(did, size)).collect();
        let cause = cause_of(reports.iter().zip(&dispositions), longest_run);
        let asked: Vec<_> = reports.iter().zip(&dispositions).filter_map(|it| asked(it, &view)).collect();
        let (view, terms) = self.conclude(&call, key, (view, terms), cause, &asked).await;
        let breaker = self.describe(key, &view, &terms);
        let tell = |(report, did): (&Report, Disposition)| {
            let is_neutral = did == Disposition::Applied && report.outcome.is_neutral();
            let disposition = if is_neutral { Disposition::Neutral } else { did };
            Reported { disposition, breaker: breaker.clone() }
        };
        Ok(reports.iter().zip(dispositions).map(tell).collect())
    }

    /// Has the store count reports. Where an override has ended, the change that says so comes first.
    async fn count(&self, call: &Call, key: &ModelKey, reports: &[Report]) -> Result<(Recorded, Terms)> {
        for _ in 0..super::ATTEMPTS {
            let number = self.0.batches.fetch_add(1, Ordering::Relaxed) + 1;
            let record = async |terms: Terms| {
                let groups = group(reports, &terms.settings);
                let batch = Batch { instance: Arc::clone(&self.0.instance), number, groups };
                self.0.store.record(call, key, &terms, &batch).await
            };
            let (recorded, terms) = self.on_terms(key, record).await?;
            self.notice(key, &recorded.view, &terms);
            if !recorded.groups.is_empty() {
                return Ok((recorded, terms));
            }
            self.bring_up_to_date(call, key, (recorded.view, terms), Cause::default()).await?;
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// Ends a trial permit's lease with the outcome of its call, in a task of the process as well.
    pub(super) async fn settle_lease(&self, report: Report, lease: String) -> Result<Reported> {
        let engine = self.clone();
        let settling = async move { engine.settle(&Call::default(), &report, &lease).await };
        let settled = self.0.shutdown.spawn("settle", settling).await;
        settled.map_err(|error| Error::Internal(error.into()))?
    }

    async fn settle(&self, call: &Call, report: &Report, lease: &str) -> Result<Reported> {
        let key = &report.key;
        let settle = async |terms: Terms| {
            let settlement = Settlement {
                position: position_of(report).unwrap_or_default(),
                lease: lease.to_owned(),
                mark: mark(report, &terms.settings),
                wish: wish(report, &terms.settings),
            };
            self.0.store.settle(call, key, &terms, &settlement).await
        };
        let (settled, terms) = self.on_terms(key, settle).await?;
        self.notice(key, &settled.view, &terms);
        let cause = cause_of([(report, &settled.disposition)], 0);
        let asked: Vec<_> = asked((report, &settled.disposition), &settled.view).into_iter().collect();
        let (view, terms) = self.conclude(call, key, (settled.view, terms), cause, &asked).await;
        Ok(Reported { disposition: settled.disposition, breaker: self.describe(key, &view, &terms) })
    }

    /// Offers the changes that reports lead to. The reports are stored: should an offer fail, they must not be sent
    /// again for that, and the next call on any instance makes it.
    async fn conclude(
        &self,
        call: &Call,
        key: &ModelKey,
        stands: (View, Terms),
        cause: Cause,
        asked: &[Asked<'_>],
    ) -> (View, Terms) {
        let concluded = async {
            let (mut view, mut terms) = self.bring_up_to_date(call, key, stands.clone(), cause).await?;
            for _ in 0..super::ATTEMPTS {
                let Some(change) = extension(&view, &terms, asked) else { break };
                (_, view, terms) = self.offer(call, key, terms, &change).await?;
            }
            Ok::<_, Error>((view, terms))
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
    /// Where the call was permitted, or the breaker stood when the report was counted.
    position: Position,
    /// When the store heard of it.
    at: Timestamp,
}

/// What a report asks for that was counted or came too late. One that was counted may have been so just after
/// somebody else saw what opens the breaker: that change knows nothing of its wish.
fn asked<'a>((report, did): (&'a Report, &Disposition), view: &View) -> Option<Asked<'a>> {
    let position = match did {
        Disposition::Applied => Some(view.snapshot.position.clone()),
        Disposition::Stale => position_of(report),
        Disposition::Neutral => None,
    };
    report.retry_after?;
    Some(Asked { report, position: position?, at: view.now })
}

/// The change that the longest wish of the reports which led to an OPEN brings about.
fn extension(view: &View, terms: &Terms, asked: &[Asked<'_>]) -> Option<Change> {
    let changes = asked.iter().filter_map(|Asked { report, position, at }| {
        let Wish { length, outcome } = wish(report, &terms.settings)?;
        let wish = Wish { length: length.saturating_sub(view.now.since(*at)), outcome };
        let change = policy::extension(view, &terms.settings, position, &wish, &report.detail)?;
        Some((wish.length, change))
    });
    changes.max_by_key(|(length, _)| *length).map(|(_, change)| change)
}

fn position_of(report: &Report) -> Option<Position> {
    report.permit.as_ref().map(|permit| permit.position.clone())
}

fn mark(report: &Report, settings: &BreakerSettings) -> Mark {
    Mark { outcome: report.outcome, is_slow: settings.is_slow(report.duration) }
}

/// The pause that a report asks for, if its outcome is one that may.
fn wish(report: &Report, settings: &BreakerSettings) -> Option<Wish> {
    let asks = |length: &Duration| report.outcome.asks_for_pause() && *length >= Duration::from_millis(1);
    let length = report.retry_after.filter(asks)?.min(settings.max_retry_after);
    Some(Wish { length, outcome: report.outcome })
}

/// Puts reports in a row of the same position together.
fn group(reports: &[Report], settings: &BreakerSettings) -> Vec<Group> {
    let same = |a: &Report, b: &Report| position_of(a) == position_of(b);
    let groups = reports.chunk_by(same).map(|reports| Group {
        position: reports.first().and_then(position_of),
        marks: reports.iter().map(|report| mark(report, settings).as_byte()).collect(),
        wish: reports.iter().filter_map(|report| wish(report, settings)).max_by_key(|wish| wish.length),
    });
    groups.collect()
}

fn group_sizes(reports: &[Report]) -> impl Iterator<Item = usize> {
    reports.chunk_by(|a, b| position_of(a) == position_of(b)).map(<[Report]>::len)
}

/// What counted reports say about a change: the last one that is against the model, else the last that is for it.
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
