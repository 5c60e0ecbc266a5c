use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    memory::{
        footprint::Room,
        samples::{
            LIMITS, START, TTL, append, instructed, message_id, new_thread, pages, request, said, sized,
            thread_id,
        },
    },
    threads::{Cut, Guard, MAX_INSTRUCTION_BYTES, MAX_INSTRUCTIONS, MessageUpdate, Role, ThreadChange, Trim},
};

const ENDLESS: Bounds = Bounds { limits: LIMITS, room: Room::ENDLESS };

fn conversation(trim: Trim, messages: Vec<NewMessage>) -> Conversation {
    let mut new = new_thread("t", messages);
    new.profile.trim = trim;
    Conversation::create(&new, "E".to_owned(), LIMITS, START).unwrap().0
}

fn trim_to(max_messages: i64) -> Trim {
    Trim { max_messages, max_bytes: 0 }
}

fn many(range: std::ops::Range<i32>) -> Vec<NewMessage> {
    range.map(|n| said(&format!("m{n}"))).collect()
}

fn seqs(conversation: &Conversation) -> Vec<i64> {
    conversation.log.range(0..i64::MAX).map(|stored| stored.seq).collect()
}

fn add(conversation: &mut Conversation, messages: Vec<NewMessage>) -> Result<Appended> {
    conversation.append(&append("t", messages), ENDLESS, START)
}

fn resize(id: &str, size: u32, guard: Guard) -> MessageUpdate {
    MessageUpdate {
        id: thread_id("t"),
        message_id: message_id(id),
        revise: Arc::new(move |old| Ok(crate::threads::Message { size, ..old.clone() })),
        guard,
    }
}

fn requested(id: &str) -> Guard {
    Guard { request_id: Some(request(id)), etag: None }
}

#[test]
fn the_first_instructions_outlive_trimming_at_their_old_seqs() {
    let mut thread = conversation(trim_to(2), vec![instructed("s1")]);
    add(&mut thread, many(0..5)).unwrap();
    assert_eq!(seqs(&thread), [1, 5, 6]);
    assert_eq!((thread.thread.first_seq, thread.thread.message_count, thread.thread.size_bytes), (1, 3, 300));
}

#[test]
fn instructions_beyond_64_or_256_kib_are_trimmed_like_any_message() {
    let instructions: Vec<_> = (0..=MAX_INSTRUCTIONS).map(|n| instructed(&format!("s{n}"))).collect();
    let mut thread = conversation(trim_to(1), Vec::new());
    for instruction in instructions {
        add(&mut thread, vec![instruction]).unwrap();
    }
    add(&mut thread, vec![said("m")]).unwrap();
    assert_eq!(thread.thread.message_count, 65);
    assert!(thread.log.find(65).is_none());

    let half = u32::try_from(MAX_INSTRUCTION_BYTES / 2).unwrap();
    let mut thread = conversation(trim_to(1), vec![sized("a", Role::System, half)]);
    add(
        &mut thread,
        vec![sized("b", Role::Developer, half + 1), sized("c", Role::Developer, half), said("m")],
    )
    .unwrap();
    assert_eq!(seqs(&thread), [1, 3, 4], "the one that does not fit does not shut out a later one that does");
}

#[test]
fn the_newest_message_is_never_trimmed() {
    let mut thread = conversation(Trim { max_messages: 0, max_bytes: 50 }, Vec::new());
    add(&mut thread, many(0..3)).unwrap();
    assert_eq!(seqs(&thread), [3]);
}

#[test]
fn retries_of_trimmed_and_truncated_messages_stay_duplicates() {
    let mut thread = conversation(trim_to(2), many(0..5));
    thread.truncate(Cut::After(4), &Guard::default(), START).unwrap();
    let appended = add(&mut thread, many(0..5)).unwrap();
    assert!(appended.messages.iter().all(|message| message.duplicate));
    assert_eq!(appended.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(thread.thread.revision, 2, "only the truncation is a write");
}

#[test]
fn every_stored_id_is_known_after_generations_went_by() {
    let mut thread = conversation(trim_to(3), vec![instructed("s")]);
    for n in 0..250 {
        add(&mut thread, many(n * 100..(n + 1) * 100)).unwrap();
    }
    assert!(thread.ids.find(&message_id("s")).is_some(), "a kept instruction outlives its generation");
    assert!(thread.ids.find(&message_id("m24999")).is_some());
    assert!(thread.ids.find(&message_id("m14999")).is_some(), "at least 10,000 are remembered");
    assert!(thread.ids.find(&message_id("m0")).is_none(), "not for ever");
    assert!(thread.ids.memory() < 25_000 * 150);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut thread = conversation(Trim::default(), many(0..2));
    let before = (thread.thread.clone(), seqs(&thread));
    let reused = add(&mut thread, vec![said("new"), sized("m1", Role::User, 7)]);
    assert!(matches!(reused, Err(Error::MessageIdReused { id }) if id == "m1"));
    let twice = add(&mut thread, vec![said("new"), sized("new", Role::User, 7)]);
    assert!(matches!(twice, Err(Error::MessageIdReused { id }) if id == "new"));
    assert_eq!((thread.thread.clone(), seqs(&thread)), before);
}

#[test]
fn a_duplicate_is_found_before_the_etag_is_compared_and_renews_without_a_revision() {
    let mut thread = conversation(Trim::default(), many(0..2));
    let mut again = append("t", many(0..2));
    again.etag = Some("\"E-0\"".to_owned());
    let later = START.plus(Duration::from_secs(5));
    let appended = thread.append(&again, ENDLESS, later).unwrap();
    assert_eq!(appended.thread.revision, 1);
    assert_eq!(appended.thread.update_time, START);
    assert_eq!(appended.thread.expire_time, Some(later.plus(TTL)));
    again.messages.push(said("new"));
    assert!(
        matches!(thread.append(&again, ENDLESS, later), Err(Error::EtagMismatch { current }) if current == "\"E-1\"")
    );
}

#[test]
fn limits_hold_unless_trimming_bounds_the_same() {
    let tight = Bounds { limits: Limits { max_messages: 3, max_bytes: 350 }, ..ENDLESS };
    let mut thread = conversation(Trim::default(), many(0..2));
    let refused = thread.append(&append("t", many(2..4)), tight, START);
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "messages", limit: 3, .. })));
    let refused = thread.append(&append("t", vec![sized("big", Role::User, 151)]), tight, START);
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "bytes", limit: 350, .. })));
    thread.append(&append("t", vec![sized("fits", Role::User, 150)]), tight, START).unwrap();
    thread.thread.profile.trim = Trim { max_messages: 3, max_bytes: 350 };
    thread.append(&append("t", many(2..9)), tight, START).unwrap();
    assert_eq!(thread.thread.message_count, 3);
}

#[test]
fn a_repeated_request_changes_nothing_and_is_checked_before_the_etag() {
    let mut thread = conversation(Trim::default(), many(0..4));
    thread.truncate(Cut::KeepLast(3), &requested("r"), START).unwrap();
    thread.update(&ThreadChange::default(), &requested("r"), ENDLESS, START).unwrap();
    thread.update_message(&resize("m3", 50, requested("r")), ENDLESS, START).unwrap();
    assert_eq!(thread.thread.revision, 4, "the same id for three kinds of write is three requests");

    let stale = Guard { etag: Some("\"old\"".to_owned()), ..requested("r") };
    thread.truncate(Cut::KeepLast(0), &stale, START).unwrap();
    thread
        .update(&ThreadChange { pinned: Some(true), ..ThreadChange::default() }, &stale, ENDLESS, START)
        .unwrap();
    let updated = thread.update_message(&resize("m3", 9, stale), ENDLESS, START).unwrap();
    assert_eq!(updated.message.message.size, 50);
    assert_eq!(
        (thread.thread.revision, thread.thread.message_count, thread.thread.profile.pinned),
        (4, 3, false)
    );
}

#[test]
fn the_last_16_requests_are_remembered() {
    let mut thread = conversation(Trim::default(), many(0..4));
    for n in 0..17 {
        thread.truncate(Cut::KeepLast(4), &requested(&format!("r{n}")), START).unwrap();
    }
    thread.truncate(Cut::KeepLast(3), &requested("r1"), START).unwrap();
    assert_eq!(thread.thread.message_count, 4);
    thread.truncate(Cut::KeepLast(3), &requested("r0"), START).unwrap();
    assert_eq!(thread.thread.message_count, 3);
}

#[test]
fn a_truncated_tail_leaves_its_seqs_unused_and_does_not_renew() {
    let mut thread = conversation(Trim::default(), many(0..4));
    let later = START.plus(Duration::from_secs(5));
    thread.truncate(Cut::After(2), &Guard::default(), later).unwrap();
    assert_eq!(thread.thread.last_seq, 4);
    assert_eq!(thread.thread.expire_time, Some(START.plus(TTL)));
    assert_eq!(add(&mut thread, vec![said("next")]).unwrap().messages[0].seq, 5);
    assert_eq!(seqs(&thread), [1, 2, 5]);
    let beyond = thread.truncate(Cut::After(6), &Guard::default(), later);
    assert!(matches!(beyond, Err(Error::SeqOutOfRange { field: "after_seq", last_seq: 5 })));
}

#[test]
fn keeping_the_last_drops_kept_instructions_too() {
    let mut thread = conversation(trim_to(2), vec![instructed("s1"), instructed("s2")]);
    add(&mut thread, many(0..5)).unwrap();
    assert_eq!(seqs(&thread), [1, 2, 6, 7]);
    thread.truncate(Cut::KeepLast(3), &Guard::default(), START).unwrap();
    assert_eq!(seqs(&thread), [2, 6, 7]);
    thread.truncate(Cut::After(1), &Guard::default(), START).unwrap();
    assert_eq!((seqs(&thread), thread.thread.first_seq), (vec![], 0));
    add(&mut thread, vec![instructed("s3"), said("x"), said("y"), said("z")]).unwrap();
    assert_eq!(seqs(&thread), [8, 10, 11], "there is room among the kept ones again");
}

#[test]
fn a_changed_message_keeps_its_place_and_what_shrinks_always_passes() {
    let mut thread = conversation(Trim::default(), vec![instructed("s"), said("m")]);
    let updated = thread.update_message(&resize("m", 300, Guard::default()), ENDLESS, START).unwrap();
    assert_eq!((updated.message.seq, updated.thread.size_bytes, updated.thread.revision), (2, 400, 2));
    let too_much = u32::try_from(MAX_INSTRUCTION_BYTES + 1).unwrap();
    let refused = thread.update_message(&resize("s", too_much, Guard::default()), ENDLESS, START);
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "bytes of instructions", limit: 262_144, .. })));
    let tight = Bounds { limits: Limits { max_messages: 9, max_bytes: 350 }, room: ENDLESS.room };
    let refused = thread.update_message(&resize("m", 301, Guard::default()), tight, START);
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "bytes", .. })));
    thread.update_message(&resize("m", 299, Guard::default()), tight, START).unwrap();
    thread.truncate(Cut::After(1), &Guard::default(), START).unwrap();
    let gone = thread.update_message(&resize("m", 1, Guard::default()), ENDLESS, START);
    assert!(matches!(gone, Err(Error::MessageNotFound { id, .. }) if id == "m"));
}

#[test]
fn a_fork_keeps_seqs_holes_instructions_and_ids() {
    let mut source = conversation(trim_to(4), vec![instructed("s")]);
    add(&mut source, many(0..6)).unwrap();
    source.truncate(Cut::After(6), &Guard::default(), START).unwrap();
    add(&mut source, vec![said("last")]).unwrap();
    assert_eq!(seqs(&source), [1, 4, 5, 6, 8]);
    let later = START.plus(Duration::from_secs(1));
    let mut copy = source.fork(5, thread_id("c"), None, "F".to_owned(), later).unwrap();
    assert_eq!(seqs(&copy), [1, 4, 5]);
    assert_eq!(copy.thread.parent, Some(Parent { thread_id: thread_id("t"), seq: 5 }));
    assert_eq!((copy.thread.revision, copy.thread.last_seq, copy.thread.create_time), (1, 5, later));
    let appended = copy.append(&append("c", vec![said("m2"), said("new")]), ENDLESS, later).unwrap();
    assert_eq!(
        appended.messages.iter().map(|m| (m.seq, m.duplicate)).collect::<Vec<_>>(),
        [(4, true), (6, false)]
    );
    let whole = source.fork(0, thread_id("c"), None, "F".to_owned(), later).unwrap();
    assert_eq!((seqs(&whole), whole.thread.last_seq), (vec![1, 4, 5, 6, 8], 8));
    let beyond = source.fork(9, thread_id("c"), None, "F".to_owned(), later);
    assert!(matches!(beyond, Err(Error::SeqOutOfRange { field: "at_seq", last_seq: 8 })));
}

#[test]
fn pages_begin_with_kept_instructions_skip_holes_and_say_exactly_whether_more_follow() {
    let mut thread = conversation(trim_to(4), vec![instructed("s")]);
    add(&mut thread, many(0..6)).unwrap();
    thread.truncate(Cut::After(6), &Guard::default(), START).unwrap();
    add(&mut thread, vec![said("last")]).unwrap();
    let mut page = |query: MessagesQuery| {
        let page = thread.messages(&query, START).unwrap();
        (page.messages.iter().map(|stored| stored.seq).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(pages("t", 4)), (vec![1, 4, 5, 6], true));
    assert_eq!(page(pages("t", 5)), (vec![1, 4, 5, 6, 8], false));
    assert_eq!(page(MessagesQuery { descending: true, ..pages("t", 4) }), (vec![8, 6, 5, 4], true));
    assert_eq!(page(MessagesQuery { after_seq: 6, before_seq: 8, ..pages("t", 4) }), (vec![], false));
    assert_eq!(page(MessagesQuery { after_seq: 5, before_seq: 2, ..pages("t", 4) }), (vec![], false));
    let cursor = |seq| Some(crate::threads::MessagesCursor { epoch: "E".to_owned(), seq, local: false });
    assert_eq!(page(MessagesQuery { cursor: cursor(4), ..pages("t", 9) }), (vec![5, 6, 8], false));
    assert_eq!(
        page(MessagesQuery { cursor: cursor(5), descending: true, ..pages("t", 9) }),
        (vec![4, 1], false)
    );
}

#[test]
fn a_page_ends_at_3_mib_but_never_empty() {
    let mut thread = conversation(Trim::default(), Vec::new());
    let sizes = [2 << 20, 1 << 20, 1];
    for (n, size) in sizes.into_iter().enumerate() {
        add(&mut thread, vec![sized(&format!("m{n}"), Role::User, size)]).unwrap();
    }
    let page = thread.messages(&pages("t", 9), START).unwrap();
    assert_eq!((page.messages.len(), page.more), (2, true));
    let mut thread = conversation(Trim::default(), vec![sized("m", Role::User, 4 << 20)]);
    assert_eq!(thread.messages(&pages("t", 9), START).unwrap().messages.len(), 1);
}

#[test]
fn pages_beyond_the_thread_and_of_other_incarnations_are_refused() {
    let mut thread = conversation(Trim::default(), many(0..3));
    let mut refused = |query: MessagesQuery| thread.messages(&query, START).unwrap_err();
    assert!(matches!(
        refused(MessagesQuery { after_seq: 4, ..pages("t", 4) }),
        Error::SeqOutOfRange { field: "after_seq", last_seq: 3 }
    ));
    assert!(matches!(
        refused(MessagesQuery { before_seq: 5, ..pages("t", 4) }),
        Error::SeqOutOfRange { field: "before_seq", last_seq: 3 }
    ));
    for (epoch, local) in [("D", false), ("E", true)] {
        let cursor = Some(crate::threads::MessagesCursor { epoch: epoch.to_owned(), seq: 1, local });
        assert!(matches!(refused(MessagesQuery { cursor, ..pages("t", 4) }), Error::TokenStale));
    }
}

#[test]
fn a_context_reaches_back_as_far_as_the_budget_does() {
    let mut thread = conversation(trim_to(2000), vec![instructed("s")]);
    for n in 0..15 {
        add(&mut thread, many(n * 100..(n + 1) * 100)).unwrap();
    }
    for max_messages in [1, 2, 300, 1400, 0] {
        let budget = crate::threads::context::Budget { max_messages, max_tokens: 0 };
        let query = ContextQuery { id: thread_id("t"), budget, renew: false };
        let context = thread.context(&query, START).unwrap();
        let expected = if max_messages == 0 { 1501 } else { usize::try_from(max_messages.max(2)).unwrap() };
        assert_eq!(context.messages.len(), expected);
        assert_eq!(context.messages[0].seq, 1);
    }
}

/// The thread as Redis keeps it: a list with holes, and instructions aside.
#[derive(Debug, Default)]
struct Model {
    list_first: i64,
    slots: Vec<Option<(u32, bool)>>,
    system: BTreeMap<i64, u32>,
}

impl Model {
    fn last_seq(&self) -> i64 {
        self.list_first + as_i64(self.slots.len()) - 1
    }

    fn listed(&self) -> impl Iterator<Item = (i64, u32)> {
        self.slots.iter().zip(self.list_first..).filter_map(|(slot, seq)| slot.map(|(size, _)| (seq, size)))
    }

    fn stored(&self) -> BTreeMap<i64, u32> {
        self.system.range(..self.list_first).map(|(seq, size)| (*seq, *size)).chain(self.listed()).collect()
    }

    fn drop_head(&mut self) {
        self.slots.remove(0);
        self.list_first += 1;
    }

    fn append(&mut self, batch: &[(u32, bool)], trim: Trim) {
        for &(size, is_instruction) in batch {
            let seq = self.last_seq() + 1;
            let kept: u32 = self.system.values().sum();
            if is_instruction && self.system.len() < 64 && kept + size <= 256 << 10 {
                self.system.insert(seq, size);
            }
            self.slots.push(Some((size, is_instruction)));
        }
        loop {
            let listed: Vec<_> = self.listed().collect();
            let bytes: i64 = listed.iter().map(|(_, size)| i64::from(*size)).sum();
            let exceeds = (trim.max_messages > 0 && as_i64(listed.len()) > trim.max_messages)
                || (trim.max_bytes > 0 && bytes > trim.max_bytes);
            if !exceeds || self.slots.len() <= 1 {
                break;
            }
            self.drop_head();
        }
        self.drop_holes();
    }

    fn drop_holes(&mut self) {
        while matches!(self.slots.first(), Some(None)) {
            self.drop_head();
        }
    }

    fn cut(&mut self, cut: Cut) {
        let dropped: Vec<i64> = match cut {
            Cut::After(seq) => self.stored().into_keys().filter(|stored| *stored > seq).collect(),
            Cut::KeepLast(count) => {
                let stored = self.stored();
                let excess = stored.len().saturating_sub(usize::try_from(count).unwrap());
                stored.into_keys().take(excess).collect()
            }
        };
        for seq in dropped {
            self.system.remove(&seq);
            if let Ok(index) = usize::try_from(seq - self.list_first) {
                self.slots[index] = None;
            }
        }
        self.drop_holes();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u16, u32, bool)>),
    Trim(i64, i64),
    After(u8),
    KeepLast(u8),
    Resize(u16, u32),
    Fork(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 1..2000u32, 1 => 60_000..150_000u32];
    let message = (0..400u16, size.clone(), prop::bool::weighted(0.4));
    prop_oneof![
        8 => prop::collection::vec(message, 1..12).prop_map(Step::Append),
        2 => (0..20i64, prop_oneof![Just(0i64), 1000..400_000i64]).prop_map(|(m, b)| Step::Trim(m, b)),
        2 => any::<u8>().prop_map(Step::After),
        1 => (0..30u8).prop_map(Step::KeepLast),
        3 => (0..400u16, size).prop_map(|(id, size)| Step::Resize(id, size)),
        1 => any::<u8>().prop_map(Step::Fork),
    ]
}

fn take(thread: &mut Conversation, model: &mut Model, step: Step) {
    match step {
        Step::Append(batch) => {
            let role = |is_instruction| if is_instruction { Role::Developer } else { Role::User };
            let messages: Vec<NewMessage> =
                batch.iter().map(|&(id, size, i)| sized(&format!("m{id}"), role(i), size)).collect();
            let Ok(appended) = add(thread, messages) else { return };
            let fresh: Vec<_> = batch
                .iter()
                .zip(&appended.messages)
                .filter(|(_, verdict)| !verdict.duplicate)
                .map(|(&(_, size, i), _)| (size, i))
                .collect();
            if !fresh.is_empty() {
                model.append(&fresh, thread.thread.profile.trim);
            }
        }
        Step::Trim(max_messages, max_bytes) => {
            let change =
                ThreadChange { trim: Some(Trim { max_messages, max_bytes }), ..ThreadChange::default() };
            thread.update(&change, &Guard::default(), ENDLESS, START).unwrap();
        }
        Step::After(seq) => {
            let cut = Cut::After(i64::from(seq));
            if thread.truncate(cut, &Guard::default(), START).is_ok() {
                model.cut(cut);
            }
        }
        Step::KeepLast(count) => {
            let cut = Cut::KeepLast(i64::from(count));
            thread.truncate(cut, &Guard::default(), START).unwrap();
            model.cut(cut);
        }
        Step::Resize(id, size) => {
            let update = resize(&format!("m{id}"), size, Guard::default());
            let Ok(updated) = thread.update_message(&update, ENDLESS, START) else { return };
            let seq = updated.message.seq;
            model.system.entry(seq).and_modify(|kept| *kept = size);
            if let Ok(index) = usize::try_from(seq - model.list_first) {
                model.slots[index].as_mut().unwrap().0 = size;
            }
        }
        Step::Fork(seq) => {
            let seq = i64::from(seq).clamp(1, thread.thread.last_seq.max(1));
            let Ok(copy) = thread.fork(seq, thread_id("t"), None, "F".to_owned(), START) else { return };
            model.cut(Cut::After(seq));
            model.slots.truncate(usize::try_from(seq + 1 - model.list_first).unwrap_or_default());
            if seq < model.list_first {
                model.list_first = seq + 1;
            }
            *thread = copy;
        }
    }
}

fn check(thread: &Conversation, model: &Model) {
    let stored: BTreeMap<i64, u32> =
        thread.log.range(0..i64::MAX).map(|stored| (stored.seq, stored.message.size)).collect();
    assert_eq!(stored, model.stored());
    let messages = || thread.log.range(0..i64::MAX).map(|stored| &*stored.message);
    assert_eq!(thread.log.tally(), Tally::of_all(messages()));
    let counted = &thread.thread;
    assert_eq!(counted.message_count, as_i64(stored.len()));
    assert_eq!(counted.size_bytes, stored.values().map(|size| i64::from(*size)).sum::<i64>());
    assert_eq!(counted.token_count, messages().map(|message| i64::from(message.tokens)).sum::<i64>());
    assert_eq!(counted.first_seq, stored.keys().next().copied().unwrap_or(0));
    assert_eq!(counted.last_seq, model.last_seq());
    let kept: i64 = model.system.values().map(|size| i64::from(*size)).sum();
    assert_eq!(thread.log.instruction_bytes(), kept);
    assert!(messages().all(|message| thread.ids.find(&message.id).is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counters_equal_a_recount_and_messages_are_those_of_the_redis_list(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut thread = conversation(Trim::default(), Vec::new());
        let mut model = Model { list_first: 1, ..Model::default() };
        for step in steps {
            take(&mut thread, &mut model, step);
            check(&thread, &model);
        }
    }
}
