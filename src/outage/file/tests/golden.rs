//! The bytes of the file that other releases read and write.

use super::*;
use crate::outage::file::encoding;

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

fn hex(bytes: Vec<u8>) -> String {
    format!("{:x}", Bytes::from(bytes))
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
