//! The files that lookups need: their stamps and their parsed contents. All lookups share them.

use std::collections::HashMap;
use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::LookupError;
use super::file_stamp::FileStamp;
use super::shared_work::SharedWork;

/// Maximum size of a file, in octets. A larger file is an error.
const MAX_FILE_SIZE: u64 = 16 * 1_024 * 1_024;

/// The stamps of all files.
#[derive(Default)]
pub struct FileStamps(SharedWork<PathBuf, Option<FileStamp>>);

impl FileStamps {
    /// Returns the stamp of the file at `path`, or `None` if there is no such file. The stamp is read after the
    /// call began.
    pub async fn stamp(
        &self,
        path: &Path,
        deadline: Instant,
    ) -> Result<Option<FileStamp>, LookupError> {
        let own = path.to_owned();
        let work = move || stamp_of(&own);
        let stamp = self.0.join_later_or_run(path.to_owned(), work);
        by(deadline, path, stamp).await
    }
}

/// The contents of a file, and the stamp that the file had before it was read.
pub struct Parsed<T> {
    pub stamp: Option<FileStamp>,
    pub content: Arc<T>,
}

/// Makes the contents of a file from its octets, or from the error of the read.
pub type Parse<T> = fn(&Path, io::Result<Vec<u8>>) -> Result<T, LookupError>;

/// All files of one kind, such as hosts files.
pub struct Files<T> {
    parse: Parse<T>,
    /// The stamp is a part of the key. So if a read never returns and the file is replaced, the new file can be read.
    reads: SharedWork<(PathBuf, Option<FileStamp>), Parsed<T>>,
    /// The contents that resolvers use.
    in_use: Arc<InUse<T>>,
}

type InUse<T> = Mutex<HashMap<PathBuf, (Option<FileStamp>, Weak<T>)>>;

impl<T> Clone for Parsed<T> {
    fn clone(&self) -> Self {
        Self {
            stamp: self.stamp,
            content: Arc::clone(&self.content),
        }
    }
}

impl<T: Send + Sync + 'static> Files<T> {
    pub fn new(parse: Parse<T>) -> Self {
        Self {
            parse,
            reads: SharedWork::default(),
            in_use: Arc::default(),
        }
    }

    /// Returns the contents of the file at `path`, which had the stamp `stamp` when the lookup started. An error is
    /// not kept, so the next call reads the file again.
    pub async fn load(
        &self,
        path: &Path,
        stamp: Option<FileStamp>,
        deadline: Instant,
    ) -> Result<Parsed<T>, LookupError> {
        let (parse, in_use, own) = (self.parse, Arc::clone(&self.in_use), path.to_owned());
        let work = move || {
            if let Some((of, content)) = in_use.lock().get(&own)
                && *of == stamp
                && let Some(content) = content.upgrade()
            {
                return Ok(Parsed { stamp, content });
            }
            let parsed = read_and_parse(&own, parse)?;
            let kept = (parsed.stamp, Arc::downgrade(&parsed.content));
            let mut in_use = in_use.lock();
            in_use.retain(|_, (_, content)| content.strong_count() > 0);
            in_use.insert(own, kept);
            Ok(parsed)
        };
        let parsed = self.reads.join_or_run((path.to_owned(), stamp), work);
        by(deadline, path, parsed).await
    }
}

/// Returns the outcome of `work` on the file at `path`, or an error at the deadline. The work goes on.
async fn by<T>(
    deadline: Instant,
    path: &Path,
    work: impl Future<Output = Result<T, LookupError>>,
) -> Result<T, LookupError> {
    let outcome = timeout_at(deadline, work).await;
    outcome.unwrap_or_else(|_elapsed| {
        Err(LookupError::unreadable(
            path,
            "it was not read before the deadline",
        ))
    })
}

fn stamp_of(path: &Path) -> Result<Option<FileStamp>, LookupError> {
    FileStamp::of(path).map_err(|error| LookupError::unreadable(path, error))
}

fn read_and_parse<T>(path: &Path, parse: Parse<T>) -> Result<Parsed<T>, LookupError> {
    let stamp = stamp_of(path)?;
    let content = Arc::new(parse(path, read_file(path))?);
    Ok(Parsed { stamp, content })
}

/// Returns the octets of a system file. A missing file counts as empty.
pub fn or_empty(path: &Path, read: io::Result<Vec<u8>>) -> Result<Vec<u8>, LookupError> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| LookupError::unreadable(path, error)),
    }
}

/// Returns the octets of a file that an option names.
pub fn or_bad_file(path: &Path, read: io::Result<Vec<u8>>) -> Result<Vec<u8>, LookupError> {
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => LookupError::BadFile,
        _ => LookupError::unreadable(path, error),
    })
}

/// Returns the octets of a file. A pipe is an error, because a read would wait for a writer.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let is_readable = |kind: FileType| kind.is_file() || kind.is_char_device();
    if !is_readable(fs::metadata(path)?.file_type()) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_FILE_SIZE {
        return Err(too_large());
    }
    // With room for one octet more, the buffer does not grow at the end of the file.
    let mut octets = Vec::with_capacity(usize::try_from(size + 1).unwrap_or_default());
    let limit = MAX_FILE_SIZE + 1;
    if file.take(limit).read_to_end(&mut octets)? as u64 == limit {
        return Err(too_large());
    }
    Ok(octets)
}

fn too_large() -> io::Error {
    io::Error::other("it is larger than 16 MiB")
}
