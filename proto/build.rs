//! Generates the messages (no services) from the .proto files, with ordered maps so that equal messages have equal bytes.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "featureops/v1/flag.proto",
        "featureops/v1/environment.proto",
        "featureops/v1/schedule.proto",
        "featureops/v1/metric.proto",
        "featureops/v1/experiment.proto",
        "featureops/v1/layer.proto",
        "featureops/v1/evaluation.proto",
        "featureops/v1/facts.proto",
        "featureops/v1/segment.proto",
        "featureops/v1/ledger.proto",
        "featureops/v1/decision.proto",
        "featureops/v1/administration.proto",
        "featureops/v1/token.proto",
        "featureops/v1/cluster.proto",
        "featureops/v1/backup.proto",
        "featureops/v1/upgrade.proto",
        "featureops/log/v1/ledger.proto",
        "featureops/log/v1/liveness.proto",
        "featureops/log/v1/log.proto",
        "featureops/log/v1/snapshot.proto",
    ];
    println!("cargo:rerun-if-changed=featureops");
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    // Shared by the copies of State that snapshots are written from.
    config.bytes([".featureops.log.v1.FlagHistoryRecord.versions"]);
    config.compile_fds(descriptors)?;

    // Apart from the others: nobody outside a cluster is told of it.
    let mut config = prost_build::Config::new();
    config.bytes([
        ".featureops.peer.v1.LogEntry.record",
        ".featureops.peer.v1.InstallRequest.piece",
        ".featureops.peer.v1.ForwardRequest.entry",
        ".featureops.peer.v1.IngestRequest.batches",
    ]);
    config.compile_fds(protox::compile(["featureops/peer/v1/peer.proto"], ["."])?)?;
    Ok(())
}
