//! DummyData: blobs from fillers. Constant ones are filled once, random ones before every pass.
//!
//! ```prototxt
//! layer {
//!   name: "noise" type: "DummyData" top: "noise"
//!   dummy_data_param { shape { dim: 8 dim: 3 } data_filler { type: "gaussian" std: 0.1 } }
//! }
//! ```

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    filler::Filler,
    layer::{Backward, Forward, Layer},
    random,
    spec::DummyDataSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "DummyData",
    summary: "blobs from fillers",
    bottoms: Arity::Exactly(0),
    tops: Arity::AtLeast(1),
    parse: DummyDataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// Fills its tops.
pub struct DummyData {
    tops: Vec<(Shape, Filler)>,
    constants_are_filled: bool,
}

impl DummyData {
    /// A layer with a shape and a filler for each top.
    pub fn new(spec: &DummyDataSpec) -> Self {
        Self {
            tops: spec.tops.clone(),
            constants_are_filled: false,
        }
    }
}

impl Layer for DummyData {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(self.tops.iter().map(|(shape, _)| shape.clone()).collect())
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        for (i, ((shape, filler), top)) in self.tops.iter().zip(&mut *io.top).enumerate() {
            if !(filler.is_constant() && self.constants_are_filled) {
                let stream = random::key(&[io.context.random_key, i as u64]);
                filler.fill(stream, shape, top)?;
            }
        }
        self.constants_are_filled = true;
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{net, run};

    #[test]
    fn random_tops_change_from_pass_to_pass() {
        let mut net = net("layer { name: 'L' type: 'DummyData' top: 'c' top: 'r' top: 's'
               dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 2.5 }
                 data_filler { type: 'uniform' } data_filler { type: 'uniform' } } }")
        .unwrap();
        let first = run(&mut net, &[]).unwrap();
        assert_eq!(first["c"], [2.5; 6]);
        assert!(first["r"].iter().all(|value| (0.0..1.0).contains(value)));
        assert_ne!(first["r"], first["s"]);
        net.blob_data_mut("c").unwrap()[0] = 7.0;
        net.set_random_pass(1, 1);
        let second = run(&mut net, &[]).unwrap();
        assert_eq!(second["c"][0], 7.0, "a constant top is filled once");
        assert_ne!(first["r"], second["r"]);
    }

    /// Over several passes, so that equal values in each would show.
    #[test]
    fn random_tops_have_their_fillers_distribution() {
        let mut net = net("layer { name: 'L' type: 'DummyData' top: 'u' top: 'g'
               dummy_data_param { shape { dim: 100 dim: 50 }
                 data_filler { type: 'uniform' min: -1 max: 3 } data_filler { type: 'gaussian' mean: 2 std: 0.5 } } }")
        .unwrap();
        let (mut uniform, mut gaussian) = (Vec::new(), Vec::new());
        for pass in 0..8 {
            net.set_random_pass(1, pass);
            let mut blobs = run(&mut net, &[]).unwrap();
            uniform.append(blobs.get_mut("u").unwrap());
            gaussian.append(blobs.get_mut("g").unwrap());
        }
        let n = uniform.len() as f64;
        let share_below = |values: &[f32], bound: f32| values.iter().filter(|value| **value < bound).count() as f64 / n;
        // Shares of the standard normal distribution; five standard deviations of a share are 0.0125.
        for (values, bound, expected) in [
            (&uniform, -1.0, 0.0),
            (&uniform, 0.0, 0.25),
            (&uniform, 2.0, 0.75),
            (&uniform, 3.0, 1.0),
            (&gaussian, 1.5, 0.1587),
            (&gaussian, 2.0, 0.5),
            (&gaussian, 3.0, 0.9772),
        ] {
            let found = share_below(values, bound);
            assert!(
                (found - expected).abs() < 0.0125,
                "{found} below {bound}, not {expected}"
            );
        }
    }

    #[test]
    fn one_shape_serves_all_tops_or_each_has_its_own() {
        let build = |param: &str| {
            net(&format!(
                "layer {{ name: 'L' type: 'DummyData' top: 'a' top: 'b' dummy_data_param {{ {param} }} }}"
            ))
        };
        let shape_of_b = |param: &str| build(param).unwrap().blob_shape("b").unwrap().to_string();
        assert_eq!(shape_of_b("shape { dim: 2 }"), "(2)");
        assert_eq!(shape_of_b("shape { dim: 2 } shape { dim: 3 }"), "(3)");
        assert_eq!(
            shape_of_b("num: 1 channels: 2 channels: 3 height: 4 width: 5"),
            "(1, 3, 4, 5)"
        );
        assert!(build("shape { dim: 2 } shape { dim: 2 } shape { dim: 2 }").is_err());
        assert!(build("shape { dim: 0 }").err().unwrap().contains("dim 0"));
    }
}
