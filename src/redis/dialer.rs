//! Finds the server and opens connections to it, as configured.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bb8_redis::{
    bb8,
    redis::{
        AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
        PushInfo, PushKind, RedisError, RedisResult, TlsCertificates, aio::MultiplexedConnection,
        io::tcp::TcpSettings,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    settings::{Address, RedisSettings, TlsSettings},
};

/// Commands in flight on one connection; further ones wait, so that a slow Redis does not pile up work.
const IN_FLIGHT: usize = 1024;

/// A connection that is shared by cloning.
#[derive(Clone)]
pub(super) struct Handle {
    connection: MultiplexedConnection,
    /// Set once anything shows that the connection is dead or on a server that takes no writes. bb8-redis never
    /// reports a connection as broken, and a multiplexed connection does not heal itself.
    pub(super) broken: Arc<AtomicBool>,
    /// Cancelled once the connection is lost.
    lost: CancellationToken,
}

impl Handle {
    /// Runs one operation, at most until the connection is lost. A request that is handed over in the very moment of
    /// the loss may else get neither an answer nor an error, and wait for its bound.
    pub(super) async fn run<T, F, Fut>(&self, attempt: F) -> RedisResult<T>
    where
        F: FnOnce(MultiplexedConnection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        tokio::select! {
            biased;
            reply = attempt(self.connection.clone()) => reply,
            () = self.lost.cancelled() => Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()),
        }
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Opens connections as configured.
pub(super) struct Dialer {
    client: Client,
    config: AsyncConnectionConfig,
}

impl Dialer {
    /// Fails on settings that can never work.
    pub(super) fn new(settings: &RedisSettings) -> Result<Self> {
        let misconfigured = |error: RedisError| Error::Misconfigured(error.into());
        let endpoint = &settings.endpoint;
        let addr = match &endpoint.address {
            Address::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Tcp { host, port, tls: true } => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        let mut info = addr.into_connection_info().map_err(misconfigured)?;
        let mut login =
            info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_db(endpoint.db);
        if let Some(username) = &endpoint.username {
            login = login.set_username(username);
        }
        if let Some(password) = &endpoint.password {
            login = login.set_password(password.expose());
        }
        info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = if endpoint.uses_tls() {
            let info = Client::build_with_tls(info, certificates(&settings.tls)?)
                .map_err(misconfigured)?
                .get_connection_info()
                .clone();
            let mut addr = info.addr().clone();
            addr.set_danger_accept_invalid_hostnames(settings.tls.accept_unverified_name);
            Client::open(info.set_addr(addr)).map_err(misconfigured)?
        } else {
            Client::open(info).map_err(misconfigured)?
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.command_timeout))
            .set_concurrency_limit(IN_FLIGHT);
        Ok(Self { client, config })
    }

    /// Opens a connection.
    pub(super) async fn dial(&self) -> RedisResult<Handle> {
        self.dial_hearing(|_| {}).await
    }

    /// Opens a connection whose pushes `hear` gets, one after the other, before any reply that follows them. It is called
    /// by the task that drives the connection, so it must be quick and must not block.
    pub(super) async fn dial_hearing(
        &self,
        hear: impl Fn(&PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Handle> {
        let broken = Arc::new(AtomicBool::new(false));
        let lost = CancellationToken::new();
        let (flag, ended) = (Arc::clone(&broken), lost.clone());
        let config = self.config.clone().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                flag.store(true, Ordering::Release);
                ended.cancel();
            }
            hear(&push);
            Ok::<_, std::convert::Infallible>(())
        });
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Handle { connection, broken, lost })
    }
}

fn certificates(tls: &TlsSettings) -> Result<TlsCertificates> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| Error::Misconfigured(format!("{}: {error}", path.display()).into()))
    };
    let client_tls = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        _ => None,
    };
    let root_cert = tls.ca_file.as_deref().map(read).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}

impl bb8::ManageConnection for Dialer {
    type Connection = Handle;
    type Error = RedisError;

    async fn connect(&self) -> Result<Handle, RedisError> {
        self.dial().await
    }

    async fn is_valid(&self, handle: &mut Handle) -> Result<(), RedisError> {
        if self.has_broken(handle) {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        }
        Ok(())
    }

    fn has_broken(&self, handle: &mut Handle) -> bool {
        handle.broken.load(Ordering::Acquire)
    }
}
