//! What comes back: records of the type asked for, in the shape node names need.

use std::net::IpAddr;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::proto::rr::{Name, RData};

use super::{Kind, LookupError};

/// Records taken from one answer; a larger answer is an error, not a part.
pub const MAX_RECORDS: usize = 4_096;

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
}

/// The records of an answer, in the order the server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// Answer to [`Kind::Srv`].
    Services(Vec<Service>),
    /// Answer to [`Kind::A`] and [`Kind::Aaaa`].
    Addresses(Vec<IpAddr>),
}

/// At least one record, and how long it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was found.
    pub records: Records,
    /// Seconds: the smallest TTL in the answer, CNAMEs on the way included.
    pub ttl: u32,
}

impl Answer {
    pub(super) fn from_lookup(lookup: &Lookup, kind: Kind) -> Result<Self, LookupError> {
        let answers = lookup.answers();
        if answers.len() > MAX_RECORDS {
            return Err(LookupError::TooManyRecords);
        }
        let data = answers.iter().map(|record| &record.data);
        let records = match kind {
            Kind::Srv => Records::Services(data.filter_map(service).collect()),
            Kind::A | Kind::Aaaa => Records::Addresses(data.filter_map(address(kind)).collect()),
        };
        if records.is_empty() {
            return Err(LookupError::NoRecords);
        }
        let ttl = answers.iter().map(|record| record.ttl).min();
        Ok(Self {
            records,
            ttl: ttl.unwrap_or_default(),
        })
    }
}

impl Records {
    fn is_empty(&self) -> bool {
        match self {
            Self::Services(services) => services.is_empty(),
            Self::Addresses(addresses) => addresses.is_empty(),
        }
    }
}

/// A target of `.` says that the service is decidedly not available (RFC 2782).
fn service(data: &RData) -> Option<Service> {
    match data {
        RData::SRV(srv) if !srv.target.is_root() => Some(Service {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: host(&srv.target),
        }),
        _ => None,
    }
}

fn address(kind: Kind) -> impl Fn(&RData) -> Option<IpAddr> {
    move |data| match (kind, data) {
        (Kind::A, RData::A(ip)) => Some(IpAddr::V4(ip.0)),
        (Kind::Aaaa, RData::AAAA(ip)) => Some(IpAddr::V6(ip.0)),
        _ => None,
    }
}

/// Octets that are no plain text come out escaped (`\000`), so no byte of the network stands in it
/// unseen.
fn host(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
    use hickory_resolver::proto::rr::{Record, RecordType};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    fn name(labels: &[&[u8]]) -> Name {
        let mut name = Name::from_labels(labels.iter().copied()).expect("labels");
        name.set_fqdn(true);
        name
    }

    fn lookup(records: Vec<(u32, RData)>) -> Lookup {
        let owner = name(&[b"_app", b"test"]);
        let query = Query::query(owner.clone(), RecordType::SRV);
        let records = records
            .into_iter()
            .map(|(ttl, data)| Record::from_rdata(owner.clone(), ttl, data));
        Lookup::new_with_deadline(query, records, Instant::now())
    }

    fn srv(target: Name) -> RData {
        RData::SRV(SRV::new(1, 2, 4001, target))
    }

    #[test]
    fn services_are_lower_case_without_trailing_dot_in_the_servers_order() {
        let found = lookup(vec![
            (30, srv(name(&[b"Node2", b"Test"]))),
            (5, srv(name(&[b"node1", b"test"]))),
        ]);
        let answer = Answer::from_lookup(&found, Kind::Srv).expect("an answer");
        assert_eq!(answer.ttl, 5);
        let Records::Services(services) = answer.records else {
            panic!("no services");
        };
        let targets: Vec<_> = services.iter().map(|s| s.target.as_str()).collect();
        assert_eq!(targets, ["node2.test", "node1.test"]);
        assert_eq!(
            (services[0].priority, services[0].weight, services[0].port),
            (1, 2, 4001)
        );
    }

    #[test]
    fn a_root_target_is_no_service() {
        let found = lookup(vec![(30, srv(Name::root()))]);
        assert_eq!(
            Answer::from_lookup(&found, Kind::Srv),
            Err(LookupError::NoRecords)
        );
    }

    #[test]
    fn other_types_are_left_out_but_their_ttl_counts() {
        let found = lookup(vec![
            (3, RData::CNAME(CNAME(name(&[b"other"])))),
            (60, RData::A(A(Ipv4Addr::LOCALHOST))),
            (60, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        ]);
        let answer = Answer::from_lookup(&found, Kind::A).expect("an answer");
        assert_eq!(
            answer.records,
            Records::Addresses(vec![Ipv4Addr::LOCALHOST.into()])
        );
        assert_eq!(answer.ttl, 3);
    }

    #[test]
    fn an_answer_over_the_limit_is_an_error() {
        let record = (1, RData::A(A(Ipv4Addr::LOCALHOST)));
        let full = lookup(vec![record.clone(); MAX_RECORDS]);
        assert!(Answer::from_lookup(&full, Kind::A).is_ok());
        let over = lookup(vec![record; MAX_RECORDS + 1]);
        assert_eq!(
            Answer::from_lookup(&over, Kind::A),
            Err(LookupError::TooManyRecords)
        );
    }

    proptest! {
        #[test]
        fn a_target_of_any_bytes_becomes_visible_ascii(label in proptest::collection::vec(any::<u8>(), 1..63)) {
            let text = host(&name(&[label.as_slice()]));
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", text);
        }
    }
}
