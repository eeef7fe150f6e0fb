//! `sparknet train`

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;
use sparknet_sync::HistoryPolicy;
use sparknet_train::{
    Error,
    events::{Sink, Sinks},
    job::Job,
    run::{RunSettings, Sync, run},
    signals::{Control, SignalEffect},
    sinks::{JsonLines, LogFile, PlainLines, for_terminal},
    worker::WorkerResult,
};

use crate::{
    Outcome,
    args::{self, StageArgs, quoted_path},
    output,
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
    #[command(flatten)]
    stages: StageArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet train --solver models/lenet/solver.prototxt
  sparknet train --solver models/lenet/solver.prototxt --workers 2 --tau 10
  sparknet train --solver models/lenet/solver.prototxt --workers 2 --sync allreduce
  sparknet train --solver S --snapshot lenet_iter_500.solverstate      resume, with as many workers as before
  sparknet train --solver S --weights lenet_iter_2000.caffemodel       fine-tune
  sparknet train --solver S --log training.log --events events.jsonl";

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

fn check_outputs(args: &Args, job: &Job) -> Result<(), Error> {
    let outputs = [&args.log, &args.events, &args.evaluation_json];
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
        lines.push(resume_hint(args, result));
    } else if let Some(files) = &result.snapshot {
        lines.push(format!(
            "weights: {}, to resume: {}",
            files.model.display(),
            files.state.display()
        ));
    }
    if !lines.is_empty() {
        output::print(&lines.join("\n\n"))?;
    }
    Ok(())
}

/// How to take up a run that was stopped.
fn resume_hint(args: &Args, result: &WorkerResult) -> String {
    let iteration = result.iteration;
    let Some(files) = &result.snapshot else {
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
    format!("stopped after {iteration} iterations; to go on: {}", words.join(" "))
}
