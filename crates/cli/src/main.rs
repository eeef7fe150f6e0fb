//! The `sparknet` command: one module a command. Each reads what the user wrote, does its work and prints its result;
//! what goes wrong is one sentence on stderr and exit code 1.

mod args;
mod convert;
mod dataset;
mod device;
mod draw;
mod extract_features;
mod features;
mod mean;
mod output;
mod spark;
mod test;
mod time;
mod train;
mod upgrade;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};
use sparknet_engine::kernels::{Simd, winograd};

/// Trains and tests Caffe's nets, with several workers that average their weights.
#[derive(Parser)]
#[command(name = "sparknet", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sparknet dataset fashion-mnist data
  sparknet train --solver models/lenet/solver.prototxt --workers 2 --tau 10
  sparknet test --model models/lenet/net.prototxt --weights models/lenet/lenet_iter_2000.caffemodel

`sparknet COMMAND --help` shows the flags of a command and examples.";

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Test(test::Args),
    Features(features::Args),
    Time(time::Args),
    Dataset(dataset::Args),
    Convert(convert::Args),
    Mean(mean::Args),
    UpgradeNet(upgrade::NetArgs),
    UpgradeSolver(upgrade::SolverArgs),
    Draw(draw::Args),
    ExtractFeatures(extract_features::Args),
    DeviceQuery(device::Args),
}

/// What a command comes to; the error's text is shown to the user.
type Outcome = Result<(), Box<dyn Error>>;

fn run(command: Command) -> Outcome {
    // The kernels take what they find when first used; what the user wrote wrongly is said here.
    Simd::from_env()?;
    winograd::from_env()?;
    match command {
        Command::Train(args) => train::train(&args),
        Command::Test(args) => test::test(&args),
        Command::Features(args) => features::features(&args),
        Command::Time(args) => time::time(&args),
        Command::Dataset(args) => dataset::dataset(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::Mean(args) => mean::mean(&args),
        Command::UpgradeNet(args) => upgrade::net(&args),
        Command::UpgradeSolver(args) => upgrade::solver(&args),
        Command::Draw(args) => draw::draw(&args),
        Command::ExtractFeatures(args) => extract_features::extract_features(&args),
        Command::DeviceQuery(args) => device::query(&args),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::warn(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
