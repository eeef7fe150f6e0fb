//! The extents of a blob, outermost axis first.

use std::fmt;

use sparknet_proto::caffe::BlobShape;

use crate::LayerError;

/// The extents of a blob, outermost axis first: `(n, c, h, w)` for images. No axes at all is a scalar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape with these extents.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// The number of axes.
    pub fn num_axes(&self) -> usize {
        self.0.len()
    }

    /// The number of elements; 1 for a scalar.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }

    /// The number of elements in one step of axis `start - 1`: the product of the extents from `start` on.
    pub fn count_from(&self, start: usize) -> usize {
        self.0[start.min(self.0.len())..].iter().product()
    }

    /// The product of the extents before axis `end`.
    pub fn count_to(&self, end: usize) -> usize {
        self.0[..end.min(self.0.len())].iter().product()
    }

    /// The extent of `axis`, or 1 where the shape has fewer axes (Caffe's reading of legacy 4-D blobs).
    pub fn dim_or_1(&self, axis: usize) -> usize {
        self.0.get(axis).copied().unwrap_or(1)
    }

    /// `axis`, which may count from the end (-1 is the last), as an index; `None` if there is no such axis.
    pub fn axis(&self, axis: i32) -> Option<usize> {
        let num_axes = i64::try_from(self.0.len()).ok()?;
        let index = if axis < 0 {
            num_axes + i64::from(axis)
        } else {
            i64::from(axis)
        };
        (0..num_axes).contains(&index).then_some(index as usize)
    }

    /// [`Shape::axis`] of a layer's bottom.
    pub(crate) fn require_axis(&self, axis: i32) -> Result<usize, LayerError> {
        self.axis(axis).ok_or_else(|| LayerError::Axis {
            axis,
            shape: self.clone(),
        })
    }

    /// The number of elements, or `None` if it overflows what a blob may hold (2^31 - 1, as in Caffe).
    pub fn checked_count(&self) -> Option<usize> {
        self.0
            .iter()
            .try_fold(1usize, |product, dim| product.checked_mul(*dim))
            .filter(|count| *count <= i32::MAX as usize)
    }

    /// The message that stands for this shape.
    pub fn to_proto(&self) -> BlobShape {
        BlobShape {
            dim: self.0.iter().map(|dim| *dim as i64).collect(),
        }
    }

    /// The shape that a message stands for; the offending extent where it is negative or too large.
    pub fn from_proto(shape: &BlobShape) -> Result<Self, i64> {
        shape
            .dim
            .iter()
            .map(|dim| usize::try_from(*dim).map_err(|_| *dim))
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self(dims.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_axes() {
        let shape = Shape::from([2, 3, 4, 5]);
        assert_eq!(shape.count(), 120);
        assert_eq!(shape.count_from(1), 60);
        assert_eq!(shape.count_from(4), 1);
        assert_eq!(shape.count_to(2), 6);
        assert_eq!(shape.axis(-1), Some(3));
        assert_eq!(shape.axis(-5), None);
        assert_eq!(shape.axis(4), None);
        assert_eq!(shape.to_string(), "(2, 3, 4, 5)");
        assert_eq!(Shape::default().count(), 1);
        assert_eq!(Shape::from([1 << 20, 1 << 20]).checked_count(), None);
        assert_eq!(Shape::from_proto(&BlobShape { dim: vec![3, -1] }), Err(-1));
    }
}
