//! Requests about breakers into the domain: each is checked whole, and every violated field is told.

use std::time::Duration;

use super::{
    enums::{Wire, required},
    settings::{self, SETTINGS},
    tokens::{self, TransitionsWalk},
};
use crate::{
    breakers::{
        Lease, Mode, ModelKey, Outcome, Permit, Position, State,
        key::MAX_MODEL_KEY,
        operations::{
            Acquire, AcquireFirst, Admission, BreakersQuery, Configure, MAX_ACTOR, MAX_CHOICES, MAX_DETAIL,
            Order, Ordered, Report, TransitionsQuery,
        },
        settings::{LEASE, LONGEST},
    },
    error::Result,
    grpc::{
        check::{Check, Path},
        convert,
        fields::{self, MASK, optional, page_size},
        proto,
    },
    threads::{MAX_ID, RequestId, Ttl},
};

const PERMIT: Path<'static> = Path::Root("permit");
const MAX_EPOCH: usize = 64;

/// Parses the key of a breaker, for the requests that say no more.
pub(super) fn model_key(raw: &str) -> Result<ModelKey> {
    let mut check = Check::default();
    let key = key(&mut check, raw);
    check.finish(|| key)
}

pub(super) fn acquire(request: &proto::AcquireRequest) -> Result<Acquire> {
    let mut check = Check::default();
    let key = key(&mut check, &request.model_key);
    let lease = lease(&mut check, request.lease);
    let admission = admission(&mut check, request.admission);
    let request_id = request_id(&mut check, &request.request_id);
    check.finish(|| Some(Acquire { key: key?, admission, lease, request_id }))
}

pub(super) fn acquire_first(request: &proto::AcquireFirstRequest) -> Result<AcquireFirst> {
    let mut check = Check::default();
    let keys = choices(&mut check, &request.model_keys);
    let lease = lease(&mut check, request.lease);
    let admission = admission(&mut check, request.admission);
    let request_id = request_id(&mut check, &request.request_id);
    check.finish(|| Some(AcquireFirst { keys: keys?, admission, lease, request_id }))
}

fn choices(check: &mut Check, raw: &[String]) -> Option<Vec<ModelKey>> {
    let path = Path::Root("model_keys");
    if !(1..=MAX_CHOICES).contains(&raw.len()) {
        check.refuse(path, format!("must hold 1 to {MAX_CHOICES} keys"));
        return None;
    }
    let mut keys = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let key = check.take(path.index(index), ModelKey::parse("", raw));
        let is_new = key.is_none() || !keys.contains(&key);
        check.require(path.index(index), is_new, "must be named once");
        keys.push(key);
    }
    keys.into_iter().collect()
}

/// Parses how fresh the view must be; not set is CACHED.
fn admission(check: &mut Check, raw: i32) -> Admission {
    check.take(Path::Root("admission"), Admission::read(raw)).flatten().unwrap_or_default()
}

pub(super) fn renew(request: proto::RenewPermitRequest) -> Result<(Permit, Option<Duration>)> {
    let mut check = Check::default();
    check.require(PERMIT, request.permit.is_some(), "is required");
    let permit = request.permit.and_then(|raw| permit(&mut check, raw));
    let lease = lease(&mut check, request.lease);
    check.finish(|| Some((permit?, lease)))
}

/// Parses a permit as it was given out. When it ends is the store's to know.
fn permit(check: &mut Check, raw: proto::Permit) -> Option<Permit> {
    let key = check.take(PERMIT.field("model_key"), ModelKey::parse("", &raw.model_key));
    let epoch = epoch(check, PERMIT.field("epoch"), raw.epoch);
    convert::check_count(check, PERMIT.field("generation"), raw.generation);
    let id = our_id(check, PERMIT.field("lease_id"), raw.lease_id, MAX_ID);
    let ever = Duration::ZERO..=Duration::MAX;
    let length = fields::length(check, PERMIT.field("lease"), raw.lease, ever, "must not be negative");
    let length = length.unwrap_or_default();
    let lease = id.map(|id| Lease { id, expire_time: None, length });
    let position = Position { epoch: epoch.unwrap_or_default(), generation: raw.generation };
    Some(Permit { key: key?, position, lease })
}

/// Parses the epoch of a breaker; an empty one is none.
pub(super) fn epoch(check: &mut Check, path: Path<'_>, raw: String) -> Option<String> {
    our_id(check, path, raw, MAX_EPOCH)
}

/// Parses an id that was made here and comes back; an empty one is none.
fn our_id(check: &mut Check, path: Path<'_>, raw: String, longest: usize) -> Option<String> {
    if raw.len() > longest {
        check.refuse(path, format!("must be at most {longest} characters long"));
        return None;
    }
    optional(check, path, &raw, RequestId::parse).map(|_| raw)
}

pub(super) fn report(request: proto::ReportRequest) -> Result<Report> {
    let mut check = Check::default();
    let (key, permit) = reported(&mut check, request.permit, &request.model_key);
    let outcome = outcome(&mut check, request.outcome, request.http_status);
    let week = Duration::ZERO..=LONGEST;
    let duration =
        fields::length(&mut check, Path::Root("duration"), request.duration, week, "must be 0 to 7 days");
    let ever = Duration::ZERO..=Duration::MAX;
    let retry_after = fields::length(
        &mut check,
        Path::Root("retry_after"),
        request.retry_after,
        ever,
        "must not be negative",
    );
    // No pause is no wish for one, and none is granted that is longer than the longest.
    let retry_after = retry_after.filter(|pause| !pause.is_zero()).map(|pause| pause.min(LONGEST));
    check.at_most(Path::Root("detail"), &request.detail, MAX_DETAIL);
    let detail = request.detail;
    check.finish(|| Some(Report { key: key?, permit, outcome: outcome?, duration, retry_after, detail }))
}

/// Parses what was called: by its permit, or by its key alone.
fn reported(
    check: &mut Check,
    raw: Option<proto::Permit>,
    model_key: &str,
) -> (Option<ModelKey>, Option<Permit>) {
    let path = Path::Root("model_key");
    match (raw, model_key) {
        (None, "") => {
            check.refuse(path, "is required without permit");
            (None, None)
        }
        (None, model_key) => (key(check, model_key), None),
        (Some(raw), model_key) => {
            let is_same = model_key.is_empty() || model_key == raw.model_key;
            check.require(path, is_same, "must be the permit's model_key, or empty");
            let permit = permit(check, raw);
            (permit.as_ref().map(|permit| permit.key.clone()), permit)
        }
    }
}

fn outcome(check: &mut Check, raw: i32, http_status: i32) -> Option<Outcome> {
    let is_status = (100..=599).contains(&http_status);
    check.require(Path::Root("http_status"), is_status || http_status == 0, "must be 100 to 599");
    let told = check.take(Path::Root("outcome"), Outcome::read(raw))?;
    let is_told = told.is_some() || http_status != 0;
    check.require(Path::Root("outcome"), is_told, "is required without http_status");
    told.or_else(|| is_status.then(|| Outcome::of_http_status(http_status)))
}

pub(super) fn list(request: proto::ListBreakersRequest) -> Result<BreakersQuery> {
    let mut check = Check::default();
    let prefix = request.prefix;
    check_prefix(&mut check, &prefix);
    let states = states(&mut check, &request.states);
    let limit = page_size(&mut check, request.page_size);
    let mut query = check.finish(|| Some(BreakersQuery { prefix, states, limit, after: None }))?;
    if !request.page_token.is_empty() {
        query.after = Some(tokens::open_breakers(&query, &request.page_token)?);
    }
    Ok(query)
}

/// Checks what keys may begin with.
pub(super) fn check_prefix(check: &mut Check, prefix: &str) {
    if prefix.len() > MAX_MODEL_KEY || !ModelKey::may_hold(prefix) {
        let rule = "characters, printable ASCII without space, { and }";
        check.refuse(Path::Root("prefix"), format!("must hold at most {MAX_MODEL_KEY} {rule}"));
    }
}

/// Parses states, each of which counts once, in an order of their own.
fn states(check: &mut Check, raw: &[i32]) -> Vec<State> {
    let path = Path::Root("states");
    let mut wanted = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let state = required(check, path.index(index), *raw);
        wanted.extend(state.filter(|state| !wanted.contains(state)));
        if check.is_full() {
            break;
        }
    }
    State::ALL.iter().copied().filter(|state| wanted.contains(state)).collect()
}

pub(super) fn configure(request: &proto::ConfigureBreakerRequest) -> Result<(ModelKey, Configure)> {
    let mut check = Check::default();
    let key = key(&mut check, &request.model_key);
    let mask = request.update_mask.as_ref();
    let configure = match (request.settings, request.reset_settings) {
        (Some(new), false) => Some(Configure::Set(settings::revise(&mut check, new, mask))),
        (None, true) => {
            check.require(MASK, mask.is_none(), "must be absent with reset_settings");
            Some(Configure::Reset)
        }
        (Some(_), true) => {
            check.refuse(SETTINGS, "must be absent with reset_settings");
            None
        }
        (None, false) => {
            check.refuse(SETTINGS, "is required without reset_settings");
            None
        }
    };
    check.finish(|| Some((key?, configure?)))
}

pub(super) fn trip(request: proto::TripBreakerRequest) -> Result<(ModelKey, Order)> {
    let proto::TripBreakerRequest { model_key, open_for, reason, actor, request_id } = request;
    let mut check = Check::default();
    let bounds = Duration::from_millis(1)..=LONGEST;
    let open_for =
        fields::length(&mut check, Path::Root("open_for"), open_for, bounds, "must be 1 ms to 7 days");
    order(check, Some(Ordered::Trip(open_for)), Said { model_key, reason, actor, request_id })
}

pub(super) fn reset(request: proto::ResetBreakerRequest) -> Result<(ModelKey, Order)> {
    let proto::ResetBreakerRequest { model_key, reason, actor, request_id } = request;
    order(Check::default(), Some(Ordered::Reset), Said { model_key, reason, actor, request_id })
}

pub(super) fn override_mode(request: proto::OverrideBreakerRequest) -> Result<(ModelKey, Order)> {
    let proto::OverrideBreakerRequest { model_key, mode, ttl, reason, actor, request_id } = request;
    let mut check = Check::default();
    let path = Path::Root("ttl");
    let mode: Option<Mode> = required(&mut check, Path::Root("mode"), mode);
    let lasts = ttl.and_then(|ttl| check.take(path, convert::ttl(ttl))).map(Ttl::as_duration);
    let may_last = mode != Some(Mode::Automatic) || ttl.is_none();
    check.require(path, may_last, "must be absent with MODE_AUTOMATIC");
    let what = mode.map(|mode| Ordered::Override(mode, lasts));
    order(check, what, Said { model_key, reason, actor, request_id })
}

/// What every order says beside what is to happen.
struct Said {
    model_key: String,
    reason: String,
    actor: String,
    request_id: String,
}

fn order(mut check: Check, what: Option<Ordered>, said: Said) -> Result<(ModelKey, Order)> {
    let Said { model_key, reason, actor, request_id: id } = said;
    let key = key(&mut check, &model_key);
    check.at_most(Path::Root("reason"), &reason, MAX_DETAIL);
    check.at_most(Path::Root("actor"), &actor, MAX_ACTOR);
    let request_id = request_id(&mut check, &id);
    check.finish(|| Some((key?, Order { what: what?, actor, reason, request_id })))
}

/// Parses a page of transitions to read, and the walk that its page tokens belong to.
pub(super) fn list_transitions(
    request: proto::ListTransitionsRequest,
) -> Result<(TransitionsQuery, TransitionsWalk)> {
    let mut check = Check::default();
    let key = key(&mut check, &request.model_key);
    let after = request.after_generation;
    convert::check_count(&mut check, Path::Root("after_generation"), after);
    let epoch = epoch(&mut check, Path::Root("epoch"), request.epoch);
    let limit = page_size(&mut check, request.page_size);
    let walk = check.finish(|| Some(TransitionsWalk { key: key?, after, epoch }))?;
    let place = match request.page_token.as_str() {
        "" => None,
        token => Some(walk.open(token)?),
    };
    let goes_on = place.is_some();
    let (epoch, after) = match place {
        Some(Position { epoch, generation }) => (Some(epoch), generation),
        None => (walk.epoch.clone(), after),
    };
    Ok((TransitionsQuery { key: walk.key.clone(), after, epoch, goes_on, limit }, walk))
}

fn key(check: &mut Check, raw: &str) -> Option<ModelKey> {
    check.take(Path::Root("model_key"), ModelKey::parse("", raw))
}

fn lease(check: &mut Check, raw: Option<prost_types::Duration>) -> Option<Duration> {
    fields::length(check, Path::Root("lease"), raw, LEASE, "must be 1 s to 1 h")
}

fn request_id(check: &mut Check, raw: &str) -> Option<String> {
    fields::request_id(check, raw).map(|id| id.to_string())
}

#[cfg(test)]
mod tests;
