//! HDF5Output: hands the rows of its two bottoms to whoever writes files; its bottoms get no gradient from it.
//!
//! ```prototxt
//! layer { name: "out" type: "HDF5Output" bottom: "ip" bottom: "label" hdf5_output_param { file_name: "out.h5" } }
//! ```
//!
//! The file has datasets `data` and `label`, as Caffe's. Caffe fails on the second batch, because the datasets then
//! exist; here all batches of a run come one after the other. The engine writes no file: without a [`RowSink`] the
//! layer does nothing.

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer, RowSink},
    spec::Hdf5OutputSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "HDF5Output",
    summary: "writes the rows of two blobs to an HDF5 file",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(0),
    parse: Hdf5OutputSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no top"),
};

/// Hands rows on.
#[derive(Default)]
pub struct Hdf5Output {
    shapes: Option<[Shape; 2]>,
    sink: Option<Box<dyn RowSink>>,
}

impl Hdf5Output {
    /// A layer without a sink.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Layer for Hdf5Output {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (data, label) = (bottom[0], bottom[1]);
        if let Some(scalar) = bottom.iter().position(|shape| shape.num_axes() == 0) {
            return Err(LayerError::BottomShape {
                bottom: scalar,
                shape: bottom[scalar].clone(),
                fact: "a file of rows wants blobs with a value for each record".to_owned(),
            });
        }
        if data.dims()[0] != label.dims()[0] {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: data.clone(),
                second: 1,
                second_shape: label.clone(),
                fact: "both have to have the same number of rows".to_owned(),
            });
        }
        self.shapes = Some([data.clone(), label.clone()]);
        Ok(Vec::new())
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        if let (Some(sink), Some([data, label])) = (&mut self.sink, &self.shapes) {
            sink.take([(data, &io.bottom[0]), (label, &io.bottom[1])])
                .map_err(LayerError::Rows)?;
        }
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}

    fn bottom_gradient(&self, _bottom: usize) -> BottomGradient {
        BottomGradient::Zero
    }

    fn set_row_sink(&mut self, sink: Box<dyn RowSink>) {
        self.sink = Some(sink);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::gradient_check::{input, net, run};
    use super::*;

    const OUTPUT: &str = "layer { name: 'L' type: 'HDF5Output' bottom: 'x' bottom: 'y' \
                          hdf5_output_param { file_name: 'f.h5' } }";

    /// Shapes and values of blobs.
    type Blobs = Vec<(String, Vec<f32>)>;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Blobs>>);

    impl RowSink for Kept {
        fn take(&mut self, bottoms: [(&Shape, &[f32]); 2]) -> Result<(), String> {
            let mut kept = self.0.lock().unwrap();
            if kept.len() == 4 {
                return Err("the disk is full".to_owned());
            }
            kept.extend(bottoms.map(|(shape, values)| (shape.to_string(), values.to_vec())));
            Ok(())
        }
    }

    #[test]
    fn every_pass_hands_its_rows_on() {
        // ReLU works in place on x behind the layer, which must see what was there before.
        let relu = "layer { name: 'relu' type: 'ReLU' bottom: 'x' top: 'x' }";
        let split = "layer { name: 's' type: 'Split' bottom: 'a' top: 'x' }";
        let text = format!("{}{}{split}{OUTPUT}{relu}", input("a", &[2, 2]), input("y", &[2]));
        let mut net = net(&text).unwrap();
        assert_eq!(net.output_names(), ["x"]);
        run(&mut net, &[("a", &[0.0; 4]), ("y", &[0.0; 2])]).unwrap();

        let kept = Kept::default();
        assert!(net.set_row_sink(3, Box::new(kept.clone())));
        run(&mut net, &[("a", &[-1.0, 2.0, -3.0, 4.0]), ("y", &[5.0, 6.0])]).unwrap();
        run(&mut net, &[("a", &[7.0; 4]), ("y", &[8.0; 2])]).unwrap();
        let expected = [
            ("(2, 2)", vec![-1.0, 2.0, -3.0, 4.0]),
            ("(2)", vec![5.0, 6.0]),
            ("(2, 2)", vec![7.0; 4]),
            ("(2)", vec![8.0; 2]),
        ];
        let expected = expected.map(|(shape, values)| (shape.to_owned(), values));
        assert_eq!(*kept.0.lock().unwrap(), expected);
        let error = run(&mut net, &[]).unwrap_err();
        assert_eq!(
            error,
            "layer 'L' (HDF5Output): its rows cannot be written: the disk is full"
        );
    }

    #[test]
    fn blobs_without_rows_in_common_are_refused() {
        for (x, y, wrong) in [
            (&[2, 3][..], &[3][..], "bottom 0 has shape (2, 3) and bottom 1 (3)"),
            (&[2][..], &[][..], "bottom 1 has shape ()"),
        ] {
            let error = net(&format!("{}{}{OUTPUT}", input("x", x), input("y", y)))
                .err()
                .unwrap();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
