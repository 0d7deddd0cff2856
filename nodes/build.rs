//! Generates the service stubs. Our own messages are `featureops_proto`'s; flagd's are generated here, for only its fronts
//! speak them.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/featureops");
    println!("cargo:rerun-if-changed=../proto/flagd");
    let files = [
        "flag",
        "environment",
        "metric",
        "experiment",
        "layer",
        "evaluation",
        "facts",
        "decision",
        "administration",
        "token",
        "segment",
        "schedule",
        "ledger",
        "cluster",
        "backup",
        "upgrade",
    ]
    .map(|name| format!("featureops/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["../proto"])?;
    tonic_prost_build::configure()
        .build_transport(true)
        .extern_path(".featureops.v1", "::featureops_proto::v1")
        .compile_fds(descriptors)?;

    let files = ["evaluation/v1/evaluation", "evaluation/v2/evaluation", "sync/v1/sync"]
        .map(|name| format!("flagd/{name}.proto"));
    let mut compiler = protox::Compiler::new(["../proto"])?;
    compiler.include_imports(true).open_files(files)?;
    // For reflection.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("flagd.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(true)
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
