//! Compiles `proto/` with a protobuf compiler written in Rust: a fresh machine needs no `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["proto/client.proto", "proto/peer.proto", "proto/admin.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let mut config = prost_build::Config::new();
    // Payloads share the receive buffer instead of being copied out of it.
    config.bytes(["."]);
    tonic_prost_build::configure().emit_rerun_if_changed(false).compile_fds_with_config(descriptors, config)?;
    Ok(())
}
