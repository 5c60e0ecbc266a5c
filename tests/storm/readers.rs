//! Readers, who must not be told a lie: no thread of which something was acknowledged is missing or empty.

use std::sync::Arc;

use fusewire::grpc::proto::{Authority, GetContextRequest, GetThreadRequest, ListMessagesRequest, Message};
use prost_types::Timestamp;
use tonic::{Code, Status};

use super::{Shared, books::Promised, script::Script, world::Clients};
use crate::support::threads::{Threads, listing};

/// One reader of one instance.
struct Reader {
    threads: Threads,
    shared: Arc<Shared>,
    script: Script,
    side: usize,
}

/// What every read is judged by.
struct Told {
    authority: Authority,
    as_of: Option<Timestamp>,
    last_seq: i64,
    is_empty: bool,
}

pub(super) async fn run(clients: Clients, shared: Arc<Shared>, script: Script, side: usize) {
    let threads = clients.threads[side].clone();
    let mut reader = Reader { threads, shared, script, side };
    while reader.shared.goes_on() {
        reader.read().await;
        reader.script.pause(5..60).await;
    }
}

impl Reader {
    async fn read(&mut self) {
        let names = self.shared.books.names();
        if names.is_empty() {
            return;
        }
        let id = names[self.script.pick(0..names.len())].clone();
        let promised = self.shared.books.promised(&id, self.side);
        let outcome = match self.script.pick(0..4) {
            0 => self.get(&id).await,
            1 => self.newest(&id, promised).await,
            2 => self.after(&id, promised).await,
            _ => self.context(&id).await,
        };
        match outcome {
            Ok(told) => self.judge(&id, promised, &told),
            Err(status) => self.refused(&id, promised, &status),
        }
    }

    async fn get(&self, id: &str) -> Result<Told, Status> {
        let request = GetThreadRequest { thread_id: id.to_owned(), peek: true, ..Default::default() };
        let mut client = self.threads.client.clone();
        let answer = self.shared.timing.call("get", client.get_thread(request)).await?.into_inner();
        let (authority, as_of) = (answer.authority(), answer.as_of);
        let thread = answer.thread.unwrap_or_default();
        Ok(Told { authority, as_of, last_seq: thread.last_seq, is_empty: thread.message_count == 0 })
    }

    /// The end of a thread.
    async fn newest(&mut self, id: &str, promised: Promised) -> Result<Told, Status> {
        let page_size = i32::try_from(self.script.pick(1..200)).expect("it is small");
        let request = ListMessagesRequest { descending: true, page_size, ..listing(id) };
        let page = self.shared.timing.call("list", self.threads.page(request)).await?;
        let (authority, as_of) = (page.authority(), page.as_of);
        let last_seq = page.thread.as_ref().map_or(0, |thread| thread.last_seq);
        let reaches_the_start = page.next_page_token.is_empty();
        let low = if reaches_the_start { 1 } else { lowest(&page.messages) };
        self.compare(id, promised, &page.messages, (low, last_seq), authority);
        Ok(Told { authority, as_of, last_seq, is_empty: page.messages.is_empty() })
    }

    /// What came after some place.
    async fn after(&mut self, id: &str, promised: Promised) -> Result<Told, Status> {
        let end = usize::try_from(promised.last_seq).expect("seqs are positive");
        let after_seq = i64::try_from(self.script.pick(0..end + 1)).expect("it was one");
        let request = ListMessagesRequest { after_seq, page_size: 100, ..listing(id) };
        let page = self.shared.timing.call("list", self.threads.page(request)).await?;
        let (authority, as_of) = (page.authority(), page.as_of);
        let last_seq = page.thread.as_ref().map_or(0, |thread| thread.last_seq);
        let high = if page.next_page_token.is_empty() { last_seq } else { highest(&page.messages) };
        self.compare(id, promised, &page.messages, (after_seq + 1, high), authority);
        // A copy may end before what was promised, and says how old it may be.
        let is_whole = authority == Authority::Shared && after_seq < promised.last_seq;
        let is_empty = page.messages.is_empty() && (after_seq == 0 || is_whole);
        Ok(Told { authority, as_of, last_seq, is_empty })
    }

    async fn context(&self, id: &str) -> Result<Told, Status> {
        let request = GetContextRequest {
            thread_id: id.to_owned(),
            max_messages: 20,
            peek: true,
            ..Default::default()
        };
        let mut client = self.threads.client.clone();
        let answer = self.shared.timing.call("context", client.get_context(request)).await?.into_inner();
        let (authority, as_of) = (answer.authority(), answer.as_of);
        let last_seq = answer.thread.map_or(0, |thread| thread.last_seq);
        Ok(Told { authority, as_of, last_seq, is_empty: answer.messages.is_empty() })
    }

    fn compare(
        &self,
        id: &str,
        promised: Promised,
        shown: &[Message],
        range: (i64, i64),
        authority: Authority,
    ) {
        self.shared.books.compare(id, promised, shown, range, authority == Authority::Shared);
    }

    fn judge(&self, id: &str, promised: Promised, told: &Told) {
        let Told { authority, as_of, last_seq, is_empty } = told;
        let wrong = |what: &str| {
            self.shared.books.wrong(format!("{id}: {what}: {authority:?} {as_of:?} {last_seq} {promised:?}"));
        };
        if (*authority == Authority::Local) != as_of.is_some() {
            wrong("a LOCAL answer, and no other, says how old it may be");
        }
        if *authority == Authority::Shared && *last_seq < promised.last_seq {
            wrong("the end of the thread is missing");
        }
        if *is_empty && promised.is_known {
            wrong("a thread of which something was acknowledged is empty");
        }
    }

    fn refused(&self, id: &str, promised: Promised, status: &Status) {
        self.shared.books.refused();
        let is_allowed = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => true,
            // What only the other instance's memory holds.
            Code::NotFound => !promised.is_known,
            _ => false,
        };
        if !is_allowed {
            self.shared.books.wrong(format!("{id}: a read was refused: {promised:?} {status}"));
        }
    }
}

fn lowest(messages: &[Message]) -> i64 {
    messages.iter().map(|message| message.seq).filter(|seq| *seq > 0).min().unwrap_or(i64::MAX)
}

fn highest(messages: &[Message]) -> i64 {
    messages.iter().map(|message| message.seq).max().unwrap_or_default()
}
