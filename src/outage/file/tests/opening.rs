//! What can be opened, and by whom.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::outage::file::format;

fn refusal(path: &Path) -> String {
    let refused = FileJournal::open(path, SyncPolicy::Always, &Shutdown::new()).unwrap_err().to_string();
    assert!(refused.contains(path.to_str().unwrap()), "{refused:?} does not name the file");
    assert!(!refused.contains('\n'));
    refused
}

#[tokio::test]
async fn a_new_file_is_for_its_owner_alone() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    let mode = || fs::metadata(folder.path()).unwrap().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    open.replace(&[settled(1)]).await.unwrap();
    assert_eq!(mode(), 0o600);
    assert_eq!(folder.names(), ["journal", "journal.lock"]);
}

#[test]
fn an_empty_file_is_a_new_one() {
    let folder = Folder::new();
    fs::write(folder.path(), "").unwrap();
    assert_eq!(folder.open(SyncPolicy::Always).records, []);
}

#[tokio::test]
async fn a_file_is_open_once_also_under_another_name() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    let link = folder.0.path().join("link");
    symlink(folder.path(), &link).unwrap();
    for path in [folder.path(), link.clone()] {
        let refused = refusal(&path);
        assert!(refused.contains("in use") && refused.contains("journal.lock"), "{refused}");
    }
    open.append(&[settled(1)]).await.unwrap();
    open.close().await;
    let found = FileJournal::open(&link, SyncPolicy::Always, &Shutdown::new()).unwrap();
    assert_eq!(found.records, [settled(1)]);
}

#[tokio::test]
async fn a_replacement_leaves_a_link_in_place() {
    let folder = Folder::new();
    drop(folder.open(SyncPolicy::Always));
    let link = folder.0.path().join("link");
    symlink(folder.path(), &link).unwrap();
    let shutdown = Shutdown::new();
    let found = FileJournal::open(&link, SyncPolicy::Always, &shutdown).unwrap();
    found.journal.replace(vec![settled(1)]).await.unwrap().unwrap();
    drop(found);
    assert!(shutdown.wait(Duration::from_secs(30)).await);
    assert_eq!(folder.open(SyncPolicy::Always).records, [settled(1)]);
}

#[tokio::test]
async fn a_file_stays_locked_until_what_was_given_to_it_is_written() {
    let folder = Folder::new();
    let Open { journal, shutdown, .. } = folder.open(SyncPolicy::Always);
    let receipt = journal.append(vec![settled(1)]);
    drop(journal);
    refusal(&folder.path());
    receipt.await.unwrap().unwrap();
    assert!(shutdown.wait(Duration::from_secs(30)).await);
    assert_eq!(folder.open(SyncPolicy::Always).records, [settled(1)]);
}

#[test]
fn what_is_no_journal_is_left_alone() {
    let folder = Folder::new();
    for foreign in ["x", "#!/bin/sh\n", "a text that is longer than a header would be", "FUSEJRN?"] {
        fs::write(folder.path(), foreign).unwrap();
        let refused = refusal(&folder.path());
        assert!(refused.contains("something else"), "{refused}");
        assert_eq!(fs::read_to_string(folder.path()).unwrap(), foreign);
    }
    fs::write(folder.path(), [0; 100]).unwrap();
    refusal(&folder.path());
}

#[test]
fn another_version_is_left_alone() {
    let folder = Folder::new();
    let mut header = format::header(rand::random());
    header[11] = 2;
    fs::write(folder.path(), &header).unwrap();
    let refused = refusal(&folder.path());
    assert!(refused.contains("version 2"), "{refused}");
    assert_eq!(fs::read(folder.path()).unwrap(), header);
}

#[test]
fn a_record_of_a_later_version_stops_the_start() {
    let folder = Folder::new();
    let marker = rand::random();
    let mut file = format::header(marker);
    // An append of one record, which has nothing but a field 15.
    format::put_frame(&mut file, marker, b"\x0a\x02\x78\x01").unwrap();
    fs::write(folder.path(), &file).unwrap();
    let refused = refusal(&folder.path());
    assert!(refused.contains("not known") && refused.contains("byte 24"), "{refused}");
    assert_eq!(fs::read(folder.path()).unwrap(), file);
}

#[test]
fn places_where_no_file_can_be_are_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    assert!(refusal(&folder.path()).contains("no regular file"));
    let missing = folder.0.path().join("missing/journal");
    assert!(refusal(&missing).contains("find its directory"));
    assert!(refusal(Path::new("/")).contains("no regular file"));
    // Nothing is left behind.
    assert_eq!(folder.names(), ["journal"]);
}
