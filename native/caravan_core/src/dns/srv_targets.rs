//! The addresses of SRV targets: from the additional section, or from lookups of the targets.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use futures_util::StreamExt;
use futures_util::future::join;
use hickory_resolver::proto::rr::Record;
use tokio::task::yield_now;

use super::answer::{MAX_TARGET_ADDRESSES, Provenance, Service};
use super::name_server_pool::QueryBudget;
use super::resolver::Resolver;
use super::response;
use super::{Answer, LookupError, LookupOptions, QueryType, Question, Records};

/// Maximum number of SRV targets that are looked up at the same time.
const MAX_TARGETS: usize = 32;

/// Sets the addresses of each service. Targets without an address in the additional section are looked up. A target
/// whose lookup does not end before the deadline has no addresses. Returns the provenance of all addresses.
pub async fn resolve_targets(
    resolver: &Resolver,
    services: &mut [Service],
    additionals: &[Record],
    options: &LookupOptions,
    budget: QueryBudget<'_>,
) -> Result<Provenance, LookupError> {
    let mut known: HashMap<String, TargetAddresses> = HashMap::new();
    // hickory does not validate the additional section.
    if !resolver.pool.validates() {
        for (record, ip) in response::additional_addresses(additionals) {
            let target = known.entry(response::host_text(&record.name)).or_default();
            target.add([ip], response::provenance_of(record), options);
        }
    }
    // Ends before the deadline of the lookup: the services are an answer even without addresses.
    let budget = QueryBudget {
        deadline: budget.deadline - options.timeout / 10,
        early_polls: None,
        ..budget
    };
    let targets = services.iter().map(|service| service.target.clone());
    let missing: HashSet<_> = targets
        .filter(|target| !known.contains_key(target))
        .collect();
    if !missing.is_empty() {
        // Continue on the runtime, because a scheduler has no time for so many system calls.
        yield_now().await;
    }
    let mut lookups = futures_util::stream::iter(missing)
        .map(|target| async move {
            let addresses = resolve_target(resolver, &target, options, budget).await?;
            Ok::<_, LookupError>((target, addresses))
        })
        .buffer_unordered(MAX_TARGETS);
    while let Some(found) = lookups.next().await {
        let (target, addresses) = found?;
        known.insert(target, addresses);
    }
    drop(lookups);
    let mut provenance = Provenance::default();
    for service in services {
        if let Some(target) = known.get(&service.target) {
            service.addresses.clone_from(&target.ips);
            provenance = provenance.merge(target.provenance);
        }
    }
    Ok(provenance)
}

/// Looks up both address families of a target. The error `Bogus` is returned. After any other error, the target has
/// no addresses of that family.
async fn resolve_target(
    resolver: &Resolver,
    target: &str,
    options: &LookupOptions,
    budget: QueryBudget<'_>,
) -> Result<TargetAddresses, LookupError> {
    let mut addresses = TargetAddresses::default();
    let Ok(Question { mut name, .. }) = Question::new(target.as_bytes(), QueryType::A) else {
        return Ok(addresses);
    };
    name.set_fqdn(true);
    let of = |query_type| {
        let name = name.clone();
        async move {
            match resolver.system.lookup_hosts(&name, query_type) {
                Some(answer) => Ok(answer),
                None => Ok(resolver.follow_cnames(name, query_type, budget).await?.0),
            }
        }
    };
    let (v4, v6) = join(of(QueryType::A), of(QueryType::Aaaa)).await;
    for answer in [v4, v6] {
        match answer {
            Ok(Answer {
                records: Records::Addresses(ips),
                provenance,
                ..
            }) => addresses.add(ips, provenance, options),
            Err(LookupError::Bogus) => return Err(LookupError::Bogus),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(addresses)
}

/// The addresses of one target.
#[derive(Default)]
struct TargetAddresses {
    ips: Vec<IpAddr>,
    provenance: Provenance,
}

impl TargetAddresses {
    fn add(
        &mut self,
        ips: impl IntoIterator<Item = IpAddr>,
        provenance: Provenance,
        options: &LookupOptions,
    ) {
        self.provenance = self.provenance.merge(provenance);
        for ip in ips {
            if !options.allows(ip) {
                self.provenance.dropped += 1;
            } else if self.ips.len() < MAX_TARGET_ADDRESSES && !self.ips.contains(&ip) {
                self.ips.push(ip);
            }
        }
    }
}
