use proptest::prelude::*;

use super::*;
use crate::{
    breakers::{BreakerSettings, Mode, Reason, Snapshot, State as Breaker, Transition},
    clock::Timestamp,
};

fn key(name: &str) -> ModelKey {
    ModelKey::parse("", name).unwrap()
}

fn all() -> Interest {
    Interest { keys: Vec::new(), prefix: Some(String::new()) }
}

fn terms() -> Terms {
    Terms { settings: Arc::new(BreakerSettings::default()), revision: "".into() }
}

/// A store of one breaker: where it stands, with all its changes.
#[derive(Debug, Default)]
struct Stored {
    position: Position,
    log: VecDeque<Transition>,
    kept: usize,
}

impl Stored {
    fn new(kept: usize) -> Self {
        Self { kept, ..Self::default() }
    }

    fn begin(&mut self, epoch: &str) {
        self.position = Position { epoch: epoch.into(), generation: 0 };
        self.log.clear();
    }

    fn change(&mut self) {
        self.position.generation += 1;
        let transition = Transition {
            position: self.position.clone(),
            from: Breaker::Closed,
            to: Breaker::Open,
            mode: Mode::Automatic,
            time: Timestamp::from_millis(1),
            reason: Reason::Tripped,
            outcome: None,
            actor: String::new(),
            detail: String::new(),
            instance: String::new(),
            open_until: None,
        };
        self.log.push_back(transition);
        if self.log.len() > self.kept {
            self.log.pop_front();
        }
    }

    fn remove(&mut self) {
        self.position = Position::default();
        self.log.clear();
    }

    fn follow(&self, after: Option<&Position>) -> Followed {
        let after = after.filter(|after| after.epoch == self.position.epoch);
        let is_new =
            |change: &&Transition| after.is_none_or(|after| change.position.generation > after.generation);
        let snapshot = Snapshot { position: self.position.clone(), ..Snapshot::default() };
        Followed {
            view: View { snapshot, ..View::default() },
            newest: self.log.iter().filter(is_new).cloned().collect(),
            expires_in: None,
        }
    }
}

/// Reads back whatever is queued.
fn read_all(feed: &Feed, stored: &Stored) {
    while let Some(job) = feed.next_job() {
        let followed = stored.follow(job.after.as_deref());
        feed.read(&job.key, followed, terms(), 0);
    }
}

/// One who watches and notes what it is told.
#[derive(Debug)]
struct Reader {
    watcher: Arc<Watcher>,
    told: Option<Arc<Position>>,
    heard: Vec<Heard>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Change(Position),
    Resync(Position),
    Removed,
}

impl Reader {
    fn new(feed: &Feed) -> Self {
        Self { watcher: feed.watch(all()), told: None, heard: Vec::new() }
    }

    fn read(&mut self, feed: &Feed) {
        use futures_util::FutureExt;
        while let Some(key) = self.watcher.next().now_or_never() {
            match feed.news(&key, self.told.as_ref()) {
                News::None => {}
                News::Stands(position) => self.told = Some(position),
                News::Resync(seen, _) => {
                    self.heard.push(Heard::Resync(Position::clone(&seen.position)));
                    self.told = Some(Arc::clone(&seen.position));
                }
                News::Removed(_) => {
                    self.heard.push(Heard::Removed);
                    self.told = None;
                }
                News::Changes(changes, position) => {
                    self.heard.extend(changes.iter().map(|change| Heard::Change(change.position.clone())));
                    self.told = Some(position);
                }
            }
        }
    }
}

#[test]
fn a_reader_that_lags_is_told_each_change_until_it_is_too_far_behind() {
    let (feed, mut stored) = (Feed::default(), Stored::new(1000));
    let (mut quick, mut slow) = (Reader::new(&feed), Reader::new(&feed));
    stored.begin("e");
    for behind in [history::MOST_BEHIND, history::MOST_BEHIND + 1] {
        for _ in 0..behind {
            stored.change();
            feed.ring(&key("a"));
            read_all(&feed, &stored);
            quick.read(&feed);
        }
        slow.read(&feed);
    }
    assert!(quick.heard.iter().all(|heard| matches!(heard, Heard::Change(_))), "{:?}", quick.heard);
    assert_eq!(slow.heard[..history::MOST_BEHIND], quick.heard[..history::MOST_BEHIND]);
    assert_eq!(slow.heard[history::MOST_BEHIND..], [Heard::Resync(stored.position.clone())]);
}

#[test]
fn what_rings_while_it_is_read_is_read_again() {
    let (feed, mut stored) = (Feed::default(), Stored::new(9));
    stored.begin("e");
    let mut reader = Reader::new(&feed);
    assert!(feed.ring(&key("a")));
    assert!(!feed.ring(&key("a")), "it is queued already");
    let job = feed.next_job().unwrap();
    let early = stored.follow(job.after.as_deref());
    stored.change();
    assert!(!feed.ring(&key("a")));
    feed.read(&job.key, early, terms(), 0);
    assert!(feed.settled(&key("a")).is_none(), "it has rung since");
    read_all(&feed, &stored);
    reader.read(&feed);
    assert_eq!(reader.heard, [Heard::Change(stored.position.clone())]);
    assert!(feed.settled(&key("a")).is_some());
}

#[test]
fn what_is_seen_elsewhere_while_it_is_read_is_read_again() {
    let (feed, mut stored) = (Feed::default(), Stored::new(9));
    stored.begin("e");
    feed.want(&key("a"), 0);
    read_all(&feed, &stored);
    feed.ring(&key("a"));
    let job = feed.next_job().unwrap();
    let early = stored.follow(job.after.as_deref());
    assert!(!feed.notice(&key("a"), &stored.position), "that is known");
    stored.change();
    feed.notice(&key("a"), &stored.position);
    feed.read(&job.key, early, terms(), 0);
    assert!(feed.settled(&key("a")).is_none(), "it was seen to have changed since");
    read_all(&feed, &stored);
    assert_eq!(feed.settled(&key("a")).unwrap().view.snapshot.position, stored.position);
}

#[test]
fn what_is_no_more_is_followed_only_where_it_is_named() {
    let feed = Feed::default();
    let _watcher = feed.watch(Interest { keys: vec![key("a")], prefix: Some("b".into()) });
    assert!(feed.ring(&key("a")) && feed.ring(&key("b")));
    read_all(&feed, &Stored::new(9));
    feed.prune();
    feed.prune();
    let followed: Vec<_> = feed.followed().into_iter().map(|(key, _)| key).collect();
    assert_eq!(followed, [key("a")]);
}

#[test]
fn what_was_read_in_another_era_is_read_again_where_it_is_wanted() {
    let (feed, mut stored) = (Feed::default(), Stored::new(9));
    stored.begin("e");
    assert!(feed.want(&key("a"), 0));
    read_all(&feed, &stored);
    assert!(!feed.want(&key("a"), 0), "it is current");
    assert!(feed.want(&key("a"), 1));
    assert!(!feed.want(&key("a"), 1), "it is queued already");
    read_all(&feed, &stored);
    assert!(feed.settled(&key("a")).is_some());
}

#[test]
fn nothing_is_followed_that_nobody_wants() {
    let feed = Feed::default();
    assert!(!feed.ring(&key("a")));
    let watcher = feed.watch(Interest { keys: vec![key("a")], prefix: Some("b".into()) });
    assert!(feed.ring(&key("a")) && feed.ring(&key("bc")) && !feed.ring(&key("c")));
    let mut stored = Stored::new(9);
    stored.begin("e");
    read_all(&feed, &stored);
    drop(watcher);
    // Watchers had time to be told.
    feed.prune();
    feed.prune();
    assert!(!feed.is_busy() && feed.followed().is_empty());
}

#[tokio::test]
async fn whoever_waits_for_a_read_is_told_of_one_that_began_after_it_came() {
    let (feed, mut stored) = (Feed::default(), Stored::new(9));
    stored.begin("e");
    let _reader = Reader::new(&feed);
    feed.ring(&key("a"));
    let job = feed.next_job().unwrap();
    let mut look = feed.look(&key("a"), Duration::ZERO).unwrap();
    feed.read(&job.key, stored.follow(None), terms(), 0);
    assert!(look.try_recv().is_err(), "that one had begun before");
    read_all(&feed, &stored);
    assert_eq!(look.await.unwrap(), Look::Read);
    assert!(feed.look(&key("a"), Duration::from_hours(1)).is_none(), "it was read a moment ago");
}

/// What may happen.
#[derive(Debug, Clone)]
enum Act {
    Change(bool),
    Remove,
    Begin,
    /// As a failover does.
    Lose,
    Ring,
    ReadBack,
    Read,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => any::<bool>().prop_map(Act::Change),
        1 => Just(Act::Remove),
        1 => Just(Act::Begin),
        1 => Just(Act::Lose),
        4 => Just(Act::Ring),
        6 => Just(Act::ReadBack),
        4 => Just(Act::Read),
    ]
}

proptest! {
    /// Whatever rings and whatever is lost: no change is told twice, out of order or after a gap, but for a resync; and in
    /// the end everybody stands where the breaker stands.
    #[test]
    fn a_watcher_is_told_every_change_in_order_or_a_resync(acts in prop::collection::vec(act(), 1..60)) {
        let (feed, mut stored, mut epochs) = (Feed::default(), Stored::new(5), 0..);
        let mut reader = Reader::new(&feed);
        let mut begin = |stored: &mut Stored| stored.begin(&format!("e{}", epochs.next().unwrap()));
        for act in acts {
            match act {
                Act::Change(rings) => {
                    if stored.position.epoch.is_empty() {
                        begin(&mut stored);
                    }
                    stored.change();
                    if rings {
                        feed.ring(&key("a"));
                    }
                }
                Act::Remove => stored.remove(),
                Act::Begin => begin(&mut stored),
                Act::Lose => {
                    // Whoever sees that the store lost changes begins another epoch, with a change of its own.
                    begin(&mut stored);
                    stored.change();
                }
                Act::Ring => {
                    feed.ring(&key("a"));
                }
                Act::ReadBack => read_all(&feed, &stored),
                Act::Read => reader.read(&feed),
            }
        }
        feed.ring(&key("a"));
        read_all(&feed, &stored);
        reader.read(&feed);

        let mut stands = Position::default();
        for heard in reader.heard {
            match heard {
                Heard::Change(position) => {
                    let follows = stands.epoch.is_empty() || stands.epoch == position.epoch;
                    prop_assert!(follows && position.generation == stands.generation + 1, "{stands:?} {position:?}");
                    stands = position;
                }
                Heard::Resync(position) => stands = position,
                Heard::Removed => stands = Position::default(),
            }
        }
        let told = reader.told.map(|told| Position::clone(&told)).unwrap_or_default();
        prop_assert_eq!(&told, &stored.position);
        prop_assert_eq!(stands.generation, told.generation);
    }
}
