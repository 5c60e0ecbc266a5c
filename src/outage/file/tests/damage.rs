//! Files that are cut short or changed: what is read is what was written, and what is missing is noticed.

use bytes::Bytes;

use super::*;
use crate::outage::file::{encoding, format};

/// Small appends, one of them of two records.
fn appends() -> Vec<Vec<Record>> {
    vec![
        vec![Record::Touched { batch: BatchId(1), ttl: None }],
        vec![accepted(1, "m-1"), settled(1)],
        vec![Record::Touched {
            batch: BatchId(2),
            ttl: Some(Ttl::new("ttl", Duration::from_secs(9)).unwrap()),
        }],
        vec![settled(2)],
    ]
}

/// Everything that is whole in a file, and whether everything is.
fn whole(file: &[u8]) -> Option<(Vec<Record>, bool)> {
    let marker = format::read_header(file).ok()??;
    let frames = format::find_frames(file, marker);
    let records = frames.whole.iter().flat_map(|(_, payload)| encoding::decode(payload).unwrap()).collect();
    Some((records, frames.damaged.is_empty() && frames.end == file.len()))
}

fn is_subsequence(found: &[Record], of: &[Record]) -> bool {
    let mut rest = of.iter();
    found.iter().all(|record| rest.any(|other| other == record))
}

#[tokio::test]
async fn a_file_cut_anywhere_holds_the_appends_before_the_cut() {
    let folder = Folder::new();
    let file = folder.hold(&appends()).await;
    let mut most = 0;
    for length in 0..=file.len() {
        let found = folder.open_bytes(&file[..length]).unwrap();
        let records = found.records.clone();
        let held = (0..=4).find(|count| appends()[..*count].concat() == records);
        let held = held.unwrap_or_else(|| panic!("cut at {length}: {records:?}"));
        assert!(held >= most, "cut at {length}: fewer than before");
        most = held;
        assert_eq!(folder.kept(), None);
        drop(found);
        // Cut off once and for all.
        assert_eq!(folder.open(SyncPolicy::Never).records, records);
    }
    assert_eq!(most, 4);
}

#[tokio::test]
async fn appends_go_on_behind_a_torn_end() {
    let folder = Folder::new();
    let file = folder.hold(&appends()).await;
    let garbage: Vec<u8> =
        (0..5000_u32).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for tail in [&[0; 1][..], &[0; 5000], &file[24..40], &garbage] {
        fs::write(folder.path(), [&file, tail].concat()).unwrap();
        let open = folder.recover(SyncPolicy::Always);
        assert_eq!((fs::read(folder.path()).unwrap(), folder.kept()), (file.clone(), None));
        assert_eq!(open.records, appends().concat());
        open.append(&[settled(3)]).await.unwrap();
        open.close().await;
        assert_eq!(folder.open(SyncPolicy::Always).records, [appends().concat(), vec![settled(3)]].concat());
    }
}

#[tokio::test]
async fn no_changed_bit_goes_unnoticed_or_makes_another_record() {
    let file = Folder::new().hold(&appends()).await;
    assert_eq!(whole(&file), Some((appends().concat(), true)));
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            if let Some((records, is_whole)) = whole(&changed) {
                assert!(at >= format::HEADER, "byte {at}, bit {bit}: the header is not checked");
                assert!(!is_whole, "byte {at}, bit {bit}: not noticed");
                assert!(is_subsequence(&records, &appends().concat()), "byte {at}, bit {bit}: {records:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_changed_byte_stops_the_start_or_costs_one_append_and_is_kept() {
    let begun = [vec![vec![began(1), began(2)]], appends()].concat();
    let file = Folder::new().hold(&begun).await;
    let last = whole(&file[..file.len() - 1]).unwrap().0.len();
    for at in (0..file.len()).step_by(3) {
        let folder = Folder::new();
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        let found = match folder.open_bytes(&changed) {
            Ok(found) => found,
            Err(_) if at < format::HEADER => {
                assert_eq!(fs::read(folder.path()).unwrap(), changed);
                continue;
            }
            Err(other) => panic!("byte {at}: {other}"),
        };
        assert!(is_subsequence(&found.records, &begun.concat()));
        if let Some(kept) = folder.kept() {
            assert_eq!(fs::read(kept).unwrap(), changed);
        } else {
            assert!(changed.starts_with(&fs::read(folder.path()).unwrap()));
            assert_eq!(found.records.len(), last);
        }
        let records = found.records;
        drop(found.journal);
        assert_eq!(folder.open(SyncPolicy::Never).records, records);
    }
}

#[tokio::test]
async fn whole_appends_behind_damage_are_kept() {
    let folder = Folder::new();
    let appends =
        [vec![began(1)], vec![accepted(1, "m-1")], vec![accepted(1, "m-2")], vec![accepted(1, "m-3")]];
    let file = folder.hold(&appends).await;
    let second = file.windows(3).position(|window| window == b"m-1").unwrap();
    let mut changed = file.clone();
    changed[second] = b'x';
    let found = folder.open_bytes(&changed).unwrap();
    assert_eq!(found.records, [began(1), accepted(1, "m-2"), accepted(1, "m-3")]);
    let kept = folder.kept().unwrap();
    assert!(kept.to_str().unwrap().starts_with(&format!("{}.damaged-", folder.path().display())));
    assert_eq!(fs::read(kept).unwrap(), changed);
}

#[tokio::test]
async fn zeros_in_the_middle_are_damage() {
    let folder = Folder::new();
    let file = folder.hold(&[vec![began(1)], vec![accepted(1, "m-1")]]).await;
    let hole = [&file[..format::HEADER], &[0; 4096], &file[format::HEADER..]].concat();
    let found = folder.open_bytes(&hole).unwrap();
    assert_eq!(found.records, [began(1), accepted(1, "m-1")]);
    assert!(folder.kept().is_some());
}

#[tokio::test]
async fn what_is_left_of_a_run_without_its_beginning_is_only_kept_aside() {
    let folder = Folder::new();
    let appends = [vec![began(1)], vec![began(2)], vec![accepted(1, "m-1")], vec![accepted(2, "m-2")]];
    let mut file = folder.hold(&appends).await;
    file[format::HEADER + 20] ^= 1;
    let found = folder.open_bytes(&file).unwrap();
    assert_eq!(found.records, [began(2), accepted(2, "m-2")]);
    assert!(folder.kept().is_some());
}

#[tokio::test]
async fn a_message_that_holds_a_journal_is_not_read_as_one() {
    let inner = Folder::new().hold(&[vec![began(7)], vec![accepted(7, "evil")]]).await;
    let holds = Record::Accepted { batch: BatchId(1), entries: vec![entry("m", Bytes::from(inner))] };
    let folder = Folder::new();
    let file = folder.hold(&[vec![began(1)], vec![holds], vec![accepted(1, "m-2")]]).await;
    // Damage in front of it: a reader that looks for the next record looks into the message.
    let at = file.windows(8).rposition(|window| window == b"FUSEJRNL").unwrap();
    let mut changed = file.clone();
    changed[at - 1] ^= 1;
    let found = folder.open_bytes(&changed).unwrap();
    assert_eq!(found.records, [began(1), accepted(1, "m-2")]);
}
