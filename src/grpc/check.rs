//! Collects every violated field of a request, each with its path.

use std::fmt;

use crate::error::{Error, Result, Violation};

/// More violations than this help nobody.
const MAX_VIOLATIONS: usize = 32;
/// A key that a caller sent is shown up to this many characters.
const MAX_KEY_SHOWN: usize = 64;

/// Where a field is in a request; written out only when it violates a rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'static str),
    Field(&'a Path<'a>, &'static str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    pub(super) fn field<'a>(&'a self, name: &'static str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(super) fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }

    pub(super) fn key<'a>(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => {
                let shown: String = key.chars().take(MAX_KEY_SHOWN).collect();
                let more = if shown.len() < key.len() { "…" } else { "" };
                write!(f, "{parent}[{:?}]", shown + more)
            }
        }
    }
}

/// The violations of one request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<Violation>,
}

impl Check {
    /// Notes a violation.
    pub(super) fn refuse(&mut self, path: Path<'_>, reason: impl Into<String>) {
        // The path is written out only where there is room for it.
        if !self.is_full() {
            self.note(Violation::new(path.to_string(), reason));
        }
    }

    /// Notes a violation that names its path itself.
    pub(super) fn note(&mut self, violation: Violation) {
        if !self.is_full() {
            self.violations.push(violation);
        }
    }

    /// Notes a violation unless the rule holds.
    pub(super) fn require(&mut self, path: Path<'_>, holds: bool, reason: &str) {
        if !holds {
            self.refuse(path, reason);
        }
    }

    /// Notes a violation if the text is longer than so many bytes.
    pub(super) fn at_most(&mut self, path: Path<'_>, text: &str, bytes: usize) {
        if text.len() > bytes {
            self.refuse(path, format!("must take at most {bytes} bytes"));
        }
    }

    /// Takes what was parsed, or notes why it could not be. The path is ours: parsers of ids do not know it.
    pub(super) fn take<T>(&mut self, path: Path<'_>, parsed: Result<T, Violation>) -> Option<T> {
        parsed.map_err(|violation| self.refuse(path, violation.reason)).ok()
    }

    /// Whether further violations would be dropped, so that looking for them is in vain.
    pub(super) fn is_full(&self) -> bool {
        self.violations.len() >= MAX_VIOLATIONS
    }

    /// Returns what `build` makes of the parsed values if nothing was violated. What `take` returned is there then.
    pub(super) fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T> {
        if !self.violations.is_empty() {
            return Err(Error::Invalid(self.violations));
        }
        build().ok_or_else(|| Error::Internal("a value was neither parsed nor refused".into()))
    }
}

/// What tests of requests share.
#[cfg(test)]
pub(super) mod testing {
    use prost_types::FieldMask;

    use super::{Error, Result};

    /// The paths of the fields for which a request was refused.
    pub(in crate::grpc) fn paths<T>(parsed: Result<T>) -> Vec<String> {
        match parsed {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("accepted"),
        }
    }

    pub(in crate::grpc) fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(ToString::to_string).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_in_code_and_keys_are_quoted_and_cut() {
        let messages = Path::Root("messages");
        let message = messages.index(2);
        let labels = message.field("labels");
        assert_eq!(labels.key("a\"b\n").to_string(), r#"messages[2].labels["a\"b\n"]"#);
        let long = "k".repeat(65);
        assert_eq!(labels.key(&long).to_string(), format!("messages[2].labels[\"{}…\"]", "k".repeat(64)));
    }

    #[test]
    fn at_most_32_violations_are_told() {
        let mut check = Check::default();
        for index in 0..40 {
            assert_eq!(check.is_full(), index >= 32);
            check.refuse(Path::Root("messages").index(index), "is wrong");
        }
        let Err(Error::Invalid(violations)) = check.finish(|| Some(())) else { panic!("refused") };
        assert_eq!(violations.len(), 32);
        assert_eq!(violations[31], Violation::new("messages[31]", "is wrong"));
    }
}
