//! Python: a layer that a class in Python computes.
//!
//! ```prototxt
//! layer { name: "loss" type: "Python" bottom: "x" bottom: "target" top: "loss" loss_weight: 1
//!         python_param { module: "my_layers" layer: "MyLoss" param_str: "{'margin': 0.5}" } }
//! ```
//!
//! The engine knows no Python: the Python package says how such layers are built when it is loaded.

use std::sync::OnceLock;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::PythonSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Python",
    summary: "whatever a class in Python computes; in the Python package only",
    bottoms: Arity::AtLeast(0),
    tops: Arity::AtLeast(0),
    parse: PythonSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("its backward is written in Python (python/tests/test_layer.py)"),
};

/// Builds a layer that a class in Python computes.
pub type PythonFactory = fn(&PythonSpec) -> Box<dyn Layer>;

static FACTORY: OnceLock<PythonFactory> = OnceLock::new();

/// Lets all nets of this process that are built from now on have layers of type Python. The first call counts.
pub fn register_python_layers(factory: PythonFactory) {
    FACTORY.get_or_init(|| factory);
}

/// The layer, or one that refuses to be part of a net where nobody can build it.
pub(super) fn build(spec: &PythonSpec) -> Box<dyn Layer> {
    match FACTORY.get() {
        Some(factory) => factory(spec),
        None => Box::new(WithoutPython(format!("{}.{}", spec.module, spec.layer))),
    }
}

struct WithoutPython(String);

impl Layer for WithoutPython {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Err(LayerError::WithoutPython { class: self.0.clone() })
    }

    fn forward(&mut self, _io: &mut Forward<'_>) -> Result<(), LayerError> {
        Err(LayerError::WithoutPython { class: self.0.clone() })
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net};

    #[test]
    fn without_python_one_sentence_says_so() {
        let layer = "layer { name: 'L' type: 'Python' bottom: 'x' top: 'y' python_param { module: 'a.b' layer: 'C' } }";
        let error = net(&format!("{}{layer}", input("x", &[2]))).err().unwrap();
        assert!(
            error.starts_with("layer 'L' (Python): the class a.b.C runs in Python"),
            "{error}"
        );
    }
}
