//! Requests into the domain: each is checked whole, and every violated field is told.

use prost_types::FieldMask;

use super::{
    check::{Check, Path},
    convert,
    fields::{masked, optional, page_size, request_id},
    ids, messages,
    proto::{self, truncate_thread_request as truncate},
    tokens,
};
use crate::{
    error::Result,
    threads::{
        Append, ContextQuery, Cut, Fork, Guard, MessageId, MessageUpdate, MessagesQuery, NewThread, Owner,
        Profile, ThreadChange, ThreadId, ThreadsQuery, Ttl,
        context::Budget,
        watch::{Place, Position, Since},
    },
};

const THREAD: Path<'static> = Path::Root("thread");
const MESSAGE: Path<'static> = Path::Root("message");
const RESUME: Path<'static> = Path::Root("resume");
/// An epoch is shorter; what was never one is told so by a resync.
const MAX_EPOCH_BYTES: usize = 128;

pub(super) fn create(request: proto::CreateThreadRequest, default_ttl: Ttl) -> Result<NewThread> {
    let mut check = Check::default();
    let request_id = request_id(&mut check, &request.request_id);
    let thread = request.thread.unwrap_or_default();
    let owner = optional(&mut check, THREAD.field("owner"), &thread.owner, Owner::parse_new);
    let id = match thread.id.as_str() {
        "" => ids::created_thread(owner.as_ref(), request_id.as_ref()),
        id => ThreadId::parse_new("id", id),
    };
    let id = check.take(THREAD.field("id"), id);
    let profile = profile(&mut check, thread, owner, default_ttl);
    let messages = messages::parse_batch(&mut check, request.messages, request_id.as_ref());
    check.finish(|| Some(NewThread { id: id?, profile: profile?, messages: messages?, request_id }))
}

fn profile(
    check: &mut Check,
    thread: proto::ConversationThread,
    owner: Option<Owner>,
    default_ttl: Ttl,
) -> Option<Profile> {
    convert::check_title(check, THREAD.field("title"), &thread.title);
    convert::check_labels(check, THREAD.field("labels"), &thread.labels);
    let ttl = match thread.ttl {
        Some(ttl) => check.take(THREAD.field("ttl"), convert::ttl(ttl)),
        None => Some(default_ttl),
    };
    let trim = convert::trim(check, THREAD.field("trim"), thread.trim);
    Some(Profile {
        owner,
        title: thread.title,
        labels: thread.labels,
        ttl: ttl?,
        pinned: thread.pinned,
        trim,
    })
}

/// Parses the id of a thread that should exist, for the requests that say no more.
pub(super) fn thread_id(id: &str) -> Result<ThreadId> {
    let mut check = Check::default();
    let id = existing(&mut check, id);
    check.finish(|| id)
}

pub(super) fn list(request: &proto::ListThreadsRequest) -> Result<ThreadsQuery> {
    let mut check = Check::default();
    let owner = check.take(Path::Root("owner"), Owner::parse("owner", &request.owner));
    let limit = page_size(&mut check, request.page_size);
    let mut query = check.finish(|| Some(ThreadsQuery { owner: owner?, limit, cursor: None }))?;
    if !request.page_token.is_empty() {
        query.cursor = Some(tokens::open_threads(&query.owner, &request.page_token)?);
    }
    Ok(query)
}

pub(super) fn update(request: proto::UpdateThreadRequest) -> Result<(ThreadId, ThreadChange, Guard)> {
    let mut check = Check::default();
    let thread = request.thread.unwrap_or_default();
    let id = check.take(THREAD.field("id"), ThreadId::parse("id", &thread.id));
    let change = change(&mut check, &thread, &request.update_mask.unwrap_or_default());
    let guard = guard(&mut check, request.etag, &request.request_id);
    check.finish(|| Some((id?, change, guard)))
}

fn change(check: &mut Check, thread: &proto::ConversationThread, mask: &FieldMask) -> ThreadChange {
    let named = masked(check, mask, &["title", "labels", "ttl", "pinned", "trim"], None);
    let has = |name: &str| named.contains(&name);
    if has("title") {
        convert::check_title(check, THREAD.field("title"), &thread.title);
    }
    if has("labels") {
        convert::check_labels(check, THREAD.field("labels"), &thread.labels);
    }
    // Without a value the thread keeps its own.
    let ttl = thread.ttl.filter(|_| has("ttl"));
    ThreadChange {
        title: has("title").then(|| thread.title.clone()),
        labels: has("labels").then(|| thread.labels.clone()),
        ttl: ttl.and_then(|ttl| check.take(THREAD.field("ttl"), convert::ttl(ttl))),
        pinned: has("pinned").then_some(thread.pinned),
        trim: has("trim").then(|| convert::trim(check, THREAD.field("trim"), thread.trim)),
    }
}

pub(super) fn delete(request: proto::DeleteThreadRequest) -> Result<(ThreadId, Guard)> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    let guard = guard(&mut check, request.etag, &request.request_id);
    check.finish(|| Some((id?, guard)))
}

pub(super) fn touch(request: &proto::TouchThreadRequest) -> Result<(ThreadId, Option<Ttl>)> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    let ttl = request.ttl.and_then(|ttl| check.take(Path::Root("ttl"), convert::ttl(ttl)));
    check.finish(|| Some((id?, ttl)))
}

pub(super) fn append(request: proto::AppendMessagesRequest, default_ttl: Ttl) -> Result<Append> {
    let mut check = Check::default();
    let id = if request.create_if_missing {
        ThreadId::parse_new("thread_id", &request.thread_id)
    } else {
        ThreadId::parse("thread_id", &request.thread_id)
    };
    let id = check.take(Path::Root("thread_id"), id);
    let owner = optional(&mut check, Path::Root("owner"), &request.owner, Owner::parse_new);
    let request_id = request_id(&mut check, &request.request_id);
    check.require(Path::Root("messages"), !request.messages.is_empty(), "must hold at least one message");
    let messages = messages::parse_batch(&mut check, request.messages, request_id.as_ref());
    let create = request.create_if_missing.then_some(default_ttl);
    let etag = etag(request.etag);
    check.finish(|| Some(Append { id: id?, messages: messages?, owner, create, etag }))
}

pub(super) fn list_messages(request: &proto::ListMessagesRequest) -> Result<MessagesQuery> {
    let &proto::ListMessagesRequest { after_seq, before_seq, descending, .. } = request;
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    convert::check_count(&mut check, Path::Root("after_seq"), after_seq);
    convert::check_count(&mut check, Path::Root("before_seq"), before_seq);
    let limit = page_size(&mut check, request.page_size);
    let (cursor, renew) = (None, !request.peek);
    let mut query = check.finish(|| {
        Some(MessagesQuery { id: id?, after_seq, before_seq, descending, limit, cursor, renew })
    })?;
    if !request.page_token.is_empty() {
        query.cursor = Some(tokens::open_messages(&query, &request.page_token)?);
    }
    Ok(query)
}

pub(super) fn context(request: &proto::GetContextRequest) -> Result<ContextQuery> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    convert::check_count(&mut check, Path::Root("max_messages"), request.max_messages);
    convert::check_count(&mut check, Path::Root("max_tokens"), request.max_tokens);
    let budget = Budget { max_messages: request.max_messages.into(), max_tokens: request.max_tokens.into() };
    check.finish(|| Some(ContextQuery { id: id?, budget, renew: !request.peek }))
}

pub(super) fn update_message(request: proto::UpdateMessageRequest) -> Result<MessageUpdate> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    let message = request.message.unwrap_or_default();
    let message_id = check.take(MESSAGE.field("id"), MessageId::parse("id", &message.id));
    let mask = request.update_mask.unwrap_or_default();
    let fields = messages::replaced(&mut check, MESSAGE, &mask, &message);
    let guard = guard(&mut check, request.etag, &request.request_id);
    check.finish(|| {
        let id = id?;
        let revise = messages::revise(id.clone(), fields, message);
        Some(MessageUpdate { id, message_id: message_id?, revise, guard })
    })
}

pub(super) fn truncate(request: proto::TruncateThreadRequest) -> Result<(ThreadId, Cut, Guard)> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    let cut = match request.cut {
        None => {
            check.refuse(Path::Root("cut"), "must be after_seq or keep_last");
            None
        }
        Some(truncate::Cut::AfterSeq(seq)) => {
            convert::check_count(&mut check, Path::Root("after_seq"), seq);
            Some(Cut::After(seq))
        }
        Some(truncate::Cut::KeepLast(count)) => {
            convert::check_count(&mut check, Path::Root("keep_last"), count);
            Some(Cut::KeepLast(count.into()))
        }
    };
    let guard = guard(&mut check, request.etag, &request.request_id);
    check.finish(|| Some((id?, cut?, guard)))
}

pub(super) fn fork(request: &proto::ForkThreadRequest) -> Result<Fork> {
    let mut check = Check::default();
    let source = existing(&mut check, &request.thread_id);
    convert::check_count(&mut check, Path::Root("at_seq"), request.at_seq);
    let request_id = request_id(&mut check, &request.request_id);
    let id = match (request.new_thread_id.as_str(), &source) {
        ("", Some(source)) => {
            check.take(Path::Root("new_thread_id"), ids::forked_thread(source, request_id.as_ref()))
        }
        ("", None) => None,
        (id, _) => check.take(Path::Root("new_thread_id"), ThreadId::parse_new("id", id)),
    };
    check.finish(|| Some(Fork { source: source?, at_seq: request.at_seq, id: id?, request_id }))
}

pub(super) fn watch(request: proto::WatchThreadRequest) -> Result<(ThreadId, Since)> {
    let mut check = Check::default();
    let id = existing(&mut check, &request.thread_id);
    let since = match request.resume {
        None => {
            convert::check_count(&mut check, Path::Root("after_seq"), request.after_seq);
            Since::Seq(request.after_seq)
        }
        Some(proto::ThreadPosition { epoch, revision, seq }) => {
            check.require(RESUME.field("epoch"), !epoch.is_empty(), "is required");
            check.at_most(RESUME.field("epoch"), &epoch, MAX_EPOCH_BYTES);
            convert::check_count(&mut check, RESUME.field("revision"), revision);
            convert::check_count(&mut check, RESUME.field("seq"), seq);
            Since::Told(Place::at(Position { epoch, revision, seq }))
        }
    };
    check.finish(|| Some((id?, since)))
}

fn existing(check: &mut Check, id: &str) -> Option<ThreadId> {
    check.take(Path::Root("thread_id"), ThreadId::parse("thread_id", id))
}

fn guard(check: &mut Check, raw: String, request: &str) -> Guard {
    Guard { etag: etag(raw), request_id: request_id(check, request) }
}

/// Takes an etag as it is: one that was never issued is a mismatch, which only the thread can tell.
fn etag(raw: String) -> Option<String> {
    Some(raw).filter(|etag| !etag.is_empty())
}

#[cfg(test)]
mod tests;
