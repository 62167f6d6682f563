use super::{
    check::{apart, host_and_port},
    *,
};

fn gateway(text: &str, environment: &[(&str, &str)]) -> Result<GatewayConfig, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment
        .iter()
        .map(|(k, v)| (OsString::from(k), OsString::from(v)));
    load(Some(file.path()), environment)
}

#[test]
fn an_unknown_key_is_refused_and_named() {
    let error = gateway("[gateway]\ncolour = 1\n", &[]).unwrap_err();
    assert!(error.to_string().contains("colour"), "{error}");
    let error = gateway("[garage]\n", &[]).unwrap_err();
    assert!(error.to_string().contains("garage"), "{error}");
}

#[test]
fn a_value_of_a_wrong_type_names_its_key() {
    for (text, key) in [
        ("[gateway]\ncores = \"many\"\n", "gateway.cores"),
        ("[gateway]\nlisten = \"nowhere\"\n", "gateway.listen"),
        ("[gateway]\nid = \"GW 1\"\n", "gateway.id"),
        ("[gateway]\nshard = \"some\"\n", "gateway.shard"),
        ("[grpc]\nlisten = 5\n", "grpc.listen"),
    ] {
        let error = gateway(text, &[]).unwrap_err();
        assert_eq!(error.key, key, "{error}");
    }
}

#[test]
fn every_key_can_be_overridden_from_the_environment() {
    let environment = [
        ("HERALD_GATEWAY__CORES", "3"),
        ("HERALD_GATEWAY__ID", "gw-9"),
        ("HERALD_GATEWAY__SHARD", "7"),
        ("HERALD_CONFORMANCE__ECHO", "true"),
        ("HERALD_DISPATCHERS__ADDRESSES", "[\"10.0.0.1:9251\"]"),
        ("PATH", "/bin"),
    ];
    let config = gateway("[gateway]\ncores = 1\n", &environment).unwrap();
    assert_eq!(
        (config.gateway.cores, config.gateway.id.as_str()),
        (3, "gw-9")
    );
    assert_eq!(config.gateway.shard, Shard::Fixed(7));
    assert!(config.conformance.echo);
    assert_eq!(config.dispatchers.addresses, ["10.0.0.1:9251"]);
}

#[test]
fn an_unknown_key_in_the_environment_is_refused_too() {
    let error = gateway("", &[("HERALD_GATEWAY__COLOUR", "red")]).unwrap_err();
    assert!(error.to_string().contains("colour"), "{error}");
}

/// Keys of `[gateway]` and values: what is refused, and what is just within.
#[test]
fn a_number_outside_of_its_bounds_is_refused_and_the_bounds_are_not() {
    for (key, refused, allowed) in [
        ("cores", "257", "256"),
        ("shard", "1024", "1023"),
        ("connections_soft", "0", "1"),
        ("connections_soft", "600001", "600000"),
        ("connections_hard", "4000001", "4000000"),
        ("connections_hard", "499999", "500000"),
        ("accepts_per_s", "0", "1"),
        ("handshake_ms", "99", "100"),
        ("heartbeat_ms", "499", "500"),
        ("heartbeat_ms", "90000", "72000"),
        ("dead_after_ms", "37499", "37500"),
        ("dead_after_ms", "86400001", "86400000"),
        ("deferred_after_ms", "20001", "20000"),
        ("unwritable_close_ms", "999", "1000"),
        ("client_message_bytes", "8191", "8192"),
        ("client_messages_per_s", "0", "1"),
        ("client_messages_burst", "0", "1"),
        ("lanes_bytes", "65535", "65536"),
        ("send_buffer_bytes", "4095", "4096"),
        ("memory_bytes_max", "134217727", "134217728"),
        ("memory_bytes_max", "17592186044417", "0"),
    ] {
        let set = |value: &str| gateway(&format!("[gateway]\n{key} = {value}\n"), &[]).unwrap();
        let error = set(refused).gateway.check().unwrap_err();
        assert!(error.to_string().contains(key), "{key}: {error}");
        assert_eq!(set(allowed).gateway.check(), Ok(()), "{key}");
    }
}

#[test]
fn a_log_level_is_a_level_or_a_filter_of_levels() {
    let log = |level: &str| Log {
        level: level.into(),
        format: "auto".into(),
    };
    for level in ["info", "WARN", "off", "info,herald::control=debug"] {
        assert_eq!(log(level).check(), Ok(()), "{level}");
    }
    for level in ["foo", "", "info,", "info,herald", "herald=loud"] {
        let error = log(level).check().unwrap_err();
        assert_eq!(error.key, "log.level", "{level}");
    }
}

#[test]
fn an_address_to_dial_has_a_host_and_a_port() {
    for address in [
        "10.0.0.1:9251",
        "gw-1.example.com:1",
        "[::1]:9251",
        "a_b:65535",
    ] {
        assert_eq!(host_and_port("key", address), Ok(()), "{address}");
    }
    for address in [
        "",
        "x",
        "x:",
        ":1",
        "x:0",
        "x:65536",
        "::1:9251",
        "http://x:1",
        "a b:1",
        "[x]:1",
    ] {
        assert!(host_and_port("key", address).is_err(), "{address}");
    }
}

#[test]
fn listeners_collide_on_a_port_where_their_addresses_meet() {
    let meet = |one: &str, other: &str| {
        apart(&[
            ("one", one.parse().unwrap()),
            ("other", other.parse().unwrap()),
        ])
        .is_err()
    };
    assert!(meet("127.0.0.1:1", "127.0.0.1:1"));
    assert!(meet("127.0.0.1:1", "0.0.0.0:1"));
    assert!(meet("[::]:1", "127.0.0.1:1"));
    assert!(meet("224.0.0.1:1", "127.0.0.1:2"));
    assert!(!meet("127.0.0.1:1", "127.0.0.1:2"));
    assert!(!meet("127.0.0.1:1", "127.0.0.2:1"));
    assert!(!meet("0.0.0.0:1", "[::1]:1"));
    assert!(!meet("127.0.0.1:0", "127.0.0.1:0"));
}

#[test]
fn a_key_in_an_error_has_the_variable_that_set_it() {
    let named = |key: &str, variable: &str| {
        let set = [(OsString::from(variable), OsString::from("x"))];
        let error = ConfigError::new(key, "").naming_variable(set.into_iter());
        error.key.contains(&format!("({variable})"))
    };
    assert!(named("gateway.cores", "HERALD_GATEWAY__CORES"));
    assert!(named("auth.keys[0].key_file", "HERALD_AUTH__KEYS"));
    assert!(named("garage", "HERALD_GARAGE__DOORS"));
    assert!(!named("gateway.cores", "HERALD_GATEWAY__ID"));
    assert!(!named("gateway.cores", "HERALD_GATEWAY__CORES_MAX"));
}

#[test]
fn a_name_may_look_like_a_number_or_a_truth() {
    for name in ["5", "true", "1e5", "inf", "0x10", "-"] {
        let config = gateway(
            "",
            &[("HERALD_NODE__REGION", "5"), ("HERALD_LOG__LEVEL", name)],
        );
        let config = config.unwrap();
        assert_eq!(config.log.level, name);
        assert_eq!(config.node.region.to_string(), "5");
    }
    // What no text is either is named as it was understood.
    let error = gateway("", &[("HERALD_GATEWAY__CORES", "1e5")]).unwrap_err();
    assert_eq!(error.key, "gateway.cores");
    assert!(error.problem.contains("floating point"), "{error}");
}

#[test]
fn an_unknown_key_is_told_by_its_whole_name() {
    let key = |name: &str| gateway("", &[(name, "1")]).unwrap_err().key;
    assert_eq!(key("HERALD_GATEWAY__COLOUR"), "gateway.colour");
    assert_eq!(key("HERALD_GARAGE__DOORS"), "garage");
}

#[test]
fn what_is_not_utf_8_is_refused_in_our_variables_and_nobodys_business_elsewhere() {
    use std::os::unix::ffi::OsStringExt;
    let broken = || OsString::from_vec(b"\xff".to_vec());
    let load = |name: OsString| {
        let environment = std::iter::once((name, broken()));
        load::<GatewayConfig>(None, environment)
    };
    assert!(load("PATH".into()).is_ok());
    assert!(load(broken()).is_ok());
    let error = load("HERALD_GATEWAY__ID".into()).unwrap_err();
    assert_eq!(error.key, "gateway.id");
    assert!(error.problem.contains("UTF-8"), "{error}");
}

#[test]
fn a_file_too_long_for_a_secret_is_not_read_to_its_end() {
    let error = Secret::from_file("key", Path::new("/dev/zero")).unwrap_err();
    assert!(error.problem.contains("longer than"), "{error}");
}

/// Keys that one comment above them may speak for.
const KEYS_PER_COMMENT: usize = 3;

/// The key that a line of a file sets, or shows with a `#` before it.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.trim_start_matches("# ").split_once(" =")?;
    let is_key = key
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_key && !key.is_empty()).then_some(key)
}

/// A comment stands behind the key, above it, or above the keys it stands in a row with.
fn is_explained(section: &str, key: &str) -> bool {
    let lines: Vec<&str> = section.lines().collect();
    let at = lines.iter().position(|line| key_of(line) == Some(key));
    let at = at.expect("it stands there");
    let above = lines[..at].iter().rev();
    let keys = above
        .clone()
        .take_while(|line| key_of(line).is_some())
        .count();
    let comment = lines[..at - keys]
        .last()
        .filter(|line| line.starts_with("# "));
    lines[at].contains("  # ") || (comment.is_some() && keys < KEYS_PER_COMMENT)
}

#[test]
fn a_key_is_explained_above_it_or_behind_it() {
    let section = "[s]\na = 1\n# Of b and of c.\nb = 1\n# c = 2\nd = 3\ne = 4\nf = 5    # Of f.\n";
    let explained = ["a", "b", "c", "d", "e", "f"].map(|key| is_explained(section, key));
    assert_eq!(explained, [false, true, true, true, false, true]);
}

/// Every key of the type stands in the file, explained, and what the file sets is what is set without it.
fn shows_every_key<T: Shipped + Serialize>() -> serde_json::Value {
    let text = T::FILE;
    let loaded = load::<T>(None, std::iter::empty()).unwrap();
    let loaded = serde_json::to_value(loaded).unwrap();
    for (section, keys) in loaded.as_object().unwrap() {
        let start = text
            .find(&format!("[{section}]\n"))
            .unwrap_or_else(|| panic!("the file lacks [{section}]"));
        let body = &text[start..];
        let end = body[1..].find("\n[").map_or(body.len(), |end| end + 1);
        for key in keys.as_object().unwrap().keys() {
            let stands = body[..end].lines().any(|line| key_of(line) == Some(key));
            assert!(stands, "the file lacks {section}.{key}");
            let explained = is_explained(&body[..end], key);
            assert!(explained, "the file says nothing of {section}.{key}");
        }
    }
    loaded
}

#[test]
fn the_shipped_files_show_every_key_with_its_default() {
    shows_every_key::<DispatcherConfig>();
    shows_every_key::<StandaloneConfig>();
    let gateway = shows_every_key::<GatewayConfig>();
    let built_in: GatewayConfig = toml::from_str("").unwrap();
    assert_eq!(gateway, serde_json::to_value(built_in).unwrap());
}

#[test]
fn a_secret_is_never_printed() {
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "(secret)");
}
