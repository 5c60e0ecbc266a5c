//! Ids for what a caller left unnamed: derived from the request id, so that a retry names the same thing, else fresh.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{
    clock::{SystemClock, fresh_id},
    error::Violation,
    threads::{MessageId, Owner, RequestId, ThreadId},
};

/// Names a thread that `CreateThread` left unnamed.
pub(super) fn created_thread(
    owner: Option<&Owner>,
    request: Option<&RequestId>,
) -> Result<ThreadId, Violation> {
    match request {
        Some(request) => {
            let owner = owner.map_or("", Owner::as_str);
            derive(&["fusewire.v1.CreateThread", owner, request.as_str()])
        }
        None => fresh_thread(),
    }
}

/// Names a copy that `ForkThread` left unnamed. The source stands for its owner, whom the request does not tell.
pub(super) fn forked_thread(source: &ThreadId, request: Option<&RequestId>) -> Result<ThreadId, Violation> {
    match request {
        Some(request) => derive(&["fusewire.v1.ForkThread", source.as_str(), request.as_str()]),
        None => fresh_thread(),
    }
}

/// Names a message that its request left unnamed, by its index there.
pub(super) fn message(request: Option<&RequestId>, index: usize) -> Result<MessageId, Violation> {
    match request {
        Some(request) => MessageId::parse("id", &format!("{request}~{index}")),
        None => MessageId::parse("id", &fresh_id(&SystemClock)),
    }
}

/// Digests parts, each behind its length, so that no two lists of parts digest alike.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn derive(parts: &[&str]) -> Result<ThreadId, Violation> {
    let mut id = String::with_capacity(32);
    for byte in digest(parts.iter().map(|part| part.as_bytes())).iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    ThreadId::parse("id", &id)
}

fn fresh_thread() -> Result<ThreadId, Violation> {
    ThreadId::parse("id", &fresh_id(&SystemClock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> RequestId {
        RequestId::parse("", id).unwrap()
    }

    #[test]
    fn a_derived_thread_id_depends_on_owner_and_request_and_never_changes() {
        let owner = Owner::parse("", "ada").unwrap();
        let id = created_thread(Some(&owner), Some(&request("r1"))).unwrap();
        // Retries may come after an upgrade: the derivation is a promise.
        assert_eq!(id.as_str(), "7560da9a493c6182254f5663a8917104");
        assert_ne!(id, created_thread(None, Some(&request("r1"))).unwrap());
        assert_ne!(id, created_thread(Some(&owner), Some(&request("r2"))).unwrap());
    }

    #[test]
    fn the_border_between_owner_and_request_counts() {
        let [ab, a] = ["ab", "a"].map(|owner| Owner::parse("", owner).unwrap());
        assert_ne!(
            created_thread(Some(&ab), Some(&request("c"))).unwrap(),
            created_thread(Some(&a), Some(&request("bc"))).unwrap()
        );
    }

    #[test]
    fn a_fork_and_a_creation_by_one_request_id_differ() {
        let source = ThreadId::parse("", "ada").unwrap();
        let owner = Owner::parse("", "ada").unwrap();
        assert_ne!(
            forked_thread(&source, Some(&request("r"))).unwrap(),
            created_thread(Some(&owner), Some(&request("r"))).unwrap()
        );
    }

    #[test]
    fn without_a_request_id_every_id_is_fresh() {
        assert_eq!(message(Some(&request("r")), 7).unwrap().as_str(), "r~7");
        assert_eq!(message(None, 0).unwrap().as_str().len(), 26);
        assert_ne!(message(None, 0).unwrap(), message(None, 0).unwrap());
        assert_ne!(created_thread(None, None).unwrap(), created_thread(None, None).unwrap());
    }
}
