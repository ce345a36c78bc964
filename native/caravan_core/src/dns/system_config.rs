//! The system's resolver configuration: `/etc/resolv.conf` and `/etc/hosts`, read as the C library reads them
//! (resolv.conf(5), hosts(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use resolv_conf::ScopedIp;

use super::answer::{Answer, Provenance, Records, Transport};
use super::config::{DNS_PORT, NameServerConfig, Protocol};
use super::hosts::Hosts;
use super::{QueryType, response};

pub const RESOLV_CONF: &str = "/etc/resolv.conf";
pub const HOSTS: &str = "/etc/hosts";
/// Maximum of the option `attempts`. A larger number counts as this one. (resolv.conf(5) allows 5.)
const MAX_ATTEMPTS: u8 = 10;
/// The TTL of names in `/etc/hosts`, in seconds: a day, as in hickory. The file has no TTLs. Every lookup sees changes of
/// the file, so the TTL is never a reason to look up a name early.
const HOSTS_TTL: u32 = 86_400;

/// The contents of the two files. Unusable lines are ignored, as the C library does.
#[derive(Debug, Clone)]
pub struct SystemConfig {
    /// The nameservers in the order of the file. If the file has none, the one on this machine.
    pub nameservers: Vec<NameServerConfig>,
    /// The search domains, which are appended to relative names.
    pub search: Vec<Name>,
    /// A name with at least this number of dots is queried as it is first, and then with the search domains.
    pub ndots: usize,
    /// How often each nameserver is queried.
    pub attempts: Option<NonZeroU8>,
    /// The maximum duration of one attempt.
    pub timeout: Option<Duration>,
    /// Whether each lookup starts with another nameserver.
    pub rotate: bool,
    /// The contents of `/etc/hosts`.
    pub hosts: Arc<Hosts>,
}

impl SystemConfig {
    /// Returns this configuration with the names of `hosts`.
    pub fn with_hosts(&self, hosts: Arc<Hosts>) -> Self {
        Self {
            hosts,
            ..self.clone()
        }
    }

    /// Returns a configuration with these nameservers and without anything from the two files.
    pub fn from_nameservers(nameservers: Vec<NameServerConfig>) -> Self {
        Self {
            nameservers,
            search: Vec::new(),
            ndots: 0,
            attempts: None,
            timeout: None,
            rotate: false,
            hosts: Arc::default(),
        }
    }

    /// Returns the addresses that `/etc/hosts` has for `name`.
    pub fn lookup_hosts(&self, name: &Name, query_type: QueryType) -> Option<Answer> {
        let is_of_type = |ip: &IpAddr| match query_type {
            QueryType::A => ip.is_ipv4(),
            QueryType::Aaaa => ip.is_ipv6(),
            QueryType::Srv => false,
        };
        if self.hosts.is_empty() {
            return None;
        }
        let name = response::host_text(name);
        let found = self.hosts.addresses(name.as_bytes());
        let addresses: Vec<_> = found.filter(is_of_type).collect();
        if addresses.is_empty() {
            return None;
        }
        Some(Answer {
            records: Records::Addresses(addresses),
            provenance: Provenance {
                ttl: HOSTS_TTL,
                secure: false,
                dropped: 0,
            },
            nameserver: None,
            transport: Transport::Hosts,
            time: Duration::ZERO,
        })
    }

    /// Returns the names to query, in order (resolv.conf(5): search, ndots).
    pub fn search_names(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() || self.search.is_empty() {
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

    /// Reads the text of `/etc/resolv.conf`.
    pub fn parse(resolv_conf: &[u8]) -> Self {
        let (config, _unusable_lines) = resolv_conf::Config::parse_with_errors(resolv_conf);
        let mut nameservers: Vec<_> = config.nameservers.iter().map(nameserver).collect();
        if nameservers.is_empty() {
            nameservers.push(nameserver(&ScopedIp::V4(Ipv4Addr::LOCALHOST)));
        }
        let mut search: Vec<_> = config
            .get_last_search_or_domain()
            .filter_map(|text| domain(text))
            .collect();
        if search.is_empty() {
            search.extend(config.get_system_domain().as_deref().and_then(domain));
        }
        let attempts = u8::try_from(config.attempts).unwrap_or(u8::MAX);
        Self {
            nameservers,
            search,
            ndots: config.ndots as usize,
            attempts: NonZeroU8::new(attempts.min(MAX_ATTEMPTS)),
            timeout: (config.timeout > 0).then(|| Duration::from_secs(config.timeout.into())),
            rotate: config.rotate,
            hosts: Arc::default(),
        }
    }
}

/// Reads any octets as the two files. For fuzzing.
#[cfg(any(test, fuzzing))]
pub fn read_any_files(octets: &[u8]) {
    let system = SystemConfig::parse(octets).with_hosts(Arc::new(Hosts::new(octets.to_vec())));
    assert!(!system.nameservers.is_empty());
    assert!(system.search.iter().all(Name::is_fqdn));
    let attempts = system.attempts.map_or(1, NonZeroU8::get);
    assert!((1..=MAX_ATTEMPTS).contains(&attempts));
}

fn nameserver(ip: &ScopedIp) -> NameServerConfig {
    let address = match ip {
        ScopedIp::V4(ip) => SocketAddr::new(IpAddr::V4(*ip), DNS_PORT),
        ScopedIp::V6(ip, scope) => {
            let scope = scope.as_deref().and_then(scope_id).unwrap_or_default();
            SocketAddrV6::new(*ip, DNS_PORT, 0, scope).into()
        }
    };
    NameServerConfig {
        address,
        protocol: Protocol::Udp,
    }
}

/// Returns the index of a network interface, which is given as a number or by its name. Names are read from sysfs
/// (Linux), without a call to libc.
fn scope_id(scope: &str) -> Option<u32> {
    let by_name = || {
        let is_name = !scope.is_empty() && !scope.starts_with('.') && !scope.contains('/');
        let path = is_name.then(|| Path::new("/sys/class/net").join(scope).join("ifindex"))?;
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    scope.parse().ok().or_else(by_name)
}

fn domain(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::super::Question;
    use super::*;

    fn parse(text: &str) -> SystemConfig {
        SystemConfig::parse(text.as_bytes())
    }

    fn addresses(system: &SystemConfig) -> Vec<String> {
        system
            .nameservers
            .iter()
            .map(NameServerConfig::to_string)
            .collect()
    }

    fn search(text: &str) -> Vec<String> {
        parse(text).search.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn nameservers_keep_their_order() {
        let system = parse("nameserver 10.0.0.2\nnameserver ::1\noptions ndots:5 edns0\n");
        assert_eq!(addresses(&system), ["10.0.0.2:53", "[::1]:53"]);
        assert_eq!(system.ndots, 5);
    }

    #[test]
    fn the_options_timeout_attempts_and_rotate_are_read() {
        let system = parse("options timeout:1 attempts:3 rotate\n");
        assert_eq!(system.attempts, NonZeroU8::new(3));
        assert_eq!(system.timeout, Some(Duration::from_secs(1)));
        assert!(system.rotate);
        assert_eq!(parse("options attempts:0\n").attempts, None);
        assert_eq!(
            parse("options attempts:900\n").attempts,
            NonZeroU8::new(MAX_ATTEMPTS)
        );
    }

    #[test]
    fn a_link_local_nameserver_keeps_its_scope() {
        let system = parse("nameserver fe80::1%7\nnameserver fe80::2%lo\n");
        let scope = |place: usize| match system.nameservers[place].address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => panic!("not IPv6"),
        };
        assert_eq!(scope(0), 7);
        #[cfg(target_os = "linux")]
        assert_eq!(scope(1), 1);
    }

    #[test]
    fn without_a_nameserver_the_one_on_this_machine_is_used() {
        assert_eq!(addresses(&parse("")), ["127.0.0.1:53"]);
        assert_eq!(addresses(&parse("search a.test\n")), ["127.0.0.1:53"]);
    }

    #[test]
    fn unusable_lines_are_ignored() {
        let system =
            parse("nonsense\nnameserver nowhere\nnameserver 10.0.0.2\nsearch a..b c.test\n");
        assert_eq!(system.nameservers.len(), 1);
        assert_eq!(search("nonsense\nsearch a..b c.test\n"), ["c.test."]);
    }

    #[test]
    fn the_root_can_be_a_search_domain() {
        // systemd-resolved writes this; erlang/otp#4838.
        assert_eq!(search("search .\n"), ["."]);
    }

    #[test]
    fn the_last_search_or_domain_line_is_used() {
        assert_eq!(
            search("domain a.test\nsearch b.test c.test\n"),
            ["b.test.", "c.test."]
        );
    }

    fn search_names(name: &str, search: &[&str], ndots: usize) -> Vec<String> {
        let mut system = SystemConfig::from_nameservers(Vec::new());
        let domains = search.iter().map(Name::from_ascii);
        system.search = domains.collect::<Result<_, _>>().expect("names");
        system.ndots = ndots;
        let question = Question::new(name.as_bytes(), QueryType::A).expect("a question");
        let names = system.search_names(&question.name);
        names.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn an_absolute_name_is_not_searched() {
        assert_eq!(search_names("app.", &["a.test."], 5), ["app."]);
    }

    #[test]
    fn a_name_with_enough_dots_is_queried_first_as_it_is() {
        let search = ["a.test.", "b.test."];
        assert_eq!(
            search_names("app", &search, 1),
            ["app.a.test.", "app.b.test.", "app."]
        );
        assert_eq!(
            search_names("app.x", &search, 1),
            ["app.x.", "app.x.a.test.", "app.x.b.test."]
        );
        assert_eq!(
            search_names("app.x", &search, 5),
            ["app.x.a.test.", "app.x.b.test.", "app.x."]
        );
    }

    #[test]
    fn no_name_is_queried_twice() {
        assert_eq!(search_names("app", &["."], 1), ["app."]);
    }
}
