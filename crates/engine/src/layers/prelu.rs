//! PReLU: `y = max(x, 0) + a · min(x, 0)`, where the slope a is learned: one a channel, or one for all.
//!
//! ```prototxt
//! layer { name: "prelu1" type: "PReLU" bottom: "conv1" top: "conv1" prelu_param { filler { value: 0.1 } } }
//! ```
//!
//! x is `(n, channels, …)`.

use super::{
    Arity, LayerDef,
    channels::{Channels, keep_param_shape},
};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::PReluSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "PReLU",
    summary: "max(x, 0), and a learned slope below zero",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: PReluSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// A rectifier with learned slopes below zero (He et al. 2015).
pub struct PRelu {
    spec: PReluSpec,
    channels: Channels,
    /// The shape of the slopes, once it is known.
    slopes: Option<Shape>,
    partial_sums: Vec<f64>,
}

impl PRelu {
    /// A layer of this description.
    pub fn new(spec: &PReluSpec) -> Self {
        Self {
            spec: spec.clone(),
            channels: Channels::default(),
            slopes: None,
            partial_sums: Vec::new(),
        }
    }
}

impl Layer for PRelu {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        if shape.num_axes() < 2 {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: "there have to be at least 2 axes, the channels on the second".to_owned(),
            });
        }
        let slopes = if self.spec.channel_shared {
            self.channels = Channels::new(shape, 0, 0);
            Shape::default()
        } else {
            self.channels = Channels::new(shape, 1, 1);
            Shape::from([shape.dims()[1]])
        };
        keep_param_shape(shape, slopes, &mut self.slopes)?;
        Ok(vec![shape.clone()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let blob = |shape: &Shape| ParamBlob {
            shape: shape.clone(),
            filler: self.spec.filler.clone(),
        };
        self.slopes.iter().map(blob).collect()
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.channels.map(
            Some(io.bottom.get(0)),
            &mut io.top[0],
            [&io.params[0]],
            #[inline(always)]
            |x, [slope]| x * if x > 0.0 { 1.0 } else { slope },
        );
        Ok(())
    }

    /// `dx = dy` above zero and `a · dy` below, `da = Σ dy · min(x, 0)`.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let (x, top_diff) = (io.bottom.get(0), io.top_diff.get(0));
        if io.param_propagate_down[0] {
            let diff = io.param_diff.get_mut(0);
            self.channels.sum(
                &mut self.partial_sums,
                x,
                top_diff,
                [],
                #[inline(always)]
                |x, dy, []| [dy * if x > 0.0 { 0.0 } else { x }],
                |channel, [sum]| diff[channel] += sum as f32,
            );
        }
        if io.propagate_down[0] {
            self.channels.map_pairs(
                Some(top_diff),
                x,
                &mut io.bottom_diff[0],
                [&io.params[0]],
                #[inline(always)]
                |dy, x, [slope]| dy * if x > 0.0 { 1.0 } else { slope },
            );
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 2, 2]],
        params: "",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: &[&[4, 3]],
        params: "prelu_param { filler { type: 'gaussian' } }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 2]],
        params: "prelu_param { channel_shared: true }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn slopes_start_at_a_quarter_and_a_filler_is_asked_for_others() {
        for (params, slope) in [("", 0.25), ("prelu_param { filler { value: 0.5 } }", 0.5)] {
            let layer = format!("layer {{ name: 'L' type: 'PReLU' bottom: 'x' top: 'y' {params} }}");
            let mut net = net(&format!("{}{layer}", input("x", &[1, 2]))).unwrap();
            assert_eq!(run(&mut net, &[("x", &[-2.0, 3.0])]).unwrap()["y"], [-2.0 * slope, 3.0]);
        }
    }

    #[test]
    fn one_axis_is_not_enough() {
        let layer = "layer { name: 'L' type: 'PReLU' bottom: 'x' top: 'y' }";
        let error = net(&format!("{}{layer}", input("x", &[4]))).err().unwrap();
        assert!(
            error.starts_with("layer 'L' (PReLU): bottom 0 has shape (4)"),
            "{error}"
        );
    }
}
