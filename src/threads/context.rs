//! Chooses the messages that a model's window takes: the newest that fit, tool calls together with their results.

use super::{MAX_BATCH_BYTES, StoredMessage, ToolRef};

/// What a window takes; 0 means no limit of its own. Bytes are limited by [`MAX_BATCH_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Messages.
    pub max_messages: i64,
    /// Tokens.
    pub max_tokens: i64,
}

/// The newest messages of a thread, as far back as they were read.
#[derive(Debug, Clone, Copy)]
pub struct Tail<'a> {
    /// Ascending by seq, without gaps between.
    pub messages: &'a [StoredMessage],
    /// Instructions that are always chosen, wherever they stand; ascending by seq.
    pub instructions: &'a [StoredMessage],
    /// Whether nothing older is stored.
    pub is_whole: bool,
    /// Whether older messages were trimmed away, so that a result may have lost its call.
    pub head_was_cut: bool,
}

/// Chooses from a tail, ascending by seq; none if older messages must be read first.
///
/// Instructions are always in and count. A group is a message with tool calls through its last result, and is in or
/// out as a whole; groups that overlap are one. From the newest group on, groups are taken while they fit; the newest
/// is taken even if it does not. Messages in progress are left out, and so are results whose calls were trimmed away.
pub fn select(tail: Tail<'_>, budget: Budget) -> Option<Vec<StoredMessage>> {
    let is_instruction = |seq: i64| tail.instructions.binary_search_by_key(&seq, |kept| kept.seq).is_ok();
    let candidates: Vec<&StoredMessage> = tail
        .messages
        .iter()
        .filter(|stored| !stored.message.in_progress && !is_instruction(stored.seq))
        .collect();
    let mut chosen: Vec<StoredMessage> =
        tail.instructions.iter().filter(|kept| !kept.message.in_progress).cloned().collect();
    let mut room = Room::of(budget).after(&chosen);

    let mut needs_older = !tail.is_whole;
    let (groups, newest_orphan) = groups(&candidates);
    for (age, group) in groups.iter().rev().enumerate() {
        // The call of an orphan may stand further back than was read, and make all from there one group.
        if !tail.is_whole && newest_orphan.is_some_and(|orphan| group.start <= orphan) {
            return None;
        }
        if age > 0 && group.is_orphan && tail.head_was_cut {
            continue;
        }
        let members: Vec<StoredMessage> =
            candidates.get(group.start..=group.end)?.iter().map(|&stored| stored.clone()).collect();
        let left = room.after(&members);
        if age > 0 && left.is_overdrawn() {
            needs_older = false;
            break;
        }
        room = left;
        chosen.extend(members);
        if room.messages <= 0 {
            needs_older = false;
            break;
        }
    }
    if needs_older {
        return None;
    }
    chosen.sort_by_key(|stored| stored.seq);
    Some(chosen)
}

/// A run of messages that belong together.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    start: usize,
    end: usize,
    /// Whether it is one message, of results without a call.
    is_orphan: bool,
}

/// Cuts messages into groups, oldest first, and tells the newest result without a call. A result belongs to the
/// nearest earlier unanswered call with its id.
fn groups(messages: &[&StoredMessage]) -> (Vec<Group>, Option<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut unanswered: Vec<(usize, &ToolRef)> = Vec::new();
    let mut newest_orphan = None;
    for (index, stored) in messages.iter().enumerate() {
        let tools = &stored.message.tools;
        let mut start = index;
        let mut orphans = 0;
        for tool in tools {
            if !tool.is_result {
                unanswered.push((index, tool));
            } else if let Some(at) = position_of_call(&unanswered, tool) {
                start = start.min(unanswered.remove(at).0);
            } else {
                orphans += 1;
                newest_orphan = Some(index);
            }
        }
        let mut is_orphan = orphans > 0 && orphans == tools.len();
        while groups.last().is_some_and(|group| group.end >= start) {
            start = groups.pop().map_or(start, |group| group.start.min(start));
            is_orphan = false;
        }
        groups.push(Group { start, end: index, is_orphan });
    }
    (groups, newest_orphan)
}

/// Finds the call that a result answers: by id; without an id by name, in the order of the calls of the nearest
/// message that has one.
fn position_of_call(unanswered: &[(usize, &ToolRef)], result: &ToolRef) -> Option<usize> {
    let answers = |call: &ToolRef| {
        call.call_id == result.call_id && (!result.call_id.is_empty() || call.name == result.name)
    };
    let nearest = unanswered.iter().rposition(|(_, call)| answers(call))?;
    let (message, _) = unanswered.get(nearest)?;
    unanswered.iter().position(|(index, call)| index == message && answers(call))
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy)]
struct Room {
    messages: i64,
    tokens: i64,
    bytes: i64,
}

impl Room {
    fn of(budget: Budget) -> Self {
        let or_endless = |limit: i64| if limit == 0 { i64::MAX } else { limit };
        Self {
            messages: or_endless(budget.max_messages),
            tokens: or_endless(budget.max_tokens),
            bytes: i64::try_from(MAX_BATCH_BYTES).unwrap_or(i64::MAX),
        }
    }

    fn after(mut self, messages: &[StoredMessage]) -> Self {
        for stored in messages {
            self.messages -= 1;
            self.tokens -= i64::from(stored.message.tokens);
            self.bytes -= i64::from(stored.message.size);
        }
        self
    }

    fn is_overdrawn(self) -> bool {
        self.messages < 0 || self.tokens < 0 || self.bytes < 0
    }
}
