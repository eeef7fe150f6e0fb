//! What Python's objects hold: a net of their own, or one of a solver's, behind a lock that nobody waits for.
//!
//! A net computes with the GIL released, so another Python thread can call into the same net meanwhile. That is an
//! error, said in one sentence, and never a wait: a wait with the GIL held would be for ever.

use std::{
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process,
    sync::{Arc, Mutex, TryLockError},
};

use pyo3::prelude::*;
use sparknet_engine::{Net, NetSpec, net::ParamMap, random, spec::LayerKind};
use sparknet_train::{
    Error,
    feeds::{FeedOpener, FeedSettings, Feeds},
    worker::Worker,
};

use crate::{error::Failure, threads};

/// A net that belongs to no solver.
pub struct OwnNet {
    pub net: Net,
    pub feeds: Feeds,
    /// The process that made it: readers' threads do not survive a fork.
    pub process: u32,
    pub seed: u64,
    pub passes: u64,
    /// The net whose parameters it takes over before it computes.
    pub shares_with: Option<(Handle, ParamMap)>,
}

/// A solver with its nets.
pub struct OwnSolver {
    pub worker: Worker<'static>,
    /// The data of test nets that the user runs, from their first pass on.
    pub test_feeds: Vec<Option<Feeds>>,
    pub process: u32,
    pub passes: u64,
}

/// Whose net it is.
#[derive(Clone)]
pub enum Handle {
    /// A net of its own.
    Own(Arc<Mutex<OwnNet>>),
    /// A solver's train net.
    Train(Arc<Mutex<OwnSolver>>),
    /// A solver's test net, by index.
    Test(Arc<Mutex<OwnSolver>>, usize),
}

/// Runs `work` on what `lock` guards, if nobody else does. A panic is a bug, and breaks what is guarded: other calls
/// then refuse it, but its memory stays for the arrays that look at it.
pub fn guarded<S, T>(
    lock: &Mutex<S>,
    what: &'static str,
    work: impl FnOnce(&mut S) -> Result<T, Failure>,
) -> Result<T, Failure> {
    contained(what, || match lock.try_lock() {
        Ok(mut guard) => work(&mut guard),
        Err(TryLockError::WouldBlock) => Err(Failure::Busy(what)),
        Err(TryLockError::Poisoned(_)) => Err(broken(what)),
    })
}

/// [`guarded`], but waits for its turn. To be called without the GIL, which others may need to come to an end.
pub fn guarded_in_turn<S, T>(
    lock: &Mutex<S>,
    what: &'static str,
    work: impl FnOnce(&mut S) -> Result<T, Failure>,
) -> Result<T, Failure> {
    contained(what, || match lock.lock() {
        Ok(mut guard) => work(&mut guard),
        Err(_) => Err(broken(what)),
    })
}

/// Makes an error of a panic.
pub fn contained<T>(what: &'static str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken(what)))
}

fn broken(what: &str) -> Failure {
    Failure::Internal(format!(
        "an internal error has broken this {what}: build it anew, and please report the message on stderr as a bug"
    ))
}

/// An error in a process that forked from the one where `made` is.
pub fn check_process(made: u32, what: &str) -> Result<(), Failure> {
    if made == process::id() {
        return Ok(());
    }
    Err(Failure::Input(format!(
        "this {what} reads data with threads that did not survive the fork of this process: build it in this process"
    )))
}

impl Handle {
    /// Runs `work`, which has to be short and on this thread alone, on the net.
    pub fn with<T>(&self, work: impl FnOnce(&mut Net) -> Result<T, Failure>) -> Result<T, Failure> {
        match self {
            Self::Own(own) => guarded(own, "net", |own| {
                own.take_shared()?;
                work(&mut own.net)
            }),
            Self::Train(solver) => guarded(solver, "solver", |own| work(own.worker.solver_mut().net_mut())),
            Self::Test(solver, index) => guarded(solver, "solver", |own| work(own.test_net(*index)?)),
        }
    }

    /// Runs `work` on the net with the GIL released, on the process's threads; `feed` is whether data layers get their
    /// next batches first, and random layers new numbers.
    pub fn compute<T: Send>(
        &self,
        py: Python<'_>,
        feed: bool,
        work: impl FnOnce(&mut Net) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let pool = threads::pool()?;
        let result = py.detach(|| match self {
            Self::Own(own) => guarded(own, "net", |own| {
                own.take_shared()?;
                if feed {
                    own.feed()?;
                }
                pool.install(|| work(&mut own.net))
            }),
            Self::Train(solver) => guarded(solver, "solver", |own| {
                if feed {
                    own.feed_train()?;
                }
                pool.install(|| work(own.worker.solver_mut().net_mut()))
            }),
            Self::Test(solver, index) => guarded(solver, "solver", |own| {
                if feed {
                    own.feed_test(*index)?;
                }
                let net = own.test_net(*index)?;
                pool.install(|| work(net))
            }),
        });
        Ok(result?)
    }

    /// Whether both are the same net.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(mine), Self::Own(theirs)) => Arc::ptr_eq(mine, theirs),
            (Self::Train(mine), Self::Train(theirs)) => Arc::ptr_eq(mine, theirs),
            (Self::Test(mine, i), Self::Test(theirs, j)) => Arc::ptr_eq(mine, theirs) && i == j,
            _ => false,
        }
    }
}

impl OwnNet {
    fn feed(&mut self) -> Result<(), Failure> {
        if !self.feeds.is_empty() {
            check_process(self.process, "net")?;
            self.feeds.fill(&mut self.net)?;
        }
        self.net.set_random_pass(self.seed, self.passes);
        self.passes += 1;
        Ok(())
    }

    fn take_shared(&mut self) -> Result<(), Failure> {
        let Some((other, map)) = &self.shares_with else {
            return Ok(());
        };
        let net = &mut self.net;
        other.with(|other| {
            net.load_params(map, other.param_arena());
            Ok(())
        })
    }
}

impl OwnSolver {
    fn test_net(&mut self, index: usize) -> Result<&mut Net, Failure> {
        let missing = || Failure::Internal(format!("the solver has no test net {index}"));
        self.worker.test_net_mut(index).ok_or_else(missing)
    }

    fn feed_train(&mut self) -> Result<(), Failure> {
        check_process(self.process, "solver")?;
        let seed = random::key(&[self.worker.seed(), u64::MAX]);
        self.worker.feed()?;
        self.worker.solver_mut().net_mut().set_random_pass(seed, self.passes);
        self.passes += 1;
        Ok(())
    }

    fn feed_test(&mut self, index: usize) -> Result<(), Failure> {
        check_process(self.process, "solver")?;
        if self.test_feeds[index].is_none() {
            let settings = self.worker.testers()[index].feed_settings().clone();
            let mut opener = FeedOpener::new(FeedSettings {
                max_batches: None,
                repeat: true,
                ..settings
            });
            let net = self.test_net(index)?;
            opener.open_for(net)?;
            self.test_feeds[index] = Some(opener.finish(net)?);
        }
        let net = self.worker.test_net_mut(index);
        if let (Some(net), Some(feeds)) = (net, &mut self.test_feeds[index]) {
            feeds.fill(net)?;
        }
        Ok(())
    }
}

/// A net in one phase from what `spec` and `folder` say, with readers of its data that begin anew at the end.
pub fn own_net(spec: NetSpec, folder: PathBuf, seed: u64) -> Result<OwnNet, Error> {
    let mut layers = spec.layers.iter();
    if let Some(layer) = layers.find(|layer| matches!(layer.kind, LayerKind::Hdf5Output(_))) {
        return Err(Error::Feed {
            layer: layer.name.clone(),
            fact: "an HDF5Output layer writes its file in `sparknet test`, `sparknet train` and a Solver: take the arrays \
                   of net.blobs here, or exclude the layer"
                .to_owned(),
        });
    }
    let mut opener = FeedOpener::new(FeedSettings {
        folder,
        phase: spec.state.phase,
        rank: 0,
        world: 1,
        seed,
        positions_batches: Vec::new(),
        max_batches: None,
        fed_by_program: true,
        repeat: true,
        rows: None,
    });
    let net = Net::new(spec, &mut opener, seed)?;
    let feeds = opener.finish(&net)?;
    Ok(OwnNet {
        net,
        feeds,
        process: process::id(),
        seed,
        passes: 0,
        shares_with: None,
    })
}
