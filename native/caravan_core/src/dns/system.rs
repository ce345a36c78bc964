//! The system's resolver configuration, read as the C library reads it (resolv.conf(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use hickory_resolver::Hosts;
use hickory_resolver::proto::rr::Name;

use super::settings::DNS_PORT;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Modification time and size of both files; another fingerprint means another configuration.
pub type Fingerprint = [Option<(SystemTime, u64)>; 2];

pub fn fingerprint() -> Fingerprint {
    [RESOLV_CONF, HOSTS].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

/// What the two files say. Lines that cannot be used are left out, as the C library does.
#[derive(Debug)]
pub struct System {
    /// In the order of the file; without any, the one of this machine.
    pub nameservers: Vec<SocketAddr>,
    /// Domains that relative names are tried in.
    pub search: Vec<Name>,
    /// Names with so many dots are tried as they are before they are tried in [`Self::search`].
    pub ndots: usize,
    /// `/etc/hosts`
    pub hosts: Hosts,
}

impl System {
    pub fn read() -> Self {
        let text = fs::read(RESOLV_CONF).unwrap_or_default();
        Self::parse(&text, Hosts::from_system().unwrap_or_default())
    }

    fn parse(resolv_conf: &[u8], hosts: Hosts) -> Self {
        let (config, _unusable_lines) = resolv_conf::Config::parse_with_errors(resolv_conf);
        let mut nameservers: Vec<_> = config
            .nameservers
            .iter()
            .map(|ip| SocketAddr::new(ip.into(), DNS_PORT))
            .collect();
        if nameservers.is_empty() {
            nameservers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT));
        }
        let mut search: Vec<_> = config
            .get_last_search_or_domain()
            .filter_map(|text| domain(text))
            .collect();
        if search.is_empty() {
            search.extend(config.get_system_domain().as_deref().and_then(domain));
        }
        Self {
            nameservers,
            search,
            ndots: config.ndots as usize,
            hosts,
        }
    }
}

fn domain(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> System {
        System::parse(text.as_bytes(), Hosts::default())
    }

    fn search(text: &str) -> Vec<String> {
        parse(text).search.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn nameservers_keep_their_order() {
        let system = parse("nameserver 10.0.0.2\nnameserver ::1\noptions ndots:5 edns0\n");
        let expected: [SocketAddr; 2] = [
            "10.0.0.2:53".parse().expect("address"),
            "[::1]:53".parse().expect("address"),
        ];
        assert_eq!(system.nameservers, expected);
        assert_eq!(system.ndots, 5);
    }

    #[test]
    fn without_a_nameserver_this_machine_is_asked() {
        let localhost = "127.0.0.1:53".parse().expect("address");
        assert_eq!(parse("").nameservers, [localhost]);
        assert_eq!(parse("search a.test\n").nameservers, [localhost]);
    }

    #[test]
    fn unusable_lines_cost_only_themselves() {
        let system =
            parse("nonsense\nnameserver nowhere\nnameserver 10.0.0.2\nsearch a..b c.test\n");
        assert_eq!(system.nameservers.len(), 1);
        assert_eq!(search("nonsense\nsearch a..b c.test\n"), ["c.test."]);
    }

    #[test]
    fn the_root_is_a_search_domain() {
        // systemd-resolved writes this; erlang/otp#4838.
        assert_eq!(search("search .\n"), ["."]);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        assert_eq!(
            search("domain a.test\nsearch b.test c.test\n"),
            ["b.test.", "c.test."]
        );
    }
}
