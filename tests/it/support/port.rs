//! TCP ports of 127.0.0.1 that stay ours while nothing listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// How far above its port a cluster node opens its bus, unless told otherwise.
const CLUSTER_BUS_OFFSET: u16 = 10_000;

/// A port held by a bound socket that never listens.
///
/// Linux lets another socket with `SO_REUSEADDR` listen on the same port (redis-server and tokio set it), answers connections
/// with ECONNREFUSED as long as none does, and gives the port to nobody who asks for any free one. So a server
/// can die and come back at its address without a race for the port.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    addr: SocketAddr,
    _held: TcpSocket,
}

impl ReservedPort {
    /// Reserves any free port.
    pub(crate) fn any() -> Self {
        Self::reserve(0).expect("no TCP port of 127.0.0.1 is free: close what holds them")
    }

    /// Reserves a port for a cluster node, and the one its bus will use.
    pub(crate) fn any_with_cluster_bus() -> (Self, Self) {
        // A rejected port stays held until the search ends, so that it is not offered again.
        let mut rejected = Vec::new();
        while rejected.len() < 100 {
            let port = Self::any();
            let bus = port
                .addr
                .port()
                .checked_add(CLUSTER_BUS_OFFSET)
                .and_then(|number| Self::reserve(number).ok());
            match bus {
                Some(bus) => return (port, bus),
                None => rejected.push(port),
            }
        }
        panic!("no free pair of TCP ports {CLUSTER_BUS_OFFSET} apart in 100 tries: close what holds them");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens on the port; several times one after the other, if wanted.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.addr.port())?.listen(1024)
    }

    fn reserve(number: u16) -> io::Result<Self> {
        let held = bound(number)?;
        Ok(Self { addr: held.local_addr()?, _held: held })
    }
}

fn bound(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket)
}
