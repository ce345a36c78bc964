//! Lookups of SRV, A and AAAA records. Each lookup has a deadline, and each error is one of a closed set.
//!
//! [`Question`] and [`LookupOptions`] are checked when they are made. So [`Resolvers::start`] fails only
//! because of the network, the nameservers, or the files in the configuration.

mod abort_on_drop;
mod answer;
mod config;
mod connection;
#[cfg_attr(not(feature = "dnssec"), path = "dns/no_dnssec.rs")]
mod dnssec;
mod error;
mod file_stamp;
mod files;
mod fingerprint;
mod hosts;
#[cfg(feature = "tls")]
mod https;
mod inline_poll;
mod name_server;
mod name_server_pool;
mod question;
mod resolver;
mod resolver_files;
mod resolvers;
mod response;
mod shared_work;
mod srv_targets;
mod system_config;
#[cfg(feature = "tls")]
mod tls;
mod udp;

pub use answer::{Answer, MAX_RECORDS, Provenance, Records, Service, Transport};
pub use config::{
    BadNameserver, BadNetwork, DnssecConfig, LookupOptions, MAX_KNOWN_TARGETS, MAX_NAMESERVERS,
    MAX_NETWORKS, NameServerConfig, Protocol, ResolverConfig, TargetFamilies, network,
};
pub use error::{LookupError, LookupFailure};
pub use question::{BadName, QueryType, Question};
pub use resolvers::{LookupStart, Outcome, PendingLookup, Resolvers};
#[cfg(any(test, fuzzing))]
pub use response::read_any_response;
#[cfg(any(test, fuzzing))]
pub use system_config::read_any_files;
