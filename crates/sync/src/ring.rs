use crate::frame::{self, HEADER_LENGTH, Header, Kind};
use crate::{Compression, half_precision, segment};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

/// How many values one frame carries at most. A frame that is received has to stay in the cache until it is added and
/// sent on; smaller ones cost more system calls.
const MAX_PIECE_LENGTH: usize = 64 * 1024;

/// The connections that values go over: from the worker before this one in the ring, and to the one after it.
pub(crate) struct Ring {
    next: TcpStream,
    previous: TcpStream,
    compression: Compression,
    /// The header of the frame that is being sent, and how much of that frame is out; 0 before it is begun.
    sending: [u8; HEADER_LENGTH],
    sent_bytes: usize,
    /// The header of the frame that is being received, and how much of that frame is here.
    receiving: [u8; HEADER_LENGTH],
    received_bytes: usize,
    /// What was received to be added.
    added: Vec<f32>,
    /// The payloads of the two frames above, compressed.
    compressed_out: Vec<u16>,
    compressed_in: Vec<u16>,
    /// By piece of a segment: the exponent that a compressed sum was received with, and has to be sent on with.
    exponents: Vec<i32>,
}

/// What is done with the values that workers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Sums them, and divides the sums by the number of workers if `average`.
    Reduce { average: bool },
    /// Replaces them by those of worker `root`.
    Broadcast { root: usize },
}

/// Which frames a worker sends and receives in one call, and where their values lie.
///
/// All frames of a call are numbered from 0, on each connection. In an all-reduce every segment is cut into the same
/// number of pieces, and frame `step · pieces + piece` of worker r carries that piece of segment (r − step) mod world:
/// first its own values of segment r; then, in world − 2 steps, what it has received plus its own values; then, in
/// world − 1 steps, sums that are complete. So whatever is sent was received one step before (but for the first step),
/// and a frame can go out as soon as the one `pieces` before it has come in. A broadcast is the same with steps of one
/// frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    task: Task,
    rank: usize,
    world: usize,
    length: usize,
    pieces: usize,
    sends: usize,
    receives: usize,
    /// How many frames can be sent before any is received.
    free_sends: usize,
}

impl Plan {
    pub(crate) fn new(task: Task, rank: usize, world: usize, length: usize) -> Self {
        let (pieces, sends, receives, free_sends) = match task {
            Task::Reduce { .. } => {
                let pieces = length.div_ceil(world).div_ceil(MAX_PIECE_LENGTH);
                let frames = 2 * (world - 1) * pieces;
                (pieces, frames, frames, pieces)
            }
            Task::Broadcast { root } => {
                let pieces = length.div_ceil(MAX_PIECE_LENGTH);
                let is_last = (rank + 1) % world == root;
                let sends = if is_last { 0 } else { pieces };
                let receives = if rank == root { 0 } else { pieces };
                (pieces, sends, receives, pieces - receives)
            }
        };
        Self {
            task,
            rank,
            world,
            length,
            pieces,
            sends,
            receives,
            free_sends,
        }
    }

    fn step(&self, frame: usize) -> usize {
        frame / self.pieces
    }

    /// The values of a frame that this worker sends.
    fn sent(&self, frame: usize) -> Range<usize> {
        self.values(frame, self.rank)
    }

    /// The values of a frame that it receives: one that the worker before it sends.
    fn received(&self, frame: usize) -> Range<usize> {
        self.values(frame, self.rank + self.world - 1)
    }

    fn values(&self, frame: usize, sender: usize) -> Range<usize> {
        let piece = frame % self.pieces;
        let whole = match self.task {
            Task::Reduce { .. } => {
                // There are fewer than 2 · world steps.
                let index = (sender + 2 * self.world - self.step(frame)) % self.world;
                segment(self.length, index, self.world)
            }
            Task::Broadcast { .. } => 0..self.length,
        };
        let part = segment(whole.len(), piece, self.pieces);
        whole.start + part.start..whole.start + part.end
    }

    /// Whether a frame that is received holds sums that are not complete without this worker's values.
    fn is_added(&self, frame: usize) -> bool {
        matches!(self.task, Task::Reduce { .. }) && self.step(frame) + 1 < self.world
    }

    /// By what the sums of a frame are divided once this worker has added its values.
    fn divisor(&self, frame: usize) -> Option<f32> {
        let is_complete = self.step(frame) + 2 == self.world;
        (self.task == Task::Reduce { average: true } && is_complete).then_some(self.world as f32)
    }
}

/// A call that is under way.
pub(crate) struct Transfer<'a> {
    pub(crate) call: u64,
    pub(crate) plan: Plan,
    pub(crate) values: &'a mut [f32],
    pub(crate) sent: usize,
    pub(crate) received: usize,
}

impl Transfer<'_> {
    pub(crate) fn may_send(&self) -> bool {
        self.sent < self.plan.sends && self.sent < self.plan.free_sends + self.received
    }

    /// Complete sums replace values that were sent `world - 1` steps before, and must not overtake them. No worker that
    /// keeps to the plan sends them so early.
    pub(crate) fn may_receive(&self) -> bool {
        let ahead = match self.plan.task {
            Task::Reduce { .. } => self.sent + (self.plan.world - 1) * self.plan.pieces,
            Task::Broadcast { .. } => self.plan.receives,
        };
        self.received < self.plan.receives && self.received < ahead
    }

    pub(crate) fn is_done(&self) -> bool {
        self.sent == self.plan.sends && self.received == self.plan.receives
    }
}

/// Why values stop moving.
pub(crate) enum Trouble {
    /// The connection to the next worker broke.
    NextBroke(io::Error),
    /// The connection from the previous worker broke or was closed.
    PreviousBroke(io::Error),
    /// The previous worker sent this.
    BadFrame(String),
}

impl Ring {
    /// Both connections have to be non-blocking.
    pub(crate) fn new(next: TcpStream, previous: TcpStream, compression: Compression) -> Self {
        Self {
            next,
            previous,
            compression,
            sending: [0; HEADER_LENGTH],
            sent_bytes: 0,
            receiving: [0; HEADER_LENGTH],
            received_bytes: 0,
            added: Vec::new(),
            compressed_out: Vec::new(),
            compressed_in: Vec::new(),
            exponents: Vec::new(),
        }
    }

    pub(crate) fn next(&self) -> &TcpStream {
        &self.next
    }

    pub(crate) fn previous(&self) -> &TcpStream {
        &self.previous
    }

    fn compresses(&self, plan: &Plan) -> bool {
        self.compression == Compression::F16 && matches!(plan.task, Task::Reduce { .. })
    }

    /// Sends as much of one frame as the connection takes at once; whether it took anything.
    pub(crate) fn send(&mut self, transfer: &mut Transfer<'_>) -> Result<bool, Trouble> {
        if !transfer.may_send() {
            return Ok(false);
        }
        let part = transfer.plan.sent(transfer.sent);
        let compresses = self.compresses(&transfer.plan);
        if self.sent_bytes == 0 {
            let exponent = if compresses {
                self.compress(transfer, part.clone())
            } else {
                0
            };
            let payload = payload(compresses, &self.compressed_out, &transfer.values[part.clone()]);
            let header = Header {
                kind: Kind::Piece,
                call: transfer.call,
                index: transfer.sent as u32,
                length: payload.len() as u32,
                exponent,
            };
            self.sending = header.encode(&[payload]);
        }
        let payload = payload(compresses, &self.compressed_out, &transfer.values[part]);
        let written = match self.sent_bytes.checked_sub(HEADER_LENGTH) {
            None => self
                .next
                .write_vectored(&[IoSlice::new(&self.sending[self.sent_bytes..]), IoSlice::new(payload)]),
            Some(sent) => self.next.write(&payload[sent..]),
        };
        match written {
            Ok(length) => self.sent_bytes += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(Trouble::NextBroke(error)),
        }
        if self.sent_bytes == HEADER_LENGTH + payload.len() {
            self.sent_bytes = 0;
            transfer.sent += 1;
        }
        Ok(true)
    }

    /// Compresses the next frame to send; its exponent.
    fn compress(&mut self, transfer: &mut Transfer<'_>, part: Range<usize>) -> i32 {
        let plan = &transfer.plan;
        let (step, piece) = (plan.step(transfer.sent), transfer.sent % plan.pieces);
        let values = &mut transfer.values[part];
        let is_passed_on = step >= plan.world;
        let exponent = if is_passed_on {
            self.exponents[piece]
        } else {
            half_precision::exponent(values)
        };
        half_precision::compress(values, exponent, &mut self.compressed_out);
        if step + 1 == plan.world {
            // The sums are complete here: this worker goes on with what the others will get.
            half_precision::decompress(&self.compressed_out, exponent, values);
        }
        exponent
    }

    /// Receives as much of one frame as has come; whether anything had.
    pub(crate) fn receive(&mut self, transfer: &mut Transfer<'_>) -> Result<bool, Trouble> {
        if !transfer.may_receive() {
            return Ok(false);
        }
        let frame = transfer.received;
        let plan = transfer.plan;
        let part = plan.received(frame);
        let compresses = self.compresses(&plan);
        let expected = Header {
            kind: Kind::Piece,
            call: transfer.call,
            index: frame as u32,
            length: (part.len() * if compresses { 2 } else { 4 }) as u32,
            exponent: 0,
        };
        let mut progress = false;
        if self.received_bytes < HEADER_LENGTH {
            let read = self.previous.read(&mut self.receiving[self.received_bytes..]);
            let Some(length) = how_much(read)? else {
                return Ok(progress);
            };
            self.received_bytes += length;
            progress = true;
            if self.received_bytes < HEADER_LENGTH {
                return Ok(progress);
            }
            let header = Header::decode(&self.receiving).map_err(Trouble::BadFrame)?;
            let exponents = if compresses { half_precision::EXPONENTS } else { 0..=0 };
            if (Header { exponent: 0, ..header }) != expected || !exponents.contains(&header.exponent) {
                let what = format!(
                    "frame {} of call {} with {} bytes, where frame {frame} of call {} with {} bytes was due",
                    header.index, header.call, header.length, expected.call, expected.length
                );
                return Err(Trouble::BadFrame(what));
            }
        }
        let target: &mut [u8] = if compresses {
            self.compressed_in.resize(part.len(), 0);
            bytemuck::cast_slice_mut(&mut self.compressed_in)
        } else if plan.is_added(frame) {
            self.added.resize(part.len(), 0.0);
            bytemuck::cast_slice_mut(&mut self.added)
        } else {
            bytemuck::cast_slice_mut(&mut transfer.values[part.clone()])
        };
        let here = self.received_bytes - HEADER_LENGTH;
        if here < target.len() {
            let Some(length) = how_much(self.previous.read(&mut target[here..]))? else {
                return Ok(progress);
            };
            self.received_bytes += length;
            progress = true;
        }
        if self.received_bytes == HEADER_LENGTH + target.len() {
            if !frame::is_intact(&self.receiving, target) {
                return Err(Trouble::BadFrame("a frame whose checksum is wrong".to_owned()));
            }
            self.take(transfer, part);
            self.received_bytes = 0;
            transfer.received += 1;
        }
        Ok(progress)
    }

    /// Does with the frame that is here what has to be done with it.
    fn take(&mut self, transfer: &mut Transfer<'_>, part: Range<usize>) {
        let (plan, frame) = (&transfer.plan, transfer.received);
        let values = &mut transfer.values[part];
        if self.compresses(plan) {
            let exponent = Header::decode(&self.receiving).map_or(0, |header| header.exponent);
            if plan.is_added(frame) {
                self.added.resize(values.len(), 0.0);
                half_precision::decompress(&self.compressed_in, exponent, &mut self.added);
            } else {
                half_precision::decompress(&self.compressed_in, exponent, values);
                self.exponents.resize(plan.pieces, 0);
                self.exponents[frame % plan.pieces] = exponent;
            }
        }
        if plan.is_added(frame) {
            match plan.divisor(frame) {
                None => add(values, &self.added, |sum| sum),
                // A power of 2 has an exact inverse, and the product is the quotient to the bit.
                Some(divisor) if plan.world.is_power_of_two() => {
                    let inverse = 1.0 / divisor;
                    add(values, &self.added, |sum| sum * inverse);
                }
                Some(divisor) => add(values, &self.added, |sum| sum / divisor),
            }
        }
    }
}

/// The order of adding is the contract's: what was summed before comes first.
fn add(values: &mut [f32], summed: &[f32], finish: impl Fn(f32) -> f32) {
    for (value, summed) in values.iter_mut().zip(summed) {
        *value = finish(*summed + *value);
    }
}

fn payload<'a>(compresses: bool, compressed: &'a [u16], values: &'a [f32]) -> &'a [u8] {
    if compresses {
        bytemuck::cast_slice(compressed)
    } else {
        bytemuck::cast_slice(values)
    }
}

/// How much was read; `None` if nothing has come.
fn how_much(read: io::Result<usize>) -> Result<Option<usize>, Trouble> {
    match read {
        Ok(0) => Err(Trouble::PreviousBroke(ErrorKind::UnexpectedEof.into())),
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(Trouble::PreviousBroke(error)),
    }
}
