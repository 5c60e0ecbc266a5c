//! The name of what can fail.

use std::{fmt, sync::Arc};

use crate::error::Violation;

/// The longest model key.
pub const MAX_MODEL_KEY: usize = 256;

/// A caller's name of what can fail, as `anthropic:claude-sonnet-4-5`: 1 to 256 printable ASCII characters without
/// space, `{` and `}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey(Arc<str>);

impl ModelKey {
    /// Parses a key; `field` is named in the violation.
    pub fn parse(field: &str, raw: &str) -> Result<Self, Violation> {
        if raw.is_empty() || raw.len() > MAX_MODEL_KEY {
            return Err(Violation::new(field, format!("must be 1 to {MAX_MODEL_KEY} characters long")));
        }
        if !Self::may_hold(raw) {
            return Err(Violation::new(field, "must hold only printable ASCII without space, { and }"));
        }
        Ok(Self(raw.into()))
    }

    /// Whether a key may hold these characters.
    pub fn may_hold(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}')
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_keys_are_1_to_256_printable_ascii_characters_without_space_and_braces() {
        let every = ('!'..='~').filter(|c| !"{}".contains(*c)).collect::<String>();
        assert_eq!(ModelKey::parse("model_key", &every).unwrap().as_str(), every);
        assert!(ModelKey::parse("model_key", &"k".repeat(256)).is_ok());
        for bad in ["", "a b", "{a", "a}", "ä", "a\n", "a\0", "\x7f", &"k".repeat(257)] {
            assert_eq!(ModelKey::parse("model_key", bad).unwrap_err().field, "model_key", "{bad:?}");
        }
    }
}
