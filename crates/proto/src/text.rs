//! Caffe's text form (`.prototxt`): what protobuf's `TextFormat` reads and prints, with errors that show the place.
//!
//! `prost-reflect` has a reader of its own, but its errors keep their position to themselves.

use std::{fmt, path::Path};

use prost::Name;

use crate::{Error, binary, lexer::Mistake, parser, printer, schema};

/// A mistake in a text file: `file:line:column: ` and the fact, the line itself, carets under the mistake, and what
/// was expected.
#[derive(Debug, Clone, PartialEq)]
pub struct TextError(Box<Place>);

#[derive(Debug, Clone, PartialEq)]
struct Place {
    file: String,
    line: usize,
    column: usize,
    fact: String,
    source: String,
    carets: String,
    expected: String,
}

impl TextError {
    /// The line of the mistake, from 1.
    pub fn line(&self) -> usize {
        self.0.line
    }

    /// The character of the line where the mistake begins, from 1.
    pub fn column(&self) -> usize {
        self.0.column
    }

    pub(crate) fn new(file: &str, text: &str, mistake: Mistake) -> Self {
        /// Characters shown before and after the mistake, so that a weight file's line does not fill the terminal.
        const AROUND: usize = 80;
        let start = mistake.span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].split('\n').next().unwrap_or_default();
        let before = text[line_start..start].chars().count();
        let length = text[start..mistake.span.end].split('\n').next().unwrap_or_default();
        let cut = before.saturating_sub(AROUND);
        let shown: String = line
            .trim_end()
            .chars()
            .skip(cut)
            .take(2 * AROUND)
            .map(|c| if c == '\t' { ' ' } else { c })
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        let width = length.chars().count().clamp(1, AROUND);
        TextError(Box::new(Place {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            fact: mistake.fact,
            source: shown,
            carets: format!("{}{}", " ".repeat(before - cut), "^".repeat(width)),
            expected: mistake.expected,
        }))
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.0;
        writeln!(f, "{}:{}:{}: {}", place.file, place.line, place.column, place.fact)?;
        writeln!(f, "    {}", place.source)?;
        write!(f, "    {} {}", place.carets, place.expected)
    }
}

impl std::error::Error for TextError {}

/// Reads a message from its text form; `file` is only for messages.
///
/// # Errors
/// The first mistake: in the syntax, an unknown field or value, a value that does not fit its field, a field given
/// twice that may be given once, or a required field that is missing.
pub fn parse<M: Name + Default>(file: &str, text: &str) -> Result<M, TextError> {
    let read = || {
        parser::parse(schema::descriptor::<M>(), text)?
            .transcode_to::<M>()
            .map_err(|error| Mistake::new(0..0, error.to_string(), ""))
    };
    read().map_err(|mistake| TextError::new(file, text, mistake))
}

/// Reads fields into a message that may have some already, as protobuf's `MergeFromString`: values replace, lists grow,
/// and messages are merged.
///
/// # Errors
/// As [`parse`]; the message is then as it was.
pub fn merge<M: Name + Default>(message: &mut M, file: &str, text: &str) -> Result<(), TextError> {
    let part: M = parse(file, text)?;
    message
        .merge(part.encode_to_vec().as_slice())
        .map_err(|error| TextError::new(file, text, Mistake::new(0..0, error.to_string(), "")))
}

/// Prints a message as protobuf's `DebugString` does: two spaces of indent, fields by number, enums by name, and of
/// every float the shortest form that reads back as the same number.
pub fn print<M: Name>(message: &M) -> String {
    printer::print(&schema::to_dynamic(message))
}

/// Reads a message from a text file, not upgraded.
///
/// # Errors
/// The file cannot be read, is no text, or has a mistake.
pub fn read_file<M: Name + Default>(path: &Path) -> Result<M, Error> {
    let bytes = binary::read_bytes(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| Error::NotText {
        path: path.to_owned(),
        line: bytes[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1,
    })?;
    Ok(parse(&path.display().to_string(), text)?)
}
