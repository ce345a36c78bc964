//! Reads DNS responses: returns their records in the shape that Caravan uses.

use std::net::IpAddr;

#[cfg(any(test, fuzzing))]
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record};

use super::dnssec::is_secure;
use super::{LookupError, MAX_RECORDS, Provenance, QueryType, Records, Service};

/// Maximum number of CNAME records that are followed within one response. A response with one more is an error
/// ([`LookupError::BadResponse`]).
const MAX_CNAMES_PER_MESSAGE: usize = 8;

/// The result of reading an answer section.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// The records of the name, or of the name that its CNAME records lead to.
    Records(Records),
    /// The name that the CNAME records lead to. Its records are not in this response.
    Cname(Name),
}

/// Reads the records of `name`. Follows CNAME records within the section.
pub(super) fn read_answer_section(
    answers: &[Record],
    name: &Name,
    query_type: QueryType,
) -> Result<(Found, Provenance), LookupError> {
    if answers.len() > MAX_RECORDS {
        return Err(LookupError::TooManyRecords);
    }
    let (mut owner, mut provenance) = (name, Provenance::default());
    for _ in 0..=MAX_CNAMES_PER_MESSAGE {
        let owned = |record: &&Record| record.dns_class == DNSClass::IN && record.name == *owner;
        let wanted = |record: &&Record| record.record_type() == query_type.into() && owned(record);
        let mut use_record = |record: &Record| provenance = provenance.merge(provenance_of(record));
        if answers.iter().any(|record| wanted(&record)) {
            let records = records(
                answers
                    .iter()
                    .filter(wanted)
                    .inspect(|record| use_record(record)),
                query_type,
            );
            if records.is_empty() {
                return Err(LookupError::NoRecords);
            }
            return Ok((Found::Records(records), provenance));
        }
        let mut cnames = answers.iter().filter(owned);
        match cnames.find_map(|record| Some((record, cname_of(record)?))) {
            Some((record, target)) => {
                use_record(record);
                owner = target;
            }
            None if owner == name => return Err(LookupError::NoRecords),
            None => return Ok((Found::Cname(owner.clone()), provenance)),
        }
    }
    Err(LookupError::BadResponse)
}

/// Returns the address records of an additional section, with their addresses.
pub(super) fn additional_addresses(
    additionals: &[Record],
) -> impl Iterator<Item = (&Record, IpAddr)> {
    additionals
        .iter()
        .filter(|record| record.dns_class == DNSClass::IN)
        .filter_map(|record| Some((record, address(record)?)))
}

/// Returns the provenance of one record.
pub(super) fn provenance_of(record: &Record) -> Provenance {
    Provenance {
        ttl: effective_ttl(record),
        secure: is_secure(record),
        dropped: 0,
    }
}

/// Returns the TTL of a record. A TTL with its first bit set is read as zero (RFC 2181, 8).
fn effective_ttl(record: &Record) -> u32 {
    if i32::try_from(record.ttl).is_ok() {
        record.ttl
    } else {
        0
    }
}

/// Converts records, whatever their owner names are. Leaves out those of other types.
pub(super) fn records<'a>(
    records: impl Iterator<Item = &'a Record>,
    query_type: QueryType,
) -> Records {
    match query_type {
        QueryType::Srv => Records::Services(records.filter_map(service).collect()),
        QueryType::A | QueryType::Aaaa => Records::Addresses(records.filter_map(address).collect()),
    }
}

fn cname_of(record: &Record) -> Option<&Name> {
    match &record.data {
        RData::CNAME(name) => Some(&name.0),
        _ => None,
    }
}

/// Converts an SRV record. The target `.` means that the service is not available (RFC 2782).
fn service(record: &Record) -> Option<Service> {
    match &record.data {
        RData::SRV(srv) if !srv.target.is_root() => Some(Service {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: host_text(&srv.target),
            addresses: Vec::new(),
            addresses_ttl: None,
        }),
        _ => None,
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
        _ => None,
    }
}

/// Returns a name in lower case, without the trailing dot. Octets other than letters, digits, `-` and `_` are
/// escaped (RFC 4343, 2.1), so the text is visible ASCII.
pub(super) fn host_text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        for octet in label {
            match octet.to_ascii_lowercase() {
                plain @ (b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_') => text.push(plain.into()),
                visible if visible.is_ascii_graphic() => text.extend(['\\', visible.into()]),
                other => text.push_str(&format!("\\{other:03}")),
            }
        }
    }
    text
}

/// Reads any octets as a response. For fuzzing.
#[cfg(any(test, fuzzing))]
pub fn read_any_response(octets: &[u8]) {
    let Ok(message) = Message::from_vec(octets) else {
        return;
    };
    for (record, _ip) in additional_addresses(&message.additionals) {
        assert!(
            host_text(&record.name)
                .bytes()
                .all(|octet| octet.is_ascii_graphic())
        );
        assert!(i32::try_from(effective_ttl(record)).is_ok());
    }
    let queried = message.queries.first().map(|query| query.name().clone());
    let owner = message.answers.first().map(|record| record.name.clone());
    for name in [queried, owner].into_iter().flatten() {
        for query_type in [QueryType::Srv, QueryType::A, QueryType::Aaaa] {
            let Ok((found, _)) = read_answer_section(&message.answers, &name, query_type) else {
                continue;
            };
            let Found::Records(records) = found else {
                continue;
            };
            assert!((1..=MAX_RECORDS).contains(&records.len()));
            if let Records::Services(services) = records {
                let mut octets = services.iter().flat_map(|service| service.target.bytes());
                assert!(octets.all(|octet| octet.is_ascii_graphic()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn srv(target: Name) -> RData {
        RData::SRV(SRV::new(1, 2, 4001, target))
    }

    fn cname(target: &str) -> RData {
        RData::CNAME(CNAME(name(target)))
    }

    fn a(last: u8) -> RData {
        RData::A(A(Ipv4Addr::new(10, 0, 0, last)))
    }

    fn addresses(last: &[u8]) -> Found {
        let ips = last.iter().map(|last| IpAddr::from([10, 0, 0, *last]));
        Found::Records(Records::Addresses(ips.collect()))
    }

    #[test]
    fn targets_are_in_lower_case_and_records_keep_their_order() {
        let answers = [
            record("_APP.test.", 30, srv(name("Node2.Test."))),
            record("_app.test.", 5, srv(name("node1.test."))),
        ];
        let (found, provenance) =
            read_answer_section(&answers, &name("_app.TEST."), QueryType::Srv).expect("an answer");
        assert_eq!(provenance.ttl, 5);
        let Found::Records(Records::Services(services)) = found else {
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
    fn special_octets_in_a_target_are_escaped() {
        let name = Name::from_labels([&b"a.b"[..], b"\xc3 \x00", b"C"]).expect("labels");
        assert_eq!(host_text(&name), "a\\.b.\\195\\032\\000.c");
    }

    #[test]
    fn a_record_with_the_target_root_is_left_out() {
        let answers = [record("app.", 30, srv(Name::root()))];
        assert_eq!(
            read_answer_section(&answers, &name("app."), QueryType::Srv),
            Err(LookupError::NoRecords)
        );
    }

    #[test]
    fn cname_records_are_followed_and_their_ttl_counts() {
        let answers = [
            record("c.test.", 60, a(1)),
            record("a.test.", 60, cname("b.test.")),
            record("b.test.", 3, cname("c.test.")),
            record("other.test.", 1, a(2)),
            record("c.test.", 60, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        ];
        let (found, provenance) =
            read_answer_section(&answers, &name("a.test."), QueryType::A).expect("an answer");
        assert_eq!((found, provenance.ttl), (addresses(&[1]), 3));
        let (found, provenance) =
            read_answer_section(&answers[1..3], &name("a.test."), QueryType::A).expect("an answer");
        assert_eq!((found, provenance.ttl), (Found::Cname(name("c.test.")), 3));
    }

    #[test]
    fn a_circle_of_cname_records_is_a_bad_response() {
        let answers = [
            record("a.test.", 60, cname("b.test.")),
            record("b.test.", 60, cname("a.test.")),
        ];
        assert_eq!(
            read_answer_section(&answers, &name("a.test."), QueryType::A),
            Err(LookupError::BadResponse)
        );
    }

    #[test]
    fn records_of_another_name_are_ignored() {
        let answers = [record("other.test.", 60, a(1))];
        assert_eq!(
            read_answer_section(&answers, &name("a.test."), QueryType::A),
            Err(LookupError::NoRecords)
        );
        assert_eq!(
            read_answer_section(&[], &name("a.test."), QueryType::A),
            Err(LookupError::NoRecords)
        );
    }

    #[test]
    fn records_of_another_class_are_ignored() {
        let mut records = [
            record("a.test.", 60, a(1)),
            record("a.test.", 60, cname("b.test.")),
        ];
        for record in &mut records {
            record.dns_class = DNSClass::CH;
        }
        assert_eq!(
            read_answer_section(&records, &name("a.test."), QueryType::A),
            Err(LookupError::NoRecords)
        );
        assert_eq!(additional_addresses(&records).count(), 0);
    }

    #[test]
    fn a_ttl_with_its_first_bit_set_is_read_as_zero() {
        for (ttl, read_as) in [(1 << 31, 0), (u32::MAX, 0), ((1 << 31) - 1, (1 << 31) - 1)] {
            let read = read_answer_section(
                &[record("a.test.", ttl, a(1))],
                &name("a.test."),
                QueryType::A,
            );
            assert_eq!(read.expect("an answer").1.ttl, read_as);
        }
    }

    #[test]
    fn a_response_with_too_many_records_is_an_error() {
        let answers = vec![record("a.test.", 1, a(1)); MAX_RECORDS + 1];
        let name = name("a.test.");
        assert!(read_answer_section(&answers[1..], &name, QueryType::A).is_ok());
        assert_eq!(
            read_answer_section(&answers, &name, QueryType::A),
            Err(LookupError::TooManyRecords)
        );
    }

    proptest! {
        #[test]
        fn a_target_of_any_octets_becomes_visible_ascii(label in proptest::collection::vec(any::<u8>(), 1..63)) {
            let name = Name::from_labels([label.as_slice()]).expect("a label");
            let text = host_text(&name);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", text);
        }

        #[test]
        fn any_octets_are_read(mut octets: Vec<u8>, header in 0usize..4) {
            // The counts of one question and one answer: with random counts, most inputs are refused at the header.
            let counts = [1, 1, 0, 0];
            for (place, count) in counts.iter().enumerate().take(header) {
                if let Some(octet) = octets.get_mut(5 + 2 * place) {
                    *octet = *count;
                }
            }
            read_any_response(&octets);
        }
    }
}
