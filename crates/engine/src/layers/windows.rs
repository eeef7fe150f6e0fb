//! The windows of pooling as Caffe counts them, and what STOCHASTIC pooling makes of them.

use crate::{
    kernels::pooling::{Axis, Windows},
    random,
};

impl Axis {
    /// The windows that Caffe has along an axis: as many as fit, or one more with `round_up`; with `drop_beyond`, not
    /// one that begins behind the input.
    ///
    /// # Errors
    /// What is wrong with these settings, and the remedy.
    pub fn new(
        [input, kernel, stride, pad]: [usize; 4],
        round_up: bool,
        drop_beyond: bool,
    ) -> Result<Self, &'static str> {
        let room = (input + 2 * pad) as i64 - kernel as i64;
        let step = stride as i64;
        let steps = if round_up {
            -(-room).div_euclid(step)
        } else {
            room.div_euclid(step)
        };
        let mut output = usize::try_from(steps + 1).unwrap_or(0);
        let begins_beyond = |output: usize| output > 0 && (output - 1) * stride >= input + pad;
        if drop_beyond && begins_beyond(output) {
            output -= 1;
        }
        if output == 0 {
            return Err("the kernel is larger than it with its padding: make kernel_size smaller, or set pad");
        }
        if begins_beyond(output) {
            return Err("the last window begins beyond it: set round_mode: FLOOR, or a smaller stride");
        }
        Ok(Self {
            input,
            output,
            // What no window sees is cut off, so that buffers have the bottom's size, whatever the file says.
            kernel: kernel.min(input + 2 * pad),
            stride: if output == 1 { 1 } else { stride },
            pad,
        })
    }
}

/// All of one channel, `x` and `dx` (h, w), `y` and `dy` (h, w) of the top.
impl Windows {
    /// Draws one value of each window in proportion to the values; `first_random` is the index of the first's draw.
    pub fn draw(&self, random_key: u64, first_random: u64, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        for (output, (y, taken_from)) in y.iter_mut().zip(taken_from).enumerate() {
            let sum: f32 = self.indices(output).map(|index| x[index]).sum();
            let threshold = random::uniform(random_key, first_random + output as u64) * sum;
            let mut sum_so_far = 0.0;
            let mut drawn = 0;
            for index in self.indices(output) {
                drawn = index;
                sum_so_far += x[index];
                if sum_so_far > threshold {
                    break;
                }
            }
            (*y, *taken_from) = (x[drawn], drawn as u32);
        }
    }

    /// Σ x² / Σ x of each window, 0 where that sum is.
    pub fn weighted_average(&self, x: &[f32], y: &mut [f32]) {
        for (output, y) in y.iter_mut().enumerate() {
            let values = self.indices(output).map(|index| x[index]);
            let sum: f32 = values.clone().sum();
            *y = if sum == 0.0 {
                0.0
            } else {
                values.map(|x| x * x).sum::<f32>() / sum
            };
        }
    }

    /// Adds to `dx` what `weighted_average` hands back.
    pub fn weighted_average_gradient(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        for (output, (y, dy)) in y.iter().zip(dy).enumerate() {
            let sum: f32 = self.indices(output).map(|index| x[index]).sum();
            if sum != 0.0 {
                self.indices(output)
                    .for_each(|index| dx[index] += dy * (2.0 * x[index] - y) / sum);
            }
        }
    }
}
