//! The addresses of SRV targets: from the additional section, or from lookups of the targets.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use futures_util::StreamExt;
use futures_util::future::join_all;
use hickory_resolver::proto::rr::Record;
use tokio::task::yield_now;

use super::answer::{MAX_TARGET_ADDRESSES, Provenance, Service};
use super::name_server_pool::QueryBudget;
use super::resolver::Resolver;
use super::response;
use super::{Answer, LookupError, LookupFailure, LookupOptions, QueryType, Question, Records};

/// Maximum number of SRV targets that are looked up at the same time.
const MAX_TARGETS: usize = 32;

/// Sets the addresses of each service. Known targets are not looked up. Each other target is looked up for the wanted
/// families of which the additional section has no address. If the additional section has no allowed address of the
/// target, the target is looked up for all wanted families. A target whose lookup does not end before the deadline gets no
/// further addresses. Returns the provenance of all addresses.
pub async fn resolve_targets(
    resolver: &Resolver,
    services: &mut [Service],
    additionals: &[Record],
    options: &LookupOptions,
    budget: QueryBudget<'_>,
) -> Result<Provenance, LookupFailure> {
    let mut known: HashMap<String, TargetAddresses> = HashMap::new();
    // hickory does not validate the additional section, so with DNSSEC, its addresses are not used.
    if !resolver.pool.validates() {
        for (record, ip) in response::additional_addresses(additionals) {
            if !options.addresses.contain(ip) {
                continue;
            }
            let target = known.entry(response::host_text(&record.name)).or_default();
            target.add([ip], response::provenance_of(record), options);
        }
    }
    // The lookups of targets end before the deadline of the whole lookup, because the services are an answer even
    // without addresses.
    let budget = QueryBudget {
        deadline: budget.deadline - options.timeout / 10,
        early_polls: None,
        ..budget
    };
    let mut missing: HashMap<String, Vec<QueryType>> = HashMap::new();
    for service in services.iter() {
        let is_known = options.known_targets.contains(&service.target);
        if is_known || missing.contains_key(&service.target) {
            continue;
        }
        let is_missing = |query_type: &QueryType| match known.get(&service.target) {
            Some(addresses) => addresses.lack(*query_type),
            None => true,
        };
        let query_types = options.addresses.query_types().iter().copied();
        let query_types: Vec<_> = query_types.filter(is_missing).collect();
        if !query_types.is_empty() {
            missing.insert(service.target.clone(), query_types);
        }
    }
    if !missing.is_empty() {
        // Continues on the runtime, because this many system calls take a scheduler too long.
        yield_now().await;
    }
    let mut lookups = futures_util::stream::iter(missing)
        .map(|(target, query_types)| async move {
            let answers = resolve_target(resolver, &target, &query_types, budget).await?;
            Ok::<_, LookupFailure>((target, answers))
        })
        .buffer_unordered(MAX_TARGETS);
    while let Some(found) = lookups.next().await {
        let (target, answers) = found?;
        let target = known.entry(target).or_default();
        for (ips, provenance) in answers {
            target.add(ips, provenance, options);
        }
    }
    drop(lookups);
    let mut provenance = Provenance::default();
    for service in services {
        if let Some(target) = known.get_mut(&service.target) {
            service.addresses.clone_from(&target.ips);
            service.addresses_ttl = (!target.ips.is_empty()).then_some(target.provenance.ttl);
            provenance = provenance.merge(target.provenance);
            // Several services may have the same target. Its dropped addresses count once.
            target.provenance.dropped = 0;
        }
    }
    Ok(provenance)
}

/// Looks up the records of a target, once for each type. Returns their addresses in the order of the types, or the error
/// `Bogus`. After any other error, the target has no addresses of that type.
async fn resolve_target(
    resolver: &Resolver,
    target: &str,
    query_types: &[QueryType],
    budget: QueryBudget<'_>,
) -> Result<Vec<(Vec<IpAddr>, Provenance)>, LookupFailure> {
    let Ok(Question { mut name, .. }) = Question::new(target.as_bytes(), QueryType::A) else {
        return Ok(Vec::new());
    };
    name.set_fqdn(true);
    let lookups = query_types.iter().map(|query_type| {
        let (name, query_type) = (name.clone(), *query_type);
        async move {
            match resolver.system.lookup_hosts(&name, query_type) {
                Some(answer) => Ok(answer),
                None => Ok::<_, LookupFailure>(
                    resolver.follow_cnames(name, query_type, budget).await?.0,
                ),
            }
        }
    });
    let mut found = Vec::new();
    for answer in join_all(lookups).await {
        match answer {
            Ok(Answer {
                records: Records::Addresses(ips),
                provenance,
                ..
            }) => found.push((ips, provenance)),
            Err(failure) if failure.error == LookupError::Bogus => return Err(failure),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}

/// The addresses of one target.
#[derive(Default)]
struct TargetAddresses {
    ips: Vec<IpAddr>,
    /// Addresses that are not allowed. Each one is counted once.
    dropped: HashSet<IpAddr>,
    provenance: Provenance,
}

impl TargetAddresses {
    /// Returns whether addresses of this type are missing.
    fn lack(&self, query_type: QueryType) -> bool {
        let mut all = self.ips.iter().chain(&self.dropped);
        self.ips.is_empty() || !all.any(|ip| QueryType::of(*ip) == query_type)
    }

    fn add(
        &mut self,
        ips: impl IntoIterator<Item = IpAddr>,
        provenance: Provenance,
        options: &LookupOptions,
    ) {
        self.provenance = self.provenance.merge(provenance);
        for ip in ips {
            if !options.allows(ip) {
                self.provenance.dropped += usize::from(self.dropped.insert(ip));
            } else if self.ips.len() < MAX_TARGET_ADDRESSES && !self.ips.contains(&ip) {
                self.ips.push(ip);
            }
        }
    }
}
