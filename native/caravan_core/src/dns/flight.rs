//! Lookups under way: those that ask the same share one.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::task::Task;
use super::{Answer, LookupError, Question, Settings};

/// What a lookup ends with.
pub type Outcome = Result<Arc<Answer>, LookupError>;

/// What is asked, of whom, and how: equal keys have equal answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub question: Question,
    pub settings: Arc<Settings>,
}

impl Hash for Key {
    /// Names tell keys apart well enough; the settings of a VM are a few.
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

    /// False once there is nobody left to wait. Called on the runtime's thread, now and then.
    fn is_waiting(&self) -> bool;
}

/// All lookups under way.
pub struct Flights {
    runtime: Handle,
    by_key: Mutex<HashMap<Key, Flight>>,
}

/// Each with its number, of which its ticket has a copy.
type Waiters = Vec<(u64, Box<dyn Waiter>)>;

struct Flight {
    /// Of one flight, so that nobody ends a later one of the same key.
    number: u64,
    task: Arc<Task<Outcome>>,
    waiters: Waiters,
    last_waiter: u64,
}

/// One waiter's place in a lookup under way.
pub struct Ticket {
    flights: Arc<Flights>,
    key: Key,
    flight: u64,
    waiter: u64,
}

impl Flights {
    /// Waiters that cannot be served where an outcome was found are served on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            by_key: Mutex::default(),
        }
    }

    /// Waits for a lookup with `key`. When none is under way, `make` makes its task, which is returned to
    /// be started, and ends in [`Flights::land`] or [`Ticket::land_here`].
    pub fn board(
        self: &Arc<Self>,
        key: Key,
        number: u64,
        waiter: Box<dyn Waiter>,
        make: impl FnOnce() -> Arc<Task<Outcome>>,
    ) -> (Ticket, Option<Arc<Task<Outcome>>>) {
        let mut by_key = self.by_key.lock();
        let mut made = None;
        let flight = by_key.entry(key.clone()).or_insert_with(|| {
            let task = make();
            made = Some(Arc::clone(&task));
            Flight {
                number,
                task,
                waiters: Vec::with_capacity(1),
                last_waiter: 0,
            }
        });
        flight.last_waiter += 1;
        flight.waiters.push((flight.last_waiter, waiter));
        let ticket = Ticket {
            flights: Arc::clone(self),
            key,
            flight: flight.number,
            waiter: flight.last_waiter,
        };
        (ticket, made)
    }

    /// Hands the outcome to all who wait for it. On the runtime's thread.
    pub fn land(&self, key: &Key, number: u64, outcome: &Outcome) {
        for (_, waiter) in self.close(key, number) {
            waiter.deliver(outcome);
        }
    }

    /// Ends what nobody waits for any more.
    pub fn sweep(&self) {
        let (mut gone, mut ended) = (Vec::new(), Vec::new());
        let mut by_key = self.by_key.lock();
        for flight in by_key.values_mut() {
            gone.extend(
                flight
                    .waiters
                    .extract_if(.., |(_, waiter)| !waiter.is_waiting()),
            );
        }
        ended.extend(by_key.extract_if(|_, flight| flight.waiters.is_empty()));
        drop(by_key);
        for (_, waiter) in gone {
            waiter.discard();
        }
        for (_, flight) in ended {
            flight.task.cancel();
        }
    }

    fn close(&self, key: &Key, number: u64) -> Waiters {
        let mut by_key = self.by_key.lock();
        match by_key.get(key) {
            Some(flight) if flight.number == number => by_key.remove(key),
            _ => None,
        }
        .map(|flight| flight.waiters)
        .unwrap_or_default()
    }

    fn task(&self, key: &Key, number: u64) -> Option<Arc<Task<Outcome>>> {
        let by_key = self.by_key.lock();
        let flight = by_key.get(key)?;
        (flight.number == number).then(|| Arc::clone(&flight.task))
    }

    /// Lookups under way.
    pub fn len(&self) -> usize {
        self.by_key.lock().len()
    }
}

impl Ticket {
    /// Looks whether the answer has come. To be called once, and soon, best after something else was
    /// done: until then nobody watches for it. Nothing: the waiter will have the outcome.
    pub fn look(&self) -> Option<Arc<Answer>> {
        let task = self.flights.task(&self.key, self.flight)?;
        let outcome = task.look_here()?;
        self.land_here(outcome)
    }

    /// Ends the lookup. A short answer goes to the holder of this from here; all else, to all others,
    /// from the runtime.
    pub fn land_here(&self, outcome: Outcome) -> Option<Arc<Answer>> {
        let mut waiters = self.flights.close(&self.key, self.flight);
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
            let mut by_key = self.flights.by_key.lock();
            let Some(flight) = by_key.get_mut(&self.key) else {
                return;
            };
            if flight.number != self.flight {
                return;
            }
            let waiter = self.take_out(&mut flight.waiters);
            let is_last = flight.waiters.is_empty();
            // Let go of outside of the lock, both.
            (waiter, is_last.then(|| by_key.remove(&self.key)).flatten())
        };
        if let Some(waiter) = waiter {
            waiter.discard();
        }
        if let Some(flight) = flight {
            flight.task.cancel();
        }
    }
}
