//! A case as the files write it, and how what is seen is held against what is expected.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// What is to be seen after a step, by name; what is in an object has the object's name and a dot before its own.
pub(super) type Fields = BTreeMap<String, Value>;

/// Fields that are not there where there is nothing to tell.
const OPTIONAL: [&str; 3] = ["transitions", "error", "hash.openedAt"];
/// What gobreaker counts and we do not: calls begun, excluded ones, and successes in a row.
const NOT_KEPT: [&str; 3] = ["counts.req", "counts.excl", "counts.cok"];

#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) title: String,
    config: Map<String, Value>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(from = "Map<String, Value>")]
pub(super) struct Step {
    pub(super) op: String,
    pub(super) arg: Value,
    pub(super) expected: Fields,
}

impl From<Map<String, Value>> for Step {
    fn from(mut step: Map<String, Value>) -> Self {
        let op = step.remove("op").and_then(|op| op.as_str().map(str::to_owned)).unwrap_or_default();
        let arg = step.remove("arg").unwrap_or_default();
        let mut expected = Fields::new();
        for (name, value) in step {
            match value {
                Value::Object(inner) => {
                    expected
                        .extend(inner.into_iter().map(|(field, value)| (format!("{name}.{field}"), value)));
                }
                value => drop(expected.insert(name, value)),
            }
        }
        expected.retain(|name, _| !NOT_KEPT.contains(&name.as_str()));
        Self { op, arg, expected }
    }
}

impl Case {
    /// Reads the configuration: `take` answers false to a name that it does not know.
    pub(super) fn configure(&self, mut take: impl FnMut(&str, &Value) -> bool) {
        for (name, value) in &self.config {
            assert!(take(name, value), "case {}: nobody knows the setting {name} ({value})", self.id);
        }
    }
}

impl Step {
    /// The argument as a whole number, which some files write as text.
    pub(super) fn number(&self) -> Option<u64> {
        whole(&self.arg)
    }

    /// The argument as text.
    pub(super) fn text(&self) -> String {
        self.arg.as_str().map_or_else(|| self.arg.to_string(), str::to_owned)
    }
}

/// A whole number, also one that is written as text or with a point.
pub(super) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => {
            number.as_u64().or_else(|| number.to_string().strip_suffix(".0")?.parse().ok())
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Sets a field, or takes it out where the value is null.
pub(super) fn put(fields: &mut Fields, name: &str, value: Value) {
    if value.is_null() {
        fields.remove(name);
    } else {
        fields.insert(name.to_owned(), value);
    }
}

/// Where what is seen is not what is expected. A field that no step of a file expects is not looked at.
pub(super) fn differences(expected: &Fields, seen: &Fields) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in expected {
        match seen.get(name) {
            Some(ours) if is_same(value, ours) => {}
            Some(ours) => found.push(format!("{name} is {ours}, not {value}")),
            None => found.push(format!("{name} is not told, expected {value}")),
        }
    }
    for name in OPTIONAL {
        if let Some(ours) = seen.get(name).filter(|_| !expected.contains_key(name)) {
            found.push(format!("{name} is {ours}, where nothing is expected"));
        }
    }
    found
}

fn is_same(expected: &Value, ours: &Value) -> bool {
    match (expected.as_f64(), ours.as_f64()) {
        // Rates are printed with few digits by some.
        (Some(expected), Some(ours)) => (expected - ours).abs() < 0.005,
        _ => expected == ours,
    }
}
