//! `dns_lookup/5` and `dns_cancel/1`: a lookup runs as a task and replies by message.
//!
//! The resource that `dns_lookup` returns is the lookup's reference: the reply is
//! `{reference, {:ok, answer} | {:error, error}}`. It is sent exactly once, or never when the lookup
//! was cancelled first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use caravan_core::dns::{Answer, Kind, LookupError, Question, Resolvers, Settings};
use once_cell::sync::Lazy;
use parking_lot::Mutex;
use rustler::{Binary, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::lookup_terms::{self, KindName, SettingsTerm};
use crate::runtime;

/// Lookups under way in the whole VM; one more is answered `:busy`.
const MAX_LOOKUPS: usize = 1_024;

static RESOLVERS: Lazy<Resolvers> = Lazy::new(Resolvers::default);
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// One lookup, as the process that asked holds it.
struct Lookup {
    /// Set by whoever settles the lookup: its reply, or its cancellation.
    settled: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

#[rustler::resource_impl]
impl Resource for Lookup {
    const IMPLEMENTS_DOWN: bool = true;

    /// The process that asked has died.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl Lookup {
    /// True for the first caller alone.
    fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    fn cancel(&self) -> bool {
        let cancelled = self.settle();
        if cancelled && let Some(task) = self.task.lock().take() {
            task.abort();
        }
        cancelled
    }
}

/// A place among the lookups under way.
struct Place;

impl Place {
    fn take() -> Result<Self, LookupError> {
        // Made first: a place too many is given back by its drop.
        let place = Self;
        if LOOKUPS.fetch_add(1, Ordering::Relaxed) < MAX_LOOKUPS {
            Ok(place)
        } else {
            Err(LookupError::Busy)
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Owed to the process that asked. Dropped without [`Reply::send`], as by a panic, it tells of an
/// internal fault, so that nobody waits for nothing.
struct Reply {
    lookup: ResourceArc<Lookup>,
    to: LocalPid,
    name: Vec<u8>,
    kind: Kind,
    _place: Place,
}

impl Reply {
    fn send(self, result: Result<Answer, LookupError>) {
        self.settle_with(result);
    }

    fn settle_with(&self, result: Result<Answer, LookupError>) {
        if self.lookup.settle() {
            // A dead receiver is no error: nobody waits any more.
            let _ = OwnedEnv::new().send_and_clear(&self.to, |env| {
                let result = lookup_terms::result(env, &self.name, self.kind, result);
                (self.lookup.clone(), result).encode(env)
            });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.settle_with(Err(LookupError::Internal));
    }
}

/// A reference, or `{:error, error}` when there is nothing to wait for. Raises `badarg` for
/// arguments that `Caravan.Dns` should not have let through.
#[rustler::nif]
fn dns_lookup<'a>(
    env: Env<'a>,
    name: Binary<'a>,
    kind: KindName,
    settings: SettingsTerm,
) -> rustler::NifResult<Term<'a>> {
    let kind = Kind::from(kind);
    let settings = Settings::try_from(settings)?;
    let question = match Question::new(&name, kind) {
        Ok(question) => question,
        Err(reason) => return Ok(lookup_terms::bad_name(env, &name, kind, reason)),
    };
    let started = catch_unwind(AssertUnwindSafe(|| {
        start(env, name.to_vec(), question, kind, settings)
    }));
    Ok(match started.unwrap_or(Err(LookupError::Internal)) {
        Ok(lookup) => lookup.encode(env),
        Err(error) => lookup_terms::result(env, &name, kind, Err(error)),
    })
}

/// True when the lookup will not reply any more; false when its reply was already sent.
#[rustler::nif]
fn dns_cancel(lookup: ResourceArc<Lookup>) -> bool {
    lookup.cancel()
}

fn start(
    env: Env,
    name: Vec<u8>,
    question: Question,
    kind: Kind,
    settings: Settings,
) -> Result<ResourceArc<Lookup>, LookupError> {
    let runtime = runtime::handle().map_err(|_| LookupError::Internal)?;
    let place = Place::take()?;
    let deadline = Instant::now() + settings.timeout;
    let lookup = ResourceArc::new(Lookup {
        settled: AtomicBool::new(false),
        task: Mutex::new(None),
    });
    let caller = env.pid();
    let reply = Reply {
        lookup: lookup.clone(),
        to: caller,
        name,
        kind,
        _place: place,
    };
    // Held while the task starts, so that the caller's death finds the handle.
    let mut task = lookup.task.lock();
    let running = runtime.spawn(async move {
        let result = RESOLVERS.lookup(question, &settings, deadline).await;
        reply.send(result);
    });
    *task = Some(running.abort_handle());
    drop(task);
    env.monitor(&lookup, &caller);
    Ok(lookup)
}
