//! Moves the bytes of one proxied connection as the mode of the moment says.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Chunks that may wait for their time. More would hide that a slow server pushes back.
const WAITING: usize = 256;
const CHUNK: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Forward,
    Freeze,
    DelayRequests(Duration),
    DropReplies,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// Carries both directions until the server closes its own or one breaks; then closes both.
pub(super) async fn carry(client: TcpStream, server: TcpStream, flow: watch::Receiver<Flow>) {
    // Without it the proxy would add delays of its own.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = Pump::new(Direction::Requests, from_client, to_server, flow.clone());
    let replies = Pump::new(Direction::Replies, from_server, to_client, flow);
    tokio::select! {
        // A client that only stopped sending lets the server finish what it was asked for.
        Err(_) = requests.run() => {}
        _ = replies.run() => {}
    }
}

struct Pump {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    flow: watch::Receiver<Flow>,
    /// Read but not yet written, each with the time when it may go.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    /// Set for good with the first reply dropped.
    is_mute: bool,
    has_ended: bool,
}

impl Pump {
    fn new(
        direction: Direction,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        flow: watch::Receiver<Flow>,
    ) -> Self {
        Self { direction, from, to, flow, waiting: VecDeque::new(), is_mute: false, has_ended: false }
    }

    /// Runs until the peer closes its direction and all of it is passed on. The closing is then passed on as well,
    /// by the drop of the write half.
    async fn run(mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        while !(self.has_ended && self.waiting.is_empty()) {
            let moves = *self.flow.borrow_and_update() != Flow::Freeze;
            let may_read = moves && !self.has_ended && self.waiting.len() < WAITING;
            // Every branch can be dropped halfway without losing a byte. The mode comes first, so that
            // bytes sent after an order are seen by the next turn at the earliest.
            tokio::select! {
                biased;
                changed = self.flow.changed() => if changed.is_err() { return Ok(()) },
                written = write_first(&mut self.to, &self.waiting), if moves && !self.waiting.is_empty() => {
                    self.forget_first(written?);
                }
                read = self.from.read(&mut chunk), if may_read => match read? {
                    0 => self.has_ended = true,
                    size => self.keep(&chunk[..size]),
                },
            }
        }
        Ok(())
    }

    /// Takes in what was read, under the mode of this moment.
    fn keep(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let due = match (*self.flow.borrow(), self.direction) {
            (Flow::DelayRequests(by), Direction::Requests) => now + by,
            (Flow::DropReplies, Direction::Replies) => {
                self.is_mute = true;
                now
            }
            (Flow::Forward | Flow::Freeze | Flow::DelayRequests(_) | Flow::DropReplies, _) => now,
        };
        if !self.is_mute {
            self.waiting.push_back((due, bytes.to_vec()));
        }
    }

    fn forget_first(&mut self, written: usize) {
        if let Some((_, bytes)) = self.waiting.front_mut() {
            bytes.drain(..written);
            if bytes.is_empty() {
                self.waiting.pop_front();
            }
        }
    }
}

/// Waits for the first chunk's time and writes what the socket takes of it.
async fn write_first(to: &mut OwnedWriteHalf, waiting: &VecDeque<(Instant, Vec<u8>)>) -> io::Result<usize> {
    let Some((due, bytes)) = waiting.front() else { return Ok(0) };
    sleep_until(*due).await;
    to.write(bytes).await
}
