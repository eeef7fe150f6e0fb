//! `sparknet convert`

use std::path::PathBuf;

use sparknet_data::{ConvertOptions, convert as run_convert, remove_unfinished};
use sparknet_train::signals::clean_up_on_stop;

use crate::{Outcome, output};

/// Write images and their labels as an LMDB, as Caffe's convert_imageset does
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder that the list's paths start from
    root: PathBuf,
    /// A text file with a path and a label a line
    list: PathBuf,
    /// The LMDB to write
    out: PathBuf,
    /// Rows after resizing; 0 for as they are
    #[arg(long, value_name = "N", alias = "resize_height", default_value_t = 0)]
    resize_height: usize,
    /// Columns after resizing; 0 for as they are
    #[arg(long, value_name = "N", alias = "resize_width", default_value_t = 0)]
    resize_width: usize,
    /// One channel instead of three
    #[arg(long)]
    gray: bool,
    /// Shuffle the list
    #[arg(long)]
    shuffle: bool,
    /// Seed of --shuffle
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Store encoded images: each file's own bytes where nothing about it changes
    #[arg(long)]
    encoded: bool,
    /// Store encoded images of this format; by each file's extension unless given
    #[arg(long, alias = "encode_type", value_parser = ["jpg", "png"])]
    encode_type: Option<String>,
    /// Stop where images have different sizes
    #[arg(long, alias = "check_size")]
    check_size: bool,
    /// Leave out images that cannot be read, instead of stopping
    #[arg(long)]
    skip_bad: bool,
}

const EXAMPLES: &str = "\
Examples:
  sparknet convert images/ train.txt train_lmdb --resize-height 256 --resize-width 256 --shuffle
  sparknet convert / list.txt digits_lmdb --gray
  sparknet convert images/ train.txt train_lmdb --encoded";

pub fn convert(args: &Args) -> Outcome {
    clean_up_on_stop(remove_unfinished)?;
    let options = ConvertOptions {
        root: args.root.clone(),
        list: args.list.clone(),
        out: args.out.clone(),
        resize_height: args.resize_height,
        resize_width: args.resize_width,
        gray: args.gray,
        shuffle: args.shuffle,
        seed: args.seed,
        encoded: args.encoded,
        encode_type: args.encode_type.clone(),
        check_size: args.check_size,
        skip_bad: args.skip_bad,
    };
    let outcome = run_convert(&options, &mut |done, all| {
        output::show_state(&format!("{done} of {all} images"))
    });
    output::show_state("");
    let report = outcome?;
    report
        .skipped
        .iter()
        .for_each(|message| output::warn(&format!("left out: {message}")));
    let mut line = format!("{}: {} records", args.out.display(), report.records);
    if !report.skipped.is_empty() {
        line += &format!(", {} images left out", report.skipped.len());
    }
    Ok(output::print(&line)?)
}
