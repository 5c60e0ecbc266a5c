//! Ids that cannot be wrong: parsed once at the edge, trusted inside.

use std::{fmt, sync::Arc};

use crate::error::Violation;

/// The longest id that is stored.
pub const MAX_ID: usize = 128;
/// The longest id that a caller may give to something new; the rest is room for our suffixes.
pub const MAX_NEW_ID: usize = 100;

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._~:@/+=-".contains(c)
}

fn parse(field: &str, raw: &str, longest: usize) -> Result<Arc<str>, Violation> {
    if raw.is_empty() || raw.len() > longest {
        return Err(Violation::new(field, format!("must be 1 to {longest} characters long")));
    }
    if !raw.chars().all(is_id_char) {
        return Err(Violation::new(field, "must hold only characters of [A-Za-z0-9._~:@/+=-]"));
    }
    Ok(raw.into())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id that exists already: 1 to 128 characters of `[A-Za-z0-9._~:@/+=-]`.
            pub fn parse(field: &str, raw: &str) -> Result<Self, Violation> {
                parse(field, raw, MAX_ID).map(Self)
            }

            /// Parses an id that a caller gives to something new: 1 to 100 characters of the same set.
            pub fn parse_new(field: &str, raw: &str) -> Result<Self, Violation> {
                parse(field, raw, MAX_NEW_ID).map(Self)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id! {
    /// A thread's id.
    ThreadId
}
id! {
    /// A message's id, unique in its thread.
    MessageId
}
id! {
    /// Whose a thread is.
    Owner
}
id! {
    /// What makes a retried write the same write.
    RequestId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_1_to_128_characters_and_new_ones_at_most_100() {
        assert!(ThreadId::parse("id", "").is_err());
        assert!(ThreadId::parse("id", &"a".repeat(128)).is_ok());
        assert!(ThreadId::parse("id", &"a".repeat(129)).is_err());
        assert!(ThreadId::parse_new("id", &"a".repeat(100)).is_ok());
        assert!(ThreadId::parse_new("id", &"a".repeat(101)).is_err());
    }

    #[test]
    fn ids_hold_no_braces_spaces_or_other_alphabets() {
        assert!(MessageId::parse("id", "aZ09._~:@/+=-").is_ok());
        for bad in ["a b", "{a}", "a\n", "ä", "a*", "a\0"] {
            assert_eq!(
                MessageId::parse("messages[0].id", bad).unwrap_err().field,
                "messages[0].id",
                "{bad:?}"
            );
        }
    }
}
