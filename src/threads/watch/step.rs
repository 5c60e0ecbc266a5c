//! What a watcher is told, as a function of what it was told before and what the store answers.

use std::collections::HashSet;

use super::{Change, Changed, Event, Found, Place, Position, Since};
use crate::threads::StoredMessage;

const ANOTHER_EPOCH: &str = "the thread that was watched is gone, and another one has its id";
const WENT_BACK: &str = "the thread is at an earlier revision than the one told: redis lost writes";
const LOG_ENDED: &str = "more was changed than the log of changes keeps";
const TRIMMED: &str = "messages were dropped before they could be told";

/// What comes of one answer of a store.
#[derive(Debug)]
pub struct Step {
    /// The events, in order, each with the position after it.
    pub events: Vec<(Event, Position)>,
    /// From where on to ask next.
    pub since: Since,
    /// Whether the store has more to tell at once.
    pub more: bool,
}

/// Decides what a watcher is told: changes first, then what trimming dropped, then messages. Whatever cannot be shown to
/// be without a gap is one [`Event::Resync`].
pub fn step(since: &Since, found: Found) -> Step {
    match since {
        Since::Seq(_) => begin(found),
        Since::Told(place) => match gap(place, &found) {
            Some(why) => resync(found, why),
            None => go_on(place, found),
        },
    }
}

/// Tells the thread as it is, since its past cannot be told.
pub(super) fn resync(found: Found, why: &'static str) -> Step {
    let position = end_of(&found);
    let place = Place { listed_from: found.listed_from, ..Place::at(position.clone()) };
    let event = Event::Resync { thread: Box::new(found.thread), why };
    Step { events: vec![(event, position)], since: Since::Told(place), more: false }
}

/// The position at which all there is has been told.
fn end_of(found: &Found) -> Position {
    let thread = &found.thread;
    Position { epoch: thread.epoch.clone(), revision: thread.revision, seq: thread.last_seq }
}

/// The position at which an answer has been told whose changes all have been. Before its last page that is the revision
/// of the newest of them: the appends after it are not all told. Seqs behind the last stored message are holes that a
/// truncation left.
fn after(found: &Found, revision: i64, seq: i64) -> Position {
    let end = end_of(found);
    if !found.more {
        return end;
    }
    let seq = found.messages.last().map_or(seq, |newest| newest.seq);
    Position { revision: found.newest_change.max(revision), seq, ..end }
}

fn begin(found: Found) -> Step {
    let position = after(&found, 0, 0);
    let place = Place { listed_from: found.listed_from, ..Place::at(position.clone()) };
    let events = appended(found.messages).map(|event| (event, position));
    Step { events: events.into_iter().collect(), since: Since::Told(place), more: found.more }
}

fn appended(messages: Vec<StoredMessage>) -> Option<Event> {
    (!messages.is_empty()).then_some(Event::Appended(messages))
}

/// Why what happened since cannot be told without a gap, if so.
fn gap(place: &Place, found: &Found) -> Option<&'static str> {
    let (told, thread) = (&place.position, &found.thread);
    if thread.epoch != told.epoch {
        return Some(ANOTHER_EPOCH);
    }
    if thread.revision < told.revision || thread.last_seq < told.seq {
        return Some(WENT_BACK);
    }
    if !is_unbroken(told.revision, found) {
        return Some(LOG_ENDED);
    }
    // What was below the list's head when that was told had been dropped before the watch began.
    (found.listed_from > place.listed_from.max(told.seq.saturating_add(1))).then_some(TRIMMED)
}

/// Whether the log has every change since a revision.
fn is_unbroken(told: i64, found: &Found) -> bool {
    let mut last = told;
    for change in &found.changes {
        // The first one follows a change that was told; each other follows the one before it.
        if change.after > last || (last > told && change.after != last) {
            return false;
        }
        last = change.revision;
    }
    found.more_changes || found.newest_change <= last
}

fn go_on(place: &Place, found: Found) -> Step {
    let told = &place.position;
    let mut listed_from = place.listed_from;
    let mut events = Vec::new();
    let mut is_thread_told = false;
    let mut seen = HashSet::new();
    for Change { revision, what, .. } in &found.changes {
        let event = match *what {
            Changed::Thread if is_thread_told => None,
            Changed::Thread => {
                is_thread_told = true;
                Some(Event::Updated { thread: Box::new(found.thread.clone()), messages: Vec::new() })
            }
            // One that is gone again, or was not told yet, comes with what dropped it, or with the messages below.
            Changed::Message(seq) => {
                let message = found.touched.iter().find(|stored| stored.seq == seq);
                message.filter(|_| seen.insert(seq)).map(|message| Event::Updated {
                    thread: Box::new(found.thread.clone()),
                    messages: vec![message.clone()],
                })
            }
            Changed::Truncated { first_seq, last_seq, listed_from: from } => {
                listed_from = listed_from.max(from);
                Some(Event::Truncated { first_seq, last_seq })
            }
        };
        let position = Position { revision: *revision, ..told.clone() };
        events.extend(event.map(|event| (event, position)));
    }
    if found.more_changes {
        let revision = found.changes.last().map_or(told.revision, |change| change.revision);
        let position = Position { revision, ..told.clone() };
        let place = Place { position, listed_from, provisional: 0 };
        return Step { events, since: Since::Told(place), more: true };
    }
    let position = after(&found, told.revision, told.seq);
    if was_trimmed(listed_from, told.seq, &found) {
        let event = Event::Truncated { first_seq: found.listed_from, last_seq: found.last_stored };
        events.push((event, Position { seq: told.seq, ..position.clone() }));
    }
    let place = Place { position, listed_from: found.listed_from, provisional: 0 };
    events.extend(appended(found.messages).map(|event| (event, place.position.clone())));
    // After the last of them, all has been told.
    if let Some((_, position)) = events.last_mut() {
        position.clone_from(&place.position);
    }
    Step { events, since: Since::Told(place), more: found.more }
}

/// Whether an append dropped messages from the head since. Where it is not known what was told, any append may have that
/// was not told itself.
fn was_trimmed(listed_from: i64, seq: i64, found: &Found) -> bool {
    match listed_from {
        0 => found.listed_from > 1 && found.thread.last_seq > seq,
        from => found.listed_from > from,
    }
}

#[cfg(test)]
mod tests;
