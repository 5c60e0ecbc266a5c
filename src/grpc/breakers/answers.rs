//! What is told of breakers, onto the wire.

use super::{
    enums::Wire,
    settings::{self, number},
    tokens::{self, TransitionsWalk},
};
use crate::{
    breakers::{
        ModeOverride, ModelKey, Permit, Position, Transition,
        operations::{
            Acquired, AcquiredFirst, Breaker, BreakersPage, BreakersQuery, Inspected, Rejection, Reported,
            TransitionsPage,
        },
    },
    call::Answer,
    grpc::{convert, proto},
};

/// Writes whether a model may be called.
pub(super) fn acquired(answer: Answer<Acquired>) -> proto::AcquireResponse {
    let authority = convert::authority(answer.source);
    match answer.value {
        Acquired::Admitted { permit: given, state } => proto::AcquireResponse {
            admitted: true,
            permit: Some(permit(given)),
            state: state.write(),
            authority,
            ..Default::default()
        },
        Acquired::Rejected(Rejection { state, reason, retry_after, .. }) => proto::AcquireResponse {
            admitted: false,
            permit: None,
            state: state.write(),
            reason: reason.write(),
            retry_after: retry_after.map(convert::duration),
            authority,
        },
    }
}

/// Writes which of several models may be called.
pub(super) fn acquired_first(answer: Answer<AcquiredFirst>) -> proto::AcquireFirstResponse {
    let Answer { value: AcquiredFirst { permit: given, rejections }, source } = answer;
    let earliest = rejections.iter().filter_map(|rejection| rejection.retry_after).min();
    let (index, given) = given.unzip();
    proto::AcquireFirstResponse {
        admitted: given.is_some(),
        retry_after: earliest.filter(|_| given.is_none()).map(convert::duration),
        permit: given.map(permit),
        index: index.map(|index| i32::try_from(index).unwrap_or(i32::MAX)),
        rejections: rejections.iter().map(rejection).collect(),
        authority: convert::authority(source),
    }
}

fn rejection(rejection: &Rejection) -> proto::Rejection {
    proto::Rejection {
        model_key: rejection.key.to_string(),
        state: rejection.state.write(),
        reason: rejection.reason.write(),
        retry_after: rejection.retry_after.map(convert::duration),
    }
}

/// Writes a permit.
pub(super) fn permit(permit: Permit) -> proto::Permit {
    let Permit { key, position: Position { epoch, generation }, lease } = permit;
    let (expire_time, length) = lease.as_ref().map(|lease| (lease.expire_time, lease.length)).unzip();
    proto::Permit {
        model_key: key.to_string(),
        epoch,
        generation,
        lease_id: lease.map(|lease| lease.id).unwrap_or_default(),
        expire_time: expire_time.flatten().map(convert::timestamp),
        lease: length.map(convert::duration),
    }
}

/// Writes what a report did.
pub(super) fn reported(answer: Answer<Reported>) -> proto::ReportResponse {
    proto::ReportResponse {
        disposition: answer.value.disposition.write(),
        breaker: Some(breaker(answer.value.breaker)),
        authority: convert::authority(answer.source),
    }
}

/// Writes a breaker with its settings and its newest transition.
pub(super) fn inspected(mut inspected: Inspected) -> proto::Breaker {
    let last = inspected.last_transition.take();
    let last_transition = last.map(|last| transition(&inspected.breaker.key, last));
    proto::Breaker { last_transition, ..configured(inspected) }
}

/// Writes a breaker with its settings.
pub(super) fn configured(inspected: Inspected) -> proto::Breaker {
    let settings = Some(settings::write(&inspected.settings));
    proto::Breaker { settings, ..breaker(inspected.breaker) }
}

/// Writes a breaker alone.
pub(super) fn breaker(breaker: Breaker) -> proto::Breaker {
    proto::Breaker {
        model_key: breaker.key.to_string(),
        state: breaker.state.write(),
        mode: breaker.mode.write(),
        epoch: breaker.position.epoch,
        generation: breaker.position.generation,
        since: breaker.since.map(convert::timestamp),
        open_until: breaker.open_until.map(convert::timestamp),
        retry_after: breaker.retry_after.map(convert::duration),
        failure_rate_percent: breaker.failure_rate_percent,
        slow_rate_percent: breaker.slow_rate_percent,
        calls: breaker.counts.calls,
        failures: breaker.counts.failures,
        slow_calls: breaker.counts.slow,
        rejected_calls: breaker.rejected_calls,
        consecutive_failures: i32::try_from(breaker.counts.run).unwrap_or(i32::MAX),
        attempts: number(breaker.attempts),
        settings: None,
        last_transition: None,
        mode_override: breaker.mode_override.map(mode_override),
        permits_left: number(breaker.permits_left),
    }
}

fn mode_override(set: ModeOverride) -> proto::ModeOverride {
    proto::ModeOverride {
        reason: set.reason,
        actor: set.actor,
        set_time: Some(convert::timestamp(set.set_time)),
        expire_time: set.expire_time.map(convert::timestamp),
    }
}

pub(super) fn transition(key: &ModelKey, transition: Transition) -> proto::Transition {
    proto::Transition {
        model_key: key.to_string(),
        epoch: transition.position.epoch,
        generation: transition.position.generation,
        from_state: transition.from.write(),
        to_state: transition.to.write(),
        mode: transition.mode.write(),
        transition_time: Some(convert::timestamp(transition.time)),
        reason: transition.reason.write(),
        outcome: transition.outcome.map(Wire::write).unwrap_or_default(),
        actor: transition.actor,
        detail: transition.detail,
        instance_id: transition.instance,
        open_until: transition.open_until.map(convert::timestamp),
    }
}

/// Writes a page of breakers.
pub(super) fn breakers(query: &BreakersQuery, answer: Answer<BreakersPage>) -> proto::ListBreakersResponse {
    let Answer { value: page, source } = answer;
    proto::ListBreakersResponse {
        next_page_token: page.next.map(|next| tokens::seal_breakers(query, &next)).unwrap_or_default(),
        breakers: page.breakers.into_iter().map(breaker).collect(),
        authority: convert::authority(source),
    }
}

/// Writes a page of transitions.
pub(super) fn transitions(
    walk: &TransitionsWalk,
    answer: Answer<TransitionsPage>,
) -> proto::ListTransitionsResponse {
    let Answer { value: TransitionsPage { epoch, transitions, more }, source } = answer;
    let last = transitions.last().filter(|_| more);
    let place = last.map(|last| Position { epoch, generation: last.position.generation });
    proto::ListTransitionsResponse {
        next_page_token: place.map(|place| walk.seal(place)).unwrap_or_default(),
        transitions: transitions.into_iter().map(|one| transition(&walk.key, one)).collect(),
        authority: convert::authority(source),
    }
}

#[cfg(test)]
mod tests;
