//! `dns_lookup/3`, `dns_poll/1`, `dns_cancel/1`, `dns_flush/0` and `dns_in_flight/0`: a lookup runs on the
//! runtime and replies by message, unless its answer is found at once.
//!
//! The resource that `dns_lookup` returns is the lookup's reference: the reply is
//! `{reference, {:ok, answer} | {:error, error}}`. It is sent exactly once, or never when `dns_poll`
//! returned the answer or the lookup was cancelled first; `dns_lookup` itself may return the answer instead
//! of a reference.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

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

/// Records, and addresses of their targets, that a scheduler has the time to encode. A larger answer is encoded
/// on the runtime's thread.
const INLINE_LIMIT: usize = 128;

static RESOLVERS: OnceCell<Arc<Resolvers>> = OnceCell::new();
static PERMITS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// One lookup, as the reference of its caller holds it.
struct Lookup {
    reply: Arc<Reply>,
    pending: PendingLookup,
}

#[rustler::resource_impl]
impl Resource for Lookup {
    /// The caller has died.
    fn down<'a>(&'a self, _env: Env<'a>, _caller: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl Lookup {
    /// True if the lookup will not reply.
    fn cancel(&self) -> bool {
        let cancelled = self.reply.claim();
        if cancelled {
            self.pending.cancel();
        }
        cancelled
    }
}

impl Drop for Lookup {
    /// A caller that dies before `dns_poll` is not monitored yet, but held the only reference.
    fn drop(&mut self) {
        self.cancel();
    }
}

/// What a lookup owes its caller.
struct Reply {
    name: Vec<u8>,
    query_type: QueryType,
    caller: LocalPid,
    state: Mutex<ReplyState>,
}

enum ReplyState {
    /// The caller has not called `dns_poll`. An outcome that comes earlier waits here.
    Unpolled(Option<Outcome>),
    /// The outcome will be sent under this reference.
    Owed(ResourceArc<Lookup>),
    /// The outcome was returned or sent, or the lookup was cancelled.
    Claimed,
}

impl Reply {
    /// True for the first call alone.
    fn claim(&self) -> bool {
        // The old state is dropped when the lock is free: it may hold the last reference, and the drop of
        // that claims again.
        let state = mem::replace(&mut *self.state.lock(), ReplyState::Claimed);
        !matches!(state, ReplyState::Claimed)
    }

    /// Has the outcome sent as a message from now on.
    fn owe(self: &Arc<Self>, reference: &ResourceArc<Lookup>) {
        let mut state = self.state.lock();
        let ReplyState::Unpolled(outcome) = &mut *state else {
            return;
        };
        let outcome = outcome.take();
        *state = ReplyState::Owed(reference.clone());
        if let (Some(outcome), Ok(runtime)) = (outcome, runtime::handle()) {
            let reply = Arc::clone(self);
            runtime.spawn(async move { reply.deliver(outcome) });
        }
    }

    /// Not on a scheduler's thread: rustler forbids to send from there.
    fn deliver(&self, outcome: Outcome) {
        let reference = match &mut *self.state.lock() {
            ReplyState::Unpolled(waiting) => {
                waiting.get_or_insert(outcome);
                return;
            }
            ReplyState::Owed(reference) => reference.clone(),
            ReplyState::Claimed => return,
        };
        let mut message_env = OwnedEnv::new();
        // Made before the claim: a caller that finds the lookup claimed waits a few milliseconds for it.
        let message = message_env.run(|env| {
            let result = dns_terms::result(env, &self.name, self.query_type, &outcome);
            message_env.save((reference, result))
        });
        if self.claim() {
            // It fails if the caller has died.
            let _ = message_env.send_and_clear(&self.caller, |env| message.load(env));
        }
    }
}

/// Given to the lookup. If it is dropped without an outcome, as by a panic, the outcome is an internal
/// error.
struct PendingReply {
    reply: Arc<Reply>,
    _permit: SemaphorePermit<'static>,
}

impl PendingReply {
    fn deliver(self, outcome: Outcome) {
        self.reply.deliver(outcome);
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        // On a scheduler's thread, a NIF has claimed the reply, or is about to.
        if !is_scheduler_thread() {
            self.reply.deliver(Err(LookupError::Internal));
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
    let Reply {
        name,
        query_type,
        caller,
        ..
    } = &*lookup.reply;
    match catch_unwind(AssertUnwindSafe(|| lookup.pending.poll())) {
        Ok(Some(answer)) if lookup.reply.claim() => {
            return dns_terms::result(env, name, *query_type, &Ok(answer));
        }
        Ok(_) => {}
        Err(_panic) => {
            lookup.cancel();
            return dns_terms::result(env, name, *query_type, &Err(LookupError::Internal));
        }
    }
    lookup.reply.owe(&lookup);
    // Not earlier: a monitor costs a lookup a tenth of its time.
    if env.monitor(&lookup, caller).is_none() {
        lookup.cancel();
    }
    lookup.encode(env)
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
    let reply = Arc::new(Reply {
        name: name.to_vec(),
        query_type,
        caller: env.pid(),
        state: Mutex::new(ReplyState::Unpolled(None)),
    });
    let pending_reply = PendingReply {
        reply: Arc::clone(&reply),
        _permit: PERMITS.try_acquire().map_err(|_| LookupError::Busy)?,
    };
    #[cfg(feature = "panics")]
    assert_ne!(name.as_slice(), b"panic-in-nif.invalid");
    let started = resolvers()?.start(question, options, |outcome| pending_reply.deliver(outcome));
    Ok(match started {
        LookupStart::Answered(answer) => dns_terms::result(env, name, query_type, &Ok(answer)),
        LookupStart::Pending(pending) => ResourceArc::new(Lookup { reply, pending }).encode(env),
    })
}

fn resolvers() -> Result<&'static Arc<Resolvers>, LookupError> {
    RESOLVERS.get_or_try_init(|| {
        let runtime = runtime::handle().map_err(|_| LookupError::Internal)?;
        Ok(Resolvers::new(runtime.clone(), INLINE_LIMIT))
    })
}
