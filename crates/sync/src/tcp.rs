use crate::call::Call;
use crate::control::{Control, MAX_MESSAGE_LENGTH};
use crate::listener::wait;
use crate::ring::{Plan, Ring, Task, Transfer, Trouble};
use crate::{SyncError, Transport};
use rustix::event::{PollFd, PollFlags};
use std::fmt;
use std::net::TcpStream;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a worker whose connection for values broke waits to hear why on the other one.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// How workers that are connected by TCP talk to each other. The same on every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// How long a worker waits for any one other, and for all to connect: it must be longer than the workers' computing
    /// between two calls can differ.
    pub timeout: Duration,
    /// What becomes of values on their way.
    pub compression: Compression,
}

/// What becomes of the values of an all-reduce on their way. Broadcasts and all-gathers stay exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Nothing: the result has the bits that [`Transport::all_reduce_sum`] promises.
    #[default]
    None,
    /// They go as IEEE binary16 with a common power of 2 as their scale, 65536 values or fewer at a time: half the
    /// bytes. The result is still the same on all workers, and in every run with as many of them.
    ///
    /// Each of the world − 1 additions of a sum, and the sum itself, is rounded to 11 significant bits: the error is at
    /// most world · 2⁻¹¹ of the largest partial sum. Values below about 2⁻²⁹ of the largest that goes with them lose
    /// bits, and below 2⁻⁴⁰ become 0.
    F16,
}

impl FromStr for Compression {
    type Err = SyncError;

    fn from_str(given: &str) -> Result<Self, SyncError> {
        match given {
            "none" => Ok(Self::None),
            "f16" => Ok(Self::F16),
            _ => Err(SyncError::UnknownCompression {
                given: given.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::F16 => "f16",
        })
    }
}

/// The transport between workers that are processes, on one machine or several. Made by
/// [`Listener::connect`](crate::Listener::connect), one in each process.
///
/// Any two workers have a control connection. On it each announces what it calls, as
/// [`InProcess`](crate::InProcess) does: calls that differ are an error before a number has changed, the messages of an
/// all-gather come with the announcement, and a worker that ends or gives up is known to all others at once.
///
/// Values go round a ring: from each worker to the next over a connection of its own, in frames with a number, a length
/// that has to be the expected one, and a checksum. An all-reduce is a reduce-scatter and an all-gather (Patarasu and
/// Yuan 2009), in pieces that a worker sends on as soon as it has them: every worker sends and receives 2 (world − 1) /
/// world times its values, at the same time. A broadcast goes round the same way.
///
/// Everything happens on the caller's thread, which sends and receives whatever is ready and sleeps when nothing is. So
/// a worker that computes neither notices nor passes on that another is gone, until its next call.
pub struct Tcp {
    rank: usize,
    world: usize,
    timeout: Duration,
    calls_made: u64,
    control: Control,
    /// `None` if there is only one worker.
    ring: Option<Ring>,
}

impl Tcp {
    /// Of connections that are proved. `ring` are the ones to the next worker and from the previous.
    pub(crate) fn new(
        rank: usize,
        world: usize,
        control: Vec<Option<TcpStream>>,
        ring: Option<(TcpStream, TcpStream)>,
        options: TcpOptions,
    ) -> Self {
        Self {
            rank,
            world,
            timeout: options.timeout,
            calls_made: 0,
            control: Control::new(rank, control),
            ring: ring.map(|(next, previous)| Ring::new(next, previous, options.compression)),
        }
    }

    /// Makes a call, and ends the run for all workers if it fails.
    fn call(&mut self, call: Call, message: &[u8], task: Option<(Task, &mut [f32])>) -> Result<(), SyncError> {
        self.calls_made += 1;
        let number = self.calls_made;
        self.control.turn(number);
        self.control.failed(number)?;
        let result = self.attempt(number, call, message, task);
        if let Err(error) = &result {
            match error {
                // The others have the same announcements.
                SyncError::LengthMismatch { .. } | SyncError::OutOfStep { .. } => {
                    self.control.fail_silently(number, error.clone());
                }
                SyncError::PeerGone { rank, reason } => self.control.fail(number, error.clone(), *rank, reason),
                _ => {
                    let reason = error.to_string();
                    let gone = SyncError::PeerGone {
                        rank: self.rank,
                        reason: reason.clone(),
                    };
                    self.control.fail(number, gone, self.rank, &reason);
                }
            }
        }
        result
    }

    fn attempt(
        &mut self,
        number: u64,
        call: Call,
        message: &[u8],
        task: Option<(Task, &mut [f32])>,
    ) -> Result<(), SyncError> {
        self.control.announce(number, call, message);
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut transfer = task.map(|(task, values)| Transfer {
            call: number,
            plan: Plan::new(task, self.rank, self.world, values.len()),
            values,
            sent: 0,
            received: 0,
        });
        let mut agreed = false;
        let mut waiting_since = Instant::now();
        loop {
            self.control.turn(number);
            self.control.failed(number)?;
            if !agreed && self.control.agreed(number)? {
                agreed = true;
                waiting_since = Instant::now();
            }
            if let Some(transfer) = &mut transfer {
                let moved = move_values(ring, transfer, agreed);
                match moved {
                    Ok(true) => waiting_since = Instant::now(),
                    Ok(false) => {}
                    Err(trouble) => return Err(self.explain(number, trouble)),
                }
            }
            if agreed && self.control.is_flushed() && transfer.as_ref().is_none_or(Transfer::is_done) {
                return Ok(());
            }
            let left = self.timeout.saturating_sub(waiting_since.elapsed());
            if left.is_zero() {
                return Err(SyncError::Timeout {
                    rank: self.rank,
                    call: call.to_string(),
                    waited_for: self.waited_for(number, transfer.as_ref()),
                    timeout: self.timeout,
                });
            }
            let mut wanted = self.control.wanted().collect::<Vec<_>>();
            if let Some(transfer) = &transfer {
                if transfer.may_send() {
                    wanted.push(PollFd::new(ring.next(), PollFlags::OUT));
                }
                if agreed && transfer.may_receive() {
                    wanted.push(PollFd::new(ring.previous(), PollFlags::IN));
                }
            }
            wait(&mut wanted, left);
        }
    }

    /// The workers that keep this one from going on, in order of rank.
    fn waited_for(&self, number: u64, transfer: Option<&Transfer<'_>>) -> Vec<usize> {
        let mut ranks = self.control.awaited(number).collect::<Vec<_>>();
        if ranks.is_empty()
            && let Some(transfer) = transfer
        {
            if transfer.may_receive() {
                ranks.push((self.rank + self.world - 1) % self.world);
            } else {
                ranks.push((self.rank + 1) % self.world);
            }
        }
        ranks
    }

    /// The error that stands behind trouble with the values. If a connection broke, the worker at its other end has
    /// mostly said why on the control connection, or somebody else has.
    fn explain(&mut self, number: u64, trouble: Trouble) -> SyncError {
        let (peer_rank, error) = match trouble {
            Trouble::NextBroke(error) => ((self.rank + 1) % self.world, error),
            Trouble::PreviousBroke(error) => ((self.rank + self.world - 1) % self.world, error),
            Trouble::BadFrame(what) => {
                return SyncError::BadFrame {
                    rank: self.rank,
                    peer_rank: (self.rank + self.world - 1) % self.world,
                    what,
                };
            }
        };
        let broke = Instant::now();
        loop {
            self.control.turn(number);
            let reason = self
                .control
                .failed(number)
                .and_then(|()| self.control.still_here(peer_rank));
            if let Err(reason) = reason {
                return reason;
            }
            let left = REASON_TIMEOUT.min(self.timeout).saturating_sub(broke.elapsed());
            if left.is_zero() {
                return SyncError::PeerGone {
                    rank: peer_rank,
                    reason: format!(
                        "its connection broke ({error}); look at the network between worker {} and it",
                        self.rank
                    ),
                };
            }
            wait(&mut self.control.wanted().collect::<Vec<_>>(), left);
        }
    }
}

/// Sends and receives until nothing is ready; whether anything was.
fn move_values(ring: &mut Ring, transfer: &mut Transfer<'_>, receives: bool) -> Result<bool, Trouble> {
    let mut moved = false;
    loop {
        let sent = ring.send(transfer)?;
        let received = receives && ring.receive(transfer)?;
        if !sent && !received {
            return Ok(moved);
        }
        moved = true;
    }
}

impl Transport for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let call = Call::AllReduce { length: values.len() };
        self.call(call, &[], Some((Task::Reduce { average: false }, values)))
    }

    /// Divides each sum where it is completed, before it goes to the others.
    fn all_reduce_average(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        if self.world == 1 {
            return Ok(());
        }
        let call = Call::Average { length: values.len() };
        self.call(call, &[], Some((Task::Reduce { average: true }, values)))
    }

    fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), SyncError> {
        if root >= self.world {
            let error = SyncError::NoSuchRoot {
                root,
                world: self.world,
            };
            self.abort(&error.to_string());
            return Err(error);
        }
        let call = Call::Broadcast {
            root,
            length: values.len(),
        };
        self.call(call, &[], Some((Task::Broadcast { root }, values)))
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SyncError> {
        if bytes.len() > MAX_MESSAGE_LENGTH {
            let error = SyncError::MessageTooLong {
                length: bytes.len(),
                limit: MAX_MESSAGE_LENGTH,
            };
            self.abort(&error.to_string());
            return Err(error);
        }
        self.call(Call::AllGather, bytes, None)?;
        Ok(self.control.messages(self.calls_made))
    }

    fn abort(&mut self, reason: &str) {
        self.control.turn(self.calls_made);
        let gone = SyncError::PeerGone {
            rank: self.rank,
            reason: reason.to_owned(),
        };
        self.control.fail(self.calls_made + 1, gone, self.rank, reason);
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() {
            "its thread panicked; the message of the panic says why"
        } else {
            "it ended while others still needed it; its own log says why"
        };
        self.control.leave(self.calls_made, reason);
    }
}
