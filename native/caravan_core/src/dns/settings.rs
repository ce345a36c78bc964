//! Whom to ask and how often.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Duration;

/// Nameservers of one [`Settings`].
pub const MAX_NAMESERVERS: usize = 16;

pub(super) const DNS_PORT: u16 = 53;

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
