//! The NIFs `dns_lookup/4`, `dns_poll/1`, `dns_cancel/1`, `dns_flush/0` and `dns_in_flight/0`.
//!
//! A lookup has two phases. First it is polled on the caller's thread: `dns_lookup` and `dns_poll` return the answer
//! if it is there. Otherwise they return the lookup's reference, and after `dns_poll` the outcome comes as the message
//! `{reference, {:ok, answer} | {:error, error}}`. The caller gets one outcome, returned or sent, or none if it
//! cancels the lookup first.

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

use crate::dns_terms::{self, OptionsTerm, QueryTypeAtom, Wanted};
use crate::runtime;

/// Maximum number of lookups in flight in the VM. One more has the error `:busy`.
const MAX_LOOKUPS: usize = 1_024;

/// Maximum size of an answer, in records and addresses of their targets, that a NIF returns. Encoding a larger answer
/// takes a scheduler too long, so it is encoded and sent on the runtime's thread.
const INLINE_LIMIT: usize = 128;

static RESOLVERS: OnceCell<Arc<Resolvers>> = OnceCell::new();
static PERMITS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// One lookup. The reference of its caller is a resource that holds it.
struct Lookup {
    reply: Arc<Reply>,
    pending: PendingLookup,
}

#[rustler::resource_impl]
impl Resource for Lookup {
    /// Called when the caller dies after `dns_poll`, which monitors it.
    fn down<'a>(&'a self, _env: Env<'a>, _caller: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl Lookup {
    /// Returns true if this call ended the lookup: no outcome will come.
    fn cancel(&self) -> bool {
        let cancelled = self.reply.claim();
        if cancelled {
            self.pending.cancel();
        }
        cancelled
    }
}

impl Drop for Lookup {
    /// Cancels a lookup whose caller died before `dns_poll`: until then, the caller has the only reference. After an
    /// outcome, it does nothing.
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The outcome that a lookup owes its caller.
struct Reply {
    name: Vec<u8>,
    query_type: QueryType,
    wanted: Wanted,
    caller: LocalPid,
    state: Mutex<ReplyState>,
}

enum ReplyState {
    /// The caller has not called `dns_poll` yet. If the outcome comes first, it is stored here.
    Unpolled(Option<Outcome>),
    /// The outcome will be sent under this reference.
    Owed(ResourceArc<Lookup>),
    /// The outcome was returned or sent, or the lookup was cancelled.
    Claimed,
}

impl Reply {
    /// Takes the right to return, send or drop the outcome. Returns true for the first call only.
    fn claim(&self) -> bool {
        // The old state is dropped after the lock is released. It may hold the last reference, whose drop calls this
        // function again.
        let state = mem::replace(&mut *self.state.lock(), ReplyState::Claimed);
        !matches!(state, ReplyState::Claimed)
    }

    fn result<'a>(&self, env: Env<'a>, outcome: &Outcome) -> Term<'a> {
        dns_terms::result(env, &self.name, self.query_type, self.wanted, outcome)
    }

    /// Ends the first phase: from now on the outcome is sent as a message.
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

    /// Sends the outcome, or stores it during the first phase. Must not run on a scheduler's thread, because rustler
    /// cannot send from there.
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
        // The message is encoded before the claim. After the claim, the caller cannot cancel, and waits only a few
        // milliseconds for the message.
        let message = message_env.run(|env| {
            let result = self.result(env, &outcome);
            message_env.save((reference, result))
        });
        if self.claim() {
            // An error means that the caller has died.
            let _ = message_env.send_and_clear(&self.caller, |env| message.load(env));
        }
    }
}

/// Delivers the outcome of a lookup, once. If it is dropped before, because of a panic, the outcome is
/// [`LookupError::Internal`].
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
        // On a scheduler's thread, a NIF returns the outcome itself, even after a panic, or the lookup was cancelled.
        if !is_scheduler_thread() {
            self.reply.deliver(Err(LookupError::Internal.into()));
        }
    }
}

/// Starts a lookup and polls it. Returns the reference of the lookup, or its outcome if known: `{:error, error}`, or
/// the answer in the form that [`Wanted`] says. Raises `badarg` for arguments that `Caravan.Dns` does not pass.
#[rustler::nif]
fn dns_lookup<'a>(
    env: Env<'a>,
    name: Binary<'a>,
    query_type: QueryTypeAtom,
    options: OptionsTerm,
    wanted: Wanted,
) -> rustler::NifResult<Term<'a>> {
    let query_type = QueryType::from(query_type);
    let options = LookupOptions::try_from(options)?;
    let question = match Question::new(&name, query_type) {
        Ok(question) => question,
        Err(reason) => return Ok(dns_terms::bad_name(env, &name, query_type, reason)),
    };
    let reply = Arc::new(Reply {
        name: name.to_vec(),
        query_type,
        wanted,
        caller: env.pid(),
        state: Mutex::new(ReplyState::Unpolled(None)),
    });
    let started = catch_unwind(AssertUnwindSafe(|| start(env, &reply, question, options)));
    let started = started.unwrap_or(Err(LookupError::Internal));
    Ok(started.unwrap_or_else(|error| reply.result(env, &Err(error.into()))))
}

/// Polls a lookup a second time. Returns `{:ok, answer}`, `{:error, error}` after a panic, or the reference if the
/// outcome will come as a message. The caller must call this function exactly once, because no outcome is sent before.
/// The caller yields first, so that the answer has more time to arrive.
#[rustler::nif]
fn dns_poll<'a>(env: Env<'a>, lookup: ResourceArc<Lookup>) -> Term<'a> {
    let reply = &lookup.reply;
    match catch_unwind(AssertUnwindSafe(|| lookup.pending.poll())) {
        Ok(Some(answer)) if reply.claim() => return reply.result(env, &Ok(answer)),
        Ok(_) => {}
        Err(_panic) => {
            lookup.cancel();
            return reply.result(env, &Err(LookupError::Internal.into()));
        }
    }
    reply.owe(&lookup);
    // The monitor is set only now, because it costs a tenth of the time of a lookup.
    if env.monitor(&lookup, &reply.caller).is_none() {
        lookup.cancel();
    }
    lookup.encode(env)
}

/// Ends a lookup. Returns true if this call ended it: no message will come. Returns false if it had ended before. Its
/// message may still be on the way.
#[rustler::nif]
fn dns_cancel(lookup: ResourceArc<Lookup>) -> bool {
    lookup.cancel()
}

/// Closes the sockets and connections that no lookup is using. Returns `:ok`.
#[rustler::nif]
fn dns_flush() -> rustler::Atom {
    if let Some(resolvers) = RESOLVERS.get() {
        resolvers.flush();
    }
    rustler::types::atom::ok()
}

/// Returns `{lookups in flight, tasks on the runtime}`. For tests.
#[rustler::nif]
fn dns_in_flight() -> (usize, usize) {
    let tasks = runtime::handle().map_or(0, |handle| handle.metrics().num_alive_tasks());
    (MAX_LOOKUPS - PERMITS.available_permits(), tasks)
}

fn start<'a>(
    env: Env<'a>,
    reply: &Arc<Reply>,
    question: Question,
    options: LookupOptions,
) -> Result<Term<'a>, LookupError> {
    let pending_reply = PendingReply {
        reply: Arc::clone(reply),
        _permit: PERMITS.try_acquire().map_err(|_| LookupError::Busy)?,
    };
    #[cfg(feature = "panics")]
    assert_ne!(reply.name.as_slice(), b"panic-in-nif.invalid");
    let deliver = Box::new(|outcome| pending_reply.deliver(outcome));
    let started = resolvers()?.start(question, options, deliver);
    Ok(match started {
        LookupStart::Answered(answer) => reply.result(env, &Ok(answer)),
        LookupStart::Pending(pending) => {
            let reply = Arc::clone(reply);
            ResourceArc::new(Lookup { reply, pending }).encode(env)
        }
    })
}

fn resolvers() -> Result<&'static Arc<Resolvers>, LookupError> {
    RESOLVERS.get_or_try_init(|| {
        let runtime = runtime::handle().map_err(|error| LookupError::no_runtime(&error))?;
        Ok(Resolvers::new(runtime.clone(), INLINE_LIMIT))
    })
}
