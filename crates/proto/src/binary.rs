//! Protobuf's binary form: `.caffemodel`, `.solverstate`, `.binaryproto` and the `Datum`s of a database.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use prost::Name;

use crate::Error;

/// The largest message that protobuf reads anywhere, 2 GiB - 1.
pub const LIMIT_BYTES: u64 = i32::MAX as u64;

/// Reads a whole message from a file.
///
/// # Errors
/// The file is missing, a folder, empty, larger than [`LIMIT_BYTES`], cut short, or no such message.
pub fn read_file<M: Name + Default>(path: &Path) -> Result<M, Error> {
    let bytes = read_bytes(path)?;
    let what = path.display().to_string();
    if bytes.is_empty() {
        return Err(not_whole::<M>(
            &what,
            "the file is empty: write or download it again".to_owned(),
        ));
    }
    decode(&bytes, &what)
}

/// Reads a whole message from bytes; `what` names them in the error.
///
/// # Errors
/// The bytes are more than [`LIMIT_BYTES`], cut short, or no such message (no field of it is among them).
pub fn decode<M: Name + Default>(bytes: &[u8], what: &str) -> Result<M, Error> {
    check_size(what, bytes.len() as u64)?;
    let reason = match M::decode(bytes) {
        // Protobuf skips fields that it does not know, so that much garbage is an empty message to it.
        Ok(message) if message.encoded_len() > 0 || bytes.is_empty() => return Ok(message),
        Ok(_) => "none of its fields is there: it is of another kind".to_owned(),
        Err(error) => match cut_short(bytes) {
            Some(missing_bytes) => format!("{missing_bytes} bytes are missing at its end: write or download it again"),
            None => format!("{error}: it is damaged or of another kind"),
        },
    };
    let reason = other_format(bytes).map_or(reason, |format| format!("it is {format}"));
    Err(not_whole::<M>(what, reason))
}

/// Writes a message to a file, whole or not at all.
///
/// # Errors
/// The message is larger than [`LIMIT_BYTES`], or as [`write_bytes_whole`].
pub fn write_file<M: Name>(path: &Path, message: &M) -> Result<(), Error> {
    check_size(&path.display().to_string(), message.encoded_len() as u64)?;
    write_bytes_whole(path, &message.encode_to_vec())
}

/// Writes a file, whole or not at all: to a temporary file beside it, which takes the file's name once it is on disk.
/// A symbolic link stays, the file it leads to is replaced. Temporary files of this name whose writer was killed go.
///
/// # Errors
/// The folder is missing or may not be written, the disk is full, or the path is no regular file; the file that stood
/// there is then as it was.
pub fn write_bytes_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_whole_with(path, |file| file.write_all(bytes))
}

/// [`write_bytes_whole`] of what `write` writes, for files that are not all in memory; it is called once.
///
/// # Errors
/// As [`write_bytes_whole`], and what `write` says.
pub fn write_whole_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    write_whole(path, write).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Checks, before any work is done for it, that [`write_file`] can write `path`: there is a folder for it, which may be
/// written, and its name is one that the file system takes.
///
/// # Errors
/// As [`write_bytes_whole`]. Nothing is left behind.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let check = || {
        let (temporary, _) = temporary_beside(&target_of(path)?)?;
        create(&temporary, |_| Ok(())).and_then(|_| fs::remove_file(&temporary))
    };
    check().map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = target_of(path)?;
    let (temporary, folder) = temporary_beside(&path)?;
    // The file stays open, and locked, until it has its name.
    let written = create(&temporary, write).and_then(|_file| fs::rename(&temporary, &path));
    if let Err(error) = written {
        // The first error is the one to tell; a file that cannot be removed either stays behind.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The new name is on disk only when the folder is.
    File::open(&folder)?.sync_all()?;
    remove_abandoned(&path, &folder);
    Ok(())
}

/// The file that `path` leads to.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let path = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path)?,
        _ => path.to_owned(),
    };
    if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is a folder or a device: name a file"));
    }
    Ok(path)
}

/// A new file for what will be `path`, and the folder of both.
fn temporary_beside(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    Ok((folder.join(temporary_name(name)), folder))
}

fn create(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // Tells `remove_abandoned` that somebody writes; where a file system has no locks, nothing is abandoned.
    let _ = file.try_lock();
    write(&mut file)?;
    file.sync_all()?;
    Ok(file)
}

/// Removes what killed writers of `path` left: a run that is killed and resumed many times would fill the disk with it.
fn remove_abandoned(path: &Path, folder: &Path) {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return;
    };
    let is_ours = |found: &str| {
        let numbers = found.strip_prefix('.').and_then(|rest| rest.strip_prefix(name));
        let numbers = numbers.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp")?.split_once('-'));
        numbers.is_some_and(|(process, write)| process.parse::<u32>().is_ok() && write.parse::<u64>().is_ok())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_ours)
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Unlike any other writer's, in this process or another; it starts with a dot so that `*.caffemodel` passes it by.
fn temporary_name(name: &OsStr) -> OsString {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        ".{}-{}.tmp",
        process::id(),
        WRITES.fetch_add(1, Ordering::Relaxed)
    ));
    temporary
}

/// All of a file, as long as it is not too large.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let what = path.display().to_string();
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(read_error)?;
    if metadata.is_dir() {
        return Err(read_error(io::Error::other("it is a folder: name a file")));
    }
    check_size(&what, metadata.len())?;
    let mut bytes = Vec::new();
    // A pipe or a device does not tell its size beforehand.
    File::open(path)
        .and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(read_error)?;
    check_size(&what, bytes.len() as u64)?;
    Ok(bytes)
}

fn check_size(what: &str, size_bytes: u64) -> Result<(), Error> {
    if size_bytes > LIMIT_BYTES {
        return Err(Error::TooLarge {
            what: what.to_owned(),
            size_bytes,
            limit_bytes: LIMIT_BYTES,
        });
    }
    Ok(())
}

fn not_whole<M: Name>(what: &str, reason: String) -> Error {
    Error::Binary {
        what: what.to_owned(),
        message: M::NAME.to_owned(),
        reason,
    }
}

/// What the bytes are instead, where that can be told.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    const LOOKED_AT: usize = 4096;
    let head = &bytes[..bytes.len().min(LOOKED_AT)];
    let is_text = match std::str::from_utf8(head) {
        Ok(text) => !text.is_empty() && !text.contains(|c: char| c.is_control() && !c.is_whitespace()),
        // The cut may go through a character.
        Err(error) => error.error_len().is_none() && error.valid_up_to() > 0 && !head.contains(&0),
    };
    if bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
        Some("an HDF5 file: give one in binary protobuf")
    } else if is_text {
        Some("a text file: name the binary one")
    } else {
        None
    }
}

/// How many bytes the last field lacks, if all fields before it are whole; `None` if the bytes go wrong otherwise.
fn cut_short(bytes: &[u8]) -> Option<u64> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let mut rest = bytes;
    while !rest.is_empty() {
        let (_, wire_type) = decode_key(&mut rest).ok()?;
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut rest).map(|_| 0).ok()?,
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => decode_varint(&mut rest).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        // More than a message can have is damage, not a cut.
        if length > LIMIT_BYTES {
            return None;
        }
        match rest.get(length as usize..) {
            Some(after) => rest = after,
            None => return Some(length - rest.len() as u64),
        }
    }
    None
}
