//! Caffe's `debug_info`: a line for every blob and parameter of a pass, with the mean of their absolute values.
//!
//! ```text
//!     [Forward] Layer ip1, top blob ip1 data: 0.5
//!     [Backward] Layer ip1, param blob 0 diff: 0.00123
//!     [Update] Layer ip1, param 0 data: 0.0221; diff: 0.0000123
//! ```

use std::ops::Range;

use super::Net;

/// Takes the lines of a net with `debug_info`.
pub type DebugListener = Box<dyn FnMut(String) + Send>;

impl Net {
    /// Hands the lines of every pass from now on to `listener`, if the net's spec says `debug_info`.
    pub fn listen_to_debug_info(&mut self, listener: DebugListener) {
        if self.spec.debug_info {
            self.debug = Some(listener);
        }
    }

    pub(super) fn tell_forward(&mut self, index: usize) {
        let Some(mut listener) = self.debug.take() else { return };
        let (layer, name) = (&self.layers[index], &self.spec.layers[index].name);
        for (top, buffer) in layer.plan.tops.iter().zip(&layer.top_data) {
            let (blob, mean) = (&self.blobs[*top].name, mean_abs(&self.data[*buffer]));
            listener(format!("    [Forward] Layer {name}, top blob {blob} data: {mean}"));
        }
        for (i, range) in layer.param_ranges.iter().enumerate() {
            let (blob, mean) = (self.display_name(index, i), mean_abs(&self.param_arena[range.clone()]));
            listener(format!("    [Forward] Layer {name}, param blob {blob} data: {mean}"));
        }
        self.debug = Some(listener);
    }

    pub(super) fn tell_backward(&mut self, index: usize) {
        let Some(mut listener) = self.debug.take() else { return };
        let (layer, name) = (&self.layers[index], &self.spec.layers[index].name);
        for (i, bottom) in layer.plan.bottoms.iter().enumerate() {
            if layer.plan.propagate_down[i] {
                let blob = &self.blobs[*bottom];
                let (blob, mean) = (&blob.name, mean_abs(&self.diff[blob.diff]));
                listener(format!("    [Backward] Layer {name}, bottom blob {blob} diff: {mean}"));
            }
        }
        for (i, range) in layer.param_ranges.iter().enumerate() {
            if layer.param_propagate_down[i] {
                let mean = mean_abs(&self.gradient_arena[range.clone()]);
                listener(format!("    [Backward] Layer {name}, param blob {i} diff: {mean}"));
            }
        }
        self.debug = Some(listener);
    }

    pub(super) fn tell_backward_end(&mut self) {
        let Some(listener) = &mut self.debug else { return };
        let [data, diff] = [&self.param_arena, &self.gradient_arena];
        let norms = [sum_abs(data), sum_abs(diff), l2_norm(data), l2_norm(diff)].map(six_digits);
        let [l1_data, l1_diff, l2_data, l2_diff] = norms;
        listener(format!(
            "    [Backward] All net params (data, diff): L1 norm = ({l1_data}, {l1_diff}); L2 norm = ({l2_data}, {l2_diff})"
        ));
    }

    /// The parameters before an update, where somebody listens.
    pub(crate) fn params_before_update(&self) -> Option<Vec<f32>> {
        self.debug.is_some().then(|| self.param_arena.clone())
    }

    pub(crate) fn tell_update(&mut self, before: Option<Vec<f32>>) {
        let (Some(before), Some(mut listener)) = (before, self.debug.take()) else {
            return;
        };
        for param in &self.params {
            let Range { start, end } = param.range;
            let (old, new) = (&before[start..end], &self.param_arena[start..end]);
            let update: Vec<f32> = old.iter().zip(new).map(|(old, new)| old - new).collect();
            let (layer, name) = (
                &self.spec.layers[param.layer].name,
                self.display_name(param.layer, param.index),
            );
            let (data, diff) = (mean_abs(old), mean_abs(&update));
            listener(format!(
                "    [Update] Layer {layer}, param {name} data: {data}; diff: {diff}"
            ));
        }
        self.debug = Some(listener);
    }

    /// A parameter's name where the file gives it one, else its place in the layer.
    fn display_name(&self, layer: usize, index: usize) -> String {
        let name = self.spec.layers[layer].params.get(index).map(|param| &param.name);
        name.filter(|name| !name.is_empty())
            .map_or_else(|| index.to_string(), Clone::clone)
    }
}

fn sum_abs(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value.abs())).sum()
}

fn l2_norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn mean_abs(values: &[f32]) -> f64 {
    six_digits(sum_abs(values) / values.len().max(1) as f64)
}

/// As many digits as C++'s streams show.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sparknet_proto::{
        caffe::{NetParameter, SolverParameter},
        text,
    };

    use crate::{Error, Net, NetSpec, NetState, Phase, Solver, SolverSpec, net::NoData};

    #[test]
    fn a_step_is_told_as_caffe_tells_it() {
        let net: NetParameter = text::parse(
            "net",
            "debug_info: true
             layer { name: 'in' type: 'Input' top: 'x' top: 'y' input_param { shape { dim: 2 dim: 1 } } }
             layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'ip' param { name: 'w' } param { lr_mult: 0 }
                     inner_product_param { num_output: 1 weight_filler { value: -3 } bias_filler { value: 1 } } }
             layer { name: 'loss' type: 'EuclideanLoss' bottom: 'ip' bottom: 'y' top: 'loss' }",
        )
        .unwrap();
        let spec = NetSpec::from_proto(&net, NetState::new(Phase::Train)).unwrap();
        let mut net = Net::new(spec, &mut NoData, 1).unwrap();
        net.blob_data_mut("x").unwrap().copy_from_slice(&[1.0, -2.0]);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        net.listen_to_debug_info(Box::new(move |line| heard.lock().unwrap().push(line)));
        let solver: SolverParameter = text::parse("solver", "base_lr: 0.1 lr_policy: 'fixed' max_iter: 1").unwrap();
        let mut solver = Solver::new(SolverSpec::from_proto(&solver).unwrap(), net, 1);
        solver.compute_gradients(|_| Ok::<(), Error>(())).unwrap();
        solver.apply_update();
        // ip = (-2, 7), loss = (4 + 49) / 4; its gradient (-1, 3.5) gives the weight 1·-1 + -2·3.5 = -8.
        let expected = [
            "[Forward] Layer in, top blob x data: 1.5",
            "[Forward] Layer in, top blob y data: 0",
            "[Forward] Layer ip, top blob ip data: 4.5",
            "[Forward] Layer ip, param blob w data: 3",
            "[Forward] Layer ip, param blob 1 data: 1",
            "[Forward] Layer loss, top blob loss data: 13.25",
            "[Backward] Layer loss, bottom blob ip diff: 2.25",
            "[Backward] Layer ip, param blob 0 diff: 8",
            "[Backward] All net params (data, diff): L1 norm = (4, 8); L2 norm = (3.16228, 8)",
            "[Update] Layer ip, param w data: 3; diff: 0.8",
            "[Update] Layer ip, param 1 data: 1; diff: 0",
        ];
        assert_eq!(*lines.lock().unwrap(), expected.map(|line| format!("    {line}")));
    }
}
