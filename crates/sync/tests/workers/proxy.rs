//! Stands between two true workers and spoils what one of them sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// What a connector sends before its first frame, and where in it the purpose of the connection is.
const HANDSHAKE_LENGTH: usize = 60 + 32;
const PURPOSE_AT: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Control = 1,
    Values = 2,
}

/// What happens to the bytes from the connector to the acceptor. Positions count from the first frame.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// This byte is changed.
    Change { at: usize },
    /// From here on nothing comes any more, though the connection stays.
    Stall { at: usize },
    /// Here the connection ends.
    Cut { at: usize },
}

/// The address to give to the connector in the place of `target`, from where its next connections are passed on. Of
/// those with this purpose the first one has the fault.
pub fn spoil(target: &str, purpose: Purpose, fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = target.to_owned();
    std::thread::spawn(move || {
        let used = std::sync::Arc::new(AtomicBool::new(false));
        for connector in listener.incoming() {
            let (Ok(connector), Ok(acceptor)) = (connector, TcpStream::connect(&target)) else {
                return;
            };
            let (from, to) = (acceptor.try_clone().unwrap(), connector.try_clone().unwrap());
            std::thread::spawn(move || pass_on(from, to, |_, _| true));
            let used = std::sync::Arc::clone(&used);
            std::thread::spawn(move || {
                let mut is_spoilt = false;
                pass_on(connector, acceptor, |position, bytes| {
                    let purpose_here = PURPOSE_AT.checked_sub(position).and_then(|at| bytes.get(at).copied());
                    if purpose_here == Some(purpose as u8) {
                        is_spoilt = !used.swap(true, SeqCst);
                    }
                    let end = position + bytes.len();
                    let reached = |at: usize| is_spoilt && end > HANDSHAKE_LENGTH + at;
                    match fault {
                        Fault::Change { at } if reached(at) => {
                            if let Some(at) = (HANDSHAKE_LENGTH + at).checked_sub(position) {
                                bytes[at] ^= 0x41;
                            }
                            true
                        }
                        Fault::Stall { at } if reached(at) => loop {
                            std::thread::park();
                        },
                        Fault::Cut { at } => !reached(at),
                        _ => true,
                    }
                });
            });
        }
    });
    address
}

/// Passes bytes on until `spoil` returns false or one end is gone.
fn pass_on(mut from: TcpStream, mut to: TcpStream, mut spoil: impl FnMut(usize, &mut [u8]) -> bool) {
    let mut position = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if !spoil(position, &mut buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
        position += length;
    }
    for stream in [from, to] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}
