//! What is in Redis: names and types of keys, values that people can read, and what happens when they are damaged.

use std::time::Duration;

use fusewire::grpc::proto::{ConversationThread, ListMessagesRequest, Role, TrimPolicy};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_stores},
    raw::Raw,
    threads::{
        Threads, appending, assert_refused, calls, ids, keep_last, listing, message, numbered, seqs, thread,
        told, user, wire,
    },
};

on_stores!(
    [redis: Redis, cluster: Cluster, prefixed: Prefixed],
    [
        keys_have_the_names_and_types_of_the_design,
        a_thread_is_readable_with_hgetall,
        nothing_is_kept_outside_of_the_documented_keys,
        an_entry_that_is_garbage_is_told_and_leaves_the_rest_readable,
        one_flipped_byte_is_noticed,
        a_damaged_instruction_is_told,
        a_list_of_another_length_is_data_loss,
        a_damaged_hash_is_data_loss,
        instructions_are_kept_in_a_hash_of_their_own,
        a_deletion_of_10_001_messages_leaves_no_key
    ]
);

// The one rule here that memory shares.
mod ids_are_remembered {
    use super::{both_generations_of_ids_are_remembered, on_stores};

    on_stores!(
        [memory: Memory, redis: Redis, cluster: Cluster],
        [both_generations_of_ids_are_remembered]
    );
}

fn name(on: &Deployment, id: &str, part: &str) -> String {
    on.key(&format!("conversation_thread:{{{id}}}{part}"))
}

async fn made(on: &Deployment, id: &str) -> (Threads, Raw) {
    let threads = on.threads();
    let new = ConversationThread {
        owner: format!("{id}-owner"),
        title: "Some title".into(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ttl: Some(wire(Duration::from_mins(10))),
        ..thread(id)
    };
    threads.try_create(new).await.unwrap();
    threads.append(id, vec![message("sys", Role::System, "be kind"), calls("call", &["x"])]).await;
    threads.fill(id, 3, 6).await;
    (threads, on.raw().await)
}

async fn keys_have_the_names_and_types_of_the_design(on: &Deployment) {
    let (threads, raw) = made(on, "named").await;
    threads.delete("named").await.unwrap();
    let (_, _) = made(on, "named").await;
    let expected = [
        (name(on, "named", ""), "hash"),
        (name(on, "named", ":messages"), "list"),
        (name(on, "named", ":system"), "hash"),
        (name(on, "named", ":ids"), "hash"),
        (name(on, "named", ":tombstone"), "string"),
        (on.key("conversation_threads:owner:{named-owner}"), "zset"),
    ];
    for (key, kind) in expected {
        assert_eq!(raw.get::<String>(&["TYPE", &key]).await, kind, "{key}");
    }
    assert_eq!(raw.get::<i64>(&["LLEN", &name(on, "named", ":messages")]).await, 6);
    assert_eq!(raw.get::<i64>(&["HLEN", &name(on, "named", ":ids")]).await, 6);
    let life: i64 = raw.get(&["TTL", &name(on, "named", ":tombstone")]).await;
    assert!((86_000..=86_400).contains(&life), "{life}");
    let life: i64 = raw.get(&["TTL", &name(on, "named", "")]).await;
    assert!((590..=600).contains(&life), "{life}");
    let mut indexed = 0;
    for shard in 0..16 {
        let key = on.key(&format!("conversation_threads:expiring:{{{shard}}}"));
        let score: Option<f64> = raw.get(&["ZSCORE", key.as_str(), "named-owner named"]).await;
        indexed += usize::from(score.is_some());
    }
    assert_eq!(indexed, 1);
}

async fn a_thread_is_readable_with_hgetall(on: &Deployment) {
    let (threads, raw) = made(on, "readable").await;
    let fields: std::collections::BTreeMap<String, String> =
        raw.get(&["HGETALL", &name(on, "readable", "")]).await;
    let told = threads.peek("readable").await.unwrap();
    let text = |field: &str| fields.get(field).unwrap_or_else(|| panic!("no {field} in {fields:?}")).as_str();
    assert_eq!(
        (text("owner"), text("title"), text("labels")),
        ("readable-owner", "Some title", r#"{"team":"blue"}"#)
    );
    assert_eq!((text("ttl"), text("pinned")), ("600000", "0"));
    assert_eq!((text("revision"), text("first_seq"), text("last_seq")), ("3", "1", "6"));
    assert_eq!(text("count"), told.message_count.to_string());
    assert_eq!(text("bytes"), told.size_bytes.to_string());
    assert_eq!(text("tokens"), told.token_count.to_string());
    assert_eq!(told.etag, format!("\"{}-3\"", text("epoch")));
}

/// Every key, without what belongs to no thread.
async fn all_keys(on: &Deployment, raw: &Raw) -> Vec<String> {
    let mut keys: Vec<String> = raw.get(&["KEYS", "*"]).await;
    let not_threads = ["probe", "sweep"].map(|name| on.key(&format!("conversation_threads:{name}")));
    let doorbell = on.key("fusewire:doorbell:");
    keys.retain(|key| !not_threads.contains(key) && !key.starts_with(&doorbell));
    keys.sort();
    keys
}

async fn nothing_is_kept_outside_of_the_documented_keys(on: &Deployment) {
    let (threads, raw) = made(on, "documented").await;
    threads.fork(crate::support::threads::forking("documented", "documented-copy")).await.unwrap();
    threads.truncate(keep_last("documented", 2)).await.unwrap();
    for key in all_keys(on, &raw).await {
        let rest = key.strip_prefix(&on.key("")).unwrap_or_else(|| panic!("{key} has no prefix"));
        let is_thread = rest.starts_with("conversation_thread:{")
            && ["}", "}:messages", "}:system", "}:ids", "}:ids:old", "}:changes", "}:tombstone"]
                .iter()
                .any(|end| rest.ends_with(end));
        let is_index = rest.starts_with("conversation_threads:owner:{")
            || rest.starts_with("conversation_threads:expiring:{");
        assert!(is_thread || is_index, "{key}");
    }
}

async fn is_damaged_at_4(on: &Deployment, threads: &Threads, id: &str) {
    let page = |after_seq, descending| ListMessagesRequest { after_seq, descending, ..listing(id) };
    // The page before ends before it, one that begins there fails, and after_seq steps over it.
    let first = threads.page(page(0, false)).await.unwrap();
    assert_eq!(seqs(&first.messages), [1, 2, 3]);
    let next = ListMessagesRequest { page_token: first.next_page_token, ..page(0, false) };
    let status = assert_refused(threads.page(next).await, Code::DataLoss, "CORRUPT_ENTRY");
    assert_eq!((told(&status, "key"), told(&status, "seq")), (name(on, id, ":messages"), "4".into()));
    assert_refused(threads.page(page(3, false)).await, Code::DataLoss, "CORRUPT_ENTRY");
    let rest = threads.page(page(4, false)).await.unwrap();
    assert_eq!((seqs(&rest.messages), rest.next_page_token.as_str()), (vec![5, 6], ""));
    assert_eq!(seqs(&threads.page(page(0, true)).await.unwrap().messages), [6, 5]);
    let below = ListMessagesRequest { before_seq: 4, ..page(0, true) };
    assert_eq!(seqs(&threads.page(below).await.unwrap().messages), [3, 2, 1]);
    // A window that does not reach down to it is right; a context with a hole would mislead.
    assert_eq!(seqs(&threads.context(id, 3, 0).await.messages), [1, 5, 6]);
    let context =
        fusewire::grpc::proto::GetContextRequest { thread_id: id.into(), peek: true, ..Default::default() };
    let status =
        assert_refused(threads.client.clone().get_context(context).await, Code::DataLoss, "CORRUPT_ENTRY");
    assert_eq!(told(&status, "seq"), "4");
    let update = crate::support::threads::revising(id, user("m4", "x"), &["parts"]);
    assert_refused(threads.update_message(update).await, Code::DataLoss, "CORRUPT_ENTRY");
    let copy = crate::support::threads::forking(id, &format!("{id}-copy"));
    let status = assert_refused(threads.fork(copy.clone()).await, Code::DataLoss, "CORRUPT_ENTRY");
    assert_eq!((told(&status, "key"), told(&status, "seq")), (name(on, id, ":messages"), "4".into()));
    threads.fork(fusewire::grpc::proto::ForkThreadRequest { at_seq: 3, ..copy }).await.unwrap();
    // The thread goes on.
    assert_eq!(threads.append(id, numbered(7, 7)).await.messages[0].seq, 7);
}

async fn an_entry_that_is_garbage_is_told_and_leaves_the_rest_readable(on: &Deployment) {
    for (n, garbage) in
        ["garbage", "\u{1}", "a longer text that is no entry either, but has a header's length"]
            .iter()
            .enumerate()
    {
        let id = &format!("garbage-{n}");
        let (threads, raw) = made(on, id).await;
        raw.run(&["LSET", &name(on, id, ":messages"), "3", garbage]).await;
        is_damaged_at_4(on, &threads, id).await;
    }
}

async fn one_flipped_byte_is_noticed(on: &Deployment) {
    for place in ["first", "middle", "last"] {
        let id = &format!("flipped-{place}");
        let (threads, raw) = made(on, id).await;
        let key = name(on, id, ":messages");
        let mut entry: Vec<u8> = raw.get(&["LINDEX", &key, "3"]).await;
        let index = match place {
            "first" => 0,
            "middle" => entry.len() / 2,
            _ => entry.len() - 1,
        };
        entry[index] ^= 0x10;
        raw.run(&[b"LSET".as_slice(), key.as_bytes(), b"3", &entry]).await;
        is_damaged_at_4(on, &threads, id).await;
    }
}

async fn a_damaged_instruction_is_told(on: &Deployment) {
    let (threads, raw) = made(on, "bad-system").await;
    raw.run(&["HSET", &name(on, "bad-system", ":system"), "1", "garbage"]).await;
    let context =
        fusewire::grpc::proto::GetContextRequest { thread_id: "bad-system".into(), ..Default::default() };
    let outcome = threads.client.clone().get_context(context).await;
    let status = assert_refused(outcome, Code::DataLoss, "CORRUPT_ENTRY");
    assert_eq!(told(&status, "seq"), "1");
    assert_eq!(threads.messages("bad-system").await.len(), 6, "the list has it whole");
}

async fn a_list_of_another_length_is_data_loss(on: &Deployment) {
    for (id, command) in [("longer", "RPUSH"), ("shorter", "RPOP"), ("none", "UNLINK")] {
        let (threads, raw) = made(on, id).await;
        let key = name(on, id, ":messages");
        let command: &[&str] = if command == "RPUSH" { &[command, &key, "x"] } else { &[command, &key] };
        raw.run(command).await;
        let before: Vec<u8> = raw.get(&["DUMP", &name(on, id, "")]).await;
        let outcomes = [
            threads.page(listing(id)).await.map(drop),
            threads.try_append(appending(id, numbered(7, 7))).await.map(drop),
            threads.truncate(keep_last(id, 1)).await.map(drop),
            threads.get(id).await.map(drop),
        ];
        for outcome in outcomes {
            let status = assert_refused(outcome, Code::DataLoss, "CORRUPT_ENTRY");
            assert_eq!(told(&status, "key"), key);
        }
        assert_eq!(raw.get::<Vec<u8>>(&["DUMP", &name(on, id, "")]).await, before);
    }
}

async fn a_damaged_hash_is_data_loss(on: &Deployment) {
    for (field, value) in [("last_seq", "many"), ("ttl", "0"), ("labels", "{"), ("owner", "{}")] {
        let id = &format!("hash-{field}");
        let (threads, raw) = made(on, id).await;
        raw.run(&["HSET", &name(on, id, ""), field, value]).await;
        let status = assert_refused(threads.peek(id).await, Code::DataLoss, "CORRUPT_ENTRY");
        assert_eq!(told(&status, "key"), name(on, id, ""), "{field}");
    }
}

async fn instructions_are_kept_in_a_hash_of_their_own(on: &Deployment) {
    let (threads, raw) = made(on, "system").await;
    threads.append("system", vec![message("dev", Role::Developer, "be brief")]).await;
    let key = name(on, "system", ":system");
    let mut kept: Vec<String> = raw.get(&["HKEYS", &key]).await;
    kept.sort();
    assert_eq!(kept, ["1", "7"]);
    threads.truncate(keep_last("system", 1)).await.unwrap();
    assert_eq!(raw.get::<Vec<String>>(&["HKEYS", &key]).await, ["7"]);
    // At most 64 of them.
    let many: Vec<_> = (0..70).map(|n| message(&format!("s{n}"), Role::System, "x")).collect();
    threads.append("system", many).await;
    assert_eq!(raw.get::<i64>(&["HLEN", &key]).await, 64);
    // At most 256 KiB of them.
    threads.create("system-large").await;
    let large = "x".repeat(100 << 10);
    let three: Vec<_> = (0..3).map(|n| message(&format!("s{n}"), Role::System, &large)).collect();
    threads.append("system-large", three).await;
    assert_eq!(raw.get::<i64>(&["HLEN", &name(on, "system-large", ":system")]).await, 2);
    assert_eq!(threads.recount("system-large").await.len(), 3);
}

async fn a_deletion_of_10_001_messages_leaves_no_key(on: &Deployment) {
    let (threads, raw) = made(on, "huge").await;
    threads.truncate(keep_last("huge", 0)).await.unwrap();
    threads.fill("huge", 1001, 11_001).await;
    assert_eq!(threads.peek("huge").await.unwrap().message_count, 10_001);
    assert_eq!(raw.get::<i64>(&["EXISTS", &name(on, "huge", ":ids:old")]).await, 1);
    threads.delete("huge").await.unwrap();
    let left: Vec<String> =
        all_keys(on, &raw).await.into_iter().filter(|key| key.contains("{huge}")).collect();
    assert_eq!(left, [name(on, "huge", ":tombstone")]);
}

pub(super) async fn both_generations_of_ids_are_remembered(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 100, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("generations") }).await.unwrap();
    threads.fill("generations", 1, 10_200).await;
    assert_eq!(threads.peek("generations").await.unwrap().message_count, 100);
    for (from, to) in [(1, 100), (5000, 5099), (9950, 10_049), (10_101, 10_200)] {
        let again = threads.append("generations", numbered(from, to)).await;
        let expected: Vec<i64> = (from..=to).collect();
        assert_eq!(again.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), expected);
        assert!(again.messages.iter().all(|message| message.duplicate), "{from}");
    }
    assert_eq!(ids(&threads.recount("generations").await), ids(&numbered(10_101, 10_200)));
    if on.redis.is_some() {
        let raw = on.raw().await;
        let (young, old) = (name(on, "generations", ":ids"), name(on, "generations", ":ids:old"));
        assert_eq!(raw.get::<i64>(&["HLEN", &old]).await, 10_000);
        assert_eq!(raw.get::<i64>(&["HLEN", &young]).await, 200);
        let expiry = |key: String| async { raw.get::<i64>(&["PEXPIRETIME".to_owned(), key]).await };
        assert_eq!(expiry(young).await, expiry(name(on, "generations", "")).await);
        assert_eq!(expiry(old).await, expiry(name(on, "generations", "")).await);
    }
}
