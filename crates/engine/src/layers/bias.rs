//! Bias: `y = x + b`, where b goes with some axes of x: a learned parameter, or the second bottom.
//!
//! ```prototxt
//! layer { name: "bias" type: "Bias" bottom: "conv1" top: "conv1" bias_param { filler { value: 0.1 } } }
//! ```
//!
//! x is `(outer, b's axes, inner)` around `num_axes` axes from `axis` on.

use super::{
    Arity, LayerDef,
    channels::{Channels, keep_param_shape, top_gradient},
    vectorized,
};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::BiasSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Bias",
    summary: "adds a bias to some axes: a parameter, or the second bottom",
    bottoms: Arity::Between(1, 2),
    tops: Arity::Exactly(1),
    parse: BiasSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Adds values that go with some axes of its bottom.
pub struct Bias {
    spec: BiasSpec,
    channels: Channels,
    /// The parameter's shape; `None` where the bias is the second bottom, or not known yet.
    param: Option<Shape>,
    partial_sums: Vec<f64>,
}

impl Bias {
    /// A layer of this description.
    pub fn new(spec: &BiasSpec) -> Self {
        Self {
            spec: spec.clone(),
            channels: Channels::default(),
            param: None,
            partial_sums: Vec::new(),
        }
    }
}

impl Layer for Bias {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (channels, values) = Channels::of_bottoms(bottom, &self.spec.axes)?;
        self.channels = channels;
        if bottom.len() == 1 {
            keep_param_shape(bottom[0], values, &mut self.param)?;
        }
        Ok(vec![bottom[0].clone()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let blob = |shape: &Shape| ParamBlob {
            shape: shape.clone(),
            filler: self.spec.filler.clone(),
        };
        self.param.iter().map(blob).collect()
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let x = (!io.in_place).then(|| io.bottom.get(0));
        let bias = if io.params.is_empty() {
            io.bottom.get(1)
        } else {
            &io.params[0]
        };
        self.channels.map(
            x,
            &mut io.top[0],
            [bias],
            #[inline(always)]
            |x, [bias]| x + bias,
        );
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let (bottom_diff, bias_bottom_diff) = io.bottom_diff.split_at_mut(1);
        let top_diff = top_gradient(io.top_diff, &bottom_diff[0], io.in_place);
        let channels = self.channels;
        let partial = &mut self.partial_sums;
        let mut sum = |take: &mut dyn FnMut(usize, f32)| {
            channels.sum(
                partial,
                top_diff,
                top_diff,
                [],
                #[inline(always)]
                |dy, _, []| [dy],
                |channel, [sum]| take(channel, sum as f32),
            );
        };
        if self.param.is_some() {
            if io.param_propagate_down[0] {
                let diff = io.param_diff.get_mut(0);
                sum(&mut |channel, sum| diff[channel] += sum);
            }
        } else if io.propagate_down[1] {
            let diff = &mut bias_bottom_diff[0];
            sum(&mut |channel, sum| diff[channel] = sum);
        }
        if io.propagate_down[0] && !io.in_place {
            vectorized::copy(io.top_diff.get(0), &mut io.bottom_diff[0]);
        }
    }

    fn can_run_in_place(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[2, 3, 2, 2]], ""),
    super::case(&[&[4, 3]], ""),
    super::case(&[&[2, 3, 2]], "bias_param { axis: 0 num_axes: -1 }"),
    super::case(&[&[2, 3, 2]], "bias_param { num_axes: 0 }"),
    super::case(&[&[2, 3, 2], &[3, 2]], ""),
    super::case(&[&[2, 3, 2], &[2]], "bias_param { axis: 0 }"),
];
