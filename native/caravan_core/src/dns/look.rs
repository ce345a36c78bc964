//! Two early looks for an answer, before the runtime's thread is asked to watch for it.
//!
//! A nameserver on the same host, an agent or a cache, often has answered when the system call that sent
//! the question returns, and nearly always when the other processes of a busy scheduler have had their
//! turn. To look costs one system call. To be told costs a wake-up of the runtime's thread and one of
//! the scheduler (bench/dns.exs).

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

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
pub struct Look(AtomicU8);

impl Look {
    /// True for one question of the lookup: it is to look as soon as it is sent, and then
    /// [`Look::again`].
    pub fn first(&self) -> bool {
        self.change(NEW, FIRST)
    }

    /// Waits for the second look. Nothing wakes this up: somebody polls who was told to by
    /// [`Look::take_second`].
    pub async fn again(&self) {
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
