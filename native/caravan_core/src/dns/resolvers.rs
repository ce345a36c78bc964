//! The entry point of lookups, and what they share: one resolver per configuration, with its sockets and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::config::ResolverConfig;
use super::file_stamp::ConfigStamp;
use super::inline_poll::{Done, Finished, InlineTask};
use super::resolver::Resolver;
use super::resolver_files::{SharedFiles, needs_files};
use super::{Answer, LookupError, LookupFailure, LookupOptions, Question};

/// Maximum number of configurations whose resolvers are kept. One more replaces the oldest.
const MAX_RESOLVERS: usize = 32;
/// Time without a lookup after which all idle sockets and connections are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which `close_idle` checks whether there was a lookup, while each interval has at least one lookup on
/// average. The interval is short so that it is the runtime's next timer: then setting the later deadline of a lookup
/// does not wake the runtime's thread.
const TICK: Duration = Duration::from_millis(250);
/// The interval doubles up to this one while there are fewer lookups. Each check wakes the thread two or three times.
const LONGEST_TICK: Duration = Duration::from_secs(8);

/// What all lookups of one runtime share.
pub struct Resolvers {
    runtime: Handle,
    inline_limit: usize,
    entries: RwLock<Vec<Arc<ResolverEntry>>>,
    files: SharedFiles,
    /// The number of lookups that have started since the last check of `close_idle`.
    used: AtomicU32,
    /// Wakes `close_idle` after an idle time.
    lookup_started: Notify,
}

/// A resolver, and the stamps of the files from which it was made.
struct ResolverEntry {
    config: ResolverConfig,
    stamp: ConfigStamp,
    resolver: Resolver,
}

/// The result of a lookup.
pub type Outcome = Result<Answer, LookupFailure>;

/// The state of a lookup after [`Resolvers::start`].
pub enum LookupStart {
    /// It has ended with this answer, which is within the inline limit. `reply` is not called.
    Answered(Answer),
    /// It is in flight. [`PendingLookup::poll`] must be called once.
    Pending(PendingLookup),
}

/// A lookup in flight.
pub struct PendingLookup {
    task: Arc<InlineTask<Outcome>>,
    inline_limit: usize,
}

impl PendingLookup {
    /// Polls the lookup a second time. Returns an answer within the inline limit, or `None` if `reply` will get the
    /// outcome.
    ///
    /// Call this function exactly once: `reply` is not called before. Let the thread do other work first, so that the
    /// answer has more time to arrive.
    #[must_use]
    pub fn poll(&self) -> Option<Answer> {
        self.accept(self.task.poll_second())
    }

    /// Ends the lookup. `reply` is not called, unless the call has started.
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// Returns an answer within the inline limit. Gives any other outcome to `reply`, on the runtime.
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
    /// Returns an empty set of resolvers, whose lookups run on `runtime`. Only answers with a [size](Answer::size) of
    /// up to `inline_limit` are returned to the polling thread.
    #[must_use]
    pub fn new(runtime: Handle, inline_limit: usize) -> Arc<Self> {
        let resolvers = Arc::new(Self {
            runtime: runtime.clone(),
            inline_limit,
            entries: RwLock::default(),
            files: SharedFiles::new(),
            used: AtomicU32::new(0),
            lookup_started: Notify::new(),
        });
        runtime.spawn(Arc::clone(&resolvers).close_idle());
        resolvers
    }

    /// Starts a lookup. Polls it on the calling thread, without blocking it. The outcome is either returned, here or
    /// by [`PendingLookup::poll`], or given to `reply` on the runtime, by the timeout in `options`.
    pub fn start(
        self: &Arc<Self>,
        question: Question,
        options: LookupOptions,
        reply: Done<Outcome>,
    ) -> LookupStart {
        self.note_lookup();
        let current = if needs_files(&options.config) {
            None
        } else {
            self.current(&options.config, &ConfigStamp::default())
        };
        let is_ready = current.is_some();
        let pending = PendingLookup {
            task: self.task(question, options, current, reply),
            inline_limit: self.inline_limit,
        };
        if !is_ready {
            // Threads look at the files of the configuration first. The runtime waits for them.
            pending.task.spawn();
        } else if let Some(answer) = pending.accept(pending.task.poll_inline()) {
            return LookupStart::Answered(answer);
        }
        LookupStart::Pending(pending)
    }

    /// Closes the sockets and connections that no lookup is using.
    pub fn flush(&self) {
        self.entries.write().clear();
    }

    fn task(
        self: &Arc<Self>,
        question: Question,
        options: LookupOptions,
        current: Option<Arc<ResolverEntry>>,
        reply: Done<Outcome>,
    ) -> Arc<InlineTask<Outcome>> {
        let resolvers = Arc::clone(self);
        let start = Instant::now();
        InlineTask::new(
            self.runtime.clone(),
            |early_polls| async move {
                let entry = match current {
                    Some(entry) => entry,
                    None => {
                        let deadline = start + options.timeout;
                        let load = resolvers.load_resolver(&options.config, deadline);
                        Box::pin(load).await?
                    }
                };
                #[cfg(feature = "panics")]
                assert!(!question.name.to_ascii().starts_with("panic-in-task"));
                let lookup = entry
                    .resolver
                    .lookup(&question, &options, start, &early_polls);
                lookup.await
            },
            Err(LookupError::Internal.into()),
            reply,
        )
    }

    /// Returns the entry of `config`, unless one of its files has changed.
    fn current(&self, config: &ResolverConfig, stamp: &ConfigStamp) -> Option<Arc<ResolverEntry>> {
        let entries = self.entries.read();
        let entry = entries.iter().find(|entry| entry.config == *config)?;
        (entry.stamp == *stamp).then(|| Arc::clone(entry))
    }

    /// Returns the entry of `config`. Reads the files that have changed.
    async fn load_resolver(
        &self,
        config: &ResolverConfig,
        deadline: Instant,
    ) -> Result<Arc<ResolverEntry>, LookupError> {
        let stamp = self.files.stamp(config, deadline).await?;
        if let Some(entry) = self.current(config, &stamp) {
            return Ok(entry);
        }
        // Frees the old contents before the new ones are read.
        self.entries
            .write()
            .retain(|entry| entry.config != *config || entry.stamp == stamp);
        let files = self.files.load(config, stamp, deadline).await?;
        // Another lookup may have loaded it in the meantime.
        if let Some(entry) = self.current(config, &files.stamp) {
            return Ok(entry);
        }
        let entry = Arc::new(ResolverEntry {
            config: config.clone(),
            stamp: files.stamp,
            resolver: Resolver::new(config, &files),
        });
        let mut entries = self.entries.write();
        entries.retain(|other| other.config != *config);
        if entries.len() == MAX_RESOLVERS {
            entries.remove(0);
        }
        entries.push(Arc::clone(&entry));
        Ok(entry)
    }

    /// Tells `close_idle` that there is a lookup.
    fn note_lookup(&self) {
        if self.used.fetch_add(1, Ordering::AcqRel) == 0 {
            self.lookup_started.notify_one();
        }
    }

    /// Closes all idle sockets and connections after each `IDLE_TIMEOUT` without a lookup.
    async fn close_idle(self: Arc<Self>) {
        loop {
            self.lookup_started.notified().await;
            let mut last_used = Instant::now();
            let mut tick = TICK;
            while last_used.elapsed() < IDLE_TIMEOUT {
                sleep(tick).await;
                let lookups = self.used.swap(0, Ordering::AcqRel);
                if lookups > 0 {
                    last_used = Instant::now();
                }
                tick = next_tick(tick, lookups);
            }
            self.entries.write().clear();
        }
    }
}

/// Returns the interval that follows an interval of `tick` with this number of lookups.
fn next_tick(tick: Duration, lookups: u32) -> Duration {
    if TICK * lookups >= tick {
        TICK
    } else {
        LONGEST_TICK.min(tick * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_each_second_wakes_the_thread_every_eight_seconds() {
        let ticks: Vec<_> = (0..8)
            .scan(TICK, |tick, _| {
                let polls = u32::try_from(tick.as_secs()).expect("a number");
                *tick = next_tick(*tick, polls);
                Some(tick.as_millis())
            })
            .collect();
        assert_eq!(
            ticks,
            [500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000]
        );
    }

    #[test]
    fn many_lookups_make_the_interval_short_at_once() {
        assert_eq!(next_tick(LONGEST_TICK, 32), TICK);
        assert_eq!(next_tick(LONGEST_TICK, u32::MAX), TICK);
        assert_eq!(next_tick(TICK, 1), TICK);
    }
}
