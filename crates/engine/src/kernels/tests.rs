use proptest::prelude::*;

use super::product::{Product, band};
use super::*;

/// The product as it is defined, in f64.
mod reference {
    use super::Matrix;

    #[allow(clippy::too_many_arguments)]
    pub fn gemm(
        m: usize,
        n: usize,
        k: usize,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: &mut [f32],
        ldc: usize,
        accumulate: bool,
    ) {
        for i in 0..m {
            for j in 0..n {
                let mut sum = if accumulate { f64::from(c[i * ldc + j]) } else { 0.0 };
                for p in 0..k {
                    let a = a.data[i * a.row_stride + p * a.column_stride];
                    sum += f64::from(a) * f64::from(b.data[p * b.row_stride + j * b.column_stride]);
                }
                c[i * ldc + j] = sum as f32;
            }
        }
    }
}

/// The sets that this processor has.
pub(super) fn supported() -> impl Iterator<Item = Simd> {
    [Simd::Portable, Simd::Avx2, Simd::Avx512]
        .into_iter()
        .filter(|&simd| simd <= Simd::detect())
}

/// Numbers in -1..1 that depend on the seed alone (splitmix64).
pub(super) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// How the elements of a matrix lie.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Rows {
        padding: usize,
    },
    Columns {
        padding: usize,
    },
    /// Contiguous along neither dimension.
    Scattered,
    /// Each row is the one above, moved by one; as the patches of a one-dimensional convolution are.
    Overlapping,
    /// All rows are one.
    Repeated,
}

impl Layout {
    fn strides(self, rows: usize, columns: usize) -> (usize, usize) {
        match self {
            Layout::Rows { padding } => (columns + padding, 1),
            Layout::Columns { padding } => (1, rows + padding),
            Layout::Scattered => (2 * columns + 3, 2),
            Layout::Overlapping => (1, 1),
            Layout::Repeated => (0, 1),
        }
    }

    /// A matrix whose slice ends with its last element.
    fn numbers(self, rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let (row_stride, column_stride) = self.strides(rows, columns);
        let empty = rows == 0 || columns == 0;
        numbers(
            if empty {
                0
            } else {
                (rows - 1) * row_stride + (columns - 1) * column_stride + 1
            },
            seed,
        )
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        (0usize..4).prop_map(|padding| Layout::Rows { padding }),
        (0usize..4).prop_map(|padding| Layout::Columns { padding }),
        Just(Layout::Scattered),
        Just(Layout::Overlapping),
        Just(Layout::Repeated),
    ]
}

/// Mostly small, often just beside a multiple of a tile, sometimes over a block.
fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..20, 3 => 40usize..60, 2 => 90usize..150, 1 => 250usize..600]
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Layout,
    b: Layout,
    padding: usize,
    accumulate: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let depth = prop_oneof![1 => Just(0usize), 9 => dimension()];
    (
        dimension(),
        dimension(),
        depth,
        layout(),
        layout(),
        0usize..3,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(m, n, k, a, b, padding, accumulate, seed)| Case {
            m,
            n,
            k,
            a,
            b,
            padding,
            accumulate,
            seed,
        })
}

impl Case {
    fn plain(m: usize, n: usize, k: usize) -> Case {
        let rows = Layout::Rows { padding: 0 };
        Case {
            m,
            n,
            k,
            a: rows,
            b: rows,
            padding: 0,
            accumulate: false,
            seed: 1,
        }
    }

    /// Runs the kernels and the reference on the same numbers; what lies around `c` must stay as it was.
    fn run(&self, simd: Option<Simd>, workspaces: usize) -> (Vec<f32>, Vec<f32>) {
        let &Case {
            m,
            n,
            k,
            accumulate,
            seed,
            ..
        } = self;
        let (a, b) = (self.a.numbers(m, k, seed), self.b.numbers(k, n, seed ^ 1));
        let (row_stride, column_stride) = self.a.strides(m, k);
        let a = Matrix {
            data: &a,
            row_stride,
            column_stride,
        };
        let (row_stride, column_stride) = self.b.strides(k, n);
        let b = Matrix {
            data: &b,
            row_stride,
            column_stride,
        };
        let ldc = n + self.padding;
        let mut expected = numbers(m * ldc + 5, seed ^ 2);
        let mut c = expected.clone();
        reference::gemm(m, n, k, a, b, &mut expected, ldc, accumulate);
        let mut workspaces: Vec<_> = (0..workspaces).map(|_| Workspace::default()).collect();
        match simd {
            Some(simd) => Product {
                m,
                n,
                k,
                a,
                b,
                accumulate,
            }
            .run(simd, &mut workspaces, &mut c, ldc),
            None => gemm_parallel(&mut workspaces, m, n, k, a, b, &mut c, ldc, accumulate),
        }
        (c, expected)
    }

    /// Compares with the reference for every instruction set.
    fn check(&self) -> Result<(), TestCaseError> {
        let tolerance = 1e-5 * (self.k as f32 + 1.0).sqrt();
        for simd in supported() {
            let (c, expected) = self.run(Some(simd), 1);
            for (index, (&c, &expected)) in c.iter().zip(&expected).enumerate() {
                let close = (c - expected).abs() <= tolerance;
                prop_assert!(close, "{simd}: c[{index}] is {c}, should be {expected}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_set_computes_the_product(case in case()) {
        case.check()?;
    }

    #[test]
    fn vectors_are_multiplied_too(case in case(), row in any::<bool>()) {
        let case = if row { Case { m: 1, ..case } } else { Case { n: 1, ..case } };
        case.check()?;
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits(case in case()) {
        for simd in supported() {
            let (serial, _) = case.run(Some(simd), 1);
            for workspaces in [2, 3] {
                prop_assert_eq!(&case.run(Some(simd), workspaces).0, &serial, "{} workspaces, {}", workspaces, simd);
            }
        }
    }

    #[test]
    fn dot_and_axpy_match_their_definition(len in 0usize..10_000, seed in any::<u64>()) {
        let (x, y) = (numbers(len, seed), numbers(len, seed ^ 1));
        let expected: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        prop_assert!((dot(&x, &y) - expected).abs() < 1e-4, "{} {}", dot(&x, &y), expected);
        let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        prop_assert!((sum_of_squares(&x) - squares).abs() <= 1e-5 * squares);
        let mut sum = y.clone();
        axpy(0.5, &x, &mut sum);
        for i in 0..len {
            prop_assert_eq!(sum[i], y[i] + 0.5 * x[i]);
        }
    }
}

#[test]
fn large_products_span_several_blocks() {
    // Over every block size: rows and columns of a packed block, and the depth.
    for (m, n, k) in [
        (700, 1100, 515),
        (2050, 7, 40),
        (3, 5000, 300),
        (1, 70_000, 9),
        (70_000, 1, 9),
    ] {
        let case = Case {
            accumulate: true,
            ..Case::plain(m, n, k)
        };
        case.check().unwrap();
        let serial = case.run(None, 1).0;
        assert_eq!(case.run(None, 2).0, serial);
        assert_eq!(case.run(None, 3).0, serial);
        let transposed = Case {
            a: Layout::Columns { padding: 0 },
            b: Layout::Columns { padding: 0 },
            ..case
        };
        transposed.check().unwrap();
    }
}

#[test]
fn a_workspace_is_reused_without_growing() {
    let mut workspace = Workspace::default();
    let (a, b) = (numbers(50 * 70, 1), numbers(70 * 90, 2));
    let mut c = vec![0.0; 50 * 90];
    let mut run = |m, n, k| {
        gemm(
            &mut workspace,
            m,
            n,
            k,
            Matrix::row_major(&a, k),
            Matrix::row_major(&b, n),
            &mut c,
            n,
            false,
        );
        (
            workspace.a.as_ptr(),
            workspace.a.len(),
            workspace.b.as_ptr(),
            workspace.b.len(),
        )
    };
    let largest = run(50, 90, 70);
    for (m, n, k) in [(1, 90, 70), (3, 4, 5), (50, 1, 70), (50, 90, 70)] {
        assert_eq!(run(m, n, k), largest);
    }
}

#[test]
fn the_row_stride_of_a_single_row_does_not_matter() {
    for k in [0, 3] {
        let (a, b, mut c) = (vec![1.0; k], vec![1.0; 2 * k], vec![7.0; 2]);
        let (a, b) = (Matrix::row_major(&a, k), Matrix::row_major(&b, 2));
        gemm(&mut Workspace::default(), 1, 2, k, a, b, &mut c, 0, false);
        assert_eq!(c, [k as f32; 2]);
    }
}

#[test]
fn nan_is_overwritten_unless_accumulated() {
    for k in [0, 3] {
        let (a, b, mut c) = (vec![1.0; 2 * k], vec![1.0; 2 * k], vec![f32::NAN; 4]);
        let mut workspace = Workspace::default();
        gemm(
            &mut workspace,
            2,
            2,
            k,
            Matrix::row_major(&a, k),
            Matrix::row_major(&b, 2),
            &mut c,
            2,
            false,
        );
        assert_eq!(c, [k as f32; 4]);
    }
}

#[test]
#[should_panic(expected = "gemm: b (3, 4) reaches past its 11")]
fn a_short_operand_is_refused() {
    let (a, b, mut c) = (vec![0.0; 6], vec![0.0; 11], vec![0.0; 8]);
    let (a, b) = (Matrix::row_major(&a, 3), Matrix::row_major(&b, 4));
    gemm(&mut Workspace::default(), 2, 4, 3, a, b, &mut c, 4, false);
}

#[test]
#[should_panic(expected = "gemm: c (2, 4) needs 9 floats and has 8")]
fn a_short_result_is_refused() {
    let (a, b, mut c) = (vec![0.0; 6], vec![0.0; 12], vec![0.0; 8]);
    let (a, b) = (Matrix::row_major(&a, 3), Matrix::row_major(&b, 4));
    gemm(&mut Workspace::default(), 2, 4, 3, a, b, &mut c, 5, false);
}

#[test]
#[should_panic(expected = "gemm: a (1844674407370955162, 1844674407370955162) reaches past its 6")]
fn a_shape_beyond_the_address_space_is_refused() {
    let (a, b, mut c) = (vec![0.0; 6], vec![0.0; 12], vec![0.0; 8]);
    let huge = usize::MAX / 10 + 1;
    let (a, b) = (Matrix::row_major(&a, huge), Matrix::row_major(&b, 4));
    gemm(&mut Workspace::default(), huge, 4, huge, a, b, &mut c, 4, false);
}

#[test]
fn simd_is_named_and_nothing_else_is_taken() {
    for simd in [Simd::Portable, Simd::Avx2, Simd::Avx512] {
        assert_eq!(simd.to_string().parse(), Ok(simd));
    }
    let error = "sse9".parse::<Simd>().unwrap_err();
    assert_eq!(
        error,
        "SPARKNET_SIMD is \"sse9\"; set it to avx512, avx2 or portable, or unset it"
    );
    assert!(Simd::current() <= Simd::detect());
}

#[test]
fn bands_cover_everything_once() {
    for (len, tile, parts) in [(0, 8, 3), (1, 8, 3), (100, 48, 2), (97, 16, 5), (1000, 8, 3)] {
        let bands: Vec<_> = (0..parts).map(|part| band(len, tile, parts, part)).collect();
        assert_eq!((bands[0].start, bands[parts - 1].end), (0, len));
        for pair in bands.windows(2) {
            assert!(pair[0].end == pair[1].start && pair[0].end % tile.min(len.max(1)) == 0 || pair[0].end == len);
        }
    }
}
