//! Fingerprints of records, by which a caller finds out that an answer is equal to an earlier one.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use super::{Records, Service};

/// A random key, which never leaves this process.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Records {
    /// Returns a number that is the same for the same records in any order, with any TTLs: nameservers rotate records,
    /// and caches count TTLs down.
    ///
    /// Fingerprints can be compared within one process only. Each is a sum of keyed hashes, one for each record. A
    /// nameserver knows neither the key nor a fingerprint, so it cannot choose records for their fingerprint. Whatever
    /// it sends, two different answers have equal fingerprints with a probability of 2^-64. If one record is repeated
    /// up to [`super::MAX_RECORDS`] times, the probability is 2^-52. A strategy that polls each second then takes a
    /// different answer for an equal one once in 10^8 years.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Services(services) => sum(services.iter().map(service)),
            Self::Addresses(ips) => addresses(ips),
        }
    }
}

fn service(service: &Service) -> u64 {
    let Service {
        priority,
        weight,
        port,
        target,
        addresses: ips,
        addresses_ttl: _,
    } = service;
    hash((priority, weight, port, target, addresses(ips)))
}

fn addresses(ips: &[IpAddr]) -> u64 {
    sum(ips.iter().map(hash))
}

fn hash(value: impl Hash) -> u64 {
    KEY.hash_one(value)
}

fn sum(hashes: impl Iterator<Item = u64>) -> u64 {
    hashes.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn services() -> impl Strategy<Value = Vec<Service>> {
        let ip = any::<u8>().prop_map(|last| IpAddr::from([10, 0, 0, last % 4]));
        let service = (
            0u16..2,
            0u16..2,
            "[ab]{1,2}",
            proptest::collection::vec(ip, 0..3),
        );
        let service = service.prop_map(|(priority, port, target, addresses)| Service {
            priority,
            weight: 0,
            port,
            target,
            addresses,
            addresses_ttl: None,
        });
        proptest::collection::vec(service, 0..6)
    }

    /// The records in a fixed order, with the addresses of each in a fixed order.
    fn sorted(mut services: Vec<Service>) -> Vec<String> {
        for service in &mut services {
            service.addresses.sort();
        }
        let mut texts: Vec<_> = services.iter().map(|s| format!("{s:?}")).collect();
        texts.sort();
        texts
    }

    fn of_services(services: &[Service]) -> u64 {
        Records::Services(services.to_vec()).fingerprint()
    }

    proptest! {
        #[test]
        fn the_order_and_ttls_do_not_matter(mut services in services(), turn: usize, ttl: u32) {
            let before = of_services(&services);
            let length = services.len().max(1);
            services.rotate_left(turn % length);
            for service in &mut services {
                service.addresses.reverse();
                service.addresses_ttl = Some(ttl);
            }
            prop_assert_eq!(before, of_services(&services));
        }

        #[test]
        fn other_records_have_another_fingerprint(one in services(), other in services()) {
            let same = of_services(&one) == of_services(&other);
            prop_assert_eq!(same, sorted(one) == sorted(other));
        }
    }

    #[test]
    fn each_part_of_a_record_counts() {
        let service = Service {
            priority: 0,
            weight: 0,
            port: 0,
            target: "a".to_owned(),
            addresses: Vec::new(),
            addresses_ttl: None,
        };
        let mut all = vec![vec![], vec![service.clone()], vec![service.clone(); 2]];
        for change in [
            |s: &mut Service| s.priority = 1,
            |s: &mut Service| s.weight = 1,
            |s: &mut Service| s.port = 1,
            |s: &mut Service| s.target = "b".to_owned(),
            |s: &mut Service| s.addresses = vec![IpAddr::from([0; 4])],
            |s: &mut Service| s.addresses = vec![IpAddr::from([0; 16])],
        ] {
            let mut changed = service.clone();
            change(&mut changed);
            all.push(vec![changed]);
        }
        let mut fingerprints: Vec<_> = all.iter().map(|services| of_services(services)).collect();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), all.len());
    }

    #[test]
    fn addresses_count_as_often_as_they_are_there() {
        let of = |last: &[u8]| {
            let ips = last.iter().map(|last| IpAddr::from([10, 0, 0, *last]));
            Records::Addresses(ips.collect()).fingerprint()
        };
        assert_eq!(of(&[1, 2, 3]), of(&[3, 1, 2]));
        assert_ne!(of(&[1, 2]), of(&[1, 2, 2]));
        assert_ne!(of(&[1, 1]), of(&[2, 2]));
    }
}
