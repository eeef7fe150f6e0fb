//! Dropout: while training, `y = x·mask / (1 - dropout_ratio)`, where each mask is 0 with that ratio and else 1; in the
//! phase TEST `y = x` (Srivastava et al. 2014).
//!
//! ```prototxt
//! layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" dropout_param { dropout_ratio: 0.5 } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, neuron::CHUNK, vectorized::vectorized};
use crate::{
    LayerError, Phase, Shape,
    layer::{Backward, Context, Forward, Layer},
    random,
    spec::DropoutSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Dropout",
    summary: "sets values to zero at random while training",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: DropoutSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Values that draw together; chunks are whole blocks.
const BLOCK: usize = 32;

/// Drops values at random.
pub struct Dropout {
    ratio: f32,
}

impl Dropout {
    /// A layer that drops values with probability `spec.ratio`.
    pub fn new(spec: &DropoutSpec) -> Self {
        let DropoutSpec { ratio } = *spec;
        Self { ratio }
    }

    /// Multiplies `values` with their masks, which forward and backward draw from the same stream.
    fn drop(&self, context: &Context, values: &mut [f32], from: Option<&[f32]>) {
        let (scale, key) = (1.0 / (1.0 - self.ratio), context.random_key);
        let training = context.phase == Phase::Train;
        let threshold = (f64::from(self.ratio) * f64::from(u32::MAX)) as u32;
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let start = chunk * CHUNK;
            if let Some(from) = from {
                values.copy_from_slice(&from[start..][..values.len()]);
            }
            if training {
                vectorized(
                    #[inline(always)]
                    move || {
                        for (block, values) in (start / BLOCK..).zip(values.chunks_mut(BLOCK)) {
                            let draws = draws(key, block as u64);
                            for (value, draw) in values.iter_mut().zip(&draws) {
                                *value *= if *draw < threshold { 0.0 } else { scale };
                            }
                        }
                    },
                );
            }
        });
    }
}

/// What the values of a block draw, uniform over all of `u32`: half a number of the stream each, since mixing a number
/// takes longer than all the rest.
#[inline(always)]
fn draws(key: u64, block: u64) -> [u32; BLOCK] {
    let mut draws = [0; BLOCK];
    for lane in 0..BLOCK / 2 {
        let bits = random::bits(key, block * (BLOCK / 2) as u64 + lane as u64);
        draws[lane] = bits as u32;
        draws[lane + BLOCK / 2] = (bits >> 32) as u32;
    }
    draws
}

impl Layer for Dropout {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let from = (!io.in_place).then(|| io.bottom.get(0));
        self.drop(&io.context, &mut io.top[0], from);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if io.propagate_down[0] {
            let from = (!io.in_place).then(|| io.top_diff.get(0));
            self.drop(&io.context, &mut io.bottom_diff[0], from);
        }
    }

    fn can_run_in_place(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 3, 4]],
    params: "dropout_param { dropout_ratio: 0.4 }",
    tops: 1,
    fill: super::Fill::Normal,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn drops_the_ratio_and_keeps_the_mean() {
        let extent = 100_000;
        let layer = "layer { name: 'L' type: 'Dropout' bottom: 'x' top: 'y' dropout_param { dropout_ratio: 0.3 } }";
        let mut net = net(&format!("force_backward: true {}{layer}", input("x", &[extent]))).unwrap();
        let x = vec![1.0; extent];
        let first = run(&mut net, &[("x", &x)]).unwrap()["y"].clone();
        let dropped = first.iter().filter(|y| **y == 0.0).count();
        // Five standard deviations of a binomial count.
        assert!(
            (dropped as f64 - 30_000.0).abs() < 5.0 * f64::sqrt(100_000.0 * 0.3 * 0.7),
            "{dropped}"
        );
        assert!(first.iter().all(|y| *y == 0.0 || (*y - 1.0 / 0.7).abs() < 1e-6));
        // The gradient passes where the value did.
        net.blob_diff_mut("y").unwrap().fill(1.0);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), first);
        // The same pass repeats itself, the next one does not.
        assert_eq!(run(&mut net, &[("x", &x)]).unwrap()["y"], first);
        net.set_random_pass(1, 1);
        assert_ne!(run(&mut net, &[("x", &x)]).unwrap()["y"], first);
    }
}
