//! One spatial axis of a kernel's way.

use std::ops::Range;

use crate::kernels::col2im::Steps;

/// One spatial axis.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) pad: usize,
    pub(super) dilation: usize,
}

impl Axis {
    pub(super) const ONE: Self = Self {
        input: 1,
        output: 1,
        kernel: 1,
        stride: 1,
        pad: 0,
        dilation: 1,
    };

    /// For a kernel that moves by 1.
    pub(super) fn steps(&self) -> Option<Steps> {
        (self.stride == 1).then_some(Steps {
            input: self.input,
            output: self.output,
            kernel: self.kernel,
            pad: self.pad,
            dilation: self.dilation,
        })
    }

    /// The outputs for which kernel position `tap` meets the input and not the padding, and the input that the first
    /// of them meets.
    pub(super) fn inside(&self, tap: usize) -> (Range<usize>, usize) {
        let offset = tap * self.dilation;
        let start = self.pad.saturating_sub(offset).div_ceil(self.stride);
        let inputs = (self.input + self.pad).saturating_sub(offset);
        let end = inputs.div_ceil(self.stride).min(self.output);
        if start < end {
            (start..end, start * self.stride + offset - self.pad)
        } else {
            (0..0, 0)
        }
    }
}
