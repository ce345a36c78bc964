use super::*;
use proptest::prelude::*;

fn base(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a base port is not zero")
}

fn by_name(name: &str) -> Result<u16, PortError> {
    port(name.as_bytes(), Rule::Name(base(4370)))
}

/// The table of the module documentation, written a second time without the code under test.
fn oracle(name: &str, rule: Rule) -> Result<u16, PortError> {
    let basename = name.split_once('@').map_or(name, |(left, _)| left);
    if basename.is_empty() {
        return Err(PortError::EmptyName);
    }
    let base = match rule {
        Rule::Fixed(base) => return Ok(base.get()),
        Rule::Name(base) => base.get(),
    };
    let stem = basename.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &basename[stem.len()..];
    match (digits.len(), digits.parse::<u64>()) {
        (0, _) => Ok(base),
        (1..=5, Ok(n)) if n < 1024 => {
            u16::try_from(u64::from(base) + n).map_err(|_| PortError::OutOfRange)
        }
        (1..=5, Ok(n)) if n <= 65_535 => Ok(n as u16),
        _ => Err(PortError::OutOfRange),
    }
}

#[test]
fn a_name_without_digits_has_the_base_port() {
    assert_eq!(by_name("app"), Ok(4370));
    assert_eq!(by_name("app-v2-@host9"), Ok(4370));
}

#[test]
fn small_numbers_are_offsets() {
    assert_eq!(by_name("worker0@host"), Ok(4370));
    assert_eq!(by_name("worker1@host"), Ok(4371));
    assert_eq!(by_name("worker00017@host"), Ok(4387));
    assert_eq!(by_name("worker1023@host"), Ok(5393));
}

#[test]
fn large_numbers_are_ports() {
    assert_eq!(by_name("app1024@host"), Ok(1024));
    assert_eq!(by_name("app-name3434@example.net"), Ok(3434));
    assert_eq!(by_name("65535"), Ok(65_535));
}

#[test]
fn ports_that_cannot_exist_are_refused() {
    for name in [
        "app-65536",
        "app-99999@host",
        "app-004001@host",
        "app-20261122@host",
    ] {
        assert_eq!(by_name(name), Err(PortError::OutOfRange), "{name}");
    }
    assert_eq!(
        port(b"worker36@host", Rule::Name(base(65_500))),
        Err(PortError::OutOfRange)
    );
}

#[test]
fn an_empty_name_is_refused_under_both_rules() {
    for name in [&b""[..], b"@host"] {
        assert_eq!(port(name, Rule::Name(base(1))), Err(PortError::EmptyName));
        assert_eq!(port(name, Rule::Fixed(base(1))), Err(PortError::EmptyName));
    }
}

#[test]
fn helper_nodes_are_temporary_under_both_rules() {
    let helpers = [
        "rem-a671-app-5001@host",
        "rpc-0f3c-app-5001@host",
        "rpc-0f3c-app@host",
        "remsh1f2e3d4c-app-5001@host",
        "maint1f2e3d4c-app-5001@host",
        "longname1f2e3d4c-app-5001@host",
        "app-5001_maint_4242@host",
    ];
    for name in helpers {
        assert_eq!(by_name(name), Err(PortError::Temporary), "{name}");
        assert_eq!(
            port(name.as_bytes(), Rule::Fixed(base(1))),
            Err(PortError::Temporary),
            "{name}"
        );
    }
}

#[test]
fn names_that_only_resemble_helpers_are_ordinary() {
    assert_eq!(by_name("theorem-4001@host"), Ok(4001));
    assert_eq!(by_name("rpc-gateway-4001@host"), Ok(4001));
    assert_eq!(by_name("rpc-db-4001@host"), Ok(4001));
    assert_eq!(by_name("rem-a671b-4001@host"), Ok(4001));
    assert_eq!(by_name("maintdb-4001@host"), Ok(4001));
    assert_eq!(by_name("rem-4001@host"), Ok(4001));
    assert_eq!(by_name("rpc-@host"), Ok(4370));
    assert_eq!(by_name("remshop-4001@host"), Ok(4001));
    assert_eq!(by_name("maintenance-4001@host"), Ok(4001));
    assert_eq!(by_name("app_maint_@host"), Ok(4370));
}

prop_compose! {
    // Stems that do not start or end like the name of a helper node.
    fn ordinary_name()(stem in "[a-ln-qs-z_.-]{0,8}", digits in "[0-9]{0,7}", host in "(@[a-z0-9.:@-]{0,12})?")
        -> String { format!("{stem}{digits}{host}") }
}

proptest! {
    #[test]
    fn agrees_with_the_table(name in ordinary_name(), number in 1u16.., fixed: bool) {
        let rule = if fixed { Rule::Fixed(base(number)) } else { Rule::Name(base(number)) };
        prop_assert_eq!(port(name.as_bytes(), rule), oracle(&name, rule));
    }

    #[test]
    fn any_octets_have_a_port_or_an_error(name: Vec<u8>, number in 1u16..) {
        if let Ok(port) = port(&name, Rule::Name(base(number))) {
            prop_assert_ne!(port, 0);
        }
    }

    #[test]
    fn the_host_does_not_change_the_port(name in "[a-z0-9-]{1,12}", host in "[ -~]{0,20}") {
        prop_assert_eq!(by_name(&name), by_name(&format!("{name}@{host}")));
    }

    #[test]
    fn the_digits_inside_the_name_of_a_helper_do_not_count(tool in "rem|rpc", id in "[0-9a-f]{4}", node in "[a-z]{1,5}-[0-9]{1,5}") {
        prop_assert_eq!(by_name(&format!("{tool}-{id}-{node}@host")), Err(PortError::Temporary));
    }
}
