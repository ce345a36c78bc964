//! What lookups share: one [`Upstream`] for each [`Settings`].

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::time::{Instant, timeout_at};

use super::system::{Fingerprint, fingerprint};
use super::upstream::Upstream;
use super::{Answer, LookupError, Question, Settings};

/// Resolvers kept at a time; past that the one made first goes.
pub const MAX_RESOLVERS: usize = 32;

struct Kept {
    settings: Settings,
    /// Of the system's files, where they were read: when they change, a new one is made.
    fingerprint: Option<Fingerprint>,
    upstream: Arc<Upstream>,
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
        let upstream = self.upstream(settings)?;
        timeout_at(deadline, upstream.lookup(question, deadline))
            .await
            .unwrap_or(Err(LookupError::Timeout))
    }

    fn upstream(&self, settings: &Settings) -> Result<Arc<Upstream>, LookupError> {
        let fingerprint = settings.is_system().then(fingerprint);
        let is_current =
            |kept: &&Kept| kept.settings == *settings && kept.fingerprint == fingerprint;

        if let Some(kept) = self.kept.read().iter().find(is_current) {
            return Ok(Arc::clone(&kept.upstream));
        }
        let upstream = Arc::new(Upstream::new(settings)?);
        let mut all = self.kept.write();
        all.retain(|kept| kept.settings != *settings);
        if all.len() == MAX_RESOLVERS {
            all.remove(0);
        }
        all.push(Kept {
            settings: settings.clone(),
            fingerprint,
            upstream: Arc::clone(&upstream),
        });
        Ok(upstream)
    }
}
