//! After the first steps, training allocates nothing.

mod everything;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use everything::{solver_of, step};

/// The system's allocator, which counts.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test only: another one's allocations would be counted too.
#[test]
fn steps_allocate_nothing() {
    // Threads allocate when they start and when they end, which may both be late: a broadcast waits for all of them,
    // and the pools live to the end.
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pools = [pool(1), pool(2)];
    pools.iter().for_each(|pool| drop(pool.broadcast(|_| ())));
    for pool in &pools {
        let threads = pool.current_num_threads();
        pool.install(|| {
            for type_name in ["SGD", "Adam", "LARS"] {
                let mut solver = solver_of(type_name, 1, 1);
                step(&mut solver);
                step(&mut solver);
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                assert!(before > 0, "nothing is counted");
                for _ in 0..5 {
                    step(&mut solver);
                }
                let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
                assert_eq!(
                    allocations, 0,
                    "allocations in five steps of {type_name} with {threads} threads"
                );
            }
        });
    }
}
