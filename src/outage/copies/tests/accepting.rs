use super::*;

#[tokio::test]
async fn a_sweep_removes_expired_copies_but_none_with_waiting_writes() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.copies.create(&call(), &new_thread("w", many(0..2))).await.unwrap();
    fleet.clock.advance(TTL);
    assert_eq!(fleet.copies.sweep(), 1);
    assert_eq!(fleet.copies.len(), 1);
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("w"), true)));
    assert!(needs_shared(&fleet.copies.append(&call(), &append_or_create("w", many(2..3))).await));
    assert!(needs_shared(&fleet.copies.create(&call(), &new_thread("w", many(2..3))).await));
    assert_eq!(fleet.waiting(), 3);
}

#[tokio::test]
async fn renewals_are_local_until_redis_is_back() {
    let fleet = fleet();
    let id = thread_id("t");
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(TTL / 2);
    let touched = fleet.copies.touch(&call(), &id, Some(ttl(TTL * 3))).await.unwrap().value;
    assert_eq!((touched.expire_time, touched.revision), (Some(START.plus(TTL / 2 + TTL * 3)), 1));
    fleet.clock.advance(TTL);
    let read = fleet.copies.messages(&call(), &MessagesQuery { renew: true, ..pages("t", 9) }).unwrap();
    assert_eq!(read.value.thread.expire_time, Some(START.plus(TTL / 2 + TTL * 4)));
    assert_eq!(fleet.copies.renewed(), [], "the renewal that a caller asked for waits");
    assert_eq!(fleet.waiting(), 1);
    let step = fleet.step(fleet.due()[0]);
    assert_eq!((step.entries.len(), step.ttl, step.creates), (0, Some(ttl(TTL * 3)), false));
}

#[tokio::test]
async fn a_plain_append_is_accepted_as_provisional_and_read_behind_the_run() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.clock.advance(Duration::from_secs(5));
    let appended = fleet.copies.append(&call(), &append("t", many(1..4))).await.unwrap().value;
    assert_eq!(verdicts(&appended), [(2, true, false), (0, false, true), (0, false, true)]);
    assert_eq!(appended.previous_last_seq, 2);
    let thread = &appended.thread;
    assert_eq!((thread.revision, thread.last_seq, thread.message_count, thread.size_bytes), (2, 2, 4, 400));
    assert_eq!(thread.expire_time, Some(START.plus(Duration::from_secs(5) + TTL)));

    let again = fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap().value;
    assert_eq!(verdicts(&again), [(0, true, true)]);
    assert_eq!(again.thread.revision, 2);
    let reused = fleet.copies.append(&call(), &append("t", vec![sized("m3", Role::User, 1)])).await;
    assert!(matches!(reused, Err(Error::MessageIdReused { .. })));

    let page = fleet.copies.messages(&call(), &pages("t", 9)).unwrap().value;
    assert_eq!(ids(&page), ["m0", "m1", "m2", "m3"]);
    assert_eq!(page.messages.iter().map(|m| m.provisional).collect::<Vec<_>>(), [false, false, true, true]);
    let first = fleet.copies.messages(&call(), &pages("t", 3)).unwrap().value;
    let cursor =
        MessagesCursor { epoch: first.thread.epoch.clone(), seq: first.messages[2].seq, local: true };
    let query = MessagesQuery { cursor: Some(cursor), ..pages("t", 3) };
    let rest = fleet.copies.messages(&call(), &query).unwrap().value;
    assert_eq!((ids(&rest), first.more, rest.more), (vec!["m3"], true, false));
    let context = fleet.copies.context(&call(), &window(0)).unwrap().value;
    assert_eq!(context.messages.len(), 4);
}

#[tokio::test]
async fn an_id_that_was_read_but_not_written_here_is_not_judged() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(1..3))).await));
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
}

#[tokio::test]
async fn an_id_that_was_read_is_not_judged_after_a_renewal_either() {
    let fleet = fleet();
    fleet.append_elsewhere(&append_or_create("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    fleet.copies.touch(&call(), &thread_id("t"), None).await.unwrap();
    assert!(needs_shared(&fleet.copies.append(&call(), &append("t", many(1..3))).await));
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
}

#[tokio::test]
async fn a_message_that_was_read_with_the_same_content_is_a_duplicate() {
    let digest_of = |message: &Message| said(message.id.as_str()).digest;
    let fleet = fleet();
    let copies = Copies::new(Arc::new(Arc::clone(&fleet.clock)), LIMITS, (1 << 20, 100), BOUNDS, digest_of);
    let fleet = Fleet { copies, ..fleet };
    fleet.append_elsewhere(&append_or_create("t", many(0..2))).await;
    fleet.read_messages(&pages("t", 9)).await;
    let appended = fleet.copies.append(&call(), &append("t", many(1..3))).await.unwrap().value;
    assert_eq!(verdicts(&appended), [(2, true, false), (0, false, true)]);
}

#[tokio::test]
async fn owners_and_limits_hold_in_an_outage() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let mut foreign = append("t", many(2..3));
    foreign.owner = Some(owner("eve"));
    assert!(matches!(fleet.copies.append(&call(), &foreign).await, Err(Error::OwnerMismatch { .. })));
    let too_many = append("t", (0..999).map(|n| said(&format!("x{n}"))).collect());
    let refused = fleet.copies.append(&call(), &too_many).await;
    assert!(matches!(refused, Err(Error::ThreadLimit { what: "messages", limit: 1000, .. })));
    assert_eq!(fleet.waiting(), 0, "what is refused leaves nothing behind");
}

#[tokio::test]
async fn a_creation_is_accepted_once() {
    let fleet = fleet();
    fleet.create(&new_thread("held", Vec::new())).await;
    let refused = fleet.copies.create(&call(), &new_thread("held", Vec::new())).await;
    assert!(matches!(refused, Err(Error::ThreadExists { .. })));

    let named = |id: Option<RequestId>| NewThread { request_id: id, ..new_thread("t", many(0..2)) };
    let answer = fleet.copies.create(&call(), &named(Some(request("r")))).await.unwrap();
    assert_eq!(answer.source, crate::call::Source::Local { as_of: Some(START) });
    assert_eq!(verdicts(&answer.value), [(0, false, true), (0, false, true)]);
    let thread = &answer.value.thread;
    assert_eq!((thread.revision, thread.first_seq, thread.last_seq, thread.message_count), (1, 0, 0, 2));
    assert!(thread.local);
    let again = fleet.copies.create(&call(), &named(Some(request("r")))).await.unwrap().value;
    assert_eq!(verdicts(&again), [(0, true, true), (0, true, true)]);
    for other in [None, Some(request("q"))] {
        let refused = fleet.copies.create(&call(), &named(other)).await;
        assert!(matches!(refused, Err(Error::ThreadExists { .. })));
    }
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
    let page = fleet.copies.messages(&call(), &pages("t", 9)).unwrap().value;
    assert_eq!(ids(&page), ["m0", "m1", "m2"]);
    assert_eq!(fleet.waiting(), 4);
    fleet.copies.get(&call(), &thread_id("held"), false).unwrap();
}

#[tokio::test]
async fn a_creation_that_redis_answered_can_be_repeated_in_an_outage() {
    let fleet = fleet();
    let new = NewThread { request_id: Some(request("r")), ..new_thread("t", many(0..2)) };
    fleet.create(&new).await;
    let again = fleet.copies.create(&call(), &new).await.unwrap().value;
    assert_eq!(verdicts(&again), [(1, true, false), (2, true, false)]);
}

#[tokio::test]
async fn a_copy_with_waiting_writes_learns_nothing_until_they_are_merged() {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    let late = append("t", many(2..3));
    let appended = fleet.append_elsewhere(&late).await;
    fleet.copies.append(&call(), &append("t", many(3..4))).await.unwrap();
    fleet.copies.forget(&thread_id("t"));
    assert_eq!(ids(&fleet.copies.messages(&call(), &pages("t", 9)).unwrap().value), ["m0", "m1", "m3"]);
    fleet.copies.learn(&appended.thread, Observation::Appended(&late, &appended));
    assert!(needs_shared(&fleet.copies.messages(&call(), &pages("t", 9))), "m2 was acknowledged");
    assert!(needs_shared(&fleet.copies.context(&call(), &window(0))));
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("t"), false)));
    fleet.copies.append(&call(), &append("t", many(4..5))).await.unwrap();
    fleet.merge();
    assert_eq!(fleet.waiting(), 0);
    fleet.read_messages(&pages("t", 9)).await;
    assert_eq!(ids(&fleet.copies.messages(&call(), &pages("t", 9)).unwrap().value), ["m0", "m1", "m2"]);
}

#[tokio::test]
async fn the_copy_used_longest_ago_goes_first_but_never_one_with_waiting_writes() {
    let fleet = fleet_of(1 << 20, 3);
    for id in ["a", "b", "c"] {
        fleet.create(&new_thread(id, many(0..1))).await;
    }
    fleet.copies.append(&call(), &append("a", many(1..2))).await.unwrap();
    fleet.copies.get(&call(), &thread_id("b"), false).unwrap();
    for id in ["d", "e"] {
        fleet.create(&new_thread(id, many(0..1))).await;
    }
    assert!(needs_shared(&fleet.copies.get(&call(), &thread_id("c"), false)));
    for id in ["a", "b", "d", "e"] {
        fleet.copies.get(&call(), &thread_id(id), false).unwrap();
    }
    for n in 0..5 {
        fleet.copies.create(&call(), &new_thread(&format!("w{n}"), Vec::new())).await.unwrap();
    }
    assert_eq!(fleet.copies.len(), 9, "waiting writes have bounds of their own, and displace no others");
    assert_eq!(fleet.waiting(), 6);
}

#[tokio::test]
async fn bytes_are_bounded_and_waiting_writes_are_never_dropped_for_room() {
    let fleet = fleet_of(100_000, 100);
    for n in 0..20 {
        fleet.create(&new_thread(&format!("t{n}"), vec![sized("m", Role::User, 20_000)])).await;
    }
    assert_eq!(fleet.copies.len(), 4);
    let mut accepted = 0;
    let refused = loop {
        let batch = append_or_create("w", vec![sized(&format!("m{accepted}"), Role::User, 10_000)]);
        match fleet.copies.append(&call(), &batch).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::JournalFull { limit: 100_000, what: "bytes" }));
    assert_eq!(accepted, 9);
    let repeated = append("w", vec![sized("m0", Role::User, 10_000)]);
    assert!(fleet.copies.append(&call(), &repeated).await.unwrap().value.messages[0].duplicate);
    let refused = fleet.copies.create(&call(), &new_thread("x", vec![sized("m", Role::User, 10_000)])).await;
    assert!(matches!(refused, Err(Error::JournalFull { .. })));
    assert_eq!(fleet.copies.len(), 5);
    fleet.create(&new_thread("y", vec![sized("m", Role::User, 20_000)])).await;
    assert_eq!(fleet.copies.len(), 5, "copies make room for one another");
    assert_eq!(fleet.waiting(), 10);
    fleet.merge();
    fleet.create(&new_thread("z", vec![sized("m", Role::User, 20_000)])).await;
    assert_eq!(fleet.copies.len(), 5);
    assert!(fleet.copies.lock().copies.is_balanced());
}

#[tokio::test]
async fn one_long_thread_keeps_its_newest_messages_and_leaves_room_for_others() {
    let fleet = fleet_of(100_000, 100);
    fleet.create(&new_thread("other", many(0..1))).await;
    fleet.create(&new_thread("t", vec![instructed("s")])).await;
    for n in 0..50 {
        fleet.append(&append("t", vec![sized(&format!("m{n}"), Role::User, 2000)])).await;
    }
    fleet.copies.get(&call(), &thread_id("other"), false).unwrap();
    let newest = fleet.newest(5).unwrap();
    assert_eq!(newest, (47..=51).collect::<Vec<_>>());
    assert!(needs_shared(&fleet.copies.context(&call(), &window(1))));
    assert!(fleet.copies.lock().copies.is_balanced());
}
