//! Compiles the contract in `proto/` with protox, so that no protoc is needed, and keeps its descriptors for reflection.

use std::path::PathBuf;

type Error = Box<dyn std::error::Error>;

const SERVICES: [&str; 3] = [
    "fusewire/v1/circuit_breakers.proto",
    "fusewire/v1/conversation_threads.proto",
    "fusewire/v1/diagnostics.proto",
];

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(SERVICES)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("fusewire.descriptors"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Clients of the tests bring their own channel, so that the server is built without one.
        .build_transport(false)
        // Maps encode in key order, so that equal messages have equal bytes and digests.
        .btree_map(".")
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
