//! `sparknet train`

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::{Deserialize, Serialize};
use sparknet_proto::read_solver;
use sparknet_sync::HistoryPolicy;
use sparknet_train::{
    Error,
    checkpoint::{SnapshotFiles, check_prefix},
    events::{Event, Sink, Sinks},
    job::{Job, Stages},
    packed::{PackedJob, Text},
    run::{RunSettings, Sync, run},
    signals::{Control, SignalEffect},
    sinks::{JsonLines, LogFile, PlainLines, for_terminal},
    tester::TestResult,
    worker::WorkerResult,
};

use crate::{
    Outcome,
    args::{self, StageArgs, quoted, quoted_path},
    output,
    spark::{SparkArgs, only_on_spark, source_of},
    test::{TestReport, tables},
};

/// Train a net: from scratch, from a snapshot, or from the weights of another
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The solver's .prototxt, which names the net
    #[arg(long, value_name = "FILE")]
    solver: PathBuf,
    /// Resume from this .solverstate, with the --workers, --threads, --sync, --tau and --history of its run
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Fine-tune: take the weights of layers of the same name from these .caffemodel files
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    weights: Vec<PathBuf>,
    /// Workers, each with a replica of the net and its own records
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = args::few())]
    workers: usize,
    /// Threads of all workers together; one a core unless given
    #[arg(long, value_name = "T", value_parser = args::few())]
    threads: Option<usize>,
    /// How workers agree: on averaged weights every tau iterations (SparkNet), or on averaged gradients every iteration
    #[arg(long, value_name = "STRATEGY", value_enum, default_value_t = SyncArg::Average)]
    sync: SyncArg,
    /// Iterations that a worker trains alone before weights are averaged; 10 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tau: Option<u64>,
    /// What becomes of a worker's momentum when weights are averaged; keep unless given
    #[arg(long, value_name = "POLICY", value_parser = history_policies())]
    history: Option<HistoryPolicy>,
    /// Stop at this iteration instead of the solver's max_iter
    #[arg(long, value_name = "N", alias = "max_iter", value_parser = clap::value_parser!(u64).range(1..))]
    max_iter: Option<u64>,
    /// Go on when the loss is not a number any more
    #[arg(long)]
    allow_nan: bool,
    /// Write a log of lines `<seconds>, i = <iteration>: message`; a resumed run goes on with it
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write every event as a line of JSON; a resumed run goes on with them
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Write the evaluation after training as JSON
    #[arg(long, value_name = "FILE")]
    evaluation_json: Option<PathBuf>,
    /// What Ctrl-C and SIGTERM do; stop writes a snapshot first, and a second one stops at once
    #[arg(long, value_name = "EFFECT", alias = "sigint_effect", default_value = "stop", value_parser = effects())]
    sigint_effect: SignalEffect,
    /// What a hang-up (SIGHUP) does
    #[arg(long, value_name = "EFFECT", alias = "sighup_effect", default_value = "snapshot", value_parser = effects())]
    sighup_effect: SignalEffect,
    /// How long a worker waits for another before the run ends
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    sync_timeout: u64,
    /// Lines instead of a progress bar
    #[arg(long)]
    no_progress: bool,
    /// Show nothing while training
    #[arg(long, conflicts_with = "no_progress")]
    quiet: bool,
    /// Where the weights go on Spark; <snapshot_prefix>_iter_<N>.caffemodel unless given
    #[arg(long, value_name = "FILE", help_heading = "On Spark")]
    model: Option<PathBuf>,
    /// Data to test on; with --data none unless given
    #[arg(long, value_name = "PATH", help_heading = "On Spark")]
    test_data: Option<String>,
    /// As --data-list, for --test-data
    #[arg(long, value_name = "FILE", help_heading = "On Spark")]
    test_data_list: Option<String>,
    /// What workers send each other: all of a value, or half its bits
    #[arg(long, value_name = "FORM", value_parser = ["none", "f16"], default_value = "none", help_heading = "On Spark")]
    compress: String,
    #[command(flatten)]
    stages: StageArgs,
    #[command(flatten)]
    spark: SparkArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet train --solver models/lenet/solver.prototxt
  sparknet train --solver models/lenet/solver.prototxt --workers 2 --tau 10
  sparknet train --solver models/lenet/solver.prototxt --workers 2 --sync allreduce
  sparknet train --solver S --snapshot lenet_iter_500.solverstate      resume, with as many workers as before
  sparknet train --solver S --weights lenet_iter_2000.caffemodel       fine-tune
  sparknet train --solver S --log training.log --events events.jsonl
  sparknet train --solver S --master local[2] --data images/ --workers 2 --model out.caffemodel
  sparknet train --solver S --master yarn --data hdfs:///digits.parquet --workers 8 --spark-conf spark.executor.cores=1";

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum SyncArg {
    Average,
    Allreduce,
}

fn history_policies() -> impl TypedValueParser<Value = HistoryPolicy> {
    PossibleValuesParser::new(["keep", "average", "reset"]).try_map(|policy| policy.parse::<HistoryPolicy>())
}

fn effects() -> impl TypedValueParser<Value = SignalEffect> {
    PossibleValuesParser::new(["stop", "snapshot", "none"]).try_map(|effect| effect.parse::<SignalEffect>())
}

/// What `--evaluation-json` holds.
#[derive(Serialize)]
struct Report<'a> {
    iteration: u64,
    /// A report for each test net.
    tests: Vec<TestReport<'a>>,
}

pub fn train(args: &Args) -> Outcome {
    if let Some(master) = &args.spark.master {
        return train_on_spark(args, master);
    }
    check_unused(args)?;
    let sync = sync(args)?;
    let mut job = Job::read(&args.solver, &args.stages.stages())?;
    if let Some(max_iter) = args.max_iter {
        job.solver.max_iter = max_iter;
    }
    if let Some(path) = &args.evaluation_json {
        output::check_file(path)?;
    }
    check_outputs(args, &job)?;
    let mut sinks = sinks(args, job.solver.max_iter)?;
    let control = Control::default();
    control.listen(args.sigint_effect, args.sighup_effect)?;
    let settings = RunSettings {
        workers: args.workers,
        threads: args.threads,
        sync,
        snapshot: args.snapshot.clone(),
        weights: args.weights.clone(),
        allow_nan: args.allow_nan,
        sync_timeout: Duration::from_secs(args.sync_timeout),
        control,
        ..RunSettings::new(job)
    };
    let result = run(settings, &mut sinks)?;
    conclude(args, &result)
}

/// What `sparknet/spark/main.py` needs to train.
#[derive(Serialize)]
struct TrainRequest<'a> {
    solver: &'a Path,
    weights: &'a [PathBuf],
    snapshot: Option<&'a Path>,
    stages: &'a [String],
    level: i32,
    allow_nan: bool,
    workers: usize,
    /// 0 for a task's cpus.
    threads_per_worker: usize,
    sync: &'a str,
    tau: Option<u64>,
    history: Option<String>,
    compress: &'a str,
    max_iter: Option<u64>,
    sync_timeout_s: u64,
    test_data: Option<String>,
    test_data_list: Option<&'a str>,
    model: Option<&'a Path>,
    snapshot_prefix: PathBuf,
    /// 0 for none on the way.
    snapshot_interval: u64,
}

/// What a job on Spark came to.
#[derive(Deserialize)]
struct Trained {
    iteration: u64,
    stopped: bool,
    model: Option<PathBuf>,
    state: Option<PathBuf>,
    #[serde(default)]
    bad_rows: u64,
    first_bad: Option<String>,
}

fn train_on_spark(args: &Args, master: &str) -> Outcome {
    let sync = sync(args)?;
    let stages = args.stages.stages();
    let job = spark_job(args)?;
    let (data, test_data) = match &args.spark.data {
        Some(data) => (data.clone(), args.test_data.clone()),
        None => sources_of(args)?,
    };
    if let Some(path) = &args.evaluation_json {
        output::check_file(path)?;
    }
    match &args.model {
        Some(path) => output::check_file(path)?,
        None => check_prefix(&job.snapshot_prefix(), job.solver.max_iter, job.solver.snapshot_format)?,
    }
    check_outputs(args, &job)?;
    let mut sinks = sinks(args, job.solver.max_iter)?;
    let control = Control::default();
    control.listen(args.sigint_effect, args.sighup_effect)?;
    let request = TrainRequest {
        solver: &args.solver,
        weights: &args.weights,
        snapshot: args.snapshot.as_deref(),
        stages: &stages.stages,
        level: stages.level,
        allow_nan: args.allow_nan,
        workers: args.workers,
        threads_per_worker: args.threads.map_or(0, |threads| (threads / args.workers).max(1)),
        sync: if sync == Sync::AllReduce {
            "allreduce"
        } else {
            "average"
        },
        tau: args.tau,
        history: args.history.map(|history| history.to_string()),
        compress: &args.compress,
        max_iter: args.max_iter,
        sync_timeout_s: args.sync_timeout,
        test_data,
        test_data_list: args.test_data_list.as_deref(),
        model: args.model.as_deref(),
        snapshot_prefix: job.snapshot_prefix(),
        snapshot_interval: job.solver.snapshot,
    };
    let mut tests: BTreeMap<usize, TestResult> = BTreeMap::new();
    let mut on_event = |event: Event| {
        if let Event::Test(test) = &event {
            let result = TestResult {
                records: test.records,
                scores: test.scores.clone(),
                evaluation: test.evaluation.clone(),
            };
            tests.insert(test.net, result);
        }
        sinks.event(&event);
    };
    let trained: Trained = args
        .spark
        .run(master, "train", &data, request, &control, &mut on_event)?;
    // The bar goes before anything else is printed.
    drop(sinks);
    conclude_spark(args, &trained, &tests.into_values().collect::<Vec<_>>())
}

fn conclude_spark(args: &Args, trained: &Trained, tests: &[TestResult]) -> Outcome {
    let iteration = trained.iteration;
    if let Some(path) = &args.evaluation_json {
        let tests = tests.iter().map(TestReport::new).collect();
        output::write_text(path, &output::to_json(&Report { iteration, tests })?)?;
    }
    if trained.bad_rows > 0 {
        let first = trained.first_bad.as_deref().unwrap_or("unknown");
        output::warn(&format!("left out {} bad rows; the first: {first}", trained.bad_rows));
    }
    let mut lines = tables(tests);
    let files = trained.model.clone().zip(trained.state.clone());
    let files = files.map(|(model, state)| SnapshotFiles { model, state });
    if trained.stopped {
        lines.push(resume_hint(args, iteration, files.as_ref()));
    } else if let Some(files) = &files {
        lines.push(files_hint(files));
    }
    Ok(output::print(&lines.join("\n\n"))?)
}

/// Flags that are for Spark alone.
fn check_unused(args: &Args) -> Result<(), Error> {
    args.spark.check_unused()?;
    let given = [
        ("--model", args.model.is_some()),
        ("--test-data", args.test_data.is_some()),
        ("--test-data-list", args.test_data_list.is_some()),
        ("--compress", args.compress != "none"),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(only_on_spark(flag)),
        None => Ok(()),
    }
}

/// The job with its data layers fed by rows: what is wrong with it is said before Spark starts.
fn spark_job(args: &Args) -> Result<Job, Error> {
    let text = fs::read_to_string(&args.solver).map_err(|cause| Error::Path {
        path: args.solver.clone(),
        fact: format!("cannot be read: {cause}"),
    })?;
    let solver = Text {
        text,
        name: args.solver.display().to_string(),
        folder: args.solver.parent().map(Path::to_path_buf).unwrap_or_default(),
    };
    let max_iter = args.max_iter.map(|max_iter| format!("max_iter: {max_iter} "));
    let overrides = max_iter.unwrap_or_default() + &args.stages.train_state();
    let packed = PackedJob::pack(&solver, None, &overrides, args.test_data.is_some())?;
    let mut message = packed.solver;
    message.snapshot_prefix = read_solver(&args.solver)?.snapshot_prefix;
    Job::from_message(&message, &args.solver, &Stages::default())
}

/// What the data layers of the train net and of the test net name.
fn sources_of(args: &Args) -> Result<(String, Option<String>), Error> {
    let job = Job::read(&args.solver, &args.stages.stages())?;
    let Some(data) = source_of(&job.train) else {
        return Err(Error::Usage(
            "the train net has no Data layer with a source: say with --data where the data lies".to_owned(),
        ));
    };
    let test = args.test_data.clone();
    Ok((
        data,
        test.or_else(|| job.tests.first().and_then(|(net, _)| source_of(net))),
    ))
}

fn check_outputs(args: &Args, job: &Job) -> Result<(), Error> {
    let outputs = [&args.log, &args.events, &args.evaluation_json, &args.model];
    let outputs: Vec<&Path> = outputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let inputs = [&args.solver].into_iter().chain(&args.snapshot).chain(&args.weights);
    let inputs: Vec<&Path> = inputs.chain(&job.net_paths).map(PathBuf::as_path).collect();
    output::check_apart(&outputs, &inputs)
}

fn sync(args: &Args) -> Result<Sync, Error> {
    let has_average_flags = args.tau.is_some() || args.history.is_some();
    match args.sync {
        SyncArg::Average => Ok(Sync::Average {
            tau: args.tau.unwrap_or(10),
            history: args.history.unwrap_or_default(),
        }),
        SyncArg::Allreduce if has_average_flags => Err(Error::Usage(
            "--tau and --history go with --sync average: with allreduce workers agree every iteration, so leave them out"
                .to_owned(),
        )),
        SyncArg::Allreduce => Ok(Sync::AllReduce),
    }
}

fn sinks(args: &Args, max_iter: u64) -> Result<Sinks, Box<dyn std::error::Error>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let resumes = args.snapshot.is_some();
    if args.no_progress {
        sinks.push(Box::new(PlainLines::stdout()));
    } else if !args.quiet {
        sinks.push(for_terminal(max_iter));
    }
    if let Some(path) = &args.log {
        sinks.push(Box::new(LogFile::create(path, resumes)?));
    }
    if let Some(path) = &args.events {
        sinks.push(Box::new(JsonLines::create(path, resumes)?));
    }
    Ok(Sinks::new(sinks))
}

fn conclude(args: &Args, result: &WorkerResult) -> Outcome {
    if let Some(path) = &args.evaluation_json {
        let tests = result.tests.iter().map(TestReport::new).collect();
        output::write_text(
            path,
            &output::to_json(&Report {
                iteration: result.iteration,
                tests,
            })?,
        )?;
    }
    let mut lines = tables(&result.tests);
    if result.stopped {
        lines.push(resume_hint(args, result.iteration, result.snapshot.as_ref()));
    } else if let Some(files) = &result.snapshot {
        lines.push(files_hint(files));
    }
    if !lines.is_empty() {
        output::print(&lines.join("\n\n"))?;
    }
    Ok(())
}

fn files_hint(files: &SnapshotFiles) -> String {
    let (model, state) = (files.model.display(), files.state.display());
    format!("weights: {model}, to resume: {state}")
}

/// How to take up a run that was stopped.
fn resume_hint(args: &Args, iteration: u64, files: Option<&SnapshotFiles>) -> String {
    let Some(files) = files else {
        return format!("stopped after {iteration} iterations without a snapshot");
    };
    let mut words = vec![
        "sparknet train".to_owned(),
        format!("--solver {}", quoted_path(&args.solver)),
        format!("--snapshot {}", quoted_path(&files.state)),
    ];
    if args.workers > 1 {
        words.push(format!("--workers {}", args.workers));
    }
    if let Some(threads) = args.threads {
        words.push(format!("--threads {threads}"));
    }
    if args.sync == SyncArg::Allreduce {
        words.push("--sync allreduce".to_owned());
    }
    if let Some(tau) = args.tau {
        words.push(format!("--tau {tau}"));
    }
    match args.history {
        Some(HistoryPolicy::Average) => words.push("--history average".to_owned()),
        Some(HistoryPolicy::Reset) => words.push("--history reset".to_owned()),
        Some(HistoryPolicy::Keep) | None => {}
    }
    if let Some(max_iter) = args.max_iter {
        words.push(format!("--max-iter {max_iter}"));
    }
    words.extend(args.stages.flags());
    if args.allow_nan {
        words.push("--allow-nan".to_owned());
    }
    words.extend(args.log.iter().map(|path| format!("--log {}", quoted_path(path))));
    words.extend(args.events.iter().map(|path| format!("--events {}", quoted_path(path))));
    words.extend(args.model.iter().map(|path| format!("--model {}", quoted_path(path))));
    let of_tests = [
        ("--test-data", &args.test_data),
        ("--test-data-list", &args.test_data_list),
    ];
    words.extend(
        of_tests
            .iter()
            .filter_map(|(flag, value)| value.as_ref().map(|value| format!("{flag} {}", quoted(value)))),
    );
    words.extend(args.spark.flags());
    format!("stopped after {iteration} iterations; to go on: {}", words.join(" "))
}
