//! A future that is polled where it is started, for the first time and for a second look ([`Look`]), and
//! by the runtime from then on.
//!
//! The first poll sends the question, so it is on its way before the runtime's thread has woken up;
//! indeed the runtime need not be woken at all before the answer is there, because wakers run on it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::look::Look;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Done<T> = Box<dyn FnOnce(T) + Send>;

/// Work under way.
pub struct Task<T> {
    runtime: Handle,
    look: Arc<Look>,
    state: Mutex<Option<State<T>>>,
    cancelled: AtomicBool,
}

struct State<T> {
    work: Work<T>,
    panicked: T,
    done: Done<T>,
}

impl<T: Send + 'static> Task<T> {
    /// `work` is given its [`Look`]; if it panics, its outcome is `panicked`. `done` is called on the
    /// runtime with the outcome; not at all after [`Task::cancel`], or when the outcome was returned.
    pub fn new<W>(
        runtime: Handle,
        work: impl FnOnce(Arc<Look>) -> W,
        panicked: T,
        done: impl FnOnce(T) + Send + 'static,
    ) -> Arc<Self>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let look = Arc::<Look>::default();
        let state = State {
            work: Box::pin(work(Arc::clone(&look))),
            panicked,
            done: Box::new(done),
        };
        Arc::new(Self {
            runtime,
            look,
            state: Mutex::new(Some(state)),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Polls on the calling thread. The outcome, if the work has ended with that.
    pub fn start_here(self: &Arc<Self>) -> Option<T> {
        let _inside = self.runtime.enter();
        let (outcome, _done) = self.poll()?;
        Some(outcome)
    }

    /// Leaves the first poll to the runtime.
    pub fn start_there(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// Polls on the calling thread if the work waits for its second look, as [`Task::start_here`]. To
    /// be called once the thread has done something else: the work waits for it.
    pub fn look_here(self: &Arc<Self>) -> Option<T> {
        if self.look.take_second() {
            self.start_here()
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

    fn poll(self: &Arc<Self>) -> Option<(T, Done<T>)> {
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

    fn poll_locked(self: &Arc<Self>) -> Option<(T, Done<T>)> {
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
        match polled {
            Ok(Poll::Ready(outcome)) => Some((outcome, done)),
            _ => Some((panicked, done)),
        }
    }
}

impl<T: Send + 'static> Wake for Task<T> {
    fn wake(self: Arc<Self>) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            if let Some((outcome, done)) = self.poll() {
                done(outcome);
            }
        });
    }
}
