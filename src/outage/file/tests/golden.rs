//! Every record comes back as it was, with the bytes that other releases read and write.

use super::*;
use crate::outage::file::{encoding, format};

/// How release 0.1.0 encodes each record of [`every_kind`], as an append of its own.
const ENCODED: [&str; 8] = [
    "0a1d0a1b12190a170a017412052080bab7031a076c6f63616c2d3158016002",
    "0a9f010a9c0108ffffffffffffffffff01128c010a82010a03742f3112410a097465616d3a626c756512154772c3bcc39f652c20e4b896e7\
     958c20f09fa680001a041202c3bc1a060a016112013120e9072801300538ffffffffffffffff7f1a02ceb5201128043005380940644\
     8ffffffffffffffff7f520a0a06706172656e74100358ffffffffffffffffff016081d095ffbc316800700110011a03722d311801",
    "0a61125f08ffffffffffffffffff0112520a310a036d2d311005180120ffffffff0f28ffffffff0f32130801120463616c6c1a09e38384e3\
     83bce383ab32003a0300fffe1210000102030405060708090a0b0c0d0e0f18808080808080808080012001",
    "0ac10112be01\
     12240a090a016d10012003280c12100707070707070707070707070707070718fbd095ffbc31\
     12240a090a016d10022003280c12100707070707070707070707070707070718fbd095ffbc31\
     12240a090a016d10032003280c12100707070707070707070707070707070718fbd095ffbc31\
     12240a090a016d10042003280c12100707070707070707070707070707070718fbd095ffbc31\
     12240a090a016d10052003280c12100707070707070707070707070707070718fbd095ffbc31",
    "0a021200",
    "0a021a00",
    "0a081a061080d8c4bd75",
    "0a022200",
];

/// One record of every kind, with all that is optional and without.
fn every_kind() -> Vec<Record> {
    let origin = Origin {
        thread: full_thread("t/1"),
        any_owner: true,
        created_by: Some(RequestId::parse("request_id", "r-1").unwrap()),
    };
    let tool = ToolRef { is_result: true, call_id: "call".into(), name: "ツール".into() };
    let full = PendingMessage {
        message: Arc::new(Message {
            role: Role::Tool,
            in_progress: true,
            tokens: u32::MAX,
            size: u32::MAX,
            tools: vec![tool, ToolRef { is_result: false, call_id: String::new(), name: String::new() }],
            ..message("m-1", Bytes::from_static(b"\0\xff\xfe"))
        }),
        digest: Digest(std::array::from_fn(|index| u8::try_from(index).unwrap())),
        time: Timestamp::from_millis(i64::MIN),
        is_repair: true,
    };
    let of_role = |role| PendingMessage {
        message: Arc::new(Message { role, ..message("m", Bytes::new()) }),
        ..entry("m", Bytes::new())
    };
    let roles = [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool];
    vec![
        began(0),
        Record::Began { batch: BatchId(u64::MAX), origin: Arc::new(origin), creates: true },
        Record::Accepted { batch: BatchId(u64::MAX), entries: vec![full] },
        Record::Accepted { batch: BatchId(0), entries: roles.map(of_role).into() },
        Record::Accepted { batch: BatchId(0), entries: Vec::new() },
        Record::Touched { batch: BatchId(0), ttl: None },
        Record::Touched {
            batch: BatchId(0),
            ttl: Some(Ttl::new("ttl", Duration::from_hours(365 * 24)).unwrap()),
        },
        Record::Settled { batch: BatchId(0) },
    ]
}

fn hex(bytes: Vec<u8>) -> String {
    format!("{:x}", Bytes::from(bytes))
}

#[tokio::test]
async fn every_record_comes_back_as_it_was() {
    for policy in [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never] {
        let folder = Folder::new();
        let open = folder.open(policy);
        assert_eq!(open.records, []);
        open.append(&every_kind()).await.unwrap();
        open.close().await;

        let open = folder.open(policy);
        assert_eq!(open.records, every_kind());
        open.replace(&every_kind()[1..]).await.unwrap();
        open.append(&every_kind()[..1]).await.unwrap();
        open.close().await;

        let open = folder.open(policy);
        assert_eq!(open.records, [&every_kind()[1..], &every_kind()[..1]].concat());
    }
}

#[test]
fn every_record_has_the_bytes_of_release_0_1_0() {
    let encoded = every_kind().into_iter().map(|record| hex(encoding::encode(&[record])));
    assert_eq!(encoded.collect::<Vec<_>>(), ENCODED);
}

#[test]
fn the_records_of_one_append_follow_each_other() {
    let together = encoding::encode(&every_kind());
    assert_eq!(hex(together), ENCODED.concat());
}

/// A process of release 0.1.0 wrote the file.
#[test]
fn a_file_of_release_0_1_0_is_written_again_as_it_was() {
    let file = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journal-0.1.0")).unwrap();
    let marker = format::read_header(&file).unwrap().unwrap();
    let mut written = format::header(marker);
    for (_, payload) in format::find_frames(&file, marker).whole {
        let records = encoding::decode(payload).unwrap();
        format::put_frame(&mut written, marker, &encoding::encode(&records)).unwrap();
    }
    assert_eq!(written, file);
}
