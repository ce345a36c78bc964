//! Stamps of files, which show that a file has changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The stamps of the files that a configuration uses. If one differs, the configuration is loaded again.
pub type ConfigStamp = [Option<FileStamp>; 4];

/// The identity of a file's contents. It differs after the file was written or replaced, even if the new file has
/// the size and the modification time of the old one (`cp -p`, Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl FileStamp {
    /// Returns the stamp of the file at `path`, or `None` if there is no such file.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self {
                device: metadata.dev(),
                inode: metadata.ino(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
                size: metadata.size(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
