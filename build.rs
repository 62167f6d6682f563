//! Compiles `src/api/herald.proto` without needing protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/api/herald.proto");
    let descriptors = protox::compile(["herald.proto"], ["src/api"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
