//! Eltwise: `y = Σ coeffᵢ·xᵢ`, `y = Π xᵢ` or `y = max xᵢ`, element by element.
//!
//! ```prototxt
//! layer { name: "res2a" type: "Eltwise" bottom: "branch1" bottom: "branch2" top: "res2a" }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, neuron::CHUNK};
use crate::{
    LayerError, Shape,
    layer::{Backward, Blobs, Forward, Layer},
    spec::{EltwiseOperation, EltwiseSpec},
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Eltwise",
    summary: "joins its bottoms element by element",
    bottoms: Arity::AtLeast(2),
    tops: Arity::Exactly(1),
    parse: EltwiseSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Joins blobs of one shape.
pub struct Eltwise {
    spec: EltwiseSpec,
    /// For the maximum: which bottom each value came from.
    winners: Vec<u32>,
}

impl Eltwise {
    /// A layer that joins by `spec.operation`.
    pub fn new(spec: &EltwiseSpec) -> Self {
        Self {
            spec: spec.clone(),
            winners: Vec::new(),
        }
    }
}

impl Layer for Eltwise {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        if let Some(i) = bottom.iter().position(|shape| *shape != bottom[0]) {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: bottom[0].clone(),
                second: i,
                second_shape: bottom[i].clone(),
                fact: "they have to be the same".to_owned(),
            });
        }
        if self.spec.operation == EltwiseOperation::Max {
            self.winners.resize(bottom[0].count(), 0);
        }
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let bottom = io.bottom;
        let chunks = io.top[0].par_chunks_mut(CHUNK).enumerate();
        match &self.spec.operation {
            EltwiseOperation::Sum(coeff) => chunks.for_each(|(chunk, y)| {
                for (y, x) in y.iter_mut().zip(part(bottom, 0, chunk)) {
                    *y = coeff[0] * x;
                }
                for (i, coeff) in coeff.iter().enumerate().skip(1) {
                    for (y, x) in y.iter_mut().zip(part(bottom, i, chunk)) {
                        *y += coeff * x;
                    }
                }
            }),
            EltwiseOperation::Product => chunks.for_each(|(chunk, y)| multiply(y, bottom, chunk, None)),
            EltwiseOperation::Max => {
                let winners = self.winners.par_chunks_mut(CHUNK);
                chunks.zip(winners).for_each(|((chunk, y), winners)| {
                    y.copy_from_slice(&part(bottom, 0, chunk)[..y.len()]);
                    winners.fill(0);
                    for i in 1..bottom.len() {
                        let x = part(bottom, i, chunk);
                        for ((y, winner), x) in y.iter_mut().zip(&mut *winners).zip(x) {
                            // As in Caffe, the second bottom wins a tie with the first, later ones do not.
                            if *x > *y || (i == 1 && *x == *y) || x.is_nan() {
                                (*y, *winner) = (*x, i as u32);
                            }
                        }
                    }
                });
            }
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let (bottom, top, top_diff) = (io.bottom, io.top, io.top_diff);
        let wanted = io.bottom_diff.iter_mut().zip(io.propagate_down).enumerate();
        for (i, (diff, _)) in wanted.filter(|(_, (_, wanted))| **wanted) {
            let chunks = diff.par_chunks_mut(CHUNK).enumerate();
            match &self.spec.operation {
                EltwiseOperation::Sum(coeff) => chunks.for_each(|(chunk, dx)| {
                    let dy = part(top_diff, 0, chunk);
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = coeff[i] * dy);
                }),
                EltwiseOperation::Product if self.spec.stable_prod_grad => chunks.for_each(|(chunk, dx)| {
                    multiply(dx, bottom, chunk, Some(i));
                    let dy = part(top_diff, 0, chunk);
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx *= dy);
                }),
                EltwiseOperation::Product => chunks.for_each(|(chunk, dx)| {
                    let values = part(top, 0, chunk).iter().zip(part(bottom, i, chunk));
                    let values = values.zip(part(top_diff, 0, chunk));
                    dx.iter_mut()
                        .zip(values)
                        .for_each(|(dx, ((y, x), dy))| *dx = y / x * dy);
                }),
                EltwiseOperation::Max => {
                    let winners = &self.winners;
                    chunks.for_each(|(chunk, dx)| {
                        let values = winners[chunk * CHUNK..].iter().zip(part(top_diff, 0, chunk));
                        dx.iter_mut().zip(values).for_each(|(dx, (winner, dy))| {
                            *dx = if *winner == i as u32 { *dy } else { 0.0 };
                        });
                    });
                }
            }
        }
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.operation == EltwiseOperation::Product && !self.spec.stable_prod_grad
    }
}

/// Blob `i` from chunk `chunk` on.
fn part(blobs: Blobs<'_>, i: usize, chunk: usize) -> &[f32] {
    &blobs.get(i)[chunk * CHUNK..]
}

/// `product` = the bottoms' chunk `chunk`, multiplied, but for bottom `left_out`.
fn multiply(product: &mut [f32], bottom: Blobs<'_>, chunk: usize, left_out: Option<usize>) {
    let mut factors = (0..bottom.len()).filter(|i| Some(*i) != left_out);
    if let Some(first) = factors.next() {
        product.copy_from_slice(&part(bottom, first, chunk)[..product.len()]);
    }
    for i in factors {
        let factor = part(bottom, i, chunk);
        product.iter_mut().zip(factor).for_each(|(product, x)| *product *= x);
    }
}

#[cfg(test)]
const THREE: &[&[usize]] = &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]];

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: THREE,
        params: "eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: THREE,
        params: "eltwise_param { operation: PROD }",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: THREE,
        params: "eltwise_param { operation: PROD stable_prod_grad: false }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: THREE,
        params: "eltwise_param { operation: MAX }",
        tops: 1,
        fill: super::Fill::Distinct,
    },
];

#[cfg(test)]
mod tests {
    use super::{
        super::gradient_check::{input, net, run},
        CHUNK,
    };
    use crate::Net;

    fn three(params: &str, extent: usize) -> Net {
        let inputs: String = ["a", "b", "c"].iter().map(|name| input(name, &[extent])).collect();
        net(&format!(
            "force_backward: true {inputs}
             layer {{ name: 'L' type: 'Eltwise' bottom: 'a' bottom: 'b' bottom: 'c' top: 'y' eltwise_param {{ {params} }} }}"
        ))
        .unwrap()
    }

    #[test]
    fn ties_go_to_whom_caffe_gives_them() {
        let mut net = three("operation: MAX", 4);
        let bottoms: [(&str, &[f32]); 3] = [
            ("a", &[1.0, 1.0, 2.0, 0.0]),
            ("b", &[1.0, 0.0, 2.0, 3.0]),
            ("c", &[1.0, 1.0, 0.0, 3.0]),
        ];
        assert_eq!(run(&mut net, &bottoms).unwrap()["y"], [1.0, 1.0, 2.0, 3.0]);
        net.blob_diff_mut("y").unwrap().copy_from_slice(&[5.0; 4]);
        net.backward();
        assert_eq!(net.blob_diff("a").unwrap(), [0.0, 5.0, 0.0, 0.0]);
        assert_eq!(net.blob_diff("b").unwrap(), [5.0, 0.0, 5.0, 5.0]);
        assert_eq!(net.blob_diff("c").unwrap(), [0.0; 4]);
    }

    #[test]
    fn chunks_join_up() {
        let extent = CHUNK + 3;
        let [a, b, c] =
            [1.0f32, 2.0, 4.0].map(|scale| (0..extent).map(|i| scale * (i % 97) as f32).collect::<Vec<_>>());
        for (params, at_5, gradient_of_b) in [
            ("coeff: 1 coeff: 2 coeff: 3", 5.0 + 20.0 + 60.0, 2.0),
            ("operation: PROD", 5.0 * 10.0 * 20.0, 5.0 * 20.0),
            ("operation: PROD stable_prod_grad: false", 5.0 * 10.0 * 20.0, 5.0 * 20.0),
            ("operation: MAX", 20.0, 0.0),
        ] {
            let mut net = three(params, extent);
            let values = run(&mut net, &[("a", &a), ("b", &b), ("c", &c)]).unwrap();
            // The last value's bottoms are those of value 5, if 97 divides their distance.
            let last = extent - 1 - (extent - 1 - 5) % 97;
            assert!(
                last >= CHUNK - 97 && values["y"][last] == at_5 && values["y"][5] == at_5,
                "{params}"
            );
            net.blob_diff_mut("y").unwrap().fill(1.0);
            net.backward();
            assert_eq!(net.blob_diff("b").unwrap()[last], gradient_of_b, "{params}");
        }
    }

    #[test]
    fn shapes_must_be_the_same() {
        let layer = "layer { name: 'L' type: 'Eltwise' bottom: 'x' bottom: 'z' top: 'y' }";
        let error = net(&format!("{}{}{layer}", input("x", &[2, 3]), input("z", &[3, 2])))
            .err()
            .unwrap();
        assert!(
            error.contains("layer 'L' (Eltwise)") && error.contains("(3, 2)"),
            "{error}"
        );
    }
}
