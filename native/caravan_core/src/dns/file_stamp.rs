//! Whether a file has changed, and the reading of one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::config::ResolverConfig;
use super::system_config::{HOSTS, RESOLV_CONF};

/// Of the files that a config is made from; another stamp means another configuration.
pub type ConfigStamp = [Option<FileStamp>; 4];

/// A file that was written or replaced has another one, even where the new file has the size and the
/// modification time of the old (`cp -p`, Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

pub fn stamp(config: &ResolverConfig) -> ConfigStamp {
    let dnssec = config.dnssec.as_ref();
    [
        config.is_system().then_some(Path::new(RESOLV_CONF)),
        config.is_system().then_some(Path::new(HOSTS)),
        config.ca_file.as_deref(),
        dnssec.and_then(|dnssec| dnssec.trust_anchors.as_deref()),
    ]
    .map(|path| {
        let metadata = fs::metadata(path?).ok()?;
        Some(FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        })
    })
}

/// A file's contents; what is no file, as a pipe, could keep the reader for ever.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() {
        fs::read(path)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}
