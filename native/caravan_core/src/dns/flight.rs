//! Lookups under way: those that ask the same share one.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::inline_poll::InlineTask;
use super::{Answer, LookupError, LookupOptions, Question};

/// A lookup is joined within this part of its timeout: whoever joins has its deadline.
const JOINABLE: u32 = 10;

/// What a lookup ends with.
pub type Outcome = Result<Arc<Answer>, LookupError>;

/// What is asked, of whom, and how: equal keys have equal answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub question: Question,
    pub options: Arc<LookupOptions>,
}

impl Hash for Key {
    /// Names tell keys apart well enough; the options of a VM are a few.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.question.hash(state);
    }
}

/// Takes the outcome of a lookup.
pub trait Waiter: Send + 'static {
    /// Called on the runtime's thread, once, unless `discard` is.
    fn deliver(self: Box<Self>, outcome: &Outcome);

    /// Called instead: nobody waits any more, or they have the outcome in hand.
    fn discard(self: Box<Self>);
}

/// All lookups under way.
pub struct Flights {
    runtime: Handle,
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    by_number: HashMap<u64, Flight>,
    /// Those that others may join.
    newest: HashMap<Key, u64>,
}

/// Each with its number, of which its ticket has a copy.
type Waiters = Vec<(u64, Box<dyn Waiter>)>;

struct Flight {
    key: Key,
    start: Instant,
    task: Arc<InlineTask<Outcome>>,
    waiters: Waiters,
    last_waiter: u64,
}

/// One waiter's place in a lookup under way.
pub struct Ticket {
    flights: Arc<Flights>,
    flight: u64,
    waiter: u64,
}

impl Flights {
    /// Waiters that cannot be served where an outcome was found are served on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            under_way: Mutex::default(),
        }
    }

    /// Waits for a lookup with `key`. When there is none to join, `make` makes the task of one with this
    /// number, which is returned to be started, and ends in [`Flights::land`] or [`Ticket::land_here`].
    pub fn board(
        self: &Arc<Self>,
        key: Key,
        number: u64,
        waiter: Box<dyn Waiter>,
        make: impl FnOnce() -> Arc<InlineTask<Outcome>>,
    ) -> (Ticket, Option<Arc<InlineTask<Outcome>>>) {
        let mut under_way = self.under_way.lock();
        let mut made = None;
        let number = under_way.joinable(&key).unwrap_or(number);
        let UnderWay { by_number, newest } = &mut *under_way;
        let flight = by_number.entry(number).or_insert_with(|| {
            newest.insert(key.clone(), number);
            let task = make();
            made = Some(Arc::clone(&task));
            Flight {
                key,
                start: Instant::now(),
                task,
                waiters: Vec::with_capacity(1),
                last_waiter: 0,
            }
        });
        flight.last_waiter += 1;
        flight.waiters.push((flight.last_waiter, waiter));
        let ticket = Ticket {
            flights: Arc::clone(self),
            flight: number,
            waiter: flight.last_waiter,
        };
        (ticket, made)
    }

    /// Hands the outcome to all who wait for it. On the runtime's thread.
    pub fn land(&self, number: u64, outcome: &Outcome) {
        for (_, waiter) in self.close(number) {
            waiter.deliver(outcome);
        }
    }

    /// From now on nobody joins what is under way.
    pub fn forget(&self) {
        let forgotten = std::mem::take(&mut self.under_way.lock().newest);
        drop(forgotten);
    }

    fn close(&self, number: u64) -> Waiters {
        let flight = self.under_way.lock().remove(number);
        flight.map(|flight| flight.waiters).unwrap_or_default()
    }

    fn task(&self, number: u64) -> Option<Arc<InlineTask<Outcome>>> {
        let under_way = self.under_way.lock();
        Some(Arc::clone(&under_way.by_number.get(&number)?.task))
    }

    /// Lookups under way.
    pub fn len(&self) -> usize {
        self.under_way.lock().by_number.len()
    }
}

impl UnderWay {
    /// Young enough for its deadline to be nearly that of whoever joins.
    fn joinable(&self, key: &Key) -> Option<u64> {
        let number = *self.newest.get(key)?;
        let flight = self.by_number.get(&number)?;
        (flight.start.elapsed() <= key.options.timeout / JOINABLE).then_some(number)
    }

    fn remove(&mut self, number: u64) -> Option<Flight> {
        let flight = self.by_number.remove(&number)?;
        if self.newest.get(&flight.key) == Some(&number) {
            self.newest.remove(&flight.key);
        }
        Some(flight)
    }
}

impl Ticket {
    /// Looks whether the answer has come. To be called once, and soon, best after something else was
    /// done: until then nobody watches for it. Nothing: the waiter will have the outcome.
    pub fn poll(&self) -> Option<Arc<Answer>> {
        let task = self.flights.task(self.flight)?;
        let outcome = task.poll_second()?;
        self.land_here(outcome)
    }

    /// Ends the lookup. A short answer goes to the holder of this from here; all else, to all others,
    /// from the runtime.
    pub fn land_here(&self, outcome: Outcome) -> Option<Arc<Answer>> {
        let mut waiters = self.flights.close(self.flight);
        let answer = outcome.as_ref().ok().filter(|answer| answer.is_short());
        let answer = answer.cloned();
        if answer.is_some()
            && let Some(waiter) = self.take_out(&mut waiters)
        {
            waiter.discard();
        }
        if !waiters.is_empty() {
            self.flights.runtime.spawn(async move {
                for (_, waiter) in waiters {
                    waiter.deliver(&outcome);
                }
            });
        }
        answer
    }

    fn take_out(&self, waiters: &mut Waiters) -> Option<Box<dyn Waiter>> {
        let mut numbers = waiters.iter().map(|(number, _)| *number);
        let place = numbers.position(|number| number == self.waiter)?;
        Some(waiters.swap_remove(place).1)
    }

    /// Leaves; the last to leave ends the lookup.
    pub fn cancel(&self) {
        let (waiter, flight) = {
            let mut under_way = self.flights.under_way.lock();
            let Some(flight) = under_way.by_number.get_mut(&self.flight) else {
                return;
            };
            let waiter = self.take_out(&mut flight.waiters);
            let is_last = flight.waiters.is_empty();
            // Let go of outside of the lock, both.
            (
                waiter,
                is_last.then(|| under_way.remove(self.flight)).flatten(),
            )
        };
        if let Some(waiter) = waiter {
            waiter.discard();
        }
        if let Some(flight) = flight {
            flight.task.cancel();
        }
    }
}
