//! What is kept of a breaker's changes.

use super::{Mode, Outcome, Position, Reason, State};
use crate::clock::Timestamp;

/// One change of a breaker, as its log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Epoch, and the generation after the change.
    pub position: Position,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Mode after.
    pub mode: Mode,
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The outcome that caused it, if one did.
    pub outcome: Option<Outcome>,
    /// Who caused it, if an operator did; else empty.
    pub actor: String,
    /// The operator's reason, or the report's detail.
    pub detail: String,
    /// The instance that made it.
    pub instance: String,
    /// Set when it is OPEN afterwards.
    pub open_until: Option<Timestamp>,
}

/// What stands behind a breaker's answer beside the view: read only where it is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The newest change.
    pub last: Option<Transition>,
    /// Ids of the requests by operators that were carried out, the last 16.
    pub requests: Vec<String>,
}

/// A stretch of a breaker's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// The present epoch; empty for a key without stored state.
    pub epoch: String,
    /// Contiguous, oldest first.
    pub transitions: Vec<Transition>,
    /// Whether newer ones follow.
    pub more: bool,
}
