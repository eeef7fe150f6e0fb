//! The threads that nets compute on: one pool a process, made at its first use.
//!
//! Nothing starts when the module is imported, and a pool does not survive a fork: its threads are not in the child.
//! PySpark's workers and multiprocessing fork, so a child makes a pool of its own.

use std::{
    mem, process,
    sync::{Arc, Mutex, PoisonError},
};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sparknet_train::run::threads_per_worker;

use crate::error::Failure;

/// More than any machine has cores; so many still start.
const MAX_THREADS: usize = 1024;

struct Pool {
    process: u32,
    /// As the user asked; `None` for one a core.
    threads: Option<usize>,
    pool: Option<Arc<ThreadPool>>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    process: 0,
    threads: None,
    pool: None,
});

/// The pool of this process. To be called with the GIL, so that no fork finds the lock taken.
pub fn pool() -> Result<Arc<ThreadPool>, Failure> {
    let mut state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if state.process != process::id() {
        state.process = process::id();
        // To end threads that are in another process would be to wait for them for ever.
        mem::forget(state.pool.take());
    }
    if let Some(pool) = &state.pool {
        return Ok(Arc::clone(pool));
    }
    let threads = threads_per_worker(state.threads, 1);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
        Failure::Input(format!(
            "{threads} threads cannot be started ({error}): give set_num_threads fewer"
        ))
    })?;
    let pool = Arc::new(pool);
    state.pool = Some(Arc::clone(&pool));
    Ok(pool)
}

/// How many threads later calls compute on; `None` for one a core.
pub fn set_num_threads(threads: Option<i64>) -> Result<(), Failure> {
    let refuse = |given: i64| {
        Failure::Input(format!(
            "{given} threads cannot compute: give 1 to {MAX_THREADS}, or None for one a core"
        ))
    };
    let threads = threads
        .map(|given| match usize::try_from(given) {
            Ok(count @ 1..=MAX_THREADS) => Ok(count),
            _ => Err(refuse(given)),
        })
        .transpose()?;
    let mut state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    state.threads = threads;
    let old = state.pool.take();
    if state.process != process::id() {
        mem::forget(old);
    }
    Ok(())
}
