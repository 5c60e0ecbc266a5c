//! Reads of a thread: its fields, pages of its messages, and what a model's window takes.

use super::{
    fields::Fields,
    keys::ThreadKeys,
    reply::{Messages, Reply},
    scripts,
    threads::RedisThreads,
};
use crate::{
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
    threads::{
        Context, ContextQuery, MAX_BATCH_BYTES, StoredMessage, Thread, ThreadId,
        context::{self, Tail},
    },
};

/// So many messages more than a window takes are read at first, to see groups of tool calls that begin before it.
const SLACK: usize = 4;

/// What to read of a thread; by default the thread alone.
#[derive(Clone, Copy, Default)]
pub(super) struct ReadArguments<'a> {
    pub(super) renew: bool,
    pub(super) epoch: &'a str,
    /// Revision of the last change that was no append, if it matters.
    pub(super) edited: Option<i64>,
    pub(super) after: i64,
    pub(super) before: i64,
    pub(super) descending: bool,
    pub(super) limit: usize,
    pub(super) max_tokens: i64,
    pub(super) with_instructions: bool,
}

/// What was read.
pub(super) struct Read {
    pub(super) thread: Thread,
    /// Seq of the oldest message in the list; instructions that outlived trimming are older.
    first_listed: i64,
    /// Revision of the last change that was no append.
    edited: i64,
    /// What the script says of messages.
    pub(super) reply: Reply,
}

impl RedisThreads {
    /// Reads a thread, and messages as `arguments` say: all that [`scripts::READ`] takes from the renewal on.
    pub(super) async fn read(
        &self,
        call: &Call,
        operation: &'static str,
        id: &ThreadId,
        arguments: ReadArguments<'_>,
    ) -> Result<Read> {
        let keys = self.redis.keys.thread(id);
        let mut reply = self.run_read(call, operation, id, &keys, arguments).await?;
        let expire_time = reply.expiry()?;
        let fields = reply.fields()?;
        let thread = fields.thread(id, &keys[0], expire_time)?;
        Ok(Read { thread, first_listed: fields.int("first_seq"), edited: fields.int("edited"), reply })
    }

    async fn run_read(
        &self,
        call: &Call,
        operation: &'static str,
        id: &ThreadId,
        keys: &ThreadKeys,
        arguments: ReadArguments<'_>,
    ) -> Result<Reply> {
        self.run(call, operation, &scripts::READ, id, keys, |script| {
            script.arg(u8::from(arguments.renew)).arg(arguments.epoch).arg(arguments.edited.unwrap_or(-1));
            script.arg(arguments.after).arg(arguments.before).arg(u8::from(arguments.descending));
            script.arg(arguments.limit).arg(MAX_BATCH_BYTES).arg(arguments.max_tokens);
            script.arg(u8::from(arguments.with_instructions));
        })
        .await
    }

    /// Reads a thread's fields and expiry without renewing it.
    pub(super) async fn read_fields(
        &self,
        call: &Call,
        id: &ThreadId,
    ) -> Result<(Fields, Option<Timestamp>)> {
        let keys = self.redis.keys.thread(id);
        let none = ReadArguments::default();
        let mut reply = self.run_read(call, "get", id, &keys, none).await?;
        let expire_time = reply.expiry()?;
        Ok((reply.fields()?, expire_time))
    }

    /// Reads the newest messages, further and further back, until the window's choice is certain.
    pub(super) async fn select_context(&self, call: &Call, query: &ContextQuery) -> Result<Context> {
        let [_, messages_key, system_key, ..] = self.redis.keys.thread(&query.id);
        let budget = query.budget;
        let mut slice = match usize::try_from(budget.max_messages) {
            Ok(0) | Err(_) => 1000,
            Ok(wanted) => wanted.saturating_add(SLACK),
        };
        let mut tail: Vec<StoredMessage> = Vec::new();
        let mut instructions = Vec::new();
        // As the first slice found it; what is appended since is none of this answer.
        let mut seen: Option<(Thread, i64)> = None;
        let call = &self.redis.pool.bounded(call);
        loop {
            let before = tail.first().map_or(0, |oldest| oldest.seq);
            let arguments = ReadArguments {
                renew: query.renew && seen.is_none(),
                epoch: seen.as_ref().map_or("", |(thread, _)| thread.epoch.as_str()),
                edited: seen.as_ref().map(|(_, edited)| *edited),
                before,
                descending: true,
                limit: slice,
                max_tokens: budget.max_tokens,
                with_instructions: seen.is_none(),
                ..ReadArguments::default()
            };
            let Read { thread, first_listed, edited, mut reply } =
                match self.read(call, "context", &query.id, arguments).await {
                    // Somebody changed messages between two slices: begin again with what is there now.
                    Err(Error::TokenStale) => {
                        (tail, seen) = (Vec::new(), None);
                        continue;
                    }
                    other => other?,
                };
            let Messages { messages: mut older, damaged } = reply.messages(&messages_key)?;
            let more = reply.flag()?;
            if seen.is_none() {
                instructions = reply.messages(&system_key)?.whole()?;
                instructions.sort_by_key(|kept| kept.seq);
            }
            older.reverse();
            older.append(&mut tail);
            tail = older;
            let choice = context::select(
                Tail {
                    messages: &tail,
                    instructions: &instructions,
                    is_whole: !more && damaged.is_none(),
                    head_was_cut: first_listed > 1,
                },
                budget,
            );
            let (thread, edited) = seen.take().unwrap_or((thread, edited));
            if let Some(messages) = choice {
                return Ok(Context { thread, messages });
            }
            // The window reaches down to a damaged entry: a context with a hole would mislead.
            if let Some(damaged) = damaged {
                return Err(damaged);
            }
            seen = Some((thread, edited));
            slice = slice.saturating_mul(2);
        }
    }
}
