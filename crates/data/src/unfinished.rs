//! Temporary files and folders that become an output when they are whole.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// What this process has begun and not finished.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The path of something unfinished beside its target, which is removed when this is dropped: rename it before.
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    /// A path beside `target` that nobody else uses, in this process or another. Nothing is made.
    pub(crate) fn beside(target: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut name = target.file_name().unwrap_or(OsStr::new("")).to_owned();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".tmp-{}-{count}", process::id()));
        let path = target.with_file_name(name);
        // What a killed process with the same number left behind is of no use to anyone.
        remove(&path);
        all().push(path.clone());
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.0);
        all().retain(|path| *path != self.0);
    }
}

/// Removes every temporary file and folder that this crate is writing in this process: for a program that is about to
/// end in the middle of its work, as by Ctrl-C. Those writes fail if the program goes on all the same.
pub fn remove_unfinished() {
    all().drain(..).for_each(|path| remove(&path));
}

fn remove(path: &Path) {
    // Whichever of the two it is; mostly it is not there any more.
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

/// A list whose holder panicked is whole all the same: paths are put in and taken out in one step.
fn all() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
