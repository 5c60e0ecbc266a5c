//! The rpc `WatchBreakers`: what is asked for, and its events on the wire.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tonic::Status;

use super::{answers, requests};
use crate::{
    breakers::{
        ModelKey, Position,
        operations::Following,
        watch::{Event, Interest, MAX_WATCHED, Watch},
    },
    call::Answer,
    error::Result,
    grpc::{
        check::{Check, Path},
        convert, proto,
    },
};

/// Parses what to watch.
pub(super) fn parse(request: proto::WatchBreakersRequest) -> Result<Watch> {
    let mut check = Check::default();
    let proto::WatchBreakersRequest { model_keys, prefix, resume } = request;
    let mut keys = keys(&mut check, &model_keys);
    keys.sort_unstable();
    keys.dedup();
    requests::check_prefix(&mut check, &prefix);
    // Neither keys nor prefix is all; with keys, no prefix is no more than these.
    let prefix = (!prefix.is_empty() || model_keys.is_empty()).then_some(prefix);
    let path = Path::Root("resume");
    let mut places = Vec::with_capacity(resume.len());
    for (raw, place) in resume {
        let path = path.key(&raw);
        let key = check.take(path, ModelKey::parse("", &raw));
        let epoch = requests::epoch(&mut check, path.field("epoch"), place.epoch);
        convert::check_count(&mut check, path.field("generation"), place.generation);
        let position = Position { epoch: epoch.unwrap_or_default(), generation: place.generation };
        places.extend(key.map(|key| (key, position)));
        if check.is_full() {
            break;
        }
    }
    let resume = places.into_iter().collect();
    check.finish(|| Some(Watch { interest: Interest { keys, prefix }, resume, ..Watch::default() }))
}

fn keys(check: &mut Check, raw: &[String]) -> Vec<ModelKey> {
    let path = Path::Root("model_keys");
    if raw.len() > MAX_WATCHED {
        check.refuse(path, format!("must hold at most {MAX_WATCHED} keys"));
        return Vec::new();
    }
    let parse = |(index, raw): (usize, &String)| check.take(path.index(index), ModelKey::parse("", raw));
    raw.iter().enumerate().filter_map(parse).collect()
}

/// The events of a watch, for ever.
pub(super) fn events(
    watch: impl Following,
) -> impl Stream<Item = Result<proto::WatchBreakersResponse, Status>> {
    stream::unfold(watch, async |mut watch| {
        let answer = watch.next().await;
        Some((Ok(write(answer)), watch))
    })
}

fn write(answer: Answer<Event>) -> proto::WatchBreakersResponse {
    use proto::watch_breakers_response::Event as Wire;
    let event = match answer.value {
        Event::Snapshot(breaker) => Wire::Snapshot(answers::breaker(*breaker)),
        Event::Synced => Wire::Synced(proto::Synced {}),
        Event::Changed(key, transition) => {
            Wire::Transition(answers::transition(&key, Arc::unwrap_or_clone(transition)))
        }
        Event::Resync(breaker, why) => {
            let breaker = Some(answers::breaker(*breaker));
            Wire::Resync(proto::BreakerResync { breaker, why: why.to_owned() })
        }
        Event::Removed(removed) => Wire::Removed(proto::BreakerRemoved {
            model_key: removed.key.to_string(),
            epoch: removed.position.epoch,
            generation: removed.position.generation,
            expired: removed.expired,
        }),
        Event::ModeChanged(mode) => {
            Wire::ServingModeChanged(proto::ServingModeChanged { mode: convert::serving_mode(mode) })
        }
    };
    proto::WatchBreakersResponse { event: Some(event), authority: convert::authority(answer.source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(keys: &[&str], prefix: &str) -> Result<Watch> {
        let model_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        parse(proto::WatchBreakersRequest { model_keys, prefix: prefix.into(), ..Default::default() })
    }

    #[test]
    fn without_keys_and_prefix_all_are_watched_and_with_keys_these_alone() {
        let key = ModelKey::parse("", "openai:a").unwrap();
        assert!(watch(&[], "").unwrap().interest.includes(&key));
        assert!(watch(&["x"], "openai:").unwrap().interest.includes(&key));
        assert!(watch(&["x", "openai:a", "x"], "").unwrap().interest.includes(&key));
        assert!(!watch(&["x"], "").unwrap().interest.includes(&key));
        assert!(!watch(&[], "anthropic:").unwrap().interest.includes(&key));
    }

    #[test]
    fn every_violated_field_is_named() {
        let place = proto::BreakerPosition { epoch: "e".repeat(65), generation: -1 };
        let request = proto::WatchBreakersRequest {
            model_keys: vec!["a".into(), String::new()],
            prefix: "{".into(),
            resume: [("a b".to_owned(), place)].into(),
        };
        let Err(crate::error::Error::Invalid(violations)) = parse(request) else { panic!("accepted") };
        let fields: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        let resume = [r#"resume["a b"]"#, r#"resume["a b"].epoch"#, r#"resume["a b"].generation"#];
        assert_eq!(fields, [&["model_keys[1]", "prefix"][..], &resume[..]].concat());
        let many: Vec<_> = (0..=MAX_WATCHED).map(|n| n.to_string()).collect();
        assert!(watch(&many.iter().map(String::as_str).collect::<Vec<_>>(), "").is_err());
    }
}
