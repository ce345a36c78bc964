//! One lookup: the hosts file, the search list, and CNAME chains.
//!
//! hickory's own resolver continues with the next name of the search list after any error, and reports the error of
//! the last one. So a timeout could be reported as "the name does not exist".

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
                let failed_server = AtomicUsize::new(usize::MAX);
                let budget =
                    self.pool
                        .budget(options, start, &first_server, &failed_server, early_polls);
                self.query_search_list(name, *query_type, options, budget)
                    .await
                    .map_err(|error| LookupFailure {
                        error,
                        nameserver: self.pool.server_text(failed_server.load(Ordering::Relaxed)),
                    })?
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
    ) -> Result<Answer, LookupError> {
        let mut nothing = LookupError::NxDomain;
        for candidate in self.system.search_names(name) {
            match self.follow_cnames(candidate, query_type, budget).await {
                Err(LookupError::NxDomain) => {}
                Err(LookupError::NoRecords) if nothing != LookupError::NxDomain => {}
                Err(error @ (LookupError::NoRecords | LookupError::ServFail)) => nothing = error,
                Err(error) => return Err(error),
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
        Err(nothing)
    }

    /// Returns the records of `name`, or of the name that its CNAME records lead to, with the additional section.
    pub(super) async fn follow_cnames(
        &self,
        name: Name,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<(Answer, Vec<Record>), LookupError> {
        let (mut name, mut provenance) = (name, Provenance::default());
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
                Found::Cname(other) => name = other,
            }
        }
        Err(LookupError::BadResponse)
    }
}
