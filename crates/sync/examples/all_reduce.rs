//! Measures the all-reduce of workers that are processes of this machine, connected by TCP over loopback.
//!
//! Each process is one worker and prints one line of JSON: the median seconds of a call, their quartiles, and GB/s, which
//! counts every value of a worker once. Before each call the workers meet at a barrier, which is not measured.
//!
//! ```text
//! cargo build --release -p sparknet-sync --example all_reduce
//! target/release/examples/all_reduce RANK WORLD FLOATS ROUNDS PORT [none|f16]     # listens on PORT + RANK
//! ```

use sparknet_sync::{Compression, JobToken, Listener, TcpOptions, Transport};
use std::error::Error;
use std::time::{Duration, Instant};

/// The first calls touch memory and fill the sockets' buffers.
const WARM_UP_ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [rank, world, floats, rounds, port, compression @ ..] = &arguments[..] else {
        return Err("usage: all_reduce RANK WORLD FLOATS ROUNDS PORT [none|f16]".into());
    };
    let (rank, world): (usize, usize) = (rank.parse()?, world.parse()?);
    let (floats, rounds): (usize, usize) = (floats.parse()?, rounds.parse()?);
    let port: u16 = port.parse()?;
    let compression = compression
        .first()
        .map_or(Ok(Compression::None), |given| given.parse())?;

    let address = |rank: usize| format!("127.0.0.1:{}", port as usize + rank);
    let peers = (0..world).map(address).collect::<Vec<_>>();
    let options = TcpOptions {
        timeout: Duration::from_secs(60),
        compression,
    };
    // There is nothing to protect here, and nobody to hand a secret round.
    let token = JobToken::from_bytes([0; 32]);
    let mut transport = Listener::bind(&address(rank))?.connect(rank, &peers, &token, options)?;

    let mut values = vec![1.0f32; floats];
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..WARM_UP_ROUNDS + rounds {
        transport.barrier()?;
        let begin = Instant::now();
        transport.all_reduce_sum(&mut values)?;
        if round >= WARM_UP_ROUNDS {
            seconds.push(begin.elapsed().as_secs_f64());
        }
        if values.iter().any(|&value| value != world as f32) {
            return Err("a sum is wrong".into());
        }
        values.fill(1.0);
    }
    seconds.sort_by(f64::total_cmp);
    let at = |quarter: usize| seconds[(rounds - 1) * quarter / 4];
    println!(
        "{{\"seconds\": {}, \"first_quartile\": {}, \"third_quartile\": {}, \"gigabytes_per_second\": {}}}",
        at(2),
        at(1),
        at(3),
        4.0 * floats as f64 / at(2) / 1e9
    );
    Ok(())
}
