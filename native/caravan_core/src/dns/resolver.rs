//! One lookup: the hosts file, the search list, and CNAME chains.
//!
//! hickory's own resolver continues with the next name of the search list after any error, and reports the error of
//! the last one. So a timeout could be reported as "the name does not exist".

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, Record};
use tokio::time::Instant;

use super::answer::Provenance;
use super::config::{ResolverConfig, TargetFamilies};
use super::inline_poll::EarlyPolls;
use super::name_server_pool::{NameServerPool, QueryBudget};
use super::resolver_files::ResolverFiles;
use super::response::Found;
use super::srv_targets::resolve_targets;
use super::system_config::SystemConfig;
use super::{Answer, LookupError, LookupFailure, LookupOptions, QueryType, Question, Records};

/// Maximum number of CNAMEs that one lookup follows by a further query. After one more, the lookup ends with
/// [`LookupError::BadResponse`].
const MAX_CNAME_QUERIES: usize = 8;

/// Looks up names with one configuration.
pub struct Resolver {
    pub(super) pool: NameServerPool,
    pub(super) system: SystemConfig,
}

impl Resolver {
    /// Returns a resolver for `config` and the contents of its files.
    pub fn new(config: &ResolverConfig, files: &ResolverFiles) -> Self {
        let system = match &files.system {
            Some((resolv_conf, hosts)) => resolv_conf.with_hosts(Arc::clone(hosts)),
            None => SystemConfig::from_nameservers(config.nameservers.clone()),
        };
        let pool = NameServerPool::new(config, &system, files);
        Self { pool, system }
    }

    /// Looks up a name in the hosts file, and then with the nameservers. Removes addresses that are not allowed.
    pub async fn lookup(
        &self,
        question: &Question,
        options: &LookupOptions,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Result<Answer, LookupFailure> {
        let Question { name, query_type } = question;
        let mut answer = match self.system.lookup_hosts(name, *query_type) {
            Some(answer) => answer,
            None => {
                let first_server = AtomicUsize::new(self.pool.first_server());
                let budget = self.pool.budget(options, start, &first_server, early_polls);
                self.query_search_list(name, *query_type, options, budget)
                    .await?
            }
        };
        let has_addresses = match &mut answer.records {
            Records::Addresses(ips) => {
                answer.provenance.dropped = options.retain_allowed(ips);
                !ips.is_empty()
            }
            Records::Services(services) => services
                .iter()
                .any(|s| !s.addresses.is_empty() || options.known_targets.contains(&s.target)),
        };
        if answer.provenance.dropped > 0 && !has_addresses {
            return Err(LookupFailure {
                error: LookupError::NotAllowed,
                transport: answer.nameserver.is_some().then_some(answer.transport),
                nameserver: answer.nameserver,
            });
        }
        answer.time = start.elapsed();
        Ok(answer)
    }

    /// Queries the names of the search list until one has an answer. NXDOMAIN, "no records" and SERVFAIL lead to the
    /// next name, as in the C library. Any other error ends the lookup, because that name could have an answer.
    ///
    /// If no name has an answer, the result is SERVFAIL if a name had it, or else "no records" if a name had it.
    async fn query_search_list(
        &self,
        name: &Name,
        query_type: QueryType,
        options: &LookupOptions,
        budget: QueryBudget<'_>,
    ) -> Result<Answer, LookupFailure> {
        let mut nothing: Option<LookupFailure> = None;
        for candidate in self.system.search_names(name) {
            match self.follow_cnames(candidate, query_type, budget).await {
                Err(failure) => match rank(&failure.error) {
                    None => return Err(failure),
                    new if nothing.as_ref().is_none_or(|old| new > rank(&old.error)) => {
                        nothing = Some(failure);
                    }
                    Some(_) => {}
                },
                Ok((mut answer, additionals)) => {
                    if let Records::Services(services) = &mut answer.records
                        && options.addresses != TargetFamilies::None
                    {
                        let targets =
                            resolve_targets(self, services, &additionals, options, budget);
                        let targets = Box::pin(targets).await?;
                        answer.provenance = answer.provenance.merge(targets);
                    }
                    return Ok(answer);
                }
            }
        }
        Err(nothing.unwrap_or_else(|| LookupError::NxDomain.into()))
    }

    /// Returns the records of `name`, or of the name that its CNAME records lead to, with the additional section.
    pub(super) async fn follow_cnames(
        &self,
        name: Name,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<(Answer, Vec<Record>), LookupFailure> {
        let (mut name, mut provenance) = (name, Provenance::default());
        let mut failure = LookupFailure::from(LookupError::BadResponse);
        for _ in 0..=MAX_CNAME_QUERIES {
            let response = self.pool.query(&name, query_type, budget).await?;
            provenance = provenance.merge(response.provenance);
            match response.found {
                Found::Records(records) => {
                    let answer = Answer {
                        records,
                        provenance,
                        nameserver: Some(response.nameserver),
                        transport: response.transport,
                        time: Duration::ZERO,
                    };
                    return Ok((answer, response.additionals));
                }
                Found::Cname(other) => {
                    name = other;
                    failure.nameserver = Some(response.nameserver);
                    failure.transport = Some(response.transport);
                }
            }
        }
        Err(failure)
    }
}

/// Returns the rank of an error after which the search list continues: that of the highest rank is reported. None for
/// other errors.
fn rank(error: &LookupError) -> Option<u8> {
    match error {
        LookupError::NxDomain => Some(0),
        LookupError::NoRecords => Some(1),
        LookupError::ServFail => Some(2),
        _ => None,
    }
}
