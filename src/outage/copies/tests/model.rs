use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(u16, u8, bool),
    Read,
    Page { after: u8, before: u8, descending: bool, limit: u8 },
    Context(u8),
    Change(u8),
    Truncate(bool, u8),
    Update(u16, u32),
    Recreate,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..300u16, 1..6u8, prop::bool::weighted(0.1)).prop_map(|(id, n, s)| Step::Append(id, n, s)),
        1 => Just(Step::Read),
        2 => (0..40u8, 0..40u8, any::<bool>(), 1..40u8)
            .prop_map(|(after, before, descending, limit)| Step::Page { after, before, descending, limit }),
        2 => (0..30u8).prop_map(Step::Context),
        1 => (0..20u8).prop_map(Step::Change),
        1 => (any::<bool>(), 0..40u8).prop_map(|(tail, n)| Step::Truncate(tail, n)),
        1 => (0..300u16, 1..900u32).prop_map(|(id, size)| Step::Update(id, size)),
        1 => prop::sample::select(vec![Step::Recreate, Step::Read]),
    ]
}

impl Fleet {
    /// Takes a step in Redis and, if it was made here, lets the copies see the answer.
    async fn take(&self, step: &Step, is_here: bool) {
        let (id, guard) = (thread_id("t"), Guard::default());
        let learn = |thread: &Thread, news: Observation<'_>| {
            if is_here {
                self.copies.learn(thread, news);
            }
        };
        match *step {
            Step::Append(first, count, is_instruction) => {
                let role = if is_instruction { Role::System } else { Role::User };
                let message = |n| sized(&format!("m{n}"), role, 100);
                let batch = append_or_create("t", (first..first + u16::from(count)).map(message).collect());
                if let Ok(answer) = self.redis.append(&call(), &batch).await {
                    learn(&answer.value.thread, Observation::Appended(&batch, &answer.value));
                }
            }
            Step::Read => {
                if let Ok(answer) = self.redis.get(&call(), &id, false).await {
                    learn(&answer.value, Observation::Metadata);
                }
            }
            Step::Page { after, before, descending, limit } => {
                let (after_seq, before_seq) = (i64::from(after), i64::from(before));
                let query =
                    MessagesQuery { after_seq, before_seq, descending, ..pages("t", usize::from(limit)) };
                if let Ok(answer) = self.redis.messages(&call(), &query).await {
                    learn(&answer.value.thread, Observation::of_page(&query, &answer.value));
                }
            }
            Step::Context(max_messages) => {
                if let Ok(answer) = self.redis.context(&call(), &window(i64::from(max_messages))).await {
                    learn(&answer.value.thread, Observation::Context(&answer.value));
                }
            }
            Step::Change(max_messages) => {
                let trim = Some(Trim { max_messages: i64::from(max_messages), max_bytes: 0 });
                let change = ThreadChange { trim, ..ThreadChange::default() };
                if let Ok(answer) = self.redis.update(&call(), &id, &change, &guard).await {
                    learn(&answer.value, Observation::Updated);
                }
            }
            Step::Truncate(is_tail, n) => {
                let n = i64::from(n);
                let cut = if is_tail { Cut::After(n) } else { Cut::KeepLast(n) };
                if let Ok(answer) = self.redis.truncate(&call(), &id, cut, &guard).await {
                    learn(&answer.value, Observation::Truncated(cut));
                }
            }
            Step::Update(n, size) => {
                let message_id = message_id(&format!("m{n}"));
                let revise = Arc::new(move |old: &Message| Ok(Message { size, ..old.clone() }));
                let update = MessageUpdate { id, message_id, revise, guard };
                if let Ok(answer) = self.redis.update_message(&call(), &update).await {
                    learn(&answer.value.thread, Observation::MessageUpdated(&answer.value.message));
                }
            }
            Step::Recreate => {
                if self.redis.delete(&call(), &id, &guard).await.is_ok() && is_here {
                    self.copies.forget(&id);
                }
                let new = new_thread("t", vec![instructed("m0"), said("m1")]);
                if let Ok(answer) = self.redis.create(&call(), &new).await {
                    learn(&answer.value.thread, Observation::Created(&new, &answer.value));
                }
            }
        }
    }

    /// Checks that whatever the copy answers is what Redis answers; tells how much it answered.
    async fn compare(&self) -> usize {
        let mut answered = 0;
        let Ok(held) = self.copies.get(&call(), &thread_id("t"), false) else { return 0 };
        let truth = self.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
        assert_eq!(Thread { local: false, ..held.value }, truth);
        for limit in [1, 3, 1000] {
            for (after_seq, before_seq, descending) in
                [(0, 0, false), (0, 0, true), (truth.last_seq - 3, 0, false), (2, truth.last_seq, true)]
            {
                let after_seq = after_seq.clamp(0, truth.last_seq);
                let query = MessagesQuery { after_seq, before_seq, descending, ..pages("t", limit) };
                if let Ok(held) = self.copies.messages(&call(), &query) {
                    answered += 1;
                    let truth = self.redis.messages(&call(), &query).await.unwrap().value;
                    assert_eq!((held.value.messages, held.value.more), (truth.messages, truth.more));
                }
            }
        }
        for max_messages in [1, 4, 0] {
            if let Ok(held) = self.copies.context(&call(), &window(max_messages)) {
                answered += 1;
                let truth = self.redis.context(&call(), &window(max_messages)).await.unwrap().value;
                assert_eq!(held.value.messages, truth.messages);
            }
        }
        answered
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_copy_answers_after_an_observed_step_is_what_redis_answers(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.8)), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fleet = fleet();
            for (step, is_here) in steps {
                fleet.take(&step, is_here).await;
                let held = fleet.copies.get(&call(), &thread_id("t"), false).ok();
                let truth = fleet.redis.get(&call(), &thread_id("t"), false).await.ok();
                let is_current = |held: &Thread, truth: &Thread| {
                    (&held.epoch, held.revision) == (&truth.epoch, truth.revision)
                };
                if held.zip(truth).is_some_and(|(held, truth)| is_current(&held.value, &truth.value)) {
                    fleet.compare().await;
                }
                assert!(fleet.copies.lock().copies.is_balanced());
            }
        });
    }
}

#[tokio::test]
async fn own_writes_alone_keep_everything_answered() {
    let fleet = fleet();
    let steps = [
        Step::Recreate,
        Step::Append(1, 5, false),
        Step::Change(4),
        Step::Append(10, 5, false),
        Step::Truncate(true, 10),
        Step::Append(20, 2, true),
        Step::Update(20, 5),
        Step::Append(30, 5, false),
        Step::Truncate(false, 3),
        Step::Append(40, 1, false),
    ];
    for step in steps {
        fleet.take(&step, true).await;
        assert_eq!(fleet.compare().await, 15, "{step:?}");
    }
}
