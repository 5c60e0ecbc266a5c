//! Answers that hold messages or go on at a page token.

use super::{convert, messages, proto, tokens};
use crate::{
    call::{Answer, Source},
    error::{Error, Result},
    threads::{
        Context, MessagesCursor, MessagesPage, MessagesQuery, Owner, StoredMessage, ThreadId, ThreadsCursor,
        ThreadsPage, UpdatedMessage,
    },
};

/// Writes a page of threads.
pub(super) fn threads(owner: &Owner, answer: Answer<ThreadsPage>) -> proto::ListThreadsResponse {
    let Answer { value: page, source } = answer;
    let last = page.threads.last().filter(|_| page.more);
    let cursor = last.map(|thread| ThreadsCursor { update_time: thread.update_time, id: thread.id.clone() });
    proto::ListThreadsResponse {
        next_page_token: cursor.map(|cursor| tokens::seal_threads(owner, &cursor)).unwrap_or_default(),
        threads: page.threads.into_iter().map(convert::thread).collect(),
        authority: convert::authority(source),
    }
}

/// Writes a page of messages. It ends before a message that cannot be decoded, and its token leads there; a page that
/// would begin there is an error, so that the caller steps over it by seq.
pub(super) fn messages(
    query: &MessagesQuery,
    answer: Answer<MessagesPage>,
) -> Result<proto::ListMessagesResponse> {
    let Answer { value: page, source } = answer;
    let (messages, corrupt) = write_while_readable(&page.thread.id, &page.messages);
    let more = match corrupt {
        Some(error) if messages.is_empty() => return Err(error),
        corrupt => page.more || corrupt.is_some(),
    };
    let last = page.messages.get(..messages.len()).and_then(<[_]>::last).filter(|_| more);
    let cursor = last.map(|last| MessagesCursor {
        epoch: page.thread.epoch.clone(),
        seq: last.seq,
        local: matches!(source, Source::Local { as_of: Some(_) }),
    });
    Ok(proto::ListMessagesResponse {
        messages,
        next_page_token: cursor.map(|cursor| tokens::seal_messages(query, &cursor)).unwrap_or_default(),
        thread: Some(convert::thread(page.thread)),
        authority: convert::authority(source),
        as_of: convert::as_of(source),
    })
}

fn write_while_readable(id: &ThreadId, stored: &[StoredMessage]) -> (Vec<proto::Message>, Option<Error>) {
    let mut messages = Vec::with_capacity(stored.len());
    for stored in stored {
        match messages::write(id, stored) {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, Some(error)),
        }
    }
    (messages, None)
}

/// Writes a context. A message in it that cannot be decoded is an error: a context with a hole would mislead.
pub(super) fn context(answer: Answer<Context>) -> Result<proto::GetContextResponse> {
    let Answer { value: Context { thread, messages: chosen }, source } = answer;
    let count = i64::try_from(chosen.len()).unwrap_or(i64::MAX);
    Ok(proto::GetContextResponse {
        omitted_count: thread.message_count.saturating_sub(count).max(0),
        token_count: chosen.iter().map(|stored| i64::from(stored.message.tokens)).sum(),
        messages: chosen.iter().map(|stored| messages::write(&thread.id, stored)).collect::<Result<_>>()?,
        thread: Some(convert::thread(thread)),
        authority: convert::authority(source),
        as_of: convert::as_of(source),
    })
}

/// Writes a message after its change.
pub(super) fn updated_message(answer: Answer<UpdatedMessage>) -> Result<proto::UpdateMessageResponse> {
    let Answer { value: UpdatedMessage { thread, message }, source } = answer;
    Ok(proto::UpdateMessageResponse {
        message: Some(messages::write(&thread.id, &message)?),
        thread: Some(convert::thread(thread)),
        authority: convert::authority(source),
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use bytes::Bytes;

    use super::*;
    use crate::{
        clock::Timestamp,
        threads::{Message, MessageId, Profile, Role, Thread, Trim, Ttl},
    };

    fn id() -> ThreadId {
        ThreadId::parse("", "t").unwrap()
    }

    fn thread() -> Thread {
        let ttl = Ttl::new("", Duration::from_hours(2)).unwrap();
        let (labels, trim) = (BTreeMap::new(), Trim { max_messages: 7, max_bytes: 0 });
        let profile = Profile { owner: None, title: String::new(), labels, ttl, pinned: false, trim };
        Thread {
            id: id(),
            profile,
            epoch: "01JD".into(),
            revision: 4,
            message_count: 3,
            first_seq: 1,
            last_seq: 3,
            token_count: 9,
            size_bytes: 99,
            parent: None,
            create_time: Timestamp::from_millis(1),
            update_time: Timestamp::from_millis(2),
            expire_time: Some(Timestamp::from_millis(7_200_002)),
            local: false,
        }
    }

    fn stored(seq: i64, payload: &'static [u8]) -> StoredMessage {
        let id = MessageId::parse("", &format!("m{seq}")).unwrap();
        let payload = Bytes::from_static(payload);
        let message =
            Message { id, role: Role::User, in_progress: false, tokens: 3, size: 33, tools: vec![], payload };
        StoredMessage {
            seq,
            commit_time: Timestamp::from_millis(2),
            provisional: false,
            message: Arc::new(message),
        }
    }

    fn query() -> MessagesQuery {
        MessagesQuery {
            id: id(),
            after_seq: 0,
            before_seq: 0,
            descending: false,
            limit: 7,
            cursor: None,
            renew: true,
        }
    }

    fn open(token: &str) -> MessagesCursor {
        tokens::open_messages(&query(), token).unwrap()
    }

    const CORRUPT: &[u8] = &[0xff];

    #[test]
    fn a_page_ends_before_a_corrupt_message_and_its_token_leads_there() {
        let stored = vec![stored(1, b""), stored(2, CORRUPT), stored(3, b"")];
        let page = MessagesPage { thread: thread(), messages: stored, more: false };
        let answer = messages(&query(), Answer::shared(page)).unwrap();
        assert_eq!(answer.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [1]);
        assert_eq!(open(&answer.next_page_token).seq, 1);
    }

    #[test]
    fn a_page_that_begins_at_a_corrupt_message_fails() {
        let page = MessagesPage { thread: thread(), messages: vec![stored(2, CORRUPT)], more: false };
        let error = messages(&query(), Answer::shared(page)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { seq: 2, .. }));
    }

    #[test]
    fn only_pages_that_memory_gave_out_in_an_outage_have_local_tokens() {
        let outage = Source::Local { as_of: Some(Timestamp::from_millis(5)) };
        for (source, local) in
            [(outage, true), (Source::Local { as_of: None }, false), (Source::Shared, false)]
        {
            let value = MessagesPage { thread: thread(), messages: vec![stored(1, b"")], more: true };
            let answer = messages(&query(), Answer { value, source }).unwrap();
            assert_eq!(open(&answer.next_page_token).local, local, "{source:?}");
            assert_eq!(answer.as_of.is_some(), local, "{source:?}");
        }
    }

    #[test]
    fn a_context_tells_what_it_left_out_and_what_it_takes() {
        let chosen = Context { thread: thread(), messages: vec![stored(2, b""), stored(3, b"")] };
        let answer = context(Answer::local(chosen)).unwrap();
        assert_eq!((answer.omitted_count, answer.token_count), (1, 6));
        let thread = answer.thread.unwrap();
        assert_eq!((thread.etag.as_str(), thread.ttl.unwrap().seconds), ("\"01JD-4\"", 7200));
        assert_eq!(thread.trim, Some(proto::TrimPolicy { max_messages: 7, max_bytes: 0 }));
    }
}
