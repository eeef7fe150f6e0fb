//! InfogainLoss: `y = -Σ Σₗ H[label][l] · log(softmax(x)[l]) / normalizer`, a cross-entropy in which the infogain matrix
//! H says what each class is worth for each label. With H the identity it is SoftmaxWithLoss.
//!
//! ```prototxt
//! layer {
//!   name: "loss" type: "InfogainLoss" bottom: "ip2" bottom: "label" top: "loss"
//!   infogain_loss_param { source: "infogain.binaryproto" }
//! }
//! ```
//!
//! Scores are `(outer, classes, inner)` around `axis`, labels `(outer, inner)`, and H `(classes, classes)`: the third
//! bottom, or the `BlobProto` in the file `source`. A second top holds the probabilities; it has no gradient.

use std::path::Path;

use rayon::prelude::*;
use sparknet_proto::{binary, caffe::BlobProto};

use super::{Arity, LayerDef, label, multinomial_logistic_loss::at_least, softmax::softmax};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::InfogainLossSpec,
    weights::read_blob,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "InfogainLoss",
    summary: "a cross-entropy in which a matrix says what each class is worth for each label",
    bottoms: Arity::Between(2, 3),
    tops: Arity::Between(1, 2),
    parse: InfogainLossSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Smaller probabilities count as this one, Caffe's `kLOG_THRESHOLD`.
const LEAST_PROBABILITY: f32 = 1e-20;

/// The cross-entropy of scores and rows of the infogain matrix.
pub struct InfogainLoss {
    spec: InfogainLossSpec,
    outer: usize,
    classes: usize,
    inner: usize,
    /// The matrix, where it comes from a file.
    matrix: Vec<f32>,
    /// The sums of the matrix' rows.
    row_sums: Vec<f32>,
    /// The probabilities, which backward starts from.
    probabilities: Vec<f32>,
}

impl InfogainLoss {
    /// A layer with the classes on `spec.axis`; its file, if it has one, is read with the first shapes.
    pub fn new(spec: &InfogainLossSpec) -> Self {
        Self {
            spec: spec.clone(),
            outer: 0,
            classes: 0,
            inner: 0,
            matrix: Vec::new(),
            row_sums: Vec::new(),
            probabilities: Vec::new(),
        }
    }
}

impl Layer for InfogainLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let scores = bottom[0];
        let axis = label::check_shapes(bottom, self.spec.axis)?;
        self.outer = scores.count_to(axis);
        self.classes = scores.dims()[axis];
        self.inner = scores.count_from(axis + 1);
        let count = self.classes * self.classes;
        if let Some(matrix) = bottom.get(2).filter(|matrix| matrix.count() != count) {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: scores.clone(),
                second: 2,
                second_shape: (*matrix).clone(),
                fact: format!("for {0} classes the infogain matrix is ({0}, {0})", self.classes),
            });
        }
        if let Some(source) = &self.spec.source
            && self.matrix.len() != count
        {
            self.matrix = read_matrix(source.as_ref(), count)?;
        }
        self.row_sums.resize(self.classes, 0.0);
        self.probabilities.resize(scores.count(), 0.0);
        Ok(vec![Shape::default(), scores.clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (classes, inner) = (self.classes, self.inner);
        self.probabilities.copy_from_slice(io.bottom.get(0));
        softmax(&mut self.probabilities, classes, inner);
        let matrix = match self.spec.source {
            Some(_) => &self.matrix,
            None => io.bottom.get(2),
        };
        let (mut sum_loss, mut count) = (0.0f64, 0);
        for (position, value) in io.bottom.get(1).iter().enumerate() {
            let Some(class) = label::class(*value, position, classes, self.spec.ignore_label)? else {
                continue;
            };
            let first = position / inner * classes * inner + position % inner;
            let probabilities = self.probabilities[first..].iter().step_by(inner);
            for (worth, probability) in matrix[class * classes..][..classes].iter().zip(probabilities) {
                sum_loss -= f64::from(worth * at_least(*probability, LEAST_PROBABILITY).ln());
            }
            count += 1;
        }
        io.top[0][0] = sum_loss as f32 / self.spec.normalization.divisor(self.outer, inner, count);
        if let Some(top) = io.top.get_mut(1) {
            top.copy_from_slice(&self.probabilities);
        }
        Ok(())
    }

    /// `dx = (softmax(x) · Σₗ H[label][l] - H[label]) · dy / normalizer`, and 0 where the label is ignored.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (classes, inner, ignore_label) = (self.classes, self.inner, self.spec.ignore_label);
        let matrix = match self.spec.source {
            Some(_) => &self.matrix,
            None => io.bottom.get(2),
        };
        for (sum, row) in self.row_sums.iter_mut().zip(matrix.chunks(classes)) {
            *sum = row.iter().sum();
        }
        let labels = io.bottom.get(1);
        // Forward has refused labels that are no class.
        let class = |label: f32| label::class(label, 0, classes, ignore_label).ok().flatten();
        let count = labels.iter().filter(|label| class(**label).is_some()).count();
        let scale = io.top_diff[0][0] / self.spec.normalization.divisor(self.outer, inner, count);
        let row_sums = &self.row_sums;
        let images = io.bottom_diff[0].par_chunks_mut(classes * inner);
        let images = images.zip(self.probabilities.par_chunks(classes * inner));
        images
            .zip(labels.par_chunks(inner))
            .for_each(|((diff, probabilities), labels)| {
                for (column, label) in labels.iter().enumerate() {
                    let diff = diff[column..].iter_mut().step_by(inner);
                    let Some(class) = class(*label) else {
                        diff.for_each(|dx| *dx = 0.0);
                        continue;
                    };
                    let probabilities = probabilities[column..].iter().step_by(inner);
                    let row = &matrix[class * classes..][..classes];
                    for ((dx, probability), worth) in diff.zip(probabilities).zip(row) {
                        *dx = scale * (probability * row_sums[class] - worth);
                    }
                }
            });
    }

    fn takes_gradient(&self, top: usize) -> bool {
        top == 0
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            0 => BottomGradient::Computed,
            1 => BottomGradient::Label("labels"),
            _ => BottomGradient::Label("an infogain matrix"),
        }
    }
}

/// Reads an infogain matrix of `count` values.
fn read_matrix(source: &Path, count: usize) -> Result<Vec<f32>, LayerError> {
    let error = |fact: String| LayerError::File {
        path: source.to_owned(),
        fact,
    };
    let blob: BlobProto = binary::read_file(source).map_err(|cause| error(cause.to_string()))?;
    let found = blob.data.len().max(blob.double_data.len());
    if found != count {
        return Err(error(format!(
            "it has {found} values, but an infogain matrix of the scores' classes has {count}"
        )));
    }
    let mut matrix = vec![0.0; count];
    read_blob(&blob, &mut matrix).map_err(error)?;
    Ok(matrix)
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 3], &[4], &[3, 3]],
        params: "",
        tops: 1,
        fill: super::Fill::SecondLabels(3),
    },
    super::GradientCase {
        bottoms: &[&[2, 2, 3], &[2, 2], &[1, 1, 3, 3]],
        params: "infogain_loss_param { axis: -1 } loss_param { ignore_label: 1 normalization: FULL } loss_weight: 0.7",
        tops: 1,
        fill: super::Fill::SecondLabels(3),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::gradient_check::{input, net, run};

    /// The loss of equal scores, with a matrix from a file.
    fn loss(source: &Path, params: &str) -> Result<f32, String> {
        let source = format!("infogain_loss_param {{ source: '{}' }}", source.display());
        let layer = format!(
            "layer {{ name: 'L' type: 'InfogainLoss' bottom: 'x' bottom: 't' top: 'y' top: 'p' {source} {params} }}"
        );
        let mut net = net(&format!("{}{}{layer}", input("x", &[3, 2]), input("t", &[3])))?;
        let blobs = run(&mut net, &[("t", &[0.0, 1.0, 1.0])])?;
        assert_eq!(blobs["p"], [0.5; 6]);
        Ok(blobs["y"][0])
    }

    #[test]
    fn the_matrix_comes_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.binaryproto");
        let missing = loss(&path, "").unwrap_err();
        assert!(
            missing.contains("'L' (InfogainLoss)") && missing.contains("h.binaryproto"),
            "{missing}"
        );

        let write = |blob: BlobProto| binary::write_file(&path, &blob).unwrap();
        write(BlobProto {
            data: vec![1.0, 2.0, 3.0, 5.0],
            ..Default::default()
        });
        let ln_2 = std::f32::consts::LN_2;
        for (params, expected) in [
            ("", (3.0 + 8.0 + 8.0) / 3.0),
            ("loss_param { ignore_label: 1 }", 3.0),
            ("loss_param { normalization: NONE }", 19.0),
        ] {
            let found = loss(&path, params).unwrap();
            assert!((found - ln_2 * expected).abs() < 1e-5, "{params}: {found}");
        }
        write(BlobProto {
            double_data: vec![1.0, 0.0, 0.0, 1.0],
            ..Default::default()
        });
        assert!((loss(&path, "").unwrap() - ln_2).abs() < 1e-6);
        write(BlobProto {
            data: vec![1.0; 9],
            ..Default::default()
        });
        let wrong = loss(&path, "").unwrap_err();
        assert!(wrong.contains("9 values") && wrong.contains("h.binaryproto"), "{wrong}");
    }

    #[test]
    fn without_a_matrix_or_with_the_old_normalize_it_is_refused() {
        let build = |params: &str, bottoms: &str, dims: &[usize]| {
            let layer = format!("layer {{ name: 'L' type: 'InfogainLoss' {bottoms} top: 'y' {params} }}");
            let inputs = format!("{}{}{}", input("x", &[3, 2]), input("t", &[3]), input("h", dims));
            net(&format!("{inputs}{layer}")).err()
        };
        let (two, three) = ("bottom: 'x' bottom: 't'", "bottom: 'x' bottom: 't' bottom: 'h'");
        assert!(build("", two, &[2, 2]).unwrap().contains("infogain_loss_param.source"));
        assert!(build("", three, &[2, 3]).unwrap().contains("bottom 2 (2, 3)"));
        let old = build("loss_param { normalize: true }", three, &[2, 2]).unwrap();
        assert!(old.contains("give normalization"), "{old}");
        assert_eq!(build("", three, &[2, 2]), None);
    }
}
