//! Raw files from the net, through curl: it knows proxies, certificates and retries, and no dependency has to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use md5::{Digest, Md5};

use crate::DataError;
use crate::unfinished::Unfinished;

/// Longest time for one file, in seconds.
const MAX_TIME_S: &str = "900";
const CONNECT_TIMEOUT_S: &str = "20";

/// A file that a dataset's authors publish.
pub(crate) struct RawFile {
    pub name: &'static str,
    /// Of the published file, as its authors give it.
    pub md5: &'static str,
    /// What precedes the name, tried in this order.
    pub mirrors: &'static [&'static str],
    /// Another way to the file, for the message when no mirror has it: empty, or a clause that begins with `, or`.
    pub other_way: &'static str,
}

/// Downloads a file into `folder`, from the first mirror that has it whole, unless it is there whole.
pub(crate) fn fetch(raw: &RawFile, folder: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, DataError> {
    let target = folder.join(raw.name);
    if md5_of(&target).is_ok_and(|md5| md5 == raw.md5) {
        return Ok(target);
    }
    let mut causes = Vec::new();
    for mirror in raw.mirrors {
        let url = format!("{mirror}{}", raw.name);
        progress(&format!("downloading {url}"));
        let partial = Unfinished::beside(&target);
        match run_curl(&url, partial.path()).and_then(|()| accept(partial.path(), raw.md5, &target)) {
            Ok(()) => return Ok(target),
            Err(cause) => causes.push(cause),
        }
    }
    causes.dedup();
    Err(DataError::Download {
        name: raw.name.to_string(),
        url: format!("{}{}", raw.mirrors[0], raw.name),
        other_way: raw.other_way,
        folder: folder.to_path_buf(),
        cause: causes.join("; "),
    })
}

fn run_curl(url: &str, output: &Path) -> Result<(), String> {
    let result = Command::new("curl")
        .args([
            "-fsSL",
            "--retry",
            "3",
            "--connect-timeout",
            CONNECT_TIMEOUT_S,
            "--max-time",
            MAX_TIME_S,
            "-o",
        ])
        .arg(output)
        .arg(url)
        .stdin(Stdio::null())
        .output();
    match result {
        Ok(result) if result.status.success() => Ok(()),
        Ok(result) => {
            let message = String::from_utf8_lossy(&result.stderr);
            Err(message
                .lines()
                .last()
                .unwrap_or("curl failed without a word")
                .trim()
                .to_string())
        }
        Err(cause) => Err(format!("curl could not be started, {cause}: install it")),
    }
}

/// Moves a downloaded file to its place if its checksum is right.
fn accept(partial: &Path, expected_md5: &str, target: &Path) -> Result<(), String> {
    let md5 = md5_of(partial).map_err(|cause| cause.to_string())?;
    if md5 != expected_md5 {
        return Err(format!("the MD5 of what came is {md5}, not {expected_md5}"));
    }
    fs::rename(partial, target).map_err(|cause| cause.to_string())
}

fn md5_of(path: &Path) -> std::io::Result<String> {
    Ok(Md5::digest(fs::read(path)?)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_wrong_checksum_is_not_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, target) = (folder.path().join("partial"), folder.path().join("target"));
        fs::write(&partial, "abc").unwrap();
        let message = accept(&partial, "900150983cd24fb0d6963f7d28e17f73", &target).unwrap_err();
        assert_eq!(
            message,
            "the MD5 of what came is 900150983cd24fb0d6963f7d28e17f72, not 900150983cd24fb0d6963f7d28e17f73"
        );
        assert!(!target.exists());
        accept(&partial, "900150983cd24fb0d6963f7d28e17f72", &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abc");
    }

    #[test]
    fn a_failed_download_says_what_to_fetch_and_where_to_put_it() {
        let folder = tempfile::tempdir().unwrap();
        // Nothing listens on port 1, so this fails with and without a network, with and without curl.
        let raw = RawFile {
            name: "a.gz",
            md5: "900150983cd24fb0d6963f7d28e17f72",
            mirrors: &["http://127.0.0.1:1/x/", "http://127.0.0.1:1/y/"],
            other_way: ", or ask a friend",
        };
        let mut said = Vec::new();
        let message = fetch(&raw, folder.path(), &mut |line| said.push(line.to_string()))
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("a.gz could not be downloaded ("), "{message}");
        let end = format!(
            "): fetch it from http://127.0.0.1:1/x/a.gz and put it into {}, or name the folder that has it with --source, or ask a friend",
            folder.path().display()
        );
        assert!(message.ends_with(&end), "{message}");
        assert_eq!(
            said,
            [
                "downloading http://127.0.0.1:1/x/a.gz",
                "downloading http://127.0.0.1:1/y/a.gz"
            ]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("a.gz"), "abc").unwrap();
        assert_eq!(
            fetch(&raw, folder.path(), &mut |_| {}).unwrap(),
            folder.path().join("a.gz"),
            "it is there already"
        );
    }
}
