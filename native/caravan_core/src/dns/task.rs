//! A future that is polled where it is started, for the first time, and by the runtime from then on.
//!
//! The first poll sends the question, so it is on its way before the runtime's thread has woken up;
//! indeed the runtime need not be woken at all before the answer is there, because wakers run on it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Done<T> = Box<dyn FnOnce(Option<T>) + Send>;

/// Work under way.
pub struct Task<T> {
    runtime: Handle,
    state: Mutex<Option<State<T>>>,
    cancelled: AtomicBool,
}

struct State<T> {
    work: Work<T>,
    done: Done<T>,
}

impl<T: Send + 'static> Task<T> {
    /// `done` is called on the runtime, with nothing if `work` panics; not at all after
    /// [`Task::cancel`].
    pub fn new(
        runtime: Handle,
        work: impl Future<Output = T> + Send + 'static,
        done: impl FnOnce(Option<T>) + Send + 'static,
    ) -> Arc<Self> {
        let state = State {
            work: Box::pin(work),
            done: Box::new(done),
        };
        Arc::new(Self {
            runtime,
            state: Mutex::new(Some(state)),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Polls on the calling thread.
    pub fn start_here(self: &Arc<Self>) {
        let _inside = self.runtime.enter();
        if let Some(finish) = self.poll() {
            self.runtime.spawn(async move { finish() });
        }
    }

    /// Leaves the first poll to the runtime.
    pub fn start_there(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// Ends the work; never waits for it.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        // Locked: it is being polled, and whoever does that looks at the flag.
        let state = self.state.try_lock().and_then(|mut state| state.take());
        drop(state);
    }

    fn poll(self: &Arc<Self>) -> Option<impl FnOnce() + use<T>> {
        let finish = self.poll_locked();
        // Looked at when the lock is free again: a cancel that found it taken left the rest to us.
        if self.cancelled.load(Ordering::Acquire) {
            let state = self.state.lock().take();
            drop(state);
            return None;
        }
        finish
    }

    fn poll_locked(self: &Arc<Self>) -> Option<impl FnOnce() + use<T>> {
        let mut state = self.state.lock();
        let work = &mut state.as_mut()?.work;
        let waker = Waker::from(Arc::clone(self));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let outcome = match polled {
            Ok(Poll::Pending) => return None,
            Ok(Poll::Ready(outcome)) => Some(outcome),
            Err(_panic) => None,
        };
        let done = state.take()?.done;
        Some(move || done(outcome))
    }
}

impl<T: Send + 'static> Wake for Task<T> {
    fn wake(self: Arc<Self>) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            if let Some(finish) = self.poll() {
                finish();
            }
        });
    }
}
