//! The closed set of ways in which a lookup ends without an answer.

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

/// Why a lookup has no answer. `Caravan.Dns.Error` documents each for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    NxDomain,
    /// The name exists, or nobody denied it, but holds no record of this type.
    NoRecords,
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
            NetError::Io(_) | NetError::NoConnections => Self::Connection,
            NetError::Truncated => Self::Truncated,
            NetError::Dns(DnsError::NoRecordsFound(none)) => Self::from_code(none.response_code),
            NetError::Dns(DnsError::ResponseCode(code)) => Self::from_code(code),
            _ => Self::BadResponse,
        }
    }
}

impl LookupError {
    fn from_code(code: ResponseCode) -> Self {
        match code {
            ResponseCode::NoError => Self::NoRecords,
            ResponseCode::NXDomain => Self::NxDomain,
            ResponseCode::ServFail => Self::ServFail,
            ResponseCode::Refused => Self::Refused,
            ResponseCode::FormErr => Self::FormErr,
            _ => Self::BadResponse,
        }
    }
}
