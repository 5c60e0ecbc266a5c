//! The service `Diagnostics`: what this process knows of itself, put into words of the contract.

use tokio::sync::watch;
use tonic::{Request, Response, async_trait};

use super::{calls::Reply, convert, proto, streams::Streams};
use crate::{
    call::Serving,
    diagnostics::{Diagnostics, RedisKind, RedisStatus},
    doorbell::Notices,
    threads::replay::JournalStatus,
};

/// The service.
#[derive(Debug)]
pub(super) struct DiagnosticsService {
    diagnostics: Diagnostics,
    serving: watch::Receiver<Serving>,
    streams: Streams,
}

impl DiagnosticsService {
    /// Tells of the process that these are of.
    pub(super) fn new(diagnostics: Diagnostics, serving: watch::Receiver<Serving>, streams: Streams) -> Self {
        Self { diagnostics, serving, streams }
    }
}

#[async_trait]
impl proto::diagnostics_server::Diagnostics for DiagnosticsService {
    async fn get_status(&self, _: Request<proto::GetStatusRequest>) -> Reply<proto::GetStatusResponse> {
        let known = &self.diagnostics;
        let Serving { mode, since } = *self.serving.borrow();
        let (notifications, notifications_detail) = match known.doorbell.as_ref().map(|bell| bell.notices()) {
            None => (proto::NotificationMode::Unspecified, String::new()),
            Some(Notices::Keyspace) => (proto::NotificationMode::Keyspace, String::new()),
            Some(Notices::Polling(reason)) => (proto::NotificationMode::Polling, reason.to_string()),
        };
        Ok(Response::new(proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: known.instance.to_string(),
            start_time: Some(convert::timestamp(known.started)),
            mode: convert::serving_mode(mode),
            since: Some(convert::timestamp(since)),
            redis: known.redis.as_ref().map(|redis| redis_status(redis())),
            notifications: notifications.into(),
            notifications_detail,
            journal: known.journal.as_ref().map(|journal| journal_status(journal())),
            local_threads: count((known.local_threads)()),
            local_breakers: count((known.local_breakers)()),
            open_streams: count(self.streams.open_now()),
        }))
    }
}

fn redis_status(status: RedisStatus) -> proto::RedisStatus {
    let kind = match status.kind {
        RedisKind::Unknown => proto::RedisKind::Unspecified,
        RedisKind::Standalone => proto::RedisKind::Standalone,
        RedisKind::Cluster => proto::RedisKind::Cluster,
    };
    proto::RedisStatus {
        url: status.url,
        kind: kind.into(),
        server_version: status.server_version,
        round_trip: status.round_trip.map(convert::duration),
        last_error: status.last_error.to_string(),
    }
}

fn journal_status(status: JournalStatus) -> proto::JournalStatus {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let parked = status.parked.into_iter().map(|batch| proto::ParkedRun {
        thread_id: batch.thread.to_string(),
        entries: number(batch.entries),
        reason: batch.reason,
    });
    proto::JournalStatus {
        entries: number(status.entries),
        bytes: number(status.bytes),
        oldest_time: status.oldest.map(convert::timestamp),
        parked: parked.collect(),
        lost_writes_repaired: number(status.lost_writes_repaired),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
