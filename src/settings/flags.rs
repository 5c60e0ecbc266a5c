//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Secret, SettingsError};

const LONG_HELP: &str = concat!(
    "Settings come in layers; each beats those before it:\n",
    "  1. the defaults below\n",
    "  2. the TOML file of --config, written like the defaults below\n",
    "  3. the file .env in the working directory, when there is one\n",
    "  4. environment variables\n",
    "  5. flags; --listen, --redis-url, --no-redis and --log-format beat --set\n",
    "\n",
    "Every setting has a variable, FUSEWIRE__SECTION__KEY: FUSEWIRE__THREADS__DEFAULT_TTL=30m,\n",
    "FUSEWIRE__REDIS__TLS__CA_FILE=/etc/ca.pem. Lists are comma-separated; true is also 1, yes or on.\n",
    "In .env, put values with spaces, # or $ in single quotes: there, $NAME stands for another variable.\n",
    "\n",
    "Names of existing deployments work too, in .env and the environment. Empty ones count as not set;\n",
    "the FUSEWIRE__ name of the same setting beats them within a layer:\n",
    "  USE_REDIS                   redis.enabled (true or false, 1 or 0, yes or no)\n",
    "  REDIS_URL                   redis.url; in whatever layer it is given, it beats the parts\n",
    "  REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_USERNAME, REDIS_PASSWORD\n",
    "                              the parts redis.host, port, db, username, password\n",
    "  REDIS_CONNECTION_POOL_SIZE  redis.pool_size\n",
    "  RUST_LOG                    log.filter\n",
    "\n",
    "Anything unknown, mistyped, out of range or unreadable stops the start with one line that says so.\n",
    "Others on this machine can see a process's flags: give passwords by variable or file.\n",
    "\n",
    "All settings and their defaults:\n",
    "\n",
    include_str!("../settings.default.toml"),
);

/// Keeps conversation threads for LLM workers, over gRPC, in Redis and in local memory.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "fusewire", version, after_long_help = LONG_HELP, max_term_width = 100)]
pub struct Flags {
    /// Read settings from this TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Comma-separated addresses to listen on, see [`Listen`](super::Listen).
    #[arg(long, value_name = "ADDR[,ADDR]", help = "Listen here: HOST:PORT, [IPv6]:PORT or unix:/path")]
    pub listen: Option<String>,
    /// Use the Redis at this URL.
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<Secret>,
    /// Keep everything in local memory.
    #[arg(long)]
    pub no_redis: bool,
    /// Log as text or json.
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
    /// Set any setting; may be repeated, the last one counts.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<Secret>,
    /// Show the effective settings and where each came from, secrets masked, and exit.
    #[arg(long)]
    pub print_config: bool,
}

impl Flags {
    /// Returns what the flags set, as `(key, value, flag)`, the weakest first.
    pub(super) fn entries(&self) -> Result<Vec<(String, String, &'static str)>, SettingsError> {
        let mut entries = Vec::new();
        for pair in &self.set {
            let Some((key, value)) = pair.expose().split_once('=') else {
                return Err(SettingsError::unreadable("flag --set", "must be SECTION.KEY=VALUE"));
            };
            entries.push((key.to_owned(), value.to_owned(), "--set"));
        }
        if let Some(addresses) = &self.listen {
            entries.push(("server.listen".to_owned(), addresses.clone(), "--listen"));
        }
        if let Some(url) = &self.redis_url {
            entries.push(("redis.url".to_owned(), url.expose().to_owned(), "--redis-url"));
        }
        if self.no_redis {
            entries.push(("redis.enabled".to_owned(), "false".to_owned(), "--no-redis"));
        }
        if let Some(format) = &self.log_format {
            entries.push(("log.format".to_owned(), format.clone(), "--log-format"));
        }
        Ok(entries)
    }
}

/// Puts a misuse of the command line into one line that repeats no value: it may be a URL with a password.
pub(super) fn explain(misuse: &clap::Error) -> SettingsError {
    let flag = match misuse.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) if argument.starts_with('-') => {
            argument.split(['=', ' ']).next().unwrap_or_default()
        }
        _ => "",
    };
    let reason = match misuse.kind() {
        ErrorKind::UnknownArgument => "there is no such flag",
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::NoEquals => "needs a value",
        ErrorKind::TooManyValues => "takes no value",
        ErrorKind::ArgumentConflict => "is given twice",
        ErrorKind::InvalidUtf8 => "is not UTF-8",
        _ => "cannot be understood",
    };
    let origin = if flag.is_empty() { "command line".to_owned() } else { format!("flag {flag}") };
    let reason = if flag.is_empty() { "has an argument that is no flag" } else { reason };
    SettingsError::unreadable(origin, format!("{reason}; --help lists the flags"))
}
