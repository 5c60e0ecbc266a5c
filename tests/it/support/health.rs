//! What the service says of its own health.

use std::time::Duration;

use tonic::{Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::eventually::eventually;

/// Far above what any change takes (probes are 2 s apart at most), for a loaded machine.
pub(crate) const CHANGE: Duration = Duration::from_secs(15);

/// Asks once; `name` is empty for the server as a whole.
pub(crate) async fn check(channel: &Channel, name: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: name.to_owned() };
    Ok(HealthClient::new(channel.clone()).check(request).await?.into_inner().status())
}

/// Follows a name until the service ends the stream.
pub(crate) async fn watch(channel: &Channel, name: &str) -> tonic::Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: name.to_owned() };
    HealthClient::new(channel.clone()).watch(request).await.expect("health can be watched").into_inner()
}

/// Returns once Redis is served from, or is not any more.
pub(crate) async fn redis_is(channel: &Channel, expected: ServingStatus) {
    let what = format!("health says {} of redis", expected.as_str_name());
    eventually(&what, CHANGE, async || check(channel, "redis").await.ok() == Some(expected)).await;
}
