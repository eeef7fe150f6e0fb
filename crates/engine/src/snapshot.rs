//! Caffe's snapshots: the `.caffemodel` holds the net with its weights, the `.solverstate` what a solver remembers.

use std::path::Path;

use sparknet_proto::caffe::{BlobProto, SolverState};

use crate::{
    Error, Solver,
    net::Param,
    weights::{blob_shape, read_blob},
};

/// An arena as blobs, one a parameter.
pub fn arena_to_proto<'a>(params: &'a [Param], arena: &'a [f32]) -> impl Iterator<Item = BlobProto> + 'a {
    params.iter().map(|param| BlobProto {
        shape: Some(param.shape.to_proto()),
        data: arena[param.range.clone()].to_vec(),
        ..Default::default()
    })
}

/// Reads what [`arena_to_proto`] gave.
///
/// # Errors
/// Another number of blobs, or a blob of another size.
pub fn arena_from_proto(blobs: &[BlobProto], params: &[Param], arena: &mut [f32]) -> Result<(), String> {
    const REMEDY: &str = "resume with the solver and net that wrote it";
    if blobs.len() != params.len() {
        return Err(format!(
            "it has {} blobs and the net {} parameters: {REMEDY}",
            blobs.len(),
            params.len()
        ));
    }
    for (param, blob) in params.iter().zip(blobs) {
        let found = blob_shape(blob);
        if found.count() != param.shape.count() {
            return Err(format!(
                "it has a blob of shape {found} for a parameter of shape {}: {REMEDY}",
                param.shape
            ));
        }
        read_blob(blob, &mut arena[param.range.clone()])?;
    }
    Ok(())
}

impl Solver {
    /// The histories as Caffe writes them: for every kind of history one blob a parameter.
    pub fn histories_to_proto(&self) -> Vec<BlobProto> {
        let params = self.net().params();
        self.histories()
            .iter()
            .flat_map(|history| arena_to_proto(params, history))
            .collect()
    }

    /// Reads what [`Solver::histories_to_proto`] gave.
    ///
    /// # Errors
    /// Histories of another solver or net.
    pub fn restore_histories(&mut self, blobs: &[BlobProto]) -> Result<(), String> {
        let (net, histories) = self.net_and_histories_mut();
        let kinds = histories.len();
        if blobs.len() != net.params().len() * kinds {
            return Err(format!(
                "it has {} history blobs, but a solver with {kinds} for each of the net's {} parameters wants {}: \
                 resume with the solver and net that wrote it",
                blobs.len(),
                net.params().len(),
                net.params().len() * kinds
            ));
        }
        for (history, blobs) in histories.iter_mut().zip(blobs.chunks(net.params().len().max(1))) {
            arena_from_proto(blobs, net.params(), history)?;
        }
        Ok(())
    }

    /// The solver's state, without the fields that a run of several workers adds. `learned_net` is the `.caffemodel`
    /// beside it.
    pub fn state_to_proto(&self, learned_net: &str) -> SolverState {
        SolverState {
            iter: Some(self.iteration() as i32),
            learned_net: Some(learned_net.to_owned()),
            history: self.histories_to_proto(),
            current_step: Some(self.current_step() as i32),
            ..Default::default()
        }
    }

    /// Takes up the iteration, the learning rate's step and the histories of a `.solverstate`; the weights are loaded
    /// apart ([`crate::Net::copy_weights_from`]).
    ///
    /// # Errors
    /// A state of another solver or net.
    pub fn restore_state(&mut self, state: &SolverState, path: &Path) -> Result<(), Error> {
        let error = |fact: String| Error::Snapshot {
            path: path.to_owned(),
            fact,
        };
        let count = |name: &str, value: i32| {
            u64::try_from(value).map_err(|_| error(format!("its {name} is {value}: the file is damaged")))
        };
        let iteration = count("iter", state.iter())?;
        let current_step = count("current_step", state.current_step())?;
        self.restore_histories(&state.history).map_err(error)?;
        self.restore(iteration, current_step, &[]);
        Ok(())
    }
}
