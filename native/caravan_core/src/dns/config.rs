//! Whom to ask and how.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

/// Nameservers of one [`LookupOptions`].
pub const MAX_NAMESERVERS: usize = 16;
/// Networks of [`LookupOptions::allow`].
pub const MAX_NETWORKS: usize = 64;

pub(super) const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;
const DOH_PATH: &str = "/dns-query";
/// Octets of a host name or a URL's path.
const MAX_TEXT: usize = 253;

/// A text that is no nameserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNameserver;

/// A text that is no network, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNetwork;

/// How a nameserver is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP, and TCP when an answer is cut.
    Udp,
    /// TCP alone.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls {
        /// What the certificate has to be for: a host name or an address.
        name: String,
    },
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// What the certificate has to be for: a host name or an address.
        name: String,
        /// Of the URL.
        path: String,
    },
}

/// One server to ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameServerConfig {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub protocol: Protocol,
}

/// Where answers come from. Lookups of equal sources share sockets and connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ResolverConfig {
    /// At most [`MAX_NAMESERVERS`]; none means the system's configuration.
    pub nameservers: Vec<NameServerConfig>,
    /// Certificates (PEM) to trust in place of those built in.
    pub ca_file: Option<PathBuf>,
    /// Whether answers are validated, and from which keys on.
    pub dnssec: Option<DnssecConfig>,
    /// Letters of names are sent in random case, and have to come back in it.
    pub randomize_case: bool,
}

/// Validation of answers (RFC 4035).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DnssecConfig {
    /// DNSKEY records to trust in place of the root's.
    pub trust_anchors: Option<PathBuf>,
}

/// What a lookup is made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LookupOptions {
    /// Whom to ask.
    pub config: ResolverConfig,
    /// Deadline of a whole lookup, retries included.
    pub timeout: Duration,
    /// How often each nameserver is asked before giving up; else as resolv.conf says, else twice.
    pub attempts: Option<NonZeroU8>,
    /// Whether SRV targets are looked up too.
    pub addresses: bool,
    /// Networks that addresses have to be in, at most [`MAX_NETWORKS`]; none allows all.
    pub allow: Vec<IpNet>,
}

impl ResolverConfig {
    pub(super) fn is_system(&self) -> bool {
        self.nameservers.is_empty()
    }
}

impl LookupOptions {
    /// Leaves only allowed addresses; returns how many went.
    pub(super) fn retain_allowed(&self, addresses: &mut Vec<IpAddr>) -> usize {
        let all = addresses.len();
        addresses.retain(|ip| self.allows(*ip));
        all - addresses.len()
    }

    /// Whether an address lies in one of the networks of `allow`; where there are none, all are allowed.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for NameServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Reads a nameserver: `10.0.0.2`, `127.0.0.1:8600`, `[fd00::1]:53`, `tcp://10.0.0.2`,
/// `tls://10.0.0.2:853#dns.example`, `https://10.0.0.2/dns-query#dns.example`. What stands behind the
/// `#` is the name that the certificate has to be for; without it, the address.
///
/// ```
/// use caravan_core::dns::NameServerConfig;
/// let parse = str::parse::<NameServerConfig>;
/// assert_eq!(parse("10.0.0.2"), parse("10.0.0.2:53"));
/// assert!(parse("ns.example.com").is_err());
/// ```
impl FromStr for NameServerConfig {
    type Err = BadNameserver;

    fn from_str(text: &str) -> Result<Self, BadNameserver> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self {
                address: address(text, DNS_PORT)?,
                protocol: Protocol::Udp,
            });
        };
        let (rest, name) = match rest.split_once('#') {
            Some((rest, name)) => (rest, Some(name)),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let port = match scheme {
            "tcp" => DNS_PORT,
            "tls" if cfg!(feature = "tls") => TLS_PORT,
            "https" if cfg!(feature = "tls") => HTTPS_PORT,
            _ => return Err(BadNameserver),
        };
        let address = address(authority, port)?;
        let certified = || match name {
            None => Ok(address.ip().to_string()),
            Some(name) if is_host(name) => Ok(name.to_owned()),
            Some(_) => Err(BadNameserver),
        };
        let protocol = match (scheme, path) {
            ("tcp", "") if name.is_none() => Protocol::Tcp,
            ("tls", "") => Protocol::Tls { name: certified()? },
            ("https", path) if is_path(path) => Protocol::Https {
                name: certified()?,
                path: if path.is_empty() { DOH_PATH } else { path }.to_owned(),
            },
            _ => return Err(BadNameserver),
        };
        Ok(Self { address, protocol })
    }
}

/// Reads a network in CIDR notation, or a single address.
pub fn network(text: &str) -> Result<IpNet, BadNetwork> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| BadNetwork)
}

fn address(text: &str, port: u16) -> Result<SocketAddr, BadNameserver> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => text.parse().map_err(|_| BadNameserver)?,
    };
    if address.port() == 0 {
        return Err(BadNameserver);
    }
    Ok(address)
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() < 64
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= MAX_TEXT && (text.split('.').all(is_label) || text.parse::<IpAddr>().is_ok())
}

fn is_path(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    text.len() <= MAX_TEXT && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nameserver(text: &str) -> Result<NameServerConfig, BadNameserver> {
        text.parse()
    }

    fn udp(address: &str) -> NameServerConfig {
        NameServerConfig {
            address: address.parse().expect("address"),
            protocol: Protocol::Udp,
        }
    }

    #[test]
    fn plain_addresses_are_asked_over_udp() {
        let cases = [
            ("10.0.0.2", "10.0.0.2:53"),
            ("127.0.0.1:8600", "127.0.0.1:8600"),
            ("::1", "[::1]:53"),
            ("[::1]", "[::1]:53"),
            ("[fd00::1]:5353", "[fd00::1]:5353"),
        ];
        for (text, address) in cases {
            assert_eq!(nameserver(text), Ok(udp(address)), "{text}");
        }
    }

    #[test]
    fn a_scheme_names_another_protocol() {
        let tcp = nameserver("tcp://127.0.0.1:8600").expect("a nameserver");
        assert_eq!((tcp.address.port(), tcp.protocol), (8600, Protocol::Tcp));
        assert_eq!(
            nameserver("tcp://[::1]").map(|n| n.address),
            Ok("[::1]:53".parse().expect("address"))
        );
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_and_https_have_a_name_to_check() {
        let name = |name: &str| name.to_owned();
        let cases = [
            (
                "tls://1.2.3.4#dns.example",
                853,
                Protocol::Tls {
                    name: name("dns.example"),
                },
            ),
            (
                "tls://[::1]:8853",
                8853,
                Protocol::Tls { name: name("::1") },
            ),
            (
                "https://1.2.3.4/q#dns.example",
                443,
                Protocol::Https {
                    name: name("dns.example"),
                    path: name("/q"),
                },
            ),
            (
                "https://1.2.3.4:8443",
                8443,
                Protocol::Https {
                    name: name("1.2.3.4"),
                    path: name("/dns-query"),
                },
            ),
        ];
        for (text, port, protocol) in cases {
            let server = nameserver(text).expect(text);
            assert_eq!((server.address.port(), server.protocol), (port, protocol));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:0",
            "1.2.3",
            "1.2.3.4:65536",
            "[::1]:x",
            " 1.2.3.4",
            "udp://1.2.3.4",
            "tcp://1.2.3.4/path",
            "tcp://1.2.3.4#name",
            "tls://dns.example",
            "tls://1.2.3.4#",
            "tls://1.2.3.4#a..b",
            "tls://1.2.3.4/path",
            "https://1.2.3.4/a b",
        ] {
            assert_eq!(nameserver(text), Err(BadNameserver), "{text}");
        }
    }

    #[test]
    fn networks_are_read_and_single_addresses_too() {
        let ten = network("10.0.0.0/8").expect("a network");
        assert!(ten.contains(&IpAddr::from([10, 255, 0, 1])));
        assert!(!ten.contains(&IpAddr::from([11, 0, 0, 1])));
        assert_eq!(network("fd00::1"), network("fd00::1/128"));
        for text in ["", "10.0.0.0/33", "10.0/8", "all"] {
            assert_eq!(network(text), Err(BadNetwork), "{text}");
        }
    }

    #[test]
    fn only_allowed_addresses_stay() {
        let mut options = LookupOptions {
            config: ResolverConfig::default(),
            timeout: Duration::from_secs(1),
            attempts: None,
            addresses: false,
            allow: Vec::new(),
        };
        let mut ips = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([11, 0, 0, 1])];
        assert_eq!(options.retain_allowed(&mut ips), 0);
        options.allow = vec![network("10.0.0.0/8").expect("a network")];
        assert_eq!(options.retain_allowed(&mut ips), 1);
        assert_eq!(ips, [IpAddr::from([10, 0, 0, 1])]);
    }

    proptest! {
        #[test]
        fn every_socket_address_is_read_back(ip: IpAddr, port in 1u16..) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(nameserver(&address.to_string()), Ok(udp(&address.to_string())));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = (nameserver(&text), network(&text));
        }

        #[test]
        fn any_url_is_answered(scheme in "tcp|tls|https|x", rest in "[0-9.:#/a-z\\[\\]-]{0,40}") {
            let _ = nameserver(&format!("{scheme}://{rest}"));
        }
    }
}
