//! The listeners of a run: a progress bar or plain lines for whoever watches, a log file, and JSON lines for programs.

mod bar;
mod json;
mod log;
mod plain;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

pub use bar::ProgressBar;
pub use json::JsonLines;
pub use log::LogFile;
pub use plain::PlainLines;

use crate::events::{Event, Finish, Iteration, RoundEnd, Sink, SnapshotWritten, Start, Test};

/// Why a sink cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its file cannot be opened for writing.
    #[error("cannot write to '{}': {source}: give a file in a folder that exists and may be written to", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A progress bar where both stdout and stderr are a terminal that can move its cursor, plain lines elsewhere.
pub fn for_terminal(max_iter: u64) -> Box<dyn Sink> {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if io::stdout().is_terminal() && io::stderr().is_terminal() && !dumb {
        Box::new(ProgressBar::new(max_iter))
    } else {
        Box::new(PlainLines::stdout())
    }
}

/// Writes whole lines until the first error, which it says on stderr.
struct LineWriter<W> {
    out: W,
    name: String,
    failed: bool,
}

/// A file that keeps what stood there until the first line comes, and that goes if none does and it was not there before:
/// a run that fails before it begins costs nobody an older log.
struct LateFile {
    file: File,
    path: PathBuf,
    is_new: bool,
    /// Whether something was written.
    begun: bool,
    append: bool,
}

impl Write for LateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.begun {
            self.begun = true;
            if !self.append && self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for LateFile {
    fn drop(&mut self) {
        if self.is_new && !self.begun {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl<W: Write> LineWriter<W> {
    fn new(out: W, name: String) -> Self {
        Self {
            out,
            name,
            failed: false,
        }
    }

    /// Writes `line` and a newline in one piece, so that a killed run leaves whole lines.
    fn line(&mut self, line: &str) {
        if self.failed {
            return;
        }
        let written = self.out.write_all(format!("{line}\n").as_bytes());
        if let Err(error) = written.and_then(|()| self.out.flush()) {
            self.failed = true;
            // By hand: eprintln! panics where stderr is closed too.
            let _ = writeln!(
                io::stderr(),
                "cannot write to {}: {error}: it gets no more lines, the run goes on",
                self.name
            );
        }
    }
}

impl LineWriter<LateFile> {
    /// Opens `path`, emptied at the first line unless `append`.
    fn create(path: &Path, append: bool) -> Result<Self, SinkError> {
        let is_new = !path.exists();
        let file = if append {
            open_to_append(path)
        } else {
            OpenOptions::new().append(true).create(true).open(path)
        };
        match file {
            Ok(file) => Ok(Self::new(
                LateFile {
                    file,
                    path: path.to_owned(),
                    is_new,
                    begun: false,
                    append,
                },
                format!("'{}'", path.display()),
            )),
            Err(source) => Err(SinkError::Create {
                path: path.to_owned(),
                source,
            }),
        }
    }
}

/// Opens `path` so that what is written begins a new line, even after a line that was cut off.
fn open_to_append(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // A pipe or a device has no length, and nothing to be cut off.
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// What an event says, without the iteration; the iteration apart, where the event has one.
fn describe(event: &Event) -> (Option<u64>, String) {
    match event {
        Event::Start(start) => (Some(start.iteration), describe_start(start)),
        Event::Iteration(iteration) => (Some(iteration.iteration), describe_iteration(iteration)),
        Event::Round(round) => (Some(round.iteration), describe_round(round)),
        Event::Test(test) => (Some(test.iteration), describe_test(test)),
        Event::Snapshot(snapshot) => (Some(snapshot.iteration), describe_snapshot(snapshot)),
        Event::Finish(finish) => (Some(finish.iteration), describe_finish(finish)),
        Event::Message { message } => (None, message.clone()),
    }
}

fn describe_start(start: &Start) -> String {
    let mut text = if start.iteration == 0 {
        format!("training {} for {}", start.net, counted(start.max_iter, "iteration"))
    } else {
        format!(
            "training {} from iteration {} to {}",
            start.net, start.iteration, start.max_iter
        )
    };
    text += &format!(
        ": {}, {} of {}",
        counted(start.parameters as u64, "parameter"),
        counted(start.workers as u64, "worker"),
        counted(start.threads_per_worker as u64, "thread"),
    );
    if !start.sync.is_empty() {
        text += &format!(", {}", start.sync);
    }
    if start.records > 0 {
        text += &format!(", {}", counted(start.records, "record"));
    }
    if start.batch_size > 0 {
        text += &format!(", batch size {}", start.batch_size);
    }
    text + &format!(", seed {}", start.seed)
}

fn describe_iteration(iteration: &Iteration) -> String {
    let (loss, lr) = (number(iteration.loss.into()), shortest(iteration.lr));
    format!("loss {loss}, lr {lr}, {:.0} images/s", iteration.images_per_s)
}

fn describe_round(round: &RoundEnd) -> String {
    let average_s = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
    format!(
        "round {}, average compute {:.3} s, data {:.3} s, sync {:.3} s",
        round.round,
        average_s(&round.compute_s),
        average_s(&round.data_s),
        average_s(&round.sync_s)
    )
}

fn describe_test(test: &Test) -> String {
    let mut scores: Vec<String> = test
        .scores
        .iter()
        .map(|(name, score)| format!("{name} {}", number(*score)))
        .collect();
    if scores.is_empty() {
        scores.push("the net has no outputs".to_owned());
    }
    format!(
        "{}: {} ({})",
        test_name(test),
        scores.join(", "),
        counted(test.records, "record")
    )
}

fn test_name(test: &Test) -> String {
    match test.net {
        0 => "test".to_owned(),
        net => format!("test net {net}"),
    }
}

fn describe_snapshot(snapshot: &SnapshotWritten) -> String {
    format!("snapshot: {}, {}", snapshot.model, snapshot.state)
}

fn describe_finish(finish: &Finish) -> String {
    format!(
        "{} after {} in {}, {:.0} images/s",
        if finish.stopped { "stopped" } else { "finished" },
        counted(finish.iteration, "iteration"),
        duration(finish.elapsed_s),
        finish.images_per_s
    )
}

/// An event as a line that stands alone: with its iteration, as a person would say it.
fn sentence(event: &Event, max_iter: Option<u64>) -> String {
    match event {
        Event::Iteration(iteration) => {
            let of = max_iter.map_or(String::new(), |max_iter| format!(" of {max_iter}"));
            format!(
                "iteration {}{of}, {}",
                iteration.iteration,
                describe_iteration(iteration)
            )
        }
        Event::Test(test) => {
            let (name, text) = (test_name(test), describe_test(test));
            text.replacen(&name, &format!("{name} at {}", test.iteration), 1)
        }
        Event::Snapshot(snapshot) => {
            describe_snapshot(snapshot).replacen("snapshot", &format!("snapshot at {}", snapshot.iteration), 1)
        }
        _ => describe(event).1,
    }
}

/// `1 worker`, `2 workers`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Four decimals where they say something, an exponent elsewhere.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-3..1e6).contains(&size) {
        format!("{value:.4}")
    } else {
        format!("{value:.3e}")
    }
}

/// Three significant digits without trailing zeros: a learning rate of 0.01 stays `0.01`.
fn shortest(value: f32) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    // The way through text rounds in decimal, so that no binary dust is left.
    let rounded: f32 = format!("{value:.2e}").parse().unwrap_or(value);
    if (1e-4..1e4).contains(&rounded.abs()) {
        rounded.to_string()
    } else {
        format!("{rounded:e}")
    }
}

/// `31.2 s`, `12 min 5 s`, `3 h 20 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod samples {
    //! Events that the sinks' tests send.

    use super::*;

    pub(super) fn start() -> Event {
        Event::Start(Start {
            net: "LeNet".to_owned(),
            parameters: 431_080,
            workers: 2,
            threads_per_worker: 1,
            sync: "average every 10 iterations".to_owned(),
            batch_size: 64,
            records: 60_000,
            seed: 7,
            iteration: 0,
            max_iter: 2000,
        })
    }

    pub(super) fn iteration(iteration: u64, loss: f32) -> Event {
        Event::Iteration(Iteration {
            iteration,
            loss,
            lr: 0.009_926_4,
            images_per_s: 5321.4,
            elapsed_s: 2.5,
        })
    }

    pub(super) fn round() -> Event {
        Event::Round(RoundEnd {
            iteration: 10,
            round: 1,
            compute_s: vec![0.5, 0.7],
            data_s: vec![0.0, 0.1],
            sync_s: vec![0.25, 0.01],
        })
    }

    pub(super) fn test(net: usize) -> Event {
        Event::Test(Test {
            iteration: 500,
            net,
            records: 10_000,
            scores: [("accuracy".to_owned(), 0.8812), ("loss".to_owned(), 0.330_14)].into(),
            evaluation: None,
            elapsed_s: 1.0,
        })
    }

    pub(super) fn snapshot() -> Event {
        Event::Snapshot(SnapshotWritten {
            iteration: 500,
            model: "lenet_iter_500.caffemodel".to_owned(),
            state: "lenet_iter_500.solverstate".to_owned(),
        })
    }

    pub(super) fn finish(stopped: bool) -> Event {
        Event::Finish(Finish {
            iteration: 2000,
            stopped,
            elapsed_s: 31.24,
            images_per_s: 5300.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses every write, as a pipe does that nobody reads any more.
    struct Closed {
        attempts: usize,
    }

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.attempts += 1;
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_fails_is_not_asked_again() {
        let mut lines = LineWriter::new(Closed { attempts: 0 }, "a closed pipe".to_owned());
        lines.line("one");
        lines.line("two");
        assert_eq!(lines.out.attempts, 1);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/run.log");
        let Err(error) = LineWriter::create(&path, false) else {
            panic!("a file was made in a folder that does not exist");
        };
        let message = error.to_string();
        assert!(message.contains("missing/run.log"), "{message}");
        assert!(message.contains("folder that exists"), "{message}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_more_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.log");
        std::fs::write(&path, "whole\ncut o").unwrap();
        LineWriter::create(&path, true).unwrap().line("next");
        LineWriter::create(&path, true).unwrap().line("last");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\ncut o\nnext\nlast\n");
        LineWriter::create(&path, false).unwrap().line("new");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn numbers_are_short_and_keep_what_matters() {
        let number_cases = [
            (0.0, "0.0000"),
            (0.53124, "0.5312"),
            (2.71238, "2.7124"),
            (1.5e-5, "1.500e-5"),
            (8.7e9, "8.700e9"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in number_cases {
            assert_eq!(number(value), expected);
        }
        for (value, expected) in [(0.01, "0.01"), (0.0099264, "0.00993"), (1e-6, "1e-6"), (0.0, "0")] {
            assert_eq!(shortest(value), expected);
        }
        for (value, expected) in [(31.24, "31.2 s"), (725.0, "12 min 5 s"), (12_000.0, "3 h 20 min")] {
            assert_eq!(duration(value), expected);
        }
    }

    #[test]
    fn a_resumed_run_says_where_it_begins() {
        let Event::Start(mut start) = samples::start() else {
            unreachable!()
        };
        start.iteration = 500;
        start.workers = 1;
        assert_eq!(
            describe_start(&start),
            "training LeNet from iteration 500 to 2000: 431080 parameters, 1 worker of 1 thread, \
             average every 10 iterations, 60000 records, batch size 64, seed 7"
        );
    }
}
