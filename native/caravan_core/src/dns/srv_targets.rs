//! The addresses of SRV targets.

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

/// SRV targets looked up at once.
const MAX_TARGETS: usize = 32;

/// Gives each service the addresses of its target: what came with the answer, or what its own
/// lookup finds before the deadline.
pub async fn resolve_targets(
    resolver: &Resolver,
    services: &mut [Service],
    additionals: &[Record],
    options: &LookupOptions,
    budget: QueryBudget<'_>,
) -> Result<Provenance, LookupError> {
    let mut known: HashMap<String, TargetAddresses> = HashMap::new();
    // Not validated with the answer, so not of use where validation is wanted.
    if !resolver.pool.validates() {
        for (record, ip) in response::additional_addresses(additionals) {
            let target = known.entry(response::host_text(&record.name)).or_default();
            target.add([ip], response::provenance_of(record), options);
        }
    }
    // They may all be silent, and the services are an answer without them.
    let rest = budget.deadline - options.timeout / 10;
    let budget = QueryBudget {
        deadline: rest,
        early_polls: None,
        ..budget
    };
    let targets = services.iter().map(|service| service.target.clone());
    let missing: HashSet<_> = targets
        .filter(|target| !known.contains_key(target))
        .collect();
    if !missing.is_empty() {
        // On to the runtime: these are too many system calls for a scheduler's thread.
        yield_now().await;
    }
    let mut asked = futures_util::stream::iter(missing)
        .map(|target| async move {
            let hosted = resolve_target(resolver, &target, options, budget).await?;
            Ok::<_, LookupError>((target, hosted))
        })
        .buffer_unordered(MAX_TARGETS);
    while let Some(answered) = asked.next().await {
        let (target, hosted) = answered?;
        known.insert(target, hosted);
    }
    drop(asked);
    let mut provenance = Provenance::default();
    for service in services {
        if let Some(target) = known.get(&service.target) {
            service.addresses.clone_from(&target.ips);
            provenance = provenance.merge(target.provenance);
        }
    }
    Ok(provenance)
}

/// An answer that DNSSEC cannot prove is an error; a target that cannot be found has no addresses.
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

/// The addresses of a target.
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
