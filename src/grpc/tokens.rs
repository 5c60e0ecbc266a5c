//! Page tokens: where a walk goes on, sealed to the request that it belongs to.
//!
//! A token is base64url of a version byte, a checksum and a protobuf body. The checksum finds tokens of other requests
//! and damaged ones; it is no secret, since a token opens nothing that its request would not.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;

use super::ids::digest;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{MessagesCursor, MessagesQuery, Owner, ThreadId, ThreadsCursor},
};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 12;
/// Longer than any token that was made here: what is longer is not decoded.
const MAX_TOKEN: usize = 1024;

#[derive(Clone, PartialEq, prost::Message)]
struct MessagesPlace {
    #[prost(string, tag = "1")]
    epoch: String,
    #[prost(int64, tag = "2")]
    seq: i64,
    #[prost(bool, tag = "3")]
    local: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ThreadsPlace {
    #[prost(int64, tag = "1")]
    update_time: i64,
    #[prost(string, tag = "2")]
    id: String,
}

/// Writes the token that goes on from `cursor` in these messages of a thread.
pub(super) fn seal_messages(query: &MessagesQuery, cursor: &MessagesCursor) -> String {
    let place = MessagesPlace { epoch: cursor.epoch.clone(), seq: cursor.seq, local: cursor.local };
    seal(&messages_of(query), &place.encode_to_vec())
}

/// Reads a token of these messages of a thread.
pub(super) fn open_messages(query: &MessagesQuery, token: &str) -> Result<MessagesCursor> {
    let place: MessagesPlace = open(&messages_of(query), token)?;
    Ok(MessagesCursor { epoch: place.epoch, seq: place.seq, local: place.local })
}

fn messages_of(query: &MessagesQuery) -> Vec<Vec<u8>> {
    vec![
        b"messages".to_vec(),
        query.id.as_str().into(),
        query.after_seq.to_be_bytes().into(),
        query.before_seq.to_be_bytes().into(),
        vec![u8::from(query.descending)],
    ]
}

/// Writes the token that goes on after `cursor` in an owner's threads.
pub(super) fn seal_threads(owner: &Owner, cursor: &ThreadsCursor) -> String {
    let place =
        ThreadsPlace { update_time: cursor.update_time.as_millis(), id: cursor.id.as_str().to_owned() };
    seal(&threads_of(owner), &place.encode_to_vec())
}

/// Reads a token of a walk through this owner's threads.
pub(super) fn open_threads(owner: &Owner, token: &str) -> Result<ThreadsCursor> {
    let place: ThreadsPlace = open(&threads_of(owner), token)?;
    let id = ThreadId::parse("page_token", &place.id).map_err(|_| Error::TokenMismatch)?;
    Ok(ThreadsCursor { update_time: Timestamp::from_millis(place.update_time), id })
}

fn threads_of(owner: &Owner) -> Vec<Vec<u8>> {
    vec![b"threads".to_vec(), owner.as_str().into()]
}

/// Seals a place to what it is bound to.
pub(super) fn seal(bound: &[Vec<u8>], body: &[u8]) -> String {
    let mut token = vec![VERSION];
    token.extend(checksum(bound, body));
    token.extend(body);
    URL_SAFE_NO_PAD.encode(token)
}

/// Reads a place that was sealed to the same.
pub(super) fn open<T: prost::Message + Default>(bound: &[Vec<u8>], token: &str) -> Result<T> {
    let body = || {
        let bytes = Some(token).filter(|token| token.len() <= MAX_TOKEN)?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).ok()?;
        let (&version, rest) = bytes.split_first()?;
        let (sum, body) = rest.split_at_checked(CHECKSUM_BYTES)?;
        if version != VERSION || sum != checksum(bound, body) {
            return None;
        }
        T::decode(body).ok()
    };
    body().ok_or(Error::TokenMismatch)
}

fn checksum(bound: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
    let parts = bound.iter().map(Vec::as_slice).chain([body]);
    digest(parts).into_iter().take(CHECKSUM_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> MessagesQuery {
        MessagesQuery {
            id: ThreadId::parse("", "t").unwrap(),
            after_seq: 3,
            before_seq: 0,
            descending: false,
            limit: 7,
            cursor: None,
            renew: true,
        }
    }

    fn cursor() -> MessagesCursor {
        MessagesCursor { epoch: "01JD".into(), seq: 17, local: true }
    }

    #[test]
    fn a_token_leads_back_to_its_place() {
        let back = open_messages(&query(), &seal_messages(&query(), &cursor())).unwrap();
        assert_eq!((back.epoch.as_str(), back.seq, back.local), ("01JD", 17, true));

        let owner = Owner::parse("", "ada").unwrap();
        let id = ThreadId::parse("", "t").unwrap();
        let place = ThreadsCursor { update_time: Timestamp::from_millis(1_763_000_000_123), id };
        let back = open_threads(&owner, &seal_threads(&owner, &place)).unwrap();
        assert_eq!((back.update_time, back.id), (place.update_time, place.id));
    }

    #[test]
    fn a_token_of_another_request_does_not_verify() {
        let token = seal_messages(&query(), &cursor());
        let others = [
            MessagesQuery { id: ThreadId::parse("", "u").unwrap(), ..query() },
            MessagesQuery { after_seq: 4, ..query() },
            MessagesQuery { before_seq: 9, ..query() },
            MessagesQuery { descending: true, ..query() },
        ];
        for other in others {
            assert!(matches!(open_messages(&other, &token), Err(Error::TokenMismatch)), "{other:?}");
        }
        let owner = Owner::parse("", "t").unwrap();
        assert!(matches!(open_threads(&owner, &token), Err(Error::TokenMismatch)));
    }

    #[test]
    fn no_changed_or_cut_token_verifies() {
        let token = seal_messages(&query(), &cursor());
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(open_messages(&query(), &URL_SAFE_NO_PAD.encode(&changed)).is_err(), "byte {index}");
            assert!(
                open_messages(&query(), &URL_SAFE_NO_PAD.encode(&bytes[..index])).is_err(),
                "cut at {index}"
            );
        }
        for garbage in ["", "A", "not base64!", "äöü", &"A".repeat(5000)] {
            assert!(matches!(open_messages(&query(), garbage), Err(Error::TokenMismatch)), "{garbage:?}");
        }
    }
}
