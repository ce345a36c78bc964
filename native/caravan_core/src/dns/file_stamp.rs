//! Stamps of files, which show that a file has changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::config::ResolverConfig;
use super::system_config::{HOSTS, RESOLV_CONF};

/// The stamps of the files that a configuration uses. If one differs, the configuration is loaded again.
pub type ConfigStamp = [Option<FileStamp>; 4];

/// The identity of a file's contents. It differs after the file was written or replaced, even if the new file has
/// the size and the modification time of the old one (`cp -p`, Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// Returns the stamps of the files of `config` as they are now.
pub fn stamp(config: &ResolverConfig) -> ConfigStamp {
    let dnssec = config.dnssec.as_ref();
    [
        config.is_system().then_some(Path::new(RESOLV_CONF)),
        config.is_system().then_some(Path::new(HOSTS)),
        config.ca_file.as_deref(),
        dnssec.and_then(|dnssec| dnssec.trust_anchors.as_deref()),
    ]
    .map(|path| FileStamp::of(path?))
}

impl FileStamp {
    /// Returns the stamp of the file at `path`, or `None` if there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        })
    }
}
