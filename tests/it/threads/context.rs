//! `GetContext`: the newest messages that fit, instructions always, tool calls never apart from their results.

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, GetContextResponse, Message, MessageStatus, Role, ToolCall,
    ToolResult, TrimPolicy, part::Kind,
};
use tonic::Code;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        appending, assert_refused, calls, ids, keep_last, message, numbered, part, result, seqs, thread, user,
    },
};

on_every_store!(
    the_newest_n_are_exactly_n_and_ascending,
    an_empty_thread_has_an_empty_context,
    a_token_budget_counts_given_tokens_and_estimates_four_bytes_a_token,
    every_kind_of_content_is_estimated,
    instructions_are_always_in_and_count,
    tool_groups_are_whole_at_every_window_boundary,
    tool_groups_are_whole_at_every_token_budget,
    the_newest_group_is_returned_even_over_budget,
    a_group_longer_than_any_slice_is_whole,
    results_whose_calls_were_trimmed_away_are_left_out,
    messages_in_progress_are_left_out,
    the_last_20_of_10_000_are_right,
    a_context_ends_at_3_mib,
    the_etag_of_a_context_makes_the_answer_a_compare_and_set,
    a_thread_that_does_not_exist_has_no_context,
);

/// Checks what every context promises; answers the ids.
fn whole(context: &GetContextResponse) -> Vec<&str> {
    let stored = context.thread.as_ref().unwrap().message_count;
    assert_eq!(context.omitted_count + i64::try_from(context.messages.len()).unwrap(), stored);
    assert!(seqs(&context.messages).is_sorted_by(|a, b| a < b), "{:?}", seqs(&context.messages));
    ids(&context.messages)
}

async fn the_newest_n_are_exactly_n_and_ascending(on: &Deployment) {
    let threads = on.threads();
    threads.create("newest").await;
    threads.fill("newest", 1, 30).await;
    for n in 1..=32 {
        let context = threads.context("newest", i32::try_from(n).unwrap(), 0).await;
        let expected: Vec<i64> = ((31 - n).max(1)..=30).collect();
        whole(&context);
        assert_eq!(seqs(&context.messages), expected);
        assert_eq!(context.token_count, 2 * n.min(30));
    }
    assert_eq!(whole(&threads.context("newest", 0, 0).await).len(), 30);
}

async fn an_empty_thread_has_an_empty_context(on: &Deployment) {
    let threads = on.threads();
    threads.create("empty").await;
    let context = threads.context("empty", 5, 5).await;
    assert_eq!((whole(&context).len(), context.token_count, context.omitted_count), (0, 0, 0));
    threads.fill("empty", 1, 3).await;
    threads.truncate(keep_last("empty", 0)).await.unwrap();
    assert_eq!(whole(&threads.context("empty", 5, 5).await).len(), 0);
}

async fn a_token_budget_counts_given_tokens_and_estimates_four_bytes_a_token(on: &Deployment) {
    let threads = on.threads();
    threads.create("tokens").await;
    // Ten tokens each: five estimated, then five given.
    for n in 0..10 {
        let text = "x".repeat(if n < 5 { 40 } else { 1000 });
        let token_count = if n < 5 { 0 } else { 10 };
        threads.append("tokens", vec![Message { token_count, ..user(&format!("t{n}"), &text) }]).await;
    }
    assert_eq!(threads.peek("tokens").await.unwrap().token_count, 100);
    for budget in 1..=110 {
        let context = threads.context("tokens", 0, budget).await;
        let expected = usize::try_from(budget / 10).unwrap().clamp(1, 10);
        assert_eq!(whole(&context).len(), expected, "{budget}");
        assert_eq!(context.token_count, 10 * i64::try_from(expected).unwrap());
    }
    assert_eq!(ids(&threads.context("tokens", 2, 35).await.messages), ["t8", "t9"]);
    assert_eq!(ids(&threads.context("tokens", 9, 35).await.messages), ["t7", "t8", "t9"]);
}

async fn every_kind_of_content_is_estimated(on: &Deployment) {
    use fusewire::grpc::proto::{Media, Opaque, Reasoning, media::Source};
    let threads = on.threads();
    threads.create("kinds").await;
    let eight = || "x".repeat(8);
    let kinds = [
        Kind::Text(eight()),
        Kind::Reasoning(Reasoning { text: eight() }),
        Kind::ToolCall(ToolCall {
            call_id: String::new(),
            name: "nnnn".into(),
            arguments_json: "aaaa".into(),
        }),
        Kind::ToolResult(ToolResult { text: eight(), ..Default::default() }),
        Kind::ToolResult(ToolResult { parts: vec![part(Kind::Text(eight()))], ..Default::default() }),
        Kind::Media(Media {
            mime_type: "image/png".into(),
            source: Some(Source::Data(vec![0; 8].into())),
            ..Default::default()
        }),
        Kind::Opaque(Opaque { mime_type: "x/y".into(), data: vec![0; 8].into() }),
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let before = threads.peek("kinds").await.unwrap().token_count;
        let message = Message { parts: vec![part(kind)], ..message(&format!("k{n}"), Role::Assistant, "") };
        let after = threads.append("kinds", vec![message]).await.thread.unwrap().token_count;
        assert_eq!(after - before, 2, "kind {n}");
    }
}

async fn instructions_are_always_in_and_count(on: &Deployment) {
    let threads = on.threads();
    threads.create("instructed").await;
    threads.append("instructed", vec![message("sys", Role::System, "01234567"), user("a", "01234567")]).await;
    threads.append("instructed", vec![message("dev", Role::Developer, "01234567")]).await;
    threads.fill("instructed", 1, 5).await;
    let chosen = async |messages, tokens| {
        let context = threads.context("instructed", messages, tokens).await;
        whole(&context).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(chosen(4, 0).await, ["sys", "dev", "m4", "m5"]);
    assert_eq!(chosen(3, 0).await, ["sys", "dev", "m5"]);
    assert_eq!(chosen(0, 8).await, ["sys", "dev", "m4", "m5"]);
    assert_eq!(chosen(0, 7).await, ["sys", "dev", "m5"]);
    // Even if they take all: the newest is in too.
    assert_eq!(chosen(1, 0).await, ["sys", "dev", "m5"]);
    assert_eq!(chosen(0, 1).await, ["sys", "dev", "m5"]);
    assert_eq!(chosen(8, 0).await, ["sys", "a", "dev", "m1", "m2", "m3", "m4", "m5"]);
}

/// A message, and the earlier lines whose calls it answers.
type Line = (Message, &'static [usize]);

fn unnamed(id: &str, kinds: Vec<Kind>) -> Message {
    Message { parts: kinds.into_iter().map(part).collect(), ..message(id, Role::Assistant, "") }
}

/// All that real transcripts do with calls, ten tokens a line.
fn transcript() -> Vec<Line> {
    let call = |name: &str| Kind::ToolCall(ToolCall { name: name.into(), ..Default::default() });
    let back = |name: &str| Kind::ToolResult(ToolResult { name: name.into(), ..Default::default() });
    let answer =
        |call_id: &str| Kind::ToolResult(ToolResult { call_id: call_id.into(), ..Default::default() });
    let lines: Vec<Line> = vec![
        (user("l0", "hi"), &[]),
        // Parallel calls, answered out of order.
        (calls("l1", &["a", "b"]), &[]),
        (result("l2", "b"), &[1]),
        (result("l3", "a"), &[1]),
        (user("l4", "more"), &[]),
        // A reused id.
        (calls("l5", &["a"]), &[]),
        (result("l6", "a"), &[5]),
        // A user who does not wait.
        (calls("l7", &["p", "q"]), &[]),
        (result("l8", "q"), &[7]),
        (user("l9", "well?"), &[]),
        (result("l10", "p"), &[7]),
        // No ids: paired by name and order.
        (unnamed("l11", vec![call("look"), call("find"), call("look")]), &[]),
        (unnamed("l12", vec![back("find")]), &[11]),
        (unnamed("l13", vec![back("look")]), &[11]),
        (unnamed("l14", vec![back("look")]), &[11]),
        // Never answered, and its id used again.
        (calls("l15", &["x"]), &[]),
        (user("l16", "never mind"), &[]),
        (calls("l17", &["x"]), &[]),
        (result("l18", "x"), &[17]),
        // Entangled.
        (calls("l19", &["s"]), &[]),
        (calls("l20", &["t"]), &[]),
        (result("l21", "s"), &[19]),
        (result("l22", "t"), &[20]),
        // All results in one message of the user.
        (calls("l23", &["m", "n"]), &[]),
        (Message { role: Role::User.into(), ..unnamed("l24", vec![answer("m"), answer("n")]) }, &[23]),
        (user("l25", "go on"), &[]),
        // Open.
        (calls("l26", &["y", "z"]), &[]),
        (result("l27", "y"), &[26]),
    ];
    lines.into_iter().map(|(message, answers)| (Message { token_count: 10, ..message }, answers)).collect()
}

/// Index of the oldest line of the newest groups that fit `max` lines.
fn oldest_that_fits(lines: &[Line], max: usize) -> usize {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for (index, (_, answers)) in lines.iter().enumerate() {
        let mut start = answers.iter().copied().min().unwrap_or(index);
        while let Some((first, _)) = groups.pop_if(|&mut (_, last)| last >= start) {
            start = start.min(first);
        }
        groups.push((start, index));
    }
    let starts = || groups.iter().rev().map(|group| group.0);
    let fitting = starts().take_while(|start| lines.len() - start <= max).last();
    fitting.or_else(|| starts().next()).unwrap_or_default()
}

async fn tool_groups_are_whole_at_every_window_boundary(on: &Deployment) {
    let threads = on.threads();
    threads.create("windows").await;
    let lines = transcript();
    for length in 1..=lines.len() {
        let so_far = &lines[..length];
        threads.append("windows", vec![so_far[length - 1].0.clone()]).await;
        for max in 1..=length + 1 {
            let context = threads.context("windows", i32::try_from(max).unwrap(), 0).await;
            let expected: Vec<&str> =
                so_far[oldest_that_fits(so_far, max)..].iter().map(|line| line.0.id.as_str()).collect();
            assert_eq!(whole(&context), expected, "{max} of {length}");
        }
    }
}

async fn tool_groups_are_whole_at_every_token_budget(on: &Deployment) {
    let threads = on.threads();
    threads.create("budgets").await;
    let lines = transcript();
    threads.append("budgets", lines.iter().map(|line| line.0.clone()).collect()).await;
    for budget in 1..=10 * lines.len() + 1 {
        let context = threads.context("budgets", 0, i32::try_from(budget).unwrap()).await;
        let expected: Vec<&str> =
            lines[oldest_that_fits(&lines, budget / 10)..].iter().map(|line| line.0.id.as_str()).collect();
        assert_eq!(whole(&context), expected, "{budget}");
        assert_eq!(context.token_count, 10 * i64::try_from(expected.len()).unwrap());
    }
}

async fn the_newest_group_is_returned_even_over_budget(on: &Deployment) {
    let threads = on.threads();
    threads.create("over").await;
    threads
        .append("over", vec![user("a", "1"), calls("b", &["x", "y"]), result("c", "y"), result("d", "x")])
        .await;
    assert_eq!(whole(&threads.context("over", 1, 0).await), ["b", "c", "d"]);
    assert_eq!(whole(&threads.context("over", 0, 1).await), ["b", "c", "d"]);
    threads.append("over", vec![user("e", &"x".repeat(400))]).await;
    assert_eq!(whole(&threads.context("over", 3, 1).await), ["e"]);
}

async fn a_group_longer_than_any_slice_is_whole(on: &Deployment) {
    let threads = on.threads();
    threads.create("long-group").await;
    threads.append("long-group", vec![user("before", "1"), calls("call", &["far"])]).await;
    threads.fill("long-group", 1, 1200).await;
    assert_eq!(
        whole(&threads.context("long-group", 5, 0).await),
        ["m1196", "m1197", "m1198", "m1199", "m1200"]
    );
    threads.append("long-group", vec![result("answer", "far")]).await;
    let context = threads.context("long-group", 5, 0).await;
    assert_eq!((whole(&context).len(), context.messages[0].id.as_str()), (1202, "call"));
    threads.append("long-group", vec![user("after", "1")]).await;
    assert_eq!(whole(&threads.context("long-group", 5, 0).await), ["after"]);
}

async fn results_whose_calls_were_trimmed_away_are_left_out(on: &Deployment) {
    let threads = on.threads();
    let trim = Some(TrimPolicy { max_messages: 3, max_bytes: 0 });
    threads.try_create(ConversationThread { trim, ..thread("orphans") }).await.unwrap();
    threads.append("orphans", vec![calls("call", &["x"]), result("back", "x"), user("u1", "1")]).await;
    assert_eq!(whole(&threads.context("orphans", 0, 0).await), ["call", "back", "u1"]);
    threads.append("orphans", vec![user("u2", "2")]).await;
    let context = threads.context("orphans", 0, 0).await;
    assert_eq!((whole(&context), context.omitted_count), (vec!["u1", "u2"], 1));

    // The newest group is returned in any case.
    threads.create("orphan").await;
    threads.append("orphan", vec![calls("call", &["x"]), result("back", "x")]).await;
    threads.truncate(keep_last("orphan", 1)).await.unwrap();
    assert_eq!(whole(&threads.context("orphan", 0, 0).await), ["back"]);
    // What never had a call lost none.
    threads.create("free").await;
    threads.append("free", vec![result("back", "x"), user("u", "1")]).await;
    assert_eq!(whole(&threads.context("free", 0, 0).await), ["back", "u"]);
}

async fn messages_in_progress_are_left_out(on: &Deployment) {
    let threads = on.threads();
    threads.create("progress").await;
    let status = MessageStatus::InProgress.into();
    threads.append("progress", numbered(1, 3)).await;
    threads.append("progress", vec![Message { status, ..message("draft", Role::Assistant, "so far") }]).await;
    let context = threads.context("progress", 2, 0).await;
    assert_eq!((whole(&context), context.omitted_count), (vec!["m2", "m3"], 2));
    let only = Message { status, ..message("only", Role::Assistant, "so far") };
    threads.create("drafts").await;
    threads.append("drafts", vec![only, Message { status, ..message("sys", Role::System, "so far") }]).await;
    let context = threads.context("drafts", 0, 0).await;
    assert_eq!((whole(&context).len(), context.omitted_count, context.token_count), (0, 2, 0));
}

async fn the_last_20_of_10_000_are_right(on: &Deployment) {
    let threads = on.threads();
    threads.create("long").await;
    threads.fill("long", 1, 10_000).await;
    let context = threads.context("long", 20, 0).await;
    whole(&context);
    assert_eq!(seqs(&context.messages), (9981..=10_000).collect::<Vec<_>>());
    assert_eq!(
        context.messages.iter().map(|m| m.id.clone()).collect::<Vec<_>>(),
        (9981..=10_000).map(|n| format!("m{n}")).collect::<Vec<_>>()
    );
    assert_eq!(whole(&threads.context("long", 0, 0).await).len(), 10_000);
    assert_eq!(whole(&threads.context("long", 0, 4001).await).len(), 2000);
}

async fn a_context_ends_at_3_mib(on: &Deployment) {
    let threads = on.threads();
    threads.create("heavy").await;
    for n in 0..5 {
        threads.append("heavy", vec![user(&format!("h{n}"), &"x".repeat(900 << 10))]).await;
    }
    assert_eq!(whole(&threads.context("heavy", 0, 0).await), ["h2", "h3", "h4"]);
    assert_eq!(whole(&threads.context("heavy", 4, 0).await), ["h2", "h3", "h4"]);
}

async fn the_etag_of_a_context_makes_the_answer_a_compare_and_set(on: &Deployment) {
    let threads = on.threads();
    threads.create("answer").await;
    threads.fill("answer", 1, 1).await;
    let etag = threads.context("answer", 0, 0).await.thread.unwrap().etag;
    let answer =
        |id| AppendMessagesRequest { etag: etag.clone(), ..appending("answer", vec![user(id, "x")]) };
    threads.try_append(answer("first")).await.unwrap();
    assert_refused(threads.try_append(answer("second")).await, Code::Aborted, "ETAG_MISMATCH");
}

async fn a_thread_that_does_not_exist_has_no_context(on: &Deployment) {
    use fusewire::grpc::proto::GetContextRequest;
    let request = GetContextRequest { thread_id: "nowhere".into(), ..Default::default() };
    let outcome = on.threads().client.clone().get_context(request).await;
    assert_refused(outcome, Code::NotFound, "THREAD_NOT_FOUND");
}
