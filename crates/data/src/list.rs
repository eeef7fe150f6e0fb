//! Lists of images: a path, a space and a label a line, as Caffe's `convert_imageset` and its ImageData layer read them.

use std::fs;
use std::path::Path;

use crate::DataError;

/// How much of a bad line is shown: a file that is no list may be one line of gigabytes.
const MAX_SHOWN_CHARS: usize = 100;

/// A line of a list.
pub(crate) struct Line {
    /// Counted from 1.
    pub number: usize,
    /// May contain spaces.
    pub path: String,
    pub label: i32,
}

impl Line {
    /// The error for this line of `list`.
    pub fn error(&self, list: &Path, detail: String) -> DataError {
        DataError::BadListLine {
            list: list.to_path_buf(),
            line: self.number,
            detail,
        }
    }
}

/// Reads a list; empty lines do not count.
///
/// # Errors
/// A file that cannot be read or is no text, a line without a label, no line at all.
pub(crate) fn read_list(list: &Path) -> Result<Vec<Line>, DataError> {
    let text = read_text(list)?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        let parsed = line.rsplit_once(char::is_whitespace).and_then(|(path, label)| {
            let path = path.trim_end().to_string();
            Some(Line {
                number: index + 1,
                path,
                label: label.parse().ok()?,
            })
        });
        match parsed {
            Some(line) if !line.path.is_empty() => lines.push(line),
            _ => {
                let shown: String = line.chars().take(MAX_SHOWN_CHARS).collect();
                let detail = format!(
                    "`{}` is not a path, a space and a label that is a whole number",
                    shown.escape_debug()
                );
                return Err(DataError::BadListLine {
                    list: list.to_path_buf(),
                    line: index + 1,
                    detail,
                });
            }
        }
    }
    if lines.is_empty() {
        return Err(DataError::Empty(list.to_path_buf()));
    }
    Ok(lines)
}

/// A list's text.
fn read_text(list: &Path) -> Result<String, DataError> {
    let bytes = fs::read(list).map_err(|cause| DataError::io("read", list, cause))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        DataError::BadListLine {
            list: list.to_path_buf(),
            line: valid.iter().filter(|byte| **byte == b'\n').count() + 1,
            detail: "not UTF-8 text: give a text file with a path and a label a line".to_string(),
        }
    })
}
