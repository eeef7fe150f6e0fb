//! `sparknet features`

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sparknet_engine::Phase;
use sparknet_train::{
    job::NetSource,
    signals::{Control, SignalEffect},
};

use crate::{
    Outcome,
    args::StageArgs,
    output,
    spark::{SparkArgs, source_of},
    test::no_source,
};

/// The Spark that a machine has to itself.
const THIS_MACHINE: &str = "local[*]";

/// Write what blobs of a trained net hold for each record, on Spark
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The net's .prototxt; its layers of phase TEST are taken
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The weights, from one or several .caffemodel files
    #[arg(long, value_name = "FILES", value_delimiter = ',', required = true)]
    weights: Vec<PathBuf>,
    /// The blobs
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    blobs: Vec<String>,
    /// The folder to write, which does not exist yet
    #[arg(long, value_name = "PATH")]
    output: String,
    /// What to write; a record has SampleID and a column a blob
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "parquet"], default_value = "json")]
    format: String,
    #[command(flatten)]
    stages: StageArgs,
    #[command(flatten)]
    spark: SparkArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet features --model N --weights W --blobs ip1 --output features
  sparknet features --model N --weights W --blobs ip1,ip2 --data images/ --master local[2] --output f --format parquet

Without --master, a Spark on all cores of this machine does it.";

/// What `sparknet/spark/main.py` needs to write features.
#[derive(Serialize)]
struct FeaturesRequest<'a> {
    net: &'a Path,
    weights: &'a [PathBuf],
    stages: &'a [String],
    level: i32,
    blobs: &'a [String],
    output: &'a str,
    format: &'a str,
    threads_per_worker: usize,
}

#[derive(Deserialize)]
struct Written {
    records: u64,
    output: String,
}

pub fn features(args: &Args) -> Outcome {
    let stages = args.stages.stages();
    let data = match &args.spark.data {
        Some(data) => data.clone(),
        None => source_of(&NetSource::read(&args.model, Phase::Test, &stages)?).ok_or_else(no_source)?,
    };
    let request = FeaturesRequest {
        net: &args.model,
        weights: &args.weights,
        stages: &stages.stages,
        level: stages.level,
        blobs: &args.blobs,
        output: &args.output,
        format: &args.format,
        threads_per_worker: 0,
    };
    let control = Control::default();
    control.listen(SignalEffect::Stop, SignalEffect::None)?;
    let master = args.spark.master.as_deref().unwrap_or(THIS_MACHINE);
    let written: Written = args
        .spark
        .run(master, "features", &data, request, &control, &mut |_| {})?;
    Ok(output::print(&format!(
        "{}: {} records",
        written.output, written.records
    ))?)
}
