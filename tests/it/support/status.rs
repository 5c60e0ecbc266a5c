//! What the service says of itself.

use std::time::Duration;

use fusewire::grpc::proto::{
    GetStatusRequest, GetStatusResponse, JournalStatus, ServingMode, diagnostics_client::DiagnosticsClient,
};
use tonic::transport::Channel;

use super::eventually::eventually;

/// Far above what any change takes (a write that timed out waits a second and its timeout), for a loaded machine.
const SOON: Duration = Duration::from_secs(30);

/// Asks once.
pub(crate) async fn status(channel: &Channel) -> GetStatusResponse {
    let told = DiagnosticsClient::new(channel.clone()).get_status(GetStatusRequest {}).await;
    told.expect("the status is told").into_inner()
}

/// What waits to be merged.
pub(crate) async fn journal(channel: &Channel) -> JournalStatus {
    status(channel).await.journal.unwrap_or_default()
}

/// Returns the status once it is as it should be.
pub(crate) async fn status_when(
    channel: &Channel,
    what: &str,
    is_so: impl Fn(&GetStatusResponse) -> bool,
) -> GetStatusResponse {
    let mut told = GetStatusResponse::default();
    eventually(what, SOON, async || {
        told = status(channel).await;
        is_so(&told)
    })
    .await;
    told
}

/// Returns what is parked once the service serves from Redis and nothing else waits to be merged.
pub(crate) async fn merged(channel: &Channel) -> GetStatusResponse {
    let is_so = |told: &GetStatusResponse| {
        let journal = told.journal.clone().unwrap_or_default();
        let parked: i64 = journal.parked.iter().map(|run| run.entries).sum();
        told.mode() == ServingMode::Shared && (journal.entries == 0 || journal.entries == parked)
    };
    status_when(channel, "all is merged or parked", is_so).await
}
