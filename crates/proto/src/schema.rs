//! The descriptors of `proto/caffe.proto`, which the text form is read and printed with.

use std::sync::LazyLock;

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/caffe.descriptors")).as_slice())
        .expect("build.rs writes valid descriptors")
});

/// The descriptor of a generated struct.
pub(crate) fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name())
        .expect("struct and descriptor come from the same file")
}

/// The message as fields that can be walked.
pub(crate) fn to_dynamic<M: Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .expect("struct and descriptor come from the same file");
    dynamic
}
