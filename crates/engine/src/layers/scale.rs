//! Scale: `y = s · x + b`, where s and b go with some axes of x. The factor s is a learned parameter or the second
//! bottom; b, there with `bias_term`, is a parameter.
//!
//! ```prototxt
//! layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
//! ```
//!
//! x is `(outer, s's axes, inner)` around `num_axes` axes from `axis` on.

use super::{
    Arity, LayerDef,
    channels::{Channels, keep_param_shape},
};
use crate::{
    LayerError, Shape,
    filler::Filler,
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::ScaleSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Scale",
    summary: "multiplies some axes with a factor: a parameter, or the second bottom",
    bottoms: Arity::Between(1, 2),
    tops: Arity::Exactly(1),
    parse: ScaleSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Multiplies with values that go with some axes of its bottom.
pub struct Scale {
    spec: ScaleSpec,
    channels: Channels,
    /// The shape of the factors and biases.
    values: Option<Shape>,
    /// Whether the factors are a parameter, the first then.
    is_learned: bool,
    partial_sums: Vec<f64>,
}

impl Scale {
    /// A layer of this description.
    pub fn new(spec: &ScaleSpec) -> Self {
        Self {
            spec: spec.clone(),
            channels: Channels::default(),
            values: None,
            is_learned: false,
            partial_sums: Vec::new(),
        }
    }

    /// Which parameter the bias is.
    fn bias_param(&self) -> Option<usize> {
        let index = usize::from(self.is_learned);
        self.spec.bias_filler.as_ref().map(|_| index)
    }
}

impl Layer for Scale {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (channels, values) = Channels::of_bottoms(bottom, &self.spec.axes)?;
        self.channels = channels;
        self.is_learned = bottom.len() == 1;
        if self.is_learned || self.spec.bias_filler.is_some() {
            keep_param_shape(bottom[0], values, &mut self.values)?;
        }
        Ok(vec![bottom[0].clone()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let factor = self.is_learned.then_some(&self.spec.filler);
        let fillers = factor.into_iter().chain(&self.spec.bias_filler);
        let blob = |(filler, shape): (&Filler, &Shape)| ParamBlob {
            shape: shape.clone(),
            filler: filler.clone(),
        };
        fillers.zip(self.values.iter().cycle()).map(blob).collect()
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (x, top) = (Some(io.bottom.get(0)), &mut io.top[0]);
        let factor = if self.is_learned {
            &io.params[0]
        } else {
            io.bottom.get(1)
        };
        match self.bias_param() {
            None => self.channels.map(
                x,
                top,
                [factor],
                #[inline(always)]
                |x, [factor]| x * factor,
            ),
            Some(bias) => self.channels.map(
                x,
                top,
                [factor, &io.params[bias]],
                #[inline(always)]
                |x, [factor, bias]| x * factor + bias,
            ),
        }
        Ok(())
    }

    /// `dx = s · dy`, `ds = Σ dy · x` and `db = Σ dy`.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let (x, top_diff) = (io.bottom.get(0), io.top_diff.get(0));
        let (bottom_diff, factor_bottom_diff) = io.bottom_diff.split_at_mut(1);
        if io.propagate_down[0] {
            let factor = if self.is_learned {
                &io.params[0]
            } else {
                io.bottom.get(1)
            };
            self.channels.map(
                Some(top_diff),
                &mut bottom_diff[0],
                [factor],
                #[inline(always)]
                |dy, [factor]| dy * factor,
            );
        }
        let bias = self.bias_param().filter(|param| io.param_propagate_down[*param]);
        let wants_factor = if self.is_learned {
            io.param_propagate_down[0]
        } else {
            io.propagate_down[1]
        };
        if !wants_factor && bias.is_none() {
            return;
        }
        let take = |channel: usize, [factor_sum, bias_sum]: [f64; 2]| {
            if wants_factor && self.is_learned {
                io.param_diff.get_mut(0)[channel] += factor_sum as f32;
            } else if wants_factor {
                factor_bottom_diff[0][channel] = factor_sum as f32;
            }
            if let Some(bias) = bias {
                io.param_diff.get_mut(bias)[channel] += bias_sum as f32;
            }
        };
        self.channels.sum(
            &mut self.partial_sums,
            top_diff,
            x,
            [],
            #[inline(always)]
            |dy, x, []| [dy * x, dy],
            take,
        );
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[2, 3, 2, 2]], "scale_param { bias_term: true }"),
    super::case(&[&[4, 3]], "scale_param { bias_term: true }"),
    super::case(&[&[2, 3, 2]], "scale_param { axis: -2 num_axes: -1 }"),
    super::case(&[&[2, 3, 2]], "scale_param { num_axes: 0 bias_term: true }"),
    super::case(&[&[2, 3, 2], &[3, 2]], "scale_param { bias_term: true }"),
    super::case(&[&[2, 3, 2], &[2, 3]], "scale_param { axis: 0 }"),
];
