//! `sparknet device-query`

use std::{fs, thread};

use sparknet_engine::kernels::Simd;

use crate::{Outcome, output};

/// Show what nets are computed on: the processor's cores, its instruction set, and memory
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "\
Examples:
  sparknet device-query

SPARKNET_SIMD=avx2 or portable keeps nets from using what this shows.";

pub fn query(_args: &Args) -> Outcome {
    let (found, used) = (Simd::detect(), Simd::current());
    let mut lines = vec![
        // The number that --threads stands for where it is not given: it heeds affinity and limits of containers.
        format!("cores: {}", thread::available_parallelism().map_or(1, usize::from)),
        if found == used {
            format!("instruction set: {found}")
        } else {
            format!("instruction set: {found}, of which SPARKNET_SIMD allows {used}")
        },
    ];
    if let Some(model) = first_value("/proc/cpuinfo", "model name") {
        lines.insert(0, format!("processor: {model}"));
    }
    let kib = |key| {
        first_value("/proc/meminfo", key)?
            .strip_suffix(" kB")?
            .parse::<f64>()
            .ok()
    };
    if let (Some(total), Some(available)) = (kib("MemTotal"), kib("MemAvailable")) {
        let gib = |kib: f64| kib / f64::from(1 << 20);
        lines.push(format!(
            "memory: {:.1} GiB, of which {:.1} GiB are free",
            gib(total),
            gib(available)
        ));
    }
    lines.push("GPUs: SparkNet computes on the CPU only and looks for none".to_owned());
    Ok(output::print(&lines.join("\n"))?)
}

/// What stands behind the first `key` of a file of the kernel's, where there is one.
fn first_value(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
