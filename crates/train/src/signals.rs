//! Ctrl-C and hang-up, as Caffe's `sigint_effect` and `sighup_effect` have them.

use std::{
    io, process,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

/// Lets Ctrl-C and SIGTERM end the process as they do anyway, but only after `clean_up`.
///
/// # Errors
/// The system refuses a signal handler or a thread.
pub fn clean_up_on_stop(clean_up: fn()) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            clean_up();
            process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEffect {
    /// Writes a snapshot at the end of the round, then stops.
    Stop,
    /// Writes a snapshot at the end of the round and goes on.
    Snapshot,
    /// Nothing.
    None,
}

impl FromStr for SignalEffect {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "stop" => Ok(Self::Stop),
            "snapshot" => Ok(Self::Snapshot),
            "none" => Ok(Self::None),
            _ => Err(format!("'{given}' is no effect: use stop, snapshot or none")),
        }
    }
}

/// What the outside world has asked of a run; the workers look at it when a round ends.
#[derive(Clone, Debug, Default)]
pub struct Control {
    stop: Arc<AtomicBool>,
    snapshot: Arc<AtomicBool>,
}

impl Control {
    /// Asks the run to write a snapshot and stop.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Asks the run to write a snapshot and go on.
    pub fn request_snapshot(&self) {
        self.snapshot.store(true, Ordering::SeqCst);
    }

    /// Whether the run is to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether a snapshot was asked for since the last time somebody looked.
    pub(crate) fn take_snapshot_request(&self) -> bool {
        self.snapshot.swap(false, Ordering::SeqCst)
    }

    /// Lets signals of this process steer the run: SIGTERM as Ctrl-C. A second Ctrl-C ends the process at once.
    ///
    /// # Errors
    /// The system refuses a signal handler.
    pub fn listen(&self, sigint: SignalEffect, sighup: SignalEffect) -> io::Result<()> {
        for (signal, effect) in [(SIGINT, sigint), (SIGTERM, sigint), (SIGHUP, sighup)] {
            let target = match effect {
                SignalEffect::Stop => &self.stop,
                SignalEffect::Snapshot => &self.snapshot,
                SignalEffect::None => &Arc::new(AtomicBool::new(false)),
            };
            if effect == SignalEffect::Stop {
                // Registered first, so that it sees the flag as the signal before left it.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(target))?;
            }
            flag::register(signal, Arc::clone(target))?;
        }
        Ok(())
    }
}
