//! `sparknet test`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use sparknet_train::{
    Error,
    evaluation::Evaluation,
    signals::{Control, SignalEffect},
    tester::TestResult,
    testing::{TestSettings, test as run_test},
};

use crate::{
    Outcome,
    args::{self, TrainedNetArgs},
    output,
    spark::{SparkArgs, source_of},
};

/// Longer than any batch takes: a worker waits for the others only once, at the end.
const SYNC_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Test trained weights on the net's test data, every record once
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    net: TrainedNetArgs,
    /// Workers that share the batches
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = args::few())]
    workers: usize,
    /// Threads of all workers together; one a core unless given
    #[arg(long, value_name = "T", value_parser = args::few())]
    threads: Option<usize>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the scores and the evaluation as JSON
    #[arg(long, value_name = "FILE")]
    evaluation_json: Option<PathBuf>,
    #[command(flatten)]
    spark: SparkArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet test --model models/lenet/net.prototxt --weights models/lenet/lenet_iter_2000.caffemodel
  sparknet test --model N --weights W --iterations 50 --workers 2
  sparknet test --model N --weights W --json
  sparknet test --model N --weights W --master local[2] --data images/";

/// What a test found, as JSON.
#[derive(Serialize)]
pub struct TestReport<'a> {
    records: u64,
    /// The mean over records of each output, by blob name.
    scores: &'a BTreeMap<String, f64>,
    evaluation: Option<&'a Evaluation>,
}

impl<'a> TestReport<'a> {
    pub fn new(result: &'a TestResult) -> Self {
        Self {
            records: result.records,
            scores: &result.scores,
            evaluation: result.evaluation.as_ref(),
        }
    }
}

pub fn test(args: &Args) -> Outcome {
    if let Some(path) = &args.evaluation_json {
        output::check_file(path)?;
        let inputs: Vec<&Path> = [&args.net.model]
            .into_iter()
            .chain(&args.net.weights)
            .map(PathBuf::as_path)
            .collect();
        output::check_apart(&[path], &inputs)?;
    }
    let result = match &args.spark.master {
        Some(master) => test_on_spark(args, master)?,
        None => test_here(args)?,
    };
    let report = TestReport::new(&result);
    if let Some(path) = &args.evaluation_json {
        output::write_text(path, &output::to_json(&report)?)?;
    }
    if args.json {
        output::print(&output::to_json(&report)?)?;
    } else {
        let mut lines = vec![scores(&result)];
        lines.extend(tables(std::slice::from_ref(&result)));
        output::print(&lines.join("\n\n"))?;
    }
    Ok(())
}

fn test_here(args: &Args) -> Result<TestResult, Error> {
    args.spark.check_unused()?;
    let settings = TestSettings {
        net: args.net.read()?,
        weights: args.net.weights.clone(),
        max_batches: args.net.iterations,
        workers: args.workers,
        threads: args.threads,
        sync_timeout: SYNC_TIMEOUT,
    };
    let outcome = run_test(&settings, &|records| {
        output::show_state(&format!("{records} records tested"))
    });
    output::show_state("");
    outcome
}

/// What `sparknet/spark/main.py` needs to test.
#[derive(Serialize)]
struct TestRequest<'a> {
    net: &'a Path,
    weights: &'a [PathBuf],
    stages: &'a [String],
    level: i32,
    /// Batches to test on; all rows where it is `None`.
    iterations: Option<u64>,
    threads_per_worker: usize,
    /// Tasks; 0 for as many as the data has parts.
    workers: usize,
}

fn test_on_spark(args: &Args, master: &str) -> Result<TestResult, Box<dyn std::error::Error>> {
    let stages = args.net.stages.stages();
    let data = match &args.spark.data {
        Some(data) => data.clone(),
        None => source_of(&args.net.read()?).ok_or_else(no_source)?,
    };
    let request = TestRequest {
        net: &args.net.model,
        weights: &args.net.weights,
        stages: &stages.stages,
        level: stages.level,
        iterations: args.net.iterations,
        threads_per_worker: args.threads.map_or(0, |threads| (threads / args.workers).max(1)),
        workers: if args.workers > 1 { args.workers } else { 0 },
    };
    let control = Control::default();
    control.listen(SignalEffect::Stop, SignalEffect::None)?;
    args.spark.run(master, "test", &data, request, &control, &mut |_| {})
}

/// A net that does not say where its data lies.
pub fn no_source() -> Error {
    Error::Usage("the net has no Data layer with a source: say with --data where the data lies".to_owned())
}

fn scores(result: &TestResult) -> String {
    let mut lines: Vec<String> = result
        .scores
        .iter()
        .map(|(name, score)| format!("{name} = {score:.4}"))
        .collect();
    lines.push(format!("{} records", result.records));
    lines.join("\n")
}

/// The evaluations that there are, as tables.
pub fn tables(results: &[TestResult]) -> Vec<String> {
    let mut tables = Vec::new();
    for (index, result) in results.iter().enumerate() {
        if let Some(evaluation) = &result.evaluation {
            let title = if results.len() > 1 {
                format!("test net {index}\n")
            } else {
                String::new()
            };
            tables.push(format!("{title}{}", evaluation.to_string().trim_end()));
        }
    }
    tables
}
