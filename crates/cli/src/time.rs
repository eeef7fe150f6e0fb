//! `sparknet time`

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;
use sparknet_engine::Phase;
use sparknet_train::{
    job::NetSource,
    time::{Costs, TimeSettings, Timing, time as run_time},
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
    let row = |name: &str, type_name: &str, costs: &Costs| {
        let gflops = format!("{:.0}", costs.gflops);
        [
            name.to_owned(),
            type_name.to_owned(),
            format!("{:.3}", costs.forward_ms),
            format!("{:.3}", costs.backward_ms),
            format!("{:.3}", costs.update_ms),
            if costs.gflop > 0.0 { gflops } else { String::new() },
        ]
    };
    let layers = timing.layers.iter();
    rows.extend(layers.map(|layer| row(&layer.name, layer.type_name, &layer.costs)));
    rows.push(row("all", "", &timing.costs));
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
        costs,
        ..
    } = timing;
    let Costs {
        step_ms,
        images_per_s,
        gflop,
        ..
    } = costs;
    lines.push(format!(
        "{net}, batch {batch}, {threads} threads, median of {iterations}: {step_ms:.3} ms a step, \
         {images_per_s:.0} images/s, {gflop:.3} GFLOP a step"
    ));
    lines.join("\n")
}
