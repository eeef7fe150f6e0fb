//! `sparknet extract-features`

use std::path::{Path, PathBuf};

use sparknet_train::{
    Error,
    features::{self, FeatureSettings},
};

use crate::{
    Outcome,
    args::{self, TrainedNetArgs},
    output,
};

/// Write what blobs of a trained net hold for each record of its data, as LMDBs of float Datums
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    net: TrainedNetArgs,
    /// The blobs
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    blobs: Vec<String>,
    /// The LMDBs to write, one a blob
    #[arg(long, value_name = "FOLDERS", value_delimiter = ',', required = true)]
    out: Vec<PathBuf>,
    /// Threads; one a core unless given
    #[arg(long, value_name = "T", value_parser = args::few())]
    threads: Option<usize>,
}

const EXAMPLES: &str = "\
Examples:
  sparknet extract-features --model models/lenet/net.prototxt --weights models/lenet/lenet_iter_2000.caffemodel --blobs ip1 --out ip1_lmdb
  sparknet extract-features --model N --weights W --blobs conv2,ip1 --out conv2_lmdb,ip1_lmdb --iterations 10

Keys are the records' places in ten digits; a Datum has the blob's channels, height and width, and no label. A later
net reads such an LMDB by a Data layer.";

pub fn extract_features(args: &Args) -> Outcome {
    let (blobs, folders) = (args.blobs.len(), args.out.len());
    if blobs != folders {
        return Err(Error::Usage(format!(
            "--blobs has {blobs} names and --out {folders} folders: give one folder a blob"
        ))
        .into());
    }
    let outputs: Vec<&Path> = args.out.iter().map(PathBuf::as_path).collect();
    output::check_apart(&outputs, &[&args.net.model])?;
    let settings = FeatureSettings {
        net: args.net.read()?,
        weights: args.net.weights.clone(),
        blobs: args.blobs.iter().cloned().zip(args.out.iter().cloned()).collect(),
        max_batches: args.net.iterations,
        threads: args.threads,
    };
    let outcome = features::extract_features(&settings, &mut |records| {
        output::show_state(&format!("{records} records"));
    });
    output::show_state("");
    let records = outcome?;
    let written: Vec<String> = settings
        .blobs
        .iter()
        .map(|(blob, path)| format!("{blob}: {} ({records} records)", path.display()))
        .collect();
    Ok(output::print(&written.join("\n"))?)
}
