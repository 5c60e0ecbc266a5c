//! The effective settings as `--print-config` shows them.

use std::fmt;

use config::{Value, ValueKind};

use super::layers::{ADDRESS_PARTS, AddressFrom, Layers};
use super::{Endpoint, Loaded};

/// Holds one line of `--print-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The full key, such as `redis.pool_size`.
    pub key: String,
    /// The value as TOML, secrets masked.
    pub value: String,
    /// Where it came from, such as `environment REDIS_URL`.
    pub origin: String,
}

/// One line a setting, `key = value  # origin`, sorted by key.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Effective { key, value, origin } in &self.effective {
            writeln!(f, "{key} = {value}  # {origin}")?;
        }
        Ok(())
    }
}

impl Layers {
    /// Returns every setting; `redis.url` always shows the address in use, wherever it came from.
    pub(super) fn effective(&self, address: AddressFrom, endpoint: &Endpoint) -> Vec<Effective> {
        let line = |key: &str| {
            let found = self.find(key);
            let origin = match address {
                AddressFrom::Parts if key == "redis.url" => "built from host, port, db, username, password",
                AddressFrom::Url if ADDRESS_PARTS.contains(&key) => "not used: redis.url is given",
                _ => found.and_then(Value::origin).unwrap_or_default(),
            };
            let value = match key {
                "redis.url" => format!("{:?}", endpoint.to_string()),
                "redis.password" if found.is_some_and(|value| !value.to_string().is_empty()) => {
                    "\"***\"".to_owned()
                }
                _ => found.map(|value| as_toml(&value.kind)).unwrap_or_default(),
            };
            Effective { key: key.to_owned(), value, origin: origin.to_owned() }
        };
        self.keys().map(line).collect()
    }
}

fn as_toml(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| as_toml(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}
