//! Generates the stub of one service. Its messages are `featureops_proto`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/featureops");
    let descriptors = protox::compile(["featureops/v1/facts.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".featureops.v1", "::featureops_proto::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
