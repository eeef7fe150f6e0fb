//! Indexed products against their definition, for every set that this processor has.

use proptest::prelude::*;

use super::indexed::{gemm_indexed_rows_for, pack_plain};
use super::tests::{numbers, supported};
use super::*;

/// Offsets in runs of neighbours, as the positions of patches are; single ones where `run` is 1.
fn offsets(count: usize, run: usize, gap: usize) -> Vec<usize> {
    (0..count).map(|i| i / run * (run + gap) + i % run).collect()
}

fn last(offsets: &[usize]) -> usize {
    offsets.iter().copied().max().unwrap_or(0)
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// Columns side by side in the indexed matrix, and how far apart such runs are.
    neighbours: (usize, usize),
    /// Rows of the indexed matrix: a multiple of this apart, or no such.
    row_stride: Option<usize>,
    /// Columns side by side in the result, and what lies between.
    run: usize,
    padding: usize,
    bias: bool,
    seed: u64,
}

fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..20, 3 => 40usize..60, 2 => 90usize..150, 1 => 250usize..700]
}

fn case() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![Just(None), (1usize..200).prop_map(Some)];
    let numbers = (dimension(), dimension(), dimension(), (1usize..60, 0usize..4), rows);
    (numbers, 1usize..120, 0usize..3, any::<bool>(), any::<u64>()).prop_map(
        |((m, n, k, neighbours, row_stride), run, padding, bias, seed)| Case {
            m,
            n,
            k,
            neighbours,
            row_stride,
            run,
            padding,
            bias,
            seed,
        },
    )
}

impl Case {
    fn row_offsets(&self, rows: usize) -> Vec<usize> {
        match self.row_stride {
            Some(stride) => offsets(rows, 1, stride - 1),
            None => (0..rows).map(|row| row * row * 7 % 301).collect(),
        }
    }

    fn runs(&self, rows: usize) -> Runs {
        Runs {
            run: self.run,
            run_stride: self.run * rows + self.padding,
        }
    }

    /// Compares `a · indexed + bias` with its definition; what lies around the result must stay as it was.
    fn check_columns(&self) -> Result<(), TestCaseError> {
        let &Case { m, n, k, seed, .. } = self;
        let (row_offsets, column_offsets) = (self.row_offsets(k), offsets(n, self.neighbours.0, self.neighbours.1));
        let data = numbers(last(&row_offsets) + last(&column_offsets) + 1, seed);
        let (a, bias, runs) = (numbers(m * k, seed ^ 1), numbers(m, seed ^ 2), self.runs(m));
        let bias = self.bias.then_some(&bias[..]);
        let before = numbers(n.div_ceil(self.run) * runs.run_stride + 3, seed ^ 3);
        let mut expected = before.clone();
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|p| a[i * k + p] * data[row_offsets[p] + column_offsets[j]]);
                let sum: f64 = products.map(f64::from).sum();
                expected[j / runs.run * runs.run_stride + i * runs.run + j % runs.run] =
                    sum as f32 + bias.map_or(0.0, |bias| bias[i]);
            }
        }
        let rows: Vec<usize> = (0..m).map(|row| row * k).collect();
        let steps: Vec<usize> = (0..k).collect();
        let indexed = Indexed {
            data: &data,
            row_offsets: &row_offsets,
            column_offsets: &column_offsets,
        };
        for simd in supported() {
            let mut packed = PackedRows::default();
            packed.pack_indexed_for(
                simd,
                Indexed {
                    data: &a,
                    row_offsets: &rows,
                    column_offsets: &steps,
                },
            );
            let mut c = before.clone();
            let mut workspace = Workspace::default();
            gemm_indexed(&mut workspace, &packed, 0..m, indexed, &mut c, runs, bias);
            for (index, (&c, &expected)) in c.iter().zip(&expected).enumerate() {
                let close = (c - expected).abs() <= 1e-5 * (k as f32 + 1.0).sqrt();
                prop_assert!(close, "{simd}: c[{index}] is {c}, should be {expected}");
            }
            // Rows apart, as threads take them: the same bits.
            let half = 24 * (m / 48);
            let mut parts = before.clone();
            for rows in [0..half, half..m] {
                let bias = bias.map(|bias| &bias[rows.clone()]);
                if n <= self.run {
                    let c = &mut parts[rows.start * self.run..];
                    gemm_indexed(&mut workspace, &packed, rows, indexed, c, runs, bias);
                }
            }
            prop_assert!(n > self.run || parts == c, "{simd}: parts differ");
        }
        Ok(())
    }

    /// Compares `indexed · bᵀ` with its definition.
    fn check_rows(&self, accumulate: bool) -> Result<(), TestCaseError> {
        let &Case { m, n, k, seed, .. } = self;
        let (row_offsets, column_offsets) = (self.row_offsets(m), offsets(k, self.neighbours.0, self.neighbours.1));
        let data = numbers(last(&row_offsets) + last(&column_offsets) + 1, seed);
        let runs = self.runs(n);
        let b = numbers(k.div_ceil(self.run) * runs.run_stride, seed ^ 1);
        let before = numbers(m * n + 3, seed ^ 2);
        let mut expected = before.clone();
        for i in 0..m {
            for j in 0..n {
                let b = |p: usize| b[p / runs.run * runs.run_stride + j * runs.run + p % runs.run];
                let products = (0..k).map(|p| data[row_offsets[i] + column_offsets[p]] * b(p));
                let sum: f64 = products.map(f64::from).sum();
                let c = &mut expected[i * n + j];
                *c = sum as f32 + if accumulate { *c } else { 0.0 };
            }
        }
        let indexed = Indexed {
            data: &data,
            row_offsets: &row_offsets,
            column_offsets: &column_offsets,
        };
        for simd in supported() {
            let mut c = before.clone();
            gemm_indexed_rows_for(
                simd,
                &mut Workspace::default(),
                indexed,
                n,
                &b,
                runs,
                &mut c,
                accumulate,
            );
            for (index, (&c, &expected)) in c.iter().zip(&expected).enumerate() {
                let close = (c - expected).abs() <= 1e-5 * (k as f32 + 1.0).sqrt();
                prop_assert!(close, "{simd}: c[{index}] is {c}, should be {expected}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn indexed_columns_are_multiplied_as_defined(case in case()) {
        case.check_columns()?;
    }

    #[test]
    fn indexed_rows_are_multiplied_as_defined(case in case(), accumulate in any::<bool>()) {
        case.check_rows(accumulate)?;
    }

    #[test]
    fn panels_are_packed_as_defined(depth in 1usize..20, columns in 1usize..49, run in 1usize..50, gap in 0usize..3) {
        let (rows, data) = (offsets(depth, 3, 5), numbers(500, 1));
        for (simd, plain) in [
            (Simd::Portable, pack_plain::<8> as unsafe fn(*const f32, &[usize], &[usize], *mut f32)),
            (Simd::Avx2, pack_plain::<16>),
            (Simd::Avx512, pack_plain::<48>),
        ] {
            if !supported().any(|other| other == simd) {
                continue;
            }
            let kernel = Kernel::of(simd);
            let columns = offsets(columns.min(kernel.columns), run, gap);
            let (mut found, mut expected) = (vec![0.0; 48 * depth], vec![0.0; 48 * depth]);
            // SAFETY: the offsets stay below 500, the panels have room, and the processor has the set.
            unsafe {
                (kernel.pack_indexed)(data.as_ptr(), &rows, &columns, found.as_mut_ptr());
                plain(data.as_ptr(), &rows, &columns, expected.as_mut_ptr());
            }
            prop_assert_eq!(found, expected, "{}", simd);
        }
    }
}

#[test]
#[should_panic(expected = "gemm: b reaches past its 11")]
fn an_element_past_the_data_is_refused() {
    let mut packed = PackedRows::default();
    packed.pack(Matrix::row_major(&[1.0, 2.0], 2), 1, 2);
    let indexed = Indexed {
        data: &[0.0; 11],
        row_offsets: &[0, 7],
        column_offsets: &[4, 1],
    };
    let runs = Runs { run: 2, run_stride: 2 };
    gemm_indexed(
        &mut Workspace::default(),
        &packed,
        0..1,
        indexed,
        &mut [0.0; 2],
        runs,
        None,
    );
}

#[test]
#[should_panic(expected = "gemm: c is too short")]
fn a_short_result_of_runs_is_refused() {
    let mut packed = PackedRows::default();
    packed.pack(Matrix::row_major(&[1.0, 2.0], 1), 2, 1);
    let indexed = Indexed {
        data: &[0.0; 11],
        row_offsets: &[0],
        column_offsets: &[0, 1, 2, 3],
    };
    let runs = Runs { run: 2, run_stride: 9 };
    gemm_indexed(
        &mut Workspace::default(),
        &packed,
        0..2,
        indexed,
        &mut [0.0; 12],
        runs,
        None,
    );
}
