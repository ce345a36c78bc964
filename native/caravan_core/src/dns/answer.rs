//! The answer of a lookup: its records and where they come from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of records of one answer. A larger answer is an error, because a part of it would look
/// like a complete answer.
pub const MAX_RECORDS: usize = 4_096;
/// Maximum number of addresses of one SRV target. Further addresses are left out.
pub const MAX_TARGET_ADDRESSES: usize = 16;

/// One SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Records with a lower priority are preferred.
    pub priority: u16,
    /// The share of this record among records of the same priority.
    pub weight: u16,
    /// The port of the service. For a node, this is its distribution port.
    pub port: u16,
    /// The host name in lower case, without a trailing dot.
    pub target: String,
    /// The addresses of the target. Empty unless [`super::LookupOptions::addresses`] is set.
    pub addresses: Vec<IpAddr>,
    /// The smallest TTL of these addresses, in seconds. `None` if there are none.
    pub addresses_ttl: Option<u32>,
}

/// The records of an answer, in the order of the nameserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// The records of a [`super::QueryType::Srv`] lookup.
    Services(Vec<Service>),
    /// The records of a [`super::QueryType::A`] or [`super::QueryType::Aaaa`] lookup.
    Addresses(Vec<IpAddr>),
}

/// The transport that an answer came over.
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
    /// No network: the answer comes from `/etc/hosts`.
    Hosts,
}

/// What is known about a set of records beside their data. The parts of an answer are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// The smallest TTL of the records and of the CNAME records that led to them, in seconds.
    pub ttl: u32,
    /// Whether DNSSEC proved every record.
    pub secure: bool,
    /// The number of addresses that [`super::LookupOptions::allow`] dropped.
    pub dropped: usize,
}

impl Default for Provenance {
    /// The neutral element of [`Provenance::merge`].
    fn default() -> Self {
        Self {
            ttl: u32::MAX,
            secure: true,
            dropped: 0,
        }
    }
}

impl Provenance {
    /// Returns the provenance of both sets of records together.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            ttl: self.ttl.min(other.ttl),
            secure: self.secure && other.secure,
            dropped: self.dropped + other.dropped,
        }
    }
}

/// A successful lookup. It has at least one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The records.
    pub records: Records,
    /// The TTL, proof and filtering of the records.
    pub provenance: Provenance,
    /// Address and port of the nameserver. `None` for [`Transport::Hosts`].
    pub nameserver: Option<Arc<str>>,
    /// The transport of the answer.
    pub transport: Transport,
    /// The duration of the lookup.
    pub time: Duration,
}

impl Answer {
    /// Returns the number of records plus the number of addresses of their targets.
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
    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Services(services) => services.len(),
            Self::Addresses(addresses) => addresses.len(),
        }
    }

    /// Returns whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
