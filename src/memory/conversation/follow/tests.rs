//! A watcher's mirror of a thread, whatever happens and wherever the watch is cut: equal to what is stored, or told to
//! read again.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::Page;
use crate::{
    memory::{
        conversation::{Bounds, Conversation},
        footprint::Room,
        samples::{LIMITS, START, append, message_id, new_thread, said, thread_id},
    },
    threads::{
        Cut, Guard, Message, MessageUpdate, StoredMessage, Thread, ThreadChange, Trim,
        watch::{CHANGES_KEPT, Event, Place, Position, Since, step},
    },
};

const BOUNDS: Bounds = Bounds { limits: LIMITS, room: Room::ENDLESS };
/// So few that answers are cut.
const SMALL: Page = Page { messages: 3, bytes: 300 };

#[derive(Debug, Clone)]
enum Action {
    Append(usize),
    Title(u8),
    Resize(usize, u32),
    Cut(i64),
    Keep(i64),
    Trim(i64),
    Look,
    /// It looks at one page alone.
    Glance,
    /// The stream is cut and resumed after the event that was told last but so many.
    Resume(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (1_usize..4).prop_map(Action::Append),
        1 => any::<u8>().prop_map(Action::Title),
        2 => (any::<usize>(), 1_u32..200).prop_map(|(which, size)| Action::Resize(which, size)),
        1 => (0_i64..5).prop_map(Action::Cut),
        1 => (0_i64..5).prop_map(Action::Keep),
        1 => (0_i64..5).prop_map(Action::Trim),
        2 => Just(Action::Look),
        3 => Just(Action::Glance),
        1 => (0_usize..6).prop_map(Action::Resume),
    ];
    prop::collection::vec(action, 1..60)
}

/// What a client keeps.
#[derive(Clone, Default)]
struct Mirror {
    thread: Option<Thread>,
    messages: BTreeMap<i64, StoredMessage>,
    position: Option<Position>,
}

impl Mirror {
    fn take(&mut self, event: Event, position: Position, real: &Conversation) {
        match event {
            Event::Appended(messages) => {
                for stored in messages {
                    let known = self.messages.insert(stored.seq, stored);
                    assert!(known.is_none(), "told twice");
                }
            }
            Event::Updated { thread, messages } => {
                self.thread = Some(*thread);
                for stored in messages {
                    assert!(self.messages.insert(stored.seq, stored).is_some(), "it was never appended");
                }
            }
            Event::Truncated { first_seq, last_seq } => {
                self.messages.retain(|seq, _| (first_seq..=last_seq).contains(seq));
            }
            Event::Resync { thread, .. } => {
                self.thread = Some(*thread);
                self.messages = stored(real);
            }
            other => panic!("{other:?}"),
        }
        self.position = Some(position);
    }
}

fn stored(conversation: &Conversation) -> BTreeMap<i64, StoredMessage> {
    conversation.log.range(0..i64::MAX).map(|stored| (stored.seq, stored.clone())).collect()
}

struct Watcher {
    since: Since,
    mirror: Mirror,
    /// What the client kept after each event.
    kept: Vec<Mirror>,
}

impl Watcher {
    fn new() -> Self {
        Self { since: Since::Seq(0), mirror: Mirror::default(), kept: Vec::new() }
    }

    /// Looks until there is nothing left; answers how often it was told to read again.
    fn look(&mut self, real: &Conversation) -> usize {
        let mut resyncs = 0;
        loop {
            let (told, more) = self.look_once(real);
            resyncs += told;
            if !more {
                return resyncs;
            }
        }
    }

    /// Looks once, at a small page; answers whether there is more.
    fn look_once(&mut self, real: &Conversation) -> (usize, bool) {
        let mut resyncs = 0;
        let found = real.follow_by(SMALL, &self.since, START).unwrap();
        let step = step(&self.since, found);
        for (event, position) in step.events {
            resyncs += usize::from(matches!(event, Event::Resync { .. }));
            self.mirror.take(event, position, real);
            self.kept.push(self.mirror.clone());
        }
        self.since = step.since;
        (resyncs, step.more)
    }

    fn resume(&mut self, back: usize) {
        let index = self.kept.len().checked_sub(back + 1);
        let Some(kept) = index.and_then(|index| self.kept.get(index)) else { return };
        self.mirror = kept.clone();
        self.since = Since::Told(Place::at(kept.position.clone().unwrap()));
    }
}

fn change(real: &mut Conversation, change: &ThreadChange) {
    real.update(change, &Guard::default(), BOUNDS, START).unwrap();
}

fn act(real: &mut Conversation, action: &Action, names: &mut usize) {
    match action {
        Action::Append(count) => {
            let messages = (0..*count).map(|n| said(&format!("m{}", *names + n))).collect();
            *names += count;
            real.append(&append("t", messages), BOUNDS, START).unwrap();
        }
        Action::Title(title) => {
            change(real, &ThreadChange { title: Some(title.to_string()), ..ThreadChange::default() });
        }
        Action::Trim(max_messages) => {
            let trim = Some(Trim { max_messages: *max_messages, max_bytes: 0 });
            change(real, &ThreadChange { trim, ..ThreadChange::default() });
        }
        Action::Resize(which, size) => {
            let (which, size) = (which % (*names + 1), *size);
            let update = MessageUpdate {
                id: thread_id("t"),
                message_id: message_id(&format!("m{which}")),
                revise: Arc::new(move |old| Ok(Message { size, ..old.clone() })),
                guard: Guard::default(),
            };
            // The message may be gone.
            drop(real.update_message(&update, BOUNDS, START));
        }
        Action::Cut(back) => {
            let seq = (real.thread().last_seq - back).max(0);
            real.truncate(Cut::After(seq), &Guard::default(), START).unwrap();
        }
        Action::Keep(count) => real.truncate(Cut::KeepLast(*count), &Guard::default(), START).unwrap(),
        Action::Look | Action::Glance | Action::Resume(_) => {}
    }
}

fn created() -> Conversation {
    Conversation::create(&new_thread("t", vec![]), "E".to_owned(), LIMITS, START).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mirror_is_what_is_stored_wherever_the_watch_was_cut(actions in actions()) {
        let (mut real, mut watcher, mut names) = (created(), Watcher::new(), 0);
        for action in &actions {
            act(&mut real, action, &mut names);
            match action {
                Action::Look => { watcher.look(&real); }
                Action::Glance => { watcher.look_once(&real); }
                Action::Resume(back) => watcher.resume(*back),
                _ => {}
            }
        }
        watcher.look(&real);
        prop_assert_eq!(&watcher.mirror.messages, &stored(&real));
        if let Some(thread) = &watcher.mirror.thread {
            prop_assert_eq!(&thread.profile, &real.thread().profile);
        }
    }
}

#[test]
fn one_change_more_than_the_log_keeps_is_a_resync_and_as_many_as_it_keeps_are_none() {
    for (changes, resyncs) in [(CHANGES_KEPT, 0), (CHANGES_KEPT + 1, 1)] {
        let (mut real, mut watcher) = (created(), Watcher::new());
        act(&mut real, &Action::Title(0), &mut 0);
        act(&mut real, &Action::Append(1), &mut 0);
        watcher.look(&real);
        for _ in 0..changes {
            act(&mut real, &Action::Title(1), &mut 0);
        }
        assert_eq!(watcher.look(&real), resyncs, "{changes}");
    }
}
