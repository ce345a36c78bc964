//! What lookups share: nameservers' sockets and connections, and lookups under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::config::ResolverConfig;
use super::flight::{Flights, Key, Outcome, Ticket, Waiter};
use super::inline_poll::EarlyPolls;
use super::inline_poll::InlineTask;
use super::resolver::Resolver;
use super::system_config::{ConfigStamp, stamp};
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
    kept: RwLock<Vec<Arc<ResolverEntry>>>,
    flights: Arc<Flights>,
    /// Numbers flights.
    last_number: AtomicU64,
    /// Whether there was a lookup since the last tick.
    active: AtomicBool,
    /// Whether ticks go on.
    ticking: AtomicBool,
    tick: Notify,
}

struct ResolverEntry {
    config: ResolverConfig,
    stamp: ConfigStamp,
    resolver: Resolver,
}

/// How a lookup began.
pub enum LookupStart {
    /// With its end: the nameserver was as fast as that. The answer is short.
    Answered(Arc<Answer>),
    /// It is under way; the waiter will have the outcome. [`Ticket::poll`] has to be called.
    Pending(Ticket),
}

impl Resolvers {
    /// Lookups will run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle) -> Arc<Self> {
        let this = Arc::new(Self {
            runtime: runtime.clone(),
            kept: RwLock::default(),
            flights: Arc::new(Flights::new(runtime.clone())),
            last_number: AtomicU64::new(0),
            active: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            tick: Notify::new(),
        });
        runtime.spawn(Arc::clone(&this).close_idle());
        this
    }

    /// Asks `question`. Unless it is returned, the outcome reaches `waiter` by the timeout in
    /// `options`, and the runtime's being busy. Does not block the calling thread.
    pub fn start(
        self: &Arc<Self>,
        question: Question,
        options: Arc<LookupOptions>,
        waiter: impl FnOnce() -> Result<Box<dyn Waiter>, LookupError>,
    ) -> Result<LookupStart, LookupError> {
        self.note_activity();
        let files = stamp(&options.config);
        let key = Key { question, options };
        let waiter = waiter()?;
        let current = self.current(&key.options.config, &files);
        let number = self.last_number.fetch_add(1, Ordering::Relaxed);
        let is_ready = current.is_some();
        let (ticket, started) = self.flights.board(key.clone(), number, waiter, || {
            self.task(key, number, current)
        });
        match started {
            Some(task) if is_ready => {
                let outcome = task.poll_inline();
                if let Some(answer) = outcome.and_then(|outcome| ticket.land_here(outcome)) {
                    return Ok(LookupStart::Answered(answer));
                }
            }
            // Files have to be read first.
            Some(task) => task.spawn(),
            None => {}
        }
        Ok(LookupStart::Pending(ticket))
    }

    /// Has no later lookup share one that is under way, and closes what none is using.
    pub fn flush(&self) {
        self.flights.forget();
        self.kept.write().clear();
    }

    /// Lookups under way; those that ask the same are one.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn task(
        self: &Arc<Self>,
        key: Key,
        number: u64,
        current: Option<Arc<ResolverEntry>>,
    ) -> Arc<InlineTask<Outcome>> {
        let (this, landing) = (Arc::clone(self), Arc::clone(self));
        let start = Instant::now();
        InlineTask::new(
            self.runtime.clone(),
            |early_polls| async move {
                let kept = match current {
                    Some(kept) => kept,
                    None => this.load_resolver(&key.options.config)?,
                };
                this.outcome(key, &kept, start, &early_polls).await
            },
            Err(LookupError::Internal),
            move |outcome| landing.flights.land(number, &outcome),
        )
    }

    async fn outcome(
        &self,
        key: Key,
        kept: &ResolverEntry,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Outcome {
        #[cfg(feature = "panics")]
        assert!(!key.question.name.to_ascii().starts_with("panic-in-task"));
        let options = &key.options;
        let lookup = kept
            .resolver
            .lookup(&key.question, options, start, early_polls);
        Ok(Arc::new(lookup.await?))
    }

    /// What is kept of `config`, unless a file that it was made from has changed.
    fn current(&self, config: &ResolverConfig, files: &ConfigStamp) -> Option<Arc<ResolverEntry>> {
        let kept = self.kept.read();
        let kept = kept.iter().find(|kept| kept.config == *config)?;
        (kept.stamp == *files).then(|| Arc::clone(kept))
    }

    fn load_resolver(&self, config: &ResolverConfig) -> Result<Arc<ResolverEntry>, LookupError> {
        let stamp = stamp(config);
        // Another lookup may have been faster.
        if let Some(kept) = self.current(config, &stamp) {
            return Ok(kept);
        }
        let kept = Arc::new(ResolverEntry {
            config: config.clone(),
            stamp,
            resolver: Resolver::new(config)?,
        });
        let mut all = self.kept.write();
        all.retain(|other| other.config != *config);
        if all.len() == MAX_RESOLVERS {
            all.remove(0);
        }
        all.push(Arc::clone(&kept));
        Ok(kept)
    }

    fn note_activity(&self) {
        self.active.store(true, Ordering::SeqCst);
        self.start_ticking();
    }

    fn start_ticking(&self) {
        if !self.ticking.swap(true, Ordering::SeqCst) {
            self.tick.notify_one();
        }
    }

    async fn close_idle(self: Arc<Self>) {
        loop {
            self.tick.notified().await;
            let mut last_active = Instant::now();
            while last_active.elapsed() < IDLE_TIMEOUT {
                sleep(TICK).await;
                if self.active.swap(false, Ordering::Relaxed) {
                    last_active = Instant::now();
                }
            }
            self.ticking.store(false, Ordering::SeqCst);
            // A lookup since the last look at the clock has told nobody.
            if self.active.load(Ordering::SeqCst) {
                self.start_ticking();
            }
            self.kept.write().clear();
        }
    }
}
