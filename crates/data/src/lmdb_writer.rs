//! Writing LMDBs, through the C library: whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags};
use prost::Message;
use sparknet_proto::caffe::Datum;

use crate::DataError;
use crate::unfinished::Unfinished;

/// The map's first size; a multiple of every page size. It doubles whenever it is full.
const FIRST_MAP_BYTES: usize = 1 << 24;
/// A transaction ends after so many records, as in Caffe's converters, or so many bytes.
const TRANSACTION_RECORDS: usize = 1000;
const TRANSACTION_BYTES: usize = 1 << 26;
/// More than a transaction writes at once before the disk is full.
const PROBE_BYTES: usize = 1 << 20;
/// Caffe's converters cut keys to this length.
const MAX_KEY_BYTES: usize = 255;

/// Writes an LMDB into a temporary folder beside its target; [`Self::finish`] renames it. A writer that is dropped before
/// removes what it wrote.
pub struct LmdbWriter {
    target: PathBuf,
    temporary: Unfinished,
    /// Present until the LMDB is finished.
    env: Option<Env>,
    map_bytes: usize,
    /// Records of the next transaction: kept so that it can start again with a larger map.
    pending: Vec<(Vec<u8>, Vec<u8>)>,
    pending_bytes: usize,
    records: u64,
}

impl LmdbWriter {
    /// Starts an LMDB that will be the folder `target`.
    ///
    /// # Errors
    /// `target` exists, or a folder beside it cannot be made.
    pub fn create(target: &Path) -> Result<Self, DataError> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(DataError::Exists(target.to_path_buf()));
        }
        let temporary = Unfinished::beside(target);
        let folder = temporary.path();
        fs::create_dir_all(folder).map_err(|cause| DataError::io("make the folder", folder, cause))?;
        let mut options = EnvOpenOptions::new();
        options.map_size(FIRST_MAP_BYTES);
        // SAFETY: nobody else knows of the folder, so nobody has to be locked out. With a lock file, which is mapped and
        // written to, a full disk would end the process by SIGBUS.
        unsafe { options.flags(EnvFlags::NO_LOCK) };
        // SAFETY: the mapped file lies in a folder that was made above under a name of its own, so nobody else changes it
        // while it is mapped.
        let env = unsafe { options.open(folder) }.map_err(|cause| write_error(target, folder, &cause))?;
        Ok(Self {
            target: target.to_path_buf(),
            temporary,
            env: Some(env),
            map_bytes: FIRST_MAP_BYTES,
            pending: Vec::new(),
            pending_bytes: 0,
            records: 0,
        })
    }

    /// Appends a record. Keys must grow from one record to the next.
    pub fn put(&mut self, key: &str, datum: &Datum) -> Result<(), DataError> {
        let mut key = key.as_bytes().to_vec();
        key.truncate(MAX_KEY_BYTES);
        let value = datum.encode_to_vec();
        self.pending_bytes += key.len() + value.len();
        self.pending.push((key, value));
        self.records += 1;
        if self.pending.len() >= TRANSACTION_RECORDS || self.pending_bytes >= TRANSACTION_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Writes what is pending, puts the LMDB in its place and returns how many records it has.
    pub fn finish(mut self) -> Result<u64, DataError> {
        self.commit()?;
        if let Some(env) = self.env.take() {
            env.prepare_for_closing().wait();
        }
        if fs::symlink_metadata(&self.target).is_ok() {
            return Err(DataError::Exists(self.target.clone()));
        }
        let sync = |folder: &Path| File::open(folder).and_then(|folder| folder.sync_all());
        let parent = self
            .target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder = self.temporary.path();
        sync(folder)
            .and_then(|()| fs::rename(folder, &self.target))
            .and_then(|()| sync(parent))
            .map_err(|cause| DataError::io("write", &self.target, cause))?;
        Ok(self.records)
    }

    fn commit(&mut self) -> Result<(), DataError> {
        let Some(env) = &self.env else { return Ok(()) };
        loop {
            let result = match env.write_txn() {
                Ok(transaction) => env.create_databases_and_commit(transaction, |opener, transaction| {
                    let database = opener.create_database::<Bytes, Bytes>(transaction, None)?;
                    for (key, value) in &self.pending {
                        database.put_with_flags(transaction, PutFlags::APPEND, key, value)?;
                    }
                    Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(database))
                }),
                Err(cause) => Err(cause),
            };
            let cause = match result {
                Ok(_) => break,
                Err(heed::Error::Mdb(MdbError::MapFull)) => {
                    self.map_bytes = self.map_bytes.saturating_mul(2);
                    // SAFETY: the failed transaction ended with the call above, and this writer starts no other at the same time.
                    match unsafe { env.resize(self.map_bytes) } {
                        Ok(()) => continue,
                        Err(cause) => cause,
                    }
                }
                Err(cause) => cause,
            };
            return Err(write_error(&self.target, self.temporary.path(), &cause));
        }
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }
}

impl Drop for LmdbWriter {
    fn drop(&mut self) {
        if let Some(env) = self.env.take() {
            env.prepare_for_closing().wait();
        }
    }
}

/// What the library says, or what it does not: for a full disk it has no more than "input/output error".
fn write_error(target: &Path, folder: &Path, cause: &heed::Error) -> DataError {
    let probe = folder.join("probe");
    let disk = fs::write(&probe, vec![0; PROBE_BYTES]);
    let _ = fs::remove_file(&probe);
    let cause = match (cause, disk) {
        (heed::Error::Io(_), Err(disk)) if disk.kind() != io::ErrorKind::NotFound => disk.to_string(),
        _ => cause.to_string(),
    };
    DataError::LmdbWrite {
        path: target.to_path_buf(),
        cause,
    }
}
