//! Compiles `proto/caffe.proto` to Rust structs and to the descriptors that the text form is read with.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/caffe.proto");
    let files = protox::compile(["proto/caffe.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("caffe.descriptors"),
        protox::prost::Message::encode_to_vec(&files),
    )?;
    prost_build::Config::new().enable_type_names().compile_fds(files)?;
    Ok(())
}
