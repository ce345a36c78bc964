//! The names and addresses of `/etc/hosts` (hosts(5)).
//!
//! hickory's own table takes twenty times the size of the file. This one has the text, and four octets for each name.
//!
//! Names are compared as they are written, without case, as the C library does. Lookups have ASCII names only, so a name
//! with other characters is found only if the file has its A-label (`xn--…`, RFC 5890). hickory would convert such names,
//! and read escapes such as `\046`.

use std::cmp::Ordering;
use std::net::IpAddr;

/// The text of the file, and an index of its names.
#[derive(Debug, Default)]
pub struct Hosts {
    text: Box<[u8]>,
    /// Offsets of the names in `text`, sorted by name. Equal names have the order of the file.
    names: Box<[u32]>,
}

impl Hosts {
    /// Reads the text of a hosts file. Lines without a valid address are ignored.
    pub fn new(text: Vec<u8>) -> Self {
        let text = text.into_boxed_slice();
        let count = offsets(&text).count();
        let mut names = Vec::with_capacity(count);
        names.extend(offsets(&text));
        names.sort_unstable_by(|&one, &other| {
            compare(token_at(&text, one), token_at(&text, other)).then(one.cmp(&other))
        });
        Self {
            names: names.into_boxed_slice(),
            text,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns the addresses of `name`, which has no trailing dot, in the order of the file.
    pub fn addresses(&self, name: &[u8]) -> impl Iterator<Item = IpAddr> {
        let order = |offset: &u32| compare(token_at(&self.text, *offset), name);
        let first = self.names.partition_point(|offset| order(offset).is_lt());
        let found = self.names.iter().skip(first);
        found
            .take_while(move |offset| order(offset).is_eq())
            .filter_map(|offset| self.address_of(*offset))
    }

    fn address_of(&self, offset: u32) -> Option<IpAddr> {
        let before = self.text.get(..offset as usize)?;
        let line = before.rsplit(|octet| *octet == b'\n').next()?;
        address(
            line.split(u8::is_ascii_whitespace)
                .find(|token| !token.is_empty())?,
        )
    }
}

/// Returns the offset of each name.
fn offsets(text: &[u8]) -> impl Iterator<Item = u32> {
    let mut start = 0;
    let lines = text.split(|octet| *octet == b'\n').map(move |line| {
        let offset = start;
        start += line.len() + 1;
        (offset, line)
    });
    lines.flat_map(|(offset, line)| {
        let line = line
            .split(|octet| *octet == b'#')
            .next()
            .unwrap_or_default();
        let mut start = offset;
        let mut tokens = line
            .split(u8::is_ascii_whitespace)
            .map(move |token| {
                let offset = start;
                start += token.len() + 1;
                (offset, token)
            })
            .filter(|(_, token)| !token.is_empty());
        let is_valid = tokens
            .next()
            .is_some_and(|(_, token)| address(token).is_some());
        tokens
            .take_while(move |_| is_valid)
            .filter_map(|(offset, _)| u32::try_from(offset).ok())
    })
}

fn address(token: &[u8]) -> Option<IpAddr> {
    // The file may start with a byte-order mark.
    let token = token.strip_prefix(b"\xef\xbb\xbf").unwrap_or(token);
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Returns the name that starts at `offset`, without a trailing dot.
fn token_at(text: &[u8], offset: u32) -> &[u8] {
    let rest = text.get(offset as usize..).unwrap_or_default();
    let is_end = |octet: &u8| octet.is_ascii_whitespace() || *octet == b'#';
    let token = rest.split(is_end).next().unwrap_or_default();
    token.strip_suffix(b".").unwrap_or(token)
}

/// Compares names without case (RFC 4343).
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let lower = |octet: &u8| octet.to_ascii_lowercase();
    one.iter().map(lower).cmp(other.iter().map(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &[u8], name: &str) -> Vec<String> {
        let hosts = Hosts::new(text.to_vec());
        let found = hosts.addresses(name.as_bytes());
        found.map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines_in_order() {
        let text =
            b"10.0.0.2 a.test b.test\n\t::1  b.test A.TEST.\r\n10.0.0.1\ta.test#b.test\n10.0.0.3";
        assert_eq!(addresses(text, "a.test"), ["10.0.0.2", "::1", "10.0.0.1"]);
        assert_eq!(addresses(text, "B.test"), ["10.0.0.2", "::1"]);
        assert!(addresses(text, "a").is_empty());
        assert!(addresses(b"", "a").is_empty());
    }

    #[test]
    fn a_line_without_a_valid_address_or_in_another_encoding_does_not_affect_other_lines() {
        let text =
            b"\xef\xbb\xbf10.0.0.1 a.test\n# caf\xe9\n10.0.0.2 b.test\nnonsense c.test\n10.0.0.3 d.test # e.test\n";
        assert_eq!(addresses(text, "a.test"), ["10.0.0.1"]);
        assert_eq!(addresses(text, "b.test"), ["10.0.0.2"]);
        assert!(addresses(text, "c.test").is_empty());
        assert_eq!(addresses(text, "d.test"), ["10.0.0.3"]);
        assert!(addresses(text, "e.test").is_empty());
    }

    #[test]
    fn a_name_beyond_ascii_is_found_by_its_a_label() {
        let text = "10.0.0.1 xn--kse-qla.test\n10.0.0.2 k\u{e4}se.test a\\046b.test\n";
        assert_eq!(addresses(text.as_bytes(), "xn--kse-qla.test"), ["10.0.0.1"]);
        assert!(addresses(text.as_bytes(), "a.b.test").is_empty());
    }

    #[test]
    fn a_large_file_takes_at_most_twice_its_size() {
        let text: String = (0..100_000u32)
            .map(|n| format!("{} host{n}.test\n", std::net::Ipv4Addr::from(n)))
            .collect();
        let size = text.len();
        let hosts = Hosts::new(text.into_bytes());
        assert!(hosts.text.len() + 4 * hosts.names.len() <= 2 * size);
        let ip = hosts.addresses(b"host99999.test").next();
        assert_eq!(ip, Some(IpAddr::from(99_999u32.to_be_bytes())));
    }
}
