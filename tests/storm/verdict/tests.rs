//! The books notice what they are kept for.

use fusewire::grpc::proto::{AppendedMessage, Authority};

use super::*;
use crate::storm::books::Books;

/// Two batches of one writer and one of another, all acknowledged by memory, and one that nobody acknowledged.
fn account() -> Account {
    let books = Books::default();
    let batches: [(usize, &[&str], bool); 4] =
        [(0, &["a1", "a2"], true), (1, &["b1"], true), (0, &["a3"], true), (1, &["b2", "b3"], false)];
    for (writer, ids, is_acknowledged) in batches {
        let messages: Vec<Message> = ids.iter().map(|id| user(id, &text(id))).collect();
        let batch = books.send("t", writer, &messages);
        if is_acknowledged {
            let told =
                |id: &&str| AppendedMessage { id: (*id).to_owned(), provisional: true, ..Default::default() };
            let told: Vec<AppendedMessage> = ids.iter().map(told).collect();
            books.acknowledge("t", batch, 0, &told, Authority::Local);
        }
    }
    assert!(books.told().is_empty());
    books.accounts().remove("t").unwrap()
}

fn judged(ids: &[&str]) -> Vec<String> {
    let messages: Vec<Message> =
        (1..).zip(ids).map(|(seq, id)| Message { seq, ..user(id, &text(id)) }).collect();
    Found::of(&messages).judge(&account())
}

#[test]
fn every_order_that_was_promised_is_right() {
    for right in [
        &["a1", "a2", "b1", "a3"][..],
        &["b1", "a1", "a2", "a3"],
        &["a1", "a2", "a3", "b1"],
        &["b2", "b3", "a1", "a2", "b1", "a3"],
    ] {
        assert!(judged(right).is_empty(), "{:?}", judged(right));
    }
}

#[test]
fn everything_else_is_wrong() {
    for wrong in [
        &["a1", "a2", "b1"][..],
        &["a1", "a2", "b1", "a3", "a3"],
        &["a3", "a1", "a2", "b1"],
        &["a2", "a1", "b1", "a3"],
        &["a1", "b1", "a2", "a3"],
        &["a1", "a2", "b1", "a3", "b2"],
        &["a1", "a2", "b1", "a3", "c1"],
        &[],
    ] {
        assert!(!judged(wrong).is_empty(), "{wrong:?}");
    }
}

#[test]
fn what_was_told_to_stand_somewhere_must_stand_there() {
    let books = Books::default();
    let batch = books.send("t", 0, &[user("a1", &text("a1"))]);
    let told = AppendedMessage { id: "a1".to_owned(), seq: 2, ..Default::default() };
    books.acknowledge("t", batch, 0, &[told], Authority::Shared);
    let account = books.accounts().remove("t").unwrap();
    let at = |ids: &[&str]| -> Vec<Message> {
        (1..).zip(ids).map(|(seq, id)| Message { seq, ..user(id, &text(id)) }).collect()
    };
    let wrong = Found::of(&at(&["a1"])).judge(&account);
    assert!(wrong.iter().any(|what| what.contains("was told to stand at 2")), "{wrong:?}");
}
