//! NumPy's `.npy` files: one array, as pycaffe's users keep mean images.
//!
//! The format (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a magic string, a version, the
//! length of the header, the header (a Python dict with the values' type, order and shape) and the values.

/// What every such file begins with.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// The array's shape, and its values in C's order.
///
/// # Errors
/// What is wrong with the file, and the way out.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
    const REMEDY: &str = "save it again with numpy.save";
    let damaged = |what: &str| format!("it is no whole .npy file ({what}): {REMEDY}");
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("its first bytes are others"))?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(|| damaged("it ends early"))?;
    let length_bytes = match version[0] {
        1 => 2,
        2 | 3 => 4,
        other => return Err(format!("it is of version {other} of the .npy format: {REMEDY}")),
    };
    let (length, rest) = rest
        .split_at_checked(length_bytes)
        .ok_or_else(|| damaged("it ends early"))?;
    let length = length
        .iter()
        .rev()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (header, values) = rest.split_at_checked(length).ok_or_else(|| damaged("it ends early"))?;
    let header = String::from_utf8_lossy(header);
    let field = |name: &str| {
        let (_, value) = header.split_once(&format!("'{name}':"))?;
        Some(value.trim_start())
    };
    let (Some(descr), Some(order), Some(shape)) = (field("descr"), field("fortran_order"), field("shape")) else {
        return Err(damaged("its header lacks a field"));
    };
    if order.starts_with("True") {
        return Err("its values are in Fortran's order: save numpy.ascontiguousarray of it".to_owned());
    }
    let shape = shape.strip_prefix('(').and_then(|shape| shape.split_once(')'));
    let shape: Option<Vec<usize>> = shape.and_then(|(shape, _)| {
        let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        sizes.map(|size| size.parse().ok()).collect()
    });
    let shape = shape.ok_or_else(|| damaged("its shape is none"))?;
    let count = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
    let descr = descr.trim_start_matches(['\'', '"']);
    let descr = descr.split(['\'', '"']).next().unwrap_or_default();
    let values: Vec<f32> = match descr {
        "<f4" => values
            .as_chunks()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect(),
        "<f8" => values
            .as_chunks()
            .0
            .iter()
            .map(|value| f64::from_le_bytes(*value) as f32)
            .collect(),
        "|u1" => values.iter().map(|value| f32::from(*value)).collect(),
        other => return Err(format!("its values are of the type {other}: save it as float32")),
    };
    if count != Some(values.len()) {
        return Err(damaged("it has another number of values than its shape says"));
    }
    Ok((shape, values))
}
