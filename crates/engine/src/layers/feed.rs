//! Data, Input and MemoryData: blobs that are filled from outside the net.

use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
};

/// A layer whose tops the net's owner fills; their shapes are the net's business.
pub struct Feed;

impl Feed {
    /// A layer that leaves its tops alone.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Feed {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        // The net keeps the shapes of what it is fed with (net.rs).
        Ok(Vec::new())
    }

    fn forward(&mut self, _io: &mut Forward<'_>) -> Result<(), LayerError> {
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}
}
