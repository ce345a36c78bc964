//! A future that is polled where it is started, for the first time and for a second look ([`EarlyPolls`]), and by the runtime from then on.
//!
//! The first poll sends the question, so it is on its way before the runtime's thread has woken up;
//! indeed the runtime need not be woken at all before the answer is there, because wakers run on it.
//!
//! Two early looks for an answer, before the runtime's thread is asked to watch for it.
//!
//! A nameserver on the same host, an agent or a cache, often has answered when the system call that sent
//! the question returns, and nearly always when the other processes of a busy scheduler have had their
//! turn. To look costs one system call. To be told costs a wake-up of the runtime's thread and one of
//! the scheduler (bench/dns.exs).

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Done<T> = Box<dyn FnOnce(T) + Send>;

/// Work under way.
pub struct InlineTask<T> {
    runtime: Handle,
    early_polls: Arc<EarlyPolls>,
    state: Mutex<Option<State<T>>>,
    cancelled: AtomicBool,
}

struct State<T> {
    work: Work<T>,
    panicked: T,
    done: Done<T>,
}

/// The outcome of work that has ended, for the thread that polled it.
pub struct Finished<T> {
    pub outcome: T,
    done: Done<T>,
}

impl<T: Send + 'static> InlineTask<T> {
    /// `work` is given its [`EarlyPolls`]; if it panics, its outcome is `panicked`. `done` is called on the
    /// runtime with the outcome; not at all after [`InlineTask::cancel`], or when the outcome was returned.
    pub fn new<W>(
        runtime: Handle,
        work: impl FnOnce(Arc<EarlyPolls>) -> W,
        panicked: T,
        done: impl FnOnce(T) + Send + 'static,
    ) -> Arc<Self>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let early_polls = Arc::<EarlyPolls>::default();
        let state = State {
            work: Box::pin(work(Arc::clone(&early_polls))),
            panicked,
            done: Box::new(done),
        };
        Arc::new(Self {
            runtime,
            early_polls,
            state: Mutex::new(Some(state)),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Polls on the calling thread. The outcome, if the work has ended with that.
    pub fn poll_inline(self: &Arc<Self>) -> Option<Finished<T>> {
        let _inside = self.runtime.enter();
        self.poll()
    }

    /// Calls `done` on the runtime with an outcome that the polling thread does not use.
    pub fn deliver(&self, finished: Finished<T>) {
        self.runtime.spawn(async move { finished.deliver() });
    }

    /// Leaves the first poll to the runtime.
    pub fn spawn(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// Polls on the calling thread if the work waits for its second look, as [`InlineTask::poll_inline`]. To
    /// be called once the thread has done something else: the work waits for it.
    pub fn poll_second(self: &Arc<Self>) -> Option<Finished<T>> {
        if self.early_polls.take_second() {
            self.poll_inline()
        } else {
            None
        }
    }

    /// Ends the work; never waits for it.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // Either this finds the lock free, or the one who has it finds the flag.
        fence(Ordering::SeqCst);
        // Locked: it is being polled, and whoever does that looks at the flag.
        let state = self.state.try_lock().and_then(|mut state| state.take());
        drop(state);
    }

    fn poll(self: &Arc<Self>) -> Option<Finished<T>> {
        let end = self.poll_locked();
        // Looked at when the lock is free again: a cancel that found it taken left the rest to us.
        fence(Ordering::SeqCst);
        if self.cancelled.load(Ordering::SeqCst) {
            let state = self.state.lock().take();
            drop(state);
            return None;
        }
        end
    }

    fn poll_locked(self: &Arc<Self>) -> Option<Finished<T>> {
        let mut state = self.state.lock();
        let work = &mut state.as_mut()?.work;
        let waker = Waker::from(Arc::clone(self));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        if let Ok(Poll::Pending) = polled {
            return None;
        }
        let State { panicked, done, .. } = state.take()?;
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => outcome,
            _ => panicked,
        };
        Some(Finished { outcome, done })
    }
}

impl<T> Finished<T> {
    fn deliver(self) {
        (self.done)(self.outcome);
    }
}

impl<T: Send + 'static> Wake for InlineTask<T> {
    fn wake(self: Arc<Self>) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            if let Some(finished) = self.poll() {
                finished.deliver();
            }
        });
    }
}

/// Nobody has looked.
const NEW: u8 = 0;
/// The first look was had.
const FIRST: u8 = 1;
/// It found nothing: the work waits to be polled for the second.
const PARKED: u8 = 2;
/// There are no looks any more.
const OVER: u8 = 3;

/// The looks that a lookup has; its first question uses them up.
#[derive(Default)]
pub struct EarlyPolls(AtomicU8);

impl EarlyPolls {
    /// True for one question of the lookup: it is to look as soon as it is sent, and then
    /// [`EarlyPolls::wait_for_second`].
    pub fn take_first(&self) -> bool {
        self.change(NEW, FIRST)
    }

    /// Waits for the second look. Nothing wakes this up: somebody polls who was told to by
    /// [`EarlyPolls::take_second`].
    pub async fn wait_for_second(&self) {
        poll_fn(|_| {
            if self.change(FIRST, PARKED) {
                Poll::Pending
            } else {
                self.0.store(OVER, Ordering::Release);
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Whether the work is to be polled now. It will not park from now on.
    pub fn take_second(&self) -> bool {
        self.0.swap(OVER, Ordering::AcqRel) == PARKED
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let change = self
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        change.is_ok()
    }
}
