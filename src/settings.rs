//! Typed settings: layers, validation, and where each value came from.
//!
//! The only reader of configuration files and of the environment in the process. Layers, low to high: the compiled-in
//! `settings.default.toml`, the file of `--config`, `.env`, the environment, flags. The defaults file is also the list
//! of what exists: a key it does not name is refused in every layer.

mod flags;
mod layers;
mod limits;
mod listen;
mod print;
mod redis_url;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::breakers::policies::Policies;

use layers::{BadSetting, Layers};

pub use flags::Flags;
pub use listen::Listen;
pub use print::Effective;
pub use redis_url::{Address, BadAddress, Endpoint, Secret};

/// Holds every setting, validated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The gRPC server.
    pub server: ServerSettings,
    /// The connection to Redis.
    pub redis: RedisSettings,
    /// Conversation threads.
    pub threads: ThreadSettings,
    /// Circuit breakers.
    pub breakers: BreakersSettings,
    /// What is kept in local memory.
    pub memory: MemorySettings,
    /// What is accepted while Redis is unreachable.
    pub fallback: FallbackSettings,
    /// The log.
    pub log: LogSettings,
}

/// Holds the limits and addresses of the gRPC server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Addresses to listen on, at least one.
    pub listen: Vec<Listen>,
    /// How long running calls may finish after a stop signal, 0 s to 10 min.
    #[serde(deserialize_with = "limits::duration")]
    pub drain_deadline: Duration,
    /// The largest request message in bytes, 4 MiB to 64 MiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub max_request_bytes: usize,
    /// The largest response message in bytes, 4 MiB to 1 GiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub max_response_bytes: usize,
    /// HTTP/2 streams per connection, 1 to 100,000; a client that is told of the limit waits.
    pub max_concurrent_streams: u32,
    /// Calls in work in this process, 1 to 100,000; one more is refused.
    pub max_concurrent_calls: usize,
    /// Watches open at once in this process, 1 to 100,000; one more is refused.
    pub max_open_streams: usize,
    /// Silence on a connection before it is pinged, by HTTP/2 and by TCP, 1 s to 1 h.
    #[serde(deserialize_with = "limits::duration")]
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take before the connection is closed, 1 s to 10 min.
    #[serde(deserialize_with = "limits::duration")]
    pub keepalive_timeout: Duration,
}

/// Holds how Redis is reached.
#[derive(Clone, Debug, Deserialize)]
pub struct RedisSettings {
    /// Whether Redis is used at all; without it everything lives in local memory.
    pub enabled: bool,
    /// Whether the start fails when Redis does not answer.
    pub required: bool,
    /// Server, database and credentials, from the URL or the parts.
    #[serde(skip)]
    pub endpoint: Endpoint,
    /// Connections in the pool, 1 to 256.
    pub pool_size: u32,
    /// How long Redis may be silent before memory answers, 50 ms to 30 s.
    #[serde(deserialize_with = "limits::duration")]
    pub outage_after: Duration,
    /// Bound of opening one connection, 10 ms to 60 s.
    #[serde(deserialize_with = "limits::duration")]
    pub connect_timeout: Duration,
    /// Bound of one slow command while Redis answers probes, 100 ms to 60 s.
    #[serde(deserialize_with = "limits::duration")]
    pub command_timeout: Duration,
    /// Put before every key: at most 64 bytes of printable ASCII, no spaces, no braces.
    pub key_prefix: String,
    /// Used when [`Endpoint::uses_tls`].
    pub tls: TlsSettings,
}

/// Holds what TLS to Redis needs; the files are PEM and were readable at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// Authorities to trust in place of the built-in ones.
    #[serde(deserialize_with = "limits::optional_path")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain; set exactly when `key_file` is.
    #[serde(deserialize_with = "limits::optional_path")]
    pub cert_file: Option<PathBuf>,
    /// Private key of the client certificate; set exactly when `cert_file` is.
    #[serde(deserialize_with = "limits::optional_path")]
    pub key_file: Option<PathBuf>,
    /// Whether a certificate made out to another name is accepted.
    pub accept_unverified_name: bool,
}

/// Holds the life and size of conversation threads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadSettings {
    /// Life of an untouched thread without a TTL of its own, 1 s to 365 days.
    #[serde(deserialize_with = "limits::duration")]
    pub default_ttl: Duration,
    /// Time between two sweeps, 1 s to 7 days.
    #[serde(deserialize_with = "limits::duration")]
    pub sweep_interval: Duration,
    /// Messages in one thread, 1 to 10,000,000.
    pub max_messages: i64,
    /// Bytes of messages in one thread, 1 KiB to 4 GiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub max_bytes: i64,
}

/// Holds what circuit breakers go by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakersSettings {
    /// The settings of model keys that have none stored, at most 1,000 lines.
    pub policies: Policies,
}

/// Holds the bounds of local memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySettings {
    /// Bytes of threads kept when Redis is switched off, 64 KiB to 1 TiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub max_bytes: u64,
    /// Bytes of copies kept for outages, 0 (none) to 1 TiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub copy_bytes: u64,
    /// Threads among these copies, 0 (none) to 10,000,000.
    pub copy_threads: usize,
    /// Breakers kept, 100 to 10,000,000; least recently used ones that are CLOSED and without settings or override make
    /// room.
    pub max_breakers: usize,
}

/// Holds the bounds of what waits to be merged into Redis, and where else it is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FallbackSettings {
    /// Bytes of memory for writes that wait to be merged, 0 (none are accepted) to 1 TiB.
    #[serde(deserialize_with = "limits::bytes")]
    pub journal_bytes: u64,
    /// Messages, creations and renewals that wait to be merged, 0 (none are accepted) to 100,000,000.
    pub journal_entries: u64,
    /// A file that these writes are also written to; none: they live as long as the process.
    #[serde(deserialize_with = "limits::optional_path")]
    pub journal_path: Option<PathBuf>,
    /// When that file is forced to disk.
    pub journal_fsync: Fsync,
}

/// Says when the journal file is forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Fsync {
    /// Before each write is acknowledged.
    Always,
    /// Once a second.
    EverySecond,
    /// When the operating system sees fit.
    Never,
}

/// Holds what is logged and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// Directives in the syntax of `RUST_LOG`, known to parse.
    pub filter: String,
}

/// Says how a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

/// Holds the settings and, for `--print-config` (its `Display`), where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings to run with.
    pub settings: Settings,
    /// Every key with its value and origin, sorted by key, secrets masked.
    pub effective: Vec<Effective>,
}

/// Says what the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run the service.
    Serve(Box<Loaded>),
    /// Write this text (help, version or effective settings) to standard output and end well.
    Print(String),
}

/// Says, in one line and without secrets, why the start must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// One setting is unknown or has a value that cannot be used.
    #[error("{key} from {origin}: {reason}")]
    Invalid {
        /// The full key, such as `redis.pool_size`.
        key: String,
        /// Where the value came from, such as `environment REDIS_DB`.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A source cannot be read as a whole.
    #[error("{origin}: {reason}")]
    Unreadable {
        /// The source, such as `file /etc/fusewire.toml`.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the command line, the environment and `./.env` of this process.
pub fn from_process() -> Result<Command, SettingsError> {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(answer) if !answer.use_stderr() => return Ok(Command::Print(answer.to_string())),
        Err(misuse) => return Err(flags::explain(&misuse)),
    };
    let loaded = load(&flags, &layers::process_environment()?, Some(Path::new(".env")))?;
    Ok(if flags.print_config { Command::Print(loaded.to_string()) } else { Command::Serve(Box::new(loaded)) })
}

/// Layers the sources and validates the result; the first violation found is reported.
///
/// Reads `flags.config`, `dotenv` (may be missing) and, when TLS is used, the files it names. `env` stands for the
/// environment, so that tests need not change the real one.
pub fn load(
    flags: &Flags,
    env: &BTreeMap<String, String>,
    dotenv: Option<&Path>,
) -> Result<Loaded, SettingsError> {
    let mut layers = Layers::of_defaults()?;
    if let Some(path) = &flags.config {
        layers.add_file(path)?;
    }
    if let Some(path) = dotenv {
        layers.add_variables(".env", &layers::read_dotenv(path)?)?;
    }
    layers.add_variables("environment", env)?;
    layers.add_flags(flags.entries()?)?;

    let address = layers.settle_address();
    layers.coerce()?;
    layers.check_limits()?;
    let mut settings: Settings = layers.deserialize()?;
    settings.redis.endpoint = layers.endpoint(address)?;
    settings.check().map_err(|fault| layers.error(fault))?;
    let effective = layers.effective(address, &settings.redis.endpoint);
    Ok(Loaded { settings, effective })
}

impl Settings {
    /// Checks the rules that are neither a type nor a range.
    fn check(&self) -> Result<(), BadSetting> {
        if self.server.listen.is_empty() {
            return Err(BadSetting::new("server.listen", "must name at least one address"));
        }
        let prefix = &self.redis.key_prefix;
        if prefix.len() > 64 || !prefix.bytes().all(|b| b.is_ascii_graphic() && b != b'{' && b != b'}') {
            let reason = "must be at most 64 bytes of printable ASCII, without spaces and braces";
            return Err(BadSetting::new("redis.key_prefix", reason));
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log.filter) {
            return Err(BadSetting::new(
                "log.filter",
                format!("{:?} is no log filter: {error}", self.log.filter),
            ));
        }
        self.redis.tls.check(self.redis.enabled && self.redis.endpoint.uses_tls())
    }
}

impl TlsSettings {
    fn check(&self, used: bool) -> Result<(), BadSetting> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => {
                return Err(BadSetting::new("redis.tls.cert_file", "needs redis.tls.key_file too"));
            }
            (None, Some(_)) => {
                return Err(BadSetting::new("redis.tls.key_file", "needs redis.tls.cert_file too"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if !used {
            return Ok(());
        }
        let files = [
            ("redis.tls.ca_file", &self.ca_file),
            ("redis.tls.cert_file", &self.cert_file),
            ("redis.tls.key_file", &self.key_file),
        ];
        for (key, file) in files {
            if let Some(path) = file
                && let Err(error) = fs::read(path)
            {
                return Err(BadSetting::new(key, format!("cannot read {}: {error}", path.display())));
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Fsync {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "always" => Ok(Self::Always),
            "everysec" => Ok(Self::EverySecond),
            "no" => Ok(Self::Never),
            _ => Err(format!("must be always, everysec or no, found {text:?}")),
        }
    }
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("must be text or json, found {text:?}")),
        }
    }
}

impl SettingsError {
    fn unreadable(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unreadable { origin: origin.into(), reason: reason.into() }
    }

    fn unknown(key: &str, origin: impl Into<String>) -> Self {
        let reason = "there is no such setting; --help lists them".to_owned();
        // Keys come from outside: a line break in one must not break the line.
        Self::Invalid { key: key.escape_debug().to_string(), origin: origin.into(), reason }
    }
}

/// Names a file as the origin of a value.
fn file_origin(path: &Path) -> String {
    format!("file {}", path.display())
}
