use std::io::{self, Write};

use super::{LineWriter, sentence};
use crate::events::{Event, Sink};

/// A line an event, without cursor movements: for pipes, files and logs of other programs. Rounds are left out, because
/// there may be one an iteration.
pub struct PlainLines {
    lines: LineWriter<Box<dyn Write + Send>>,
    max_iter: Option<u64>,
}

impl PlainLines {
    /// Lines on stdout.
    pub fn stdout() -> Self {
        Self::new(Box::new(io::stdout()), "stdout")
    }

    /// Lines on `out`, which is called `name` where it fails.
    pub fn new(out: Box<dyn Write + Send>, name: &str) -> Self {
        Self {
            lines: LineWriter::new(out, name.to_owned()),
            max_iter: None,
        }
    }
}

impl Sink for PlainLines {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Round(_) => return,
            Event::Start(start) => self.max_iter = Some(start.max_iter),
            _ => {}
        }
        self.lines.line(&sentence(event, self.max_iter));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::sinks::samples;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_run_reads_as_lines() {
        let out = Shared::default();
        let mut sink = PlainLines::new(Box::new(out.clone()), "a test");
        sink.event(&samples::iteration(100, 0.53124));
        for event in [
            samples::start(),
            samples::iteration(100, 0.53124),
            samples::round(),
            samples::test(0),
            samples::test(1),
            samples::snapshot(),
            Event::Message {
                message: "the learning rate is now 0.001".to_owned(),
            },
            samples::finish(false),
            samples::finish(true),
        ] {
            sink.event(&event);
        }
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let expected = "\
iteration 100, loss 0.5312, lr 0.00993, 5321 images/s
training LeNet for 2000 iterations: 431080 parameters, 2 workers of 1 thread, average every 10 iterations, \
60000 records, batch size 64, seed 7
iteration 100 of 2000, loss 0.5312, lr 0.00993, 5321 images/s
test at 500: accuracy 0.8812, loss 0.3301 (10000 records)
test net 1 at 500: accuracy 0.8812, loss 0.3301 (10000 records)
snapshot at 500: lenet_iter_500.caffemodel, lenet_iter_500.solverstate
the learning rate is now 0.001
finished after 2000 iterations in 31.2 s, 5300 images/s
stopped after 2000 iterations in 31.2 s, 5300 images/s
";
        assert_eq!(text, expected);
    }
}
