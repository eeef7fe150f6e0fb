//! The contract of `Transport`, for workers that are connected by TCP: what it gives is what `InProcess` gives.

mod workers;

use sparknet_sync::Transport;
use workers::tcp::{EXACT, run};
use workers::{bits, numbers};

/// A piece of a frame is 65536 values.
const LENGTHS: [usize; 10] = [0, 1, 2, 3, 4, 7, 101, 1024, 65_537, 300_007];

#[test]
fn every_call_gives_the_bits_that_it_gives_in_process() {
    fn work(mut transport: impl Transport) -> Vec<Vec<u32>> {
        let (rank, world) = (transport.rank(), transport.world());
        let mut results = Vec::new();
        for (turn, length) in LENGTHS.into_iter().enumerate() {
            let input = numbers(length, (100 * turn + rank) as u64);
            let mut values = input.clone();
            transport.all_reduce_sum(&mut values).unwrap();
            results.push(bits(&values));
            let mut values = input.clone();
            transport.all_reduce_average(&mut values).unwrap();
            results.push(bits(&values));
            for root in 0..world {
                let mut values = input.clone();
                transport.broadcast(root, &mut values).unwrap();
                results.push(bits(&values));
            }
            let message = [rank as u8, turn as u8].repeat(rank * turn);
            for message in transport.all_gather(&message).unwrap() {
                results.push(message.into_iter().map(u32::from).collect());
            }
            transport.barrier().unwrap();
        }
        results
    }
    for world in 1..=5 {
        let expected = workers::run(world, work);
        let given = run(world, EXACT, work);
        for (rank, (expected, given)) in expected.iter().zip(&given).enumerate() {
            for (call, (expected, given)) in expected.iter().zip(given).enumerate() {
                assert!(expected == given, "worker {rank} of {world}, result {call}");
            }
        }
    }
}
