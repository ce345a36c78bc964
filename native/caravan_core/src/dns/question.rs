//! The question of a lookup: a checked name and a record type.

use std::net::IpAddr;

use hickory_resolver::proto::rr::{Name, RecordType};

/// Maximum number of octets of a domain name as text, without the trailing dot (RFC 1035, 2.3.4: 255 octets on the
/// wire).
const MAX_NAME: usize = 253;
/// Maximum number of octets of one label (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// The record types that can be looked up (RFC 1035: QTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// Service records: host and port (RFC 2782).
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl QueryType {
    /// Returns the type of the records that hold such an address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::A,
            IpAddr::V6(_) => Self::Aaaa,
        }
    }
}

impl From<QueryType> for RecordType {
    fn from(query_type: QueryType) -> Self {
        match query_type {
            QueryType::Srv => Self::SRV,
            QueryType::A => Self::A,
            QueryType::Aaaa => Self::AAAA,
        }
    }
}

/// The reason why a name cannot be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    /// It is empty, or only a dot.
    Empty,
    /// It has more than 253 octets.
    TooLong,
    /// It has two dots in a row, or begins with a dot.
    EmptyLabel,
    /// It has a label of more than 63 octets.
    LongLabel,
    /// It has a character other than ASCII letters, digits, `-`, `_` and `.`.
    BadCharacter,
}

/// A checked name and the type of the records to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub(super) name: Name,
    pub(super) query_type: QueryType,
}

impl Question {
    /// Checks `name`. A trailing dot makes it absolute: search domains are then not used.
    ///
    /// ```
    /// use caravan_core::dns::{BadName, QueryType, Question};
    /// assert!(Question::new(b"_app._tcp.service.consul", QueryType::Srv).is_ok());
    /// assert_eq!(Question::new(b"app@host", QueryType::A).err(), Some(BadName::BadCharacter));
    /// ```
    pub fn new(name: &[u8], query_type: QueryType) -> Result<Self, BadName> {
        let relative = name.strip_suffix(b".").unwrap_or(name);
        if relative.is_empty() {
            return Err(BadName::Empty);
        }
        if relative.len() > MAX_NAME {
            return Err(BadName::TooLong);
        }
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if !relative.iter().all(is_allowed) {
            return Err(BadName::BadCharacter);
        }
        for label in relative.split(|byte| *byte == b'.') {
            match label.len() {
                0 => return Err(BadName::EmptyLabel),
                1..=MAX_LABEL => {}
                _ => return Err(BadName::LongLabel),
            }
        }
        let labels = relative.split(|byte| *byte == b'.');
        let mut name_on_wire = Name::from_labels(labels).map_err(|_| BadName::TooLong)?;
        name_on_wire.set_fqdn(relative.len() < name.len());
        Ok(Self {
            name: name_on_wire,
            query_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(name: &[u8]) -> Result<String, BadName> {
        let name = Question::new(name, QueryType::Srv)?.name;
        let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
        let root = if name.is_fqdn() { "." } else { "" };
        Ok(labels.join(".") + root)
    }

    #[test]
    fn ordinary_names_are_accepted_unchanged() {
        assert_eq!(
            check(b"_app._tcp.Example-1.com"),
            Ok("_app._tcp.Example-1.com".into())
        );
        assert_eq!(check(b"app.internal."), Ok("app.internal.".into()));
    }

    #[test]
    fn each_kind_of_bad_name_has_its_own_error() {
        assert_eq!(check(b""), Err(BadName::Empty));
        assert_eq!(check(b"."), Err(BadName::Empty));
        assert_eq!(check(b"a..b"), Err(BadName::EmptyLabel));
        assert_eq!(check(b".a"), Err(BadName::EmptyLabel));
        assert_eq!(check(&[b'a'; 64]), Err(BadName::LongLabel));
        assert_eq!(check(&[b'a'; 300]), Err(BadName::TooLong));
        for name in [&b"a\0b"[..], b"a@b", b"a b", b"a\\046b", "ä".as_bytes()] {
            assert_eq!(check(name), Err(BadName::BadCharacter), "{name:?}");
        }
    }

    #[test]
    fn a_name_of_253_octets_is_accepted_and_one_of_254_is_not() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), MAX_NAME);
        assert_eq!(check(longest.as_bytes()), Ok(longest.clone()));
        assert_eq!(
            check(format!("{longest}.").as_bytes()),
            Ok(format!("{longest}."))
        );
        assert_eq!(
            check(format!("{longest}a").as_bytes()),
            Err(BadName::TooLong)
        );
    }

    proptest! {
        #[test]
        fn any_octets_are_checked_without_a_panic(name: Vec<u8>) {
            let _ = check(&name);
        }

        #[test]
        fn an_accepted_name_is_queried_unchanged(name in "[a-zA-Z0-9_.-]{1,80}") {
            if let Ok(queried) = check(name.as_bytes()) {
                prop_assert_eq!(queried, name);
            }
        }
    }
}
