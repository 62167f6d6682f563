//! Compiles the producers' part of `src/api/herald.proto`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../src/api/herald.proto");
    let descriptors = protox::compile(["herald.proto"], ["../src/api"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
