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

/// The descriptor of a message by its name in the file.
pub(crate) fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(&format!("caffe.{name}"))
}

/// The message as fields that can be walked.
pub(crate) fn to_dynamic<M: Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .expect("struct and descriptor come from the same file");
    dynamic
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind};

    use super::*;

    /// `caffe.LayerParameter` → `LayerParameter`
    fn without_package(full_name: &str) -> &str {
        full_name.trim_start_matches("caffe.")
    }

    fn describe_field(field: &FieldDescriptor) -> String {
        let cardinality = match field.cardinality() {
            Cardinality::Optional => "optional",
            Cardinality::Required => "required",
            Cardinality::Repeated => "repeated",
        };
        let kind = match field.kind() {
            Kind::Message(message) => message.name().to_owned(),
            Kind::Enum(values) => values.name().to_owned(),
            other => format!("{other:?}"),
        };
        format!("{} {cardinality} {kind}", field.number())
    }

    fn describe_enum(values: &EnumDescriptor, facts: &mut BTreeMap<String, (String, String)>) {
        for value in values.values() {
            // protobuf's full name of a value leaves out its enum.
            let name = format!("{}.{}", without_package(values.full_name()), value.name());
            facts.insert(name, (value.number().to_string(), "-".to_owned()));
        }
    }

    /// `tests/schema.txt` was made from Caffe's own schema, CaffeOnSpark's extensions and ours.
    #[test]
    fn schema_is_that_of_caffe() {
        let mut facts = BTreeMap::new();
        POOL.all_enums().for_each(|values| describe_enum(&values, &mut facts));
        for field in POOL.all_messages().flat_map(|m| m.fields().collect::<Vec<_>>()) {
            let default = match field.field_descriptor_proto().default_value.as_deref() {
                None => "-",
                Some("") => "\"\"",
                Some(text) => text,
            };
            let name = without_package(field.full_name()).to_owned();
            facts.insert(name, (describe_field(&field), default.to_owned()));
        }
        let mut seen = 0;
        for line in include_str!("../tests/schema.txt").lines() {
            let (name, expected) = line.split_once(' ').unwrap();
            let (fact, default) = facts.get(name).unwrap_or_else(|| panic!("{name} is missing"));
            let number = |text: &str| text.parse::<f64>().ok();
            let (expected, expected_default) = match expected.rsplit_once(' ') {
                Some((expected, default)) => (expected, default),
                None => (expected, "-"),
            };
            assert_eq!(fact, expected, "{name}");
            let same =
                default == expected_default || number(default).is_some_and(|d| Some(d) == number(expected_default));
            assert!(same, "{name}: default {default}, expected {expected_default}");
            seen += 1;
        }
        assert_eq!(seen, facts.len(), "caffe.proto has what tests/schema.txt does not list");
    }

    #[test]
    fn packed_fields_are_those_of_caffe() {
        let fields = POOL.all_messages().flat_map(|m| m.fields().collect::<Vec<_>>());
        let packed: BTreeSet<String> = fields
            .filter(FieldDescriptor::is_packed)
            .map(|f| without_package(f.full_name()).to_owned())
            .collect();
        let expected = ["data", "diff", "double_data", "double_diff"].map(|name| format!("BlobProto.{name}"));
        let expected: BTreeSet<String> = expected.into_iter().chain(["BlobShape.dim".to_owned()]).collect();
        assert_eq!(packed, expected);
    }

    /// The text reader and the printer call themselves once a level and rely on this.
    #[test]
    fn no_message_holds_itself() {
        fn walk(message: &MessageDescriptor, holders: &mut Vec<String>) {
            assert!(
                !holders.contains(&message.full_name().to_owned()),
                "{holders:?} → {}",
                message.name()
            );
            holders.push(message.full_name().to_owned());
            for field in message.fields() {
                if let Kind::Message(inner) = field.kind() {
                    walk(&inner, holders);
                }
            }
            holders.pop();
        }
        POOL.all_messages().for_each(|message| walk(&message, &mut Vec::new()));
    }
}
