//! Whole conversations: in, in again, and back line by line.

use std::{fs, path::Path};

use fusewire::grpc::proto::{ListMessagesRequest, Message};
use serde_json::Value;

use super::shapes::chat;
use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{cut_after, forking, keep_last, listing, sent},
};

on_every_store!(
    transcripts_come_back_line_by_line,
    contexts_of_transcripts_keep_calls_and_results_together,
    transcripts_are_forked_cut_and_continued,
);

struct Transcript {
    name: String,
    lines: Vec<Value>,
    messages: Vec<Message>,
}

/// The project's own transcripts, and the real ones where the machine has them.
fn transcripts() -> Vec<Transcript> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["tests/data/transcripts", "../shared/data/transcripts"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|e| e == "jsonl")),
        );
    }
    files.sort();
    assert!(files.len() >= 3, "tests/data/transcripts holds three");
    let read = |path: &std::path::PathBuf| {
        eprintln!("transcript {}", path.display());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages = lines
            .iter()
            .enumerate()
            .map(|(n, line)| Message { id: format!("{name}-{n}"), ..chat::read(line) });
        Transcript { messages: messages.collect(), name, lines }
    };
    files.iter().map(read).collect()
}

fn written(messages: Vec<Message>) -> Vec<Value> {
    messages.into_iter().map(|message| chat::write(&sent(message))).collect()
}

async fn transcripts_come_back_line_by_line(on: &Deployment) {
    let threads = on.threads();
    for Transcript { name, lines, messages } in transcripts() {
        let id = format!("{name}-lines");
        threads.create(&id).await;
        for is_again in [false, true] {
            for (n, message) in messages.iter().enumerate() {
                let appended = threads.append(&id, vec![message.clone()]).await.messages.remove(0);
                assert_eq!(
                    (appended.seq, appended.duplicate),
                    (i64::try_from(n).unwrap() + 1, is_again),
                    "{name}"
                );
            }
        }
        for (page_size, descending) in [(0, false), (3, false), (5, true)] {
            let request = ListMessagesRequest { page_size, descending, ..listing(&id) };
            let mut walked = threads.walk(request).await.unwrap();
            if descending {
                walked.reverse();
            }
            assert!(walked.iter().all(|message| message.commit_time.is_some()));
            let bare: Vec<Message> = walked.iter().cloned().map(sent).collect();
            assert_eq!(bare, messages);
            assert_eq!(written(walked), lines, "{name}");
        }
        threads.recount(&id).await;
    }
}

/// The ids of calls and of results in a line, as the provider writes them.
fn calls_and_results(line: &Value) -> (Vec<&str>, Option<&str>) {
    let calls = line["tool_calls"].as_array().into_iter().flatten().map(|call| call["id"].as_str().unwrap());
    (calls.collect(), line["tool_call_id"].as_str())
}

async fn contexts_of_transcripts_keep_calls_and_results_together(on: &Deployment) {
    let threads = on.threads();
    for Transcript { name, lines, messages } in transcripts() {
        let id = format!("{name}-context");
        threads.create(&id).await;
        threads.append(&id, messages.clone()).await;
        for max in 1..=i32::try_from(lines.len()).unwrap() + 1 {
            let context = threads.context(&id, max, 0).await;
            let count = i64::try_from(context.messages.len()).unwrap();
            assert_eq!(context.omitted_count + count, i64::try_from(lines.len()).unwrap());
            let mut open: Vec<String> = Vec::new();
            for line in written(context.messages) {
                let (calls, result) = calls_and_results(&line);
                if let Some(result) = result {
                    let call = open.iter().rposition(|call| call == result);
                    open.remove(
                        call.unwrap_or_else(|| panic!("{name}, {max}: a result without call {result}")),
                    );
                }
                open.extend(calls.into_iter().map(str::to_owned));
            }
            // Calls that the whole transcript answers are answered in every window.
            let unanswered = |lines: &[Value]| {
                let calls: usize = lines.iter().map(|line| calls_and_results(line).0.len()).sum();
                calls - lines.iter().filter(|line| calls_and_results(line).1.is_some()).count()
            };
            assert!(open.len() <= unanswered(&lines), "{name}, {max}: {open:?}");
        }
        let system = lines[0]["role"] == "system";
        for tokens in [1, 100, 1000, 5000, 20_000, 0] {
            let context = threads.context(&id, 0, tokens).await;
            let total: i64 = context.token_count;
            let instructions = context.messages.iter().filter(|message| message.role <= 2).count();
            assert!(!system || instructions > 0);
            if tokens == 0 {
                assert_eq!((context.omitted_count, total), (0, context.thread.unwrap().token_count));
            }
        }
    }
}

async fn transcripts_are_forked_cut_and_continued(on: &Deployment) {
    let threads = on.threads();
    for Transcript { name, lines, messages } in transcripts() {
        let (id, copy) = (format!("{name}-whole"), format!("{name}-half"));
        threads.create(&id).await;
        threads.append(&id, messages.clone()).await;
        let half = messages.len() / 2;
        let at_seq = i64::try_from(half).unwrap();
        let fork = fusewire::grpc::proto::ForkThreadRequest { at_seq, ..forking(&id, &copy) };
        threads.fork(fork).await.unwrap();
        assert_eq!(written(threads.recount(&copy).await), lines[..half], "{name}");
        // The rest under its ids: new in the copy.
        let rest = threads.append(&copy, messages.clone()).await;
        assert_eq!(rest.messages.iter().filter(|message| message.duplicate).count(), half);
        assert_eq!(written(threads.recount(&copy).await), lines, "{name}");
        // Cut and said again: known.
        threads.truncate(cut_after(&id, at_seq)).await.unwrap();
        assert!(threads.append(&id, messages.clone()).await.messages.iter().all(|message| message.duplicate));
        assert_eq!(written(threads.recount(&id).await), lines[..half], "{name}");
        threads.truncate(keep_last(&id, 3)).await.unwrap();
        assert_eq!(written(threads.recount(&id).await), lines[half - 3..half], "{name}");
    }
}
