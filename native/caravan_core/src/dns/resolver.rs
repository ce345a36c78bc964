//! One set of nameservers, and how it is asked: names in the order of resolv.conf(5), and for each
//! name the nameservers in their order.
//!
//! hickory's own resolver would ask two nameservers at once, take the first error that one of them
//! gives for the answer, and report the last name's error for all of them.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, Record};
use tokio::time::Instant;

use super::answer::Provenance;
use super::config::ResolverConfig;
use super::inline_poll::EarlyPolls;
use super::name_server_pool::{NameServerPool, QueryBudget};
use super::response::Found;
use super::srv_targets::resolve_targets;
use super::system_config::SystemConfig;
use super::{Answer, LookupError, LookupOptions, QueryType, Question, Records};

/// Names that one lookup follows, one alias after the other.
const MAX_CNAME_QUERIES: usize = 8;

/// See the module.
pub struct Resolver {
    pub(super) pool: NameServerPool,
    pub(super) system: SystemConfig,
}

impl Resolver {
    /// Reads the files that `config` needs: not for a scheduler's thread.
    pub fn new(config: &ResolverConfig) -> Result<Self, LookupError> {
        let system = if config.is_system() {
            SystemConfig::read()
        } else {
            SystemConfig::without(config.nameservers.clone())
        };
        let pool = NameServerPool::new(config, &system)?;
        Ok(Self { pool, system })
    }

    /// Asks until a name has an answer. That a name does not exist, or has no such records, leaves
    /// the next one to be tried, and so does SERVFAIL, as it does for the C library; any other error
    /// ends it: the answer could have been there.
    pub async fn lookup(
        &self,
        question: &Question,
        options: &LookupOptions,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Result<Answer, LookupError> {
        let Question { name, query_type } = question;
        let mut answer = match self.system.lookup_hosts(name, *query_type) {
            Some(answer) => answer,
            None => {
                self.query_search_list(name, *query_type, options, start, early_polls)
                    .await?
            }
        };
        let has_addresses = match &mut answer.records {
            Records::Addresses(ips) => {
                answer.provenance.dropped = options.retain_allowed(ips);
                !ips.is_empty()
            }
            Records::Services(services) => services.iter().any(|s| !s.addresses.is_empty()),
        };
        if answer.provenance.dropped > 0 && !has_addresses {
            return Err(LookupError::NotAllowed);
        }
        answer.time = start.elapsed();
        Ok(answer)
    }

    async fn query_search_list(
        &self,
        name: &Name,
        query_type: QueryType,
        options: &LookupOptions,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Result<Answer, LookupError> {
        let first_server = AtomicUsize::new(self.pool.first_server());
        let budget = self.pool.budget(options, start, &first_server, early_polls);
        let mut nothing = LookupError::NxDomain;
        for candidate in self.system.search_names(name) {
            match self.follow_cnames(candidate, query_type, budget).await {
                Err(LookupError::NxDomain) => {}
                Err(LookupError::NoRecords) if nothing != LookupError::NxDomain => {}
                Err(error @ (LookupError::NoRecords | LookupError::ServFail)) => nothing = error,
                Err(error) => return Err(error),
                Ok((mut answer, additionals)) => {
                    if let Records::Services(services) = &mut answer.records
                        && options.addresses
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

    /// The records of `name`, or of the name it is an alias for; and what came beside them.
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
