//! The files that lookups need. A thread reads and parses each file. All lookups share the result.
//!
//! The runtime's thread never reads a file, because a read can block forever. An example is a network mount whose
//! server does not respond.

use std::collections::HashMap;
use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::LookupError;
use super::file_stamp::FileStamp;

/// Maximum size of a file, in octets. A larger file is an error.
pub const MAX_FILE_SIZE: u64 = 16 * 1_024 * 1_024;
/// Maximum number of threads that read files. A lookup that needs one more waits for the end of one of them, until
/// its deadline.
const MAX_READERS: usize = 8;

static READERS: Semaphore = Semaphore::const_new(MAX_READERS);

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
    files: Arc<Mutex<States<T>>>,
}

type Outcome<T> = Result<Parsed<T>, LookupError>;
type States<T> = HashMap<PathBuf, State<T>>;
type Reading<T> = watch::Receiver<Option<Outcome<T>>>;

enum State<T> {
    /// The stamp that the lookup saw which started the read. A lookup that sees another stamp starts another read.
    Reading(Option<FileStamp>, Reading<T>),
    /// Kept as long as a resolver uses it.
    Read(Option<FileStamp>, Weak<T>),
}

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
            files: Arc::default(),
        }
    }

    /// Returns the contents of the file at `path`, which had the stamp `stamp` when the lookup started. An error is
    /// not kept, so the next call reads the file again.
    pub async fn load(
        &self,
        path: &Path,
        stamp: Option<FileStamp>,
        deadline: Instant,
    ) -> Outcome<T> {
        match timeout_at(deadline, self.load_current(path, stamp)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(unreadable(path, "it was not read before the deadline")),
        }
    }

    async fn load_current(&self, path: &Path, stamp: Option<FileStamp>) -> Outcome<T> {
        let mut joined = self.join(path, stamp);
        if matches!(joined, Joined::Neither) {
            let permit = READERS.acquire().await;
            let permit = permit.map_err(|_| LookupError::Internal)?;
            joined = self.join_or_start(path, stamp, permit)?;
        }
        let mut reading = match joined {
            Joined::Read(parsed) => return Ok(parsed),
            Joined::Reading(reading) => reading,
            Joined::Neither => return Err(LookupError::Internal),
        };
        match reading.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(LookupError::Internal)),
            Err(_closed) => Err(LookupError::Internal),
        }
    }

    fn join(&self, path: &Path, stamp: Option<FileStamp>) -> Joined<T> {
        Self::join_locked(&self.files.lock(), path, stamp)
    }

    fn join_locked(files: &States<T>, path: &Path, stamp: Option<FileStamp>) -> Joined<T> {
        match files.get(path) {
            Some(State::Reading(of, reading)) if *of == stamp => Joined::Reading(reading.clone()),
            Some(State::Read(of, content)) if *of == stamp => match content.upgrade() {
                Some(content) => Joined::Read(Parsed { stamp, content }),
                None => Joined::Neither,
            },
            _ => Joined::Neither,
        }
    }

    fn join_or_start(
        &self,
        path: &Path,
        stamp: Option<FileStamp>,
        permit: SemaphorePermit<'static>,
    ) -> Result<Joined<T>, LookupError> {
        let mut locked = self.files.lock();
        // Another lookup may have started the read while this one waited for the permit.
        match Self::join_locked(&locked, path, stamp) {
            Joined::Neither => {}
            joined => return Ok(joined),
        }
        let (sender, reading) = watch::channel(None);
        let (parse, files, own) = (self.parse, Arc::clone(&self.files), reading.clone());
        let key = path.to_owned();
        let read = move || {
            let _permit = permit;
            let read = catch_unwind(AssertUnwindSafe(|| read_and_parse(&key, parse)));
            let outcome = read.unwrap_or(Err(LookupError::Internal));
            finish(&mut files.lock(), &key, &own, &outcome);
            sender.send_replace(Some(outcome));
        };
        let thread = thread::Builder::new().name("caravan_file".into());
        thread
            .spawn(read)
            .map_err(|error| LookupError::no_threads(&error))?;
        locked.insert(path.to_owned(), State::Reading(stamp, reading.clone()));
        Ok(Joined::Reading(reading))
    }
}

/// Keeps the outcome of a read, unless a newer read of the file has replaced it.
fn finish<T>(files: &mut States<T>, path: &Path, own: &Reading<T>, outcome: &Outcome<T>) {
    if let Some(State::Reading(_, reading)) = files.get(path)
        && reading.same_channel(own)
    {
        match outcome {
            Ok(Parsed { stamp, content }) => {
                let state = State::Read(*stamp, Arc::downgrade(content));
                files.insert(path.to_owned(), state);
            }
            Err(_) => {
                files.remove(path);
            }
        }
    }
    files.retain(|_, state| match state {
        State::Reading(..) => true,
        State::Read(_, content) => content.strong_count() > 0,
    });
}

enum Joined<T> {
    Read(Parsed<T>),
    Reading(Reading<T>),
    Neither,
}

fn read_and_parse<T>(path: &Path, parse: Parse<T>) -> Outcome<T> {
    let stamp = FileStamp::of(path);
    let content = Arc::new(parse(path, read_file(path))?);
    Ok(Parsed { stamp, content })
}

/// Returns the octets of a system file. A missing file counts as empty.
pub fn or_empty(path: &Path, read: io::Result<Vec<u8>>) -> Result<Vec<u8>, LookupError> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| unreadable(path, &error.to_string())),
    }
}

/// Returns the octets of a file that an option names.
pub fn or_bad_file(path: &Path, read: io::Result<Vec<u8>>) -> Result<Vec<u8>, LookupError> {
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => LookupError::BadFile,
        _ => unreadable(path, &error.to_string()),
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

fn unreadable(path: &Path, why: &str) -> LookupError {
    LookupError::UnreadableFile(format!("{}: {why}", path.display()).into())
}
