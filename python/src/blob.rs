//! Blobs, and the NumPy arrays that look at their memory.
//!
//! `.data` and `.diff` are arrays over the net's own memory: nothing is copied. What keeps that sound:
//! - An array's base is a [`Memory`], which holds the net (or the solver whose net it is): the memory lives as long as
//!   any array over it.
//! - Where the net gives a blob another length, it goes on in new memory and leaves the old to the `Memory`
//!   ([`sparknet_engine::Keeper`]): an older array then keeps the old values and is connected to nothing any more. So
//!   no array ever dangles, and none sees values of another shape.
//! - Parameters and their gradients never move.
//! - Rust holds no reference into a net between calls. During a call that runs with the GIL released, another thread
//!   that reads such an array may see values half written, as with any array that two threads share.

use numpy::{
    PyArrayDyn,
    ndarray::{ArrayViewD, IxDyn},
};
use pyo3::{prelude::*, types::PyTuple};
use sparknet_engine::{Keeper, Net, Shape, spec::LayerKind};

use crate::{
    error::{Failure, new},
    handle::Handle,
};

/// NumPy's limit before version 2, and Caffe's.
const MAX_AXES: usize = 32;

/// What the base of an array holds.
#[pyclass(frozen, module = "sparknet._native")]
struct Memory {
    _net: Handle,
    _keeper: Option<Keeper>,
}

#[derive(Clone)]
pub enum Which {
    Named(String),
    /// A parameter of the net, by index.
    Param(usize),
}

/// Values and gradients of a net: of a blob, or of a layer's parameters.
#[pyclass(frozen, module = "sparknet._native")]
pub struct Blob {
    net: Handle,
    which: Which,
}

impl Blob {
    pub fn new(net: Handle, which: Which) -> Self {
        Self { net, which }
    }

    fn dims(&self) -> Result<Vec<usize>, Failure> {
        self.net.with(|net| {
            let shape = match &self.which {
                Which::Named(name) => net.lent_shape(name)?,
                Which::Param(index) => &net.params()[*index].shape,
            };
            Ok(shape.dims().to_vec())
        })
    }

    /// An extent as Caffe's legacy accessors count them: axes that are not there have 1.
    fn legacy_dim(&self, axis: usize) -> Result<usize, Failure> {
        let dims = self.dims()?;
        if dims.len() > 4 {
            return Err(Failure::Input(format!(
                "num, channels, height and width are of blobs with at most 4 axes, and this one has {}: use shape",
                dims.len()
            )));
        }
        Ok(dims.get(axis).copied().unwrap_or(1))
    }

    fn view<'py>(&self, py: Python<'py>, diff: bool) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        if diff {
            // Layers follow new shapes on the threads that compute.
            self.net.compute(py, false, |net| Ok(net.settle_shapes()?))?;
        }
        let (first, shape, keeper) = self.net.with(|net| match &self.which {
            Which::Named(name) => {
                let lent = if diff {
                    net.lend_blob_diff(name)?
                } else {
                    net.lend_blob_data(name)?
                };
                Ok((lent.first, lent.shape, Some(lent.keeper)))
            }
            Which::Param(index) => {
                let param = net.params()[*index].clone();
                let arena = if diff {
                    net.gradient_arena_ptr()
                } else {
                    net.param_arena_ptr()
                };
                // wrapping_add: a pointer into the arena, as a parameter's range lies within it.
                Ok((arena.wrapping_add(param.range.start), param.shape, None))
            }
        })?;
        let memory = Memory {
            _net: self.net.clone(),
            _keeper: keeper,
        };
        let base = Bound::new(py, memory)?.into_any();
        // SAFETY: `first` points to as many values as the shape has: the engine sizes a blob's buffer, and a
        // parameter's range, by its shape. They stay there as long as `base` lives: it holds the net, and what the net
        // leaves behind where it moves. The array view is dropped at once and reads nothing.
        let view = unsafe { ArrayViewD::from_shape_ptr(IxDyn(shape.dims()), first.cast_const()) };
        // SAFETY: as above; `base` keeps the memory, and becomes the array's base.
        Ok(unsafe { PyArrayDyn::borrow_from_array(&view, base) })
    }
}

#[pymethods]
impl Blob {
    /// The values, as a writable array over the net's memory.
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        self.view(py, false)
    }

    /// The gradient, as a writable array over the net's memory.
    #[getter]
    fn diff<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        self.view(py, true)
    }

    /// The extents, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.dims()?)
    }

    /// The number of values.
    #[getter]
    fn count(&self) -> PyResult<usize> {
        Ok(self.dims()?.iter().product())
    }

    /// The first extent of four.
    #[getter]
    fn num(&self) -> PyResult<usize> {
        Ok(self.legacy_dim(0)?)
    }

    /// The second extent of four.
    #[getter]
    fn channels(&self) -> PyResult<usize> {
        Ok(self.legacy_dim(1)?)
    }

    /// The third extent of four.
    #[getter]
    fn height(&self) -> PyResult<usize> {
        Ok(self.legacy_dim(2)?)
    }

    /// The fourth extent of four.
    #[getter]
    fn width(&self) -> PyResult<usize> {
        Ok(self.legacy_dim(3)?)
    }

    /// Gives an input blob another shape; the others follow in Net.reshape or in the next forward pass.
    #[pyo3(signature = (*dims))]
    fn reshape(&self, dims: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let dims = match &dims[..] {
            [one] if one.extract::<i64>().is_err() => one.extract::<Vec<i64>>()?,
            _ => dims.iter().map(|dim| dim.extract()).collect::<PyResult<Vec<i64>>>()?,
        };
        let Some(shape) = to_shape(&dims) else {
            return Err(new(
                "InputError",
                format!("{dims:?} is no shape: give at most {MAX_AXES} extents of at least 1"),
            ));
        };
        Ok(self.net.with(|net| match &self.which {
            Which::Named(name) => reshape(net, name, shape),
            Which::Param(_) => Err(Failure::Input(
                "the shape of parameters follows from their layer and cannot be changed".to_owned(),
            )),
        })?)
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(match &self.which {
            Which::Named(name) => format!("<Blob '{name}' {:?}>", self.dims()?),
            Which::Param(_) => format!("<Blob of parameters {:?}>", self.dims()?),
        })
    }
}

fn to_shape(dims: &[i64]) -> Option<Shape> {
    let dims = dims.iter().map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0));
    let dims: Vec<usize> = dims.collect::<Option<_>>()?;
    (dims.len() <= MAX_AXES).then(|| Shape::new(dims))
}

fn reshape(net: &mut Net, name: &str, shape: Shape) -> Result<(), Failure> {
    let layers = &net.spec().layers;
    let Some((index, layer)) = layers
        .iter()
        .enumerate()
        .find(|(_, layer)| layer.tops.iter().any(|top| top == name))
    else {
        // Asks for its name, for the error that lists those that exist.
        net.lent_shape(name)?;
        return Ok(());
    };
    let fed_by_hand = match &layer.kind {
        LayerKind::Input(_) => true,
        LayerKind::MemoryData(data) => data.source.is_none(),
        _ => false,
    };
    if !fed_by_hand {
        return Err(Failure::Input(format!(
            "blob '{name}' is written by layer '{}' ({}), which gives it its shape: reshape the net's inputs instead",
            layer.name, layer.type_name
        )));
    }
    let mut shapes = net.feed_shapes(index);
    for (top, old) in layer.tops.iter().zip(&mut shapes) {
        if top == name {
            *old = shape.clone();
        }
    }
    Ok(net.set_feed_shapes(index, &shapes)?)
}
