//! What lookups share: nameservers' sockets and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::config::ResolverConfig;
use super::file_stamp::{ConfigStamp, stamp};
use super::inline_poll::{Finished, InlineTask};
use super::resolver::Resolver;
use super::{Answer, LookupError, LookupOptions, Question};

/// Sources whose sockets, connections and files are kept; past that the one made first goes.
pub const MAX_RESOLVERS: usize = 32;
/// Sockets and connections are closed after so long without a lookup.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often `close_idle` looks for lookups that have begun. It makes the runtime's next timer an early one: the
/// deadlines of lookups lie behind it, so that to set one does not wake the runtime's thread.
const TICK: Duration = Duration::from_millis(250);

/// Everything that lookups share, for one runtime.
pub struct Resolvers {
    runtime: Handle,
    inline_limit: usize,
    entries: RwLock<Vec<Arc<ResolverEntry>>>,
    /// Whether a lookup has begun since `close_idle` last looked.
    used: AtomicBool,
    /// Wakes `close_idle`.
    lookup_started: Notify,
}

struct ResolverEntry {
    config: ResolverConfig,
    stamp: ConfigStamp,
    resolver: Resolver,
}

/// What a lookup ends with.
pub type Outcome = Result<Answer, LookupError>;

/// How a lookup began.
pub enum LookupStart {
    /// With its end: the nameserver was as fast as that. The answer is within the inline limit.
    Answered(Answer),
    /// It is in flight. [`PendingLookup::poll`] has to be called.
    Pending(PendingLookup),
}

/// A lookup in flight.
pub struct PendingLookup {
    task: Arc<InlineTask<Outcome>>,
    inline_limit: usize,
}

impl PendingLookup {
    /// Looks whether the answer has come. To be called once, and soon, best after something else was
    /// done: until then the lookup waits for it. Nothing: `reply` will have the outcome.
    #[must_use]
    pub fn poll(&self) -> Option<Answer> {
        self.accept(self.task.poll_second())
    }

    /// Ends the lookup: `reply` will not be called, unless it is being called.
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// An answer within the inline limit is for the thread that polled; all else for `reply`.
    fn accept(&self, finished: Option<Finished<Outcome>>) -> Option<Answer> {
        let finished = finished?;
        match finished.outcome {
            Ok(answer) if answer.size() <= self.inline_limit => Some(answer),
            _ => {
                self.task.deliver(finished);
                None
            }
        }
    }
}

impl Resolvers {
    /// Lookups will run on `runtime`. Only answers of up to `inline_limit` records, and addresses of their
    /// targets, are returned to the thread that polls.
    #[must_use]
    pub fn new(runtime: Handle, inline_limit: usize) -> Arc<Self> {
        let this = Arc::new(Self {
            runtime: runtime.clone(),
            inline_limit,
            entries: RwLock::default(),
            used: AtomicBool::new(false),
            lookup_started: Notify::new(),
        });
        runtime.spawn(Arc::clone(&this).close_idle());
        this
    }

    /// Asks `question`. Unless it is returned, the outcome is given to `reply` on the runtime by the
    /// timeout in `options`, and the runtime's being busy. Does not block the calling thread.
    pub fn start(
        self: &Arc<Self>,
        question: Question,
        options: LookupOptions,
        reply: impl FnOnce(Outcome) + Send + 'static,
    ) -> LookupStart {
        self.note_lookup();
        let current = self.current(&options.config, &stamp(&options.config));
        let is_ready = current.is_some();
        let pending = PendingLookup {
            task: self.task(question, options, current, reply),
            inline_limit: self.inline_limit,
        };
        if !is_ready {
            // Files have to be read first.
            pending.task.spawn();
        } else if let Some(answer) = pending.accept(pending.task.poll_inline()) {
            return LookupStart::Answered(answer);
        }
        LookupStart::Pending(pending)
    }

    /// Closes what no lookup is using.
    pub fn flush(&self) {
        self.entries.write().clear();
    }

    fn task(
        self: &Arc<Self>,
        question: Question,
        options: LookupOptions,
        current: Option<Arc<ResolverEntry>>,
        reply: impl FnOnce(Outcome) + Send + 'static,
    ) -> Arc<InlineTask<Outcome>> {
        let this = Arc::clone(self);
        let start = Instant::now();
        InlineTask::new(
            self.runtime.clone(),
            |early_polls| async move {
                let entry = match current {
                    Some(entry) => entry,
                    None => this.load_resolver(&options.config)?,
                };
                #[cfg(feature = "panics")]
                assert!(!question.name.to_ascii().starts_with("panic-in-task"));
                let lookup = entry
                    .resolver
                    .lookup(&question, &options, start, &early_polls);
                lookup.await
            },
            Err(LookupError::Internal),
            reply,
        )
    }

    /// The entry of `config`, unless a file that it was made from has changed.
    fn current(&self, config: &ResolverConfig, files: &ConfigStamp) -> Option<Arc<ResolverEntry>> {
        let entries = self.entries.read();
        let entry = entries.iter().find(|entry| entry.config == *config)?;
        (entry.stamp == *files).then(|| Arc::clone(entry))
    }

    fn load_resolver(&self, config: &ResolverConfig) -> Result<Arc<ResolverEntry>, LookupError> {
        let stamp = stamp(config);
        // Another lookup may have been faster.
        if let Some(entry) = self.current(config, &stamp) {
            return Ok(entry);
        }
        let entry = Arc::new(ResolverEntry {
            config: config.clone(),
            stamp,
            resolver: Resolver::new(config)?,
        });
        let mut entries = self.entries.write();
        entries.retain(|other| other.config != *config);
        if entries.len() == MAX_RESOLVERS {
            entries.remove(0);
        }
        entries.push(Arc::clone(&entry));
        Ok(entry)
    }

    fn note_lookup(&self) {
        if !self.used.swap(true, Ordering::AcqRel) {
            self.lookup_started.notify_one();
        }
    }

    async fn close_idle(self: Arc<Self>) {
        loop {
            self.lookup_started.notified().await;
            let mut last_used = Instant::now();
            while last_used.elapsed() < IDLE_TIMEOUT {
                sleep(TICK).await;
                if self.used.swap(false, Ordering::AcqRel) {
                    last_used = Instant::now();
                }
            }
            self.entries.write().clear();
        }
    }
}
