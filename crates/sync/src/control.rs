use crate::SyncError;
use crate::call::{Call, disagreement};
use crate::frame::{self, HEADER_LENGTH, Header, Kind};
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// The longest message of an all-gather, in bytes.
pub(crate) const MAX_MESSAGE_LENGTH: usize = 16 << 20;
/// Of the call in an announcement: its kind, its root and its length.
const CALL_LENGTH: usize = 16;
/// The longest reason of an abort that is passed on, in bytes.
const MAX_REASON_LENGTH: usize = 4096;

/// The control connections of one worker: one to each other worker, for everything but values.
///
/// They are apart from the values so that bad news does not queue behind megabytes, and between any two workers so that
/// each sees for itself who is gone.
pub(crate) struct Control {
    rank: usize,
    /// By rank; `None` for this worker.
    peers: Vec<Option<Peer>>,
    own: [Announced; 2],
    /// Scratch, by rank.
    calls: Vec<Call>,
    failure: Option<Failure>,
}

/// Why the run is over. Calls before number `from_call` are not concerned: what they need is on its way.
struct Failure {
    from_call: u64,
    error: SyncError,
}

struct Peer {
    stream: TcpStream,
    /// What has come and not yet been understood is `inbox[..received]`.
    inbox: Vec<u8>,
    received: usize,
    /// What still has to go out is `outbox[sent..]`.
    outbox: Vec<u8>,
    sent: usize,
    /// Of call n at n % 2: a worker is never more than one call ahead of another.
    announced: [Announced; 2],
    /// Why nothing more will come.
    gone: Option<String>,
}

#[derive(Clone)]
struct Announced {
    number: u64,
    call: Call,
    message: Vec<u8>,
}

impl Announced {
    fn none() -> [Self; 2] {
        [(); 2].map(|()| Self {
            number: 0,
            call: Call::AllGather,
            message: Vec::new(),
        })
    }
}

impl Control {
    /// `streams` are by rank, non-blocking, and `None` for this worker.
    pub(crate) fn new(rank: usize, streams: Vec<Option<TcpStream>>) -> Self {
        let peer = |stream| Peer {
            stream,
            inbox: vec![0; 4096],
            received: 0,
            outbox: Vec::new(),
            sent: 0,
            announced: Announced::none(),
            gone: None,
        };
        Self {
            rank,
            calls: Vec::with_capacity(streams.len()),
            peers: streams.into_iter().map(|stream| stream.map(peer)).collect(),
            own: Announced::none(),
            failure: None,
        }
    }

    /// Tells everyone that this worker is at call `number`.
    pub(crate) fn announce(&mut self, number: u64, call: Call, message: &[u8]) {
        let own = &mut self.own[slot(number)];
        own.number = number;
        own.call = call;
        own.message.clear();
        own.message.extend_from_slice(message);
        let header = Header {
            kind: Kind::Announcement,
            call: number,
            index: 0,
            length: (CALL_LENGTH + message.len()) as u32,
            exponent: 0,
        };
        self.send(header, &encode_call(call), message);
    }

    /// Ends the run for everyone from call `from_call` on, unless it has ended before. `error` is what this worker's
    /// calls return; the others are told that worker `blamed` is gone for this reason.
    pub(crate) fn fail(&mut self, from_call: u64, error: SyncError, blamed: usize, reason: &str) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(Failure { from_call, error });
        let mut end = reason.len().min(MAX_REASON_LENGTH);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let header = Header {
            kind: Kind::Abort,
            call: from_call,
            index: blamed as u32,
            length: end as u32,
            exponent: 0,
        };
        self.send(header, &reason.as_bytes()[..end], &[]);
    }

    /// As [`fail`](Self::fail), of an error that everyone finds out without being told.
    pub(crate) fn fail_silently(&mut self, from_call: u64, error: SyncError) {
        self.failure.get_or_insert(Failure { from_call, error });
    }

    /// Tells everyone that this worker does nothing any more.
    pub(crate) fn leave(&mut self, calls_made: u64, reason: &str) {
        let header = Header {
            kind: Kind::Leave,
            call: calls_made,
            index: 0,
            length: reason.len() as u32,
            exponent: 0,
        };
        self.send(header, reason.as_bytes(), &[]);
        // What is unread when a connection is closed makes the system reset it, and that can overtake the reason.
        for peer in self.peers.iter_mut().flatten() {
            let mut rest = [0; 4096];
            while matches!(peer.stream.read(&mut rest), Ok(1..)) {}
        }
    }

    /// Puts a frame, its payload given in two parts, into everyone's outbox, and sends what can be sent at once.
    fn send(&mut self, header: Header, payload: &[u8], more: &[u8]) {
        let header = header.encode(&[payload, more]);
        for peer in self.peers.iter_mut().flatten() {
            peer.outbox.extend_from_slice(&header);
            peer.outbox.extend_from_slice(payload);
            peer.outbox.extend_from_slice(more);
            peer.flush();
        }
    }

    /// Sends what can be sent and takes in what has come, without waiting. `number` is the call that this worker is at.
    pub(crate) fn turn(&mut self, number: u64) {
        for rank in 0..self.peers.len() {
            let Some(peer) = &mut self.peers[rank] else { continue };
            peer.flush();
            match peer.take_in(number) {
                Ok(()) => {}
                Err(News::Abort {
                    from_call,
                    blamed,
                    reason,
                }) => {
                    let (rank, reason) = if blamed == self.rank {
                        (rank, format!("it gave this worker up: {reason}"))
                    } else {
                        (blamed, reason)
                    };
                    self.fail_silently(from_call, SyncError::PeerGone { rank, reason });
                }
                Err(News::BadFrame(what)) => {
                    let error = SyncError::BadFrame {
                        rank: self.rank,
                        peer_rank: rank,
                        what,
                    };
                    let reason = error.to_string();
                    self.fail(number, error, self.rank, &reason);
                }
            }
        }
    }

    /// The error of call `number`, if it or one before has failed.
    pub(crate) fn failed(&self, number: u64) -> Result<(), SyncError> {
        match &self.failure {
            Some(failure) if failure.from_call <= number => Err(failure.error.clone()),
            _ => Ok(()),
        }
    }

    /// The workers that have not yet announced call `number`, in order of rank.
    pub(crate) fn awaited(&self, number: u64) -> impl Iterator<Item = usize> {
        let peers = self.peers.iter().enumerate();
        peers.filter_map(move |(rank, peer)| {
            let announced = &peer.as_ref()?.announced[slot(number)];
            (announced.number != number).then_some(rank)
        })
    }

    /// Whether all workers have announced call `number`. Fails if one never will, or if the calls differ.
    pub(crate) fn agreed(&mut self, number: u64) -> Result<bool, SyncError> {
        let mut all = true;
        for rank in self.awaited(number) {
            self.still_here(rank)?;
            all = false;
        }
        if all {
            self.calls.clear();
            for peer in &self.peers {
                let announced = peer.as_ref().map_or(&self.own, |peer| &peer.announced);
                self.calls.push(announced[slot(number)].call);
            }
            disagreement(&self.calls).map_or(Ok(()), Err)?;
        }
        Ok(all)
    }

    /// Fails if nothing more will come from this worker.
    pub(crate) fn still_here(&self, rank: usize) -> Result<(), SyncError> {
        match self.peers[rank].as_ref().and_then(|peer| peer.gone.as_ref()) {
            None => Ok(()),
            Some(reason) => Err(SyncError::PeerGone {
                rank,
                reason: reason.clone(),
            }),
        }
    }

    /// The messages of call `number`, which all have announced, in order of rank.
    pub(crate) fn messages(&self, number: u64) -> Vec<Vec<u8>> {
        let announced = |peer: &Option<Peer>| {
            let announced = peer.as_ref().map_or(&self.own, |peer| &peer.announced);
            announced[slot(number)].message.clone()
        };
        self.peers.iter().map(announced).collect()
    }

    /// Whether everything that was announced is on its way.
    pub(crate) fn is_flushed(&self) -> bool {
        self.peers
            .iter()
            .flatten()
            .all(|peer| peer.gone.is_some() || peer.outbox.is_empty())
    }

    /// The connections on which something can happen, to be waited for.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = PollFd<'_>> {
        let here = self.peers.iter().flatten().filter(|peer| peer.gone.is_none());
        here.map(|peer| {
            let sending = if peer.outbox.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            PollFd::new(&peer.stream, PollFlags::IN | sending)
        })
    }
}

/// What ends the run.
enum News {
    Abort {
        from_call: u64,
        blamed: usize,
        reason: String,
    },
    BadFrame(String),
}

impl Peer {
    fn flush(&mut self) {
        while self.sent < self.outbox.len() && self.gone.is_none() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Broken connections are found out by whoever reads, who may find the reason there.
                Err(_) => return,
            }
        }
        self.outbox.clear();
        self.sent = 0;
    }

    /// Reads and understands what has come.
    fn take_in(&mut self, number: u64) -> Result<(), News> {
        while self.gone.is_none() {
            match self.stream.read(&mut self.inbox[self.received..]) {
                Ok(0) => {
                    self.gone = Some(
                        "its connections are closed: its process ended, or was killed; its own log may say why"
                            .to_owned(),
                    )
                }
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.gone = Some(format!("its connection broke ({error}); its own log may say why")),
            }
            while self.understand(number)? {}
        }
        Ok(())
    }

    /// Takes one frame out of the inbox, if there is a whole one.
    fn understand(&mut self, number: u64) -> Result<bool, News> {
        let Some(bytes) = self.inbox[..self.received].first_chunk::<HEADER_LENGTH>() else {
            return Ok(false);
        };
        let header = Header::decode(bytes).map_err(News::BadFrame)?;
        let limit = match header.kind {
            Kind::Announcement => CALL_LENGTH + MAX_MESSAGE_LENGTH,
            Kind::Abort | Kind::Leave => MAX_REASON_LENGTH,
            Kind::Piece => 0,
        };
        let length = header.length as usize;
        if length > limit {
            return Err(News::BadFrame(format!(
                "a frame of {length} bytes, where {limit} are the most"
            )));
        }
        let end = HEADER_LENGTH + length;
        if self.received < end {
            if self.received == self.inbox.len() {
                // What a header claims is believed only as fast as it comes.
                self.inbox.resize(end.min(2 * self.inbox.len()), 0);
            }
            return Ok(false);
        }
        if !frame::is_intact(bytes, &self.inbox[HEADER_LENGTH..end]) {
            return Err(News::BadFrame("a frame whose checksum is wrong".to_owned()));
        }
        let payload = &self.inbox[HEADER_LENGTH..end];
        match header.kind {
            Kind::Announcement => {
                let call = decode_call(payload).map_err(News::BadFrame)?;
                let announced = &mut self.announced;
                // Calls come in order, and nobody can be at the call after next.
                let last = announced[0].number.max(announced[1].number);
                if header.call != last + 1 || header.call > number + 1 {
                    let (due, came) = (last + 1, header.call);
                    return Err(News::BadFrame(format!(
                        "the announcement of call {came} where call {due} was due"
                    )));
                }
                let announced = &mut announced[slot(header.call)];
                announced.number = header.call;
                announced.call = call;
                announced.message.clear();
                announced.message.extend_from_slice(&payload[CALL_LENGTH..]);
            }
            Kind::Abort => {
                let reason = String::from_utf8_lossy(payload).into_owned();
                return Err(News::Abort {
                    from_call: header.call,
                    blamed: header.index as usize,
                    reason,
                });
            }
            Kind::Leave => self.gone = Some(String::from_utf8_lossy(payload).into_owned()),
            Kind::Piece => return Err(News::BadFrame("values where there are none".to_owned())),
        }
        self.inbox.copy_within(end..self.received, 0);
        self.received -= end;
        Ok(true)
    }
}

fn slot(number: u64) -> usize {
    (number % 2) as usize
}

fn encode_call(call: Call) -> [u8; CALL_LENGTH] {
    let (kind, root, length) = match call {
        Call::AllReduce { length } => (1u32, 0, length),
        Call::Average { length } => (2, 0, length),
        Call::Broadcast { root, length } => (3, root, length),
        Call::AllGather => (4, 0, 0),
    };
    let mut bytes = [0; CALL_LENGTH];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&(root as u32).to_le_bytes());
    bytes[8..].copy_from_slice(&(length as u64).to_le_bytes());
    bytes
}

/// The call that a payload begins with, or what is wrong with it.
fn decode_call(payload: &[u8]) -> Result<Call, String> {
    let Some(&[a, b, c, d, e, f, g, h, ref length @ ..]) = payload.first_chunk::<CALL_LENGTH>() else {
        return Err("an announcement that is too short".to_owned());
    };
    let root = u32::from_le_bytes([e, f, g, h]) as usize;
    let length = u64::from_le_bytes(*length) as usize;
    match u32::from_le_bytes([a, b, c, d]) {
        1 => Ok(Call::AllReduce { length }),
        2 => Ok(Call::Average { length }),
        3 => Ok(Call::Broadcast { root, length }),
        4 => Ok(Call::AllGather),
        other => Err(format!("the announcement of an unknown call {other}")),
    }
}
