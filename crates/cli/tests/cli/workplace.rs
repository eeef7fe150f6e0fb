//! A folder with a small net, its solver and 96 records of Fashion-MNIST, and the command that runs in it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Two layers that learn, 96 records: 12 training batches of 8, test batches of 20 with a partial one at the end.
pub const NET: &str = r#"name: "tiny"
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  transform_param { scale: 0.00390625 }
  data_param { source: "db" backend: LMDB batch_size: 8 }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  transform_param { scale: 0.00390625 }
  data_param { source: "db" backend: LMDB batch_size: 20 }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
}
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"#;

pub const SOLVER: &str = r#"net: "net.prototxt"
test_iter: 5
test_interval: 10
base_lr: 0.05
lr_policy: "fixed"
momentum: 0.9
max_iter: 20
display: 5
snapshot: 10
snapshot_prefix: "tiny"
random_seed: 7
"#;

pub struct Workplace {
    folder: TempDir,
}

impl Workplace {
    pub fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.path("db")).unwrap();
        fs::copy(golden("raw_lmdb/data.mdb"), place.path("db/data.mdb")).unwrap();
        place.write("net.prototxt", NET);
        place.write("solver.prototxt", SOLVER);
        place
    }

    /// With the weights of a training run of 20 iterations.
    pub fn trained() -> Self {
        let place = Self::new();
        place.succeeds("train --solver solver.prototxt --quiet");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Writes the net with a piece of it replaced.
    pub fn edit_net(&self, from: &str, to: &str) {
        assert!(NET.contains(from), "{from}");
        self.write("net.prototxt", NET.replace(from, to));
    }

    /// Writes the solver with a piece of it replaced.
    pub fn edit_solver(&self, from: &str, to: &str) {
        assert!(SOLVER.contains(from), "{from}");
        self.write("solver.prototxt", SOLVER.replace(from, to));
    }

    /// The names in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// `sparknet` with arguments that are separated by spaces.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparknet"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to end well and returns what it prints.
    pub fn succeeds(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments}: {}\n{}",
            output.status,
            stderr(&output)
        );
        stdout(&output)
    }

    /// Runs a command that has to fail with exit code 1 and this sentence, print nothing and leave no new file.
    #[track_caller]
    pub fn fails(&self, arguments: &str, sentence: &str) {
        let before = self.names();
        let output = self.run(arguments);
        assert_eq!(stderr(&output), format!("error: {sentence}\n"), "{arguments}");
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert_eq!(stdout(&output), "", "{arguments}");
        assert_eq!(self.names(), before, "{arguments}");
    }

    /// Starts a command that is to be interrupted.
    pub fn start(&self, arguments: &str) -> Running {
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running(child)
    }
}

/// A process that does not outlive its test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits until `is_true`, which has to come true while the process runs.
    pub fn wait_until(&mut self, what: &str, is_true: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_true() {
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "ended before {what}: {ended:?}");
            assert!(start.elapsed() < Duration::from_secs(60), "{what} does not come");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal by the shell's own `kill`, which every system has.
    pub fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").arg("-c").arg(line).status().unwrap().success());
    }

    /// Whether the process has ended, and how.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for the end and returns the exit code and what was printed.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap().code(), text)
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file of the project's golden data.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../golden/data")
        .join(name)
}
