//! Answers kept for as long as their TTL says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::flight::Key;
use super::system_config::ConfigStamp;
use super::{Answer, LookupOptions};

/// Records kept, and addresses of their targets; an answer that has no room left drives all others out.
pub const MAX_CACHED_RECORDS: usize = 16_384;

/// The answers of all lookups that may be kept.
#[derive(Default)]
pub struct Cache {
    kept: Mutex<Entries>,
}

#[derive(Default)]
pub struct Entries {
    by_key: HashMap<Key, Entry>,
    weight: usize,
}

struct Entry {
    answer: Arc<Answer>,
    /// Of the files that said whom to ask, and how.
    files: ConfigStamp,
    until: Instant,
}

impl Cache {
    /// The answer, and the seconds for which it still holds.
    pub fn get(&self, key: &Key, files: &ConfigStamp, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let kept = self.kept.lock();
        let entry = kept.by_key.get(key)?;
        let left = entry.until.checked_duration_since(now)?;
        if entry.files != *files || left.is_zero() {
            return None;
        }
        let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
        Some((Arc::clone(&entry.answer), seconds))
    }

    /// Keeps `answer`, if it is complete, for its TTL within the bounds that its lookup gave. What had to go for it is
    /// returned: to drop so much takes milliseconds.
    #[must_use]
    pub fn put(
        &self,
        key: Key,
        files: ConfigStamp,
        answer: &Arc<Answer>,
        options: &LookupOptions,
    ) -> Option<Entries> {
        let bounds = options.cache?;
        let seconds = answer.ttl.max(bounds.min).min(bounds.max);
        let weight = answer.weight();
        if seconds == 0 || weight > MAX_CACHED_RECORDS || !answer.complete {
            return None;
        }
        let now = Instant::now();
        let entry = Entry {
            answer: Arc::clone(answer),
            files,
            until: now + Duration::from_secs(seconds.into()),
        };
        self.kept.lock().insert(key, entry, weight)
    }

    /// Takes all out.
    #[must_use]
    pub fn take(&self) -> Entries {
        std::mem::take(&mut *self.kept.lock())
    }

    pub fn drop_expired(&self) {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.by_key.retain(|_key, entry| entry.until > now);
        let answers = kept.by_key.values().map(|entry| &entry.answer);
        kept.weight = answers.map(|answer| answer.weight()).sum();
    }
}

impl Entries {
    fn insert(&mut self, key: Key, entry: Entry, weight: usize) -> Option<Self> {
        let is_full = self.weight + weight > MAX_CACHED_RECORDS;
        let old = is_full.then(|| std::mem::take(self));
        if self.by_key.capacity() == 0 {
            // All of it, once: to grow takes milliseconds, too.
            self.by_key.reserve(MAX_CACHED_RECORDS);
        }
        self.weight += weight;
        if let Some(replaced) = self.by_key.insert(key, entry) {
            self.weight -= replaced.answer.weight();
        }
        old
    }
}
