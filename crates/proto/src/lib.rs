//! Caffe's messages: the schema, its text form (`.prototxt`), its binary form (`.caffemodel`, `Datum`) and the
//! upgrades of legacy files.

/// The structs that `proto/caffe.proto` stands for, one a message, with Caffe's field names and defaults.
#[allow(missing_docs, clippy::all)]
pub mod caffe {
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}
