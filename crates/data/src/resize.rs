//! Resizing as OpenCV's `cv::resize` with `INTER_LINEAR` does it for bytes, rounding included, so that a dataset is the same
//! whichever tool made it: bilinear between the four nearest pixels, without antialiasing, in fixed point.

use crate::decode::Image;

/// Weights are multiples of 1 / 2048.
const WEIGHT_BITS: u32 = 11;

/// The two source pixels that a target pixel lies between, and their weights.
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Resizes every plane to `height` × `width`, both at least 1.
pub(crate) fn resize(image: &Image, height: usize, width: usize) -> Image {
    let [channels, old_height, old_width] = image.shape;
    let (rows, columns) = (taps(old_height, height), taps(old_width, width));
    let mut bytes = Vec::with_capacity(channels * height * width);
    for plane in image.bytes.chunks_exact(old_height * old_width) {
        let across = |row: usize, column: &Tap| {
            let [first, second] = [column.first, column.second].map(|x| i32::from(plane[row * old_width + x]));
            first * column.weights[0] + second * column.weights[1]
        };
        for row in &rows {
            bytes.extend(columns.iter().map(|column| {
                // OpenCV drops bits in these two places to stay within 16 × 16 bits.
                let weigh = |y: usize, weight: i32| (weight * (across(y, column) >> 4)) >> 16;
                ((weigh(row.first, row.weights[0]) + weigh(row.second, row.weights[1]) + 2) >> 2) as u8
            }));
        }
    }
    Image {
        shape: [channels, height, width],
        bytes,
    }
}

/// Pixel centres are aligned: target pixel i lies at (i + 1/2) · old / new - 1/2.
fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = 1.0 / (new as f64 / old as f64);
    let tap = |index: usize| {
        let place = ((index as f64 + 0.5) * scale - 0.5) as f32;
        let first = place.floor().max(0.0);
        let second = (first as usize + 1).min(old - 1);
        // Before the first and behind the last pixel, that pixel goes on.
        let fraction = if first as usize + 1 > old - 1 {
            0.0
        } else {
            (place - first).max(0.0)
        };
        let weigh = |weight: f32| (weight * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32;
        Tap {
            first: (first as usize).min(old - 1),
            second,
            weights: [weigh(1.0 - fraction), weigh(fraction)],
        }
    };
    (0..new).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(shape: [usize; 3], bytes: &[u8], height: usize, width: usize) -> Vec<u8> {
        let image = resize(
            &Image {
                shape,
                bytes: bytes.to_vec(),
            },
            height,
            width,
        );
        assert_eq!(image.shape, [shape[0], height, width]);
        image.bytes
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let bytes: Vec<u8> = (0..2 * 5 * 7).map(|i| (i * 37) as u8).collect();
        assert_eq!(resized([2, 5, 7], &bytes, 5, 7), bytes);
    }

    #[test]
    fn enlarging_interpolates_and_keeps_the_border() {
        // Places -0.25, 0.25, 0.75, 1.25.
        assert_eq!(resized([1, 1, 2], &[0, 100], 1, 4), [0, 25, 75, 100]);
        assert_eq!(resized([1, 2, 1], &[0, 100], 4, 1), [0, 25, 75, 100]);
        assert_eq!(resized([1, 1, 1], &[9], 2, 3), [9; 6]);
    }

    #[test]
    fn reducing_takes_the_nearest_pixels_only() {
        // Places 1 and 4 are pixels of their own, whatever lies between them.
        assert_eq!(resized([1, 1, 6], &[255, 10, 255, 255, 20, 255], 1, 2), [10, 20]);
        assert_eq!(resized([2, 2, 2], &[0, 2, 4, 6, 10, 20, 30, 40], 1, 1), [3, 25]);
    }
}
