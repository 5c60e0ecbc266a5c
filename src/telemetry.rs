//! The log: text for people, JSON for machines, on standard error. Never a password, a token or what users wrote.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{LogFormat, LogSettings};

/// Starts the log of the process, once.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::new(&settings.filter);
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // A second start keeps the first log.
    let _ = match settings.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
