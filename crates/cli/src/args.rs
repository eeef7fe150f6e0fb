//! Arguments that several commands have.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use sparknet_engine::Phase;
use sparknet_train::{
    Error,
    job::{NetSource, Stages},
};

/// A whole number of at least 1, small enough to count threads and records with.
pub fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=i32::MAX as u64)
}

/// A number of workers or threads.
pub fn few() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=4096)
}

/// A trained net that runs over its data.
#[derive(clap::Args)]
pub struct TrainedNetArgs {
    /// The net's .prototxt; its layers of phase TEST are taken, one of which reads data
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The weights, from one or several .caffemodel files
    #[arg(long, value_name = "FILES", value_delimiter = ',', required = true)]
    pub weights: Vec<PathBuf>,
    /// Batches to take; all of the data, every record once, unless given
    #[arg(long, value_name = "I", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    #[command(flatten)]
    pub stages: StageArgs,
}

impl TrainedNetArgs {
    /// The net, without its weights.
    ///
    /// # Errors
    /// A file that cannot be read, or is no net.
    pub fn read(&self) -> Result<NetSource, Error> {
        NetSource::read(&self.model, Phase::Test, &self.stages.stages())
    }
}

/// What of a net is included beyond its phase.
#[derive(clap::Args)]
pub struct StageArgs {
    /// Stages, for layers with include or exclude rules
    #[arg(long, value_name = "A,B", value_delimiter = ',', display_order = 900)]
    stage: Vec<String>,
    /// Level, for layers with include or exclude rules
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, display_order = 901)]
    level: i32,
}

impl StageArgs {
    /// The stages and the level.
    pub fn stages(&self) -> Stages {
        Stages {
            level: self.level,
            stages: self.stage.clone(),
        }
    }

    /// The field of a solver that says the same of its train net.
    pub fn train_state(&self) -> String {
        let text = |stage: &String| format!("stage: \"{}\" ", stage.replace('\\', "\\\\").replace('"', "\\\""));
        let stages: String = self.stage.iter().map(text).collect();
        let level = (self.level != 0).then(|| format!("level: {} ", self.level));
        format!("train_state {{ {stages}{}}}", level.unwrap_or_default())
    }

    /// The flags that were given, to be typed again.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if !self.stage.is_empty() {
            flags.push(format!("--stage {}", quoted(&self.stage.join(","))));
        }
        if self.level != 0 {
            flags.push(format!("--level {}", self.level));
        }
        flags
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path as a shell takes it.
pub fn quoted_path(path: &std::path::Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(
            quoted("models/lenet_iter_5.solverstate"),
            "models/lenet_iter_5.solverstate"
        );
        assert_eq!(quoted("my models/it's"), r"'my models/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
