//! After the first round, agreeing allocates nothing. A binary of its own, because it counts every allocation.

mod workers;

use sparknet_sync::{AllReduce, Average, Compression, HistoryPolicy, Replica, SyncStrategy, TcpOptions, Transport};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use workers::tcp::EXACT;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every method hands its arguments, unchanged, to the system's allocator, whose contract is the same; counting
// touches only a thread-local number without a destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// What one worker allocates in its first round and in 19 more.
fn allocations_of_rounds(mut transport: impl Transport) -> (u64, u64) {
    let mut strategies: [Box<dyn SyncStrategy>; 4] = [
        Box::new(AllReduce),
        Box::new(Average::new(2, HistoryPolicy::Keep).unwrap()),
        Box::new(Average::new(1, HistoryPolicy::Average).unwrap()),
        Box::new(Average::new(3, HistoryPolicy::Reset).unwrap()),
    ];
    let (mut params, mut gradients) = (vec![1.0; 10_007], vec![1.0; 10_007]);
    let mut histories = vec![vec![1.0; 10_007]; 2];
    let mut short = vec![1.0; 33];

    let before = allocations();
    let mut after_first = before;
    for iteration in 0..20 {
        for strategy in &mut strategies {
            strategy
                .after_backward(iteration, &mut gradients, &mut transport)
                .unwrap();
            let replica = Replica {
                params: &mut params,
                gradients: &mut gradients,
                histories: &mut histories.iter_mut().map(Vec::as_mut_slice),
            };
            strategy.after_update(iteration + 1, replica, &mut transport).unwrap();
        }
        transport.broadcast(0, &mut params).unwrap();
        // A shorter call between longer ones must not give the buffers back.
        transport.all_reduce_sum(&mut short).unwrap();
        if iteration == 0 {
            after_first = allocations();
        }
    }
    let after_last = allocations();
    // Nobody leaves before everybody has counted: a good-bye is written down.
    transport.barrier().unwrap();
    (after_first - before, after_last - after_first)
}

#[test]
fn rounds_after_the_first_allocate_nothing() {
    for world in 1..=4 {
        for compression in [None, Some(Compression::None), Some(Compression::F16)] {
            let counts = match compression {
                None => workers::run(world, allocations_of_rounds),
                Some(compression) => {
                    let options = TcpOptions { compression, ..EXACT };
                    workers::tcp::run(world, options, allocations_of_rounds)
                }
            };
            assert!(
                counts.iter().all(|&(_, later)| later == 0),
                "{world} workers, over TCP with {compression:?}: {counts:?}"
            );
            let first = counts.iter().map(|&(first, _)| first).sum::<u64>();
            let has_buffers = compression.is_some() && world > 1;
            assert_eq!(first > 0, has_buffers, "the counter counts: {counts:?}");
        }
    }
}
