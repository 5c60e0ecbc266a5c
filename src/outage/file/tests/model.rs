//! Any sequence of appends, replacements, restarts and crashes against a list.

use proptest::{collection::vec, prelude::*};
use tokio::runtime::Builder;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Record>),
    Replace(Vec<Record>),
    /// The process ends and another begins.
    Reopen,
    /// It dies while it writes so many bytes of an append of this size.
    Crash(usize, usize),
}

fn record() -> impl Strategy<Value = Record> {
    let ids = "[a-z]{1,8}";
    let entry = (ids, vec(any::<u8>(), 0..200), any::<[u8; 16]>(), any::<i64>(), any::<bool>()).prop_map(
        |(id, payload, digest, time, is_repair)| PendingMessage {
            digest: Digest(digest),
            time: Timestamp::from_millis(time),
            is_repair,
            ..entry(&id, payload)
        },
    );
    let began = (any::<u64>(), any::<bool>(), ids, any::<String>()).prop_map(|(run, creates, id, title)| {
        let mut thread = if creates { bare_thread(&id) } else { full_thread(&id) };
        thread.profile.title = title;
        let origin = Origin { thread, any_owner: creates, created_by: None };
        Record::Began { batch: BatchId(run), origin: Arc::new(origin), creates }
    });
    let ttl = (1..1000_u64).prop_map(|secs| Ttl::new("ttl", Duration::from_secs(secs)).unwrap());
    prop_oneof![
        began,
        (any::<u64>(), vec(entry, 0..4))
            .prop_map(|(run, entries)| Record::Accepted { batch: BatchId(run), entries }),
        (any::<u64>(), proptest::option::of(ttl))
            .prop_map(|(run, ttl)| Record::Touched { batch: BatchId(run), ttl }),
        any::<u64>().prop_map(settled),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec(record(), 0..4).prop_map(Step::Append),
        1 => vec(record(), 0..6).prop_map(Step::Replace),
        1 => Just(Step::Reopen),
        1 => (1..100_usize, 1..100_usize).prop_map(|(a, b)| Step::Crash(a.min(b), a.max(b))),
    ]
}

async fn hold_to_model(policy: SyncPolicy, steps: Vec<Step>) {
    let folder = Folder::new();
    let mut open = folder.open(policy);
    let mut model = Vec::new();
    for step in steps {
        match step {
            // Nobody waits for each, so that several are written together.
            Step::Append(records) => {
                model.extend(records.clone());
                drop(open.journal.append(records));
            }
            Step::Replace(records) => {
                model.clone_from(&records);
                drop(open.journal.replace(records));
            }
            Step::Reopen => {
                open.close().await;
                open = folder.open(policy);
                assert_eq!(open.records, model);
            }
            Step::Crash(written, whole) => {
                open.close().await;
                let file = fs::read(folder.path()).unwrap();
                // A frame begins with the marker, which the header holds.
                let mut torn = file[12..20].to_vec();
                torn.extend(u32::try_from(whole).unwrap().to_be_bytes());
                torn.extend(vec![0xa5; whole + 4]);
                torn.truncate(written);
                fs::write(folder.path(), [file.clone(), torn].concat()).unwrap();
                open = folder.recover(policy);
                assert_eq!((fs::read(folder.path()).unwrap(), folder.kept()), (file, None));
                assert_eq!(open.records, model);
            }
        }
    }
    open.close().await;
    let open = folder.open(policy);
    assert_eq!(open.records, model);
    assert_eq!(open.journal.bytes(), fs::metadata(folder.path()).unwrap().len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_file_holds_what_a_list_would(
        policy in prop_oneof![
            Just(SyncPolicy::Always),
            Just(SyncPolicy::EverySecond),
            Just(SyncPolicy::Never),
        ],
        steps in vec(step(), 0..12),
    ) {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(hold_to_model(policy, steps));
    }
}
