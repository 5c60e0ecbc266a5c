//! Compiles the contract in `proto/`, whose descriptors are kept for reflection, and the format of the journal file. Both
//! with protox, so that no protoc is needed.

use std::path::PathBuf;

type Error = Box<dyn std::error::Error>;

const SERVICES: [&str; 3] = [
    "fusewire/v1/circuit_breakers.proto",
    "fusewire/v1/conversation_threads.proto",
    "fusewire/v1/diagnostics.proto",
];

const JOURNAL: &str = "src/outage/file/journal.proto";

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={JOURNAL}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(SERVICES)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("fusewire.descriptors"), compiler.encode_file_descriptor_set())?;
    // Maps encode in key order, so that equal messages have equal bytes and digests.
    let messages = || tonic_prost_build::configure().btree_map(".").bytes(".");
    messages()
        // Clients of the tests bring their own channel, so that the server is built without one.
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    messages().compile_fds(protox::compile([JOURNAL], ["."])?)?;
    Ok(())
}
