//! Each rule of what a watcher is told, on values.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    clock::Timestamp,
    threads::{Message, MessageId, Profile, Role, Thread, ThreadId, Trim, Ttl},
};

fn thread(revision: i64, last_seq: i64) -> Thread {
    let ttl = Ttl::new("", Duration::from_hours(2)).unwrap();
    let (title, labels) = (String::new(), BTreeMap::new());
    Thread {
        id: ThreadId::parse("", "t").unwrap(),
        profile: Profile { owner: None, title, labels, ttl, pinned: false, trim: Trim::default() },
        epoch: "E".into(),
        revision,
        message_count: last_seq,
        first_seq: 1,
        last_seq,
        token_count: 0,
        size_bytes: 0,
        parent: None,
        create_time: Timestamp::from_millis(1),
        update_time: Timestamp::from_millis(2),
        expire_time: None,
        local: false,
    }
}

fn stored(seq: i64) -> StoredMessage {
    let id = MessageId::parse("", &format!("m{seq}")).unwrap();
    let (tools, payload) = (Vec::new(), Bytes::new());
    let message = Message { id, role: Role::User, in_progress: false, tokens: 1, size: 8, tools, payload };
    let message = Arc::new(message);
    StoredMessage { seq, commit_time: Timestamp::default(), provisional: false, message }
}

fn messages(seqs: &[i64]) -> Vec<StoredMessage> {
    seqs.iter().copied().map(stored).collect()
}

/// A thread with this revision and last seq, of which nothing is new.
fn found(revision: i64, last_seq: i64) -> Found {
    Found {
        now: Timestamp::default(),
        thread: thread(revision, last_seq),
        listed_from: 1,
        last_stored: last_seq,
        newest_change: 0,
        changes: Vec::new(),
        touched: Vec::new(),
        more_changes: false,
        messages: Vec::new(),
        more: false,
    }
}

fn position(revision: i64, seq: i64) -> Position {
    Position { epoch: "E".into(), revision, seq }
}

/// A watch that goes on, of a thread whose list began at its first message.
fn told(revision: i64, seq: i64) -> Since {
    Since::Told(Place { listed_from: 1, ..Place::at(position(revision, seq)) })
}

fn change(revision: i64, after: i64, what: Changed) -> Change {
    Change { revision, after, what }
}

fn why(step: &Step) -> Option<&'static str> {
    step.events.iter().find_map(|(event, _)| match event {
        Event::Resync { why, .. } => Some(*why),
        _ => None,
    })
}

#[test]
fn a_watch_begins_with_what_is_stored_and_goes_on_behind_the_holes() {
    let step = step(&Since::Seq(0), Found { messages: messages(&[1, 2]), ..found(4, 9) });
    assert_eq!(step.events, [(Event::Appended(messages(&[1, 2])), position(4, 9))]);
    assert_eq!((step.since, step.more), (told(4, 9), false));
}

#[test]
fn a_page_that_is_not_the_last_moves_the_revision_to_the_newest_change_alone() {
    let page =
        |newest_change| Found { newest_change, messages: messages(&[1, 2]), more: true, ..found(4, 9) };
    for newest_change in [0, 3] {
        let step = step(&Since::Seq(0), page(newest_change));
        assert_eq!((step.since, step.more), (told(newest_change, 2), true));
    }
    let step = step(&told(2, 0), page(0));
    assert_eq!((step.since, step.more), (told(2, 2), true));
}

#[test]
fn a_watch_that_begins_before_the_head_of_a_trimmed_thread_begins_there() {
    let trimmed = Found { listed_from: 50, messages: messages(&[2]), more: true, ..found(99, 99) };
    let first = step(&Since::Seq(0), trimmed);
    assert_eq!(why(&first), None);
    let next = Found { listed_from: 50, messages: messages(&[50]), ..found(99, 99) };
    assert_eq!(why(&step(&first.since, next)), None);
}

#[test]
fn nothing_new_tells_nothing() {
    let step = step(&told(4, 9), found(4, 9));
    assert!(step.events.is_empty());
    assert_eq!((step.since, step.more), (told(4, 9), false));
}

#[test]
fn changes_are_told_before_messages_and_the_last_event_is_the_whole_way() {
    let changes = vec![
        change(5, 0, Changed::Message(2)),
        change(7, 5, Changed::Thread),
        change(8, 7, Changed::Truncated { first_seq: 1, last_seq: 3, listed_from: 1 }),
    ];
    let (touched, messages_since) = (messages(&[2]), messages(&[10]));
    let new = Found { newest_change: 8, changes, touched, messages: messages_since, ..found(9, 10) };
    let updated = |messages| Event::Updated { thread: Box::new(thread(9, 10)), messages };
    let step = step(&told(4, 9), new);
    assert_eq!(
        step.events,
        [
            (updated(messages(&[2])), position(5, 9)),
            (updated(Vec::new()), position(7, 9)),
            (Event::Truncated { first_seq: 1, last_seq: 3 }, position(8, 9)),
            (Event::Appended(messages(&[10])), position(9, 10)),
        ]
    );
}

#[test]
fn what_changed_more_than_once_is_told_once() {
    let changes = vec![
        change(5, 0, Changed::Message(2)),
        change(6, 5, Changed::Thread),
        change(7, 6, Changed::Message(2)),
        change(8, 7, Changed::Thread),
    ];
    let new = Found { newest_change: 8, changes, touched: messages(&[2]), ..found(8, 9) };
    let step = step(&told(4, 9), new);
    assert_eq!(step.events.iter().map(|(_, position)| position.revision).collect::<Vec<_>>(), [5, 8]);
}

#[test]
fn a_change_of_a_message_that_is_gone_or_was_not_told_is_left_to_what_tells_of_it() {
    let changes = vec![change(5, 0, Changed::Message(2)), change(6, 5, Changed::Message(10))];
    let new = Found { newest_change: 6, changes, messages: messages(&[10]), ..found(6, 10) };
    let step = step(&told(4, 9), new);
    assert_eq!(step.events, [(Event::Appended(messages(&[10])), position(6, 10))]);
}

#[test]
fn while_changes_follow_no_message_is_told_and_the_revision_ends_at_the_last_one() {
    let changes = vec![change(5, 0, Changed::Message(2))];
    let touched = messages(&[2]);
    let new = Found { newest_change: 7, changes, touched, more_changes: true, ..found(8, 12) };
    let step = step(&told(4, 9), new);
    assert_eq!((step.since, step.more), (told(5, 9), true));
    assert_eq!(step.events.len(), 1);
}

#[test]
fn what_appends_trimmed_is_told_once() {
    let new = Found { listed_from: 4, messages: messages(&[10]), ..found(5, 10) };
    let first = step(&told(4, 9), new);
    let expected = [
        (Event::Truncated { first_seq: 4, last_seq: 10 }, position(5, 9)),
        (Event::Appended(messages(&[10])), position(5, 10)),
    ];
    assert_eq!(first.events, expected);
    let again = step(&first.since, Found { listed_from: 4, ..found(5, 10) });
    assert!(again.events.is_empty());
}

#[test]
fn one_who_resumes_is_told_where_the_list_begins_if_anything_was_appended_since() {
    // A change after the append has moved the revision already.
    let resumed = Since::Told(Place::at(position(5, 9)));
    let trimmed = |last_seq| Found { listed_from: 4, ..found(5, last_seq) };
    assert!(step(&resumed, trimmed(9)).events.is_empty());
    assert_eq!(step(&resumed, trimmed(10)).events.len(), 1);
    assert!(step(&resumed, found(5, 10)).events.is_empty(), "nothing was ever trimmed");
}

#[test]
fn whatever_may_hide_an_event_is_a_resync() {
    let edit = |revision, after| change(revision, after, Changed::Thread);
    let log = |newest_change, changes| Found { newest_change, changes, ..found(9, 9) };
    let mut reborn = found(4, 9);
    reborn.thread.epoch = "F".into();
    let cases = [
        (ANOTHER_EPOCH, reborn),
        (WENT_BACK, found(3, 9)),
        (WENT_BACK, found(9, 8)),
        // The log is gone, ends too early, begins too late, or has a hole.
        (LOG_ENDED, log(5, vec![])),
        (LOG_ENDED, log(8, vec![edit(5, 2)])),
        (LOG_ENDED, log(7, vec![edit(7, 5)])),
        (LOG_ENDED, log(8, vec![edit(5, 3), edit(8, 7)])),
        (TRIMMED, Found { listed_from: 11, ..found(9, 20) }),
    ];
    for (expected, found) in cases {
        let (thread, end) = (found.thread.clone(), end_of(&found));
        let step = step(&told(4, 9), found);
        let event = Event::Resync { thread: Box::new(thread), why: expected };
        assert_eq!(step.events, [(event, end.clone())]);
        let Since::Told(place) = step.since else { panic!("it goes on") };
        assert_eq!((place.position, step.more), (end, false));
    }
    let whole = log(8, vec![edit(5, 3), edit(8, 5)]);
    assert_eq!(why(&step(&told(4, 9), whole)), None);
    assert_eq!(why(&step(&told(4, 9), Found { listed_from: 10, ..found(9, 20) })), None);
}
