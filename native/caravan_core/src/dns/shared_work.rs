//! Work that can block, such as the read of a file. It runs on threads, once for all lookups that need it.
//!
//! Neither a scheduler nor the runtime's thread touches a file, because each system call on a file can block forever. An
//! example is a network mount whose server does not respond.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::LookupError;

/// Maximum number of threads. A lookup that needs one more waits until the work of one of them ends, or until its own
/// deadline.
const MAX_THREADS: usize = 8;
/// Time without work after which a thread ends.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

static PERMITS: Semaphore = Semaphore::const_new(MAX_THREADS);
static THREADS: Threads = Threads {
    state: Mutex::new(ThreadsState {
        jobs: VecDeque::new(),
        threads: 0,
        idle: 0,
    }),
    job_added: Condvar::new(),
};

/// Work of one kind, such as the reads of hosts files. Work with the same key runs once at a time.
pub struct SharedWork<K, T> {
    running: Arc<Mutex<HashMap<K, Running<T>>>>,
}

type Outcome<T> = Result<T, LookupError>;
type Running<T> = watch::Receiver<Option<Outcome<T>>>;
type Job = Box<dyn FnOnce() + Send>;

impl<K, T> Default for SharedWork<K, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, T> SharedWork<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Returns the outcome of `work`, or of the work with this key that is running already.
    pub async fn join_or_run(
        &self,
        key: K,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let running = self.running.lock().get(&key).cloned();
        let running = match running {
            Some(running) => running,
            None => {
                let permit = PERMITS.acquire().await;
                let permit = permit.map_err(|_| LookupError::Internal)?;
                self.join_or_start(key, permit, work)?
            }
        };
        outcome(running).await
    }

    /// Returns the outcome of `work`, or of other work with this key that starts after this call.
    pub async fn join_later_or_run(
        &self,
        key: K,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let running = self.running.lock().get(&key).cloned();
        if let Some(earlier) = running {
            let _ = outcome(earlier).await;
        }
        self.join_or_run(key, work).await
    }

    fn join_or_start(
        &self,
        key: K,
        permit: SemaphorePermit<'static>,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Outcome<Running<T>> {
        let mut running = self.running.lock();
        // Another lookup may have started the work while this one waited for the permit.
        if let Some(running) = running.get(&key) {
            return Ok(running.clone());
        }
        let (sender, receiver) = watch::channel(None);
        let (all, own_key) = (Arc::clone(&self.running), key.clone());
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            all.lock().remove(&own_key);
            drop(permit);
            sender.send_replace(Some(outcome.unwrap_or(Err(LookupError::Internal))));
        };
        THREADS
            .run(Box::new(job))
            .map_err(|error| LookupError::no_threads(&error))?;
        running.insert(key, receiver.clone());
        Ok(receiver)
    }
}

async fn outcome<T: Clone>(mut running: Running<T>) -> Outcome<T> {
    match running.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(LookupError::Internal)),
        Err(_closed) => Err(LookupError::Internal),
    }
}

/// The threads. tokio's own would panic if the operating system refuses a thread.
struct Threads {
    state: Mutex<ThreadsState>,
    job_added: Condvar,
}

struct ThreadsState {
    /// Jobs that an idle thread is about to take.
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Threads {
    /// Runs a job on an idle thread, or on a new one. The caller has one of `PERMITS`.
    fn run(&'static self, job: Job) -> io::Result<()> {
        let mut state = self.state.lock();
        // A thread that has released its permit becomes idle a moment later.
        if state.jobs.len() < state.idle || state.threads == MAX_THREADS {
            state.jobs.push_back(job);
            self.job_added.notify_one();
            return Ok(());
        }
        let thread = thread::Builder::new().name("caravan_file".into());
        thread.spawn(move || self.work(job))?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self, mut job: Job) {
        loop {
            job();
            let mut state = self.state.lock();
            state.idle += 1;
            let end = Instant::now() + KEEP_ALIVE;
            job = loop {
                if let Some(job) = state.jobs.pop_front() {
                    state.idle -= 1;
                    break job;
                }
                let waited = self.job_added.wait_until(&mut state, end);
                if waited.timed_out() && state.jobs.is_empty() {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
            };
        }
    }
}
