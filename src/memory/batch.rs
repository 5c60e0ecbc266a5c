//! Tells the new messages of a batch from those that a thread has already.

use std::collections::HashMap;

use super::ids::Use;
use crate::{
    error::{Error, Result},
    threads::{AppendedMessage, MessageId, NewMessage, NewThread},
};

/// Decides about each message of an append whether it is new; new ones get the seqs after `last_seq`. An id that was
/// used for other content, before or earlier in the batch, refuses the whole batch.
pub(crate) fn judge(
    messages: &[NewMessage],
    last_seq: i64,
    find: impl Fn(&MessageId) -> Option<Use>,
) -> Result<Vec<AppendedMessage>> {
    let mut next = last_seq;
    let mut seen: HashMap<&MessageId, Use> = HashMap::with_capacity(messages.len());
    let mut verdicts = Vec::with_capacity(messages.len());
    for new in messages {
        let id = &new.message.id;
        let known = seen.get(id).copied().or_else(|| find(id));
        let seq = if let Some(known) = known {
            same_content(new, known)?
        } else {
            next += 1;
            seen.insert(id, Use { seq: next, digest: new.digest });
            next
        };
        let duplicate = known.is_some();
        verdicts.push(AppendedMessage { id: id.clone(), seq, duplicate, provisional: false });
    }
    Ok(verdicts)
}

/// Decides about each message of a creation that was carried out before: all must be known.
pub(crate) fn judge_repeat(
    thread: &NewThread,
    find: impl Fn(&MessageId) -> Option<Use>,
) -> Result<Vec<AppendedMessage>> {
    let mut verdicts = Vec::with_capacity(thread.messages.len());
    for new in &thread.messages {
        let id = &new.message.id;
        let known = find(id).ok_or_else(|| Error::ThreadExists { id: thread.id.to_string() })?;
        let seq = same_content(new, known)?;
        verdicts.push(AppendedMessage { id: id.clone(), seq, duplicate: true, provisional: false });
    }
    Ok(verdicts)
}

/// The new messages of a batch with their seqs, in order.
pub(crate) fn fresh<'a>(
    messages: &'a [NewMessage],
    verdicts: &[AppendedMessage],
) -> Vec<(&'a NewMessage, i64)> {
    let pairs = messages.iter().zip(verdicts);
    pairs.filter(|(_, verdict)| !verdict.duplicate).map(|(new, verdict)| (new, verdict.seq)).collect()
}

fn same_content(new: &NewMessage, known: Use) -> Result<i64> {
    if known.digest == new.digest {
        Ok(known.seq)
    } else {
        Err(Error::MessageIdReused { id: new.message.id.to_string() })
    }
}
