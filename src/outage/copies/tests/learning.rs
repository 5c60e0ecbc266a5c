use super::*;

#[tokio::test]
async fn a_created_thread_is_whole_and_answers_say_when_it_was_true() {
    let fleet = fleet();
    fleet.create(&new_thread("t", vec![instructed("s"), said("a")])).await;
    fleet.clock.advance(Duration::from_secs(1));
    fleet.append(&append("t", vec![said("b")])).await;
    fleet.clock.advance(Duration::from_secs(1));
    let answer = fleet.copies.messages(&call(), &pages("t", 9)).unwrap();
    assert_eq!(ids(&answer.value), ["s", "a", "b"]);
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START.plus(Duration::from_secs(1))) });
    let context = fleet.copies.context(&call(), &window(2)).unwrap().value;
    assert_eq!(context.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 3]);
    assert!(context.thread.local && context.thread.etag().ends_with("-local\""));
}

#[tokio::test]
async fn what_is_not_held_is_never_not_found() {
    let fleet = fleet();
    let id = thread_id("t");
    assert!(needs_shared(&fleet.copies.get(&call(), &id, true)));
    assert!(needs_shared(&fleet.copies.messages(&call(), &pages("t", 9))));
    assert!(needs_shared(&fleet.copies.context(&call(), &window(0))));
    assert!(needs_shared(&fleet.copies.touch(&call(), &id, None).await));
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(0..1))).await));
    assert!(fleet.copies.is_empty());
}

#[tokio::test]
async fn a_compare_and_set_needs_redis_even_where_the_thread_is_held() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let id = thread_id("t");
    let mut compare = append_or_create("t", many(2..3));
    compare.etag = Some("\"E-1\"".to_owned());
    assert!(needs_shared(&fleet.copies.append(&call(), &compare).await));
    assert!(needs_shared(&fleet.copies.get(&shared_only(), &id, false)));
    assert!(needs_shared(&fleet.copies.append(&shared_only(), &append("t", many(2..3))).await));
    assert!(needs_shared(&fleet.copies.create(&shared_only(), &new_thread("u", Vec::new())).await));
    assert_eq!(fleet.waiting(), 0);
}

#[tokio::test]
async fn an_append_made_elsewhere_cuts_the_run_at_the_gap() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.append_elsewhere(&append("t", many(3..5))).await;
    fleet.append(&append("t", many(5..7))).await;
    assert_eq!(fleet.known_from(), 6);
    assert_eq!(fleet.newest(1).unwrap(), [7]);
    assert!(needs_shared(&fleet.newest(2)), "whether older ones follow is not known");
    assert!(needs_shared(&fleet.copies.context(&call(), &window(1))), "instructions may be missing");
    fleet.append(&append("t", many(7..8))).await;
    assert_eq!(fleet.newest(2).unwrap(), [7, 8], "the run goes on from there");
}

#[tokio::test]
async fn a_change_made_elsewhere_cuts_the_run_though_no_seq_is_missing() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let change = ThreadChange { title: Some("new".to_owned()), ..ThreadChange::default() };
    fleet.redis.update(&call(), &thread_id("t"), &change, &Guard::default()).await.unwrap();
    fleet.append(&append("t", many(3..4))).await;
    assert_eq!(fleet.known_from(), 4);
}

#[tokio::test]
async fn a_read_of_the_same_revision_refreshes_and_of_another_leaves_metadata_only() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.clock.advance(Duration::from_secs(9));
    fleet.read().await;
    let answer = fleet.copies.get(&call(), &thread_id("t"), false).unwrap();
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START.plus(Duration::from_secs(9))) });
    assert_eq!(fleet.known_from(), 1);
    fleet.append_elsewhere(&append("t", many(3..4))).await;
    fleet.read().await;
    assert_eq!(fleet.known_from(), 5);
    let thread = fleet.copies.get(&call(), &thread_id("t"), false).unwrap().value;
    assert_eq!((thread.last_seq, thread.message_count), (4, 4));
}

#[tokio::test]
async fn an_answer_that_arrives_late_changes_nothing() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let early = fleet.redis.get(&call(), &thread_id("t"), false).await.unwrap().value;
    let batches = [append("t", many(3..4)), append("t", many(4..5))];
    let first = fleet.append_elsewhere(&batches[0]).await;
    let second = fleet.append_elsewhere(&batches[1]).await;
    fleet.copies.learn(&second.thread, Observation::Appended(&batches[1], &second));
    fleet.copies.learn(&first.thread, Observation::Appended(&batches[0], &first));
    fleet.copies.learn(&early, Observation::Metadata);
    assert_eq!(fleet.known_from(), 5);
    assert_eq!(fleet.copies.get(&call(), &thread_id("t"), false).unwrap().value.last_seq, 5);
}

#[tokio::test]
async fn a_read_that_overtakes_its_append_does_not_cost_the_new_messages() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let batch = append("t", many(3..5));
    let appended = fleet.append_elsewhere(&batch).await;
    fleet.read().await;
    assert_eq!(fleet.known_from(), 6);
    fleet.copies.learn(&appended.thread, Observation::Appended(&batch, &appended));
    assert_eq!(fleet.known_from(), 4);
}

#[tokio::test]
async fn duplicates_in_an_append_are_not_added_twice() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.append(&append("t", many(2..5))).await;
    fleet.append(&append("t", many(0..5))).await;
    assert_eq!(fleet.newest(9).unwrap(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_page_that_reaches_the_end_is_a_run() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..10))).await;
    fleet.read_messages(&pages("t", 5)).await;
    assert_eq!(fleet.known_from(), 11, "a page that ends before the thread does is none");
    fleet.read_messages(&MessagesQuery { after_seq: 7, ..pages("t", 5) }).await;
    assert_eq!(fleet.known_from(), 8);
    fleet.read_messages(&MessagesQuery { descending: true, ..pages("t", 5) }).await;
    assert_eq!(fleet.known_from(), 6);
    fleet.read_messages(&MessagesQuery { descending: true, ..pages("t", 2) }).await;
    assert_eq!(fleet.known_from(), 6, "a shorter one of the same revision tells nothing");
    let epoch = fleet.read().await.epoch;
    let cursor = Some(MessagesCursor { epoch, seq: 4, local: false });
    fleet.read_messages(&MessagesQuery { cursor: cursor.clone(), ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from(), 5);
    fleet.read_messages(&MessagesQuery { cursor, descending: true, ..pages("t", 9) }).await;
    fleet.read_messages(&MessagesQuery { before_seq: 9, ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from(), 5, "pages that end below the newest message are none");
    fleet.read_messages(&pages("t", 10)).await;
    assert_eq!(fleet.known_from(), 1);
    assert_eq!(fleet.copies.context(&call(), &window(0)).unwrap().value.messages.len(), 10);
}

#[tokio::test]
async fn a_page_of_a_newer_revision_replaces_a_longer_run() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..5))).await;
    fleet.append_elsewhere(&append("t", many(5..6))).await;
    fleet.append_elsewhere(&append("t", many(6..7))).await;
    fleet.read_messages(&MessagesQuery { after_seq: 4, ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from(), 5);
    assert_eq!(fleet.newest(1).unwrap(), [7]);
}

#[tokio::test]
async fn a_page_that_overtakes_its_append_joins_what_is_known() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    let batch = append("t", many(3..5));
    let appended = fleet.append_elsewhere(&batch).await;
    fleet.read_messages(&MessagesQuery { after_seq: 3, ..pages("t", 9) }).await;
    fleet.copies.learn(&appended.thread, Observation::Appended(&batch, &appended));
    assert_eq!(fleet.newest(9).unwrap(), [1, 2, 3, 4, 5]);
    let repeated = fleet.copies.append(&call(), &batch).await.unwrap().value;
    assert!(repeated.messages.iter().all(|message| message.duplicate));
    assert_eq!(fleet.copies.context(&call(), &window(0)).unwrap().value.messages.len(), 5);
}

#[tokio::test]
async fn a_page_behind_a_gap_joins_nothing() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..3))).await;
    fleet.append_elsewhere(&append("t", many(3..6))).await;
    fleet.read_messages(&MessagesQuery { after_seq: 4, ..pages("t", 9) }).await;
    assert_eq!(fleet.known_from(), 5);
}

#[tokio::test]
async fn of_a_context_only_the_unbroken_tail_is_a_run() {
    let fleet = fleet();
    let mut messages = vec![instructed("s")];
    messages.extend(many(0..9));
    fleet.append_elsewhere(&append_or_create("t", messages)).await;
    fleet.read_context(4).await;
    assert_eq!(fleet.known_from(), 8);
    fleet.read_context(0).await;
    assert_eq!(fleet.known_from(), 1);

    let mut writing = said("w");
    writing.message.in_progress = true;
    fleet.append_elsewhere(&append("t", vec![writing, said("z")])).await;
    fleet.read_context(0).await;
    assert_eq!(fleet.known_from(), 12, "what is in progress is in no context and breaks the run");
}

#[tokio::test]
async fn a_context_that_ends_within_the_thread_can_be_read_again_with_its_instructions() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", vec![instructed("s")])).await;
    fleet.append_elsewhere(&append("t", many(0..40))).await;
    fleet.read_context(5).await;
    let in_memory = async |count| fleet.copies.context(&call(), &window(count));
    let seqs = |context: &Context| context.messages.iter().map(|stored| stored.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&in_memory(5).await.unwrap().value), [1, 38, 39, 40, 41]);
    assert!(needs_shared(&in_memory(9).await), "older messages are not known");
    fleet.append(&append("t", many(40..42))).await;
    assert_eq!(seqs(&in_memory(7).await.unwrap().value), [1, 38, 39, 40, 41, 42, 43]);
    // A page brings older messages, but no instructions.
    fleet.read_messages(&MessagesQuery { after_seq: 30, ..pages("t", 50) }).await;
    assert_eq!(in_memory(12).await.unwrap().value.messages.len(), 12);
    fleet.append_elsewhere(&append("t", vec![instructed("late")])).await;
    fleet.append_elsewhere(&append("t", many(50..51))).await;
    fleet.read_messages(&MessagesQuery { after_seq: 30, ..pages("t", 50) }).await;
    assert!(needs_shared(&in_memory(3).await), "there may be other instructions by now");
    fleet.read_context(3).await;
    assert_eq!(seqs(&in_memory(12).await.unwrap().value)[..2], [1, 35], "the longer run is kept");
    fleet.truncate(Cut::KeepLast(20)).await;
    assert!(needs_shared(&in_memory(3).await), "which instructions are left is not known");
}

#[tokio::test]
async fn own_changes_and_truncations_keep_the_run() {
    let fleet = fleet();
    let (id, guard) = (thread_id("t"), Guard::default());
    fleet.create(&new_thread("t", many(0..6))).await;
    let change = ThreadChange { title: Some("new".to_owned()), ..ThreadChange::default() };
    let changed = fleet.redis.update(&call(), &id, &change, &guard).await.unwrap().value;
    fleet.copies.learn(&changed, Observation::Updated);
    let update = MessageUpdate {
        id: id.clone(),
        message_id: message_id("m1"),
        revise: Arc::new(|old| Ok(Message { size: 7, ..old.clone() })),
        guard: guard.clone(),
    };
    let updated = fleet.redis.update_message(&call(), &update).await.unwrap().value;
    fleet.copies.learn(&updated.thread, Observation::MessageUpdated(&updated.message));
    for cut in [Cut::After(5), Cut::KeepLast(4)] {
        let truncated = fleet.redis.truncate(&call(), &id, cut, &guard).await.unwrap().value;
        fleet.copies.learn(&truncated, Observation::Truncated(cut));
    }
    let page = fleet.copies.messages(&call(), &pages("t", 9)).unwrap().value;
    assert_eq!(seqs(&page), [2, 3, 4, 5]);
    let thread = &page.thread;
    assert_eq!((page.messages[0].message.size, &*thread.profile.title, thread.last_seq), (7, "new", 6));
}

#[tokio::test]
async fn own_changes_after_others_cut_the_run() {
    let guard = Guard::default();
    for what in 0..3 {
        let fleet = fleet();
        let id = thread_id("t");
        fleet.create(&new_thread("t", many(0..6))).await;
        fleet.append_elsewhere(&append("t", many(6..7))).await;
        match what {
            0 => {
                let change = ThreadChange::default();
                let changed = fleet.redis.update(&call(), &id, &change, &guard).await.unwrap().value;
                fleet.copies.learn(&changed, Observation::Updated);
            }
            1 => {
                let cut = Cut::KeepLast(6);
                let truncated = fleet.redis.truncate(&call(), &id, cut, &guard).await.unwrap().value;
                fleet.copies.learn(&truncated, Observation::Truncated(cut));
            }
            _ => {
                let (message_id, revise) = (message_id("m1"), Arc::new(|old: &_| Ok(Clone::clone(old))));
                let update = MessageUpdate { id, message_id, revise, guard: guard.clone() };
                let updated = fleet.redis.update_message(&call(), &update).await.unwrap().value;
                fleet.copies.learn(&updated.thread, Observation::MessageUpdated(&updated.message));
            }
        }
        assert_eq!(fleet.known_from(), 8, "{what}");
    }
}

#[tokio::test]
async fn trimmed_messages_leave_the_copy_and_kept_instructions_stay() {
    let fleet = fleet();
    let mut new = new_thread("t", vec![instructed("s"), said("a")]);
    new.profile.trim = Trim { max_messages: 3, max_bytes: 0 };
    fleet.create(&new).await;
    fleet.append(&append("t", many(0..4))).await;
    assert_eq!(fleet.newest(9).unwrap(), [1, 4, 5, 6]);
    fleet.append(&append("t", many(4..5))).await;
    assert_eq!(fleet.newest(9).unwrap(), [1, 5, 6, 7]);

    fleet.append_elsewhere(&append("t", many(5..6))).await;
    fleet.append(&append("t", many(6..11))).await;
    assert_eq!(fleet.known_from(), 11, "of a batch that is trimmed itself only what is stored is known");
}

#[tokio::test]
async fn a_result_whose_call_was_trimmed_is_in_no_context_here_either() {
    let fleet = fleet();
    let tool = |id: &str, is_result| {
        let mut new = said(id);
        new.message.tools = vec![ToolRef { is_result, call_id: "c".to_owned(), name: "look".to_owned() }];
        new
    };
    let mut new = new_thread("t", vec![instructed("s"), tool("call", false), tool("result", true)]);
    new.profile.trim = Trim { max_messages: 3, max_bytes: 0 };
    fleet.redis.create(&call(), &new).await.unwrap();
    fleet.append_elsewhere(&append("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    assert_eq!(fleet.newest(9).unwrap(), [1, 3, 4, 5]);
    let context = fleet.copies.context(&call(), &window(0)).unwrap().value;
    assert_eq!(context.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 4, 5]);
}

#[tokio::test]
async fn a_repeated_creation_with_fewer_messages_does_not_pass_for_the_whole_thread() {
    let fleet = fleet();
    let new = NewThread { request_id: Some(request("r")), ..new_thread("t", many(0..3)) };
    fleet.redis.create(&call(), &new).await.unwrap();
    fleet.create(&NewThread { messages: many(0..2), ..new }).await;
    assert_eq!(fleet.known_from(), 4);
}

#[tokio::test]
async fn another_incarnation_replaces_the_copy_and_a_deletion_forgets_it() {
    let fleet = fleet();
    let id = thread_id("t");
    fleet.create(&new_thread("t", many(0..6))).await;
    fleet.redis.delete(&call(), &id, &Guard::default()).await.unwrap();
    fleet.redis.create(&call(), &new_thread("t", many(0..1))).await.unwrap();
    fleet.append(&append("t", vec![said("x")])).await;
    assert_eq!(fleet.known_from(), 2);
    fleet.copies.forget(&id);
    assert!(needs_shared(&fleet.copies.get(&call(), &id, false)));
}

#[tokio::test]
async fn nothing_past_its_expiry_is_served() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(TTL);
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("t"), true)));
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(2..3))).await));
    let appended = fleet.copies.append(&call(), &append_or_create("t", many(2..3))).await.unwrap().value;
    assert_eq!((appended.thread.revision, appended.thread.message_count), (1, 1), "it begins anew");
}
