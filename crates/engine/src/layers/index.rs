//! Row numbers that are stored as floats.

use crate::LayerError;

/// The row that each of `values`, those of bottom `bottom`, names out of `count` rows; Caffe drops a fraction.
///
/// # Errors
/// A value that names no row; `what` the rows are and the `remedy` go into the sentence.
pub fn rows(
    values: &[f32],
    bottom: usize,
    count: usize,
    what: &'static str,
    remedy: &'static str,
    rows: &mut Vec<usize>,
) -> Result<(), LayerError> {
    rows.clear();
    for (position, value) in values.iter().enumerate() {
        // Written so that a NaN is refused.
        if !(*value >= 0.0 && *value < count as f32) {
            return Err(LayerError::Index {
                bottom,
                value: *value,
                position,
                count,
                what,
                remedy,
            });
        }
        // As a float the count may be rounded up.
        rows.push((*value as usize).min(count - 1));
    }
    Ok(())
}
