//! Protobuf's binary form: `.caffemodel`, `.solverstate`, `.binaryproto` and the `Datum`s of a database.

use std::{
    ffi::OsString,
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
/// The bytes are more than [`LIMIT_BYTES`], cut short, or no such message.
pub fn decode<M: Name + Default>(bytes: &[u8], what: &str) -> Result<M, Error> {
    check_size(what, bytes.len() as u64)?;
    M::decode(bytes).map_err(|error| {
        let reason = match (other_format(bytes), cut_short(bytes)) {
            (Some(format), _) => format!("it is {format}"),
            (None, Some(missing_bytes)) => {
                format!("{missing_bytes} bytes are missing at its end: write or download it again")
            }
            (None, None) => format!("{error}: it is damaged or of another kind"),
        };
        not_whole::<M>(what, reason)
    })
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
/// A symbolic link stays, the file it leads to is replaced.
///
/// # Errors
/// The folder is missing or may not be written, the disk is full, or the path is no regular file; the file that stood
/// there is then as it was.
pub fn write_bytes_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_whole(path, bytes).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path)?,
        _ => path.to_owned(),
    };
    if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is a folder or a device: name a file"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let temporary = folder.join(temporary_name(name));
    let written = create(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        // The first error is the one to tell; a file that cannot be removed either stays behind.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The new name is on disk only when the folder is.
    File::open(&folder)?.sync_all()
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Unlike any other writer's, in this process or another; it starts with a dot so that `*.caffemodel` passes it by.
fn temporary_name(name: &std::ffi::OsStr) -> OsString {
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
    let is_text_byte = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
        Some("an HDF5 file: snapshot with snapshot_format BINARYPROTO")
    } else if !head.is_empty() && head.iter().all(is_text_byte) {
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
