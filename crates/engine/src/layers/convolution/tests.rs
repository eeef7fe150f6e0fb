//! Convolution against its definition.

use super::*;
use crate::{
    Phase,
    filler::Filler,
    layers::harness::{assert_close, normal, run},
    random,
};

fn spec(num_output: usize, kernel: &[usize]) -> ConvolutionSpec {
    ConvolutionSpec {
        num_output,
        bias_term: true,
        kernel: kernel.to_vec(),
        stride: Vec::new(),
        pad: Vec::new(),
        dilation: Vec::new(),
        group: 1,
        axis: 1,
        weight_filler: Filler::Constant(0.0),
        bias_filler: Filler::Constant(0.0),
    }
}

/// The digits of `index` in the mixed radix `dims`.
fn digits(mut index: usize, dims: &[usize]) -> Vec<usize> {
    let mut digits: Vec<usize> = dims.iter().rev().map(|dim| (index % dim, index /= dim).0).collect();
    digits.reverse();
    digits
}

/// Calls `f` with the indices in bottom, weight and top of every product that the convolution sums up, straight from
/// its definition.
fn for_each_product(
    spec: &ConvolutionSpec,
    bottom: &Shape,
    weight: &Shape,
    top: &Shape,
    mut f: impl FnMut(usize, usize, usize),
) {
    let axis = bottom.axis(spec.axis).unwrap();
    let at = |list: &[usize], i: usize, default: usize| match list.len() {
        0 => default,
        1 => list[0],
        _ => list[i],
    };
    let spatial = &bottom.dims()[axis + 1..];
    let (channels, group_channels) = (bottom.dims()[axis], weight.dims()[1]);
    for y in 0..top.count() {
        let top_index = digits(y, top.dims());
        let output = top_index[axis];
        let group = output / (spec.num_output / spec.group);
        for w in 0..weight.count_from(1) {
            let tap = digits(w, &weight.dims()[1..]);
            let mut x = 0;
            for (dim, index) in bottom.dims()[..axis].iter().zip(&top_index) {
                x = x * dim + index;
            }
            x = x * channels + group * group_channels + tap[0];
            let inside = (0..spatial.len()).all(|i| {
                let position = top_index[axis + 1 + i] * at(&spec.stride, i, 1) + tap[1 + i] * at(&spec.dilation, i, 1);
                let position = position.wrapping_sub(at(&spec.pad, i, 0));
                x = x.wrapping_mul(spatial[i]).wrapping_add(position);
                position < spatial[i]
            });
            if inside {
                f(x, output * weight.count_from(1) + w, y);
            }
        }
    }
}

/// Compares forward and backward with the definition, on several numbers of threads.
fn check(spec: &ConvolutionSpec, bottom: &Shape) {
    let what = format!("{spec:?} {bottom}");
    let mut layer = Convolution::new(spec);
    let top = layer.reshape(&[bottom]).unwrap().remove(0);
    let weight_shape = layer.params()[0].shape.clone();
    let (x, weight, bias) = (
        normal(1, bottom.count()),
        normal(2, weight_shape.count()),
        normal(3, spec.num_output),
    );
    let params = if spec.bias_term {
        vec![weight.clone(), bias.clone()]
    } else {
        vec![weight.clone()]
    };
    let channel_count = top.count_from(bottom.axis(spec.axis).unwrap() + 1);
    let output_of = |y: usize| y / channel_count % spec.num_output;
    for threads in 1..=3 {
        let found = run(
            &mut layer,
            &[(bottom.clone(), x.clone())],
            &params,
            1,
            Phase::Train,
            threads,
        );
        assert_eq!(found.tops[0].0, top, "{what}");
        let dy = &found.top_diffs[0];
        let mut y: Vec<f32> = (0..top.count())
            .map(|i| if spec.bias_term { bias[output_of(i)] } else { 0.0 })
            .collect();
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        for_each_product(spec, bottom, &weight_shape, &top, |x_index, w_index, y_index| {
            y[y_index] += x[x_index] * weight[w_index];
            dx[x_index] += dy[y_index] * weight[w_index];
            dw[w_index] += dy[y_index] * x[x_index];
        });
        assert_close(&format!("y of {what}"), &found.tops[0].1, &y, 1e-5);
        assert_close(&format!("dx of {what}"), &found.bottom_diffs[0], &dx, 1e-5);
        assert_close(&format!("dw of {what}"), &found.param_diffs[0], &dw, 1e-5);
        if spec.bias_term {
            let mut db = vec![0.0; spec.num_output];
            dy.iter().enumerate().for_each(|(i, dy)| db[output_of(i)] += dy);
            assert_close(&format!("db of {what}"), &found.param_diffs[1], &db, 1e-5);
        }
    }
}

#[test]
fn two_axes_match_the_definition_for_all_strides_pads_and_dilations() {
    for kernel in [[1, 1], [3, 3], [2, 5]] {
        for stride in 1..=3 {
            for pad in 0..=3 {
                for dilation in 1..=2 {
                    let spec = ConvolutionSpec {
                        stride: vec![stride],
                        pad: vec![pad],
                        dilation: vec![dilation],
                        ..spec(3, &kernel)
                    };
                    check(&spec, &Shape::from([2, 2, 9, 10]));
                }
            }
        }
    }
}

#[test]
fn random_settings_match_the_definition() {
    let key = random::key(&[11]);
    let mut draws = 0;
    let mut draw = |low: usize, high: usize| {
        draws += 1;
        low + (random::bits(key, draws) % (high - low + 1) as u64) as usize
    };
    for _ in 0..60 {
        let axes = draw(0, 3);
        let group = draw(1, 3);
        let mut settings = |low: usize, high: usize| (0..axes).map(|_| draw(low, high)).collect::<Vec<_>>();
        let (kernel, stride, pad, dilation) = (settings(1, 3), settings(1, 3), settings(0, 4), settings(1, 2));
        let extra: Vec<usize> = settings(0, 4);
        let mut dims = vec![draw(1, 5), group * draw(1, 3)];
        // The kernel may cover all of the input and its padding, but no more.
        dims.extend((0..axes).map(|i| {
            let extent = (kernel[i] - 1) * dilation[i] + 1;
            extent.saturating_sub(2 * pad[i]).max(1) + extra[i]
        }));
        let num_output = group * draw(1, 4);
        let kernel = if axes == 0 { vec![1] } else { kernel };
        let bias_term = draw(0, 1) == 1;
        let spec = ConvolutionSpec {
            stride,
            pad,
            dilation,
            group,
            bias_term,
            ..spec(num_output, &kernel)
        };
        check(&spec, &Shape::new(dims));
    }
}

#[test]
fn the_axis_of_the_channels_may_be_any() {
    check(
        &ConvolutionSpec {
            axis: 0,
            ..spec(2, &[3])
        },
        &Shape::from([3, 5, 6]),
    );
    check(
        &ConvolutionSpec {
            axis: -2,
            ..spec(2, &[3])
        },
        &Shape::from([2, 3, 2, 6]),
    );
}

#[test]
fn every_bottom_has_its_top_and_all_share_the_weights() {
    let shape = Shape::from([2, 2, 5, 5]);
    let (a, b) = (normal(1, shape.count()), normal(2, shape.count()));
    let params = [normal(3, 3 * 2 * 9), normal(4, 3)];
    let mut layer = Convolution::new(&spec(3, &[3]));
    let both = [(shape.clone(), a.clone()), (shape.clone(), b.clone())];
    let found = run(&mut layer, &both, &params, 2, Phase::Train, 2);
    let first = run(&mut layer, &both[..1], &params, 1, Phase::Train, 2);
    let second = run(&mut layer, &both[1..], &params, 1, Phase::Train, 2);
    assert_eq!(found.tops[0].1, first.tops[0].1);
    assert_eq!(found.tops[1].1, second.tops[0].1);
    assert_eq!(found.bottom_diffs[0], first.bottom_diffs[0]);
    // The weights' gradient is a sum over bottoms; the second top's gradient differs from what `second` was fed.
    assert_ne!(found.param_diffs[0], first.param_diffs[0]);
    let db: Vec<f32> = (0..3)
        .map(|c| {
            let of_top = |dy: &Vec<f32>| dy.chunks(9).skip(c).step_by(3).flatten().sum::<f32>();
            found.top_diffs.iter().map(of_top).sum()
        })
        .collect();
    assert_close("db", &found.param_diffs[1], &db, 1e-5);
}

#[test]
fn what_does_not_fit_is_refused_with_the_remedy() {
    let refuse = |spec: &ConvolutionSpec, dims: &[usize]| {
        Convolution::new(spec)
            .reshape(&[&Shape::new(dims)])
            .unwrap_err()
            .to_string()
    };
    let grouped = ConvolutionSpec {
        group: 2,
        ..spec(2, &[3])
    };
    assert_eq!(
        refuse(&grouped, &[1, 3, 5, 5]),
        "bottom 0 has shape (1, 3, 5, 5), but its 3 channels are no multiple of group 2"
    );
    assert!(refuse(&spec(2, &[6]), &[1, 3, 5, 5]).contains("covers 6 positions of axis 2, which has 5"));
    assert!(refuse(&spec(2, &[3, 3]), &[1, 3, 5]).contains("kernel_size has 2 values for its 1 spatial axes"));
    assert!(
        refuse(
            &ConvolutionSpec {
                axis: 4,
                ..spec(2, &[3])
            },
            &[1, 3, 5, 5]
        )
        .contains("axis 4")
    );
    let huge = spec(u32::MAX as usize, &[1]);
    assert!(matches!(
        Convolution::new(&huge).reshape(&[&Shape::from([1, 1, 1, 1])]),
        Err(LayerError::TooLarge { .. })
    ));

    let mut layer = Convolution::new(&spec(2, &[3]));
    let (shape, other) = (Shape::from([1, 3, 5, 5]), Shape::from([1, 3, 5, 6]));
    assert!(matches!(
        layer.reshape(&[&shape, &other]),
        Err(LayerError::BottomShapes { .. })
    ));
    assert!(layer.reshape(&[&shape]).is_ok());
    assert!(
        layer.reshape(&[&Shape::from([4, 3, 7, 5])]).is_ok(),
        "other sizes need no other weights"
    );
    assert!(
        layer.reshape(&[&Shape::from([1, 4, 5, 5])]).is_err(),
        "other channels do"
    );
}

/// 3 outputs fill no vector, 16 do: their weights' gradients are computed in two ways.
#[test]
fn images_that_take_several_chunks_match_the_definition() {
    for (stride, num_output) in [(1, 3), (2, 3), (1, 16), (2, 16)] {
        let spec = ConvolutionSpec {
            stride: vec![stride],
            pad: vec![1],
            ..spec(num_output, &[3])
        };
        check(&spec, &Shape::from([7, 2, 20 * stride, 21 * stride]));
    }
}

#[test]
fn nothing_is_left_in_the_padding_by_another_shape() {
    let spec = ConvolutionSpec {
        pad: vec![1],
        ..spec(2, &[3])
    };
    let params = [normal(1, 2 * 9), normal(2, 2)];
    let wide = [(Shape::from([1, 1, 3, 6]), normal(3, 18))];
    let high = [(Shape::from([1, 1, 6, 3]), normal(4, 18))];
    let mut layer = Convolution::new(&spec);
    run(&mut layer, &wide, &params, 1, Phase::Train, 1);
    let found = run(&mut layer, &high, &params, 1, Phase::Train, 1);
    let fresh = run(&mut Convolution::new(&spec), &high, &params, 1, Phase::Train, 1);
    assert_eq!(found.tops, fresh.tops);
    assert_eq!(found.bottom_diffs, fresh.bottom_diffs);
    assert_eq!(found.param_diffs, fresh.param_diffs);
}

/// Compares [`super::winograd`] with the plain way, on all sets and several numbers of threads.
fn check_winograd(kernel: usize, pad: usize, group: usize, num_output: usize, bottom: [usize; 4], by_images: bool) {
    let mut spec = spec(num_output, &[kernel]);
    spec.pad = vec![pad];
    spec.group = group;
    let bottom = Shape::from(bottom);
    let mut layer = Convolution::new(&spec);
    layer.reshape(&[&bottom]).unwrap();
    let bottoms = [(bottom.clone(), normal(1, bottom.count()))];
    let params = [
        normal(2, layer.geometry.weight_shape.count()),
        normal(3, spec.num_output),
    ];
    let sets = [Simd::Portable, Simd::Avx2, Simd::Avx512].into_iter();
    for (simd, threads) in sets.filter(|simd| *simd <= Simd::detect()).zip([1, 2, 3]) {
        let what = format!("{kernel} {pad} {group} {bottom}, {simd}");
        layer.winograd = Some(simd);
        let found = run(&mut layer, &bottoms, &params, 1, Phase::Train, threads);
        let images = bottom.dims()[0].div_ceil(threads);
        let winograd = layer.geometry.winograd_forward(threads, images).expect(&what);
        assert_eq!(winograd.by_images(images).is_some(), by_images, "{what}");
        layer.winograd = None;
        let expected = run(&mut layer, &bottoms, &params, 1, Phase::Train, threads);
        let (dx, dw, db) = (&found.bottom_diffs[0], &found.param_diffs[0], &found.param_diffs[1]);
        assert_close(&format!("y of {what}"), &found.tops[0].1, &expected.tops[0].1, 1e-5);
        assert_close(&format!("dx of {what}"), dx, &expected.bottom_diffs[0], 1e-5);
        assert_close(&format!("dw of {what}"), dw, &expected.param_diffs[0], 1e-5);
        assert_close(&format!("db of {what}"), db, &expected.param_diffs[1], 1e-6);
        // More threads than images share them, on the plain way.
        layer.winograd = Some(simd);
        let shared = run(&mut layer, &bottoms, &params, 1, Phase::Train, bottom.dims()[0] + 1);
        let what = format!("shared dw of {what}");
        assert_close(&what, &shared.param_diffs[0], &expected.param_diffs[0], 1e-5);
    }
}

/// 3×3 and 5×5 kernels with enough images and channels: all edges, groups, channels that fill no vector, units of
/// several images and of a few rows.
#[test]
fn winograd_by_channels_is_the_plain_way() {
    check_winograd(3, 1, 1, 60, [5, 40, 16, 16], false);
    check_winograd(3, 0, 1, 60, [4, 20, 10, 14], false);
    check_winograd(3, 1, 2, 60, [4, 72, 28, 7], false);
    check_winograd(3, 2, 1, 60, [4, 33, 6, 6], false);
    check_winograd(5, 2, 1, 60, [5, 32, 16, 16], false);
    check_winograd(5, 0, 1, 60, [5, 40, 12, 12], false);
    check_winograd(5, 2, 2, 60, [4, 80, 27, 14], false);
    check_winograd(5, 4, 1, 60, [4, 33, 8, 7], false);
}

/// Small images with few channels: all edges, parts that do not fill the last vector, products of several panels.
#[test]
fn winograd_by_images_is_the_plain_way() {
    check_winograd(5, 0, 1, 50, [44, 20, 12, 12], true);
    check_winograd(5, 2, 1, 24, [44, 16, 8, 10], true);
    check_winograd(5, 1, 1, 30, [44, 40, 10, 6], true);
    check_winograd(3, 0, 1, 33, [44, 9, 6, 10], true);
    check_winograd(3, 1, 1, 30, [44, 20, 11, 8], true);
    check_winograd(3, 2, 1, 21, [44, 17, 6, 6], true);
}
