//! What a watcher is told from a copy in memory while the shared store is out of reach.

use super::{Event, Found, Place, Position, Since, Step};

/// Decides what a watcher is told of a held thread. One that is new is told what is held of the stored messages, as of a
/// position from which every change counts as not told; then, like every other, the messages that only memory has. These
/// move no position: they have no seq yet.
pub(super) fn step(since: &Since, found: Found) -> Step {
    match since {
        Since::Seq(after) => begin(*after, found),
        Since::Told(place) => go_on(place, found),
    }
}

fn begin(after: i64, found: Found) -> Step {
    let last = found.messages.last().map_or(after, |newest| newest.seq);
    let position = Position { epoch: found.thread.epoch, revision: 0, seq: last };
    let since = if found.more { Since::Seq(last) } else { Since::Told(Place::at(position.clone())) };
    let events = if found.messages.is_empty() {
        Vec::new()
    } else {
        vec![(Event::Appended(found.messages), position)]
    };
    // What only memory has comes with the next answer.
    Step { events, since, more: true }
}

fn go_on(place: &Place, found: Found) -> Step {
    let mut place = place.clone();
    let mut events = Vec::new();
    if let Some(newest) = found.messages.last() {
        place.provisional = newest.seq;
        events.push((Event::Appended(found.messages), place.position.clone()));
    }
    Step { events, since: Since::Told(place), more: found.more }
}
