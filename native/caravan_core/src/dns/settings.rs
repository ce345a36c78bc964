//! Whom to ask and how often.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Duration;

use hickory_resolver::config::{
    NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::system_conf::read_system_conf;

use super::LookupError;

/// Nameservers of one [`Settings`].
pub const MAX_NAMESERVERS: usize = 16;

/// Requests under way to one nameserver over one connection. Caravan bounds lookups before hickory
/// does, so this only has to be out of the way.
const MAX_ACTIVE_REQUESTS: usize = 4_096;

const DNS_PORT: u16 = 53;

/// A text that is no nameserver address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNameserver;

/// What one resolver is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Nameservers to ask, at most [`MAX_NAMESERVERS`]; none means the system's configuration.
    pub nameservers: Vec<SocketAddr>,
    /// Deadline of a whole lookup, retries included.
    pub timeout: Duration,
    /// How often each nameserver is asked before giving up.
    pub attempts: NonZeroU8,
}

impl Settings {
    pub(super) fn is_system(&self) -> bool {
        self.nameservers.is_empty()
    }

    /// The configuration for hickory. For the system's, this reads `/etc/resolv.conf`.
    pub(super) fn resolve(&self) -> Result<(ResolverConfig, ResolverOpts), LookupError> {
        let (config, mut options) = if self.is_system() {
            read_system_conf().map_err(|_| LookupError::NoNameservers)?
        } else {
            let servers = self.nameservers.iter().map(server).collect();
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
            (ResolverConfig::from_name_servers(servers), options)
        };
        // A share of the whole, so that a lost packet leaves time to ask again.
        options.timeout = self.timeout / u32::from(self.attempts.get());
        // hickory counts the tries after the first.
        options.attempts = usize::from(self.attempts.get()) - 1;
        // read_system_conf leaves EDNS off unless resolv.conf asks for it; without it, answers over
        // 512 bytes come cut.
        options.edns0 = true;
        options.cache_size = 0;
        options.max_active_requests = MAX_ACTIVE_REQUESTS;
        Ok((config, options))
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Reads `10.0.0.2`, `127.0.0.1:8600`, `::1`, `[::1]` or `[::1]:53`; the port is 53 unless given.
///
/// ```
/// use caravan_core::dns::nameserver;
/// assert_eq!(nameserver("10.0.0.2"), nameserver("10.0.0.2:53"));
/// assert!(nameserver("ns.example.com").is_err());
/// ```
pub fn nameserver(text: &str) -> Result<SocketAddr, BadNameserver> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, DNS_PORT),
        Err(_) => text.parse().map_err(|_| BadNameserver)?,
    };
    if address.port() == 0 {
        return Err(BadNameserver);
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_forms_are_read() {
        let cases = [
            ("10.0.0.2", "10.0.0.2:53"),
            ("127.0.0.1:8600", "127.0.0.1:8600"),
            ("::1", "[::1]:53"),
            ("[::1]", "[::1]:53"),
            ("[fd00::1]:5353", "[fd00::1]:5353"),
        ];
        for (text, address) in cases {
            assert_eq!(
                nameserver(text),
                Ok(address.parse().expect("address")),
                "{text}"
            );
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
        ] {
            assert_eq!(nameserver(text), Err(BadNameserver), "{text}");
        }
    }

    #[test]
    fn attempts_share_the_timeout() {
        let settings = Settings {
            nameservers: vec![SocketAddr::from(([127, 0, 0, 1], 53))],
            timeout: Duration::from_secs(3),
            attempts: NonZeroU8::new(3).expect("three"),
        };
        let (config, options) = settings.resolve().expect("a configuration");
        assert_eq!(options.timeout, Duration::from_secs(1));
        assert_eq!(options.attempts, 2);
        assert!(options.edns0);
        assert_eq!(config.name_servers.len(), 1);
    }

    proptest! {
        #[test]
        fn every_socket_address_is_read_back(ip: IpAddr, port in 1u16..) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(nameserver(&address.to_string()), Ok(address));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = nameserver(&text);
        }
    }
}
