//! Where the server listens: TCP addresses and Unix sockets, bound before anything is served.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};
use tower::layer::util::{Identity, Stack};
use tracing::{debug, warn};

use super::calls::Calls;
use crate::{
    error::{Error, Result},
    settings::Listen,
};

/// How long accepting pauses after a failure: without file descriptors left it would fail again at once, for ever.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound address: clients may connect already, and are served once the server runs.
#[derive(Debug)]
pub struct Listener(Bound);

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds an address. The file of a Unix socket that nobody listens on any more is replaced; one that is listened
    /// on, or that is no socket, is an error.
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address.as_str()).await?;
                let local = listener.local_addr()?;
                Ok(Self(Bound::Tcp(listener, local)))
            }
            Listen::Unix(path) => {
                if is_stale(path) {
                    fs::remove_file(path)?;
                }
                Ok(Self(Bound::Unix(UnixListener::bind(path)?, SocketFile(path.clone()))))
            }
        }
    }

    /// Returns where it listens: `127.0.0.1:43121` or `unix:/path`, with the port that the system chose.
    pub fn local_address(&self) -> String {
        match &self.0 {
            Bound::Tcp(_, address) => address.to_string(),
            Bound::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        }
    }

    /// Serves connections until `stop`, and then until the last of them is closed.
    pub(super) async fn serve(
        self,
        router: Router<Stack<Calls, Identity>>,
        keepalive: Duration,
        stop: CancellationToken,
    ) -> Result<()> {
        match self.0 {
            Bound::Tcp(listener, _) => {
                let incoming =
                    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(keepalive));
                router
                    .serve_with_incoming_shutdown(incoming.then(pause_after_failure), stop.cancelled())
                    .await
            }
            Bound::Unix(listener, file) => {
                let incoming = UnixListenerStream::new(listener).then(pause_after_failure);
                // The file goes before the socket closes: a server that follows makes its own in its place.
                let stopped = async {
                    stop.cancelled().await;
                    drop(file);
                };
                router.serve_with_incoming_shutdown(incoming, stopped).await
            }
        }
        .map_err(|cause| Error::Internal(cause.into()))
    }
}

async fn pause_after_failure<T>(accepted: io::Result<T>) -> io::Result<T> {
    if let Err(cause) = &accepted {
        debug!(%cause, "could not accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    accepted
}

fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The file of a Unix socket, removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_file(&self.0) {
            warn!(%cause, path = %self.0.display(), "could not remove the socket's file");
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{service::Routes, transport::Server};

    use super::*;

    #[tokio::test]
    async fn a_tcp_listener_tells_the_port_that_the_system_chose() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".into())).await.unwrap();
        let address: SocketAddr = listener.local_address().parse().unwrap();
        assert_ne!(address.port(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fusewire.sock");
        let listen = Listen::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let listener = Listener::bind(&listen).await.unwrap();
        assert_eq!(listener.local_address(), format!("unix:{}", path.display()));
        assert_eq!(Listener::bind(&listen).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_file_of_a_socket_goes_when_the_server_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fusewire.sock");
        let listener = Listener::bind(&Listen::Unix(path.clone())).await.unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder().layer(Calls::new(1, stop.clone())).add_routes(Routes::default());
        stop.cancel();
        listener.serve(server, Duration::from_secs(30), stop).await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Listener::bind(&Listen::Unix(file.path().into())).await.is_err());
        assert!(file.path().exists());
    }
}
