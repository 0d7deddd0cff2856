//! Generates the service stubs; the messages are `featureops_proto`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/featureops");
    let files =
        ["flag", "environment", "metric", "experiment", "evaluation", "facts", "decision", "administration"]
            .map(|name| format!("featureops/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["../proto"])?;
    tonic_prost_build::configure()
        .build_transport(true)
        .extern_path(".featureops.v1", "::featureops_proto::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
