//! Prints a message as protobuf's `DebugString` does.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

pub(crate) fn print(message: &DynamicMessage) -> String {
    let mut out = String::new();
    print_fields(message, 0, &mut out);
    out
}

fn print_fields(message: &DynamicMessage, depth: usize, out: &mut String) {
    let mut fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in fields.iter().filter(|field| message.has_field(field)) {
        let value = message.get_field(field);
        match value.as_list() {
            Some(values) => values.iter().for_each(|value| print_field(field, value, depth, out)),
            None => print_field(field, &value, depth, out),
        }
    }
}

fn print_field(field: &FieldDescriptor, value: &Value, depth: usize, out: &mut String) {
    let indent = 2 * depth;
    out.push_str(&" ".repeat(indent));
    out.push_str(field.name());
    if let Value::Message(message) = value {
        out.push_str(" {\n");
        print_fields(message, depth + 1, out);
        out.push_str(&" ".repeat(indent));
        out.push_str("}\n");
        return;
    }
    out.push_str(": ");
    match (value, field.kind()) {
        (Value::EnumNumber(number), Kind::Enum(descriptor)) => match descriptor.get_value(*number) {
            Some(value) => out.push_str(value.name()),
            None => out.push_str(&number.to_string()),
        },
        (Value::String(text), _) => print_quoted(text.as_bytes(), true, out),
        (Value::Bytes(bytes), _) => print_quoted(bytes, false, out),
        (Value::F32(value), _) => out.push_str(&shortest(&format!("{value:e}"), 6, 9)),
        (Value::F64(value), _) => out.push_str(&shortest(&format!("{value:e}"), 15, 17)),
        (Value::Bool(value), _) => out.push_str(if *value { "true" } else { "false" }),
        (Value::I32(value), _) => out.push_str(&value.to_string()),
        (Value::I64(value), _) => out.push_str(&value.to_string()),
        (Value::U32(value), _) => out.push_str(&value.to_string()),
        (Value::U64(value), _) => out.push_str(&value.to_string()),
        // Caffe's schema has neither maps nor fields of other kinds.
        _ => {}
    }
    out.push('\n');
}

/// Puts Rust's shortest form that reads back (`1.5e-5`) the way C's `%g` writes it (`1.5e-05`): with an exponent where
/// that is below -4 or takes more digits than `few`, or than `all` where the number has more digits than `few`.
fn shortest(scientific: &str, few: i32, all: i32) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific.to_ascii_lowercase(); // inf, -inf, NaN
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let digits = mantissa.replace('.', "");
    let count = digits.len() as i32;
    if exponent < -4 || exponent >= if count > few { all } else { few } {
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{exponent_sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    if exponent >= count - 1 {
        return format!("{sign}{digits}{}", "0".repeat((exponent + 1 - count) as usize));
    }
    let (whole, fraction) = digits.split_at(exponent as usize + 1);
    format!("{sign}{whole}.{fraction}")
}

/// Text keeps its characters beyond ASCII, bytes do not.
fn print_quoted(bytes: &[u8], is_text: bool, out: &mut String) {
    out.push('"');
    let mut run_start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'"' => "\\\"".to_owned(),
            b'\'' => "\\'".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x20..=0x7e => continue,
            0x80.. if is_text => continue,
            _ => format!("\\{byte:03o}"),
        };
        out.push_str(&String::from_utf8_lossy(&bytes[run_start..at]));
        out.push_str(&escape);
        run_start = at + 1;
    }
    out.push_str(&String::from_utf8_lossy(&bytes[run_start..]));
    out.push('"');
}
