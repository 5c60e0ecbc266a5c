//! `ListMessages`: pages in both directions, without repeats and without gaps, whatever others do meanwhile.

use std::sync::Arc;

use fusewire::grpc::proto::{Authority, ConversationThread, ListMessagesRequest, Message, Role, TrimPolicy};
use tokio::{sync::Notify, task::JoinSet};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store, on_every_store},
    threads::{
        Threads, assert_refused, cut_after, ids, keep_last, listing, message, numbered, seqs, thread, told,
        user, violated,
    },
};

on_every_store!(
    the_last_n_come_newest_first,
    small_pages_give_every_message_once_in_both_directions,
    page_sizes_have_a_default_and_a_limit,
    bounds_are_exclusive_and_a_seq_beyond_the_thread_is_refused,
    a_page_tells_the_thread_it_was_read_from,
    paging_goes_on_while_others_append,
    paging_goes_on_while_others_append_at_once,
    paging_goes_on_while_the_head_is_trimmed,
    paging_goes_on_while_others_truncate,
    a_token_belongs_to_its_request_alone,
    a_token_of_an_earlier_incarnation_is_stale,
    five_thousand_messages_of_1_kib_are_readable_by_a_default_client,
    a_page_ends_at_3_mib,
    the_token_is_empty_exactly_at_the_end,
);

async fn made(on: &Deployment, id: &str, count: i64) -> Threads {
    let threads = on.threads();
    threads.create(id).await;
    threads.fill(id, 1, count).await;
    threads
}

async fn the_last_n_come_newest_first(on: &Deployment) {
    let threads = made(on, "last", 120).await;
    for n in [1, 2, 60, 119, 120, 121] {
        let request = ListMessagesRequest { descending: true, page_size: n, ..listing("last") };
        let page = threads.page(request).await.unwrap();
        let expected: Vec<i64> = (1..=120).rev().take(usize::try_from(n).unwrap()).collect();
        assert_eq!(seqs(&page.messages), expected);
        assert_eq!(page.next_page_token.is_empty(), n >= 120);
    }
}

async fn small_pages_give_every_message_once_in_both_directions(on: &Deployment) {
    let threads = made(on, "pages", 20).await;
    // Holes from 16 to 20, then more.
    threads.truncate(cut_after("pages", 15)).await.unwrap();
    threads.fill("pages", 21, 30).await;
    // Instructions that outlived trimming.
    let trim = Some(TrimPolicy { max_messages: 12, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("kept") }).await.unwrap();
    for n in 1..=8 {
        let role = if n % 2 == 0 { Role::System } else { Role::User };
        threads.append("kept", vec![message(&format!("i{n}"), role, "x")]).await;
    }
    threads.fill("kept", 1, 15).await;

    let expected: [(&str, Vec<i64>); 2] = [
        ("pages", (1..=15).chain(21..=30).collect()),
        ("kept", [2, 4, 6, 8].into_iter().chain(12..=23).collect()),
    ];
    for (id, expected) in expected {
        for page_size in [1, 2, 3, 7, 24, 25, 26] {
            for descending in [false, true] {
                let request = ListMessagesRequest { page_size, descending, ..listing(id) };
                let mut walked = seqs(&threads.walk(request).await.unwrap());
                if descending {
                    walked.reverse();
                }
                assert_eq!(walked, expected, "{id} {page_size} {descending}");
            }
        }
        threads.recount(id).await;
    }
}

async fn page_sizes_have_a_default_and_a_limit(on: &Deployment) {
    let threads = made(on, "sizes", 1005).await;
    for (page_size, expected) in [(0, 50), (1, 1), (50, 50), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
        let page = threads.page(ListMessagesRequest { page_size, ..listing("sizes") }).await.unwrap();
        assert_eq!(page.messages.len(), expected, "{page_size}");
        assert!(!page.next_page_token.is_empty());
    }
    for page_size in [-1, i32::MIN] {
        let outcome = threads.page(ListMessagesRequest { page_size, ..listing("sizes") }).await;
        assert_eq!(
            violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")),
            ["page_size"]
        );
    }
}

async fn bounds_are_exclusive_and_a_seq_beyond_the_thread_is_refused(on: &Deployment) {
    let threads = made(on, "bounds", 10).await;
    let read = async |after_seq, before_seq, descending| {
        let request =
            ListMessagesRequest { after_seq, before_seq, descending, page_size: 2, ..listing("bounds") };
        threads.walk(request).await
    };
    for (after, before, expected) in
        [(0, 0, 1..=10), (3, 0, 4..=10), (0, 4, 1..=3), (3, 7, 4..=6), (9, 11, 10..=10), (0, 11, 1..=10)]
    {
        let forth: Vec<i64> = expected.clone().collect();
        let back: Vec<i64> = expected.rev().collect();
        assert_eq!(seqs(&read(after, before, false).await.unwrap()), forth);
        assert_eq!(seqs(&read(after, before, true).await.unwrap()), back);
    }
    for (after, before) in [(10, 0), (0, 1), (5, 5), (5, 6), (7, 3), (10, 11)] {
        assert_eq!(read(after, before, false).await.unwrap(), [], "{after} {before}");
        assert_eq!(read(after, before, true).await.unwrap(), [], "{after} {before}");
    }
    for (after, before) in [(11, 0), (i64::MAX, 0), (0, 12), (0, i64::MAX), (11, 12)] {
        let status = assert_refused(read(after, before, false).await, Code::OutOfRange, "SEQ_OUT_OF_RANGE");
        assert_eq!(told(&status, "last_seq"), "10");
    }
}

async fn a_page_tells_the_thread_it_was_read_from(on: &Deployment) {
    let threads = made(on, "told", 3).await;
    let page = threads.page(ListMessagesRequest { page_size: 1, ..listing("told") }).await.unwrap();
    let (read, now) = (page.thread.unwrap(), threads.peek("told").await.unwrap());
    assert_eq!((read.etag, read.last_seq, read.message_count), (now.etag, 3, 3));
    let authority = if on.store == Store::Memory { Authority::Local } else { Authority::Shared };
    assert_eq!(page.authority, i32::from(authority));
    assert_eq!(page.as_of, None, "this answer is not old");
    threads.create("told-empty").await;
    let page = threads.page(listing("told-empty")).await.unwrap();
    assert_eq!((page.messages.len(), page.next_page_token.as_str()), (0, ""));
    assert_refused(threads.page(listing("told-none")).await, Code::NotFound, "THREAD_NOT_FOUND");
}

/// Walks through all pages and does something before each but the first.
async fn walk_while(
    threads: &Threads,
    mut request: ListMessagesRequest,
    mut meanwhile: impl AsyncFnMut(i64),
) -> Vec<Message> {
    let mut walked = Vec::new();
    for round in 1.. {
        let page = threads.page(request.clone()).await.unwrap();
        walked.extend(page.messages);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        meanwhile(round).await;
    }
    walked
}

async fn paging_goes_on_while_others_append(on: &Deployment) {
    let threads = made(on, "grows", 20).await;
    let forth = ListMessagesRequest { page_size: 3, ..listing("grows") };
    let walked = walk_while(&threads, forth, async |round| {
        if round <= 8 {
            threads.fill("grows", 20 + round, 20 + round).await;
        }
    })
    .await;
    assert_eq!(seqs(&walked), (1..=28).collect::<Vec<_>>());
    let back = ListMessagesRequest { page_size: 3, descending: true, ..listing("grows") };
    let walked =
        walk_while(&threads, back, async |round| threads.fill("grows", 28 + round, 28 + round).await).await;
    assert_eq!(seqs(&walked), (1..=28).rev().collect::<Vec<_>>());
}

async fn paging_goes_on_while_others_append_at_once(on: &Deployment) {
    let threads = made(on, "busy", 100).await;
    let (writer, done) = (threads.clone(), Arc::new(Notify::new()));
    let stop = Arc::clone(&done);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for n in 101..=400 {
            writer.fill("busy", n, n).await;
        }
        stop.notify_one();
    });
    loop {
        let before = threads.peek("busy").await.unwrap().last_seq;
        let walked = threads.walk(ListMessagesRequest { page_size: 7, ..listing("busy") }).await.unwrap();
        let count = i64::try_from(walked.len()).unwrap();
        assert_eq!(seqs(&walked), (1..=count).collect::<Vec<_>>());
        assert!(count >= before);
        if count == 400 {
            break;
        }
    }
    done.notified().await;
    tasks.join_all().await;
}

async fn paging_goes_on_while_the_head_is_trimmed(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 30, max_bytes: 0 });
    for (id, descending) in [("trims-forth", false), ("trims-back", true)] {
        threads.try_create(ConversationThread { trim, ..thread(id) }).await.unwrap();
        threads.fill(id, 1, 30).await;
        let request = ListMessagesRequest { page_size: 4, descending, ..listing(id) };
        let walked = walk_while(&threads, request, async |round| {
            if round <= 10 {
                threads.fill(id, 28 + 3 * round, 30 + 3 * round).await;
            }
        })
        .await;
        let walked = seqs(&walked);
        assert!(walked.is_sorted_by(|a, b| if descending { a > b } else { a < b }), "{walked:?}");
        let newest = if descending { 30 } else { threads.peek(id).await.unwrap().last_seq };
        let staying: Vec<i64> =
            seqs(&threads.messages(id).await).into_iter().filter(|seq| *seq <= newest).collect();
        assert!(staying.iter().all(|seq| walked.contains(seq)), "{walked:?} {staying:?}");
    }
}

async fn paging_goes_on_while_others_truncate(on: &Deployment) {
    for descending in [false, true] {
        let id = &format!("cut-{descending}");
        let threads = made(on, id, 30).await;
        let request = ListMessagesRequest { page_size: 4, descending, ..listing(id) };
        let walked = walk_while(&threads, request, async |round| match round {
            2 => drop(threads.truncate(keep_last(id, 26)).await.unwrap()),
            3 => drop(threads.truncate(cut_after(id, 22)).await.unwrap()),
            4 => threads.fill(id, 31, 33).await,
            _ => {}
        })
        .await;
        let expected: Vec<i64> =
            if descending { (5..=30).rev().collect() } else { (1..=22).chain(31..=33).collect() };
        assert_eq!(seqs(&walked), expected);
    }
    // What is cut below the place of the walk ends it.
    let threads = made(on, "cut-all", 10).await;
    let request = ListMessagesRequest { page_size: 4, ..listing("cut-all") };
    let walked = walk_while(&threads, request, async |_| {
        threads.truncate(cut_after("cut-all", 0)).await.unwrap();
    });
    assert_eq!(seqs(&walked.await), [1, 2, 3, 4]);
}

async fn a_token_belongs_to_its_request_alone(on: &Deployment) {
    let threads = made(on, "bound", 10).await;
    made(on, "bound-other", 10).await;
    let request = ListMessagesRequest { after_seq: 1, before_seq: 9, page_size: 2, ..listing("bound") };
    let page_token = threads.page(request.clone()).await.unwrap().next_page_token;
    let bound = ListMessagesRequest { page_token: page_token.clone(), ..request };
    let mut garbage: Vec<String> = ["x", "%%%", "AAAA", "\u{1f600}"].map(str::to_owned).into();
    garbage.extend([format!("{page_token}A"), page_token[1..].to_owned(), "A".repeat(100_000)]);
    let others = [
        ListMessagesRequest { thread_id: "bound-other".into(), ..bound.clone() },
        ListMessagesRequest { after_seq: 0, ..bound.clone() },
        ListMessagesRequest { before_seq: 8, ..bound.clone() },
        ListMessagesRequest { descending: true, ..bound.clone() },
    ];
    let garbage = garbage.into_iter().map(|page_token| ListMessagesRequest { page_token, ..bound.clone() });
    for request in garbage.chain(others) {
        assert_refused(threads.page(request).await, Code::InvalidArgument, "TOKEN_MISMATCH");
    }
    assert_eq!(seqs(&threads.page(bound).await.unwrap().messages), [4, 5]);
}

async fn a_token_of_an_earlier_incarnation_is_stale(on: &Deployment) {
    let threads = made(on, "reborn", 10).await;
    let request = ListMessagesRequest { page_size: 2, ..listing("reborn") };
    let page_token = threads.page(request.clone()).await.unwrap().next_page_token;
    threads.delete("reborn").await.unwrap();
    made(on, "reborn", 10).await;
    let stale = ListMessagesRequest { page_token, ..request };
    assert_refused(threads.page(stale).await, Code::Aborted, "TOKEN_STALE");
}

async fn five_thousand_messages_of_1_kib_are_readable_by_a_default_client(on: &Deployment) {
    let threads = on.threads();
    threads.create("wide").await;
    let text = "x".repeat(1024);
    let all: Vec<Message> = (1..=5000).map(|n| user(&format!("w{n}"), &text)).collect();
    for batch in all.chunks(100) {
        threads.append("wide", batch.to_vec()).await;
    }
    let walked = threads.messages("wide").await;
    assert_eq!(ids(&walked), ids(&all));
    assert!(walked.iter().all(|message| message.parts == all[0].parts));
}

async fn a_page_ends_at_3_mib(on: &Deployment) {
    let threads = on.threads();
    threads.create("heavy-pages").await;
    for n in 1..=7 {
        threads.append("heavy-pages", vec![user(&format!("h{n}"), &"x".repeat(1 << 20))]).await;
    }
    threads.append("heavy-pages", numbered(8, 12)).await;
    for descending in [false, true] {
        let request = ListMessagesRequest { page_size: 1000, descending, ..listing("heavy-pages") };
        let page = threads.page(request.clone()).await.unwrap();
        let expected: &[i64] = if descending { &[12, 11, 10, 9, 8, 7, 6] } else { &[1, 2] };
        assert_eq!(seqs(&page.messages), expected);
        assert_eq!(threads.walk(request).await.unwrap().len(), 12);
    }
}

async fn the_token_is_empty_exactly_at_the_end(on: &Deployment) {
    let threads = made(on, "end", 6).await;
    let page = async |after_seq, descending| {
        let request = ListMessagesRequest { page_size: 3, after_seq, descending, ..listing("end") };
        threads.page(request).await.unwrap()
    };
    assert!(!page(0, false).await.next_page_token.is_empty());
    assert!(page(3, false).await.next_page_token.is_empty());
    assert!(!page(2, true).await.next_page_token.is_empty());
    assert!(page(3, true).await.next_page_token.is_empty());
    // Only holes follow.
    threads.truncate(cut_after("end", 3)).await.unwrap();
    assert!(page(0, false).await.next_page_token.is_empty());
    assert!(page(0, true).await.next_page_token.is_empty());
}
