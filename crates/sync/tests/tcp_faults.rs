//! What workers that are connected by TCP do when something is wrong: each ends, soon, with one sentence.

mod workers;

use sparknet_sync::{JobToken, Listener, SyncError, Tcp, Transport};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use workers::proxy::{Fault, Purpose, spoil};
use workers::second_leaves;
use workers::tcp::{EXACT, connect, listen, run, token, within};

/// Two workers whose values from 0 to 1, or whose control connection from 1 to 0, have a fault; their errors.
fn with_fault(purpose: Purpose, fault: Fault, timeout: Duration, length: usize) -> Vec<SyncError> {
    let (listeners, peers) = listen(2);
    std::thread::scope(|scope| {
        let threads = listeners.into_iter().enumerate().map(|(rank, listener)| {
            let mut peers = peers.clone();
            match purpose {
                Purpose::Values if rank == 0 => peers[1] = spoil(&peers[1], purpose, fault),
                Purpose::Control if rank == 1 => peers[0] = spoil(&peers[0], purpose, fault),
                _ => {}
            }
            scope.spawn(move || {
                let mut transport = listener.connect(rank, &peers, &token(), within(timeout)).unwrap();
                let mut values = vec![1.0; length];
                loop {
                    if let Err(error) = transport.all_reduce_sum(&mut values) {
                        return error;
                    }
                }
            })
        });
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The sentence of the worker that received something that no worker sends; the other one was told.
fn bad_frame(purpose: Purpose, at: usize) -> String {
    let errors = with_fault(purpose, Fault::Change { at }, workers::TIMEOUT, 100);
    let receiver = if purpose == Purpose::Values { 1 } else { 0 };
    let SyncError::BadFrame { rank, peer_rank, what } = &errors[receiver] else {
        panic!("{:?}", errors[receiver]);
    };
    assert_eq!((*rank, *peer_rank), (receiver, 1 - receiver));
    let told = SyncError::PeerGone {
        rank: receiver,
        reason: errors[receiver].to_string(),
    };
    assert_eq!(errors[1 - receiver], told);
    what.clone()
}

#[test]
fn values_that_are_not_what_was_sent_end_the_run() {
    // Magic, kind, call, index, length, exponent, checksum; then a value.
    let due = "where frame 0 of call 1 with 200 bytes was due";
    assert_eq!(bad_frame(Purpose::Values, 0), "something that is no frame");
    assert_eq!(bad_frame(Purpose::Values, 4), "a frame of unknown kind 69");
    assert_eq!(
        bad_frame(Purpose::Values, 8),
        format!("frame 0 of call 64 with 200 bytes, {due}")
    );
    assert_eq!(
        bad_frame(Purpose::Values, 16),
        format!("frame 65 of call 1 with 200 bytes, {due}")
    );
    let too_long = (0x41 << 24) + 200;
    assert_eq!(
        bad_frame(Purpose::Values, 23),
        format!("frame 0 of call 1 with {too_long} bytes, {due}")
    );
    for at in [24, 28, 32, 231] {
        let what = bad_frame(Purpose::Values, at);
        assert!(what.contains("checksum is wrong") || at == 24, "{what}");
    }
    // The frame after the first.
    assert_eq!(bad_frame(Purpose::Values, 232), "something that is no frame");
}

#[test]
fn announcements_that_are_not_what_was_sent_end_the_run() {
    assert_eq!(bad_frame(Purpose::Control, 0), "something that is no frame");
    assert_eq!(bad_frame(Purpose::Control, 8), "a frame whose checksum is wrong");
    assert_eq!(
        bad_frame(Purpose::Control, 23),
        format!(
            "a frame of {} bytes, where {} are the most",
            (0x41 << 24) + 16,
            (16 << 20) + 16
        )
    );
    assert_eq!(bad_frame(Purpose::Control, 40), "a frame whose checksum is wrong");
}

#[test]
fn a_connection_that_breaks_ends_the_run_for_both() {
    for purpose in [Purpose::Values, Purpose::Control] {
        for at in [0, 20, 100_000] {
            let began = Instant::now();
            for error in with_fault(purpose, Fault::Cut { at }, workers::TIMEOUT, 1_000_000) {
                assert!(matches!(error, SyncError::PeerGone { .. }), "{error:?}");
            }
            assert!(
                began.elapsed() < workers::TIMEOUT / 2,
                "they need not wait for the deadline"
            );
        }
    }
}

#[test]
fn values_that_stop_in_the_middle_end_in_the_deadline() {
    let timeout = Duration::from_millis(400);
    let errors = with_fault(Purpose::Values, Fault::Stall { at: 100_000 }, timeout, 1_000_000);
    let timeouts = errors.iter().filter(|error| matches!(error, SyncError::Timeout { .. }));
    assert!(timeouts.count() >= 1, "{errors:?}");
    for error in &errors {
        let text = error.to_string();
        assert!(
            text.contains("waited 400ms for worker") && text.contains("all-reduce of 1000000 values"),
            "{text}"
        );
    }
}

#[test]
fn a_worker_that_does_not_come_is_named_at_the_deadline() {
    let timeout = Duration::from_millis(200);
    let mut transports = connect(3, within(timeout));
    let idle = transports.remove(1);
    let errors = transports.into_iter().map(|mut transport| {
        std::thread::spawn(move || (transport.all_reduce_sum(&mut [1.0; 5]).unwrap_err(), transport))
    });
    let errors = errors
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap().0);
    let errors = errors.collect::<Vec<_>>();
    drop(idle);
    let sentence = "waited 200ms for worker 1 in the all-reduce of 5 values and gave up";
    for error in errors {
        assert!(error.to_string().contains(sentence), "{error}");
    }
}

#[test]
fn whoever_leaves_gives_its_reason_to_all_others() {
    type Leave = fn(Tcp);
    let leave_and_reason: [(Leave, &str); 3] = [
        (drop, "it ended while others still needed it; its own log says why"),
        (
            |_transport| panic!("on purpose"),
            "its thread panicked; the message of the panic says why",
        ),
        (
            |mut transport| {
                transport.abort("layer `conv1` is missing");
                transport.abort("a second reason that comes too late");
            },
            "layer `conv1` is missing",
        ),
    ];
    for (leave, reason) in leave_and_reason {
        let gone = SyncError::PeerGone {
            rank: 1,
            reason: reason.to_owned(),
        };
        for errors in second_leaves(connect(4, EXACT), leave) {
            assert_eq!(errors, (gone.clone(), gone.clone()));
        }
    }
}

#[test]
fn whoever_aborts_is_over_itself() {
    let mut transport = connect(2, EXACT).remove(0);
    transport.abort(&"too long a reason: é".repeat(1000));
    assert!(matches!(transport.barrier(), Err(SyncError::PeerGone { rank: 0, .. })));
}

#[test]
fn a_worker_that_is_done_may_leave_while_others_still_read() {
    for _ in 0..20 {
        let results = run(4, EXACT, |mut transport| {
            let mut values = vec![1.0; 100_000];
            transport.all_reduce_sum(&mut values).map(|()| values)
        });
        assert!(results.into_iter().all(|result| result == Ok(vec![4.0; 100_000])));
    }
}

#[test]
fn calls_that_differ_are_an_error_on_all_and_change_nothing() {
    let results = run(3, EXACT, |mut transport| {
        let mut values = vec![1.0; if transport.rank() == 2 { 8 } else { 9 }];
        let result = transport.all_reduce_sum(&mut values);
        assert!(values.iter().all(|&value| value == 1.0));
        (result, transport.barrier())
    });
    let mismatch = SyncError::LengthMismatch {
        rank: 0,
        length: 9,
        other_rank: 2,
        other_length: 8,
    };
    for result in results {
        assert_eq!(result, (Err(mismatch.clone()), Err(mismatch.clone())));
    }
    let results = run(2, EXACT, |mut transport| match transport.rank() {
        0 => transport.all_reduce_sum(&mut [0.0; 4]),
        _ => transport.barrier(),
    });
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Err(SyncError::OutOfStep { .. }))),
        "{results:?}"
    );
}

#[test]
fn a_call_that_cannot_be_made_ends_the_run_for_all() {
    let results = run(2, EXACT, |mut transport| match transport.rank() {
        0 => transport.broadcast(2, &mut [0.0]),
        _ => transport.barrier(),
    });
    assert_eq!(results[0], Err(SyncError::NoSuchRoot { root: 2, world: 2 }));
    assert!(
        matches!(results[1], Err(SyncError::PeerGone { rank: 0, .. })),
        "{results:?}"
    );
    let results = run(2, EXACT, |mut transport| match transport.rank() {
        0 => transport.all_gather(&vec![0; (16 << 20) + 1]),
        _ => transport.all_gather(&[]),
    });
    assert!(
        matches!(results[0], Err(SyncError::MessageTooLong { .. })),
        "{results:?}"
    );
    assert!(
        matches!(results[1], Err(SyncError::PeerGone { rank: 0, .. })),
        "{results:?}"
    );
}

#[test]
fn strangers_are_turned_away_and_disturb_nobody() {
    let (mut listeners, peers) = listen(3);
    let late = listeners.pop().unwrap();
    let mut strangers = Vec::new();
    std::thread::scope(|scope| {
        let early = listeners.into_iter().enumerate().map(|(rank, listener)| {
            let peers = &peers;
            scope.spawn(move || listener.connect(rank, peers, &token(), EXACT))
        });
        let early = early.collect::<Vec<_>>();
        for number in 0..450 {
            let mut stranger = TcpStream::connect(&peers[number % 2]).unwrap();
            match number % 3 {
                // Silent, and more of them than may wait.
                0 => {}
                1 => stranger.write_all(&[b'x'; 1000]).unwrap(),
                _ => stranger.shutdown(std::net::Shutdown::Both).unwrap(),
            }
            strangers.push(stranger);
        }
        let began = Instant::now();
        late.connect(2, &peers, &token(), EXACT).map(drop).unwrap();
        for thread in early {
            thread.join().unwrap().map(drop).unwrap();
        }
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "nobody waits until the silent have had their time"
        );
    });
    // A stranger gets nothing before it has said something that makes sense.
    for mut stranger in strangers {
        assert!(!matches!(stranger.read(&mut [0; 64]), Ok(1..)));
    }
}

#[test]
fn who_does_not_know_the_token_is_turned_away() {
    let (mut listeners, peers) = listen(2);
    let (stranger, true_worker) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let (true_peers, timeout) = (peers.clone(), within(Duration::from_millis(500)));
    // The address of worker 1 is one where nobody answers, so that worker 0 waits for it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let waits = std::thread::spawn(move || {
        let peers = [true_peers[0].clone(), silent.local_addr().unwrap().to_string()];
        true_worker
            .connect(0, &peers, &token(), timeout)
            .err()
            .unwrap()
            .to_string()
    });
    let wrong = JobToken::from_bytes([8; 32]);
    let error = stranger.connect(1, &peers, &wrong, timeout).err().unwrap();
    assert!(
        matches!(
            error,
            SyncError::Connect {
                rank: 1,
                peer_rank: 0,
                ..
            }
        ) && error.to_string().contains("same token"),
        "{error}"
    );
    let waited = waits.join().unwrap();
    assert!(
        waited.contains("was turned away because it does not know this job's token")
            || waited.contains("nobody answered"),
        "{waited}"
    );
}

#[test]
fn workers_that_cannot_meet_say_why() {
    let (listeners, peers) = listen(2);
    let timeout = Duration::from_millis(200);
    let mut listeners = listeners.into_iter();
    let alone = listeners
        .next()
        .unwrap()
        .connect(0, &peers, &token(), within(timeout))
        .err()
        .unwrap();
    assert!(alone.to_string().contains("worker 0 "), "{alone}");
    drop(listeners);

    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let gone = listener.connect(1, &peers, &token(), within(timeout)).err().unwrap();
    assert!(
        gone.to_string()
            .starts_with("worker 1 cannot connect to worker 0 at 127.0.0.1:"),
        "{gone}"
    );
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        listener.connect(2, &peers, &token(), EXACT).err(),
        Some(SyncError::NoSuchRank { rank: 2, world: 2 })
    );
    assert!(matches!(Listener::bind("999.0.0.1:0"), Err(SyncError::Listen { .. })));
}

/// Not a test of its own: worker 2 of the tests below, in a process that they can kill.
#[test]
fn child() {
    let Ok(peers) = std::env::var("SPARKNET_TEST_PEERS") else {
        return;
    };
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening on {}", listener.local_addr());
    let mut peers = peers.split(',').map(str::to_owned).collect::<Vec<_>>();
    peers[2] = listener.local_addr().to_string();
    let mut transport = listener.connect(2, &peers, &token(), EXACT).unwrap();
    let mut values = vec![0.0; 1 << 20];
    while transport.all_reduce_sum(&mut values).is_ok() {}
}

/// What the other three of four workers get when the process of worker 2 is sent a signal in the middle of a call.
fn signal_worker_2(signal: &str, timeout: Duration) -> Vec<SyncError> {
    let (mut listeners, mut peers) = listen(4);
    drop(listeners.remove(2));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("SPARKNET_TEST_PEERS", peers.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    peers[2] = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
        .unwrap();
    std::thread::scope(|scope| {
        let threads = listeners.into_iter().zip([0, 1, 3]).map(|(listener, rank)| {
            let (peers, child) = (&peers, &child.0);
            scope.spawn(move || {
                let mut transport = listener.connect(rank, peers, &token(), within(timeout)).unwrap();
                let mut values = vec![0.0; 1 << 20];
                for call in 0.. {
                    if rank == 0 && call == 5 {
                        let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
                        assert!(status.unwrap().success());
                    }
                    if let Err(error) = transport.all_reduce_sum(&mut values) {
                        return error;
                    }
                }
                unreachable!()
            })
        });
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_is_killed_wakes_all_others_with_its_rank() {
    let began = Instant::now();
    for error in signal_worker_2("-KILL", Duration::MAX) {
        assert!(matches!(error, SyncError::PeerGone { rank: 2, .. }), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_process_that_is_frozen_ends_the_run_at_the_deadline() {
    for error in signal_worker_2("-STOP", Duration::from_millis(1000)) {
        let text = error.to_string();
        assert!(text.contains("waited 1s for worker "), "{text}");
    }
}
