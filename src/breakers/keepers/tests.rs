use proptest::prelude::*;

use super::*;
use crate::{
    breakers::{
        Mode, Position, Reason, Snapshot, State, Transition,
        keeper::{MOST_BEHIND, News, ReadResult},
        store::Followed,
        watch::Interest,
    },
    clock::Timestamp,
};

fn keepers() -> Keepers {
    Keepers::new(|_| Arc::new(BreakerSettings::default()))
}

fn key(name: &str) -> ModelKey {
    ModelKey::parse("", name).unwrap()
}

fn all() -> Interest {
    Interest { keys: Vec::new(), prefix: Some(String::new()) }
}

fn in_force() -> InForce {
    InForce { settings: Arc::new(BreakerSettings::default()), revision: "".into() }
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
            from: State::Closed,
            to: State::Open,
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

    fn view(&self) -> View {
        let snapshot = Snapshot { position: self.position.clone(), ..Snapshot::default() };
        View { snapshot, ..View::default() }
    }

    fn follow(&self, after: Option<&Position>) -> Followed {
        let after = after.filter(|after| after.epoch == self.position.epoch);
        let is_new =
            |change: &&Transition| after.is_none_or(|after| change.position.generation > after.generation);
        Followed {
            view: self.view(),
            newest: self.log.iter().filter(is_new).cloned().collect(),
            expires_in: None,
        }
    }
}

/// Reads back whatever is queued.
fn read_all(keepers: &Keepers, stored: &Stored) {
    while let Some((key, from)) = next_read(keepers) {
        let followed = stored.follow(from.after.as_deref());
        finish(keepers, (key, from), followed);
    }
}

fn next_read(keepers: &Keepers) -> Option<(ModelKey, ReadFrom)> {
    keepers.next_work().map(|work| match work {
        Work::Stale(key, from) => (key, from),
        Work::Due(key) => panic!("{key} is due"),
    })
}

fn finish(keepers: &Keepers, (key, from): (ModelKey, ReadFrom), followed: Followed) {
    keepers.finish_read(&key, from.number, (followed, in_force(), 0), None);
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
    fn new(keepers: &Keepers) -> Self {
        Self { watcher: keepers.watch(all()), told: None, heard: Vec::new() }
    }

    fn read(&mut self, keepers: &Keepers) {
        use futures_util::FutureExt;
        while let Some(key) = self.watcher.next().now_or_never() {
            match keepers.news(&key, self.told.as_ref()) {
                News::None => {}
                News::Stands(position) => self.told = Some(position),
                News::Resync(reading, _) => {
                    self.heard.push(Heard::Resync(Position::clone(&reading.position)));
                    self.told = Some(Arc::clone(&reading.position));
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
    let (keepers, mut stored) = (keepers(), Stored::new(1000));
    let (mut quick, mut slow) = (Reader::new(&keepers), Reader::new(&keepers));
    stored.begin("e");
    for behind in [MOST_BEHIND, MOST_BEHIND + 1] {
        for _ in 0..behind {
            stored.change();
            keepers.wake(&key("a"));
            read_all(&keepers, &stored);
            quick.read(&keepers);
        }
        slow.read(&keepers);
    }
    assert!(quick.heard.iter().all(|heard| matches!(heard, Heard::Change(_))), "{:?}", quick.heard);
    assert_eq!(slow.heard[..MOST_BEHIND], quick.heard[..MOST_BEHIND]);
    assert_eq!(slow.heard[MOST_BEHIND..], [Heard::Resync(stored.position.clone())]);
}

#[test]
fn a_breaker_that_is_woken_while_it_is_read_is_read_again() {
    let (keepers, mut stored) = (keepers(), Stored::new(9));
    stored.begin("e");
    let mut reader = Reader::new(&keepers);
    assert!(keepers.wake(&key("a")));
    assert!(!keepers.wake(&key("a")), "it is queued already");
    let job = next_read(&keepers).unwrap();
    let early = stored.follow(job.1.after.as_deref());
    stored.change();
    assert!(!keepers.wake(&key("a")));
    finish(&keepers, job, early);
    assert!(keepers.fresh(&key("a")).is_none(), "it was woken since");
    read_all(&keepers, &stored);
    reader.read(&keepers);
    assert_eq!(reader.heard, [Heard::Change(stored.position.clone())]);
    assert!(keepers.fresh(&key("a")).is_some());
}

#[test]
fn a_breaker_of_which_another_view_arrives_while_it_is_read_is_read_again() {
    let (keepers, mut stored) = (keepers(), Stored::new(9));
    stored.begin("e");
    keepers.want(&key("a"), 0);
    read_all(&keepers, &stored);
    keepers.wake(&key("a"));
    let job = next_read(&keepers).unwrap();
    let early = stored.follow(job.1.after.as_deref());
    assert!(!keepers.note(&key("a"), &stored.view(), None), "that is known");
    stored.change();
    keepers.note(&key("a"), &stored.view(), None);
    finish(&keepers, job, early);
    assert!(keepers.fresh(&key("a")).is_none(), "it was seen to have changed since");
    read_all(&keepers, &stored);
    assert_eq!(keepers.fresh(&key("a")).unwrap().view.snapshot.position, stored.position);
}

#[test]
fn a_breaker_that_is_gone_is_followed_only_where_it_is_named() {
    let keepers = keepers();
    let _watcher = keepers.watch(Interest { keys: vec![key("a")], prefix: Some("b".into()) });
    assert!(keepers.wake(&key("a")) && keepers.wake(&key("b")));
    read_all(&keepers, &Stored::new(9));
    keepers.prune();
    keepers.prune();
    let followed: Vec<_> = keepers.readings().into_iter().map(|(key, _)| key).collect();
    assert_eq!(followed, [key("a")]);
}

#[test]
fn a_reading_of_another_era_is_replaced_where_it_is_wanted() {
    let (keepers, mut stored) = (keepers(), Stored::new(9));
    stored.begin("e");
    assert!(keepers.want(&key("a"), 0));
    read_all(&keepers, &stored);
    assert!(!keepers.want(&key("a"), 0), "it is current");
    assert!(keepers.want(&key("a"), 1));
    assert!(!keepers.want(&key("a"), 1), "it is queued already");
    read_all(&keepers, &stored);
    assert!(keepers.fresh(&key("a")).is_some());
}

#[test]
fn no_breaker_is_followed_that_nobody_wants() {
    let keepers = keepers();
    assert!(!keepers.wake(&key("a")));
    let watcher = keepers.watch(Interest { keys: vec![key("a")], prefix: Some("b".into()) });
    assert!(keepers.wake(&key("a")) && keepers.wake(&key("bc")) && !keepers.wake(&key("c")));
    let mut stored = Stored::new(9);
    stored.begin("e");
    read_all(&keepers, &stored);
    drop(watcher);
    // Watchers had time to be told.
    keepers.prune();
    keepers.prune();
    assert!(keepers.is_idle() && keepers.readings().is_empty());
}

#[tokio::test]
async fn whoever_waits_for_a_read_is_told_of_one_that_began_after_it_came() {
    let (keepers, mut stored) = (keepers(), Stored::new(9));
    stored.begin("e");
    let _reader = Reader::new(&keepers);
    keepers.wake(&key("a"));
    let job = next_read(&keepers).unwrap();
    let mut look = keepers.read(&key("a"), Duration::ZERO).unwrap();
    finish(&keepers, job, stored.follow(None));
    assert!(look.try_recv().is_err(), "that one had begun before");
    read_all(&keepers, &stored);
    assert_eq!(look.await.unwrap(), ReadResult::Done);
    assert!(keepers.read(&key("a"), Duration::from_hours(1)).is_none(), "it was read a moment ago");
}

#[tokio::test(start_paused = true)]
async fn each_breaker_is_looked_at_once_at_the_earliest_of_its_deadlines() {
    let (keepers, began) = (keepers(), Instant::now());
    keepers.schedule(&key("late"), Duration::from_secs(9));
    keepers.schedule(&key("soon"), Duration::from_secs(5));
    keepers.schedule(&key("soon"), Duration::from_secs(3));
    keepers.schedule(&key("soon"), Duration::from_secs(7));
    let next = async || {
        assert_eq!(keepers.pass_deadlines().await, 1);
        let Some(Work::Due(key)) = keepers.next_work() else { panic!("nothing is due") };
        (key, began.elapsed().as_secs())
    };
    assert_eq!(next().await, (key("soon"), 3));
    let schedules = async { keepers.schedule(&key("now"), Duration::ZERO) };
    assert_eq!(tokio::join!(next(), schedules).0, (key("now"), 3));
    assert_eq!(next().await, (key("late"), 9));
}

#[tokio::test]
async fn the_keepers_that_were_used_least_recently_are_forgotten_but_not_those_with_a_deadline() {
    let keepers = keepers();
    let due = key("due");
    keepers.schedule(&due, Duration::from_mins(1));
    for n in 0..5 * REMEMBERED {
        keepers.in_force(&key(&n.to_string()));
        keepers.in_force(&key("in-use"));
        assert!(keepers.lock().keepers.len() <= 2 * REMEMBERED + 1);
    }
    let all = keepers.lock();
    let is_kept = |key: &ModelKey| all.keepers.contains_key(key);
    assert!(is_kept(&due) && is_kept(&key("in-use")));
    let newest = 5 * REMEMBERED - (REMEMBERED - 2)..5 * REMEMBERED;
    assert!(newest.map(|n| key(&n.to_string())).all(|key| is_kept(&key)));
}

#[test]
fn a_read_that_began_before_everything_was_forgotten_changes_nothing() {
    let (keepers, mut stored) = (keepers(), Stored::new(9));
    stored.begin("e");
    keepers.want(&key("a"), 0);
    let early = next_read(&keepers).unwrap();
    keepers.clear();
    keepers.want(&key("a"), 0);
    let late = next_read(&keepers).unwrap();
    finish(&keepers, early, stored.follow(None));
    assert!(keepers.fresh(&key("a")).is_none());
    finish(&keepers, late, stored.follow(None));
    assert!(keepers.fresh(&key("a")).is_some());
}

/// What may happen.
#[derive(Debug, Clone)]
enum Act {
    Change(bool),
    Remove,
    Begin,
    /// As a failover does.
    Lose,
    Wake,
    ReadBack,
    Read,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => any::<bool>().prop_map(Act::Change),
        1 => Just(Act::Remove),
        1 => Just(Act::Begin),
        1 => Just(Act::Lose),
        4 => Just(Act::Wake),
        6 => Just(Act::ReadBack),
        4 => Just(Act::Read),
    ]
}

proptest! {
    /// Whatever wakes and whatever is lost: no change is told twice, out of order or after a gap, but for a resync; and in
    /// the end everybody stands where the breaker stands.
    #[test]
    fn a_watcher_is_told_every_change_in_order_or_a_resync(acts in prop::collection::vec(act(), 1..60)) {
        let (keepers, mut stored, mut epochs) = (keepers(), Stored::new(5), 0..);
        let mut reader = Reader::new(&keepers);
        let mut begin = |stored: &mut Stored| stored.begin(&format!("e{}", epochs.next().unwrap()));
        for act in acts {
            match act {
                Act::Change(wakes) => {
                    if stored.position.epoch.is_empty() {
                        begin(&mut stored);
                    }
                    stored.change();
                    if wakes {
                        keepers.wake(&key("a"));
                    }
                }
                Act::Remove => stored.remove(),
                Act::Begin => begin(&mut stored),
                Act::Lose => {
                    // Whoever sees that the store lost changes begins another epoch, with a change of its own.
                    begin(&mut stored);
                    stored.change();
                }
                Act::Wake => {
                    keepers.wake(&key("a"));
                }
                Act::ReadBack => read_all(&keepers, &stored),
                Act::Read => reader.read(&keepers),
            }
        }
        keepers.wake(&key("a"));
        read_all(&keepers, &stored);
        reader.read(&keepers);

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
