//! `herald standalone`: the same parts, embedded, in one process, and the console.

use super::{
    Load, StartError,
    data::DataDirectory,
    dispatcher::{open_store, read_admin_key},
    gateway::{refresh_keys, reload_keys, reload_tls, reread_ticket_keys},
    log::{self, LevelHandle},
    reload, runtime, signals,
};
use crate::{
    auth::{self, Verifier},
    bus::embedded::{EmbeddedBus, OpenError},
    config::{AuthKey, ConfigError, Node, Secret, StandaloneConfig},
    console::{self, Console},
    control::{self, Control},
    dispatcher::{
        self, Dispatcher, Rules, api_keys::AdminKey, channel::Channels, store::SharedStore,
    },
    gateway::{self, Tls},
    limits,
    metrics::Metrics,
    registry::embedded::EmbeddedRegistry,
};
use arc_swap::ArcSwap;
use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// `load` reads the configuration: once to start, again at every SIGHUP.
pub fn run(load: impl Load<StandaloneConfig>) -> Result<(), StartError> {
    let config = load()?;
    let level = log::init(&config.log)?;
    let data = DataDirectory::open(&config.store.path)?;
    let token_secret = data.secret(&data.token_secret_file())?;
    data.secret(&data.admin_key_file())?;
    let files = [data.token_secret_file(), data.admin_key_file()];
    let complete = move |config| with_own_keys(config, &files);
    let config = complete(config);
    let load = move || load().map(&complete);
    runtime()?.block_on(serve(config, data, token_secret, level, load))
}

/// Where nobody configured keys, tokens are signed and others' keys made with those of the data directory; the
/// console's page may connect.
fn with_own_keys(mut config: StandaloneConfig, files: &[PathBuf; 2]) -> StandaloneConfig {
    let [token_secret, admin_key] = files;
    if config.auth.keys.is_empty() && config.auth.jwks_url.is_none() {
        config.auth.keys.push(AuthKey {
            kid: None,
            algorithm: "HS256".into(),
            key_file: token_secret.clone(),
        });
    }
    config
        .http
        .admin_key_file
        .get_or_insert_with(|| admin_key.clone());
    if has_console(&config) {
        let port = config.http.listen.port();
        let own = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("http://{name}:{port}"));
        config.gateway.origins.extend(own);
    }
    config
}

fn has_console(config: &StandaloneConfig) -> bool {
    config.http.listen.ip().is_loopback()
}

fn pace() -> control::Pace {
    control::Pace {
        probe: limits::CANARY_EVERY_STANDALONE,
        // Nobody looks anything up but in this process's own registry.
        leases_cached: Duration::ZERO,
        ..control::Pace::default()
    }
}

async fn serve(
    config: StandaloneConfig,
    data: DataDirectory,
    token_secret: Secret,
    level: LevelHandle,
    load: impl Load<StandaloneConfig>,
) -> Result<(), StartError> {
    let metrics = Metrics::default();
    let verifier = Arc::new(ArcSwap::from_pointee(Verifier::from_config(&config.auth)?));
    let tls = Tls::from_config(&config.gateway, &config.tls, &metrics)?;
    let admin_key = AdminKey::default();
    read_admin_key(&admin_key, &config.http)?;
    let has_console = has_console(&config);
    // Before clients can reach us: a directory in use ends this process, not the other's clients.
    let embedded = Embedded::open(&data, &config.node, &metrics)?;
    let (cores, inbox) = gateway::start(
        &config.gateway,
        config.conformance,
        verifier.clone(),
        tls.clone(),
        &config.node.region,
        &metrics,
    )?;
    let clients = cores.local_addr();
    let pages = has_console.then(|| {
        console::router(Console {
            token_secret: token_secret.clone(),
            admin_key: admin_key.clone(),
            gateway_port: clients.port(),
        })
    });
    let refreshing = refresh_keys(&config.auth, &verifier, &metrics)?;
    let rereading = reread_ticket_keys(tls.as_ref());
    let parts = embedded.dispatcher(&config, admin_key.clone(), &metrics, pages)?;
    let reload_sending = parts.reload();
    let dispatcher = Dispatcher::bind(parts).await?;
    let (http, reload_bounds) = (dispatcher.addresses().http, dispatcher.reload());
    let started = config.clone();
    let key_file = config.http.admin_key_file.clone().unwrap_or_default();
    let control = Control::open(control::Parts {
        node: config.node,
        gateway: config.gateway,
        drain: config.drain,
        admin: config.admin,
        grpc: None,
        pace: pace(),
        bus: embedded.bus,
        registry: embedded.registry,
        upstream: dispatcher.local(),
        cores,
        inbox,
        metrics,
    })
    .await?;
    let admin = control.admin_addr();
    let admin = admin.map_err(|error| StartError::host(error.to_string()))?;
    data.tell_ctl(format!("http://{http}"))?;
    let greeting = greeting(&data, &token_secret, &key_file, http, clients, has_console);
    let reload_gateway = control.reload();
    let reload = reload::by(load, started, move |config| {
        level.set(&config.log)?;
        reload_keys(&verifier, &config.auth)?;
        reload_tls(tls.as_deref(), &config.tls)?;
        read_admin_key(&admin_key, &config.http)?;
        reload_sending(&config.templates, &config.channels())?;
        reload_bounds(&config.limits, &config.budgets)?;
        reload_gateway(config.gateway.clone());
        Ok(())
    });
    let shutdown = signals::listen(reload)?;
    tokio::spawn(greet(admin, greeting));
    let ended = run_both(control, dispatcher, shutdown).await;
    for task in [refreshing, rereading].into_iter().flatten() {
        task.abort();
    }
    ended
}

/// What Kafka, Redis and a database are elsewhere.
struct Embedded {
    bus: Arc<EmbeddedBus>,
    registry: Arc<EmbeddedRegistry>,
    store: SharedStore,
}

impl Embedded {
    fn open(data: &DataDirectory, node: &Node, metrics: &Metrics) -> Result<Embedded, StartError> {
        let bus =
            EmbeddedBus::open(data.path(), Default::default(), metrics).map_err(
                |error| match error {
                    OpenError::Held(error) => {
                        ConfigError::new("store.path", error.to_string()).into()
                    }
                    error => StartError::host(error.to_string()),
                },
            )?;
        Ok(Embedded {
            bus: Arc::new(bus),
            registry: Arc::default(),
            store: Arc::new(open_store(data.path(), node)?),
        })
    }

    fn dispatcher(
        &self,
        config: &StandaloneConfig,
        admin_key: AdminKey,
        metrics: &Metrics,
        pages: Option<axum::Router>,
    ) -> Result<dispatcher::Parts, ConfigError> {
        Ok(dispatcher::Parts {
            node: config.node.clone(),
            http: config.http.clone(),
            grpc: None,
            admin_key,
            admin: None,
            bus: self.bus.clone(),
            registry: self.registry.clone(),
            store: self.store.clone(),
            // Its bus is a file already.
            spool: None,
            channels: Channels::from_config(&config.channels())?,
            rules: Rules::from_config(&config.fallback, &config.preferences, &config.templates)?,
            limits: config.limits.clone(),
            metrics: metrics.clone(),
            origins: Vec::new(),
            pages,
        })
    }
}

/// The gateway leaves first: its last outcomes still have somewhere to go.
async fn run_both(
    control: Control,
    dispatcher: Dispatcher,
    shutdown: signals::Shutdown,
) -> Result<(), StartError> {
    let dispatcher_ends = CancellationToken::new();
    let mut dispatching = tokio::spawn(dispatcher.run(dispatcher_ends.clone()));
    let controlled = tokio::select! {
        ended = control.run(shutdown.gracefully, shutdown.at_once) => ended.map_err(StartError::from),
        broken = &mut dispatching => {
            let text = format!("the dispatcher ended before its time: {broken:?}");
            return Err(StartError::host(text));
        }
    };
    dispatcher_ends.cancel();
    match dispatching.await {
        Ok(Ok(())) => controlled,
        Ok(Err(error)) => controlled.and(Err(StartError::host(error.to_string()))),
        Err(error) => controlled.and(Err(StartError::host(error.to_string()))),
    }
}

/// What a newcomer needs next.
fn greeting(
    data: &DataDirectory,
    token_secret: &Secret,
    key_file: &Path,
    http: SocketAddr,
    clients: SocketAddr,
    has_console: bool,
) -> String {
    let user = "42".parse().expect("a user id");
    // What is not a terminal may be a log, and a token has no business there.
    let token = match std::io::stdout().is_terminal() {
        true => auth::mint_hs256(token_secret, &user, Duration::from_secs(24 * 3600)),
        false => format!("of {}", token_command(data)),
    };
    let console = match has_console {
        true => format!("http://{http}/?user=42"),
        false => "off, because http.listen is not loopback".into(),
    };
    format!(
        "\n\
         Herald is up; its data is in {data}.\n\
         \n\
         console   {console}\n\
         send      curl -H \"Authorization: Bearer $(cat {key_file})\" -H 'Content-Type: application/json' \\\n\
         \x20              -d '{{\"target\":{{\"user\":\"42\"}},\"type\":\"greeting\",\"title\":\"Hello\"}}' http://{http}/v1/notifications\n\
         clients   ws://{clients}/ws/notifications, as user 42 (one day) with the token\n\
         \x20         {token}\n\
         \n\
         Ctrl-C stops it.\n",
        data = data.path().display(),
        key_file = key_file.display(),
    )
}

/// For any shell in any directory.
fn token_command(data: &DataDirectory) -> String {
    let binary = std::env::current_exe().unwrap_or_else(|_| "herald".into());
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let (binary, data) = (quoted(&binary), quoted(data.path()));
    format!("{binary} ctl token --user 42 --data-dir {data}")
}

/// Prints the greeting once the process delivers.
async fn greet(admin: SocketAddr, greeting: String) {
    let url = format!("http://{admin}/readyz");
    loop {
        if let Ok(answer) = reqwest::get(&url).await
            && answer.status().is_success()
        {
            println!("{greeting}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
