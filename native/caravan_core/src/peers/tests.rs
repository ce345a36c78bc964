use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        port: NonZeroU16::new(port),
        addresses: vec![Ipv4Addr::from(u32::from(port)).into()],
    }
}

fn put(table: &PeerTable<u8>, topology: u8, entries: &[(&str, u16)]) -> Result<(), TableFull> {
    let entries = entries
        .iter()
        .map(|(name, port)| (name.as_bytes(), endpoint(*port)));
    table.put(topology, entries)
}

fn port(table: &PeerTable<u8>, name: &str) -> Option<u16> {
    table
        .find(name.as_bytes())
        .and_then(|endpoint| Some(endpoint.port?.get()))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("app-{n}@host")).collect()
}

fn put_names(table: &PeerTable<u8>, topology: u8, names: &[String]) -> Result<(), TableFull> {
    table.put(
        topology,
        names
            .iter()
            .map(|name| (name.as_bytes(), Endpoint::default())),
    )
}

#[test]
fn a_put_replaces_the_earlier_entries_of_the_topology() {
    let table = PeerTable::new();
    assert_eq!(put(&table, 1, &[("a@h", 1), ("b@h", 2)]), Ok(()));
    assert_eq!(put(&table, 1, &[("b@h", 3)]), Ok(()));
    assert_eq!((port(&table, "a@h"), port(&table, "b@h")), (None, Some(3)));
}

#[test]
fn the_last_put_wins_until_its_topology_is_deleted() {
    let table = PeerTable::new();
    assert_eq!(put(&table, 1, &[("a@h", 1)]), Ok(()));
    assert_eq!(put(&table, 2, &[("a@h", 2)]), Ok(()));
    assert_eq!(port(&table, "a@h"), Some(2));
    assert_eq!(put(&table, 1, &[("a@h", 3)]), Ok(()));
    assert_eq!(port(&table, "a@h"), Some(3));
    table.delete(&1);
    assert_eq!(port(&table, "a@h"), Some(2));
    table.delete(&2);
    table.delete(&2);
    assert_eq!(port(&table, "a@h"), None);
}

#[test]
fn only_the_full_name_is_found() {
    let table = PeerTable::new();
    assert_eq!(put(&table, 1, &[("app@host", 1)]), Ok(()));
    for name in ["app", "app@", "app@hos", "app@host2", "", "App@host"] {
        assert_eq!(table.find(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn of_entries_with_the_same_name_the_last_is_used() {
    let table = PeerTable::new();
    assert_eq!(put(&table, 1, &[("a@h", 1), ("a@h", 2)]), Ok(()));
    assert_eq!((port(&table, "a@h"), table.list().len()), (Some(2), 1));
}

#[test]
fn addresses_keep_their_order_up_to_the_limit() {
    let table = PeerTable::new();
    let addresses: Vec<IpAddr> = (0..100u16)
        .map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 99 - n).into())
        .collect();
    let many = Endpoint {
        port: None,
        addresses: addresses.clone(),
    };
    assert_eq!(table.put(1, [(&b"a@h"[..], many)]), Ok(()));
    let kept = table.find(b"a@h").map(|endpoint| endpoint.addresses);
    assert_eq!(kept.as_deref(), addresses.get(..MAX_ADDRESSES));
}

#[test]
fn a_rotation_moves_the_first_address_to_the_end() {
    let table = PeerTable::new();
    let addresses = |first: u8| (first..first + 3).map(|n| Ipv4Addr::new(10, 0, 0, n).into());
    for (topology, first) in [(1, 1), (2, 11)] {
        let endpoint = Endpoint {
            port: None,
            addresses: addresses(first).collect(),
        };
        let entries = [(&b"a@h"[..], endpoint), (&b"b@h"[..], Endpoint::default())];
        assert_eq!(table.put(topology, entries), Ok(()));
    }
    let first = || table.find(b"a@h").map(|endpoint| endpoint.addresses[0]);
    let list = table.list();
    for expected in [12, 13, 11, 12] {
        table.rotate(b"a@h");
        assert_eq!(first(), Some(Ipv4Addr::new(10, 0, 0, expected).into()));
    }
    assert!(Arc::ptr_eq(&list, &table.list()), "the table was copied");
    table.delete(&2);
    assert_eq!(first(), Some(Ipv4Addr::new(10, 0, 0, 2).into()));
    // A node without addresses, and a name that is not there.
    table.rotate(b"b@h");
    table.rotate(b"c@h");
    assert_eq!(table.list().len(), 2);
}

#[test]
fn a_later_put_leaves_the_port_and_the_addresses_that_it_lacks() {
    let table = PeerTable::new();
    let addresses: Vec<IpAddr> = (1..=2).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
    let put = |topology, port, addresses: &[IpAddr]| {
        let endpoint = Endpoint {
            port: NonZeroU16::new(port),
            addresses: addresses.to_vec(),
        };
        table.put(topology, [(&b"a@h"[..], endpoint)])
    };
    let found = || {
        table.find(b"a@h").map(|endpoint| {
            let port = endpoint.port.map(NonZeroU16::get);
            (port, endpoint.addresses)
        })
    };
    assert_eq!(put(1, 1, &addresses), Ok(()));
    assert_eq!(put(2, 0, &[]), Ok(()));
    assert_eq!(found(), Some((Some(1), addresses.clone())));
    assert_eq!(put(3, 3, &[]), Ok(()));
    assert_eq!(found(), Some((Some(3), addresses.clone())));

    // A rotation moves the addresses once, and a later publication keeps their order.
    table.rotate(b"a@h");
    let rotated: Vec<_> = addresses.iter().rev().copied().collect();
    assert_eq!(found(), Some((Some(3), rotated.clone())));
    table.delete(&3);
    assert_eq!(found(), Some((Some(1), rotated)));

    table.delete(&1);
    assert_eq!(found(), Some((None, Vec::new())));
}

#[test]
fn a_put_over_the_limit_is_refused_and_changes_no_entry() {
    let table = PeerTable::new();
    assert_eq!(put(&table, 1, &[("a@h", 1)]), Ok(()));
    assert_eq!(put_names(&table, 2, &names(MAX_NAMES)), Err(TableFull));
    assert_eq!(put_names(&table, 1, &names(MAX_NAMES + 1)), Err(TableFull));
    assert_eq!((port(&table, "a@h"), table.list().len()), (Some(1), 1));

    assert_eq!(put_names(&table, 2, &names(MAX_NAMES - 1)), Ok(()));
    // The same names again: a put replaces the entries of its topology.
    assert_eq!(put_names(&table, 2, &names(MAX_NAMES - 1)), Ok(()));
    assert_eq!(put(&table, 1, &[("a@h", 1), ("b@h", 2)]), Err(TableFull));
    assert_eq!(put(&table, 3, &[("c@h", 1)]), Err(TableFull));
    table.delete(&2);
    assert_eq!(put(&table, 3, &[("c@h", 1)]), Ok(()));
    assert_eq!(table.list().len(), 2);
}

#[test]
fn a_topology_without_entries_is_not_stored() {
    let table = PeerTable::new();
    for topology in 0..=255 {
        assert_eq!(put(&table, topology, &[]), Ok(()));
    }
    assert_eq!(table.topologies.lock().len(), 0);
}

#[test]
fn readers_see_the_entries_of_one_put_while_others_are_written() {
    let table = PeerTable::new();
    let names = names(500);
    let answer = |port| {
        names
            .iter()
            .map(move |name| (name.as_bytes(), endpoint(port)))
    };
    assert_eq!(table.put(1, answer(1)), Ok(()));
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        for _reader in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let list = table.list();
                    let mut ports: Vec<_> =
                        list.values().map(|entry| entry.endpoint().port).collect();
                    assert_eq!(ports.len(), names.len());
                    ports.dedup();
                    assert_eq!(ports.len(), 1);
                    assert!(table.find(b"app-7@host").is_some());
                }
            });
        }
        for port in 1..200 {
            assert_eq!(table.put(1, answer(port)), Ok(()));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// A port, or 0 for none, and the last octet of an address, or 0 for none.
type Fields = (u16, u8);

#[derive(Debug, Clone)]
enum Step {
    Put(u8, BTreeMap<u8, Fields>),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, btree_map(0u8..8, (0u16..3, 0u8..3), 0..8)).prop_map(|(t, entries)| Step::Put(t, entries)),
        1 => (0u8..4).prop_map(Step::Delete),
    ]
}

fn partial(fields: Fields) -> Endpoint {
    let (port, octet) = fields;
    Endpoint {
        port: NonZeroU16::new(port),
        addresses: (octet > 0)
            .then(|| Ipv4Addr::new(10, 0, 0, octet).into())
            .into_iter()
            .collect(),
    }
}

proptest! {
    /// The rule, written a second time: for a name, the topologies are searched from the last put to the first, for a
    /// port and for addresses.
    #[test]
    fn find_and_list_agree_with_the_rule(steps in vec(step(), 0..30)) {
        let table = PeerTable::new();
        let mut puts: Vec<(u8, BTreeMap<u8, Fields>)> = Vec::new();

        for step in steps {
            match step {
                Step::Put(topology, entries) => {
                    let names: Vec<_> = entries.iter().map(|(n, fields)| (format!("{n}@h"), *fields)).collect();
                    let endpoints = names.iter().map(|(name, fields)| (name.as_bytes(), partial(*fields)));
                    prop_assert_eq!(table.put(topology, endpoints), Ok(()));
                    puts.retain(|(other, _)| *other != topology);
                    puts.insert(0, (topology, entries));
                }
                Step::Delete(topology) => {
                    table.delete(&topology);
                    puts.retain(|(other, _)| *other != topology);
                }
            }
            for name in 0u8..8 {
                let found: Vec<Fields> = puts.iter().filter_map(|(_, entries)| entries.get(&name)).copied().collect();
                let port = found.iter().map(|(port, _)| *port).find(|port| *port > 0);
                let octet = found.iter().map(|(_, octet)| *octet).find(|octet| *octet > 0);
                let expected = partial((port.unwrap_or_default(), octet.unwrap_or_default()));
                let expected = (!found.is_empty()).then_some(expected);
                prop_assert_eq!(table.find(format!("{name}@h").as_bytes()), expected);
            }
            let names: Vec<_> = table.list().keys().map(|name| name.to_vec()).collect();
            let mut expected: Vec<_> = puts
                .iter()
                .flat_map(|(_, entries)| entries.keys().map(|n| format!("{n}@h").into_bytes()))
                .collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(names, expected);
        }
    }
}
