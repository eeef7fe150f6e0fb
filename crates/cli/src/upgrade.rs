//! `sparknet upgrade-net` and `sparknet upgrade-solver`

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use sparknet_proto::{binary, hdf5, read_net, read_solver, read_weights, text};

use crate::{Outcome, output};

/// How much of a file is looked at to tell text from binary.
const PROBE_BYTES: u64 = 64 * 1024;

/// Bring a net of Caffe's old forms to the current one: a .prototxt, a .caffemodel or a .caffemodel.h5
#[derive(clap::Args)]
#[command(after_help = NET_EXAMPLES)]
pub struct NetArgs {
    /// The net, text or binary
    input: PathBuf,
    /// The file to write, of the same kind; HDF5 if its name ends in .h5
    output: PathBuf,
    /// Write binary also where the input is text
    #[arg(long)]
    binary: bool,
}

const NET_EXAMPLES: &str = "\
Examples:
  sparknet upgrade-net old.prototxt new.prototxt
  sparknet upgrade-net old.caffemodel new.caffemodel
  sparknet upgrade-net lenet.caffemodel lenet.caffemodel.h5    or back";

/// Bring a solver of Caffe's old form to the current one
#[derive(clap::Args)]
#[command(after_help = SOLVER_EXAMPLES)]
pub struct SolverArgs {
    /// The solver's .prototxt
    input: PathBuf,
    /// The file to write
    output: PathBuf,
}

const SOLVER_EXAMPLES: &str = "\
Examples:
  sparknet upgrade-solver old_solver.prototxt solver.prototxt";

pub fn net(args: &NetArgs) -> Outcome {
    output::check_file(&args.output)?;
    let is_binary = is_binary(&args.input).unwrap_or(false);
    let net = if is_binary {
        read_weights(&args.input)?
    } else {
        read_net(&args.input)?
    };
    if args.output.extension().is_some_and(|extension| extension == "h5") {
        hdf5::write_weights(&args.output, &net)?;
    } else if is_binary || args.binary {
        binary::write_file(&args.output, &net)?;
    } else {
        output::write_text(&args.output, &text::print(&net))?;
    }
    Ok(())
}

pub fn solver(args: &SolverArgs) -> Outcome {
    output::check_file(&args.output)?;
    let solver = read_solver(&args.input)?;
    Ok(output::write_text(&args.output, &text::print(&solver))?)
}

/// Whether a file holds bytes that no text does: every binary net has some, in its fields' tags.
fn is_binary(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(PROBE_BYTES).read_to_end(&mut start)?;
    Ok(start
        .iter()
        .any(|byte| *byte < 0x20 && !b"\t\n\x0b\x0c\r".contains(byte)))
}
