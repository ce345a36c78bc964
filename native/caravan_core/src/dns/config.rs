//! The checked configuration of lookups: nameservers, files, and the options of one lookup.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::QueryType;

/// Maximum number of nameservers of one [`ResolverConfig`].
pub const MAX_NAMESERVERS: usize = 16;
/// Maximum number of networks in [`LookupOptions::allow`].
pub const MAX_NETWORKS: usize = 64;
/// Maximum number of targets in [`LookupOptions::known_targets`].
pub const MAX_KNOWN_TARGETS: usize = 16_384;

pub(super) const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;
const DOH_PATH: &str = "/dns-query";
/// Maximum number of octets of a host name or of the path of a URL.
const MAX_TEXT: usize = 253;

/// The text does not name a nameserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNameserver;

/// The text is not a network such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNetwork;

/// The protocol to a nameserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// UDP, and TCP if an answer is truncated.
    Udp,
    /// TCP only.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls {
        /// The host name or address that the certificate must be for.
        name: String,
    },
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// The host name or address that the certificate must be for.
        name: String,
        /// The path of the URL.
        path: String,
    },
}

/// One nameserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServerConfig {
    /// Its address and port.
    pub address: SocketAddr,
    /// The protocol to it.
    pub protocol: Protocol,
}

/// The nameservers and files of a resolver. Lookups with equal configurations share sockets and connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolverConfig {
    /// At most [`MAX_NAMESERVERS`]. If empty, the system's configuration is used.
    pub nameservers: Vec<NameServerConfig>,
    /// A PEM file with the CA certificates to trust. By default, the built-in ones of Mozilla are trusted.
    pub ca_file: Option<PathBuf>,
    /// If set, answers are validated.
    pub dnssec: Option<DnssecConfig>,
    /// Whether names are sent in random case, and only answers that repeat it are accepted (0x20).
    pub randomize_case: bool,
}

/// The validation of answers with DNSSEC (RFC 4035).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnssecConfig {
    /// A file with the DNSKEY records to trust. By default, the built-in keys of the root are trusted.
    pub trust_anchors: Option<PathBuf>,
}

/// The options of one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupOptions {
    /// The nameservers and files to use.
    pub config: ResolverConfig,
    /// The timeout of the whole lookup, including retries.
    pub timeout: Duration,
    /// How often each nameserver is queried. The default is that of resolv.conf, or else 2.
    pub attempts: Option<NonZeroU8>,
    /// Which addresses of SRV targets are returned.
    pub addresses: TargetFamilies,
    /// SRV targets that are not looked up, at most [`MAX_KNOWN_TARGETS`]. In lower case, without a trailing dot.
    pub known_targets: HashSet<String>,
    /// The networks whose addresses are accepted, at most [`MAX_NETWORKS`]. If empty, all addresses are accepted.
    pub allow: Vec<IpNet>,
}

/// The address families of SRV targets that a lookup returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetFamilies {
    /// No addresses.
    None,
    /// IPv4 and IPv6.
    Both,
    /// IPv4 only.
    Inet,
    /// IPv6 only.
    Inet6,
}

impl TargetFamilies {
    /// Returns the types of the records that hold these addresses.
    pub(super) fn query_types(self) -> &'static [QueryType] {
        match self {
            Self::None => &[],
            Self::Both => &[QueryType::A, QueryType::Aaaa],
            Self::Inet => &[QueryType::A],
            Self::Inet6 => &[QueryType::Aaaa],
        }
    }

    pub(super) fn contain(self, address: IpAddr) -> bool {
        self.query_types().contains(&QueryType::of(address))
    }
}

impl ResolverConfig {
    pub(super) fn is_system(&self) -> bool {
        self.nameservers.is_empty()
    }
}

impl LookupOptions {
    /// Removes the addresses that are not allowed. Returns their number.
    pub(super) fn retain_allowed(&self, addresses: &mut Vec<IpAddr>) -> usize {
        let all = addresses.len();
        addresses.retain(|ip| self.allows(*ip));
        all - addresses.len()
    }

    /// Returns whether an address is in one of the networks of `allow`, or `allow` is empty.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for NameServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Parses a nameserver: `10.0.0.2`, `127.0.0.1:8600`, `[fd00::1]:53`, `tcp://10.0.0.2`,
/// `tls://10.0.0.2:853#dns.example`, `https://10.0.0.2/dns-query#dns.example`. The certificate
/// must be for the name after the `#`, or for the address if there is no `#`.
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

/// Parses a network in CIDR notation, or a single address.
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
    fn an_address_without_a_scheme_means_udp() {
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
    fn the_scheme_tcp_means_tcp_only() {
        let tcp = nameserver("tcp://127.0.0.1:8600").expect("a nameserver");
        assert_eq!((tcp.address.port(), tcp.protocol), (8600, Protocol::Tcp));
        assert_eq!(
            nameserver("tcp://[::1]").map(|n| n.address),
            Ok("[::1]:53".parse().expect("address"))
        );
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_and_https_have_the_name_of_the_certificate() {
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
    fn other_texts_are_refused() {
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
    fn networks_and_single_addresses_are_parsed() {
        let ten = network("10.0.0.0/8").expect("a network");
        assert!(ten.contains(&IpAddr::from([10, 255, 0, 1])));
        assert!(!ten.contains(&IpAddr::from([11, 0, 0, 1])));
        assert_eq!(network("fd00::1"), network("fd00::1/128"));
        for text in ["", "10.0.0.0/33", "10.0/8", "all"] {
            assert_eq!(network(text), Err(BadNetwork), "{text}");
        }
    }

    #[test]
    fn retain_allowed_removes_other_addresses() {
        let mut options = LookupOptions {
            config: ResolverConfig::default(),
            timeout: Duration::from_secs(1),
            attempts: None,
            addresses: TargetFamilies::None,
            known_targets: HashSet::new(),
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
        fn every_socket_address_is_parsed_back(ip: IpAddr, port in 1u16..) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(nameserver(&address.to_string()), Ok(udp(&address.to_string())));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = (nameserver(&text), network(&text));
        }

        #[test]
        fn any_url_is_parsed_without_a_panic(scheme in "tcp|tls|https|x", rest in "[0-9.:#/a-z\\[\\]-]{0,40}") {
            let _ = nameserver(&format!("{scheme}://{rest}"));
        }
    }
}
