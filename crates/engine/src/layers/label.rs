//! Labels: class numbers that are stored as floats.

use crate::{LayerError, Shape};

/// Checks that `bottom` is scores and one label for each position of the scores; returns the axis of the classes.
///
/// # Errors
/// An axis that the scores do not have, another number of labels.
pub fn check_shapes(bottom: &[&Shape], axis: i32) -> Result<usize, LayerError> {
    let (scores, labels) = (bottom[0], bottom[1]);
    let index = scores.require_axis(axis)?;
    let positions = scores.count_to(index) * scores.count_from(index + 1);
    if labels.count() != positions {
        return Err(LayerError::BottomShapes {
            first: 0,
            first_shape: scores.clone(),
            second: 1,
            second_shape: labels.clone(),
            fact: format!("with the classes on axis {index} there have to be {positions} labels"),
        });
    }
    Ok(index)
}

/// Checks that `bottom` is records of scores, all axes but the first joined, and one label for each; returns the number
/// of records and of classes.
///
/// # Errors
/// Scores without an axis, another number of labels.
pub fn check_records(bottom: &[&Shape]) -> Result<(usize, usize), LayerError> {
    let (scores, labels) = (bottom[0], bottom[1]);
    let Some(records) = scores.dims().first() else {
        return Err(LayerError::Axis {
            axis: 0,
            shape: scores.clone(),
        });
    };
    if labels.count() != *records {
        return Err(LayerError::BottomShapes {
            first: 0,
            first_shape: scores.clone(),
            second: 1,
            second_shape: labels.clone(),
            fact: format!("with the records on axis 0 there have to be {records} labels"),
        });
    }
    Ok((*records, scores.count_from(1)))
}

/// The class that `label`, at `position` of its blob, stands for; `None` for the label that is ignored.
///
/// # Errors
/// A label that is not one of the classes; Caffe reads some other memory then.
pub fn class(
    label: f32,
    position: usize,
    classes: usize,
    ignore_label: Option<i32>,
) -> Result<Option<usize>, LayerError> {
    // As in Caffe, a fraction is cut off.
    let number = label as i32;
    if !label.is_nan() && Some(number) == ignore_label {
        return Ok(None);
    }
    match usize::try_from(number) {
        Ok(class) if class < classes && !label.is_nan() => Ok(Some(class)),
        _ => Err(LayerError::Label {
            label,
            position,
            classes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_classes_pass() {
        assert_eq!(class(2.0, 0, 3, None), Ok(Some(2)));
        assert_eq!(class(-1.0, 0, 3, Some(-1)), Ok(None));
        assert_eq!(class(255.0, 0, 3, Some(255)), Ok(None));
        for label in [3.0, -1.0, f32::NAN, f32::INFINITY, 1e20] {
            let error = class(label, 7, 3, Some(0)).unwrap_err();
            assert!(error.to_string().contains("position 7"), "{error}");
        }
    }
}
