//! The arithmetic of LRN for values whose neighbours' squares are summed.

/// y = x · s^-beta with s = constant + factor · Σ x².
#[derive(Clone, Copy)]
pub struct Formula {
    pub constant: f32,
    pub factor: f32,
    pub beta: f32,
}

impl Formula {
    /// `y = x · s^-beta`.
    #[inline(always)]
    pub fn normalize(self, sums_of_squares: &[f32], x: &[f32], y: &mut [f32]) {
        // The exponents that nets use go without the slow `powf`.
        match self.beta {
            0.75 => self.normalize_by(power_of_minus_3_4, sums_of_squares, x, y),
            0.5 => self.normalize_by(power_of_minus_1_2, sums_of_squares, x, y),
            beta => self.normalize_by(|s| s.powf(-beta), sums_of_squares, x, y),
        }
    }

    #[inline(always)]
    fn normalize_by(self, power: impl Fn(f32) -> f32, sums_of_squares: &[f32], x: &[f32], y: &mut [f32]) {
        for ((y, x), sum) in y.iter_mut().zip(x).zip(sums_of_squares) {
            *y = power(self.constant + self.factor * sum) * x;
        }
    }

    /// `terms = dy · y / s`; s^-beta takes the place of the sums of squares.
    #[inline(always)]
    pub fn gradient_terms(self, values: [&[f32]; 2], sums_of_squares: &mut [f32], terms: &mut [f32]) {
        match self.beta {
            0.75 => self.gradient_terms_by(power_of_minus_3_4, values, sums_of_squares, terms),
            0.5 => self.gradient_terms_by(power_of_minus_1_2, values, sums_of_squares, terms),
            beta => self.gradient_terms_by(|s| s.powf(-beta), values, sums_of_squares, terms),
        }
    }

    #[inline(always)]
    fn gradient_terms_by(
        self,
        power: impl Fn(f32) -> f32,
        [x, dy]: [&[f32]; 2],
        sums_of_squares: &mut [f32],
        terms: &mut [f32],
    ) {
        for (((term, sum), x), dy) in terms.iter_mut().zip(sums_of_squares).zip(x).zip(dy) {
            let s = self.constant + self.factor * *sum;
            *sum = power(s);
            *term = dy * x * *sum / s;
        }
    }

    /// `dx`, in which the sums of the neighbours' terms are.
    #[inline(always)]
    pub fn gradient(self, [x, dy]: [&[f32]; 2], powers: &[f32], dx: &mut [f32]) {
        let slope = 2.0 * self.factor * self.beta;
        for (((dx, power), x), dy) in dx.iter_mut().zip(powers).zip(x).zip(dy) {
            *dx = dy * power - slope * x * *dx;
        }
    }
}

#[inline(always)]
fn power_of_minus_3_4(s: f32) -> f32 {
    1.0 / (s.sqrt() * s.sqrt().sqrt())
}

#[inline(always)]
fn power_of_minus_1_2(s: f32) -> f32 {
    1.0 / s.sqrt()
}

/// Adds up what `f` makes of rows of equal length.
#[inline(always)]
pub fn add_up<'a>(mut rows: impl Iterator<Item = &'a [f32]>, f: impl Fn(f32) -> f32, sums: &mut [f32]) {
    if let Some(row) = rows.next() {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum = f(*value));
    }
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f(*value));
    }
}
