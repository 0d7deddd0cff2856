//! Generates the stubs of the peer service; its messages are `featureops_proto`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/featureops/peer");
    let descriptors = protox::compile(["featureops/peer/v1/peer.proto"], ["../proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".featureops.peer.v1", "::featureops_proto::peer")
        .compile_fds(descriptors)?;
    Ok(())
}
