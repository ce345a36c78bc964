//! `dns_lookup/3`, `dns_poll/1`, `dns_cancel/1`, `dns_flush/0` and `dns_in_flight/0`: a lookup runs on the
//! runtime and replies by message, unless its answer is found at once.
//!
//! The resource that `dns_lookup` returns is the lookup's reference: the reply is
//! `{reference, {:ok, answer} | {:error, error}}`. It is sent exactly once, or never when `dns_poll`
//! returned the answer or the lookup was cancelled first; `dns_lookup` itself may return the answer instead
//! of a reference.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caravan_core::dns::{
    LookupError, LookupOptions, LookupStart, Outcome, PendingLookup, QueryType, Question, Resolvers,
};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use rustler::thread::is_scheduler_thread;
use rustler::{Binary, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::dns_terms::{self, OptionsTerm, QueryTypeAtom};
use crate::runtime;

/// Lookups under way in the whole VM; one more is answered `:busy`.
const MAX_LOOKUPS: usize = 1_024;

static RESOLVERS: OnceCell<Arc<Resolvers>> = OnceCell::new();
static PERMITS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// One lookup, as the process that asked holds it.
struct Lookup {
    name: Vec<u8>,
    query_type: QueryType,
    /// Set by whoever claims the lookup: its reply, its second look, or its cancellation.
    claimed: AtomicBool,
    pending: Mutex<Option<PendingLookup>>,
}

#[rustler::resource_impl]
impl Resource for Lookup {
    /// Its caller has died.
    fn down<'a>(&'a self, _env: Env<'a>, _caller: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl Lookup {
    /// True for the first caller alone.
    fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire)
    }

    fn cancel(&self) -> bool {
        let cancelled = self.claim();
        if cancelled && let Some(pending) = self.pending.lock().take() {
            pending.cancel();
        }
        cancelled
    }
}

/// Owed to the process that asked. Dropped before it was delivered, as by a panic, it tells of an
/// internal fault, so that nobody waits for nothing.
struct PendingReply {
    lookup: ResourceArc<Lookup>,
    to: LocalPid,
    _permit: SemaphorePermit<'static>,
}

impl PendingReply {
    /// Not on a scheduler's thread: rustler forbids it.
    fn send(&self, outcome: Outcome) {
        let Lookup {
            name, query_type, ..
        } = &*self.lookup;
        if self.lookup.is_claimed() {
            return;
        }
        let mut message_env = OwnedEnv::new();
        // Made first: who finds the lookup claimed waits a few milliseconds for the message.
        let message = message_env.run(|env| {
            let result = dns_terms::result(env, name, *query_type, &outcome);
            message_env.save((self.lookup.clone(), result))
        });
        if self.lookup.claim() {
            // A dead receiver is no error: nobody waits any more.
            let _ = message_env.send_and_clear(&self.to, |env| message.load(env));
        }
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        // A panic of the NIF itself, which returns the fault.
        if !is_scheduler_thread() {
            self.send(Err(LookupError::Internal));
        }
    }
}

/// A reference, `{:ok, answer}` when the answer is at hand, or `{:error, error}` when there is nothing
/// to wait for. Raises `badarg` for arguments that `Caravan.Dns` should not have let through.
#[rustler::nif]
fn dns_lookup<'a>(
    env: Env<'a>,
    name: Binary<'a>,
    query_type: QueryTypeAtom,
    options: OptionsTerm,
) -> rustler::NifResult<Term<'a>> {
    let query_type = QueryType::from(query_type);
    let options = LookupOptions::try_from(options)?;
    let question = match Question::new(&name, query_type) {
        Ok(question) => question,
        Err(reason) => return Ok(dns_terms::bad_name(env, &name, query_type, reason)),
    };
    let started = catch_unwind(AssertUnwindSafe(|| {
        start(env, &name, question, query_type, options)
    }));
    let started = started.unwrap_or(Err(LookupError::Internal));
    Ok(started.unwrap_or_else(|error| dns_terms::result(env, &name, query_type, &Err(error))))
}

/// `{:ok, answer}` if that has come, else the reference: from now on the lookup will reply. To be called
/// once for each reference, best after other processes had their turn: until then nobody watches for it.
#[rustler::nif]
fn dns_poll<'a>(env: Env<'a>, lookup: ResourceArc<Lookup>) -> Term<'a> {
    let poll = || lookup.pending.lock().as_ref().and_then(PendingLookup::poll);
    let outcome = match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(None) => {
            // Not earlier: a monitor costs a lookup a tenth of its time.
            if env.monitor(&lookup, &env.pid()).is_none() {
                lookup.cancel();
            }
            return lookup.encode(env);
        }
        Ok(Some(answer)) => {
            lookup.claim();
            Ok(answer)
        }
        Err(_panic) => {
            lookup.cancel();
            Err(LookupError::Internal)
        }
    };
    dns_terms::result(env, &lookup.name, lookup.query_type, &outcome)
}

/// True when the lookup will not reply any more; false when its reply was already sent.
#[rustler::nif]
fn dns_cancel(lookup: ResourceArc<Lookup>) -> bool {
    lookup.cancel()
}

/// Closes the sockets and connections that no lookup is using.
#[rustler::nif]
fn dns_flush() -> rustler::Atom {
    if let Some(resolvers) = RESOLVERS.get() {
        resolvers.flush();
    }
    rustler::types::atom::ok()
}

/// `{lookups in flight, tasks on the runtime}`. For tests.
#[rustler::nif]
fn dns_in_flight() -> (usize, usize) {
    let tasks = runtime::handle().map_or(0, |handle| handle.metrics().num_alive_tasks());
    (MAX_LOOKUPS - PERMITS.available_permits(), tasks)
}

fn start<'a>(
    env: Env<'a>,
    name: &Binary<'a>,
    question: Question,
    query_type: QueryType,
    options: LookupOptions,
) -> Result<Term<'a>, LookupError> {
    let lookup = ResourceArc::new(Lookup {
        name: name.to_vec(),
        query_type,
        claimed: AtomicBool::new(false),
        pending: Mutex::new(None),
    });
    let reply = PendingReply {
        lookup: lookup.clone(),
        to: env.pid(),
        _permit: PERMITS.try_acquire().map_err(|_| LookupError::Busy)?,
    };
    #[cfg(feature = "panics")]
    assert_ne!(name.as_slice(), b"panic-in-nif.invalid");
    match resolvers()?.start(question, options, move |outcome| reply.send(outcome)) {
        // Nobody can cancel it before this returns.
        LookupStart::Pending(pending) => *lookup.pending.lock() = Some(pending),
        LookupStart::Answered(answer) => {
            return Ok(dns_terms::result(env, name, query_type, &Ok(answer)));
        }
    }
    Ok(lookup.encode(env))
}

fn resolvers() -> Result<&'static Arc<Resolvers>, LookupError> {
    RESOLVERS.get_or_try_init(|| {
        let runtime = runtime::handle().map_err(|_| LookupError::Internal)?;
        Ok(Resolvers::new(runtime.clone()))
    })
}
