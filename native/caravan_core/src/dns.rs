//! Lookups of SRV, A and AAAA records, each bounded by a deadline, each ending in a value of a
//! closed set of errors.
//!
//! [`Question`] and [`Settings`] are checked when they are made; [`Resolvers::lookup`] never fails
//! because of what the caller passed, only because of what the network did.

mod answer;
mod error;
mod question;
mod resolvers;
mod settings;
mod system;
mod upstream;

pub use answer::{Answer, MAX_RECORDS, Records, Service};
pub use error::LookupError;
pub use question::{BadName, Kind, Question};
pub use resolvers::{MAX_RESOLVERS, Resolvers};
pub use settings::{BadNameserver, MAX_NAMESERVERS, Settings, nameserver};
