//! The contract of `Transport`, for workers that are connected by TCP: what it gives is what `InProcess` gives.

mod workers;

use sparknet_sync::{Compression, Listener, TcpOptions, Transport};
use workers::tcp::{EXACT, run, try_connect};
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

#[test]
fn workers_meet_over_ipv6_too() {
    let Ok(listener) = Listener::bind("[::1]:0") else {
        println!("skipped: this machine has no ::1");
        return;
    };
    let listeners = vec![
        listener,
        Listener::bind("[::1]:0").unwrap(),
        Listener::bind("[::]:0").unwrap(),
    ];
    let port = listeners[2].local_addr().port();
    let mut peers = listeners
        .iter()
        .map(|listener| listener.local_addr().to_string())
        .collect::<Vec<_>>();
    peers[2] = format!("[::1]:{port}");
    let transports = try_connect(listeners, &peers, EXACT).into_iter().map(|transport| {
        let mut transport = transport.unwrap();
        std::thread::spawn(move || transport.all_gather(&[transport.rank() as u8]).unwrap())
    });
    for thread in transports.collect::<Vec<_>>() {
        assert_eq!(thread.join().unwrap(), [[0], [1], [2]]);
    }
}

/// The largest difference to the exact sum or average, relative to the largest value that any worker had.
fn error_of_f16(world: usize, length: usize, scale: f32, average: bool) -> f32 {
    let options = TcpOptions {
        compression: Compression::F16,
        ..EXACT
    };
    let inputs = |rank: usize| {
        let values = numbers(length, rank as u64).into_iter();
        values.map(|value| value * scale).collect::<Vec<_>>()
    };
    let reduce = |transport: &mut dyn Transport| {
        let mut values = inputs(transport.rank());
        if average {
            transport.all_reduce_average(&mut values).unwrap();
        } else {
            transport.all_reduce_sum(&mut values).unwrap();
        }
        values
    };
    let exact = workers::run(world, |mut transport| reduce(&mut transport)).remove(0);
    let runs = [(); 2].map(|()| run(world, options, |mut transport| reduce(&mut transport)));
    for results in &runs {
        for result in results {
            assert!(
                bits(result) == bits(&runs[0][0]),
                "all workers, in every run: {world}, {length}, {scale}"
            );
        }
    }
    let largest = (0..world)
        .flat_map(inputs)
        .fold(0f32, |largest, value| largest.max(value.abs()));
    let errors = runs[0][0]
        .iter()
        .zip(&exact)
        .map(|(given, exact)| (given - exact).abs() / largest);
    errors.fold(0.0, f32::max)
}

#[test]
fn f16_gives_the_same_bits_on_all_workers_within_its_error() {
    for world in 1..=5 {
        for length in [0, 3, 101, 70_000, 300_007] {
            // As small as gradients and far beyond what binary16 can hold.
            for scale in [1.0, 1e-20, 1e30] {
                let error = error_of_f16(world, length, scale, false);
                let bound = (world * world) as f32 / 2048.0;
                assert!(
                    error <= bound,
                    "{world} workers, {length} values times {scale}: {error}"
                );
                assert!(world == 1 || length < 100 || error > 0.0, "values were compressed");
            }
        }
    }
    assert!(error_of_f16(3, 70_000, 1.0, true) <= 3.0 / 2048.0);
}

#[test]
fn f16_keeps_what_is_not_finite_and_does_not_touch_a_broadcast() {
    let options = TcpOptions {
        compression: Compression::F16,
        ..EXACT
    };
    let results = run(3, options, |mut transport| {
        let mut values = [1.0, 1.0, 1.0, 2.5, 0.0];
        if transport.rank() == 1 {
            values[0] = f32::NAN;
            values[1] = f32::INFINITY;
            values[2] = f32::NEG_INFINITY;
        }
        transport.all_reduce_sum(&mut values).unwrap();
        let mut exact = [f32::from_bits(0x3f80_0001); 2];
        transport.broadcast(2, &mut exact).unwrap();
        assert_eq!(bits(&exact), [0x3f80_0001; 2]);
        values
    });
    for values in &results {
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [f32::INFINITY, f32::NEG_INFINITY, 7.5, 0.0]);
        assert_eq!(bits(values), bits(&results[0]));
    }
}

#[test]
fn compressions_are_read_by_the_name_they_print() {
    for compression in [Compression::None, Compression::F16] {
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
    let error = "f32".parse::<Compression>().unwrap_err();
    assert_eq!(error.to_string(), "compression `f32` is unknown; choose none or f16");
}

#[test]
fn one_worker_keeps_every_bit() {
    let values = [-0.0, f32::from_bits(1), f32::from_bits(0x7fa0_1234), f32::MAX];
    for compression in [Compression::None, Compression::F16] {
        let options = TcpOptions { compression, ..EXACT };
        let result = run(1, options, |mut transport| {
            let mut values = values;
            transport.all_reduce_sum(&mut values).unwrap();
            transport.all_reduce_average(&mut values).unwrap();
            transport.broadcast(0, &mut values).unwrap();
            transport.barrier().unwrap();
            assert_eq!(transport.all_gather(b"alone").unwrap(), [b"alone"]);
            values
        });
        assert_eq!(bits(&result[0]), bits(&values));
    }
}
