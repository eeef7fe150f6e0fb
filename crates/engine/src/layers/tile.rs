//! Tile: repeats its bottom `tiles` times along `axis`.
//!
//! ```prototxt
//! layer { name: "tile" type: "Tile" bottom: "x" top: "y" tile_param { axis: 1 tiles: 3 } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, Forward, Layer},
    spec::TileSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Tile",
    summary: "repeats its bottom along an axis",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: TileSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Repeats a blob.
pub struct Tile {
    spec: TileSpec,
    /// Values in one step of the axes before `axis`.
    row: usize,
}

impl Tile {
    /// A layer of this description.
    pub fn new(spec: &TileSpec) -> Self {
        Self {
            spec: spec.clone(),
            row: 0,
        }
    }
}

impl Layer for Tile {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let axis = shape.require_axis(self.spec.axis)?;
        self.row = shape.count_from(axis).max(1);
        let mut dims = shape.dims().to_vec();
        dims[axis] *= self.spec.tiles;
        Ok(vec![Shape::new(dims)])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (x, row, tiles) = (io.bottom.get(0), self.row, self.spec.tiles);
        let copies = io.top[0].par_chunks_mut(row).enumerate();
        copies.for_each(|(i, y)| y.copy_from_slice(&x[i / tiles * row..][..row]));
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (row, tiles) = (self.row, self.spec.tiles);
        let rows = io.bottom_diff[0]
            .par_chunks_mut(row)
            .zip(io.top_diff.get(0).par_chunks(row * tiles));
        rows.for_each(|(dx, dy)| {
            dx.fill(0.0);
            dy.chunks_exact(row).for_each(|dy| kernels::axpy(1.0, dy, dx));
        });
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "tile_param { tiles: 3 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3]],
        params: "tile_param { axis: -2 tiles: 2 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn tiles_lie_along_the_axis() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Tile' bottom: 'x' top: 'y' tile_param {{ {params} }} }}");
            net(&format!("{}{layer}", input("x", &[2, 2])))
        };
        let tiled = |params: &str| run(&mut build(params).unwrap(), &[("x", &[1.0, 2.0, 3.0, 4.0])]).unwrap();
        assert_eq!(tiled("tiles: 2")["y"], [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        assert_eq!(tiled("tiles: 2 axis: 0")["y"], [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        for (params, fact) in [
            ("", "tiles is missing"),
            ("tiles: 0", "tiles is 0"),
            ("tiles: 1 axis: 2", "axis 2 does not exist"),
            ("tiles: 2147483647", "more than 2147483647 values"),
        ] {
            let error = build(params).err().unwrap();
            assert!(error.starts_with("layer 'L' (Tile)") && error.contains(fact), "{error}");
        }
    }
}
