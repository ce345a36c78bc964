//! Lookups of SRV, A and AAAA records, each bounded by a deadline, each ending in a value of a
//! closed set of errors.
//!
//! [`Question`] and [`LookupOptions`] are checked when they are made; [`Resolvers::start`] never fails
//! because of what the caller passed, only because of what the network did.

mod answer;
mod config;
mod connection;
mod dnssec;
mod error;
mod file_stamp;
mod inline_poll;
mod name_server;
mod name_server_pool;
mod question;
mod resolver;
mod resolvers;
mod response;
mod srv_targets;
mod system_config;
#[cfg(feature = "tls")]
mod tls;
mod udp;

pub use answer::{Answer, MAX_RECORDS, Provenance, Records, Service, Transport};
pub use config::{
    BadNameserver, BadNetwork, DnssecConfig, LookupOptions, MAX_NAMESERVERS, MAX_NETWORKS,
    NameServerConfig, Protocol, ResolverConfig, network,
};
pub use error::LookupError;
pub use question::{BadName, QueryType, Question};
pub use resolvers::{LookupStart, MAX_RESOLVERS, Outcome, PendingLookup, Resolvers};
#[cfg(any(test, fuzzing))]
pub use response::read_any;
#[cfg(any(test, fuzzing))]
pub use system_config::read_any_files;
