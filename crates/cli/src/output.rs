//! Where commands write: stdout, stderr and files.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::Path,
};

use serde::Serialize;
use sparknet_proto::binary;
use sparknet_train::Error;

/// Prints a text and a newline. A reader that has seen enough and closed its end of a pipe is no error.
///
/// # Errors
/// Stdout cannot be written to, as when it is a file on a full disk.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Usage(format!("cannot write to stdout: {cause}")))
        }
        _ => Ok(()),
    }
}

/// Prints a line on stderr; where that is closed there is nobody left to tell.
pub fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Shows a passing state in the terminal's last line, over the one before; nowhere else.
pub fn show_state(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // ESC [K clears what is left of a longer state.
        let _ = write!(stderr, "\r{text}\x1b[K").and_then(|()| stderr.flush());
    }
}

/// Checks, before any work is done for it, that a file may become `path`.
///
/// # Errors
/// `path` is a folder, or its folder does not exist.
pub fn check_file(path: &Path) -> Result<(), Error> {
    let error = |fact: &str| {
        Err(Error::Path {
            path: path.to_owned(),
            fact: fact.to_owned(),
        })
    };
    if path.is_dir() {
        return error("this is a folder: name a file to write");
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            error("its folder does not exist: create it, or name another file")
        }
        _ => Ok(()),
    }
}

/// Checks that nothing of what a command reads, and no other output, is lost by writing `outputs`.
///
/// # Errors
/// An output that is one of `inputs`, or another output.
pub fn check_apart<'a>(outputs: &[&'a Path], inputs: &[&'a Path]) -> Result<(), Error> {
    // A file that is not there yet has no other name that anyone could know it by.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut seen: Vec<_> = inputs.iter().map(|path| real(path)).collect();
    for output in outputs {
        let path = real(output);
        // Many may write to one terminal.
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            continue;
        }
        if let Some(place) = seen.iter().position(|other| *other == path) {
            return Err(Error::Path {
                path: output.to_path_buf(),
                fact: if place < inputs.len() {
                    "the command reads this file: name another one to write".to_owned()
                } else {
                    "two outputs have this name: name a file for each".to_owned()
                },
            });
        }
        seen.push(path);
    }
    Ok(())
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    check_file(path)?;
    // A device or a pipe, such as /dev/stdout, cannot be replaced.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return fs::write(path, text).map_err(|cause| Error::Path {
            path: path.to_owned(),
            fact: format!("cannot be written: {cause}"),
        });
    }
    Ok(binary::write_bytes_whole(path, text.as_bytes())?)
}

/// A value as indented JSON; numbers that are none become null.
///
/// # Errors
/// None for the values of this crate.
pub fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|cause| Error::Usage(format!("no JSON: {cause}")))
}
