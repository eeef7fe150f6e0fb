//! Messages whose type is only known when the program runs, for languages that build them field by field.

pub use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

use prost::{Message, Name};

use crate::{parser, printer, schema, text::TextError};

/// The schema of a message by its name in `caffe.proto`, such as `LayerParameter`.
pub fn message(name: &str) -> Option<MessageDescriptor> {
    schema::message(name)
}

/// As [`crate::text::print`].
pub fn print(message: &DynamicMessage) -> String {
    printer::print(message)
}

/// As [`crate::text::parse`].
///
/// # Errors
/// The first mistake.
pub fn parse(descriptor: MessageDescriptor, file: &str, text: &str) -> Result<DynamicMessage, TextError> {
    parser::parse(descriptor, text).map_err(|mistake| TextError::new(file, text, mistake))
}

/// The message as one of the schema's structs; `None` if it is of another type.
pub fn to_struct<M: Name + Default>(message: &DynamicMessage) -> Option<M> {
    (message.descriptor() == schema::descriptor::<M>()).then(|| message.transcode_to().ok())?
}

/// Of `names` the one that `written` was probably meant to be.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    parser::nearest(written, names)
}

/// The binary form.
pub fn encode(message: &DynamicMessage) -> Vec<u8> {
    message.encode_to_vec()
}
