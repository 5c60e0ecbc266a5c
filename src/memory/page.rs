//! Cuts pages out of a thread's messages.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    threads::{MAX_BATCH_BYTES, MessagesQuery, StoredMessage, Thread},
};

/// The seqs that a query asks for; refuses what lies beyond the thread, and cursors of another incarnation.
pub(crate) fn window(query: &MessagesQuery, thread: &Thread) -> Result<Range<i64>> {
    if query.cursor.as_ref().is_some_and(|cursor| cursor.epoch != thread.epoch) {
        return Err(Error::TokenStale);
    }
    let last_seq = thread.last_seq;
    if query.after_seq > last_seq {
        return Err(Error::SeqOutOfRange { field: "after_seq", last_seq });
    }
    if query.before_seq > last_seq.saturating_add(1) {
        return Err(Error::SeqOutOfRange { field: "before_seq", last_seq });
    }
    let mut after = query.after_seq;
    let mut before = if query.before_seq == 0 { i64::MAX } else { query.before_seq };
    match &query.cursor {
        Some(cursor) if query.descending => before = before.min(cursor.seq),
        Some(cursor) => after = after.max(cursor.seq),
        None => {}
    }
    let low = after.saturating_add(1);
    Ok(low..before.max(low))
}

/// Takes one page of the messages in a window, given ascending, in the query's order; tells whether more follow. A
/// page ends at the query's limit or before [`MAX_BATCH_BYTES`] are exceeded, but holds one message at least.
pub(crate) fn take<'a>(
    messages: impl DoubleEndedIterator<Item = &'a StoredMessage>,
    query: &MessagesQuery,
) -> (Vec<StoredMessage>, bool) {
    if query.descending {
        fill(messages.rev(), query.limit, MAX_BATCH_BYTES)
    } else {
        fill(messages, query.limit, MAX_BATCH_BYTES)
    }
}

/// Takes messages in the order given: at most `limit`, and so many bytes, but one at least. Tells whether more follow.
pub(crate) fn fill<'a>(
    messages: impl Iterator<Item = &'a StoredMessage>,
    limit: usize,
    mut bytes: usize,
) -> (Vec<StoredMessage>, bool) {
    let mut page: Vec<StoredMessage> = Vec::new();
    for stored in messages {
        let size = usize::try_from(stored.message.size).unwrap_or(usize::MAX);
        if page.len() >= limit.max(1) || (!page.is_empty() && size > bytes) {
            return (page, true);
        }
        bytes = bytes.saturating_sub(size);
        page.push(stored.clone());
    }
    (page, false)
}
