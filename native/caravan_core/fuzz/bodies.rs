//! Checks that hold for any input. Each function is the body of one fuzz target (`fuzz_targets`) and of one property
//! test (`../src/fuzz_bodies.rs`). It panics if a check fails.

use std::num::NonZeroU16;

use caravan_core::dns::{
    NameServerConfig, Protocol, QueryType, Question, network, read_any_files, read_any_response,
};
use caravan_core::port::{PortError, Rule, port};

/// The input is two octets for the base port, one for the rule, and the node name.
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

    assert_eq!(
        found,
        port(basename, rule),
        "the host does not change the port"
    );
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
        Err(PortError::OutOfRange) => assert!(!fixed, "a fixed port is in range"),
        Err(_) => {}
    }
}

/// The input is a string in the options of `Caravan.Dns`, a name to look up, and a system file.
pub fn check_config(data: &[u8]) {
    read_any_files(data);
    if Question::new(data, QueryType::Srv).is_ok() {
        assert!(data.len() <= 254);
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        assert!(data.iter().all(is_allowed));
        assert!(!data.windows(2).any(|pair| pair == b".."));
        assert!(
            data.split(|byte| *byte == b'.')
                .all(|label| label.len() <= 63)
        );
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(found) = text.parse::<NameServerConfig>() {
        let address = found.address;
        assert_ne!(address.port(), 0);
        let written = match &found.protocol {
            Protocol::Udp => address.to_string(),
            Protocol::Tcp => format!("tcp://{address}"),
            Protocol::Tls { name } => format!("tls://{address}#{name}"),
            Protocol::Https { name, path } => format!("https://{address}{path}#{name}"),
        };
        assert_eq!(written.parse(), Ok(found), "parsed back");
    }
    if let Ok(found) = network(text) {
        assert_eq!(network(&found.to_string()), Ok(found), "parsed back");
        assert!(found.contains(&found.network()));
    }
}

/// The input is a DNS message from a nameserver.
pub fn check_answer(data: &[u8]) {
    read_any_response(data);
}
