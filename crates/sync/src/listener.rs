use crate::handshake::{self, HELLO_LENGTH, Hello, JobToken, NONCE_LENGTH, Nonce, PROOF_LENGTH, Purpose, Role};
use crate::{SyncError, Tcp, TcpOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long somebody who has connected may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How many may be about to say who they are at once. The oldest has to go when there is one more.
const MAX_GUESTS: usize = 128;

/// How long a worker goes on trying to reach one whose machine refuses. Workers listen before anybody knows their
/// address, so this is only for a network that is not yet ready.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often whoever waits for connections looks whether the other half of the work has failed.
const TICK: Duration = Duration::from_millis(50);

/// A worker that others can already connect to, but that does not yet know their addresses.
///
/// ```
/// use sparknet_sync::{Compression, JobToken, Listener, TcpOptions, Transport};
/// use std::time::Duration;
///
/// // Each worker, in a process of its own, listens first; the driver hands round the addresses and the token.
/// let listeners = [Listener::bind("127.0.0.1:0")?, Listener::bind("127.0.0.1:0")?];
/// let peers = listeners.iter().map(|listener| listener.local_addr().to_string()).collect::<Vec<_>>();
/// let token = JobToken::random()?;
///
/// let options = TcpOptions { timeout: Duration::from_secs(60), compression: Compression::None };
/// std::thread::scope(|scope| {
///     for (rank, listener) in listeners.into_iter().enumerate() {
///         let (peers, token) = (&peers, &token);
///         scope.spawn(move || {
///             let mut transport = listener.connect(rank, peers, token, options)?;
///             let mut values = [rank as f32, 1.0];
///             transport.all_reduce_sum(&mut values)?;
///             assert_eq!(values, [1.0, 2.0]);
///             Ok::<_, sparknet_sync::SyncError>(())
///         });
///     }
/// });
/// # Ok::<_, sparknet_sync::SyncError>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`, e.g. `10.0.0.7:0`, `0.0.0.0:0` or `[::]:0`; port 0 is any free one.
    pub fn bind(address: &str) -> Result<Self, SyncError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listen().map_err(|error: io::Error| SyncError::Listen {
            address: address.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Where this worker listens: with the port, also if it was given as 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connects with all other workers, and returns when every connection has been proved to belong to this job.
    ///
    /// `peers` are the addresses of all workers as `host:port`, in order of rank, this worker's own included; every
    /// worker gets the same list. Every worker connects to those of lower rank and to the next one in the ring, and
    /// waits for the others. Whoever connects without knowing the `token` is turned away, and delays nobody.
    ///
    /// Fails if a worker cannot be reached or does not come within the timeout of `options`.
    pub fn connect(
        self,
        rank: usize,
        peers: &[String],
        token: &JobToken,
        options: TcpOptions,
    ) -> Result<Tcp, SyncError> {
        let world = peers.len();
        if rank >= world {
            return Err(SyncError::NoSuchRank { rank, world });
        }
        let meeting = Meeting {
            rank,
            world,
            token,
            timeout: options.timeout,
            began: Instant::now(),
            failed: AtomicBool::new(false),
        };
        let next = (rank + 1) % world;
        let (accepted, connected) = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let result = (0..rank)
                    .map(|peer| (peer, Purpose::Control))
                    .chain((world > 1).then_some((next, Purpose::Values)))
                    .map(|(peer, purpose)| meeting.connect_to(peer, &peers[peer], purpose))
                    .collect::<Result<Vec<_>, _>>();
                meeting.failed.fetch_or(result.is_err(), Relaxed);
                result
            });
            let accepted = meeting.accept_others(&self.listener);
            meeting.failed.fetch_or(accepted.is_err(), Relaxed);
            (accepted, connecting.join())
        });
        // Nothing in that thread panics; if it does, that is not hidden.
        let connected = connected.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Whichever failed first stopped the other, and an accept that was stopped is no error.
        let accepted = accepted?;
        let mut connected = connected?;
        let to_next = if world > 1 { connected.pop() } else { None };
        let mut control = (0..world).map(|_| None).collect::<Vec<_>>();
        let mut from_previous = None;
        for (peer, stream) in connected.into_iter().enumerate() {
            control[peer] = Some(stream);
        }
        for (hello, stream) in accepted {
            match hello.purpose {
                Purpose::Control => control[hello.connector] = Some(stream),
                Purpose::Values => from_previous = Some(stream),
            }
        }
        Ok(Tcp::new(rank, world, control, to_next.zip(from_previous), options))
    }
}

/// What one worker knows while all connect.
struct Meeting<'a> {
    rank: usize,
    world: usize,
    token: &'a JobToken,
    timeout: Duration,
    began: Instant,
    /// One half of the work has failed, so the other may stop.
    failed: AtomicBool,
}

/// Somebody who has connected and not yet proved anything.
struct Guest {
    stream: TcpStream,
    address: SocketAddr,
    since: Instant,
    /// What it has sent: a hello, then a proof. No more than that is read.
    bytes: [u8; HELLO_LENGTH + PROOF_LENGTH],
    length: usize,
    /// Ours, once the hello is here and sounds right.
    challenged: Option<(Hello, Nonce)>,
}

/// What became of a guest that was looked at.
enum Verdict {
    NotYet,
    Admitted(Hello),
    TurnedAway(String),
}

impl Meeting<'_> {
    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.began.elapsed())
    }

    /// Waits until all workers that have to connect to this one have, and gives their connections.
    fn accept_others(&self, listener: &TcpListener) -> Result<Vec<(Hello, TcpStream)>, SyncError> {
        let previous = (self.rank + self.world - 1) % self.world;
        let mut missing = (self.rank + 1..self.world)
            .map(|peer| (peer, Purpose::Control))
            .chain((self.world > 1).then_some((previous, Purpose::Values)))
            .collect::<Vec<_>>();
        let (mut guests, mut admitted) = (Vec::<Guest>::new(), Vec::new());
        let mut turned_away = String::new();
        while !missing.is_empty() && !self.failed.load(Relaxed) {
            if self.left().is_zero() {
                let mut waited_for = missing.iter().map(|&(peer, _)| peer).collect::<Vec<_>>();
                waited_for.sort_unstable();
                waited_for.dedup();
                return Err(SyncError::NotConnected {
                    rank: self.rank,
                    waited_for,
                    timeout: self.timeout,
                    turned_away,
                });
            }
            // An error here is one of a guest that left before it was let in, or of a machine without free files.
            while let Ok((stream, address)) = listener.accept() {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if guests.len() == MAX_GUESTS {
                    guests.remove(0);
                }
                guests.push(Guest {
                    stream,
                    address,
                    since: Instant::now(),
                    bytes: [0; HELLO_LENGTH + PROOF_LENGTH],
                    length: 0,
                    challenged: None,
                });
            }
            let mut index = 0;
            while index < guests.len() {
                match self.look_at(&mut guests[index], &missing) {
                    Verdict::NotYet => index += 1,
                    Verdict::Admitted(hello) => {
                        missing.retain(|&wanted| wanted != (hello.connector, hello.purpose));
                        admitted.push((hello, guests.remove(index).stream));
                    }
                    Verdict::TurnedAway(reason) => {
                        let guest = guests.remove(index);
                        turned_away = format!(", and {} was turned away because {reason}", guest.address);
                    }
                }
            }
            if !missing.is_empty() {
                let mut wanted = vec![PollFd::new(listener, PollFlags::IN)];
                wanted.extend(guests.iter().map(|guest| PollFd::new(&guest.stream, PollFlags::IN)));
                wait(&mut wanted, TICK.min(self.left()));
            }
        }
        Ok(admitted)
    }

    /// Reads what has come from a guest, and answers.
    fn look_at(&self, guest: &mut Guest, missing: &[(usize, Purpose)]) -> Verdict {
        loop {
            let wanted = if guest.challenged.is_none() {
                HELLO_LENGTH
            } else {
                HELLO_LENGTH + PROOF_LENGTH
            };
            match guest.stream.read(&mut guest.bytes[guest.length..wanted]) {
                Ok(0) => return Verdict::TurnedAway("it left before it had proved anything".to_owned()),
                Ok(length) => guest.length += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return if guest.since.elapsed() < HELLO_TIMEOUT {
                        Verdict::NotYet
                    } else {
                        Verdict::TurnedAway("it did not say who it is".to_owned())
                    };
                }
                Err(error) => return Verdict::TurnedAway(format!("its connection broke ({error})")),
            }
            if guest.length == wanted {
                match self.answer(guest, missing) {
                    Ok(None) => {}
                    Ok(Some(hello)) => return Verdict::Admitted(hello),
                    Err(reason) => return Verdict::TurnedAway(reason),
                }
            }
        }
    }

    /// Answers a hello with a nonce, and a proof with a proof: the guest's hello if it is admitted.
    fn answer(&self, guest: &mut Guest, missing: &[(usize, Purpose)]) -> Result<Option<Hello>, String> {
        let mut bytes = [0; HELLO_LENGTH];
        bytes.copy_from_slice(&guest.bytes[..HELLO_LENGTH]);
        // A few bytes on a connection that has carried nothing go out at once or never.
        let broke = |error: io::Error| format!("its connection broke ({error})");
        let Some((hello, nonce)) = guest.challenged else {
            let hello = Hello::decode(&bytes)?;
            if (hello.world, hello.acceptor) != (self.world, self.rank) {
                return Err(format!(
                    "it looks for worker {} of {} where worker {} of {} is",
                    hello.acceptor, hello.world, self.rank, self.world
                ));
            }
            let nonce = handshake::random_bytes().map_err(|error| error.to_string())?;
            guest.stream.write_all(&nonce).map_err(broke)?;
            guest.challenged = Some((hello, nonce));
            return Ok(None);
        };
        let proof = &guest.bytes[HELLO_LENGTH..];
        if !handshake::is_proof(proof, self.token, Role::Connector, &bytes, &nonce) {
            return Err("it does not know this job's token".to_owned());
        }
        if !missing.contains(&(hello.connector, hello.purpose)) {
            return Err(format!(
                "it says it is worker {}, which is not awaited",
                hello.connector
            ));
        }
        let proof = handshake::proof(self.token, Role::Acceptor, &bytes, &nonce);
        guest.stream.write_all(&proof).map_err(broke)?;
        prepare(&guest.stream).map_err(broke)?;
        Ok(Some(hello))
    }

    /// Connects to a worker, proves to it that this one belongs to the job, and has it prove the same.
    fn connect_to(&self, peer: usize, address: &str, purpose: Purpose) -> Result<TcpStream, SyncError> {
        let failed = |reason| SyncError::Connect {
            rank: self.rank,
            peer_rank: peer,
            address: address.to_owned(),
            reason,
        };
        let mut stream = self.reach(address).map_err(|error| {
            failed(format!(
                "{error}; look at what happened there, and whether this machine may reach that one"
            ))
        })?;
        let hello = Hello {
            world: self.world,
            connector: self.rank,
            acceptor: peer,
            purpose,
            nonce: handshake::random_bytes()?,
        }
        .encode();
        let mut shake_hands = || -> io::Result<bool> {
            stream.set_nonblocking(false)?;
            stream.write_all(&hello)?;
            let mut nonce = [0; NONCE_LENGTH];
            self.read_exactly(&mut stream, &mut nonce)?;
            stream.write_all(&handshake::proof(self.token, Role::Connector, &hello, &nonce))?;
            let mut proof = [0; PROOF_LENGTH];
            self.read_exactly(&mut stream, &mut proof)?;
            prepare(&stream)?;
            stream.set_nonblocking(true)?;
            Ok(handshake::is_proof(&proof, self.token, Role::Acceptor, &hello, &nonce))
        };
        match shake_hands() {
            Ok(true) => Ok(stream),
            Ok(false) => Err(failed(
                "who answers there does not know this job's token; give all workers the same list of addresses"
                    .to_owned(),
            )),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(failed(format!(
                "nobody answered within {:?}; look at what happened there",
                self.timeout
            ))),
            Err(error) => Err(failed(format!(
                "it ended the handshake ({error}); give all workers the same token, list of addresses and version of \
                 sparknet, and look at what happened there"
            ))),
        }
    }

    /// A connection to the first address of the host that answers.
    fn reach(&self, address: &str) -> io::Result<TcpStream> {
        let mut last_error;
        loop {
            last_error = io::Error::new(ErrorKind::NotFound, "the host has no address");
            match address.to_socket_addrs() {
                Err(error) => last_error = error,
                Ok(candidates) => {
                    for candidate in candidates {
                        // connect_timeout rejects a timeout of zero.
                        match TcpStream::connect_timeout(&candidate, self.left().max(Duration::from_millis(1))) {
                            Ok(stream) => return Ok(stream),
                            Err(error) => last_error = error,
                        }
                    }
                }
            }
            let give_up = self.began.elapsed() >= RETRY_TIMEOUT.min(self.timeout);
            if give_up || self.failed.load(Relaxed) || last_error.kind() == ErrorKind::InvalidInput {
                return Err(last_error);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Fills `bytes`, within what is left of the timeout however slowly they come.
    fn read_exactly(&self, stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
        let mut length = 0;
        while length < bytes.len() {
            if self.left().is_zero() || self.failed.load(Relaxed) {
                return Err(ErrorKind::TimedOut.into());
            }
            let tick = TICK.min(self.left()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(tick))?;
            match stream.read(&mut bytes[length..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => length += read,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Small frames go out at once, and a machine that vanishes is found out even where nobody sends anything.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Sleeps until one of the connections is ready, or the time is over. May also return early.
pub(crate) fn wait(wanted: &mut [PollFd<'_>], longest: Duration) {
    // A poll that fails was interrupted, or the machine is out of memory; either way whoever waits looks again, and
    // gives up at its deadline.
    let longest = longest.min(Duration::from_secs(3600));
    if let Ok(longest) = Timespec::try_from(longest) {
        let _ = poll(wanted, Some(&longest));
    }
}
