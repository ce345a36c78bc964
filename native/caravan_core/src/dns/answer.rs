//! What comes back: records of the type asked for, in the shape node names need.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Records taken from one answer; a larger answer is an error, not a part.
pub const MAX_RECORDS: usize = 4_096;
/// Addresses of one SRV target; the first are kept.
pub const MAX_TARGET_ADDRESSES: usize = 16;

/// One SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Lower is preferred.
    pub priority: u16,
    /// Share among records of one priority.
    pub weight: u16,
    /// The port of the service; for a node, its distribution port.
    pub port: u16,
    /// Host name: lower case, no trailing dot.
    pub target: String,
    /// Of the target, where they were asked for and found.
    pub addresses: Vec<IpAddr>,
}

/// The records of an answer, in the order the server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// Answer to [`QueryType::Srv`].
    Services(Vec<Service>),
    /// Answer to [`QueryType::A`] and [`QueryType::Aaaa`].
    Addresses(Vec<IpAddr>),
}

/// What an answer came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS (DoT).
    Tls,
    /// HTTPS (DoH).
    Https,
    /// No network: `/etc/hosts`.
    Hosts,
}

/// What an answer, or a part of one, rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// Seconds: the smallest TTL of all records, CNAMEs on the way included.
    pub ttl: u32,
    /// Whether DNSSEC proved all records.
    pub secure: bool,
    /// Addresses that [`super::LookupOptions::allow`] dropped.
    pub dropped: usize,
}

impl Default for Provenance {
    /// That of no records: merged with another, it changes nothing.
    fn default() -> Self {
        Self {
            ttl: u32::MAX,
            secure: true,
            dropped: 0,
        }
    }
}

impl Provenance {
    /// That of both parts together.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            ttl: self.ttl.min(other.ttl),
            secure: self.secure && other.secure,
            dropped: self.dropped + other.dropped,
        }
    }
}

/// At least one record, how long it holds, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was found.
    pub records: Records,
    /// How long it holds, and how far it can be trusted.
    pub provenance: Provenance,
    /// Address and port of the server; none for [`Transport::Hosts`].
    pub nameserver: Option<Arc<str>>,
    /// What it came over.
    pub transport: Transport,
    /// From the start of the lookup.
    pub time: Duration,
}

impl Answer {
    /// Records, and addresses of their targets.
    #[must_use]
    pub fn size(&self) -> usize {
        let addresses = match &self.records {
            Records::Services(services) => services.iter().map(|s| s.addresses.len()).sum(),
            Records::Addresses(_) => 0,
        };
        self.records.len() + addresses
    }
}

impl Records {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Services(services) => services.len(),
            Self::Addresses(addresses) => addresses.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
