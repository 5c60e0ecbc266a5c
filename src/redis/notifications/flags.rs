//! The flags of `notify-keyspace-events`: which events Redis publishes at all.

/// What must be among them: events by key (K), of any key (g), of hashes (h), of expiry (x) and of eviction (e).
pub(super) const NEEDED: &str = "Kghxe";
/// What `A` stands for.
const ALL: &str = "g$lshzxetd";

/// Which needed flags are missing; empty if none is.
pub(super) fn missing(flags: &str) -> String {
    let has = |flag| flags.contains(flag) || (flags.contains('A') && ALL.contains(flag));
    NEEDED.chars().filter(|flag| !has(*flag)).collect()
}

/// The flags together with those that are missing; none if nothing is missing. It takes none away: others need theirs.
pub(super) fn completed(flags: &str) -> Option<String> {
    let missing = missing(flags);
    (!missing.is_empty()).then(|| format!("{flags}{missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_nothing_is_taken_away() {
        for (flags, expected) in [
            ("", Some("Kghxe")),
            ("E", Some("EKghxe")),
            ("Elx", Some("ElxKghe")),
            ("Kgh", Some("Kghxe")),
            ("KEg$lshzxtd", Some("KEg$lshzxtde")),
            ("AE", Some("AEK")),
            ("A", Some("AK")),
            ("mn", Some("mnKghxe")),
        ] {
            assert_eq!(completed(flags).as_deref(), expected, "{flags:?}");
        }
    }

    #[test]
    fn flags_that_suffice_are_left_alone() {
        for flags in ["KEA", "AKE", "AK", "Kghxe", "exhgK", "xgeKhEm"] {
            assert_eq!(completed(flags), None, "{flags:?}");
        }
    }

    #[test]
    fn completed_flags_suffice() {
        for flags in ["", "KEA", "AKE", "Elx", "Kgh", "E$z"] {
            let flags = completed(flags).unwrap_or_else(|| flags.to_owned());
            assert_eq!(missing(&flags), "", "{flags:?}");
        }
    }
}
