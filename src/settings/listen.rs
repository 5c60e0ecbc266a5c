//! Addresses to listen on.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::redis_url;

/// Names one address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Listen {
    /// `host:port`, the host a name, an IPv4 or a bracketed IPv6 address; names are resolved when it is bound.
    Tcp(String),
    /// Absolute path of a Unix socket, at most 107 bytes.
    Unix(PathBuf),
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC's own name syntax also has `unix:///absolute/path`.
            let path = path.strip_prefix("//").unwrap_or(path);
            // sun_path holds 108 bytes, the last of them NUL.
            return if path.starts_with('/') && path.len() <= 107 {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(format!("{text:?} must be unix: and an absolute path of at most 107 bytes"))
            };
        }
        let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_unbracketed_ipv6 = host.contains(':') && !host.starts_with('[');
            port.parse::<u16>().is_ok() && !is_unbracketed_ipv6 && redis_url::check_host(host).is_ok()
        });
        if is_address {
            Ok(Self::Tcp(text))
        } else {
            Err(format!("{text:?} is neither host:port, [IPv6]:port nor unix:/path"))
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
