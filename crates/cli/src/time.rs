//! `sparknet time`

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;
use sparknet_engine::Phase;
use sparknet_train::{
    job::NetSource,
    time::{TimeSettings, Timing, time as run_time},
};

use crate::{
    Outcome,
    args::{self, StageArgs},
    output,
};

/// Time a net's layers on random data: forward, backward and update
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The net's .prototxt
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Train: whole steps. Test: the forward pass alone
    #[arg(long, value_enum, default_value_t = PhaseArg::Train)]
    phase: PhaseArg,
    /// Threads; one a core unless given
    #[arg(long, value_name = "T", value_parser = args::few())]
    threads: Option<usize>,
    /// Steps to take the median of; two more before them warm up
    #[arg(long, value_name = "I", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    iterations: u64,
    /// Records a batch, instead of the net's
    #[arg(long, value_name = "N", value_parser = args::count())]
    batch: Option<usize>,
    /// Shape of the records of Data layers, instead of their data's
    #[arg(long, value_name = "C,H,W")]
    input_shape: Option<RecordShape>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stages: StageArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet time --model models/lenet/net.prototxt
  sparknet time --model models/caffenet/net.prototxt --batch 32 --threads 2 --json
  sparknet time --model N --phase test --input-shape 3,32,32

Times are medians. The arithmetic counts two operations for each multiply-add of Convolution and InnerProduct layers,
forward and backward. Layers share the time of the update by the number of their parameters.";

#[derive(Clone, Copy, ValueEnum)]
enum PhaseArg {
    Train,
    Test,
}

/// A record's shape (c, h, w).
#[derive(Clone, Copy)]
struct RecordShape([usize; 3]);

impl FromStr for RecordShape {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let extents: Vec<u32> = given
            .split(',')
            .filter_map(|extent| extent.trim().parse().ok())
            .collect();
        match extents[..] {
            [channels, height, width] if given.split(',').count() == 3 && !extents.contains(&0) => {
                Ok(Self([channels, height, width].map(|extent| extent as usize)))
            }
            _ => Err("give channels, height and width, such as 3,227,227".to_owned()),
        }
    }
}

pub fn time(args: &Args) -> Outcome {
    let phase = match args.phase {
        PhaseArg::Train => Phase::Train,
        PhaseArg::Test => Phase::Test,
    };
    let timing = run_time(&TimeSettings {
        net: NetSource::read(&args.model, phase, &args.stages.stages())?,
        threads: args.threads,
        iterations: args.iterations,
        batch: args.batch,
        input_shape: args.input_shape.map(|shape| shape.0),
    })?;
    let text = if args.json {
        output::to_json(&timing)?
    } else {
        table(&timing)
    };
    Ok(output::print(&text)?)
}

fn table(timing: &Timing) -> String {
    let mut rows = vec![["layer", "type", "forward ms", "backward ms", "update ms", "GFLOP/s"].map(str::to_owned)];
    for layer in &timing.layers {
        rows.push([
            layer.name.clone(),
            layer.type_name.to_owned(),
            format!("{:.3}", layer.forward_ms),
            format!("{:.3}", layer.backward_ms),
            format!("{:.3}", layer.update_ms),
            if layer.gflop > 0.0 {
                format!("{:.0}", layer.gflops)
            } else {
                String::new()
            },
        ]);
    }
    rows.push([
        "all".to_owned(),
        String::new(),
        format!("{:.3}", timing.forward_ms),
        format!("{:.3}", timing.backward_ms),
        format!("{:.3}", timing.update_ms),
        format!("{:.0}", timing.gflops),
    ]);
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|[name, type_name, numbers @ ..]| {
            let mut line = format!("{name:<0$}  {type_name:<1$}", widths[0], widths[1]);
            for (number, width) in numbers.iter().zip(&widths[2..]) {
                line += &format!("  {number:>width$}");
            }
            line.trim_end().to_owned()
        })
        .collect();
    let Timing {
        net,
        batch,
        threads,
        iterations,
        step_ms,
        images_per_s,
        gflop,
        ..
    } = timing;
    lines.push(format!(
        "{net}, batch {batch}, {threads} threads, median of {iterations}: {step_ms:.3} ms a step, \
         {images_per_s:.0} images/s, {gflop:.3} GFLOP a step"
    ));
    lines.join("\n")
}
