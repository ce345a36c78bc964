//! Stamps of files, which show that a file has changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The stamps of the files of one configuration, in the order of `paths` in `resolver_files.rs`. `None` means that the
/// configuration does not use the file, or that the file is missing. If a stamp differs, the configuration is read again.
pub type ConfigStamp = [Option<FileStamp>; 4];

/// Identifies the contents of a file. It holds the time of the last change of the inode (ctime). So it also differs after
/// a replacement that keeps size and modification time, as by `cp -p`. Two writes of the same size within one tick of
/// the kernel's clock may have the same stamp.
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
