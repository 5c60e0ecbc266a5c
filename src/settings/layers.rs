//! The layers of settings: reading each source, naming the origin of each value, and merging them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use config::{Config, ConfigError, File, FileFormat, Source, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::limits::LIMITS;
use super::redis_url::{self, Endpoint};
use super::{SettingsError, file_origin};

pub(super) const DEFAULTS: &str = include_str!("../settings.default.toml");

/// Names of existing deployments, and the settings they mean.
const PLAIN_NAMES: [(&str, &str); 9] = [
    ("USE_REDIS", "redis.enabled"),
    ("REDIS_URL", "redis.url"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_DB", "redis.db"),
    ("REDIS_USERNAME", "redis.username"),
    ("REDIS_PASSWORD", "redis.password"),
    ("REDIS_CONNECTION_POOL_SIZE", "redis.pool_size"),
    ("RUST_LOG", "log.filter"),
];

/// Settings that together stand for an address when no URL is given.
pub(super) const ADDRESS_PARTS: [&str; 5] =
    ["redis.host", "redis.port", "redis.db", "redis.username", "redis.password"];

/// Says which settings the address of Redis is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressFrom {
    Defaults,
    Url,
    Parts,
}

/// Says what is wrong with which setting; its origin is added by [`Layers::error`].
#[derive(Debug)]
pub(super) struct BadSetting {
    key: String,
    reason: String,
}

impl BadSetting {
    pub(super) fn new(key: &str, reason: impl Into<String>) -> Self {
        Self { key: key.to_owned(), reason: reason.into() }
    }
}

/// Holds what one source says, by full key; each value knows its origin.
#[derive(Clone, Default)]
struct Layer(BTreeMap<String, Value>);

/// Holds all layers, the lowest first.
#[derive(Debug)]
pub(super) struct Layers {
    defaults: Layer,
    above: Vec<Layer>,
}

impl Layers {
    pub(super) fn of_defaults() -> Result<Self, SettingsError> {
        let mut defaults = Layer::default();
        defaults.insert_tree("", parse_toml(DEFAULTS, "defaults")?, "defaults");
        Ok(Self { defaults, above: Vec::new() })
    }

    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let origin = file_origin(path);
        let text = fs::read_to_string(path)
            .map_err(|error| SettingsError::unreadable(&origin, error.to_string()))?;
        let tree = parse_toml(&text, &origin)?;
        self.refuse_unknown("", &tree, &origin)?;
        let mut layer = Layer::default();
        layer.insert_tree("", tree, &origin);
        self.above.push(layer);
        Ok(())
    }

    /// Adds the variables that are ours and skips the rest; an own name beats a plain one.
    pub(super) fn add_variables(
        &mut self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), SettingsError> {
        let mut layer = Layer::default();
        for (name, key) in PLAIN_NAMES {
            // Deployments write `REDIS_PASSWORD=` for "none".
            if let Some(value) = variables.get(name).filter(|value| !value.is_empty()) {
                layer.insert_text(key, value, &format!("{place} {name}"));
            }
        }
        for (name, value) in variables.iter().filter(|(name, _)| is_own_name(name)) {
            let origin = format!("{place} {name}");
            match self.defaults.0.keys().find(|key| own_name(key) == *name) {
                Some(key) => layer.insert_text(key, value, &origin),
                None => return Err(SettingsError::unknown(&key_of(name), origin)),
            }
        }
        self.above.push(layer);
        Ok(())
    }

    /// Adds `(key, value, flag)`; a later entry beats an earlier one.
    pub(super) fn add_flags(&mut self, entries: Vec<(String, String, &str)>) -> Result<(), SettingsError> {
        let mut layer = Layer::default();
        for (key, value, flag) in entries {
            let origin = format!("flag {flag}");
            if !self.defaults.0.contains_key(&key) {
                return Err(SettingsError::unknown(&key, origin));
            }
            layer.insert_text(&key, &value, &origin);
        }
        self.above.push(layer);
        Ok(())
    }

    /// Decides between URL and parts and forgets the losers, so that what is not used cannot stop the start:
    /// Kubernetes sets `REDIS_PORT=tcp://…` beside any service called redis.
    pub(super) fn settle_address(&mut self) -> AddressFrom {
        let url = self.above.iter().rev().find_map(|layer| layer.0.get("redis.url"));
        let has_url = url.is_some_and(|url| !url.to_string().is_empty());
        let losers: &[&str] = if has_url { &ADDRESS_PARTS } else { &["redis.url"] };
        for layer in &mut self.above {
            layer.0.retain(|key, _| !losers.contains(&key.as_str()));
        }
        let has_parts =
            self.above.iter().any(|layer| ADDRESS_PARTS.iter().any(|part| layer.0.contains_key(*part)));
        match (has_url, has_parts) {
            (true, _) => AddressFrom::Url,
            (false, true) => AddressFrom::Parts,
            (false, false) => AddressFrom::Defaults,
        }
    }

    /// Gives every value the type its default has: variables and flags are text.
    pub(super) fn coerce(&mut self) -> Result<(), SettingsError> {
        for (key, value) in self.above.iter_mut().flat_map(|layer| &mut layer.0) {
            if let Some(default) = self.defaults.0.get(key) {
                let origin = value.origin().unwrap_or_default().to_owned();
                value.kind = coerced(&default.kind, &value.kind)
                    .map_err(|reason| SettingsError::Invalid { key: key.clone(), origin, reason })?;
            }
        }
        Ok(())
    }

    pub(super) fn check_limits(&self) -> Result<(), SettingsError> {
        for (key, limit) in LIMITS {
            limit.check(&self.text(key)).map_err(|reason| self.error(BadSetting::new(key, reason)))?;
        }
        Ok(())
    }

    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let mut builder = Config::builder().add_source(self.defaults.clone());
        for layer in &self.above {
            builder = builder.add_source(layer.clone());
        }
        let result = builder.build().and_then(Config::try_deserialize);
        result.map_err(|error| self.error(fault_of(error)))
    }

    pub(super) fn endpoint(&self, from: AddressFrom) -> Result<Endpoint, SettingsError> {
        let result = match from {
            AddressFrom::Defaults | AddressFrom::Url => {
                self.text("redis.url").parse().map_err(|error| ("redis.url", format!("{error}")))
            }
            AddressFrom::Parts => redis_url::from_parts(
                &self.text("redis.host"),
                self.text("redis.port").parse().unwrap_or_default(),
                self.text("redis.db").parse().unwrap_or_default(),
                self.text("redis.username"),
                self.text("redis.password"),
            )
            .map_err(|reason| ("redis.host", reason)),
        };
        result.map_err(|(key, reason)| self.error(BadSetting::new(key, reason)))
    }

    /// Adds the origin of the faulty setting's value.
    pub(super) fn error(&self, fault: BadSetting) -> SettingsError {
        let BadSetting { key, reason } = fault;
        let origin = self.find(&key).and_then(Value::origin).unwrap_or("defaults").to_owned();
        SettingsError::Invalid { key, origin, reason }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.defaults.0.keys().map(String::as_str)
    }

    /// Returns the value of the highest layer that has one.
    pub(super) fn find(&self, key: &str) -> Option<&Value> {
        self.above.iter().rev().chain([&self.defaults]).find_map(|layer| layer.0.get(key))
    }

    fn text(&self, key: &str) -> String {
        self.find(key).map(ToString::to_string).unwrap_or_default()
    }

    fn refuse_unknown(
        &self,
        section: &str,
        tree: &config::Map<String, Value>,
        origin: &str,
    ) -> Result<(), SettingsError> {
        let tree: BTreeMap<_, _> = tree.iter().collect();
        for (name, value) in tree {
            let key = format!("{section}{name}");
            if let ValueKind::Table(inner) = &value.kind {
                let below = format!("{key}.");
                if !inner.is_empty() || self.keys().any(|known| known.starts_with(&below)) {
                    self.refuse_unknown(&below, inner, origin)?;
                    continue;
                }
            }
            if !self.defaults.0.contains_key(&key) {
                return Err(SettingsError::unknown(&key, origin));
            }
        }
        Ok(())
    }
}

impl Layer {
    fn insert_text(&mut self, key: &str, text: &str, origin: &str) {
        self.0.insert(key.to_owned(), Value::new(Some(&origin.to_owned()), text));
    }

    fn insert_tree(&mut self, section: &str, tree: config::Map<String, Value>, origin: &str) {
        for (name, value) in tree {
            let key = format!("{section}{name}");
            match value.kind {
                ValueKind::Table(inner) => self.insert_tree(&format!("{key}."), inner, origin),
                kind => {
                    self.0.insert(key, Value::new(Some(&origin.to_owned()), kind));
                }
            }
        }
    }
}

/// Names the keys only: values may be secret.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, ConfigError> {
        Ok(self.0.clone().into_iter().collect())
    }
}

/// Reads a `.env` file; a missing one is empty.
pub(super) fn read_dotenv(path: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(SettingsError::unreadable(".env", error.to_string())),
    };
    let text = text.trim_start_matches('\u{feff}');
    parse_dotenv(text).map_err(|_| {
        // The parser's own message repeats the line, which may hold a password, without its number: that is the
        // end of the shortest beginning from which on all fail.
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let fails =
            |count: &usize| parse_dotenv(&lines.iter().copied().take(*count).collect::<String>()).is_err();
        let number = (1..=lines.len()).rev().take_while(fails).last().unwrap_or_default();
        let hint = "is not NAME=value; put a value with spaces, # or $ in single quotes";
        SettingsError::unreadable(".env", format!("line {number} {hint}"))
    })
}

fn parse_dotenv(text: &str) -> Result<BTreeMap<String, String>, dotenvy::Error> {
    dotenvy::from_read_iter(text.as_bytes()).collect()
}

/// Returns the process's variables; those that are not UTF-8 are refused when ours and skipped otherwise.
pub(super) fn process_environment() -> Result<BTreeMap<String, String>, SettingsError> {
    let mut variables = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => {
                variables.insert(name, value);
            }
            Err(_) if is_own_name(&name) || PLAIN_NAMES.iter().any(|(plain, _)| *plain == name) => {
                return Err(SettingsError::unreadable(format!("environment {name}"), "is not UTF-8"));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

fn is_own_name(name: &str) -> bool {
    name.to_ascii_uppercase().starts_with("FUSEWIRE__")
}

fn own_name(key: &str) -> String {
    format!("FUSEWIRE__{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Returns the key an own name would stand for, if there were one.
fn key_of(name: &str) -> String {
    name.to_ascii_lowercase().trim_start_matches("fusewire__").replace("__", ".")
}

fn parse_toml(text: &str, origin: &str) -> Result<config::Map<String, Value>, SettingsError> {
    File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        let cause = match error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        // First the place, last the reason; between them the faulty line itself, which may hold a password.
        let first = cause.lines().next().unwrap_or_default();
        match cause.lines().last() {
            Some(last) if last != first => SettingsError::unreadable(origin, format!("{first}: {last}")),
            _ => SettingsError::unreadable(origin, first),
        }
    })
}

/// Returns the value as the type of its default; the error is the reason.
fn coerced(default: &ValueKind, given: &ValueKind) -> Result<ValueKind, String> {
    match (default, given) {
        (ValueKind::Boolean(_), ValueKind::Boolean(_))
        | (ValueKind::I64(_), ValueKind::I64(_))
        | (ValueKind::String(_), ValueKind::String(_)) => Ok(given.clone()),
        (ValueKind::String(_), ValueKind::I64(number)) => Ok(ValueKind::String(number.to_string())),
        (ValueKind::Boolean(_), ValueKind::String(text)) => parse_bool(text).map(ValueKind::Boolean),
        (ValueKind::I64(_), ValueKind::String(text)) => text
            .trim()
            .parse()
            .map(ValueKind::I64)
            .map_err(|_| format!("must be a whole number, found {text:?}")),
        (ValueKind::Array(_), ValueKind::String(text)) => Ok(ValueKind::Array(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect(),
        )),
        (ValueKind::Array(_), ValueKind::Array(items))
            if items.iter().all(|item| matches!(item.kind, ValueKind::String(_))) =>
        {
            Ok(given.clone())
        }
        (ValueKind::Boolean(_), _) => Err("must be true or false".to_owned()),
        (ValueKind::I64(_), _) => Err("must be a whole number".to_owned()),
        (ValueKind::Array(_), _) => Err("must be a list of strings".to_owned()),
        _ => Err("must be a string".to_owned()),
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("must be true or false (1 or 0, yes or no), found {text:?}")),
    }
}

fn fault_of(error: ConfigError) -> BadSetting {
    match error {
        ConfigError::At { error, key: Some(key), .. } => {
            // `server.listen[0]`: origins are known for the whole list.
            let key = key.split('[').next().unwrap_or_default();
            BadSetting::new(key, error.to_string())
        }
        other => BadSetting::new("settings", other.to_string()),
    }
}
