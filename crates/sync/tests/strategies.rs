//! What the strategies make of weights, gradients and histories, with workers in one process.

mod workers;

use sparknet_sync::{AllReduce, Average, HistoryPolicy, Replica, Round, SyncError, SyncStrategy, Transport};
use workers::{bits, numbers, run};

/// A worker's weights, gradients and histories.
#[derive(Debug, Clone, PartialEq)]
struct Worker {
    params: Vec<f32>,
    gradients: Vec<f32>,
    histories: Vec<Vec<f32>>,
}

impl Worker {
    fn new(rank: usize) -> Self {
        let value = rank as f32;
        Self {
            params: vec![value, 10.0 * value],
            gradients: vec![value; 2],
            histories: vec![vec![100.0 + value; 2], vec![-value; 2]],
        }
    }

    fn with_replica(&mut self, call: impl FnOnce(Replica<'_>) -> Result<Round, SyncError>) -> Round {
        let replica = Replica {
            params: &mut self.params,
            gradients: &mut self.gradients,
            histories: &mut self.histories.iter_mut().map(Vec::as_mut_slice),
        };
        call(replica).unwrap()
    }

    fn after_update(&mut self, done: u64, strategy: &mut dyn SyncStrategy, transport: &mut dyn Transport) -> Round {
        self.with_replica(|replica| strategy.after_update(done, replica, transport))
    }

    fn finish(&mut self, done: u64, strategy: &mut dyn SyncStrategy, transport: &mut dyn Transport) -> Round {
        self.with_replica(|replica| strategy.finish(done, replica, transport))
    }
}

const POLICIES: [HistoryPolicy; 3] = [HistoryPolicy::Keep, HistoryPolicy::Average, HistoryPolicy::Reset];

fn strategies() -> Vec<Box<dyn SyncStrategy>> {
    let mut all: Vec<Box<dyn SyncStrategy>> = vec![Box::new(AllReduce)];
    for policy in POLICIES {
        all.push(Box::new(Average::new(1, policy).unwrap()));
    }
    all
}

#[test]
fn strategies_have_the_names_that_users_give_them() {
    assert_eq!(AllReduce.name(), "allreduce");
    assert_eq!(Average::new(1, HistoryPolicy::Keep).unwrap().name(), "average");
}

#[test]
fn everyone_starts_from_the_weights_of_worker_0() {
    for index in 0..strategies().len() {
        let results = run(3, |mut transport| {
            let mut worker = Worker::new(7 + transport.rank());
            strategies()[index].start(&mut worker.params, &mut transport).unwrap();
            worker.params
        });
        assert_eq!(results, [[7.0, 70.0]; 3]);
    }
}

#[test]
fn a_round_averages_the_weights_and_leaves_gradients_alone() {
    for policy in POLICIES {
        let results = run(3, |mut transport| {
            let mut worker = Worker::new(transport.rank());
            let round = worker.after_update(1, &mut Average::new(1, policy).unwrap(), &mut transport);
            (worker, round)
        });
        for (rank, (worker, round)) in results.into_iter().enumerate() {
            assert_eq!(round, Round::Completed);
            assert_eq!(worker.params, [1.0, 10.0]);
            assert_eq!(worker.gradients, Worker::new(rank).gradients);
            let expected = match policy {
                HistoryPolicy::Keep => Worker::new(rank).histories,
                HistoryPolicy::Average => vec![vec![101.0; 2], vec![-1.0; 2]],
                HistoryPolicy::Reset => vec![vec![0.0; 2]; 2],
            };
            assert_eq!(worker.histories, expected, "{policy} on worker {rank}");
        }
    }
}

#[test]
fn between_rounds_workers_are_on_their_own() {
    for policy in POLICIES {
        run(2, |mut transport| {
            let mut strategy = Average::new(3, policy).unwrap();
            for done in [1, 2, 4, 5, 7] {
                let before = Worker::new(transport.rank());
                let mut worker = before.clone();
                strategy
                    .after_backward(done - 1, &mut worker.gradients, &mut transport)
                    .unwrap();
                assert_eq!(worker.after_update(done, &mut strategy, &mut transport), Round::None);
                assert_eq!(worker, before);
                assert!(!strategy.agrees_at(done));
            }
        });
    }
}

#[test]
fn rounds_come_every_tau_iterations_and_at_the_end() {
    let rounds = |tau, iterations| {
        let results = run(2, |mut transport| {
            let mut strategy = Average::new(tau, HistoryPolicy::Keep).unwrap();
            let mut worker = Worker::new(transport.rank());
            let mut rounds = Vec::new();
            for done in 1..=iterations {
                worker.params[0] += transport.rank() as f32;
                if worker.after_update(done, &mut strategy, &mut transport) == Round::Completed {
                    rounds.push(done);
                }
            }
            let finish = worker.finish(iterations, &mut strategy, &mut transport);
            (rounds, finish, worker.params)
        });
        assert_eq!(results[0], results[1], "after the end the weights are equal");
        let (rounds, finish, _) = results.into_iter().next().unwrap();
        (rounds, finish)
    };
    assert_eq!(rounds(1, 3), (vec![1, 2, 3], Round::None));
    assert_eq!(rounds(4, 8), (vec![4, 8], Round::None));
    assert_eq!(rounds(4, 10), (vec![4, 8], Round::Completed));
    assert_eq!(rounds(50, 10), (vec![], Round::Completed));
}

#[test]
fn a_run_without_iterations_has_nothing_to_finish() {
    run(2, |mut transport| {
        let mut strategy = Average::new(2, HistoryPolicy::Reset).unwrap();
        let mut worker = Worker::new(1);
        assert!(strategy.agrees_at(0));
        assert_eq!(worker.finish(0, &mut strategy, &mut transport), Round::None);
        assert_eq!(worker, Worker::new(1));
    });
}

#[test]
fn allreduce_averages_gradients_and_nothing_else() {
    let results = run(4, |mut transport| {
        let mut worker = Worker::new(transport.rank());
        AllReduce
            .after_backward(0, &mut worker.gradients, &mut transport)
            .unwrap();
        assert_eq!(worker.after_update(1, &mut AllReduce, &mut transport), Round::Completed);
        assert_eq!(worker.finish(1, &mut AllReduce, &mut transport), Round::None);
        worker
    });
    for (rank, worker) in results.into_iter().enumerate() {
        assert_eq!(
            worker,
            Worker {
                gradients: vec![1.5; 2],
                ..Worker::new(rank)
            }
        );
    }
    assert!((0..5).all(|done| AllReduce.agrees_at(done)));
}

#[test]
fn one_worker_keeps_every_bit() {
    let odd = vec![-0.0, f32::from_bits(1), f32::from_bits(0x7fa0_1234), f32::NEG_INFINITY];
    for mut strategy in strategies() {
        let mut transport = sparknet_sync::in_process(1, workers::TIMEOUT).remove(0);
        let mut worker = Worker {
            params: odd.clone(),
            gradients: odd.clone(),
            histories: vec![odd.clone()],
        };
        strategy.start(&mut worker.params, &mut transport).unwrap();
        strategy
            .after_backward(0, &mut worker.gradients, &mut transport)
            .unwrap();
        assert_eq!(worker.after_update(1, &mut *strategy, &mut transport), Round::Completed);
        worker.finish(1, &mut *strategy, &mut transport);
        for values in [&worker.params, &worker.gradients, &worker.histories[0]] {
            assert_eq!(bits(values), bits(&odd), "{}", strategy.name());
        }
    }
}

/// Least squares by gradient descent on each worker's part of 40 records, `momentum` included.
fn train(world: usize, momentum: f32, strategy: impl Fn() -> Box<dyn SyncStrategy> + Sync) -> Vec<Vec<f32>> {
    run(world, |mut transport| train_one(&mut transport, momentum, strategy()))
}

/// What one worker does in [`train`]; the weights that it ends with.
fn train_one(transport: &mut dyn Transport, momentum: f32, mut strategy: Box<dyn SyncStrategy>) -> Vec<f32> {
    let world = transport.world();
    const FEATURES: usize = 5;
    const RECORDS: usize = 40;
    let data = (0..RECORDS).map(|record| {
        let x = numbers(FEATURES, record as u64)
            .iter()
            .map(|value| value.sin())
            .collect::<Vec<_>>();
        let y = x.iter().enumerate().map(|(i, x)| x * i as f32).sum::<f32>();
        (x, y)
    });
    let data = data.collect::<Vec<_>>();
    let mut params = numbers(FEATURES, 1000 + transport.rank() as u64);
    let mut histories = [vec![0.0; FEATURES]];
    strategy.start(&mut params, transport).unwrap();
    let batch = RECORDS / world;
    for iteration in 0..30 {
        let mut gradients = vec![0.0; FEATURES];
        for (x, y) in &data[batch * transport.rank()..][..batch] {
            let error = x.iter().zip(&params).map(|(x, w)| x * w).sum::<f32>() - y;
            for (gradient, x) in gradients.iter_mut().zip(x) {
                *gradient += error * x / batch as f32;
            }
        }
        strategy.after_backward(iteration, &mut gradients, transport).unwrap();
        for ((param, gradient), history) in params.iter_mut().zip(&gradients).zip(&mut histories[0]) {
            *history = momentum * *history + 0.05 * gradient;
            *param -= *history;
        }
        let replica = Replica {
            params: &mut params,
            gradients: &mut gradients,
            histories: &mut histories.iter_mut().map(Vec::as_mut_slice),
        };
        strategy.after_update(iteration + 1, replica, transport).unwrap();
    }
    params
}

fn assert_close(left: &[f32], right: &[f32]) {
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() <= 1e-5 * right.abs().max(1.0), "{left} {right}");
    }
}

/// Deeplearning4j's TestCompareParameterAveragingSparkVsSingleMachine.
#[test]
fn four_workers_with_a_batch_of_10_train_as_one_with_40() {
    let all_reduce = || Box::new(AllReduce) as Box<dyn SyncStrategy>;
    for momentum in [0.0, 0.9] {
        let one = train(1, momentum, all_reduce).remove(0);
        for params in train(4, momentum, all_reduce) {
            assert_close(&params, &one);
        }
    }
    let one = train(1, 0.0, all_reduce).remove(0);
    let average = |tau| move || Box::new(Average::new(tau, HistoryPolicy::Keep).unwrap()) as Box<dyn SyncStrategy>;
    for params in train(4, 0.0, average(1)) {
        assert_close(&params, &one);
    }
    let with_larger_tau = train(4, 0.0, average(10)).remove(0);
    assert!(
        with_larger_tau.iter().zip(&one).any(|(a, b)| (a - b).abs() > 1e-4),
        "tau makes a difference"
    );
}

#[test]
fn workers_end_with_equal_bits_in_every_run() {
    let average = || Box::new(Average::new(6, HistoryPolicy::Average).unwrap()) as Box<dyn SyncStrategy>;
    let all_reduce = || Box::new(AllReduce) as Box<dyn SyncStrategy>;
    for world in [2, 4, 5] {
        for results in [train(world, 0.9, average), train(world, 0.9, all_reduce)] {
            assert!(results.iter().all(|params| bits(params) == bits(&results[0])));
        }
        assert_eq!(train(world, 0.9, average), train(world, 0.9, average));
    }
}

#[test]
fn training_over_tcp_ends_with_the_bits_of_training_in_process() {
    let average = || Box::new(Average::new(6, HistoryPolicy::Average).unwrap()) as Box<dyn SyncStrategy>;
    let all_reduce = || Box::new(AllReduce) as Box<dyn SyncStrategy>;
    for world in [1, 2, 4, 5] {
        for strategy in [average, all_reduce] {
            let over_tcp = workers::tcp::run(world, workers::tcp::EXACT, |mut transport| {
                train_one(&mut transport, 0.9, strategy())
            });
            assert_eq!(over_tcp, train(world, 0.9, strategy));
        }
    }
}
