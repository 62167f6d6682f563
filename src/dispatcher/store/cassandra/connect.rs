//! From the configuration to a session.

use super::cql::Profiles;
use crate::{
    config::{ConfigError, DispatcherStore, Secret, StoreKind, check::host_and_port},
    dispatcher::store::StoreError,
    limits,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use scylla::client::{
    session::{Session, TlsContext},
    session_builder::SessionBuilder,
};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

/// Judges the keys that only matter to Cassandra.
pub fn check(config: &DispatcherStore) -> Result<(), ConfigError> {
    if config.kind != StoreKind::Cassandra {
        return Ok(());
    }
    if config.contact_points.is_empty() {
        let problem = "name some nodes of the cluster, e.g. [\"10.0.0.5:9042\", \"10.0.0.6:9042\"]";
        return Err(ConfigError::new("store.contact_points", problem));
    }
    for address in &config.contact_points {
        host_and_port("store.contact_points", address)?;
    }
    if config.datacenter.is_none() {
        let problem = "name the data centre that is asked, as `nodetool status` shows it";
        return Err(ConfigError::new("store.datacenter", problem));
    }
    keyspace(&config.keyspace)?;
    let within =
        |key: &str, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::new(
                key,
                format!("{value} is not allowed: {least} to {most}"),
            )),
        };
    let (timeout, copies) = (
        limits::CASSANDRA_TIMEOUT_MS_ALLOWED,
        limits::REPLICATION_ALLOWED,
    );
    within(
        "store.timeout_ms",
        config.timeout_ms,
        *timeout.start(),
        *timeout.end(),
    )?;
    within(
        "store.replication",
        u64::from(config.replication),
        u64::from(*copies.start()),
        u64::from(*copies.end()),
    )?;
    password(config)?;
    tls(config).map(drop)
}

/// As it stands in statements, without quotes.
fn keyspace(name: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    match begins && name.len() <= limits::KEYSPACE_BYTES && name.chars().all(plain) {
        true => Ok(()),
        false => Err(ConfigError::new(
            "store.keyspace",
            format!(
                "{name:?} is no keyspace's name: a letter, then letters, digits and _, all lower case, at most {}",
                limits::KEYSPACE_BYTES
            ),
        )),
    }
}

fn password(config: &DispatcherStore) -> Result<Option<(&str, Secret)>, ConfigError> {
    match (&config.username, &config.password_file) {
        (Some(name), Some(file)) => {
            let secret = Secret::from_file("store.password_file", file)?;
            Ok(Some((name.as_str(), secret)))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::new(
            "store.password_file",
            "is missing: store.username is set",
        )),
        (None, Some(_)) => Err(ConfigError::new(
            "store.username",
            "is missing: store.password_file is set",
        )),
    }
}

/// With an authority named, the way to the nodes is TLS. Nodes are known by their addresses, so these have to stand
/// in their certificates.
fn tls(config: &DispatcherStore) -> Result<Option<Arc<ClientConfig>>, ConfigError> {
    let Some(authority) = &config.ca_file else {
        let own = config.cert_file.as_ref().or(config.key_file.as_ref());
        return match own {
            Some(_) => Err(ConfigError::new(
                "store.ca_file",
                "is missing: there is no TLS without it, and a certificate of our own is named",
            )),
            None => Ok(None),
        };
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("store.ca_file", authority)? {
        roots
            .add(certificate)
            .map_err(|error| ConfigError::new("store.ca_file", error.to_string()))?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let tls = match (&config.cert_file, &config.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("store.cert_file", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                ConfigError::new("store.key_file", format!("{}: {error}", key.display()))
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ConfigError::new("store.cert_file", error.to_string()))?
        }
        (Some(_), None) => {
            return Err(ConfigError::new(
                "store.key_file",
                "is missing: store.cert_file is set",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "store.cert_file",
                "is missing: store.key_file is set",
            ));
        }
    };
    Ok(Some(Arc::new(tls)))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let refused = |problem: String| ConfigError::new(key, format!("{}: {problem}", path.display()));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| refused(error.to_string()))?
        .collect();
    let found = found.map_err(|error| refused(error.to_string()))?;
    match found.is_empty() {
        true => Err(refused("holds no certificate in PEM".into())),
        false => Ok(found),
    }
}

pub async fn session(config: &DispatcherStore) -> Result<Session, StoreError> {
    let refused = |error: ConfigError| StoreError::Unavailable(error.to_string());
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .connection_timeout(Duration::from_millis(config.timeout_ms))
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false)
        .schema_agreement_timeout(limits::CASSANDRA_AGREEMENT)
        .default_execution_profile_handle(Profiles::new(config).write)
        .tls_context(tls(config).map_err(refused)?.map(TlsContext::from));
    if let Some((name, secret)) = password(config).map_err(refused)? {
        builder = builder.user(name, secret.expose());
    }
    let away = |why: String| {
        let places = config.contact_points.join(", ");
        StoreError::Unavailable(format!(
            "no session with Cassandra by store.contact_points ({places}): {why}"
        ))
    };
    let session = match tokio::time::timeout(limits::CASSANDRA_CONNECT, builder.build()).await {
        Ok(session) => session.map_err(|error| away(error.to_string()))?,
        Err(_) => return Err(away("no answer".into())),
    };
    has_center(&session, config)?;
    Ok(session)
}

/// Of another name nobody would ever be asked.
fn has_center(session: &Session, config: &DispatcherStore) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info().iter();
    let centers: BTreeSet<&str> = nodes
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    let own = config.datacenter.as_deref().unwrap_or_default();
    match centers.is_empty() || centers.contains(own) {
        true => Ok(()),
        false => Err(StoreError::Schema {
            key: "store.datacenter",
            problem: format!("the cluster has no {own:?}, it has {centers:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DispatcherStore {
        DispatcherStore {
            kind: StoreKind::Cassandra,
            contact_points: vec!["10.0.0.5:9042".into()],
            datacenter: Some("dc1".into()),
            ..DispatcherStore::default()
        }
    }

    /// The key that is named when this is changed.
    fn refused(change: impl FnOnce(&mut DispatcherStore)) -> String {
        let mut config = config();
        change(&mut config);
        check(&config).unwrap_err().key
    }

    #[test]
    fn what_cassandra_needs_is_named_by_its_key() {
        assert_eq!(check(&config()), Ok(()));
        let file = || Some("/nowhere".into());
        let keys = [
            refused(|store| store.contact_points.clear()),
            refused(|store| store.contact_points = vec!["10.0.0.5".into()]),
            refused(|store| store.datacenter = None),
            refused(|store| store.keyspace = "Herald-1".into()),
            refused(|store| store.timeout_ms = 1),
            refused(|store| store.replication = 0),
            refused(|store| store.username = Some("herald".into())),
            refused(|store| store.password_file = file()),
            refused(|store| store.ca_file = file()),
            refused(|store| store.cert_file = file()),
        ];
        let expected = [
            "store.contact_points",
            "store.contact_points",
            "store.datacenter",
            "store.keyspace",
            "store.timeout_ms",
            "store.replication",
            "store.password_file",
            "store.username",
            "store.ca_file",
            "store.ca_file",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn sqlite_needs_none_of_it() {
        assert_eq!(check(&DispatcherStore::default()), Ok(()));
    }
}
