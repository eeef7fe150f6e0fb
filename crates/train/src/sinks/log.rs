use std::{path::Path, time::Instant};

use super::{LateFile, LineWriter, SinkError, describe};
use crate::events::{Event, Sink};

/// A log in the form of SparkNet's `Logger`: `<seconds>: message`, or `<seconds>, i = <iteration>: message`, where the
/// seconds count from the sink's creation. Each line is in the file before the run goes on.
pub struct LogFile {
    lines: LineWriter<LateFile>,
    start: Instant,
}

impl LogFile {
    /// Writes to `path`, which is emptied by the first line unless `append`.
    ///
    /// # Errors
    /// The file cannot be opened for writing.
    pub fn create(path: &Path, append: bool) -> Result<Self, SinkError> {
        Ok(Self {
            lines: LineWriter::create(path, append)?,
            start: Instant::now(),
        })
    }
}

impl Sink for LogFile {
    fn event(&mut self, event: &Event) {
        let seconds = self.start.elapsed().as_secs_f64();
        let (iteration, message) = describe(event);
        // One line a message: who reads the file splits it at newlines.
        let message = message.replace('\n', " ");
        self.lines.line(&match iteration {
            Some(iteration) => format!("{seconds:.3}, i = {iteration}: {message}"),
            None => format!("{seconds:.3}: {message}"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::samples;

    #[test]
    fn lines_have_sparknets_form() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training_log.txt");
        let mut sink = LogFile::create(&path, false).unwrap();
        sink.event(&Event::Message {
            message: "finding\nfiles".to_owned(),
        });
        for event in [
            samples::iteration(100, 0.5),
            samples::round(),
            samples::test(0),
            samples::snapshot(),
        ] {
            sink.event(&event);
        }

        // Read while the sink is alive: every line is flushed.
        let text = std::fs::read_to_string(&path).unwrap();
        let mut last_seconds = 0.0;
        let mut messages = Vec::new();
        for line in text.lines() {
            let (seconds, rest) = line.split_at(line.find([',', ':']).unwrap());
            assert_eq!(seconds.split_once('.').unwrap().1.len(), 3, "{line}");
            let seconds: f64 = seconds.parse().unwrap();
            assert!(seconds >= last_seconds);
            last_seconds = seconds;
            messages.push(rest);
        }
        let expected = [
            ": finding files",
            ", i = 100: loss 0.5000, lr 0.00993, 5321 images/s",
            ", i = 10: round 1, average compute 0.600 s, data 0.050 s, sync 0.130 s",
            ", i = 500: test: accuracy 0.8812, loss 0.3301 (10000 records)",
            ", i = 500: snapshot: lenet_iter_500.caffemodel, lenet_iter_500.solverstate",
        ];
        assert_eq!(messages, expected);
    }
}
