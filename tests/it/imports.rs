//! Who may import whom, as the crate's documentation says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// For each part of the crate, the parts that it may name.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("error", &[]),
    ("clock", &[]),
    ("call", &["clock"]),
    ("doorbell", &[]),
    ("shutdown", &[]),
    ("diagnostics", &["clock", "doorbell", "threads"]),
    ("settings", &["breakers"]),
    ("telemetry", &["settings"]),
    ("threads", &["error", "clock", "call", "doorbell"]),
    ("breakers", &["error", "clock", "call", "doorbell", "shutdown"]),
    ("memory", &["threads", "breakers", "error", "clock", "call"]),
    ("redis", &["threads", "breakers", "error", "clock", "call", "doorbell", "settings", "diagnostics"]),
    ("journal", &["threads", "error", "clock", "shutdown"]),
    ("fallback", &["redis", "memory", "threads", "breakers", "error", "clock", "call"]),
    ("grpc", &["threads", "breakers", "error", "clock", "call", "doorbell", "shutdown", "diagnostics"]),
];

/// What only some parts may name at all.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("bb8_redis", &["redis"]),
    ("tonic", &["grpc"]),
    ("prost", &["grpc", "journal"]),
    ("std::env", &["settings"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap().to_path_buf();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
                let part = first.trim_end_matches(".rs").to_owned();
                found.push((part, inside, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// Lines of code, without comments.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The parts of the crate that a file names, also in nested imports.
fn named_parts(text: &str) -> BTreeSet<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut parts = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if !rest.starts_with('{') {
            parts.insert(word(rest));
            continue;
        }
        let mut depth = 0;
        let mut at_name = true;
        for (index, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => at_name = depth == 1,
                c if c.is_whitespace() => {}
                _ if at_name && depth == 1 => {
                    parts.insert(word(&rest[index..]));
                    at_name = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    parts
}

#[test]
fn parts_import_only_what_the_architecture_allows() {
    let everything = ["main", "lib", "service"];
    for (part, path, text) in sources() {
        if everything.contains(&part.as_str()) {
            continue;
        }
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| *name == part)
            .unwrap_or_else(|| panic!("{part} is a new part: say in this test what it may import"));
        for named in named_parts(&code(&text)) {
            assert!(
                named == part || allowed.contains(&named.as_str()),
                "{} names crate::{named}",
                path.display()
            );
        }
    }
}

#[test]
fn generated_types_and_the_redis_crate_stay_in_their_parts() {
    for (part, path, text) in sources() {
        for (name, parts) in ONLY_IN {
            let used = code(&text).contains(&format!("{name}::"));
            assert!(!used || parts.contains(&part.as_str()), "{} names {name}", path.display());
        }
    }
}

#[test]
fn nested_imports_are_seen() {
    let text =
        "use crate::{\n    clock::{Clock, Timestamp},\n    error::Error,\n};\nlet x = crate::redis::y();";
    assert_eq!(named_parts(text), ["clock", "error", "redis"].map(str::to_owned).into());
}
