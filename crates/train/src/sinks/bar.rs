use std::{
    fmt,
    io::{self, Write},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{LineWriter, number, sentence};
use crate::events::{Event, Sink};

/// How often the text beside the bar is made anew; the bar itself is drawn at most this often too.
const REFRESH: Duration = Duration::from_millis(100);

/// A bar on stderr with iteration, loss, images a second and the time left; what happens is printed above it.
pub struct ProgressBar {
    bar: indicatif::ProgressBar,
    /// Takes the last line, when the bar is gone.
    after: LineWriter<Box<dyn Write + Send>>,
    loss: Option<f32>,
    images_per_s: Option<f64>,
    last_text: Option<Instant>,
}

impl ProgressBar {
    /// A bar of `max_iter` iterations. It needs a terminal: elsewhere it shows nothing.
    pub fn new(max_iter: u64) -> Self {
        let sink = Self::on(ProgressDrawTarget::stderr_with_hz(10), Box::new(io::stderr()), max_iter);
        // Keeps the time left going while an iteration or a test takes long.
        sink.bar.enable_steady_tick(Duration::from_millis(500));
        sink
    }

    fn on(target: ProgressDrawTarget, after: Box<dyn Write + Send>, max_iter: u64) -> Self {
        let bar = indicatif::ProgressBar::with_draw_target(Some(max_iter), target);
        // The template is a constant that a test draws, so the default look is never met.
        let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos} of {len}{msg}{left}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸─").with_key("left", write_time_left));
        Self {
            bar,
            after: LineWriter::new(after, "stderr".to_owned()),
            loss: None,
            images_per_s: None,
            last_text: None,
        }
    }

    fn print(&mut self, event: &Event) {
        if self.bar.is_finished() {
            // Not println, which ends no line once there is no bar.
            self.after.line(&sentence(event, None));
        } else {
            self.bar.println(sentence(event, None));
        }
    }

    fn refresh_text(&mut self) {
        self.last_text = Some(Instant::now());
        let loss = self.loss.map(|loss| format!(", loss {}", number(loss.into())));
        let speed = self.images_per_s.map(|speed| format!(", {speed:.0} images/s"));
        self.bar
            .set_message(loss.unwrap_or_default() + &speed.unwrap_or_default());
    }
}

/// Nothing while it is unknown, which it is until the first iteration is over.
fn write_time_left(state: &ProgressState, out: &mut dyn fmt::Write) {
    if !state.eta().is_zero() {
        // The text goes to memory, where writing cannot fail.
        let _ = write!(out, ", {:#} left", HumanDuration(state.eta()));
    }
}

impl Sink for ProgressBar {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Start(start) => {
                self.bar.set_length(start.max_iter);
                self.bar.set_position(start.iteration);
                // The iterations before a resume took no time in this run.
                self.bar.reset_eta();
                self.print(event);
            }
            Event::Iteration(iteration) => {
                self.loss = Some(iteration.loss);
                self.images_per_s = Some(iteration.images_per_s);
                self.bar.set_position(iteration.iteration);
                self.refresh_text();
            }
            // Of a run on other machines this is the only progress between two losses.
            Event::Round(round) => self.bar.set_position(round.iteration),
            Event::Finish(_) => {
                self.bar.finish_and_clear();
                self.print(event);
            }
            Event::Test(_) | Event::Snapshot(_) | Event::Message { .. } => self.print(event),
        }
    }

    fn progress(&mut self, iteration: u64, loss: f32) {
        self.bar.set_position(iteration);
        self.loss = Some(loss);
        if self.last_text.is_none_or(|last| last.elapsed() >= REFRESH) {
            self.refresh_text();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;
    use crate::sinks::samples;

    const COLUMNS: usize = 100;

    /// A terminal that keeps what stands on it: its lines, and the cursor's row. Long text goes on in the next row.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<(Vec<String>, usize)>>);

    impl Screen {
        fn lines(&self) -> Vec<String> {
            let lines = &self.0.lock().unwrap().0;
            let lines = lines.iter().map(|line| line.trim_end().to_owned());
            lines.filter(|line| !line.is_empty()).collect()
        }

        fn write(&self, text: &str) {
            let (lines, row) = &mut *self.0.lock().unwrap();
            for char in text.chars() {
                lines.resize(lines.len().max(*row + 2), String::new());
                if char == '\n' {
                    *row += 1;
                    continue;
                }
                if lines[*row].chars().count() == COLUMNS {
                    *row += 1;
                }
                lines[*row].push(char);
            }
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Screen::write(self, std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            COLUMNS as u16
        }

        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 -= n;
            Ok(())
        }

        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 += n;
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            Screen::write(self, &format!("{text}\n"));
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            Screen::write(self, text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let (lines, row) = &mut *state;
            if let Some(line) = lines.get_mut(*row) {
                line.clear();
            }
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_stand_above_the_bar_and_the_end_is_clean() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let mut sink = ProgressBar::on(target, Box::new(screen.clone()), 100);
        sink.event(&samples::start());
        sink.event(&samples::round());
        assert_eq!(sink.bar.position(), 10);
        sink.event(&samples::iteration(499, 0.4));
        sink.last_text = None;
        sink.progress(500, 0.33);
        sink.event(&samples::test(0));

        let lines = screen.lines();
        assert!(lines[0].starts_with("training LeNet"), "{lines:?}");
        let [.., test, bar] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(test, "test at 500: accuracy 0.8812, loss 0.3301 (10000 records)");
        assert!(bar.contains(" 500 of 2000, loss 0.3300, 5321 images/s"), "{lines:?}");

        sink.event(&samples::finish(false));
        let lines = screen.lines();
        assert!(lines.iter().all(|line| !line.contains("500 of 2000")), "{lines:?}");
        let last = lines.last().unwrap();
        assert_eq!(last, "finished after 2000 iterations in 31.2 s, 5300 images/s");
        // What comes next begins a line of its own: on Spark, first the last snapshot.
        sink.event(&samples::snapshot());
        Screen::write(&screen, "next");
        assert_eq!(screen.lines().last().unwrap(), "next");
    }
}
