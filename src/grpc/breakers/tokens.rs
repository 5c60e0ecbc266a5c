//! Page tokens of breakers and of their transitions.

use prost::Message as _;

use crate::{
    breakers::{ModelKey, Position, State, operations::BreakersQuery},
    error::{Error, Result},
    grpc::tokens::{open, seal},
};

#[derive(Clone, PartialEq, prost::Message)]
struct BreakersPlace {
    #[prost(string, tag = "1")]
    key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransitionsPlace {
    #[prost(string, tag = "1")]
    epoch: String,
    #[prost(int64, tag = "2")]
    generation: i64,
}

/// Writes the token that goes on after `key` in a list of breakers.
pub(super) fn seal_breakers(query: &BreakersQuery, key: &ModelKey) -> String {
    seal(&breakers_of(query), &BreakersPlace { key: key.to_string() }.encode_to_vec())
}

/// Reads a token of this list of breakers.
pub(super) fn open_breakers(query: &BreakersQuery, token: &str) -> Result<ModelKey> {
    let place: BreakersPlace = open(&breakers_of(query), token)?;
    ModelKey::parse("page_token", &place.key).map_err(|_| Error::TokenMismatch)
}

fn breakers_of(query: &BreakersQuery) -> Vec<Vec<u8>> {
    let states: Vec<_> = query.states.iter().copied().map(State::as_str).collect();
    vec![b"breakers".to_vec(), query.prefix.as_str().into(), states.join(",").into()]
}

/// What a walk through the transitions of a breaker may not change on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TransitionsWalk {
    pub(super) key: ModelKey,
    pub(super) after: i64,
    pub(super) epoch: Option<String>,
}

impl TransitionsWalk {
    /// Writes the token that goes on after `last`.
    pub(super) fn seal(&self, last: Position) -> String {
        let place = TransitionsPlace { epoch: last.epoch, generation: last.generation };
        seal(&self.bound(), &place.encode_to_vec())
    }

    /// Reads a token of this walk.
    pub(super) fn open(&self, token: &str) -> Result<Position> {
        let place: TransitionsPlace = open(&self.bound(), token)?;
        Ok(Position { epoch: place.epoch, generation: place.generation })
    }

    fn bound(&self) -> Vec<Vec<u8>> {
        vec![
            b"transitions".to_vec(),
            self.key.as_str().into(),
            self.after.to_be_bytes().into(),
            self.epoch.as_deref().unwrap_or_default().into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> ModelKey {
        ModelKey::parse("", key).unwrap()
    }

    fn walk() -> TransitionsWalk {
        TransitionsWalk { key: key("m"), after: 3, epoch: None }
    }

    #[test]
    fn a_token_of_transitions_leads_back_to_its_place_in_its_walk_alone() {
        let place = Position { epoch: "01JD".into(), generation: 17 };
        let token = walk().seal(place.clone());
        assert_eq!(walk().open(&token).unwrap(), place);
        let others = [
            TransitionsWalk { key: key("n"), ..walk() },
            TransitionsWalk { after: 4, ..walk() },
            TransitionsWalk { epoch: Some("01JD".into()), ..walk() },
        ];
        for other in others {
            assert!(matches!(other.open(&token), Err(Error::TokenMismatch)), "{other:?}");
        }
    }

    #[test]
    fn a_token_of_breakers_leads_back_to_its_key_in_its_list_alone() {
        let query = |prefix: &str, states: &[State]| BreakersQuery {
            prefix: prefix.into(),
            states: states.to_vec(),
            limit: 7,
            after: None,
        };
        let token = seal_breakers(&query("m", &[State::Open]), &key("m1"));
        assert_eq!(open_breakers(&query("m", &[State::Open]), &token).unwrap(), key("m1"));
        for other in [query("", &[State::Open]), query("m", &[]), query("m", &[State::Closed, State::Open])] {
            assert!(matches!(open_breakers(&other, &token), Err(Error::TokenMismatch)), "{other:?}");
        }
        assert!(open_breakers(&query("m", &[]), &walk().seal(Position::default())).is_err());
    }
}
