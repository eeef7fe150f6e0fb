//! The seam between data and nets: opens a reader for every data layer of a net, and fills the layers' tops with its
//! batches.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use sparknet_data::{
    Backend, Batch, BatchConfig, BatchReader, End, Hdf5Source, ImageListSource, ImageListSpec, Rows, Shard,
    WindowSource, WindowSpec,
};
use sparknet_engine::{
    InputShapes, Net, Phase, Shape,
    spec::{
        CosDataSpec, DataBackend, DataSpec, Hdf5DataSpec, ImageDataSpec, LayerKind, LayerSpec, TransformSpec,
        WindowDataSpec,
    },
};

use crate::{Error, job::resolve};

/// Batches that are read ahead where a layer cannot say it.
const PREFETCH: usize = 4;

/// Which part of the data a worker takes, and from where.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The folder where relative paths are looked for second.
    pub folder: PathBuf,
    /// Train: records for ever. Test: each record once.
    pub phase: Phase,
    /// This worker.
    pub rank: usize,
    /// The number of workers.
    pub world: usize,
    /// The seed of crops and mirrors, the same for all workers.
    pub seed: u64,
    /// Batches that this worker has already taken from each data layer, in the net's order; missing ones are 0.
    pub positions_batches: Vec<u64>,
    /// In tests: batches of all workers together; `None` for all there are.
    pub max_batches: Option<u64>,
    /// This worker's own records, which then feed the net's data layer instead of the source that it names.
    pub rows: Option<Arc<Rows>>,
    /// Whether layers without data are fed by a program, which then fills them itself; they are an error otherwise.
    pub fed_by_program: bool,
    /// Whether the data begin anew at their end, with full batches only; always so in training.
    pub repeat: bool,
}

/// The readers of a net's data layers.
pub struct Feeds {
    feeds: Vec<Feed>,
}

struct Feed {
    layer: usize,
    tops: Vec<Top>,
    reader: BatchReader,
    batch: Batch,
    batch_size: usize,
    taken_batches: u64,
}

/// How one top of a data layer is fed.
struct Top {
    part: Part,
    /// The next values of a top whose last axis is the batch.
    transposed: Option<Vec<f32>>,
}

/// What of a batch a top is fed with.
enum Part {
    Data,
    Labels,
    /// One of the arrays.
    Array(usize),
}

/// Opens readers as a net that is being built asks for shapes.
pub struct FeedOpener {
    settings: FeedSettings,
    /// By layer name.
    readers: HashMap<String, BatchReader>,
}

impl FeedOpener {
    /// An opener for one net.
    pub fn new(settings: FeedSettings) -> Self {
        Self {
            settings,
            readers: HashMap::new(),
        }
    }

    /// How the next reader of the net shares the records of `source`.
    fn config(&self, source: &Path, batch_size: usize, prefetch: usize) -> Result<BatchConfig, Error> {
        let FeedSettings {
            folder: _,
            phase,
            rank,
            world,
            seed,
            positions_batches,
            max_batches,
            rows,
            fed_by_program: _,
            repeat,
        } = &self.settings;
        let is_train = *phase == Phase::Train;
        if rows.is_some() && !self.readers.is_empty() {
            return Err(Error::Usage(
                "the net has two data layers in one phase, but rows feed one: keep one".to_owned(),
            ));
        }
        Ok(BatchConfig {
            source: rows.as_ref().map_or(source, |rows| rows.name()).to_owned(),
            batch_size,
            phase_train: is_train,
            rank: *rank,
            world: *world,
            seed: *seed,
            start_batches: positions_batches.get(self.readers.len()).copied().unwrap_or(0),
            prefetch,
            end: if is_train || *repeat { End::Wrap } else { End::Stop },
            shard: match (rows, is_train) {
                (Some(_), _) => Shard::Own,
                (None, true) => Shard::Records,
                (None, false) => Shard::Batches,
            },
            max_batches: *max_batches,
            ..BatchConfig::default()
        })
    }

    fn transform(&self, spec: &TransformSpec) -> sparknet_data::TransformSpec {
        sparknet_data::TransformSpec {
            scale: spec.scale,
            mirror: spec.mirror,
            crop_size: spec.crop_size,
            mean_file: spec.mean_file.as_ref().map(|path| resolve(path, &self.settings.folder)),
            mean_values: spec.mean_values.clone(),
            force_color: spec.force_color,
            force_gray: spec.force_gray,
        }
    }

    /// Opens the reader of a CoSData layer over rows, and finds out which top gets what.
    fn open_cos_data(&self, data: &CosDataSpec, rows: &Arc<Rows>) -> Result<(BatchReader, Vec<Top>), Error> {
        let values = &data.tops[data.values_top];
        let config = BatchConfig {
            transform: self.transform(&values.transform),
            ..self.config(rows.name(), data.batch_size, PREFETCH)?
        };
        let mut array_lengths = Vec::new();
        let mut tops = Vec::new();
        for (index, top) in data.tops.iter().enumerate() {
            let part = if index == data.values_top {
                Part::Data
            } else {
                array_lengths.push(top.count);
                Part::Array(array_lengths.len() - 1)
            };
            tops.push(Top {
                part,
                transposed: top.transpose.then(Vec::new),
            });
        }
        let numbers: usize = array_lengths.iter().sum();
        let reader = BatchReader::with_source(config, rows.source_of_arrays(array_lengths))?;
        let found = (reader.record_shape().iter().product::<usize>(), rows.numbers_per_row());
        if found != (values.count, numbers) {
            return Err(Error::Usage(format!(
                "rows have {} values in column {} and {} numbers beside them, but cos_data_param says {} and {numbers}: \
                 correct one of the two",
                found.0, values.column, found.1, values.count
            )));
        }
        Ok((reader, tops))
    }

    /// The folder before the paths of a list; empty for none.
    fn root(&self, root_folder: &str) -> String {
        match root_folder {
            "" => String::new(),
            root => resolve(root, &self.settings.folder).display().to_string(),
        }
    }

    fn open_data(&self, data: &DataSpec) -> Result<BatchReader, Error> {
        let source = resolve(&data.source, &self.settings.folder);
        let config = BatchConfig {
            backend: match data.backend {
                DataBackend::Lmdb => Backend::Lmdb,
                DataBackend::LevelDb => Backend::Leveldb,
            },
            transform: self.transform(&data.transform),
            rand_skip: data.rand_skip as u64,
            ..self.config(&source, data.batch_size, data.prefetch)?
        };
        Ok(match &self.settings.rows {
            Some(rows) => BatchReader::with_source(config, rows.source())?,
            None => BatchReader::open(config)?,
        })
    }

    /// Opens the reader of an HDF5Data layer and returns the shapes of its tops.
    fn open_hdf5(&mut self, layer: &LayerSpec, data: &Hdf5DataSpec) -> Result<Vec<Shape>, Error> {
        let list = resolve(&data.source, &self.settings.folder);
        let source = Hdf5Source::open(&list, &layer.tops, data.shuffle.then_some(self.settings.seed))?;
        let shapes = source.row_shapes().iter();
        let shapes = shapes.map(|row| Shape::new([&[data.batch_size], row.as_slice()].concat()));
        let shapes = shapes.collect();
        let config = self.config(&list, data.batch_size, BatchConfig::default().prefetch)?;
        let reader = BatchReader::with_source(config, Box::new(source))?;
        self.readers.insert(layer.name.clone(), reader);
        Ok(shapes)
    }

    fn open_image_data(&self, data: &ImageDataSpec) -> Result<BatchReader, Error> {
        let list = resolve(&data.source, &self.settings.folder);
        let config = BatchConfig {
            transform: self.transform(&data.transform),
            rand_skip: data.rand_skip as u64,
            ..self.config(&list, data.batch_size, data.prefetch)?
        };
        let source = ImageListSource::open(ImageListSpec {
            list,
            root: self.root(&data.root_folder),
            new_size: data.new_size,
            is_color: data.is_color,
            shuffle: data.shuffle,
            seed: self.settings.seed,
        })?;
        Ok(BatchReader::with_source(config, Box::new(source))?)
    }

    fn open_window_data(&self, data: &WindowDataSpec) -> Result<BatchReader, Error> {
        let file = resolve(&data.source, &self.settings.folder);
        // Windows are transformed as they are cut.
        let config = self.config(&file, data.batch_size, data.prefetch)?;
        let source = WindowSource::open(WindowSpec {
            file,
            root: self.root(&data.root_folder),
            fg_threshold: data.fg_threshold,
            bg_threshold: data.bg_threshold,
            fg_fraction: data.fg_fraction,
            context_pad: data.context_pad,
            is_square: data.is_square,
            cache_images: data.cache_images,
            transform: self.transform(&data.transform),
            batch_size: data.batch_size,
            records_per_place: if config.shard == Shard::Records {
                config.world
            } else {
                1
            },
            seed: self.settings.seed,
        })?;
        Ok(BatchReader::with_source(config, Box::new(source))?)
    }

    /// Opens the reader of a layer with a source and returns the shapes of its tops.
    fn open_layer(&mut self, layer: &LayerSpec) -> Result<Vec<Shape>, Error> {
        let has_rows = self.settings.rows.is_some();
        let reader = match &layer.kind {
            LayerKind::Data(data) => self.open_data(data)?,
            LayerKind::ImageData(data) if !has_rows => self.open_image_data(data)?,
            LayerKind::Hdf5Data(data) if !has_rows => return self.open_hdf5(layer, data),
            LayerKind::WindowData(data) if !has_rows => self.open_window_data(data)?,
            _ => {
                return Err(Error::Feed {
                    layer: layer.name.clone(),
                    fact: format!("rows do not feed a layer of type {}: use a Data layer", layer.type_name),
                });
            }
        };
        let [channels, height, width] = reader.record_shape();
        let batch_size = layer.kind.batch_size().unwrap_or(1);
        let mut shapes = vec![
            Shape::from([batch_size, channels, height, width]),
            Shape::from([batch_size]),
        ];
        shapes.truncate(layer.tops.len());
        self.readers.insert(layer.name.clone(), reader);
        Ok(shapes)
    }

    /// Opens the readers of a net that is built already, as for another pass over its data.
    ///
    /// # Errors
    /// Data that cannot be opened any more.
    pub fn open_for(&mut self, net: &Net) -> Result<(), Error> {
        for layer in net.spec().layers.iter().filter(|layer| layer.kind.has_source()) {
            self.open_layer(layer)?;
        }
        Ok(())
    }

    /// The feeds of the net that was built with this opener.
    ///
    /// # Errors
    /// A layer that is fed from outside and has no data.
    pub fn finish(mut self, net: &Net) -> Result<Feeds, Error> {
        let mut feeds = Vec::new();
        for (layer, spec) in net.spec().layers.iter().enumerate() {
            let no_data = |fact: String| Error::Feed {
                layer: spec.name.clone(),
                fact,
            };
            let mut tops: Vec<Top> = match &spec.kind {
                LayerKind::Hdf5Data(_) => (0..spec.tops.len()).map(|top| Top::of(Part::Array(top))).collect(),
                _ => [Part::Data, Part::Labels].map(Top::of).into(),
            };
            tops.truncate(spec.tops.len());
            let (reader, batch_size) = match &spec.kind {
                kind if kind.has_source() => match self.readers.remove(&spec.name) {
                    Some(reader) => (reader, kind.batch_size().unwrap_or(1)),
                    None => return Err(no_data("two data layers have this name: rename one".to_owned())),
                },
                LayerKind::MemoryData(data) => {
                    let Some(source) = &data.source else {
                        if self.settings.fed_by_program {
                            continue;
                        }
                        return Err(no_data(
                            "a MemoryData layer is fed by a program: give it a source, or use a Data layer".to_owned(),
                        ));
                    };
                    // CaffeOnSpark writes sources as URLs.
                    let path = resolve(source.strip_prefix("file:").unwrap_or(source), &self.settings.folder);
                    let backend = Backend::detect(&path)?;
                    let config = BatchConfig {
                        backend,
                        transform: self.transform(&data.transform),
                        ..self.config(&path, data.batch_size, PREFETCH)?
                    };
                    let reader = BatchReader::open(config)?;
                    let found = Shape::from(reader.record_shape());
                    let wanted = net.blob_shape(&spec.tops[0])?.dims()[1..].to_vec();
                    if found.dims() != wanted {
                        return Err(no_data(format!(
                            "its records have shape {found}, but memory_data_param says {}",
                            Shape::new(wanted)
                        )));
                    }
                    (reader, data.batch_size)
                }
                LayerKind::CosData(data) => match &self.settings.rows {
                    Some(rows) => {
                        let (reader, tops_of_columns) = self.open_cos_data(data, rows)?;
                        tops = tops_of_columns;
                        (reader, data.batch_size)
                    }
                    None if self.settings.fed_by_program => continue,
                    None => {
                        return Err(no_data(
                            "a CoSData layer is fed with the columns of a DataFrame: train it on Spark, or use a Data \
                             layer"
                                .to_owned(),
                        ));
                    }
                },
                LayerKind::Input(_) if !self.settings.fed_by_program => {
                    return Err(no_data("an Input layer has no data: use a Data layer here".to_owned()));
                }
                _ => continue,
            };
            feeds.push(Feed {
                layer,
                tops,
                reader,
                batch: Batch::default(),
                batch_size,
                taken_batches: 0,
            });
        }
        for (feed, position) in feeds.iter_mut().zip(&self.settings.positions_batches) {
            feed.taken_batches = *position;
        }
        Ok(Feeds { feeds })
    }
}

impl InputShapes for FeedOpener {
    fn top_shapes(&mut self, layer: &LayerSpec) -> Result<Vec<Shape>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.open_layer(layer)?)
    }
}

impl Feeds {
    /// Fills the net's data layers with their next batches. Returns the number of records and the batch's number among
    /// those of all workers, or `None` after the last record of a test.
    ///
    /// # Errors
    /// Data that cannot be read, or a last batch that some layer cannot take.
    pub fn fill(&mut self, net: &mut Net) -> Result<Option<(usize, u64)>, Error> {
        let mut filled = None;
        for feed in &mut self.feeds {
            let used = std::mem::take(&mut feed.batch);
            if used.count > 0 {
                feed.reader.recycle(used);
            }
            let Some(batch) = feed.reader.next()? else {
                return Ok(None);
            };
            feed.batch = batch;
            feed.taken_batches += 1;
            filled = Some((feed.batch.count, feed.batch.index));
            feed.reshape(net)?;
            let layer = feed.layer;
            let mut swap = |top: usize, values: &mut Vec<f32>| {
                if net.swap_feed(layer, top, values) {
                    return Ok(());
                }
                let spec = &net.spec().layers[layer];
                let (found, blob) = (values.len(), &spec.tops[top]);
                Err(Error::Feed {
                    layer: spec.name.clone(),
                    fact: format!("a batch has {found} values where blob '{blob}' has another number"),
                })
            };
            for (index, top) in feed.tops.iter_mut().enumerate() {
                swap(index, top.values(&mut feed.batch))?;
            }
        }
        Ok(filled)
    }

    /// Whether there is any data layer.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Records in a full batch of the first data layer.
    pub fn batch_size(&self) -> usize {
        self.feeds.first().map_or(0, |feed| feed.batch_size)
    }

    /// Records of the first data layer's source.
    pub fn len_records(&self) -> u64 {
        self.feeds.first().map_or(0, |feed| feed.reader.len_records())
    }

    /// Batches taken from each data layer so far, those before a resume included.
    pub fn positions_batches(&self) -> Vec<u64> {
        self.feeds.iter().map(|feed| feed.taken_batches).collect()
    }

    /// Seconds that [`Feeds::fill`] has waited for readers so far.
    pub fn wait_seconds(&self) -> f64 {
        self.feeds.iter().map(|feed| feed.reader.wait_seconds()).sum()
    }
}

impl Feed {
    /// Lets the net follow where this batch has another size than the last one.
    fn reshape(&self, net: &mut Net) -> Result<(), Error> {
        let mut shapes = net.feed_shapes(self.layer);
        let batch_axis = |top: &Top| usize::from(top.transposed.is_some());
        if shapes[0].dims()[batch_axis(&self.tops[0])] == self.batch.count {
            return Ok(());
        }
        for (shape, top) in shapes.iter_mut().zip(&self.tops) {
            let mut dims = shape.dims().to_vec();
            dims[batch_axis(top)] = self.batch.count;
            *shape = Shape::new(dims);
        }
        Ok(net.reshape_feed(self.layer, &shapes)?)
    }
}

impl Top {
    fn of(part: Part) -> Self {
        Self { part, transposed: None }
    }

    /// The top's values of a batch, to be swapped with the last ones.
    fn values<'a>(&'a mut self, batch: &'a mut Batch) -> &'a mut Vec<f32> {
        let records = batch.count;
        let values = match self.part {
            Part::Data => &mut batch.data,
            Part::Labels => &mut batch.labels,
            Part::Array(array) => &mut batch.arrays[array],
        };
        let Some(transposed) = &mut self.transposed else {
            return values;
        };
        let width = values.len() / records.max(1);
        transposed.clear();
        for axis in 0..width {
            transposed.extend((0..records).map(|record| values[record * width + axis]));
        }
        transposed
    }
}
