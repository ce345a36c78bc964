//! The errors of lookups, as a closed set.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use super::answer::Transport;

/// The reason why a lookup has no answer. `Caravan.Dns.Error` documents each reason for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    NxDomain,
    /// The name has no record of this type.
    NoRecords,
    /// [`super::LookupOptions::allow`] dropped all addresses of the answer.
    NotAllowed,
    /// No valid answer came before the deadline.
    Timeout,
    /// The nameserver failed (SERVFAIL).
    ServFail,
    /// The nameserver refused the query (REFUSED).
    Refused,
    /// The nameserver did not understand the query (FORMERR).
    FormErr,
    /// The response violates the protocol, has an unexpected error code, or has too many CNAME records.
    BadResponse,
    /// The answer was truncated, and no complete answer came over TCP.
    Truncated,
    /// The answer has more than [`super::MAX_RECORDS`] records.
    TooManyRecords,
    /// No nameserver could be reached.
    Connection,
    /// The TLS handshake failed, for example because of the name or the issuer of the certificate.
    Tls,
    /// DNSSEC could not prove the answer.
    Bogus,
    /// A file of [`super::ResolverConfig`] does not exist, is not a regular file, or has no certificate or key.
    BadFile,
    /// A file could not be read. The text has its path and the reason.
    UnreadableFile(Arc<str>),
    /// No file descriptor is free. The text is the reason of the operating system.
    NoDescriptors(Arc<str>),
    /// A thread could not be started. The text is the reason of the operating system.
    NoThreads(Arc<str>),
    /// Too many lookups are in flight.
    Busy,
    /// Caravan has a bug.
    Internal,
}

/// A lookup without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupFailure {
    /// The reason.
    pub error: LookupError,
    /// The nameserver that the error is about. None if no nameserver was queried.
    pub nameserver: Option<Arc<str>>,
    /// The transport over which this nameserver was queried last. None if no nameserver was queried, and if it is not known:
    /// validation takes several queries, which may go over UDP and TCP.
    pub transport: Option<Transport>,
}

impl From<LookupError> for LookupFailure {
    fn from(error: LookupError) -> Self {
        Self {
            error,
            nameserver: None,
            transport: None,
        }
    }
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::Timeout,
            NetError::Busy => Self::Busy,
            NetError::Truncated => Self::Truncated,
            // tokio-rustls wraps the errors of rustls in this kind.
            NetError::Io(io) if io.kind() == ErrorKind::InvalidData => Self::Tls,
            NetError::Io(io) if is_out_of_descriptors(&io) => Self::no_descriptors(&io),
            NetError::Io(_) | NetError::NoConnections => Self::Connection,
            // For a connection that ends before the answer, hickory has only a text.
            NetError::Message(_) | NetError::Msg(_) => Self::Connection,
            NetError::Dns(DnsError::NoRecordsFound(none)) => Self::from_code(none.response_code),
            NetError::Dns(DnsError::ResponseCode(code)) => Self::from_code(code),
            NetError::Dns(DnsError::DnssecBogus) => Self::Bogus,
            #[cfg(feature = "dnssec")]
            NetError::Dns(DnsError::Nsec { .. }) => Self::Bogus,
            #[cfg(feature = "tls")]
            NetError::RustlsError(_) => Self::Tls,
            #[cfg(feature = "tls")]
            NetError::H2(_) => Self::Connection,
            _ => Self::BadResponse,
        }
    }
}

/// ENFILE and EMFILE, which Linux, macOS and the BSDs number alike.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

impl LookupError {
    /// Returns the error of a runtime that could not be started.
    #[must_use]
    pub fn no_runtime(error: &io::Error) -> Self {
        if is_out_of_descriptors(error) {
            Self::no_descriptors(error)
        } else {
            Self::no_threads(error)
        }
    }

    pub(super) fn no_threads(error: &io::Error) -> Self {
        Self::NoThreads(error.to_string().into())
    }

    pub(super) fn unreadable(file: &Path, why: impl Display) -> Self {
        Self::UnreadableFile(format!("{}: {why}", file.display()).into())
    }

    fn no_descriptors(error: &io::Error) -> Self {
        Self::NoDescriptors(error.to_string().into())
    }

    pub(super) fn from_code(code: ResponseCode) -> Self {
        match code {
            ResponseCode::NoError => Self::NoRecords,
            ResponseCode::NXDomain => Self::NxDomain,
            ResponseCode::ServFail => Self::ServFail,
            ResponseCode::Refused => Self::Refused,
            ResponseCode::FormErr => Self::FormErr,
            _ => Self::BadResponse,
        }
    }

    /// Returns whether the error is about the name or its records. After any other error, another nameserver may have
    /// an answer.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::NxDomain
                | Self::NoRecords
                | Self::NotAllowed
                | Self::TooManyRecords
                | Self::Bogus
        )
    }
}
