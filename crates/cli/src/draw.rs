//! `sparknet draw`

use std::path::PathBuf;

use clap::ValueEnum;
use sparknet_engine::{Net, NetSpec, NetState, Phase, net::NoData};
use sparknet_proto::read_net;
use sparknet_train::{draw as picture, job::NetSource, time::with_input_layers};

use crate::{Outcome, args::StageArgs, output};

/// Draw a net as an SVG: layers, blobs and shapes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The net's .prototxt
    net: PathBuf,
    /// The .svg to write
    out: PathBuf,
    /// Which of the net's layers to draw
    #[arg(long, value_enum, default_value_t = PhaseArg::Train)]
    phase: PhaseArg,
    #[command(flatten)]
    stages: StageArgs,
}

const EXAMPLES: &str = "\
Examples:
  sparknet draw models/lenet/net.prototxt lenet.svg
  sparknet draw models/googlenet/net.prototxt googlenet.svg --phase test

Shapes are shown where the net can be built: where its data are there, or its inputs say their shape.";

#[derive(Clone, Copy, ValueEnum)]
enum PhaseArg {
    Train,
    Test,
    /// Every layer, whatever its include and exclude rules
    All,
}

pub fn draw(args: &Args) -> Outcome {
    output::check_file(&args.out)?;
    output::check_apart(&[&args.out], &[&args.net])?;
    let source = match args.phase {
        PhaseArg::Train => NetSource::read(&args.net, Phase::Train, &args.stages.stages())?,
        PhaseArg::Test => NetSource::read(&args.net, Phase::Test, &args.stages.stages())?,
        PhaseArg::All => every_layer(args)?,
    };
    // A net with two layers of a name for two phases, or without its data, has no shapes; its picture is good all the same.
    let net = with_input_layers(&source, None, None).and_then(|spec| Ok(Net::new(spec, &mut NoData, 1)?));
    let shape_of = |blob: &str| {
        net.as_ref()
            .ok()?
            .blob_shape(blob)
            .ok()
            .map(|shape| shape.dims().to_vec())
    };
    let svg = picture::svg(&source.spec, &shape_of);
    Ok(output::write_text(&args.out, &svg)?)
}

fn every_layer(args: &Args) -> Result<NetSource, sparknet_train::Error> {
    let mut net = read_net(&args.net)?;
    for layer in &mut net.layer {
        layer.include.clear();
        layer.exclude.clear();
    }
    let spec = NetSpec::from_proto(&net, NetState::new(Phase::Train))?;
    Ok(NetSource {
        spec,
        folder: args.net.parent().map(PathBuf::from).unwrap_or_default(),
    })
}
