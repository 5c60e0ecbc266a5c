//! A TCP proxy in front of a server that fails on order, and only then.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::chaos_pump::{Flow, carry};
use super::port::ReservedPort;

/// Forwards until told otherwise. An order is in force when its method returns: what a client does after that meets it.
///
/// All tasks end when this is dropped, and with them all connections.
#[derive(Debug)]
pub(crate) struct ChaosProxy {
    addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Flow(Flow),
    Refuse,
    Cut,
}

impl ChaosProxy {
    /// Listens on a free port of 127.0.0.1 for connections to `target`.
    pub(crate) fn start(target: SocketAddr) -> Self {
        let port = ReservedPort::any();
        let addr = port.addr();
        let accepted = Arc::new(AtomicU64::new(0));
        let (orders, received) = mpsc::channel(1);
        let gate = Gate {
            door: Some(Door::open(&port)),
            port,
            target,
            accepted: Arc::clone(&accepted),
            flow: watch::Sender::new(Flow::Forward),
            connections: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(gate.run(received));
        Self { addr, accepted, orders, _tasks: tasks }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were accepted so far, in any mode.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Ends every other mode. What a freeze held back goes on its way.
    pub(crate) async fn forward(&self) {
        self.order(Order::Flow(Flow::Forward)).await;
    }

    /// Refuses new connections (ECONNREFUSED) until the next mode. Present ones go on: `cut()` them too for a server that died.
    pub(crate) async fn refuse(&self) {
        self.order(Order::Refuse).await;
    }

    /// Closes all present connections once. The mode stays as it is.
    pub(crate) async fn cut(&self) {
        self.order(Order::Cut).await;
    }

    /// Accepts, but moves no byte in either direction; no connection ends, whatever its peers do.
    pub(crate) async fn freeze(&self) {
        self.order(Order::Flow(Flow::Freeze)).await;
    }

    /// Lets requests reach the server `by` later. Replies come at once, hence a round trip takes `by` longer.
    pub(crate) async fn delay(&self, by: Duration) {
        self.order(Order::Flow(Flow::DelayRequests(by))).await;
    }

    /// Lets requests through and swallows the replies. A connection that lost one stays silent until it is closed,
    /// in any mode: its next reply would answer an older request.
    pub(crate) async fn drop_replies(&self) {
        self.order(Order::Flow(Flow::DropReplies)).await;
    }

    async fn order(&self, order: Order) {
        let (done, in_force) = oneshot::channel();
        self.orders.send((order, done)).await.expect("the proxy runs as long as its owner");
        in_force.await.expect("the proxy runs as long as its owner");
    }
}

/// The task behind the proxy: accepts connections and obeys orders.
struct Gate {
    port: ReservedPort,
    /// None while connections are refused.
    door: Option<Door>,
    target: SocketAddr,
    accepted: Arc<AtomicU64>,
    flow: watch::Sender<Flow>,
    connections: JoinSet<()>,
}

impl Gate {
    async fn run(mut self, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    self.obey(order).await;
                    // Nobody waits when the test gave up on the call.
                    let _ = done.send(());
                }
                client = accept(self.door.as_ref()) => self.serve(client),
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Refuse => self.door = None,
            Order::Cut => {
                self.accepted.fetch_add(self.door.as_ref().map_or(0, Door::turn_away), Ordering::Relaxed);
                self.connections.shutdown().await;
            }
            Order::Flow(flow) => {
                self.flow.send_replace(flow);
                if self.door.is_none() {
                    self.door = Some(Door::open(&self.port));
                }
            }
        }
    }

    fn serve(&mut self, client: TcpStream) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let (target, flow) = (self.target, self.flow.subscribe());
        self.connections.spawn(async move {
            // A server that cannot be reached shows as a connection closed at once.
            if let Ok(server) = TcpStream::connect(target).await {
                carry(client, server, flow).await;
            }
        });
    }
}

/// A listener, twice: for waiting, and for looking into the queue of connections not yet accepted.
struct Door {
    listener: TcpListener,
    queue: std::net::TcpListener,
}

impl Door {
    fn open(port: &ReservedPort) -> Self {
        let queue = port.listen().and_then(TcpListener::into_std).expect("the port is reserved");
        let listener = queue.try_clone().and_then(TcpListener::from_std).expect("a listener can be shared");
        Self { listener, queue }
    }

    /// Closes the connections that wait to be accepted, and returns their number.
    fn turn_away(&self) -> u64 {
        let mut count = 0;
        while self.queue.accept().is_ok() {
            count += 1;
        }
        count
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Closing isn't enough: a process that another test is starting holds a copy until it runs its program.
        // Fails when nothing listens any more, which is what is wanted.
        let _ = shutdown(self.queue.as_raw_fd(), Shutdown::Both);
    }
}

async fn accept(door: Option<&Door>) -> TcpStream {
    let Some(door) = door else { return std::future::pending().await };
    let accepted = door.listener.accept().await;
    accepted.expect("a listener accepts: raise the limit of open files (ulimit -n)").0
}
