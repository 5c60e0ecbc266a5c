//! Appends to a thread in Redis, also of what was accepted without it: the arguments of one script, and its answer.

use bb8_redis::redis::ScriptInvocation;

use super::{entry, fields::profile_fields, index::LAG, run::millis, scripts, threads::RedisThreads};
use crate::{
    call::Call,
    clock::fresh_id,
    error::Result,
    threads::{
        Appended, AppendedMessage, Digest, IDS_GENERATION, MAX_INSTRUCTION_BYTES, MAX_INSTRUCTIONS, Message,
        NewMessage, Owner, Profile, ThreadId,
    },
};

/// How an append treats a thread that is or is not there.
#[derive(Clone, Copy)]
pub(super) enum AppendMode<'a> {
    /// It must be there.
    Append,
    /// It is created if there is none.
    Ensure(&'a Profile),
    /// It must not be there, unless the same request made it.
    Create(&'a Profile, &'a str),
    /// It must be there, and the same request must have made it.
    Repeat(&'a str),
}

/// What must hold of a thread that is appended to.
#[derive(Clone, Copy, Default)]
pub(super) struct Conditions<'a> {
    pub(super) owner: Option<&'a Owner>,
    pub(super) etag: Option<&'a str>,
}

/// What an append says about the index on top.
pub(super) struct AppendReply {
    pub(super) appended: Appended,
    pub(super) index_is_due: bool,
}

impl RedisThreads {
    /// Appends messages, all or none.
    pub(super) async fn append_as(
        &self,
        call: &Call,
        id: &ThreadId,
        messages: &[NewMessage],
        mode: AppendMode<'_>,
        conditions: Conditions<'_>,
    ) -> Result<AppendReply> {
        let keys = self.redis.keys.thread(id);
        let Conditions { owner, etag } = conditions;
        let (word, profile, request) = match mode {
            AppendMode::Append => ("append", None, ""),
            AppendMode::Ensure(profile) => ("ensure", Some(profile), ""),
            AppendMode::Create(profile, request) => ("create", Some(profile), request),
            AppendMode::Repeat(request) => ("repeat", None, request),
        };
        let fields = profile.map_or_else(Vec::new, |profile| {
            let mut fields = profile_fields(profile);
            fields.push(("epoch", fresh_id(&self.redis.clock)));
            fields.push(("create_request", request.to_owned()));
            fields
        });
        let entries: Vec<Vec<u8>> = messages.iter().map(|new| entry::encode(&new.message)).collect();
        let mut reply = self
            .run(call, "append", &scripts::APPEND, id, &keys, |script| {
                let (etag, owner) = (etag.unwrap_or_default(), owner.map_or("", Owner::as_str));
                self.begin_append(script, [word, etag, owner, request], &fields);
                for (new, entry) in messages.iter().zip(&entries) {
                    add_message(script, &new.message, &new.digest, entry);
                }
            })
            .await?;
        let expire_time = reply.expiry()?;
        let previous_last_seq = reply.int()?;
        let index_is_due = reply.flag()?;
        let (mut seqs, mut duplicates) = (reply.list()?, reply.list()?);
        let messages = messages
            .iter()
            .map(|new| {
                Ok(AppendedMessage {
                    id: new.message.id.clone(),
                    seq: seqs.int()?,
                    duplicate: duplicates.flag()?,
                    provisional: false,
                })
            })
            .collect::<Result<_>>()?;
        let thread = reply.fields()?.thread(id, &keys[0], expire_time)?;
        Ok(AppendReply { appended: Appended { thread, previous_last_seq, messages }, index_is_due })
    }

    /// Gives `append.lua` what comes before the messages: mode, etag, owner and request among it.
    pub(super) fn begin_append(
        &self,
        script: &mut ScriptInvocation<'_>,
        [mode, etag, owner, request]: [&str; 4],
        fields: &[(&'static str, String)],
    ) {
        script.arg(mode).arg(etag).arg(owner).arg(self.limits.max_messages).arg(self.limits.max_bytes);
        script.arg(MAX_INSTRUCTIONS).arg(MAX_INSTRUCTION_BYTES).arg(IDS_GENERATION).arg(request);
        script.arg(millis(LAG)).arg(fields.len() * 2);
        for (name, value) in fields {
            script.arg(*name).arg(value);
        }
    }
}

/// Gives `append.lua` one message.
pub(super) fn add_message(
    script: &mut ScriptInvocation<'_>,
    message: &Message,
    digest: &Digest,
    entry: &[u8],
) {
    script.arg(message.id.as_str()).arg(digest.to_string()).arg(u8::from(message.role.is_instruction()));
    script.arg(message.tokens).arg(message.size).arg(entry);
}
