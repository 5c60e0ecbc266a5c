//! Breakers in Redis: one script a mechanism.

use std::time::Duration;

use bb8_redis::redis::{Script, ScriptInvocation};

use super::{Redis, breaker_reply as told, reply::Reply, run::millis, scripts};
use crate::{
    breakers::{
        BreakerSettings, BreakerStore, ExpiredPermit, ModelKey, Window,
        store::{
            Attempt, Batch, Begins, Change, Changed, Followed, Glance, INSTANCE_KEPT, InForce, LOG_KEPT,
            LeaseRequest, LeaseResult, Leased, Listed, ORDERS_KEPT, Recorded, RequestedPause, SETTLED_KEPT,
            STATE_KEPT, Settled, Settlement,
        },
    },
    breakers::{History, Log, Position, View},
    call::{Call, Source},
    clock::{Timestamp, fresh_id},
    error::{Error, Result},
};

/// Keeps breakers in Redis, shared by every instance.
#[derive(Debug, Clone)]
pub struct RedisBreakers {
    pub(super) redis: Redis,
    /// The name of this process in logs of breakers.
    instance: String,
}

/// A key without state stays on the list for so long: somebody may be about to make it.
const UNLIST_AFTER: Duration = Duration::from_mins(1);

/// What a script answered where it went by the settings in force.
enum Answered {
    /// What follows the word and the time.
    Attempt(Timestamp, Reply),
    /// The key is new, and the script may not create it.
    Unborn,
}

impl RedisBreakers {
    /// Breakers behind a connection; changes are logged as made by `instance`.
    pub fn new(redis: Redis, instance: &str) -> Self {
        Self { redis, instance: instance.to_owned() }
    }

    /// Runs a mechanism's script. `arguments` adds the arguments behind the settings in force.
    async fn run(
        &self,
        call: &Call,
        operation: &'static str,
        script: &Script,
        key: &ModelKey,
        in_force: &InForce,
        arguments: impl Fn(&mut ScriptInvocation<'_>) + Send + Sync,
    ) -> Result<Attempt<Answered>> {
        let keys = self.redis.keys.breaker(key);
        let (kind, size) = match in_force.settings.window() {
            None => ("none", 0),
            Some(Window::Count(size)) => ("count", size),
            Some(Window::Time(seconds)) => ("time", seconds),
        };
        let told = self
            .redis
            .run_script(call, operation, script, &keys, |script| {
                script.arg(&*in_force.revision).arg(kind).arg(size).arg(in_force.settings.min_reporters);
                script.arg(millis(STATE_KEPT));
                arguments(script);
            })
            .await;
        let (word, now, mut reply) = match told {
            Ok(told) => told,
            Err(error) => return Err(self.redis.name_wrong_key(call, key, error).await),
        };
        match word.as_str() {
            "OK" => Ok(Attempt::Done(Answered::Attempt(now, reply))),
            "UNBORN" => Ok(Attempt::Done(Answered::Unborn)),
            "OUTDATED" => told::stored_settings(&mut reply.list()?).map(Attempt::Outdated),
            "CORRUPT" => Err(Error::Corrupt { key: reply.text()?, seq: 0 }),
            other => Err(Error::Internal(format!("a script answered {other:?}").into())),
        }
    }

    async fn record_as(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        batch: &Batch,
        creates: bool,
    ) -> Result<Attempt<Answered>> {
        let epoch = if creates { fresh_id(&self.redis.clock) } else { String::new() };
        self.run(call, "record", &scripts::BREAKER_RECORD, key, in_force, |script| {
            script.arg(&*batch.instance).arg(batch.number).arg(u8::from(creates)).arg(&epoch);
            script.arg(millis(INSTANCE_KEPT));
            for group in &batch.groups {
                match &group.position {
                    Some(position) => script.arg(&position.epoch).arg(position.generation),
                    None => script.arg("").arg(-1),
                };
                script.arg(&group.results);
                add_pause(script, group.pause);
            }
        })
        .await
    }
}

fn add_pause(script: &mut ScriptInvocation<'_>, pause: Option<RequestedPause>) {
    match pause {
        Some(pause) => script.arg(millis(pause.length)).arg(pause.outcome.as_str()),
        None => script.arg(0).arg(""),
    };
}

/// A length in ms; -1 for none.
fn optional_millis(length: Option<Duration>) -> i64 {
    length.map_or(-1, |length| i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
}

impl Attempt<Answered> {
    /// Reads an answer: how the breaker stands, and what a mechanism's script tells beside.
    fn read<T>(self, read: impl FnOnce(View, Reply) -> Result<T>) -> Result<Attempt<T>> {
        match self {
            Self::Done(Answered::Attempt(now, mut reply)) => {
                read(told::view(now, &mut reply)?, reply).map(Attempt::Done)
            }
            Self::Done(Answered::Unborn) => {
                Err(Error::Internal("a breaker was not created where it may be".into()))
            }
            Self::Outdated(settings) => Ok(Attempt::Outdated(settings)),
        }
    }
}

impl BreakerStore for RedisBreakers {
    fn source(&self) -> Source {
        Source::Shared
    }

    async fn load(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        with_history: bool,
    ) -> Result<Attempt<(View, History)>> {
        let answered = self
            .run(call, "load", &scripts::BREAKER_LOAD, key, in_force, |script| {
                script.arg(u8::from(with_history));
            })
            .await?;
        answered.read(|view, mut reply| {
            let history = if with_history { told::history(&view, &mut reply)? } else { History::default() };
            Ok((view, history))
        })
    }

    async fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        batch: &Batch,
    ) -> Result<Attempt<Recorded>> {
        let answered = match self.record_as(call, key, in_force, batch, false).await? {
            Attempt::Done(Answered::Unborn) => {
                self.list_before(call, key).await?;
                self.record_as(call, key, in_force, batch, true).await?
            }
            answered @ (Attempt::Done(Answered::Attempt(..)) | Attempt::Outdated(_)) => answered,
        };
        answered.read(|view, mut reply| {
            let mut groups = reply.list()?;
            let count = groups.len();
            let groups = std::iter::repeat_with(|| told::disposition(&groups.text()?))
                .take(count)
                .collect::<Result<_>>()?;
            Ok(Recorded { view, groups, longest_run: reply.int()? })
        })
    }

    async fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        request: LeaseRequest<'_>,
        (id, length): (&str, Duration),
    ) -> Result<Attempt<Leased>> {
        let (what, permitted) = match request {
            LeaseRequest::Grant => ("GRANT", None),
            LeaseRequest::Find => ("FIND", None),
            LeaseRequest::Renew(position) => ("RENEW", Some(position)),
        };
        let answered = self
            .run(call, "lease", &scripts::BREAKER_LEASE, key, in_force, |script| {
                script.arg(counts_expired(&in_force.settings)).arg(what).arg(id).arg(millis(length));
                script.arg(in_force.settings.half_open_permits);
                script.arg(permitted.map_or("", |position| position.epoch.as_str()));
                script.arg(permitted.map_or(0, |position| position.generation));
            })
            .await?;
        answered.read(|view, mut reply| {
            let word = reply.text()?;
            let result = match word.as_str() {
                "LIVE" => LeaseResult::Live(reply.time()?),
                "FULL" => LeaseResult::Full,
                "SETTLED" => LeaseResult::Settled,
                "ABSENT" => LeaseResult::Absent,
                "NOT_LEASING" => LeaseResult::NotLeasing,
                other => return Err(Error::Internal(format!("a lease is {other:?}").into())),
            };
            Ok(Leased { view, result })
        })
    }

    async fn settle(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        settlement: &Settlement,
    ) -> Result<Attempt<Settled>> {
        let answered = self
            .run(call, "settle", &scripts::BREAKER_SETTLE, key, in_force, |script| {
                script.arg(counts_expired(&in_force.settings));
                script.arg(&settlement.position.epoch).arg(settlement.position.generation);
                script.arg(&settlement.lease).arg(&[settlement.result.as_byte()][..]);
                add_pause(script, settlement.pause);
                script.arg(SETTLED_KEPT);
            })
            .await?;
        answered.read(|view, mut reply| Ok(Settled { view, disposition: told::disposition(&reply.text()?)? }))
    }

    async fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        change: &Change,
    ) -> Result<Attempt<Changed>> {
        self.list_before(call, key).await?;
        let epoch = fresh_id(&self.redis.clock);
        let answered = self
            .run(call, "transition", &scripts::BREAKER_TRANSITION, key, in_force, |script| {
                script.arg(&change.expected.epoch).arg(change.expected.generation).arg(&epoch);
                script.arg(change.from.as_str()).arg(change.to.as_str());
                script.arg(change.mode.as_str()).arg(change.reason.as_str());
                script.arg(u8::from(change.begins.is_state())).arg(u8::from(change.empties));
                script.arg(optional_millis(change.open_for)).arg(u8::from(change.reanchors));
                script.arg(change.attempts).arg(optional_millis(change.override_for));
                script.arg(change.outcome.map_or("", |outcome| outcome.as_str()));
                script.arg(&change.actor).arg(&change.detail);
                script.arg(change.request.as_deref().unwrap_or_default()).arg(&self.instance);
                script.arg(u8::from(change.begins == Begins::Epoch)).arg(LOG_KEPT).arg(ORDERS_KEPT);
            })
            .await?;
        answered.read(|view, mut reply| Ok(Changed { won: reply.flag()?, view }))
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        expected: &str,
        settings: Option<&BreakerSettings>,
    ) -> Result<bool> {
        let [_, _, _, stored, _] = self.redis.keys.breaker(key);
        let revision = settings.map(|_| fresh_id(&self.redis.clock)).unwrap_or_default();
        let fields = settings.map(BreakerSettings::fields).unwrap_or_default();
        let (_, _, mut reply) = self
            .redis
            .run_script(call, "configure", &scripts::BREAKER_CONFIGURE, &[stored], |script| {
                script.arg(expected).arg(&revision);
                for (name, value) in &fields {
                    script.arg(*name).arg(value);
                }
            })
            .await?;
        reply.flag()
    }

    async fn remove(&self, call: &Call, key: &ModelKey) -> Result<()> {
        // It stays on the list for now, so that those who only look for changes see it go.
        if self.is_listed(call, key).await? {
            match self.list_before(call, key).await {
                // It only makes room, and must be possible most of all then.
                Ok(()) | Err(Error::RedisOutOfMemory) => {}
                Err(error) => return Err(error),
            }
        }
        let keys = self.redis.keys.breaker(key);
        self.redis.run_script(call, "remove breaker", &scripts::BREAKER_REMOVE, &keys, |_| {}).await?;
        Ok(())
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>> {
        self.read_list(call).await
    }

    async fn unlist(&self, call: &Call, listed: &Listed) -> Result<()> {
        self.take_off_list(call, listed, UNLIST_AFTER).await
    }

    async fn follow(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Attempt<Followed>> {
        let answered = self
            .run(call, "follow", &scripts::BREAKER_FOLLOW, key, in_force, |script| {
                script.arg(after.map_or("", |after| after.epoch.as_str()));
                script.arg(after.map_or(0, |after| after.generation)).arg(limit);
            })
            .await?;
        answered.read(|view, mut reply| {
            let mut newest = told::transitions(&view.snapshot.position.epoch, &mut reply.list()?)?;
            newest.reverse();
            let expires_in = u64::try_from(reply.int()?).ok().map(Duration::from_millis);
            Ok(Followed { view, newest, expires_in })
        })
    }

    async fn glance(&self, call: &Call, keys: &[ModelKey]) -> Result<Vec<Option<Glance>>> {
        self.read_glances(call, keys).await
    }

    async fn list_changed(&self, call: &Call, within: Duration) -> Result<Vec<ModelKey>> {
        self.read_changed(call, within).await
    }

    async fn log(&self, call: &Call, key: &ModelKey, after: i64, limit: usize) -> Result<Log> {
        let [state, _, _, _, log] = self.redis.keys.breaker(key);
        let mut invocation = scripts::BREAKER_LOG.prepare_invoke();
        invocation.key(state).key(log).arg(after).arg(limit.saturating_add(1));
        let values = match self.redis.invoke(call, "read log", &invocation).await {
            Ok(values) => values,
            Err(error) => return Err(self.redis.name_wrong_key(call, key, error).await),
        };
        let mut reply = Reply::new(values);
        let (_, _) = (reply.text()?, reply.time()?);
        let epoch = reply.text()?;
        let mut transitions = told::transitions(&epoch, &mut reply.list()?)?;
        let more = transitions.len() > limit;
        transitions.truncate(limit);
        Ok(Log { epoch, transitions, more })
    }
}

fn counts_expired(settings: &BreakerSettings) -> u8 {
    match settings.expired_permit {
        ExpiredPermit::Release => 0,
        ExpiredPermit::Failure => 1,
    }
}
