//! Disks that are full or broken.

use std::{env, fs::File, process::Command};

use super::*;

/// Has all further writes go to a file that refuses them.
fn break_disk(open: &Open, device: &str) {
    let device = File::options().append(true).open(device).unwrap();
    open.journal.0.disk().write_to(device);
}

#[tokio::test]
async fn nothing_is_appended_behind_a_failure_until_the_file_is_replaced() {
    for policy in [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never] {
        let folder = Folder::new();
        let open = folder.open(policy);
        open.append(&[began(1)]).await.unwrap();
        assert!(!open.journal.has_failed());

        break_disk(&open, "/dev/full");
        let failed = open.append(&[accepted(1, "m-1")]).await.unwrap_err().to_string();
        assert!(failed.contains(folder.path().to_str().unwrap()) && failed.contains("No space"), "{failed}");
        assert!(open.journal.has_failed());
        // The disk would take it.
        open.journal.0.disk().write_to(File::options().append(true).open(folder.path()).unwrap());
        open.append(&[accepted(1, "m-2")]).await.unwrap_err();

        open.replace(&[began(1), accepted(1, "m-1")]).await.unwrap();
        assert!(!open.journal.has_failed());
        open.append(&[accepted(1, "m-3")]).await.unwrap();
        open.close().await;
        assert_eq!(folder.open(policy).records, [began(1), accepted(1, "m-1"), accepted(1, "m-3")]);
    }
}

#[tokio::test]
async fn a_file_that_was_not_forced_to_disk_is_not_trusted_any_more() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    // It takes all writes and cannot be synced.
    break_disk(&open, "/dev/null");
    open.append(&[began(1)]).await.unwrap_err();
    assert!(open.journal.has_failed());
    open.append(&[began(1)]).await.unwrap_err();
    open.replace(&[began(1)]).await.unwrap();
    assert!(!open.journal.has_failed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_sync_later_is_told_too() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::EverySecond);
    break_disk(&open, "/dev/null");
    open.append(&[began(1)]).await.unwrap();
    assert!(!open.journal.has_failed());
    assert!(open.shutdown.wait(Duration::from_secs(30)).await);
    assert!(open.journal.has_failed());
    open.append(&[accepted(1, "m")]).await.unwrap_err();
}

#[tokio::test]
async fn a_replacement_that_fails_leaves_the_file_as_it_was() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    open.append(&[began(1)]).await.unwrap();
    let obstacle = folder.0.path().join("journal.new");
    fs::create_dir(&obstacle).unwrap();
    open.replace(&[began(2)]).await.unwrap_err();
    // What the replacement was to bring is not there: nothing may be put behind it.
    assert!(open.journal.has_failed());
    open.append(&[accepted(2, "m")]).await.unwrap_err();
    let (records, bytes) = (vec![began(1)], open.journal.bytes());
    assert_eq!(bytes, fs::metadata(folder.path()).unwrap().len());
    open.close().await;

    let open = folder.open(SyncPolicy::Always);
    assert_eq!(open.records, records);
    fs::remove_dir(&obstacle).unwrap();
    open.replace(&[began(2)]).await.unwrap();
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stays_full_is_tried_once_a_second() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    assert!(open.journal.may_replace());
    break_disk(&open, "/dev/full");
    open.append(&[began(1)]).await.unwrap_err();
    assert!(open.journal.may_replace());

    let obstacle = folder.0.path().join("journal.new");
    fs::create_dir(&obstacle).unwrap();
    for _ in 0..3 {
        let disk = open.journal.0.disk();
        let replaced = open.journal.replace(vec![began(1)]);
        assert!(!open.journal.may_replace(), "one is under way");
        drop(disk);
        replaced.await.unwrap().unwrap_err();
        assert!(!open.journal.may_replace(), "one has just failed");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(open.journal.may_replace());
    }
    fs::remove_dir(&obstacle).unwrap();
    open.replace(&[began(1)]).await.unwrap();
    assert!(open.journal.may_replace());
}

#[tokio::test]
async fn a_full_disk_takes_that_nothing_waits_any_more() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    open.append(&[began(1)]).await.unwrap();
    // No other file can be made beside it.
    fs::create_dir(folder.0.path().join("journal.new")).unwrap();
    open.replace(&[]).await.unwrap();
    open.append(&[began(2)]).await.unwrap();
    assert_eq!(open.journal.bytes(), fs::metadata(folder.path()).unwrap().len());
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(2)]);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_replacement_changes_nothing() {
    let folder = Folder::new();
    folder.hold(&[vec![began(1)]]).await;
    fs::write(folder.0.path().join("journal.new"), "half of it").unwrap();
    let open = folder.open(SyncPolicy::Always);
    assert_eq!(open.records, [began(1)]);
    open.replace(&[began(2)]).await.unwrap();
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(2)]);
    assert_eq!(folder.names(), ["journal", "journal.lock"]);
}

#[tokio::test]
async fn a_writer_that_dies_leaves_a_file_that_has_failed() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    open.journal.0.disk().panics = true;
    assert!(open.journal.append(vec![began(1)]).await.is_err());
    // The task may still be telling others.
    assert!(open.shutdown.wait(Duration::from_secs(30)).await);
    assert!(open.journal.has_failed());
    open.append(&[began(1)]).await.unwrap_err();
    open.replace(&[began(1)]).await.unwrap();
    open.append(&[accepted(1, "m")]).await.unwrap();
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, [began(1), accepted(1, "m")]);
}

/// Set in the process of which [`what_a_full_disk_took_of_an_append_is_cut_off`] limits the size of files.
const LIMITED: &str = "FUSEWIRE_TEST_FILES_ARE_LIMITED";

/// Runs itself in a process that can make no file larger than 8 KiB: the write that passes this is cut short.
#[tokio::test]
async fn what_a_full_disk_took_of_an_append_is_cut_off() {
    if env::var_os(LIMITED).is_some() {
        return fill_the_disk().await;
    }
    let this = fs::read_link("/proc/self/exe").unwrap();
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::what_a_full_disk_took_of_an_append_is_cut_off");
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact \"$1\""])
        .args([this.as_os_str(), name.as_ref()])
        .env(LIMITED, "yes")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

async fn fill_the_disk() {
    let folder = Folder::new();
    let open = folder.open(SyncPolicy::Always);
    let mut written = Vec::new();
    for index in 0..1000 {
        let record = accepted(1, &format!("m-{index}"));
        match open.append(std::slice::from_ref(&record)).await {
            Ok(()) => written.push(record),
            Err(failed) => {
                assert!(failed.to_string().contains("too large"), "{failed}");
                break;
            }
        }
        assert_eq!(open.journal.bytes(), fs::metadata(folder.path()).unwrap().len());
    }
    assert!(open.journal.has_failed() && written.len() > 10);
    // Where the file ends depends on the id's length alone, and never where the limit is.
    assert_eq!(open.journal.bytes(), fs::metadata(folder.path()).unwrap().len());
    assert!(open.journal.bytes() < 8 << 10);
    open.close().await;
    assert_eq!(folder.open(SyncPolicy::Always).records, written);
}
