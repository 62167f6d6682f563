//! Compiles `src/api/herald.proto` without needing protoc on the machine, and leaves its descriptors for reflection.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/api/herald.proto");
    let mut compiler = protox::Compiler::new(["src/api"])?;
    compiler.include_source_info(true);
    compiler.open_file("herald.proto")?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("herald.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
