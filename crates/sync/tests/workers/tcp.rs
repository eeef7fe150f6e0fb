//! Workers that are connected by TCP, each on its own thread of this process.

use sparknet_sync::{Compression, JobToken, Listener, SyncError, Tcp, TcpOptions};
use std::time::Duration;

pub const EXACT: TcpOptions = TcpOptions {
    timeout: super::TIMEOUT,
    compression: Compression::None,
};

/// As [`EXACT`], with another timeout.
pub fn within(timeout: Duration) -> TcpOptions {
    TcpOptions { timeout, ..EXACT }
}

/// Listeners on the loopback device, and their addresses.
pub fn listen(world: usize) -> (Vec<Listener>, Vec<String>) {
    let listeners = (0..world).map(|_| Listener::bind("127.0.0.1:0").unwrap());
    let listeners = listeners.collect::<Vec<_>>();
    let peers = listeners.iter().map(|listener| listener.local_addr().to_string());
    let peers = peers.collect();
    (listeners, peers)
}

pub fn token() -> JobToken {
    JobToken::from_bytes([7; 32])
}

/// What each worker's connecting gave, in order of rank.
pub fn try_connect(listeners: Vec<Listener>, peers: &[String], options: TcpOptions) -> Vec<Result<Tcp, SyncError>> {
    std::thread::scope(|scope| {
        let threads = listeners
            .into_iter()
            .enumerate()
            .map(|(rank, listener)| scope.spawn(move || listener.connect(rank, peers, &token(), options)))
            .collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Connected transports, in order of rank.
pub fn connect(world: usize, options: TcpOptions) -> Vec<Tcp> {
    let (listeners, peers) = listen(world);
    let transports = try_connect(listeners, &peers, options).into_iter();
    transports.map(Result::unwrap).collect()
}

/// What `work` returned on each worker, in order of rank.
pub fn run<T: Send>(world: usize, options: TcpOptions, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads = connect(world, options)
            .into_iter()
            .map(|transport| scope.spawn(move || work(transport)))
            .collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
