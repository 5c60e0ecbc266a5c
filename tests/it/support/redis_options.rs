//! What kind of Redis a test asks for, and the configuration file that makes it.

use std::path::Path;

use super::port::ReservedPort;
use super::tls::TlsFiles;

/// The user of `RedisServer::raw`, so that a test may lock out every other one.
pub(super) const CONTROL_USER: &str = "test-control";
pub(super) const CONTROL_PASSWORD: &str = "test-control";

/// A server without persistence, reached as the constructor says.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisOptions {
    pub(super) transport: Transport,
    pub(super) password: Option<String>,
    pub(super) has_manual_clock: bool,
    lines: Vec<String>,
}

/// How the service under test reaches the server. The test's own connections use a unix socket in any case.
#[derive(Clone, Debug, Default)]
pub(super) enum Transport {
    #[default]
    UnixSocket,
    Tcp,
    Cluster,
    Tls(TlsFiles, ClientCertificates),
}

/// What a TLS server thinks of client certificates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientCertificates {
    Ignored,
    Optional,
    Required,
}

impl RedisOptions {
    pub(crate) fn unix_socket() -> Self {
        Self::default()
    }

    /// A free port of 127.0.0.1, the same after each restart.
    pub(crate) fn tcp() -> Self {
        Self { transport: Transport::Tcp, ..Self::default() }
    }

    /// A cluster of one node that owns every slot, over TCP. Redis lets it serve two seconds after each start.
    pub(crate) fn cluster() -> Self {
        Self { transport: Transport::Cluster, ..Self::default() }
    }

    /// TLS alone on a free port of 127.0.0.1.
    pub(crate) fn tls(files: &TlsFiles, clients: ClientCertificates) -> Self {
        Self { transport: Transport::Tls(files.clone(), clients), ..Self::default() }
    }

    /// A clock that only the test moves, see `RedisServer::clock`.
    pub(crate) fn with_manual_clock(mut self) -> Self {
        self.has_manual_clock = true;
        self
    }

    /// Adds a line to the configuration file; it wins over the lines made here.
    pub(crate) fn config(mut self, key: &str, value: &str) -> Self {
        let value = if value.is_empty() { r#""""# } else { value };
        self.lines.push(format!("{key} {value}"));
        self
    }

    /// Adds a user; `rules` as in `~fusewire:* +@all -@dangerous`.
    pub(crate) fn acl_user(self, name: &str, password: &str, rules: &str) -> Self {
        self.config("user", &format!("{name} on >{password} {rules}"))
    }

    /// Asks the default user for a password, which `RedisServer::url` then carries. Letters and digits only: it isn't escaped.
    pub(crate) fn require_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.config("requirepass", password)
    }

    /// Writes every command to disk before it is answered: a killed server comes back with all it acknowledged.
    pub(crate) fn append_only(self) -> Self {
        self.config("appendonly", "yes").config("appendfsync", "always")
    }

    /// Returns the text of redis.conf.
    pub(super) fn config_file(&self, port: Option<&ReservedPort>, socket: &Path, data: &Path) -> String {
        let number = port.map_or(0, |port| port.addr().port());
        let transport = match &self.transport {
            Transport::UnixSocket | Transport::Tcp => format!("port {number}\n"),
            Transport::Cluster => {
                format!("port {number}\ncluster-enabled yes\ncluster-announce-ip 127.0.0.1\n")
            }
            Transport::Tls(files, clients) => tls_lines(number, files, *clients),
        };
        let mut text = format!(
            "bind 127.0.0.1\n\
             unixsocket {}\n\
             dir {}\n\
             save \"\"\n\
             user {CONTROL_USER} on >{CONTROL_PASSWORD} ~* &* +@all\n\
             {transport}",
            socket.display(),
            data.display(),
        );
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

fn tls_lines(port: u16, files: &TlsFiles, clients: ClientCertificates) -> String {
    let clients = match clients {
        ClientCertificates::Ignored => "no",
        ClientCertificates::Optional => "optional",
        ClientCertificates::Required => "yes",
    };
    format!(
        "port 0\n\
         tls-port {port}\n\
         tls-cert-file {}\n\
         tls-key-file {}\n\
         tls-ca-cert-file {}\n\
         tls-auth-clients {clients}\n",
        files.server_cert.display(),
        files.server_key.display(),
        files.ca.display(),
    )
}
