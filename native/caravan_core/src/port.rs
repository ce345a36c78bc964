//! The port rule: the port on which the node of a given name listens.
//!
//! | name | port |
//! |---|---|
//! | no digits at the end (before the `@`) | base port |
//! | digits at the end, 0 to 1023 | base port + that number |
//! | digits at the end, 1024 to 65535 | that number |
//! | any name, with [`Rule::Fixed`] | base port |
//! | the name of a temporary node (release helpers, remote consoles) | [`PortError::Temporary`] |

use std::num::NonZeroU16;

/// The first port that an ordinary user may bind. A smaller number is an offset to the base port.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Maximum number of digits, as in 65535. A longer number is out of range, whatever its value.
const MAX_DIGITS: usize = 5;

/// The rule that maps names to ports, with its base port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The port follows from the digits at the end of the name.
    Name(NonZeroU16),
    /// The port is always the base port, even if the name ends in digits. It is meant for platforms with one node per
    /// address, where names may end in random digits.
    Fixed(NonZeroU16),
}

/// The reason why a name has no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortError {
    /// There is no text before the `@`.
    EmptyName,
    /// The name ends in more than five digits, or the port would be over 65535.
    OutOfRange,
    /// The node lives for one command. It listens on any free port.
    Temporary,
}

/// Returns the distribution port of a node (`app-4001` or `app-4001@host`).
///
/// ```
/// use caravan_core::port::{PortError, Rule, port};
/// use std::num::NonZeroU16;
///
/// let base = NonZeroU16::new(4370).ok_or("zero")?;
/// assert_eq!(port(b"app-4001@host", Rule::Name(base)), Ok(4001));
/// assert_eq!(port(b"worker2@host", Rule::Name(base)), Ok(4372));
/// assert_eq!(port(b"app-4001@host", Rule::Fixed(base)), Ok(4370));
/// assert_eq!(port(b"app-70000@host", Rule::Name(base)), Err(PortError::OutOfRange));
/// assert_eq!(port(b"rpc-a671-app-4001@host", Rule::Name(base)), Err(PortError::Temporary));
/// # Ok::<(), &str>(())
/// ```
pub fn port(name: &[u8], rule: Rule) -> Result<u16, PortError> {
    let basename = name.split(|byte| *byte == b'@').next().unwrap_or(name);
    if basename.is_empty() {
        return Err(PortError::EmptyName);
    }
    let (stem, digits) = split_digits(basename);
    if is_temporary(basename) || is_nodetool(stem, digits) {
        return Err(PortError::Temporary);
    }
    match rule {
        Rule::Fixed(base) => Ok(base.get()),
        Rule::Name(base) => by_digits(digits, base),
    }
}

fn by_digits(digits: &[u8], base: NonZeroU16) -> Result<u16, PortError> {
    if digits.len() > MAX_DIGITS {
        return Err(PortError::OutOfRange);
    }
    let number = digits
        .iter()
        .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    let port = if number < u32::from(FIRST_UNPRIVILEGED) {
        u32::from(base.get()) + number
    } else {
        number
    };
    u16::try_from(port).map_err(|_| PortError::OutOfRange)
}

/// Returns whether a name is that of a helper node. Such a name contains the name of the main node, and a helper must
/// not listen on the port of the main node.
///
/// - `rem-1f2e-NODE`, `rpc-1f2e-NODE`: `bin/app remote` and `rpc` of an Elixir release
///   (`Mix.Tasks.Release.Init`, Elixir 1.9 and later)
/// - `remsh1f2e-NODE`, `maint1f2e-NODE`, `longname1f2e-NODE`: relx's `extended_bin`
/// - `NODE_maint_123`: the `nodetool` of relx and rebar3, [`is_nodetool`]
///
/// The id must have a length that these tools produce: `rpc-gateway-4001`, `rpc-db-4001` and `theorem-4001` are
/// ordinary nodes.
fn is_temporary(basename: &[u8]) -> bool {
    const PREFIXES: [(&[u8], usize); 5] = [
        (b"rem-", 4),
        (b"rpc-", 4),
        (b"remsh", 8),
        (b"maint", 8),
        (b"longname", 8),
    ];

    PREFIXES.iter().any(|(prefix, longest)| {
        let rest = basename.strip_prefix(*prefix);
        rest.is_some_and(|rest| starts_with_id(rest, *longest))
    })
}

fn is_nodetool(stem: &[u8], digits: &[u8]) -> bool {
    !digits.is_empty() && stem.ends_with(b"_maint_")
}

/// Returns whether the text is like `1f2e-NODE`: four or more hexadecimal digits, a hyphen, a name.
fn starts_with_id(rest: &[u8], longest: usize) -> bool {
    let id = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    (4..=longest).contains(&id) && matches!(rest.get(id..), Some([b'-', _, ..]))
}

/// Splits a name before the digits at its end.
fn split_digits(basename: &[u8]) -> (&[u8], &[u8]) {
    let last = basename.iter().rposition(|byte| !byte.is_ascii_digit());
    basename.split_at(last.map_or(0, |last| last + 1))
}

#[cfg(test)]
mod tests;
