//! The closed set of ways in which a lookup ends without an answer.

use std::io::ErrorKind;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

/// Why a lookup has no answer. `Caravan.Dns.Error` documents each for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    NxDomain,
    /// The name exists, or nobody denied it, but holds no record of this type.
    NoRecords,
    /// Records were there, and [`super::LookupOptions::allow`] dropped every one.
    NotAllowed,
    /// No valid answer before the deadline.
    Timeout,
    /// The server failed (SERVFAIL).
    ServFail,
    /// The server will not answer us (REFUSED).
    Refused,
    /// The server did not understand the question (FORMERR).
    FormErr,
    /// Another response code, or an answer that breaks the protocol.
    BadResponse,
    /// The answer was cut short, over TCP too.
    Truncated,
    /// More than [`super::MAX_RECORDS`] records.
    TooManyRecords,
    /// No nameserver could be reached.
    Connection,
    /// The TLS handshake failed: the certificate, its name, its issuer.
    Tls,
    /// DNSSEC could not prove the answer.
    Bogus,
    /// A file of [`super::ResolverConfig`] cannot be read or holds nothing of use.
    BadFile,
    /// Too many lookups at once.
    Busy,
    /// A fault of Caravan's own.
    Internal,
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::Timeout,
            NetError::Busy => Self::Busy,
            NetError::Truncated => Self::Truncated,
            // tokio-rustls wraps what rustls found wrong in this kind.
            NetError::Io(io) if io.kind() == ErrorKind::InvalidData => Self::Tls,
            NetError::Io(_) | NetError::NoConnections => Self::Connection,
            // A stream that ends while an answer is awaited; hickory has only a text for it.
            NetError::Message(_) | NetError::Msg(_) => Self::Connection,
            NetError::Dns(DnsError::NoRecordsFound(none)) => Self::from_code(none.response_code),
            NetError::Dns(DnsError::ResponseCode(code)) => Self::from_code(code),
            NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus) => Self::Bogus,
            #[cfg(feature = "tls")]
            NetError::RustlsError(_) => Self::Tls,
            #[cfg(feature = "tls")]
            NetError::H2(_) => Self::Connection,
            _ => Self::BadResponse,
        }
    }
}

impl LookupError {
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

    /// Whether it is an answer about the name, and not about who was asked.
    pub(super) fn is_final(self) -> bool {
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
