//! The resolvers that lookups share, one per [`Settings`].

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use parking_lot::RwLock;
use tokio::time::{Instant, timeout_at};

use super::{Answer, LookupError, Question, Settings};

/// Resolvers kept at a time; past that the one made first goes.
pub const MAX_RESOLVERS: usize = 32;

/// What the system's configuration is read from. hickory reads them once; a changed file makes a
/// new resolver here.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Modification time and size of each of [`SYSTEM_FILES`].
type Fingerprint = [Option<(SystemTime, u64)>; SYSTEM_FILES.len()];

struct Kept {
    settings: Settings,
    fingerprint: Option<Fingerprint>,
    resolver: Arc<TokioResolver>,
}

/// A bounded set of resolvers. Lookups have to run inside a tokio runtime.
#[derive(Default)]
pub struct Resolvers {
    kept: RwLock<Vec<Kept>>,
}

impl Resolvers {
    /// Asks `question`; the answer or the reason is there at `deadline` at the latest.
    pub async fn lookup(
        &self,
        question: Question,
        settings: &Settings,
        deadline: Instant,
    ) -> Result<Answer, LookupError> {
        let resolver = self.resolver(settings)?;
        let Question { name, kind } = question;
        match timeout_at(deadline, resolver.lookup(name, kind.into())).await {
            Ok(Ok(lookup)) => Answer::from_lookup(&lookup, kind),
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Err(LookupError::Timeout),
        }
    }

    fn resolver(&self, settings: &Settings) -> Result<Arc<TokioResolver>, LookupError> {
        let fingerprint = settings.is_system().then(fingerprint);
        let is_current =
            |kept: &&Kept| kept.settings == *settings && kept.fingerprint == fingerprint;

        if let Some(kept) = self.kept.read().iter().find(is_current) {
            return Ok(Arc::clone(&kept.resolver));
        }
        let resolver = Arc::new(build(settings)?);
        let mut all = self.kept.write();
        all.retain(|kept| kept.settings != *settings);
        if all.len() == MAX_RESOLVERS {
            all.remove(0);
        }
        all.push(Kept {
            settings: settings.clone(),
            fingerprint,
            resolver: Arc::clone(&resolver),
        });
        Ok(resolver)
    }
}

fn build(settings: &Settings) -> Result<TokioResolver, LookupError> {
    let (config, options) = settings.resolve()?;
    let provider = TokioRuntimeProvider::default();
    let builder = Resolver::builder_with_config(config, provider).with_options(options);
    builder.build().map_err(LookupError::from)
}

fn fingerprint() -> Fingerprint {
    SYSTEM_FILES.map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}
