//! One set of nameservers, and how it is asked: names in the order of resolv.conf(5), and for each
//! name the nameservers in their order.
//!
//! hickory would ask two nameservers at once, take the first error that one of them gives for the
//! answer, and report the last name's error for all of them.

use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use tokio::time::{Instant, timeout_at};

use super::system::System;
use super::{Answer, Kind, LookupError, Question, Settings};

/// Requests under way to one nameserver over one connection. Caravan bounds lookups before hickory
/// does, so this only has to be out of the way.
const MAX_ACTIVE_REQUESTS: usize = 4_096;

pub struct Upstream {
    servers: Vec<TokioResolver>,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
    attempts: u8,
    /// Of the whole timeout, for one try of one nameserver.
    share: Duration,
}

impl Upstream {
    pub fn new(settings: &Settings) -> Result<Self, LookupError> {
        let system = if settings.is_system() {
            System::read()
        } else {
            System {
                nameservers: settings.nameservers.clone(),
                search: Vec::new(),
                ndots: 0,
                hosts: Hosts::default(),
            }
        };
        let attempts = settings.attempts.get();
        let tries = u32::from(attempts) * u32::try_from(system.nameservers.len()).unwrap_or(1);
        let share = settings.timeout / tries.max(1);
        let servers = system.nameservers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            resolver(server, share)
        });
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            search: system.search,
            ndots: system.ndots,
            hosts: system.hosts,
            attempts,
            share,
        })
    }

    /// Asks until a name has an answer. That a name does not exist, or has no such records, leaves
    /// the next one to be tried; any other error ends it: the answer could have been there.
    pub async fn lookup(
        &self,
        question: Question,
        deadline: Instant,
    ) -> Result<Answer, LookupError> {
        let Question { name, kind } = question;
        let query = Query::query(name.clone(), kind.into());
        if let Some(found) = self.hosts.lookup_static_host(&query) {
            return Answer::from_lookup(&found, kind);
        }
        let mut nothing = LookupError::NxDomain;
        for candidate in self.candidates(&name) {
            match self.ask(&candidate, kind, deadline).await {
                Err(LookupError::NxDomain) => {}
                Err(LookupError::NoRecords) => nothing = LookupError::NoRecords,
                outcome => return outcome,
            }
        }
        Err(nothing)
    }

    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let mut names: Vec<_> = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .filter(|name| *name != absolute)
            .collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let position = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(position, absolute);
        names
    }

    async fn ask(&self, name: &Name, kind: Kind, deadline: Instant) -> Result<Answer, LookupError> {
        let mut failure = LookupError::Timeout;
        for server in (0..self.attempts).flat_map(|_| &self.servers) {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let until = deadline.min(now + self.share);
            let outcome = match timeout_at(until, server.lookup(name.clone(), kind.into())).await {
                Ok(Ok(lookup)) => Answer::from_lookup(&lookup, kind),
                Ok(Err(error)) => Err(error.into()),
                Err(_elapsed) => Err(LookupError::Timeout),
            };
            match outcome {
                // Another nameserver may know better. What one of them said tells more than silence.
                Err(
                    error @ (LookupError::ServFail
                    | LookupError::Refused
                    | LookupError::FormErr
                    | LookupError::BadResponse
                    | LookupError::Truncated
                    | LookupError::Connection
                    | LookupError::Busy),
                ) => failure = error,
                Err(LookupError::Timeout) => {}
                outcome => return outcome,
            }
        }
        Err(failure)
    }
}

fn resolver(server: NameServerConfig, timeout: Duration) -> Result<TokioResolver, LookupError> {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    // Tries after the first; they are made here.
    options.attempts = 0;
    options.cache_size = 0;
    options.max_active_requests = MAX_ACTIVE_REQUESTS;
    options.use_hosts_file = ResolveHosts::Never;
    let config = ResolverConfig::from_name_servers(vec![server]);
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder
        .with_options(options)
        .build()
        .map_err(LookupError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(name: &str, search: &[&str], ndots: usize) -> Vec<String> {
        let upstream = Upstream {
            servers: Vec::new(),
            search: search
                .iter()
                .map(|s| Name::from_ascii(s).expect("name"))
                .collect(),
            ndots,
            hosts: Hosts::default(),
            attempts: 1,
            share: Duration::ZERO,
        };
        let question = Question::new(name.as_bytes(), Kind::A).expect("a question");
        let names = upstream.candidates(&question.name);
        names.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn an_absolute_name_is_asked_for_alone() {
        assert_eq!(candidates("app.", &["a.test."], 5), ["app."]);
    }

    #[test]
    fn dots_decide_whether_the_name_itself_comes_first() {
        let search = ["a.test.", "b.test."];
        assert_eq!(
            candidates("app", &search, 1),
            ["app.a.test.", "app.b.test.", "app."]
        );
        assert_eq!(
            candidates("app.x", &search, 1),
            ["app.x.", "app.x.a.test.", "app.x.b.test."]
        );
        assert_eq!(
            candidates("app.x", &search, 5),
            ["app.x.a.test.", "app.x.b.test.", "app.x."]
        );
    }

    #[test]
    fn no_name_is_asked_for_twice() {
        assert_eq!(candidates("app", &["."], 1), ["app."]);
    }
}
