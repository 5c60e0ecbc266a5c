//! Reads what the scripts on breakers answer.

use std::collections::HashMap;

use bb8_redis::redis::Value;

use super::reply::{Reply, parse_int};
use crate::{
    breakers::{
        BreakerSettings, Counts, Disposition, History, Mode, ModeOverride, Outcome, Pause, Position, Reason,
        Snapshot, State, Totals, Transition, View,
        store::{Glance, StoredSettings},
    },
    clock::Timestamp,
    error::{Error, Result},
};

/// Reads how a breaker stands: three lists, as `breaker.lua` tells them.
pub(super) fn view(now: Timestamp, reply: &mut Reply) -> Result<View> {
    let mut core = Texts(reply.list()?);
    let mut rest = Texts(reply.list()?);
    let totals = totals(&mut reply.list()?)?;
    let state = core.named("state", State::parse)?.unwrap_or_default();
    let position =
        Position { epoch: core.text()?.unwrap_or_default(), generation: core.int()?.unwrap_or_default() };
    let (fence, fence_before) = (core.int()?.unwrap_or_default(), core.int()?.unwrap_or_default());
    let mode = core.named("mode", Mode::parse)?.unwrap_or_default();
    let (expire_time, since, opened) = (core.time()?, core.time()?, core.time()?);
    let open_until = core.time()?;
    let attempts = u32::try_from(core.int()?.unwrap_or_default()).unwrap_or_default();
    let last_failure = core.time()?;
    let mut before = Counts::default();
    let mut mode_override = None;
    if rest.0.len() > 0 {
        for count in [&mut before.calls, &mut before.failures, &mut before.slow, &mut before.run] {
            *count = rest.int()?.unwrap_or_default();
        }
        let (reason, actor) = (rest.text()?.unwrap_or_default(), rest.text()?.unwrap_or_default());
        let set_time = rest.time()?.unwrap_or_default();
        mode_override =
            (mode != Mode::Automatic).then_some(ModeOverride { reason, actor, set_time, expire_time });
    }
    let snapshot = Snapshot {
        position,
        fence,
        fence_before,
        state,
        mode,
        since: since.or(opened).unwrap_or_default(),
        open_until: open_until.filter(|_| state == State::Open),
        attempts,
        mode_override,
        before,
        last_failure,
    };
    Ok(View { now, snapshot, totals })
}

/// The fields of a state that show whether it has changed.
pub(super) const GLANCE: &[&str] = &["epoch", "generation", "state", "mode", "openUntil"];

/// Reads [`GLANCE`]; none if that cannot be read.
pub(super) fn glance(fields: Value) -> Option<Glance> {
    let Value::Array(fields) = fields else { return None };
    let mut fields = Texts(Reply::new(fields));
    let position = Position {
        epoch: fields.text().ok()?.unwrap_or_default(),
        generation: fields.int().ok()?.unwrap_or_default(),
    };
    let state = fields.named("state", State::parse).ok()?.unwrap_or_default();
    let mode = fields.named("mode", Mode::parse).ok()?.unwrap_or_default();
    let open_until = fields.time().ok()?.filter(|_| state == State::Open);
    Some(Glance { position, state, mode, open_until })
}

fn totals(reply: &mut Reply) -> Result<Totals> {
    let counts =
        Counts { calls: reply.int()?, failures: reply.int()?, slow: reply.int()?, run: reply.int()? };
    let (reporters, leases) = (reply.int()?, reply.int()?);
    let last_failure = reply.expiry()?;
    let until = reply.time()?;
    let pause = Outcome::parse(&reply.text()?).map(|outcome| Pause { until, outcome });
    Ok(Totals { counts, reporters, leases, last_failure, pause })
}

/// Reads what a load tells beside the view: the newest log entry and the operators' requests.
pub(super) fn history(view: &View, reply: &mut Reply) -> Result<History> {
    let last = transitions(&view.snapshot.position.epoch, &mut reply.list()?)?.pop();
    let requests = reply.text()?.split_whitespace().map(str::to_owned).collect();
    Ok(History { last, requests })
}

/// Reads log entries, each an id and a list of names and values.
pub(super) fn transitions(epoch: &str, entries: &mut Reply) -> Result<Vec<Transition>> {
    let mut read = Vec::with_capacity(entries.len());
    while entries.len() > 0 {
        let mut entry = entries.list()?;
        let id = entry.text()?;
        let fields = pairs(&mut entry.list()?)?;
        let transition = transition(epoch, &id, &fields)
            .ok_or_else(|| Error::Internal(format!("log entry {id} cannot be read").into()))?;
        read.push(transition);
    }
    Ok(read)
}

fn transition(epoch: &str, id: &str, fields: &HashMap<String, String>) -> Option<Transition> {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let time = |name: &str| field(name).parse().ok().map(Timestamp::from_millis);
    Some(Transition {
        position: Position { epoch: epoch.to_owned(), generation: id.split('-').next()?.parse().ok()? },
        from: State::parse(field("from"))?,
        to: State::parse(field("to"))?,
        mode: Mode::parse(field("mode"))?,
        time: time("at")?,
        reason: Reason::parse(field("reason"))?,
        outcome: Outcome::parse(field("outcome")),
        actor: field("actor").to_owned(),
        detail: field("detail").to_owned(),
        instance: field("instance").to_owned(),
        open_until: time("openUntil"),
    })
}

/// Reads the stored settings; an empty hash is none.
pub(super) fn stored_settings(reply: &mut Reply) -> Result<Option<StoredSettings>> {
    let mut fields = pairs(reply)?;
    let Some(revision) = fields.remove("revision") else { return Ok(None) };
    let mut settings = BreakerSettings::default();
    for (name, value) in &fields {
        // What a newer version stored beside is passed over; what was made by hand may be anything.
        let _ = settings.set(name, value);
    }
    let is_readable = settings.violations().is_empty();
    let settings = is_readable.then_some(settings);
    Ok(Some(StoredSettings { settings, revision }))
}

/// Reads what happened to a report.
pub(super) fn disposition(word: &str) -> Result<Disposition> {
    Disposition::parse(word).ok_or_else(|| Error::Internal(format!("a report is {word:?}").into()))
}

fn pairs(reply: &mut Reply) -> Result<HashMap<String, String>> {
    let mut pairs = HashMap::new();
    while reply.len() > 0 {
        pairs.insert(reply.text()?, reply.text()?);
    }
    Ok(pairs)
}

/// The values of a hash's fields, some of which may not be there, or be empty.
struct Texts(Reply);

impl Texts {
    /// The next value as bytes; what is not there or empty is none.
    fn bytes(&mut self) -> Result<Option<Vec<u8>>> {
        match self.0.value() {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Some(_) => Err(Error::Internal("a field of a hash is no text".into())),
        }
    }

    fn text(&mut self) -> Result<Option<String>> {
        let bytes = self.bytes()?;
        bytes.map(String::from_utf8).transpose().map_err(|error| Error::Internal(error.into()))
    }

    fn int(&mut self) -> Result<Option<i64>> {
        self.bytes()?.map(|bytes| parse_int(&bytes).ok_or_else(|| unreadable(&bytes, "number"))).transpose()
    }

    /// A moment; 0 is none.
    fn time(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.int()?.filter(|millis| *millis != 0).map(Timestamp::from_millis))
    }

    fn named<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let read = |bytes: Vec<u8>| {
            let named = std::str::from_utf8(&bytes).ok().and_then(&parse);
            named.ok_or_else(|| unreadable(&bytes, name))
        };
        self.bytes()?.map(read).transpose()
    }
}

fn unreadable(bytes: &[u8], what: &str) -> Error {
    Error::Internal(format!("{:?} is no {what}", String::from_utf8_lossy(bytes)).into())
}
