use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn peer(port: u16) -> Peer {
    Peer {
        port: NonZeroU16::new(port),
        addresses: vec![Ipv4Addr::from(u32::from(port)).into()],
    }
}

fn put(table: &Table<u8>, topology: u8, entries: &[(&str, u16)]) -> Result<(), Full> {
    let entries = entries
        .iter()
        .map(|(name, port)| (name.as_bytes(), peer(*port)));
    table.put(topology, entries)
}

fn port(table: &Table<u8>, name: &str) -> Option<u16> {
    table
        .find(name.as_bytes())
        .and_then(|peer| Some(peer.port?.get()))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("app-{n}@host")).collect()
}

fn put_names(table: &Table<u8>, topology: u8, names: &[String]) -> Result<(), Full> {
    table.put(
        topology,
        names.iter().map(|name| (name.as_bytes(), Peer::default())),
    )
}

#[test]
fn a_topology_replaces_what_it_said_before() {
    let table = Table::new();
    assert_eq!(put(&table, 1, &[("a@h", 1), ("b@h", 2)]), Ok(()));
    assert_eq!(put(&table, 1, &[("b@h", 3)]), Ok(()));
    assert_eq!((port(&table, "a@h"), port(&table, "b@h")), (None, Some(3)));
}

#[test]
fn the_topology_that_spoke_last_counts_and_uncovers_the_other_when_it_goes() {
    let table = Table::new();
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
fn a_name_is_found_as_a_whole() {
    let table = Table::new();
    assert_eq!(put(&table, 1, &[("app@host", 1)]), Ok(()));
    for name in ["app", "app@", "app@hos", "app@host2", "", "App@host"] {
        assert_eq!(table.find(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn of_entries_with_the_same_name_the_last_counts() {
    let table = Table::new();
    assert_eq!(put(&table, 1, &[("a@h", 1), ("a@h", 2)]), Ok(()));
    assert_eq!((port(&table, "a@h"), table.list().len()), (Some(2), 1));
}

#[test]
fn addresses_keep_their_order_and_end_at_the_limit() {
    let table = Table::new();
    let addresses: Vec<IpAddr> = (0..100u16)
        .map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 99 - n).into())
        .collect();
    let many = Peer {
        port: None,
        addresses: addresses.clone(),
    };
    assert_eq!(table.put(1, [(&b"a@h"[..], many)]), Ok(()));
    let kept = table.find(b"a@h").map(|peer| peer.addresses.clone());
    assert_eq!(kept.as_deref(), addresses.get(..MAX_ADDRESSES));
}

#[test]
fn what_is_too_much_is_refused_and_changes_nothing() {
    let table = Table::new();
    assert_eq!(put(&table, 1, &[("a@h", 1)]), Ok(()));
    assert_eq!(put_names(&table, 2, &names(MAX_NAMES)), Err(Full));
    assert_eq!(put_names(&table, 1, &names(MAX_NAMES + 1)), Err(Full));
    assert_eq!((port(&table, "a@h"), table.list().len()), (Some(1), 1));

    assert_eq!(put_names(&table, 2, &names(MAX_NAMES - 1)), Ok(()));
    // The same names once more: a topology makes room for itself.
    assert_eq!(put_names(&table, 2, &names(MAX_NAMES - 1)), Ok(()));
    assert_eq!(put(&table, 1, &[("a@h", 1), ("b@h", 2)]), Err(Full));
    assert_eq!(put(&table, 3, &[("c@h", 1)]), Err(Full));
    table.delete(&2);
    assert_eq!(put(&table, 3, &[("c@h", 1)]), Ok(()));
    assert_eq!(table.list().len(), 2);
}

#[test]
fn a_topology_without_names_takes_no_place() {
    let table = Table::new();
    for topology in 0..=255 {
        assert_eq!(put(&table, topology, &[]), Ok(()));
    }
    assert_eq!(table.topologies.lock().len(), 0);
}

#[test]
fn readers_see_the_whole_of_one_answer_while_others_are_written() {
    let table = Table::new();
    let names = names(500);
    let answer = |port| names.iter().map(move |name| (name.as_bytes(), peer(port)));
    assert_eq!(table.put(1, answer(1)), Ok(()));
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        for _reader in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let list = table.list();
                    let mut ports: Vec<_> = list.values().map(|peer| peer.port).collect();
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

#[derive(Debug, Clone)]
enum Step {
    Put(u8, BTreeMap<u8, u16>),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, btree_map(0u8..8, 1u16.., 0..8)).prop_map(|(t, said)| Step::Put(t, said)),
        1 => (0u8..4).prop_map(Step::Delete),
    ]
}

proptest! {
    /// The rule word by word: asked for a name, the topologies are gone through from the last that
    /// spoke to the first.
    #[test]
    fn agrees_with_the_rule(steps in vec(step(), 0..30)) {
        let table = Table::new();
        let mut spoken: Vec<(u8, BTreeMap<u8, u16>)> = Vec::new();

        for step in steps {
            match step {
                Step::Put(topology, said) => {
                    let names: Vec<_> = said.iter().map(|(n, port)| (format!("{n}@h"), *port)).collect();
                    let entries = names.iter().map(|(name, port)| (name.as_bytes(), peer(*port)));
                    prop_assert_eq!(table.put(topology, entries), Ok(()));
                    spoken.retain(|(other, _)| *other != topology);
                    spoken.insert(0, (topology, said));
                }
                Step::Delete(topology) => {
                    table.delete(&topology);
                    spoken.retain(|(other, _)| *other != topology);
                }
            }
            for name in 0u8..8 {
                let expected = spoken.iter().find_map(|(_, said)| said.get(&name)).copied();
                prop_assert_eq!(port(&table, &format!("{name}@h")), expected);
            }
            let names: Vec<_> = table.list().keys().map(|name| name.to_vec()).collect();
            let mut expected: Vec<_> = spoken
                .iter()
                .flat_map(|(_, said)| said.keys().map(|n| format!("{n}@h").into_bytes()))
                .collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(names, expected);
        }
    }
}
