use super::*;

fn gateway(text: &str, environment: &[(&str, &str)]) -> Result<GatewayConfig, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()));
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

/// Every key of the type stands in the file, and what the file sets is what is set without it.
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
            let stands = body[..end].lines().any(|line| {
                line.trim_start_matches("# ")
                    .starts_with(&format!("{key} ="))
            });
            assert!(stands, "the file lacks {section}.{key}");
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
