//! Polling a lookup twice on its caller's thread before the runtime takes it over.
//!
//! The first poll sends the query and tries to receive: a nameserver on the same host, such as an agent or a cache,
//! has often responded when the system call returns. The second poll, after the other processes of a busy scheduler
//! have run, nearly always finds the response. Each try costs one system call. A response that comes later costs
//! more: it wakes up the runtime's thread, and that wakes up the scheduler (bench/dns.exs).
//!
//! After that, the lookup waits on the runtime, where its wakers poll it. A lookup that ends by the second poll does
//! not wake up the runtime's thread.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Gets the outcome of the work. Boxed, so that this module and the lookups are compiled once, in this crate.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// A future that is polled by the threads that call it, and by the runtime when it is woken.
pub struct InlineTask<T> {
    runtime: Handle,
    early_polls: Arc<EarlyPolls>,
    /// `None` after the end of the work.
    state: Mutex<Option<State<T>>>,
    cancelled: AtomicBool,
}

struct State<T> {
    work: Work<T>,
    panicked: T,
    done: Done<T>,
}

/// The outcome of work that has ended. The polling thread uses it, or delivers it to `done`.
pub struct Finished<T> {
    pub outcome: T,
    done: Done<T>,
}

impl<T: Send + 'static> InlineTask<T> {
    /// Returns a task that does `work`, which gets the early polls of the task. If the work panics, its outcome is
    /// `panicked`. `done` gets the outcome, unless the task is cancelled or the polling thread uses the outcome.
    pub fn new<W>(
        runtime: Handle,
        work: impl FnOnce(Arc<EarlyPolls>) -> W,
        panicked: T,
        done: Done<T>,
    ) -> Arc<Self>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let early_polls = Arc::<EarlyPolls>::default();
        let state = State {
            work: Box::pin(work(Arc::clone(&early_polls))),
            panicked,
            done,
        };
        Arc::new(Self {
            runtime,
            early_polls,
            state: Mutex::new(Some(state)),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Polls on the calling thread. Returns the outcome if the work has ended.
    pub fn poll_inline(self: &Arc<Self>) -> Option<Finished<T>> {
        let _inside = self.runtime.enter();
        self.poll()
    }

    /// Polls on the calling thread if the work waits for its second early poll. Returns the outcome if the work has
    /// ended. Afterwards, the work no longer waits for an early poll.
    pub fn poll_second(self: &Arc<Self>) -> Option<Finished<T>> {
        if self.early_polls.take_second() {
            self.poll_inline()
        } else {
            None
        }
    }

    /// Polls on the runtime, without a poll on the calling thread.
    pub fn spawn(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// Calls `done` on the runtime.
    pub fn deliver(&self, finished: Finished<T>) {
        self.runtime.spawn(async move { finished.deliver() });
    }

    /// Ends the work. Does not wait for a poll that is running on another thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // This fence belongs to the one in `poll`. Either this thread finds the lock free, or the polling thread sees
        // the flag.
        fence(Ordering::SeqCst);
        let state = self.state.try_lock().and_then(|mut state| state.take());
        drop(state);
    }

    fn poll(self: &Arc<Self>) -> Option<Finished<T>> {
        let finished = self.poll_locked();
        // The flag is read after the lock is released. If `cancel` found the lock taken, it has left the state to this
        // thread.
        fence(Ordering::SeqCst);
        if self.cancelled.load(Ordering::SeqCst) {
            let state = self.state.lock().take();
            drop(state);
            return None;
        }
        finished
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

/// No query has used the early polls.
const UNUSED: u8 = 0;
/// A query has made its first try.
const FIRST: u8 = 1;
/// The first try received nothing. The work waits until it is polled for the second.
const WAITING: u8 = 2;
/// There are no early polls any more.
const OVER: u8 = 3;

/// The early polls of a lookup, which its first query over UDP uses up.
#[derive(Default)]
pub struct EarlyPolls(AtomicU8);

impl EarlyPolls {
    /// Returns true for one query of the lookup. That query tries to receive as soon as it is sent, and again after
    /// [`EarlyPolls::wait_for_second`].
    pub fn take_first(&self) -> bool {
        self.change(UNUSED, FIRST)
    }

    /// Waits for the second early poll. It registers no waker: the thread that gets true from
    /// [`EarlyPolls::take_second`] polls. If no thread does, the timer of the attempt wakes the work.
    pub async fn wait_for_second(&self) {
        poll_fn(|_| {
            if self.change(FIRST, WAITING) {
                Poll::Pending
            } else {
                self.0.store(OVER, Ordering::Release);
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Returns whether the work waits for its second early poll. Afterwards, it no longer waits for one.
    pub fn take_second(&self) -> bool {
        self.0.swap(OVER, Ordering::AcqRel) == WAITING
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let change = self
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        change.is_ok()
    }
}
