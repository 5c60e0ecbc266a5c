//! Breakers in Redis: one script a mechanism.

use std::time::Duration;

use bb8_redis::redis::{Script, ScriptInvocation};

use super::{Redis, breaker_reply as told, reply::Reply, run::millis, scripts};
use crate::{
    breakers::{
        BreakerSettings, BreakerStore, ExpiredPermit, ModelKey, Window,
        store::{
            Batch, Begins, Change, Changed, Followed, Glance, INSTANCE_KEPT, LOG_KEPT, LeaseRequest,
            LeaseResult, Leased, Listed, ORDERS_KEPT, Recorded, SETTLED_KEPT, STATE_KEPT, Settled,
            Settlement, Terms, Told, Wish,
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
enum Heard {
    /// What follows the word and the time.
    Told(Timestamp, Reply),
    /// The key is new, and the script may not create it.
    Unborn,
}

impl RedisBreakers {
    /// Breakers behind a connection; changes are logged as made by `instance`.
    pub fn new(redis: Redis, instance: &str) -> Self {
        Self { redis, instance: instance.to_owned() }
    }

    /// Runs a mechanism's script. `arguments` adds what follows the terms.
    async fn run(
        &self,
        call: &Call,
        operation: &'static str,
        script: &Script,
        key: &ModelKey,
        terms: &Terms,
        arguments: impl Fn(&mut ScriptInvocation<'_>) + Send + Sync,
    ) -> Result<Told<Heard>> {
        let keys = self.redis.keys.breaker(key);
        let (kind, size) = match terms.settings.window() {
            None => ("none", 0),
            Some(Window::Count(size)) => ("count", size),
            Some(Window::Time(seconds)) => ("time", seconds),
        };
        let told = self
            .redis
            .run_script(call, operation, script, &keys, |script| {
                script.arg(&*terms.revision).arg(kind).arg(size).arg(terms.settings.min_reporters);
                script.arg(millis(STATE_KEPT));
                arguments(script);
            })
            .await;
        let (word, now, mut reply) = match told {
            Ok(told) => told,
            Err(error) => return Err(self.redis.name_wrong_key(call, key, error).await),
        };
        match word.as_str() {
            "OK" => Ok(Told::Done(Heard::Told(now, reply))),
            "UNBORN" => Ok(Told::Done(Heard::Unborn)),
            "OUTDATED" => told::stored_settings(&mut reply.list()?).map(Told::Outdated),
            "CORRUPT" => Err(Error::Corrupt { key: reply.text()?, seq: 0 }),
            other => Err(Error::Internal(format!("a script answered {other:?}").into())),
        }
    }

    async fn record_as(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        batch: &Batch,
        creates: bool,
    ) -> Result<Told<Heard>> {
        let epoch = if creates { fresh_id(&self.redis.clock) } else { String::new() };
        self.run(call, "record", &scripts::BREAKER_RECORD, key, terms, |script| {
            script.arg(&*batch.instance).arg(batch.number).arg(u8::from(creates)).arg(&epoch);
            script.arg(millis(INSTANCE_KEPT));
            for group in &batch.groups {
                match &group.position {
                    Some(position) => script.arg(&position.epoch).arg(position.generation),
                    None => script.arg("").arg(-1),
                };
                script.arg(&group.marks);
                add_wish(script, group.wish);
            }
        })
        .await
    }
}

fn add_wish(script: &mut ScriptInvocation<'_>, wish: Option<Wish>) {
    match wish {
        Some(wish) => script.arg(millis(wish.length)).arg(wish.outcome.as_str()),
        None => script.arg(0).arg(""),
    };
}

/// A length in ms; -1 for none.
fn optional_millis(length: Option<Duration>) -> i64 {
    length.map_or(-1, |length| i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
}

impl Told<Heard> {
    /// Reads an answer: how the breaker stands, and what a mechanism's script tells beside.
    fn read<T>(self, read: impl FnOnce(View, Reply) -> Result<T>) -> Result<Told<T>> {
        match self {
            Self::Done(Heard::Told(now, mut reply)) => {
                read(told::view(now, &mut reply)?, reply).map(Told::Done)
            }
            Self::Done(Heard::Unborn) => {
                Err(Error::Internal("a breaker was not created where it may be".into()))
            }
            Self::Outdated(settings) => Ok(Told::Outdated(settings)),
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
        terms: &Terms,
        with_history: bool,
    ) -> Result<Told<(View, History)>> {
        let heard = self
            .run(call, "load", &scripts::BREAKER_LOAD, key, terms, |script| {
                script.arg(u8::from(with_history));
            })
            .await?;
        heard.read(|view, mut reply| {
            let history = if with_history { told::history(&view, &mut reply)? } else { History::default() };
            Ok((view, history))
        })
    }

    async fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        batch: &Batch,
    ) -> Result<Told<Recorded>> {
        let heard = match self.record_as(call, key, terms, batch, false).await? {
            Told::Done(Heard::Unborn) => {
                self.list_before(call, key).await?;
                self.record_as(call, key, terms, batch, true).await?
            }
            heard @ (Told::Done(Heard::Told(..)) | Told::Outdated(_)) => heard,
        };
        heard.read(|view, mut reply| {
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
        terms: &Terms,
        request: LeaseRequest<'_>,
        (id, length): (&str, Duration),
    ) -> Result<Told<Leased>> {
        let (what, permitted) = match request {
            LeaseRequest::Grant => ("GRANT", None),
            LeaseRequest::Find => ("FIND", None),
            LeaseRequest::Renew(position) => ("RENEW", Some(position)),
        };
        let heard = self
            .run(call, "lease", &scripts::BREAKER_LEASE, key, terms, |script| {
                script.arg(counts_expired(&terms.settings)).arg(what).arg(id).arg(millis(length));
                script.arg(terms.settings.half_open_permits);
                script.arg(permitted.map_or("", |position| position.epoch.as_str()));
                script.arg(permitted.map_or(0, |position| position.generation));
            })
            .await?;
        heard.read(|view, mut reply| {
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
        terms: &Terms,
        settlement: &Settlement,
    ) -> Result<Told<Settled>> {
        let heard = self
            .run(call, "settle", &scripts::BREAKER_SETTLE, key, terms, |script| {
                script.arg(counts_expired(&terms.settings));
                script.arg(&settlement.position.epoch).arg(settlement.position.generation);
                script.arg(&settlement.lease).arg(&[settlement.mark.as_byte()][..]);
                add_wish(script, settlement.wish);
                script.arg(SETTLED_KEPT);
            })
            .await?;
        heard.read(|view, mut reply| Ok(Settled { view, disposition: told::disposition(&reply.text()?)? }))
    }

    async fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        change: &Change,
    ) -> Result<Told<Changed>> {
        self.list_before(call, key).await?;
        let epoch = fresh_id(&self.redis.clock);
        let heard = self
            .run(call, "transition", &scripts::BREAKER_TRANSITION, key, terms, |script| {
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
        heard.read(|view, mut reply| Ok(Changed { won: reply.flag()?, view }))
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
        terms: &Terms,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Told<Followed>> {
        let heard = self
            .run(call, "follow", &scripts::BREAKER_FOLLOW, key, terms, |script| {
                script.arg(after.map_or("", |after| after.epoch.as_str()));
                script.arg(after.map_or(0, |after| after.generation)).arg(limit);
            })
            .await?;
        heard.read(|view, mut reply| {
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
