use super::*;

/// A thread that Redis has with two messages, and a third that memory accepted; answers the batch that waits.
async fn fleet_with_one_waiting() -> (Fleet, BatchId) {
    let fleet = fleet();
    fleet.create(&new_thread("t", many(0..2))).await;
    fleet.copies.append(&call(), &append("t", many(2..3))).await.unwrap();
    let batch = fleet.due()[0];
    (fleet, batch)
}

#[tokio::test]
async fn a_deleted_incarnation_is_dropped_and_told() {
    let (fleet, batch) = fleet_with_one_waiting().await;
    fleet.copies.give_up(batch, &thread_id("t"));
    let JournalStatus { entries, bytes, parked, .. } = fleet.copies.journal();
    assert_eq!((entries, bytes, parked.len()), (0, 0, 1));
    assert_eq!((parked[0].thread.as_str(), parked[0].entries), ("t", 1));
    assert_eq!(fleet.copies.standing(&thread_id("t")), KnownThread::Unknown);
}

#[tokio::test]
async fn a_thread_of_another_owner_is_left_alone_and_the_writes_go_beside_it() {
    let (fleet, batch) = fleet_with_one_waiting().await;
    let id = thread_id("t");
    fleet.copies.move_to_another_thread(batch, &id).unwrap();
    assert_eq!(fleet.copies.standing(&id), KnownThread::Unknown, "its calls go to redis");
    let step = fleet.step(batch);
    let other = step.origin.thread.id.clone();
    assert!(other.as_str().starts_with("t~"));
    assert!(fleet.copies.journal().parked[0].reason.contains(other.as_str()));
    assert!(fleet.copies.move_to_another_thread(batch, &other).is_err());
    assert_eq!(fleet.waiting(), 1, "it is kept");
}

#[tokio::test]
async fn a_renewal_of_a_thread_that_is_gone_is_dropped_and_told() {
    let fleet = fleet();
    fleet.read_nothing_but(&new_thread("t", Vec::new())).await;
    fleet.copies.touch(&call(), &thread_id("t"), None).await.unwrap();
    let batch = fleet.due()[0];
    fleet.copies.create_anew(batch, &thread_id("t"));
    assert_eq!((fleet.waiting(), fleet.copies.journal().parked.len()), (0, 1));
}

#[tokio::test]
async fn messages_that_redis_had_lost_are_counted_once_they_are_back() {
    let (fleet, batch) = fleet_with_one_waiting().await;
    fleet.copies.restore_lost(batch, &thread_id("t"));
    let step = fleet.step(batch);
    assert_eq!(step.entries.iter().map(|entry| entry.is_repair).collect::<Vec<_>>(), [true, true, false]);
    let thread = Thread { last_seq: 3, local: false, ..step.origin.thread.clone() };
    let done = Done { thread, previous_last_seq: 1, duplicates: vec![true, false, false] };
    assert!(fleet.copies.settle(batch, &step, &done), "redis has the thread otherwise than the copy");
    assert_eq!(fleet.copies.journal().lost_writes_repaired, 1, "one was still there, one is new");
}
