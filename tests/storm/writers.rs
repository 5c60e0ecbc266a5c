//! Workers that append to threads, one call after the other, and make a call again until it is acknowledged.

use std::sync::Arc;

use fusewire::grpc::proto::{
    AppendMessagesRequest, AppendedMessage, Authority, CreateThreadRequest, Message,
};
use tonic::{Code, Status};

use super::{
    Shared,
    script::Script,
    world::{Clients, World},
};
use crate::support::threads::{Threads, appending, ids, listing, thread, user};

/// Threads that all write to: the first ones are there before the storm, the others come to be by being written to.
const COMMON: usize = 4;
const THERE_BEFORE: usize = 2;
/// Threads that one writer creates.
const OWN: usize = 8;
/// Calls that a writer makes for one batch before it gives that up.
const PATIENCE: u32 = 40;

/// One worker.
struct Writer {
    clients: Clients,
    shared: Arc<Shared>,
    script: Script,
    index: usize,
    /// The instance that it keeps to; none: either, thread by thread.
    keeps_to: Option<usize>,
    homes: Vec<Home>,
    /// Messages so far.
    count: usize,
    own: usize,
}

/// A thread that a writer writes to.
struct Home {
    id: String,
    creates: bool,
    /// The instance whose memory may still hold something of this writer's. Order is promised within one instance alone.
    bound: Option<usize>,
    last: Option<Sent>,
}

/// A batch on its way.
#[derive(Clone)]
struct Sent {
    request: AppendMessagesRequest,
    batch: usize,
    /// What it was answered with.
    told: Option<(Authority, Vec<AppendedMessage>)>,
}

fn common(round: u32, index: usize) -> String {
    format!("storm{round}-{index}")
}

/// Creates what is there before the storm.
pub(super) async fn prepare(world: &World, shared: &Shared) {
    let clients = world.clients();
    for index in 0..THERE_BEFORE {
        let id = common(shared.round, index);
        // On a busy machine memory may answer; that counts as well.
        clients.threads[0].try_create(thread(&id)).await.expect("the thread is created");
    }
    world.settled("what is there before the storm").await;
}

pub(super) async fn run(clients: Clients, shared: Arc<Shared>, script: Script, index: usize) {
    let homes = (0..COMMON)
        .map(|number| Home {
            id: common(shared.round, number),
            creates: number >= THERE_BEFORE || index.is_multiple_of(2),
            bound: None,
            last: None,
        })
        .collect();
    let keeps_to = [Some(0), Some(1), None][index % 3];
    let mut writer = Writer { clients, shared, script, index, keeps_to, homes, count: 0, own: 0 };
    while writer.shared.goes_on() {
        if writer.own < OWN && writer.script.happens(4) {
            writer.create().await;
        } else {
            let home = writer.script.pick(0..writer.homes.len());
            writer.append(home).await;
        }
        writer.script.pause(5..80).await;
    }
}

impl Writer {
    /// New messages, with what their ids say.
    fn messages(&mut self) -> Vec<Message> {
        let size = self.script.pick(1..6);
        let from = self.count;
        self.count += size;
        (from..self.count)
            .map(|number| {
                let id = format!("w{}-{number}", self.index);
                user(&id, &super::verdict::text(&id))
            })
            .collect()
    }

    fn side(&mut self, home: usize) -> usize {
        let (bound, keeps_to) = (self.homes[home].bound, self.keeps_to);
        bound.or(keeps_to).unwrap_or_else(|| self.script.pick(0..2))
    }

    async fn append(&mut self, home: usize) {
        let messages = self.messages();
        let Home { id, creates, .. } = &self.homes[home];
        let batch = self.shared.books.send(id, self.index, &messages);
        let request = AppendMessagesRequest { create_if_missing: *creates, ..appending(id, messages) };
        let mut sent = Sent { request, batch, told: None };
        sent.request.require_shared = self.script.happens(5);
        let side = self.side(home);
        if !self.send(home, side, &mut sent).await {
            return;
        }
        if self.script.happens(25) {
            self.read_back(side, &sent).await;
        }
        self.homes[home].last = Some(sent);
        if self.script.happens(12) {
            self.send_again(home).await;
        }
    }

    /// Sends a batch until it is acknowledged. Until Redis has acknowledged it, all further ones go the same way.
    async fn send(&mut self, home: usize, side: usize, sent: &mut Sent) -> bool {
        let id = self.homes[home].id.clone();
        let patience = if self.script.happens(5) { 1 } else { PATIENCE };
        self.homes[home].bound = Some(side);
        for _ in 0..patience {
            let call = self.clients.threads[side].try_append(sent.request.clone());
            match self.shared.timing.call("append", call).await {
                Ok(answer) => {
                    let authority = answer.authority();
                    if sent.request.require_shared && authority != Authority::Shared {
                        self.shared.books.wrong(format!("{id}: required SHARED and was told {authority:?}"));
                    }
                    self.shared.books.acknowledge(&id, sent.batch, side, &answer.messages, authority);
                    if authority == Authority::Shared {
                        self.homes[home].bound = None;
                    }
                    sent.told = Some((authority, answer.messages));
                    return true;
                }
                Err(status) => self.refused("append", &id, &status),
            }
            sent.request.require_shared = false;
            if !self.shared.goes_on() {
                return false;
            }
            self.script.pause(20..100).await;
        }
        false
    }

    /// Sends the last batch once more, as a worker does that did not hear of its answer.
    async fn send_again(&mut self, home: usize) {
        let Some(mut sent) = self.homes[home].last.clone() else { return };
        let before = sent.told.take();
        let side = self.side(home);
        if !self.send(home, side, &mut sent).await {
            return;
        }
        if let (Some((Authority::Shared, before)), Some((Authority::Shared, after))) = (before, sent.told) {
            let seqs = |told: &[AppendedMessage]| told.iter().map(|m| m.seq).collect::<Vec<_>>();
            if seqs(&before) != seqs(&after) || !after.iter().all(|message| message.duplicate) {
                let id = &self.homes[home].id;
                self.shared.books.wrong(format!("{id}: sent again, {before:?} became {after:?}"));
            }
        }
    }

    /// Reads what was just acknowledged, where it was acknowledged.
    async fn read_back(&mut self, side: usize, sent: &Sent) {
        let id = &sent.request.thread_id;
        let mut request = listing(id);
        (request.descending, request.page_size) = (true, 200);
        let call = self.clients.threads[side].page(request);
        match self.shared.timing.call("read back", call).await {
            Ok(page) => {
                let by_both = [sent.told.as_ref().map(|(authority, _)| *authority), Some(page.authority())];
                // What memory accepted may not be merged yet when Redis answers again.
                if by_both == [Some(Authority::Local), Some(Authority::Shared)] {
                    return;
                }
                let shown = ids(&page.messages);
                let lost = sent.request.messages.iter().find(|message| !shown.contains(&message.id.as_str()));
                if let Some(lost) = lost {
                    let what = format!("{id}: {} was told {by_both:?} and is not read back", lost.id);
                    self.shared.books.wrong(what);
                }
            }
            Err(status) => self.refused("read back", id, &status),
        }
    }

    /// Creates a thread of its own, and writes to it from then on.
    async fn create(&mut self) {
        let id = format!("storm{}-w{}-{}", self.shared.round, self.index, self.own);
        self.own += 1;
        let messages = self.messages();
        let batch = self.shared.books.send(&id, self.index, &messages);
        self.homes.push(Home { id: id.clone(), creates: false, bound: None, last: None });
        let home = self.homes.len() - 1;
        let side = self.side(home);
        self.homes[home].bound = Some(side);
        let again = if self.script.happens(20) { 2 } else { 1 };
        let request = CreateThreadRequest {
            thread: Some(thread(&id)),
            messages,
            request_id: id.clone(),
            ..Default::default()
        };
        let mut acknowledged = 0;
        for _ in 0..PATIENCE {
            let call = create(&self.clients.threads[side], request.clone());
            match self.shared.timing.call("create", call).await {
                Ok((authority, told)) => {
                    self.shared.books.acknowledge(&id, batch, side, &told, authority);
                    if authority == Authority::Shared {
                        self.homes[home].bound = None;
                    }
                    acknowledged += 1;
                    if acknowledged == again {
                        return;
                    }
                }
                Err(status) => self.refused("create", &id, &status),
            }
            if !self.shared.goes_on() {
                break;
            }
            self.script.pause(20..100).await;
        }
        if acknowledged == 0 {
            self.homes.pop();
        }
    }

    /// Notes an answer that is no promise; only want of Redis is a reason for one.
    fn refused(&self, what: &str, id: &str, status: &Status) {
        self.shared.books.refused();
        if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
            self.shared.books.wrong(format!("{id}: {what} was refused: {status}"));
        }
    }
}

async fn create(
    threads: &Threads,
    request: CreateThreadRequest,
) -> Result<(Authority, Vec<AppendedMessage>), Status> {
    let answer = threads.client.clone().create_thread(request).await?.into_inner();
    Ok((answer.authority(), answer.messages))
}
