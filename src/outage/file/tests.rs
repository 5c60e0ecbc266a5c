//! Journal files on a real disk.

mod damage;
mod failures;
mod golden;
mod model;
mod opening;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Timestamp,
    threads::{
        Digest, MAX_BATCH, Message, MessageId, Owner, Parent, Profile, RequestId, Role, Thread, ThreadId,
        ToolRef, Trim, Ttl,
        replay::{BatchId, Origin, PendingMessage},
    },
};

/// A directory with a journal file, which is opened and closed as often as a test wants.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    /// Opens the file, which is new or whole.
    fn open(&self, policy: SyncPolicy) -> Open {
        let before = fs::read(self.path()).unwrap_or_default();
        let open = self.recover(policy);
        assert!(before.is_empty() || fs::read(self.path()).unwrap() == before, "the file was not whole");
        open
    }

    /// Opens the file, whatever is wrong with it.
    fn recover(&self, policy: SyncPolicy) -> Open {
        let shutdown = Shutdown::new();
        let Opened { journal, records } = FileJournal::open(&self.path(), policy, &shutdown).unwrap();
        Open { journal, records, shutdown }
    }

    /// The file that was kept because it was damaged.
    fn kept(&self) -> Option<PathBuf> {
        let name = self.names().into_iter().find(|name| name.contains(".damaged-"));
        name.map(|name| self.0.path().join(name))
    }

    /// The names of all files.
    fn names(&self) -> Vec<String> {
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// Puts records into a new file, each append for itself.
    async fn hold(&self, appends: &[Vec<Record>]) -> Vec<u8> {
        let open = self.open(SyncPolicy::Never);
        for records in appends {
            open.append(records).await.unwrap();
        }
        open.close().await;
        fs::read(self.path()).unwrap()
    }

    /// What a file with these bytes holds.
    fn open_bytes(&self, bytes: &[u8]) -> Result<Opened, OpenError> {
        fs::write(self.path(), bytes).unwrap();
        FileJournal::open(&self.path(), SyncPolicy::Never, &Shutdown::new())
    }
}

struct Open {
    journal: FileJournal,
    records: Vec<Record>,
    shutdown: Shutdown,
}

impl Open {
    async fn append(&self, records: &[Record]) -> crate::error::Result<()> {
        self.journal.append(records.to_vec()).await.unwrap()
    }

    async fn replace(&self, records: &[Record]) -> crate::error::Result<()> {
        self.journal.replace(records.to_vec()).await.unwrap()
    }

    /// Ends as the process does.
    async fn close(self) {
        self.shutdown.trigger();
        assert!(self.shutdown.wait(Duration::from_secs(30)).await, "the writer did not end");
    }
}

fn message(id: &str, payload: impl Into<Bytes>) -> Message {
    Message {
        id: MessageId::parse("id", id).unwrap(),
        role: Role::User,
        in_progress: false,
        tokens: 3,
        size: 12,
        tools: Vec::new(),
        payload: payload.into(),
    }
}

fn entry(id: &str, payload: impl Into<Bytes>) -> PendingMessage {
    PendingMessage {
        message: Arc::new(message(id, payload)),
        digest: Digest([7; 16]),
        time: Timestamp::from_millis(1_700_000_000_123),
        is_repair: false,
    }
}

/// A thread of which nothing optional is known.
fn bare_thread(id: &str) -> Thread {
    Thread {
        id: ThreadId::parse("id", id).unwrap(),
        profile: Profile {
            owner: None,
            title: String::new(),
            labels: BTreeMap::new(),
            ttl: Ttl::new("ttl", Duration::from_hours(2)).unwrap(),
            pinned: false,
            trim: Trim::default(),
        },
        epoch: "local-1".into(),
        revision: 0,
        message_count: 0,
        first_seq: 0,
        last_seq: 0,
        token_count: 0,
        size_bytes: 0,
        parent: None,
        create_time: Timestamp::from_millis(1),
        update_time: Timestamp::from_millis(2),
        expire_time: None,
        local: false,
    }
}

/// A thread of which everything is known, and differs from what is left out.
fn full_thread(id: &str) -> Thread {
    Thread {
        id: ThreadId::parse("id", id).unwrap(),
        profile: Profile {
            owner: Some(Owner::parse("owner", "team:blue").unwrap()),
            title: "Grüße, 世界 \u{1F980}\0".into(),
            labels: [("a".into(), "1".into()), (String::new(), "ü".into())].into(),
            ttl: Ttl::new("ttl", Duration::from_millis(1001)).unwrap(),
            pinned: true,
            trim: Trim { max_messages: 5, max_bytes: i64::MAX },
        },
        epoch: "ε".into(),
        revision: 17,
        message_count: 4,
        first_seq: 5,
        last_seq: 9,
        token_count: 100,
        size_bytes: i64::MAX,
        parent: Some(Parent { thread_id: ThreadId::parse("id", "parent").unwrap(), seq: 3 }),
        create_time: Timestamp::from_millis(-1),
        update_time: Timestamp::from_millis(1_700_000_000_001),
        expire_time: Some(Timestamp::from_millis(0)),
        local: true,
    }
}

fn began(run: u64) -> Record {
    let origin = Origin { thread: bare_thread("t"), any_owner: false, created_by: None };
    Record::Began { batch: BatchId(run), origin: Arc::new(origin), creates: false }
}

fn accepted(run: u64, id: &str) -> Record {
    Record::Accepted { batch: BatchId(run), entries: vec![entry(id, Bytes::from_static(b"hello"))] }
}

fn settled(run: u64) -> Record {
    Record::Settled { batch: BatchId(run) }
}

#[tokio::test]
async fn the_largest_message_comes_back_as_it_was() {
    let folder = Folder::new();
    let payload: Vec<u8> = (0..2 << 20).map(|index: u32| index.to_le_bytes()[index as usize % 3]).collect();
    let record = Record::Accepted { batch: BatchId(1), entries: vec![entry("m", payload)] };
    let open = folder.open(SyncPolicy::Always);
    open.append(&[began(1), record.clone()]).await.unwrap();
    open.replace(&[began(1), record.clone()]).await.unwrap();
    open.append(std::slice::from_ref(&record)).await.unwrap();
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(1), record.clone(), record]);
}

#[tokio::test]
async fn a_replacement_divides_the_messages_of_a_long_run() {
    let folder = Folder::new();
    let entries: Vec<_> = (0..=2 * MAX_BATCH).map(|index| entry(&format!("m-{index}"), "x")).collect();
    let open = folder.open(SyncPolicy::Never);
    open.replace(&[began(1), Record::Accepted { batch: BatchId(1), entries: entries.clone() }])
        .await
        .unwrap();
    open.close().await;
    let records = folder.open(SyncPolicy::Never).records;
    let found = records[1..].iter().flat_map(|record| match record {
        Record::Accepted { batch: BatchId(1), entries } => entries.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(found.collect::<Vec<_>>(), entries);
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn appends_that_wait_are_written_together_and_answered_in_order() {
    let folder = Folder::new();
    let Open { journal, shutdown, .. } = folder.open(SyncPolicy::Always);
    let appends: Vec<_> = (0..5000).map(|index| accepted(1, &format!("m-{index}"))).collect();
    // A disk that is busy: nobody gets at it before all appends wait.
    let disk = journal.0.disk();
    let mut receipts: Vec<_> = appends.iter().map(|record| journal.append(vec![record.clone()])).collect();
    drop(disk);

    receipts.pop().unwrap().await.unwrap().unwrap();
    assert!(receipts.iter_mut().all(|receipt| receipt.try_recv().unwrap().is_ok()));
    assert_eq!(journal.0.disk().syncs, 1);

    shutdown.trigger();
    assert!(shutdown.wait(Duration::from_secs(30)).await);
    drop(journal);
    assert_eq!(folder.open(SyncPolicy::Always).records, appends);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_each_writer_is_kept() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    let writers: Vec<_> = (0..64)
        .map(|run| {
            let journal = open.journal.clone();
            open.shutdown.spawn("test", async move {
                for index in 0..50 {
                    journal.append(vec![accepted(run, &format!("m-{index}"))]).await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    open.close().await;
    let records = folder.open(SyncPolicy::Always).records;
    for run in 0..64 {
        let of_run = records.iter().filter(
            |record| matches!(record, Record::Accepted { batch: BatchId(found), .. } if *found == run),
        );
        let expected = (0..50).map(|index| accepted(run, &format!("m-{index}")));
        assert!(of_run.cloned().eq(expected), "run {run}");
    }
}

#[tokio::test]
async fn of_replacements_that_wait_only_the_last_is_written() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    let disk = open.journal.0.disk();
    let first = open.journal.append(vec![began(1)]);
    let replacements = [2, 3, 4].map(|run| open.journal.replace(vec![began(run)]));
    let last = open.journal.append(vec![accepted(4, "m")]);
    drop(disk);
    first.await.unwrap().unwrap();
    for receipt in replacements {
        receipt.await.unwrap().unwrap();
    }
    last.await.unwrap().unwrap();
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(4), accepted(4, "m")]);
}

#[tokio::test]
async fn what_waits_is_written_before_the_process_ends() {
    for policy in [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never] {
        let folder = Folder::new();
        let open = folder.open(policy);
        let appends: Vec<_> = (0..100).map(|index| accepted(1, &format!("m-{index}"))).collect();
        for record in &appends {
            drop(open.journal.append(vec![record.clone()]));
        }
        open.shutdown.trigger();
        // Calls in flight still write.
        drop(open.journal.append(vec![settled(1)]));
        open.close().await;
        assert_eq!(folder.open(policy).records, [appends, vec![settled(1)]].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn each_second_what_was_written_is_forced_to_disk() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::EverySecond);
    let begin = tokio::time::Instant::now();
    for _ in 0..10 {
        open.append(&[settled(1)]).await.unwrap();
    }
    assert_eq!(open.journal.0.disk().syncs, 0);
    // The task ends when nothing is left to do.
    assert!(open.shutdown.wait(Duration::from_secs(30)).await);
    assert_eq!(begin.elapsed().as_secs(), 1);
    assert_eq!(open.journal.0.disk().syncs, 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_does_not_wait_for_the_second() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::EverySecond);
    let begin = tokio::time::Instant::now();
    open.append(&[settled(1)]).await.unwrap();
    open.shutdown.trigger();
    assert!(open.shutdown.wait(Duration::from_secs(30)).await);
    assert!(begin.elapsed() < Duration::from_millis(100));
    assert_eq!(open.journal.0.disk().syncs, 1);
}

#[tokio::test]
async fn bytes_count_what_is_written_and_what_waits() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Never);
    let on_disk = || fs::metadata(folder.path()).unwrap().len();
    assert_eq!(open.journal.bytes(), on_disk());
    let large = Record::Accepted { batch: BatchId(1), entries: vec![entry("m", vec![1; 10_000])] };

    let disk = open.journal.0.disk();
    let receipt = open.journal.append(vec![large.clone()]);
    assert!((10_000..11_000).contains(&open.journal.bytes()));
    let replaced = open.journal.replace(vec![settled(1)]);
    assert!(open.journal.bytes() < 100);
    drop(disk);

    receipt.await.unwrap().unwrap();
    replaced.await.unwrap().unwrap();
    assert_eq!(open.journal.bytes(), on_disk());
    open.append(&[large]).await.unwrap();
    assert_eq!(open.journal.bytes(), on_disk());
}
