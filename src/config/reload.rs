//! What a running process takes over when its configuration is read again (SIGHUP). Everything else needs a
//! restart, and is named to the operator.

use super::{
    Auth, DispatcherConfig, Gateway, GatewayConfig, Grpc, Http, Kafka, Log, StandaloneConfig,
};
use serde::Serialize;

/// A configuration that can be replaced in part.
pub trait Reload: Serialize {
    /// What is in force once `fresh` was read: its secrets, keys, limits and log level, and of the rest what
    /// the process was started with.
    fn reloaded(&self, fresh: &Self) -> Self;
}

/// Keys in which what is in force differs from what was read.
pub fn left_for_a_restart<T: Reload>(in_force: &T, fresh: &T) -> Vec<String> {
    let sections = |config: &T| toml::Table::try_from(config).unwrap_or_default();
    let (in_force, fresh) = (sections(in_force), sections(fresh));
    let mut keys = Vec::new();
    for (name, section) in &fresh {
        let (Some(section), Some(held)) = (section.as_table(), in_force[name].as_table()) else {
            continue;
        };
        let names = section.keys().chain(held.keys());
        let differ = names.filter(|key| section.get(*key) != held.get(*key));
        keys.extend(differ.map(|key| format!("{name}.{key}")));
    }
    keys.sort();
    keys.dedup();
    keys
}

impl Reload for GatewayConfig {
    fn reloaded(&self, fresh: &Self) -> Self {
        GatewayConfig {
            gateway: self.gateway.reloaded(&fresh.gateway),
            tls: fresh.tls.clone(),
            auth: self.auth.reloaded(&fresh.auth),
            kafka: self.kafka.reloaded(&fresh.kafka),
            grpc: self.grpc.reloaded(&fresh.grpc),
            log: self.log.reloaded(&fresh.log),
            ..self.clone()
        }
    }
}

impl Reload for DispatcherConfig {
    fn reloaded(&self, fresh: &Self) -> Self {
        DispatcherConfig {
            http: self.http.reloaded(&fresh.http),
            limits: fresh.limits.clone(),
            templates: fresh.templates.clone(),
            budgets: fresh.budgets.clone(),
            email: self.email.reloaded(&fresh.email),
            kafka: self.kafka.reloaded(&fresh.kafka),
            grpc: self.grpc.reloaded(&fresh.grpc),
            log: self.log.reloaded(&fresh.log),
            ..self.clone()
        }
    }
}

impl Reload for StandaloneConfig {
    fn reloaded(&self, fresh: &Self) -> Self {
        StandaloneConfig {
            gateway: self.gateway.reloaded(&fresh.gateway),
            tls: fresh.tls.clone(),
            http: self.http.reloaded(&fresh.http),
            limits: fresh.limits.clone(),
            templates: fresh.templates.clone(),
            budgets: fresh.budgets.clone(),
            email: self.email.reloaded(&fresh.email),
            auth: self.auth.reloaded(&fresh.auth),
            log: self.log.reloaded(&fresh.log),
            ..self.clone()
        }
    }
}

impl Gateway {
    /// Limits, times and lists; not what threads, sockets and the lease were made with.
    pub fn reloaded(&self, fresh: &Gateway) -> Gateway {
        Gateway {
            id: self.id.clone(),
            shard: self.shard,
            listen: self.listen,
            tls_listen: self.tls_listen,
            cores: self.cores,
            engine: self.engine,
            pin: self.pin,
            steer: self.steer,
            own_fd_table: self.own_fd_table,
            send_buffer_bytes: self.send_buffer_bytes,
            ..fresh.clone()
        }
    }
}

impl Auth {
    /// Keys and demands; not where keys are fetched from.
    fn reloaded(&self, fresh: &Auth) -> Auth {
        Auth {
            jwks_url: self.jwks_url.clone(),
            jwks_refresh_s: self.jwks_refresh_s,
            ..fresh.clone()
        }
    }
}

impl Kafka {
    fn reloaded(&self, fresh: &Kafka) -> Kafka {
        Kafka {
            sasl_username: fresh.sasl_username.clone(),
            sasl_password_file: fresh.sasl_password_file.clone(),
            ..self.clone()
        }
    }
}

impl Grpc {
    fn reloaded(&self, fresh: &Grpc) -> Grpc {
        Grpc {
            secret_file: fresh.secret_file.clone(),
            ..self.clone()
        }
    }
}

impl Http {
    fn reloaded(&self, fresh: &Http) -> Http {
        Http {
            admin_key_file: fresh.admin_key_file.clone(),
            ..self.clone()
        }
    }
}

impl Log {
    fn reloaded(&self, fresh: &Log) -> Log {
        Log {
            level: fresh.level.clone(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_secrets_are_taken_over_and_the_rest_is_named() {
        let running: GatewayConfig = super::super::load(None, std::iter::empty()).unwrap();
        let mut fresh = running.clone();
        fresh.gateway.connections_soft = 7;
        fresh.auth.leeway_s = 9;
        fresh.log.level = "debug".into();
        fresh.kafka.sasl_password_file = Some("other".into());
        let in_force = running.reloaded(&fresh);
        assert_eq!(in_force.gateway.connections_soft, 7);
        assert_eq!(left_for_a_restart(&in_force, &fresh), [""; 0]);

        fresh.gateway.cores = 3;
        fresh.redis.password_file = Some("secret".into());
        let in_force = running.reloaded(&fresh);
        assert_eq!(in_force.gateway.cores, running.gateway.cores);
        let left = left_for_a_restart(&in_force, &fresh);
        assert_eq!(left, ["gateway.cores", "redis.password_file"]);
    }

    #[test]
    fn a_key_is_taken_over_for_what_runs_already_and_named_where_nothing_does() {
        let running: DispatcherConfig = super::super::load(None, std::iter::empty()).unwrap();
        let with = |file: &str| {
            let mut config = running.clone();
            config.email.events_secret_file = Some(file.into());
            config
        };
        let left = |running: &DispatcherConfig, fresh: &DispatcherConfig| {
            left_for_a_restart(&running.reloaded(fresh), fresh)
        };
        assert_eq!(left(&with("old"), &with("new")), [""; 0]);
        let key = ["email.events_secret_file"];
        assert_eq!(left(&running, &with("new")), key);
        assert_eq!(left(&with("old"), &running), key);
    }
}
