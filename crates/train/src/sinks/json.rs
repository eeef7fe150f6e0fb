use std::{path::Path, time::Instant};

use serde::Serialize;

use super::{LateFile, LineWriter, SinkError};
use crate::events::{Event, Sink};

/// One JSON object a line and event: `time_s` (seconds since the sink's creation), `event` (the kind), and the event's
/// own fields. What is no finite number is `null`. Each line is in the file before the run goes on.
pub struct JsonLines {
    lines: LineWriter<LateFile>,
    start: Instant,
}

#[derive(Serialize)]
struct Line<'a> {
    time_s: f64,
    #[serde(flatten)]
    event: &'a Event,
}

impl JsonLines {
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

impl Sink for JsonLines {
    fn event(&mut self, event: &Event) {
        let time_s = (self.start.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        // Nothing in an event can fail to be JSON: every map has text as its keys, and serde_json writes null for NaN.
        if let Ok(line) = serde_json::to_string(&Line { time_s, event }) {
            self.lines.line(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        evaluation::{ConfusionMatrix, Evaluation},
        events::Test,
        sinks::samples,
    };

    fn write(path: &Path, append: bool, events: &[Event]) -> Vec<Value> {
        let mut sink = JsonLines::create(path, append).unwrap();
        events.iter().for_each(|event| sink.event(event));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_event_is_one_object() {
        let folder = tempfile::tempdir().unwrap();
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(0, 0);
        let test = Event::Test(Test {
            iteration: 500,
            net: 0,
            records: 1,
            scores: [("loss".to_owned(), f64::INFINITY)].into(),
            evaluation: Some(Evaluation::new(&matrix, None)),
            elapsed_s: 1.0,
        });
        let message = Event::Message {
            message: "a \"quoted\"\nline".to_owned(),
        };
        let events = [
            samples::start(),
            samples::iteration(100, f32::NAN),
            samples::round(),
            test,
            samples::snapshot(),
            message,
            samples::finish(true),
        ];
        let lines = write(&folder.path().join("events.jsonl"), false, &events);
        let kinds: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(
            kinds,
            ["start", "iteration", "round", "test", "snapshot", "message", "finish"]
        );
        assert!(lines.iter().all(|line| line["time_s"].as_f64().unwrap() >= 0.0));
        assert_eq!(lines[1]["loss"], Value::Null);
        assert_eq!(lines[1]["iteration"], 100);
        assert_eq!(lines[2]["sync_s"], serde_json::json!([0.25, 0.01]));
        assert_eq!(lines[3]["scores"]["loss"], Value::Null);
        assert_eq!(lines[3]["evaluation"]["accuracy"], 1.0);
        assert_eq!(lines[3]["evaluation"]["classes"][1]["recall"], Value::Null);
        assert_eq!(lines[5]["message"], "a \"quoted\"\nline");
    }

    #[test]
    fn a_resumed_run_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        assert_eq!(write(&path, true, &[samples::start()]).len(), 1);
        assert_eq!(write(&path, true, &[samples::round()]).len(), 2);
        assert_eq!(write(&path, false, &[samples::round()]).len(), 1);
    }
}
