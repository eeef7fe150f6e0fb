//! Fashion-MNIST, MNIST and CIFAR-10 as train and test LMDBs, as Caffe's converters write them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use sparknet_proto::caffe::Datum;

use crate::DataError;
use crate::cifar10::Cifar10Source;
use crate::download::{RawFile, fetch};
use crate::idx::IdxSource;
use crate::lmdb_writer::LmdbWriter;
use crate::mean::compute_mean;
use crate::record::{Pixels, Record};
use crate::source::{Backend, Source, open_source};

/// Where Debian's package `dataset-fashion-mnist` puts its files.
const DEBIAN_FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";
/// The files of CIFAR-10's archive that are read; each holds 10,000 records.
const CIFAR10_FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];
const CIFAR10_ARCHIVE_FOLDER: &str = "cifar-10-batches-bin";
/// An archive's file is not read beyond this.
const MAX_CIFAR10_FILE_BYTES: u64 = 1 << 26;

/// The datasets that [`build_dataset`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetKind {
    /// 70,000 gray 28×28 pictures of clothes in 10 classes (Xiao, Rasul, Vollgraf 2017).
    FashionMnist,
    /// 70,000 gray 28×28 handwritten digits (LeCun, Cortes, Burges 1998).
    Mnist,
    /// 60,000 colour 32×32 photographs in 10 classes (Krizhevsky 2009).
    Cifar10,
}

impl DatasetKind {
    /// Every kind, in the order that help texts show.
    pub const ALL: [Self; 3] = [Self::FashionMnist, Self::Mnist, Self::Cifar10];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FashionMnist => "fashion-mnist",
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
        }
    }

    /// The LMDB of one half in a folder: `<name>_train_lmdb` or `<name>_test_lmdb`.
    pub fn lmdb(self, folder: &Path, half: Half) -> PathBuf {
        let half = match half {
            Half::Train => "train",
            Half::Test => "test",
        };
        folder.join(format!("{}_{half}_lmdb", self.name().replace('-', "_")))
    }

    fn raw_files(self) -> &'static [RawFile] {
        match self {
            Self::FashionMnist => &FASHION_MNIST_FILES,
            Self::Mnist => &MNIST_FILES,
            Self::Cifar10 => &CIFAR10_ARCHIVES,
        }
    }
}

/// The two halves of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// For training.
    Train,
    /// For testing.
    Test,
}

const FASHION_MNIST_MIRRORS: &[&str] = &[
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
];
const FASHION_MNIST_OTHER_WAY: &str = ", or install Debian's package dataset-fashion-mnist";
const MNIST_MIRRORS: &[&str] = &[
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
];
const CIFAR10_MIRRORS: &[&str] = &["https://www.cs.toronto.edu/~kriz/"];

const fn raw_file(
    name: &'static str,
    md5: &'static str,
    mirrors: &'static [&'static str],
    other_way: &'static str,
) -> RawFile {
    RawFile {
        name,
        md5,
        mirrors,
        other_way,
    }
}

/// Images and labels of the training set, images and labels of the test set.
const FASHION_MNIST_FILES: [RawFile; 4] = [
    raw_file(
        "train-images-idx3-ubyte.gz",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        FASHION_MNIST_MIRRORS,
        FASHION_MNIST_OTHER_WAY,
    ),
    raw_file(
        "train-labels-idx1-ubyte.gz",
        "25c81989df183df01b3e8a0aad5dffbe",
        FASHION_MNIST_MIRRORS,
        FASHION_MNIST_OTHER_WAY,
    ),
    raw_file(
        "t10k-images-idx3-ubyte.gz",
        "bef4ecab320f06d8554ea6380940ec79",
        FASHION_MNIST_MIRRORS,
        FASHION_MNIST_OTHER_WAY,
    ),
    raw_file(
        "t10k-labels-idx1-ubyte.gz",
        "bb300cfdad3c16e7a12a480ee83cd310",
        FASHION_MNIST_MIRRORS,
        FASHION_MNIST_OTHER_WAY,
    ),
];
const MNIST_FILES: [RawFile; 4] = [
    raw_file(
        "train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        MNIST_MIRRORS,
        "",
    ),
    raw_file(
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        MNIST_MIRRORS,
        "",
    ),
    raw_file(
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        MNIST_MIRRORS,
        "",
    ),
    raw_file(
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        MNIST_MIRRORS,
        "",
    ),
];
const CIFAR10_ARCHIVES: [RawFile; 1] = [raw_file(
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    CIFAR10_MIRRORS,
    "",
)];

/// What [`build_dataset`] made, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetReport {
    /// The LMDB for training.
    pub train: PathBuf,
    /// The LMDB for testing.
    pub test: PathBuf,
    /// Records for training.
    pub train_records: u64,
    /// Records for testing.
    pub test_records: u64,
    /// CIFAR-10's mean image.
    pub mean: Option<PathBuf>,
    /// Everything was there already; nothing was written.
    pub was_complete: bool,
}

/// Makes `<name>_train_lmdb` and `<name>_test_lmdb` in the folder `dir`, for CIFAR-10 also `mean.binaryproto`.
///
/// The raw files are looked for in `source`, in `dir`, and (Fashion-MNIST) where Debian's package `dataset-fashion-mnist` puts
/// them; what is missing is downloaded into `dir` with curl and checked against its published MD5. What is already made stays.
///
/// # Errors
/// A raw file that is nowhere (with where to fetch it), raw files that break their format, a disk that is full.
pub fn build_dataset(
    kind: DatasetKind,
    dir: &Path,
    source: Option<&Path>,
    progress: &mut dyn FnMut(&str),
) -> Result<DatasetReport, DataError> {
    if let Some(source) = source.filter(|source| !source.is_dir()) {
        fs::metadata(source).map_err(|cause| DataError::io("read", source, cause))?;
        return Err(DataError::SourceIsFile(source.to_path_buf()));
    }
    let is_new = !dir.exists();
    let report = complete_dataset(kind, dir, source, progress);
    if report.is_err() && is_new {
        // It goes only if nothing is in it; downloaded files stay for the next attempt.
        let _ = fs::remove_dir(dir);
    }
    report
}

fn complete_dataset(
    kind: DatasetKind,
    dir: &Path,
    source: Option<&Path>,
    progress: &mut dyn FnMut(&str),
) -> Result<DatasetReport, DataError> {
    let (train, test) = (kind.lmdb(dir, Half::Train), kind.lmdb(dir, Half::Test));
    let mean = (kind == DatasetKind::Cifar10).then(|| dir.join("mean.binaryproto"));
    let is_complete = train.exists() && test.exists() && mean.as_ref().is_none_or(|mean| mean.exists());
    if is_complete {
        progress(&format!("{} and {} are already there", train.display(), test.display()));
    } else {
        fs::create_dir_all(dir).map_err(|cause| DataError::io("make the folder", dir, cause))?;
        let mut halves = [(&train, Half::Train), (&test, Half::Test)]
            .into_iter()
            .filter(|(lmdb, _)| !lmdb.exists())
            .peekable();
        if halves.peek().is_some() {
            let raw = find_raw(kind, dir, source, progress)?;
            for (lmdb, half) in halves {
                let mut reader = raw.open(half)?;
                progress(&format!(
                    "writing {} records to {}",
                    reader.len_records(),
                    lmdb.display()
                ));
                copy_to_lmdb(reader.as_mut(), lmdb)?;
            }
        }
        if let Some(mean) = mean.as_ref().filter(|mean| !mean.exists()) {
            progress(&format!("computing {}", mean.display()));
            compute_mean(&train, Backend::Lmdb, mean)?;
        }
    }
    let train_records = open_source(&train, Backend::Lmdb)?.len_records();
    let test_records = open_source(&test, Backend::Lmdb)?.len_records();
    Ok(DatasetReport {
        train,
        test,
        train_records,
        test_records,
        mean,
        was_complete: is_complete,
    })
}

/// Copies every record of a source into a new LMDB, under the source's keys, and returns how many there were.
///
/// # Errors
/// `lmdb` exists; what the source and the disk say.
pub fn copy_to_lmdb(source: &mut dyn Source, lmdb: &Path) -> Result<u64, DataError> {
    let mut writer = LmdbWriter::create(lmdb)?;
    let mut record = Record::default();
    source.seek(0)?;
    for _ in 0..source.len_records() {
        source.read(&mut record)?;
        let size = |size: usize| Some(size as i32);
        let mut datum = Datum {
            label: Some(record.label),
            ..Datum::default()
        };
        match &record.pixels {
            Pixels::Encoded(data) => {
                datum.encoded = Some(true);
                datum.data = Some(data.clone());
            }
            pixels => {
                [datum.channels, datum.height, datum.width] = [record.channels, record.height, record.width].map(size);
                match pixels {
                    Pixels::Floats(floats) => datum.float_data = floats.clone(),
                    Pixels::Bytes(data) | Pixels::Encoded(data) => datum.data = Some(data.clone()),
                }
            }
        }
        writer.put(&String::from_utf8_lossy(&record.key), &datum)?;
    }
    writer.finish()
}

/// The raw files of a dataset, found or downloaded.
enum Raw {
    /// Images and labels of the training set, images and labels of the test set.
    Idx(Vec<PathBuf>),
    /// The folder with the `.bin` files.
    Cifar10Folder(PathBuf),
    /// The archive of that folder.
    Cifar10Archive(PathBuf),
}

impl Raw {
    fn open(&self, half: Half) -> Result<Box<dyn Source>, DataError> {
        match self {
            Self::Idx(files) => {
                let first = if half == Half::Train { 0 } else { 2 };
                Ok(Box::new(IdxSource::open_pair(&files[first], &files[first + 1])?))
            }
            Self::Cifar10Folder(folder) => {
                let files: Vec<_> = cifar10_files(half).iter().map(|name| folder.join(name)).collect();
                Ok(Box::new(Cifar10Source::open_files(&files)?))
            }
            Self::Cifar10Archive(archive) => {
                let parts = read_cifar10_archive(archive, cifar10_files(half))?;
                Ok(Box::new(Cifar10Source::from_parts(archive, parts)?))
            }
        }
    }
}

fn cifar10_files(half: Half) -> &'static [&'static str] {
    if half == Half::Train {
        &CIFAR10_FILES[..5]
    } else {
        &CIFAR10_FILES[5..]
    }
}

fn find_raw(
    kind: DatasetKind,
    dir: &Path,
    source: Option<&Path>,
    progress: &mut dyn FnMut(&str),
) -> Result<Raw, DataError> {
    let mut folders: Vec<PathBuf> = source
        .map(Path::to_path_buf)
        .into_iter()
        .chain([dir.to_path_buf()])
        .collect();
    if kind == DatasetKind::FashionMnist {
        folders.push(PathBuf::from(DEBIAN_FASHION_MNIST));
    }
    if kind == DatasetKind::Cifar10 {
        let with_archive_folder = folders
            .iter()
            .flat_map(|folder| [folder.clone(), folder.join(CIFAR10_ARCHIVE_FOLDER)]);
        let mut complete =
            with_archive_folder.filter(|folder| CIFAR10_FILES.iter().all(|name| folder.join(name).is_file()));
        if let Some(folder) = complete.next() {
            progress(&format!("reading {}", folder.display()));
            return Ok(Raw::Cifar10Folder(folder));
        }
    }
    // All files come from one folder, so that nobody mixes MNIST's images with Fashion-MNIST's labels.
    let raw_files = kind.raw_files();
    let find = |folder: &PathBuf| {
        raw_files
            .iter()
            .map(|raw| find_file(folder, raw.name))
            .collect::<Option<Vec<_>>>()
    };
    let files = match folders.iter().find_map(find) {
        Some(files) => files,
        None => raw_files
            .iter()
            .map(|raw| fetch(raw, dir, progress))
            .collect::<Result<_, _>>()?,
    };
    progress(&format!("reading {}", files[0].parent().unwrap_or(dir).display()));
    Ok(match kind {
        DatasetKind::Cifar10 => Raw::Cifar10Archive(files[0].clone()),
        DatasetKind::FashionMnist | DatasetKind::Mnist => Raw::Idx(files),
    })
}

/// A raw file as it is published, or unpacked.
fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let names = [name, name.strip_suffix(".gz").unwrap_or(name)];
    names.iter().map(|name| folder.join(name)).find(|file| file.is_file())
}

/// Some files of CIFAR-10's archive, in the order of `names`.
fn read_cifar10_archive(path: &Path, names: &[&str]) -> Result<Vec<Vec<u8>>, DataError> {
    let unreadable = |cause: std::io::Error| DataError::corrupt(path, format!("it cannot be unpacked ({cause})"));
    let file = File::open(path).map_err(|cause| DataError::io("read", path, cause))?;
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut parts: Vec<Option<Vec<u8>>> = vec![None; names.len()];
    for entry in tar::Archive::new(reader).entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry
            .path()
            .map_err(unreadable)?
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let place = names.iter().position(|&wanted| Some(wanted) == name.as_deref());
        if let Some(place) = place {
            let mut bytes = Vec::new();
            entry
                .take(MAX_CIFAR10_FILE_BYTES)
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
            parts[place] = Some(bytes);
        }
    }
    let missing = |name: &str| DataError::corrupt(path, format!("it has no {name}"));
    parts
        .into_iter()
        .zip(names)
        .map(|(part, name)| part.ok_or_else(|| missing(name)))
        .collect()
}
