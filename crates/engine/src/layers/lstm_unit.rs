//! LSTMUnit: one step of a long short-term memory: Hochreiter and Schmidhuber (1997), with forget gates.
//!
//! `i, f, o = σ(x₁), cont·σ(x₂), σ(x₃); g = tanh(x₄); c = f·c₋₁ + i·g; h = o·tanh(c)`
//!
//! Bottoms are the cells before the step `(1, n, d)`, the gates' inputs `x` `(1, n, 4d)` and `cont` `(1, n)`, 0 where a
//! sequence begins; tops are the cells `c` and the hidden state `h`, each `(1, n, d)`.
//!
//! ```prototxt
//! layer { name: "unit" type: "LSTMUnit" bottom: "c_0" bottom: "gates" bottom: "cont" top: "c_1" top: "h_1" }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, vectorized::vectorized};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "LSTMUnit",
    summary: "one step of a long short-term memory",
    bottoms: Arity::Exactly(3),
    tops: Arity::Exactly(2),
    parse: |_| Ok(LayerKind::LstmUnit),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Cells that a thread takes at a time.
const PART: usize = 4096;

/// One step for `n` streams.
pub struct LstmUnit {
    hidden: usize,
    /// The values of the gates, as [`activate`] leaves them.
    gates: Vec<f32>,
    /// The cells' gradient where nobody wants it, and the gates'.
    cell_diff: Vec<f32>,
    gate_diff: Vec<f32>,
}

impl LstmUnit {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self {
            hidden: 0,
            gates: Vec::new(),
            cell_diff: Vec::new(),
            gate_diff: Vec::new(),
        }
    }
}

impl Layer for LstmUnit {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let error = |bottom: usize, shape: &Shape, fact: String| LayerError::BottomShape {
            bottom,
            shape: shape.clone(),
            fact,
        };
        let [1, streams, hidden] = *bottom[0].dims() else {
            return Err(error(
                0,
                bottom[0],
                "the cells before the step are (1, n, d)".to_owned(),
            ));
        };
        if *bottom[1].dims() != [1, streams, 4 * hidden] {
            let fact = format!("cells {} want gates (1, {streams}, {})", bottom[0], 4 * hidden);
            return Err(error(1, bottom[1], fact));
        }
        if *bottom[2].dims() != [1, streams] {
            let fact = format!("cells {} want indicators (1, {streams})", bottom[0]);
            return Err(error(2, bottom[2], fact));
        }
        self.hidden = hidden;
        Ok(vec![bottom[0].clone(); 2])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.gates.clear();
        self.gates.extend_from_slice(io.bottom.get(1));
        let [c, h] = &mut *io.top else { return Ok(()) };
        activate(self.hidden, io.bottom.get(2), &mut self.gates, io.bottom.get(0), c, h);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let [c_diff, x_diff, _] = &mut *io.bottom_diff else {
            return;
        };
        let c_diff = if io.propagate_down[0] {
            c_diff
        } else {
            self.cell_diff.resize(io.bottom.get(0).len(), 0.0);
            &mut self.cell_diff
        };
        c_diff.copy_from_slice(io.top_diff.get(0));
        let x_diff = if io.propagate_down[1] {
            x_diff
        } else {
            self.gate_diff.resize(self.gates.len(), 0.0);
            &mut self.gate_diff
        };
        let (c_prev, c, h_diff) = (io.bottom.get(0), io.top.get(0), io.top_diff.get(1));
        gradient(self.hidden, &self.gates, c_prev, c, h_diff, c_diff, x_diff);
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }

    fn accepts_gradient(&self, bottom: usize) -> bool {
        bottom < 2
    }
}

/// One step for `cont.len()` streams of `hidden` cells each. `gates` `(n, 4·hidden)` holds the gates' inputs and then
/// their values, with `cont` in the forget gates'.
pub fn activate(hidden: usize, cont: &[f32], gates: &mut [f32], c_prev: &[f32], c: &mut [f32], h: &mut [f32]) {
    let streams = (PART / hidden).max(1);
    if cont.len() <= streams {
        return activate_streams(hidden, cont, gates, c_prev, c, h);
    }
    let cells = streams * hidden;
    let sources = cont.par_chunks(streams).zip(c_prev.par_chunks(cells));
    let targets = c.par_chunks_mut(cells).zip(h.par_chunks_mut(cells));
    let parts = gates.par_chunks_mut(4 * cells).zip(sources).zip(targets);
    parts.for_each(|((gates, (cont, c_prev)), (c, h))| activate_streams(hidden, cont, gates, c_prev, c, h));
}

fn activate_streams(hidden: usize, cont: &[f32], gates: &mut [f32], c_prev: &[f32], c: &mut [f32], h: &mut [f32]) {
    let streams = gates.chunks_exact_mut(4 * hidden).zip(cont);
    let cells = c.chunks_exact_mut(hidden).zip(h.chunks_exact_mut(hidden));
    for (((gates, cont), c_prev), (c, h)) in streams.zip(c_prev.chunks_exact(hidden)).zip(cells) {
        let cont = *cont;
        let (i, rest) = gates.split_at_mut(hidden);
        let (f, rest) = rest.split_at_mut(hidden);
        let (o, g) = rest.split_at_mut(hidden);
        vectorized(
            #[inline(always)]
            move || {
                let gates = i.iter_mut().zip(f).zip(o.iter_mut().zip(g));
                for (((i, f), (o, g)), ((c_prev, c), h)) in gates.zip(c_prev.iter().zip(c).zip(h)) {
                    *i = sigmoid(*i);
                    *f = if cont == 0.0 { 0.0 } else { cont * sigmoid(*f) };
                    *o = sigmoid(*o);
                    *g = tanh(*g);
                    *c = *f * c_prev + *i * *g;
                    *h = *o * tanh(*c);
                }
            },
        );
    }
}

/// The gradients of [`activate`] from that of `h`: `c_diff` holds that of `c` and then that of `c_prev`, and
/// `gate_diff` is written. As in Caffe the forget gate's takes `cont` for 0 or 1.
pub fn gradient(
    hidden: usize,
    gates: &[f32],
    c_prev: &[f32],
    c: &[f32],
    h_diff: &[f32],
    c_diff: &mut [f32],
    gate_diff: &mut [f32],
) {
    let cells = (PART / hidden).max(1) * hidden;
    if c.len() <= cells {
        return gradient_of_streams(hidden, gates, c_prev, c, h_diff, c_diff, gate_diff);
    }
    let sources = c_prev
        .par_chunks(cells)
        .zip(c.par_chunks(cells))
        .zip(h_diff.par_chunks(cells));
    let targets = c_diff.par_chunks_mut(cells).zip(gate_diff.par_chunks_mut(4 * cells));
    let parts = gates.par_chunks(4 * cells).zip(sources).zip(targets);
    parts.for_each(|((gates, ((c_prev, c), h_diff)), (c_diff, gate_diff))| {
        gradient_of_streams(hidden, gates, c_prev, c, h_diff, c_diff, gate_diff);
    });
}

fn gradient_of_streams(
    hidden: usize,
    gates: &[f32],
    c_prev: &[f32],
    c: &[f32],
    h_diff: &[f32],
    c_diff: &mut [f32],
    gate_diff: &mut [f32],
) {
    for (stream, (gates, gate_diff)) in gates
        .chunks_exact(4 * hidden)
        .zip(gate_diff.chunks_exact_mut(4 * hidden))
        .enumerate()
    {
        let cells = stream * hidden..(stream + 1) * hidden;
        let (c_prev, c, h_diff) = (&c_prev[cells.clone()], &c[cells.clone()], &h_diff[cells.clone()]);
        let c_diff = &mut c_diff[cells];
        let (i, rest) = gates.split_at(hidden);
        let (f, rest) = rest.split_at(hidden);
        let (o, g) = rest.split_at(hidden);
        let (i_diff, rest) = gate_diff.split_at_mut(hidden);
        let (f_diff, rest) = rest.split_at_mut(hidden);
        let (o_diff, g_diff) = rest.split_at_mut(hidden);
        vectorized(
            #[inline(always)]
            move || {
                let gates = i.iter().zip(f).zip(o.iter().zip(g));
                let gate_diffs = i_diff.iter_mut().zip(f_diff).zip(o_diff.iter_mut().zip(g_diff));
                let cells = c_prev.iter().zip(c).zip(h_diff.iter().zip(c_diff));
                let all = gates.zip(gate_diffs).zip(cells);
                for ((((i, f), (o, g)), ((di, df), (d_o, dg))), ((c_prev, c), (dh, dc))) in all {
                    let tanh_c = tanh(*c);
                    let slope = *dc + dh * o * (1.0 - tanh_c * tanh_c);
                    *di = slope * g * i * (1.0 - i);
                    *df = slope * c_prev * f * (1.0 - f);
                    *d_o = dh * tanh_c * o * (1.0 - o);
                    *dg = slope * i * (1.0 - g * g);
                    *dc = slope * f;
                }
            },
        );
    }
}

/// `1 / (1 + exp(-x))`, vectorised.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent to within float32's epsilon, vectorised.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// The exponential to within a few units in the last place, without a call or a branch, so that loops over it become
/// vectors: `2ⁿ·exp(r)` with |r| at most half of ln 2, where a polynomial is enough (Cephes' `expf`, Moshier 1992). Beyond
/// ±87 it stays what it is there.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a float, leaves its nearest whole number in the last bits: 1.5·2²³.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of few bits, so that its product with n is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let scale = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    scale * (p * r * r + r + 1.0)
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[1, 4, 3], &[1, 4, 12], &[1, 4]],
        params: "",
        tops: 2,
        fill: super::Fill::Labels(2),
    },
    super::GradientCase {
        bottoms: &[&[1, 1, 17], &[1, 1, 68], &[1, 1]],
        params: "",
        tops: 2,
        fill: super::Fill::Labels(1),
    },
];

#[cfg(test)]
mod tests {
    use super::super::{
        gradient_check::{input, net},
        harness::normal,
    };
    use super::*;

    #[test]
    fn functions_are_as_good_as_the_standard_librarys() {
        for i in -20_000..=20_000 {
            let x = i as f32 / 200.0;
            let exact = f64::from(x);
            if x.abs() <= 87.0 {
                assert!(
                    (f64::from(exp(x)) / exact.exp() - 1.0).abs() < 3e-7,
                    "exp({x}) = {}",
                    exp(x)
                );
            }
            assert!(
                (f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs() < 1.2e-7,
                "sigmoid({x})"
            );
            assert!((f64::from(tanh(x)) - exact.tanh()).abs() < 2.4e-7, "tanh({x})");
        }
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    }

    /// Forward and backward of `n` streams at once are those of each alone, however many threads share them.
    #[test]
    fn streams_are_independent() {
        let (streams, hidden) = (37, 200);
        let cells = streams * hidden;
        let (inputs, c_prev, dh, dc) = (
            normal(1, 4 * cells),
            normal(2, cells),
            normal(3, cells),
            normal(4, cells),
        );
        let cont: Vec<f32> = (0..streams).map(|i| [1.0, 0.0, 0.5][i % 3]).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (mut gates, mut c, mut h) = (inputs.clone(), vec![0.0; cells], vec![0.0; cells]);
        let (mut c_diff, mut gate_diff) = (dc.clone(), vec![0.0; 4 * cells]);
        pool.install(|| {
            activate(hidden, &cont, &mut gates, &c_prev, &mut c, &mut h);
            gradient(hidden, &gates, &c_prev, &c, &dh, &mut c_diff, &mut gate_diff);
        });
        for stream in 0..streams {
            let cell = |d: usize| stream * hidden + d;
            for d in [0, 1, hidden - 1] {
                let x = |gate: usize| inputs[4 * stream * hidden + gate * hidden + d];
                let s = |x: f32| 1.0 / (1.0 + (-x).exp());
                let (i, f, o, g) = (s(x(0)), cont[stream] * s(x(1)), s(x(2)), x(3).tanh());
                let c_now = f * c_prev[cell(d)] + i * g;
                let slope = dc[cell(d)] + dh[cell(d)] * o * (1.0 - c_now.tanh().powi(2));
                let found = [
                    c[cell(d)],
                    h[cell(d)],
                    c_diff[cell(d)],
                    gate_diff[4 * stream * hidden + d],
                ];
                let expected = [c_now, o * c_now.tanh(), slope * f, slope * g * i * (1.0 - i)];
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < 2e-6,
                        "stream {stream}, cell {d}: {found} is not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn shapes_are_checked_by_name() {
        for (shapes, fact) in [
            ([&[2, 3, 4][..], &[1, 3, 16], &[1, 3]], "bottom 0 has shape (2, 3, 4)"),
            (
                [&[1, 3, 4], &[1, 3, 12], &[1, 3]],
                "bottom 1 has shape (1, 3, 12), but cells (1, 3, 4) want gates (1, 3, 16)",
            ),
            (
                [&[1, 3, 4], &[1, 3, 16], &[3]],
                "bottom 2 has shape (3), but cells (1, 3, 4) want indicators (1, 3)",
            ),
        ] {
            let inputs: String = ["c", "x", "i"]
                .iter()
                .zip(shapes)
                .map(|(name, dims)| input(name, dims))
                .collect();
            let layer = "layer { name: 'L' type: 'LSTMUnit' bottom: 'c' bottom: 'x' bottom: 'i' top: 'd' top: 'h' }";
            let error = net(&format!("{inputs}{layer}")).err().unwrap();
            assert!(
                error.starts_with("layer 'L' (LSTMUnit)") && error.contains(fact),
                "{error}"
            );
        }
    }
}
