//! LRN within channels: `x`, `dy`, `y` and `dx` are whole channels (h, w).

use super::{Buffers, Lrn, formula::add_up};

impl Lrn {
    #[inline(always)]
    pub(super) fn forward_planes(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32]) {
        let sums = &mut buffers.scale[..x.len()];
        add_up([x].into_iter(), |x| x * x, y);
        self.windows.sum(&mut buffers.rows, y, sums);
        self.formula.normalize(sums, x, y);
    }

    #[inline(always)]
    pub(super) fn backward_planes(&self, buffers: &mut Buffers, values: [&[f32]; 2], dx: &mut [f32]) {
        let (scale, terms) = (&mut buffers.scale[..dx.len()], &mut buffers.terms[..dx.len()]);
        add_up([values[0]].into_iter(), |x| x * x, terms);
        self.windows.sum(&mut buffers.rows, terms, scale);
        self.formula.gradient_terms(values, scale, terms);
        self.windows.sum(&mut buffers.rows, terms, dx);
        self.formula.gradient(values, scale, dx);
    }
}
