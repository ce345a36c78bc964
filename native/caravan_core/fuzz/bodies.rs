//! What holds for any input. Each function is one fuzz target (`fuzz_targets`) and one property test
//! (`../tests/fuzz_bodies.rs`); it panics when it finds something.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use caravan_core::dns::{Kind, Protocol, Question, nameserver};
use caravan_core::port::{PortError, Rule, port};

/// Two octets of base port, one of rule, then the node name.
pub fn check_port(data: &[u8]) {
    let [high, low, rule, name @ ..] = data else {
        return;
    };
    let Some(base) = NonZeroU16::new(u16::from_be_bytes([*high, *low])) else {
        return;
    };
    let fixed = rule % 2 == 1;
    let rule = if fixed {
        Rule::Fixed(base)
    } else {
        Rule::Name(base)
    };
    let basename = name.split(|byte| *byte == b'@').next().unwrap_or(name);
    let found = port(name, rule);

    assert_eq!(found, port(basename, rule), "the host never counts");
    assert_eq!(found == Err(PortError::EmptyName), basename.is_empty());
    match found {
        Ok(port) if fixed => assert_eq!(port, base.get()),
        Ok(port) => {
            let digits = basename
                .iter()
                .rev()
                .take_while(|b| b.is_ascii_digit())
                .count();
            let number = std::str::from_utf8(&basename[basename.len() - digits..])
                .map(|text| text.parse::<u32>().unwrap_or(0))
                .unwrap_or(0);
            let expected = if number < 1024 {
                u32::from(base.get()) + number
            } else {
                number
            };
            assert!(digits <= 5);
            assert_eq!(u32::from(port), expected);
        }
        Err(PortError::OutOfRange) => assert!(!fixed, "a fixed port is always in range"),
        Err(_) => {}
    }
}

/// The strings of the options of `Caravan.Dns`, and the names it looks up.
pub fn check_config(data: &[u8]) {
    if let Ok(question) = Question::new(data, Kind::Srv) {
        drop(question);
        assert!(data.len() <= 254);
        assert!(
            data.iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        );
        assert!(!data.windows(2).any(|pair| pair == b".."));
        assert!(data.split(|b| *b == b'.').all(|label| label.len() <= 63));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(server) = nameserver(text) {
        assert_ne!(server.address.port(), 0);
        if server.protocol == Protocol::Udp {
            assert_eq!(nameserver(&server.to_string()), Ok(server), "read back");
        }
    } else {
        assert!(text.parse::<SocketAddr>().is_err() || text.ends_with(":0"));
    }
}
