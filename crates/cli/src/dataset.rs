//! `sparknet dataset`

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use sparknet_data::{DatasetKind, build_dataset, remove_unfinished};
use sparknet_train::signals::clean_up_on_stop;

use crate::{Outcome, output};

/// Get a dataset and write it as train and test LMDBs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The dataset
    #[arg(value_parser = kinds())]
    name: DatasetKind,
    /// The folder to write to: <name>_train_lmdb and <name>_test_lmdb, for cifar10 mean.binaryproto too
    dir: PathBuf,
    /// A folder that has the raw files; without it they are looked for in DIR, then downloaded
    #[arg(long, value_name = "RAWDIR")]
    source: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  sparknet dataset fashion-mnist data
  sparknet dataset cifar10 data --source ~/Downloads

Fashion-MNIST is taken from Debian's package dataset-fashion-mnist where it is installed.";

fn kinds() -> impl TypedValueParser<Value = DatasetKind> {
    PossibleValuesParser::new(DatasetKind::ALL.map(DatasetKind::name)).try_map(|name| {
        DatasetKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or("there is no such dataset")
    })
}

pub fn dataset(args: &Args) -> Outcome {
    clean_up_on_stop(remove_unfinished)?;
    let report = build_dataset(args.name, &args.dir, args.source.as_deref(), &mut output::warn)?;
    let mut lines = vec![
        format!("{}: {} records", report.train.display(), report.train_records),
        format!("{}: {} records", report.test.display(), report.test_records),
    ];
    lines.extend(
        report
            .mean
            .map(|mean| format!("{}: mean of the training records", mean.display())),
    );
    Ok(output::print(&lines.join("\n"))?)
}
