//! `sparknet mean`

use std::path::PathBuf;

use sparknet_data::{Backend, compute_mean};

use crate::{Outcome, output};

/// Compute the mean image of a dataset, for transform_param's mean_file
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The LMDB, LevelDB, IDX file or CIFAR-10 file
    db: PathBuf,
    /// The .binaryproto to write
    out: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  sparknet mean train_lmdb mean.binaryproto

It also prints the mean of each channel, for transform_param's mean_value.";

pub fn mean(args: &Args) -> Outcome {
    output::check_file(&args.out)?;
    output::check_apart(&[&args.out], &[&args.db])?;
    let report = compute_mean(&args.db, Backend::detect(&args.db)?, &args.out)?;
    let [channels, height, width] = report.shape;
    let mut lines = vec![format!(
        "{}: mean of {} records of shape ({channels}, {height}, {width})",
        args.out.display(),
        report.records
    )];
    for (channel, mean) in report.channel_means.iter().enumerate() {
        lines.push(format!("mean of channel {channel}: {mean}"));
    }
    Ok(output::print(&lines.join("\n"))?)
}
