//! What workers do to agree.
//!
//! Workers train alone for τ iterations, then agree on the weights. What happens at which iteration is a
//! [`SyncStrategy`]; how numbers get from one worker to the others is a [`Transport`]. This crate knows no net and no
//! data: it sees flat slices of `f32`, a rank, a world size and a clock.
//!
//! | strategy | what is averaged | when | known from |
//! |---|---|---|---|
//! | [`Average`] | weights, and momentum if asked | every τ iterations | SparkNet, Deeplearning4j |
//! | [`AllReduce`] | gradients | every iteration | CaffeOnSpark, synchronous SGD |
//!
//! | transport | between | for |
//! |---|---|---|
//! | [`InProcess`] | threads of one process | one machine |
//! | [`Tcp`] | processes, which a [`Listener`] connects and a [`JobToken`] admits | several machines |
//!
//! Both sum in the same order, so the same shards end with the same bits on either. [`Compression`] trades that, and
//! some precision, for half the bytes on the network.
//!
//! ```
//! use sparknet_sync::{Average, HistoryPolicy, Replica, Round, SyncStrategy, in_process};
//! use std::time::Duration;
//!
//! let workers = in_process(2, Duration::from_secs(60)).into_iter().enumerate().map(|(rank, mut transport)| {
//!     std::thread::spawn(move || {
//!         let mut strategy = Average::new(1, HistoryPolicy::Keep)?;
//!         let (mut params, mut gradients, mut momentum) = ([7.0], [0.0], [0.0]);
//!         strategy.start(&mut params, &mut transport)?;
//!         params[0] += rank as f32; // an iteration of training: 7 and 8
//!         let replica = Replica {
//!             params: &mut params,
//!             gradients: &mut gradients,
//!             histories: &mut std::iter::once(&mut momentum[..]),
//!         };
//!         assert_eq!(strategy.after_update(1, replica, &mut transport)?, Round::Completed);
//!         assert_eq!(params, [7.5]);
//!         Ok::<_, sparknet_sync::SyncError>(())
//!     })
//! });
//! for worker in workers.collect::<Vec<_>>() {
//!     worker.join().unwrap()?;
//! }
//! # Ok::<_, sparknet_sync::SyncError>(())
//! ```

mod allreduce;
mod average;
mod call;
mod control;
mod error;
mod frame;
mod half_precision;
mod handshake;
mod in_process;
mod listener;
mod rendezvous;
mod ring;
mod strategy;
mod tcp;
mod transport;

pub use allreduce::AllReduce;
pub use average::{Average, HistoryPolicy, round_is_due};
pub use error::SyncError;
pub use handshake::JobToken;
pub use in_process::{InProcess, in_process};
pub use listener::Listener;
pub use strategy::{Replica, Round, SyncStrategy};
pub use tcp::{Compression, Tcp, TcpOptions};
pub use transport::{Transport, segment};
