//! The typed parameters of the layers that bring data into a net.

use sparknet_proto::caffe::{self, DataParameter, LayerParameter, TransformationParameter, data_parameter};

use super::{
    LayerKind,
    kinds::{Parsed, filler, required, shape},
};
use crate::{Shape, filler::Filler};

/// What a data layer does to each record: Caffe's `transform_param`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransformSpec {
    /// The factor after the mean is taken away.
    pub scale: f32,
    /// Whether records are mirrored at random.
    pub mirror: bool,
    /// The edge of the square that is cut out; 0 for the whole record.
    pub crop_size: usize,
    /// A file with the mean record.
    pub mean_file: Option<String>,
    /// The mean of all channels, or of each.
    pub mean_values: Vec<f32>,
    /// Whether encoded records are decoded to 3 channels.
    pub force_color: bool,
    /// Whether encoded records are decoded to 1 channel.
    pub force_gray: bool,
}

impl TransformSpec {
    pub(super) fn parse(message: Option<&TransformationParameter>) -> Parsed<Self> {
        let default = TransformationParameter::default();
        let message = message.unwrap_or(&default);
        if message.mean_file.is_some() && !message.mean_value.is_empty() {
            return Err("transform_param has both mean_file and mean_value: keep one".to_owned());
        }
        if message.force_color() && message.force_gray() {
            return Err("transform_param has both force_color and force_gray: keep one".to_owned());
        }
        Ok(Self {
            scale: message.scale(),
            mirror: message.mirror(),
            crop_size: message.crop_size() as usize,
            mean_file: message.mean_file.clone(),
            mean_values: message.mean_value.clone(),
            force_color: message.force_color(),
            force_gray: message.force_gray(),
        })
    }
}

/// The `transform_param` of a Data, ImageData or WindowData layer, with `data_param.force_encoded_color`, which Caffe had
/// before `force_color`.
///
/// # Errors
/// The layer's own message has a field that Caffe moved to `transform_param` and no longer reads.
pub(super) fn record_transform(layer: &LayerParameter) -> Parsed<Option<TransformationParameter>> {
    macro_rules! moved {
        ($($message:ident: $($field:ident)*;)*) => {
            [$($((stringify!($message), stringify!($field),
                layer.$message.as_ref().is_some_and(|param| param.$field.is_some())),)*)*]
        };
    }
    let moved = moved! {
        data_param: scale mean_file crop_size mirror;
        image_data_param: scale mean_file crop_size mirror;
        window_data_param: mean_file crop_size mirror;
    };
    if let Some((message, field, _)) = moved.into_iter().find(|(.., is_given)| *is_given) {
        return Err(format!(
            "{message}.{field} is of old nets and would not be looked at: move it to transform_param"
        ));
    }
    let mut transform = layer.transform_param.clone();
    let data_param = layer.data_param.as_ref();
    if data_param.is_some_and(|param| param.force_encoded_color()) {
        transform.get_or_insert_default().force_color = Some(true);
    }
    Ok(transform)
}

/// `Data`.
#[derive(Clone, Debug)]
pub struct DataSpec {
    /// The database's folder.
    pub source: String,
    /// The database's format.
    pub backend: DataBackend,
    /// Records a batch.
    pub batch_size: usize,
    /// Up to how many records are skipped at the start.
    pub rand_skip: usize,
    /// How many batches are read ahead.
    pub prefetch: usize,
    /// What happens to each record.
    pub transform: TransformSpec,
}

/// The format of a `Data` layer's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataBackend {
    /// LevelDB.
    LevelDb,
    /// LMDB.
    Lmdb,
}

impl DataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param: DataParameter = layer.data_param.clone().unwrap_or_default();
        let source = param.source().to_owned();
        if source.is_empty() {
            return Err("data_param.source is missing: give the database's folder".to_owned());
        }
        Ok(LayerKind::Data(Self {
            source,
            backend: match param.backend() {
                data_parameter::Db::Leveldb => DataBackend::LevelDb,
                data_parameter::Db::Lmdb => DataBackend::Lmdb,
            },
            batch_size: required(param.batch_size, "data_param.batch_size")?,
            rand_skip: param.rand_skip() as usize,
            prefetch: param.prefetch().max(1) as usize,
            transform: TransformSpec::parse(record_transform(layer)?.as_ref())?,
        }))
    }
}

/// `DummyData`.
#[derive(Clone, Debug)]
pub struct DummyDataSpec {
    /// The tops' shapes and fillers, in order.
    pub tops: Vec<(Shape, Filler)>,
}

impl DummyDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.dummy_data_param.clone().unwrap_or_default();
        let num_tops = layer.top.len();
        // One value serves all tops; Caffe allows this for shapes, legacy dims and fillers alike.
        let pick = |len: usize, what: &str, index: usize| match len {
            1 => Ok(0),
            len if len == num_tops => Ok(index),
            len => Err(format!(
                "{what} is given {len} times for {num_tops} tops: give it once, or once a top"
            )),
        };
        let mut tops = Vec::with_capacity(num_tops);
        for index in 0..num_tops {
            let top_shape = if param.shape.is_empty() {
                let dim =
                    |name: &str, values: &[u32]| pick(values.len(), name, index).map(|index| i64::from(values[index]));
                let dims = vec![
                    dim("num", &param.num)?,
                    dim("channels", &param.channels)?,
                    dim("height", &param.height)?,
                    dim("width", &param.width)?,
                ];
                shape(&caffe::BlobShape { dim: dims }, "dummy_data_param")?
            } else {
                shape(&param.shape[pick(param.shape.len(), "shape", index)?], "shape")?
            };
            let top_filler = if param.data_filler.is_empty() {
                Filler::Constant(0.0)
            } else {
                filler(Some(
                    &param.data_filler[pick(param.data_filler.len(), "data_filler", index)?],
                ))?
            };
            tops.push((top_shape, top_filler));
        }
        Ok(LayerKind::DummyData(Self { tops }))
    }
}

/// `Input`.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The tops' shapes, in order.
    pub shapes: Vec<Shape>,
}

impl InputSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.input_param.clone().unwrap_or_default();
        let shapes = param
            .shape
            .iter()
            .map(|message| shape(message, "shape"))
            .collect::<Parsed<Vec<_>>>()?;
        match (shapes.len(), layer.top.len()) {
            (0, _) => Err("input_param.shape is missing: give the shape of each top".to_owned()),
            (1, tops) => Ok(LayerKind::Input(Self {
                shapes: vec![shapes[0].clone(); tops],
            })),
            (given, tops) if given == tops => Ok(LayerKind::Input(Self { shapes })),
            (given, tops) => Err(format!(
                "input_param has {given} shapes for {tops} tops: give one, or one a top"
            )),
        }
    }
}

/// `MemoryData`.
#[derive(Clone, Debug)]
pub struct MemoryDataSpec {
    /// Records a batch.
    pub batch_size: usize,
    /// A record's shape.
    pub record_shape: [usize; 3],
    /// CaffeOnSpark's source of the records.
    pub source: Option<String>,
    /// What happens to each record.
    pub transform: TransformSpec,
}

impl MemoryDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.memory_data_param.clone().unwrap_or_default();
        Ok(LayerKind::MemoryData(Self {
            batch_size: required(param.batch_size, "memory_data_param.batch_size")?,
            record_shape: [
                required(param.channels, "memory_data_param.channels")?,
                required(param.height, "memory_data_param.height")?,
                required(param.width, "memory_data_param.width")?,
            ],
            source: param.source.clone(),
            transform: TransformSpec::parse(layer.transform_param.as_ref())?,
        }))
    }
}
