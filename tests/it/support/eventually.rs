//! Waiting for a condition instead of sleeping.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The gap between two looks at a condition.
pub(crate) const POLL: Duration = Duration::from_millis(3);

/// Returns once `condition` holds; panics, naming `what`, when it does not within `deadline`.
///
/// The deadline also ends a condition that never returns.
pub(crate) async fn eventually(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            sleep(POLL).await;
        }
    };
    let held = timeout(deadline, holds).await.is_ok();
    assert!(held, "waited {deadline:?} in vain: {what}");
}
