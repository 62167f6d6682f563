//! What a run is told on the command line; a scenario gives the same, and more.

use crate::dialect::Dialect;
use crate::scenario::{Churn, PRIORITIES, Sending, Slow, Storm, To};
use crate::series::Watched;
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
};

/// Of any span: a month.
const SECONDS_MAX: u64 = 31 * 24 * 3_600;

#[derive(Debug, Parser)]
pub struct Options {
    /// What is sent and who leaves, from these flags or from a scenario.
    #[arg(skip)]
    pub load: Load,

    /// Gateway, ws://host:port/path or wss://…; several: clients are spread, and move on when one fails.
    /// Without a path, the one of the transport.
    #[arg(long = "url", alias = "target", required = true, value_name = "URL")]
    pub urls: Vec<Url>,

    /// Server-sent events instead of WebSocket; acknowledgements and syncs go by POST.
    #[arg(long)]
    pub sse: bool,

    /// What the server speaks: others than Herald only carry, which takes --no-ack and no tokens.
    #[arg(long, value_enum, default_value = "herald")]
    pub dialect: Dialect,

    // ── who ──
    /// Users to be: a range of numbers, both ends included.
    #[arg(
        long,
        default_value = "1..1000",
        value_name = "FIRST..LAST",
        help_heading = "Who"
    )]
    pub users: UserRange,

    /// Put before the number to make the user's id.
    #[arg(long, default_value = "", value_name = "TEXT", help_heading = "Who")]
    pub user_prefix: String,

    /// Connections per user.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Who")]
    pub devices: u32,

    /// HS256 secret to mint tokens with.
    #[arg(long, value_name = "FILE", help_heading = "Who")]
    pub secret_file: Option<PathBuf>,

    /// Tokens to use instead, one a line; their `sub` are the users, and --users is not used. Of a scenario's
    /// --clients there must be as many as it takes.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "secret_file",
        help_heading = "Who"
    )]
    pub token_file: Option<PathBuf>,

    /// `kid` of minted tokens.
    #[arg(long, value_name = "KID", help_heading = "Who")]
    pub key_id: Option<String>,

    /// `iss` of minted tokens.
    #[arg(long, value_name = "ISS", help_heading = "Who")]
    pub issuer: Option<String>,

    /// `aud` of minted tokens.
    #[arg(long, value_name = "AUD", help_heading = "Who")]
    pub audience: Option<String>,

    /// Who may have signed the certificate of a wss:// server, in PEM; default: the system's list.
    #[arg(long, value_name = "FILE", help_heading = "Connecting")]
    pub ca_file: Option<PathBuf>,

    /// Take any certificate of a wss:// server.
    #[arg(long, conflicts_with = "ca_file", help_heading = "Connecting")]
    pub insecure: bool,

    /// Life of minted tokens.
    #[arg(
        long,
        default_value_t = 86_400,
        value_name = "SECONDS",
        help_heading = "Who"
    )]
    pub token_ttl_s: u64,

    // ── connecting ──
    /// First connects per second, over all threads.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Connecting")]
    pub connect_rate: u32,

    /// Local addresses to connect from. On loopback they are taken from 127.0.0.0/8 as needed.
    #[arg(long = "source", value_name = "ADDRESS", help_heading = "Connecting")]
    pub sources: Vec<IpAddr>,

    /// Threads; 0: one per CPU, or as many as the descriptor limit asks for.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        help_heading = "Connecting"
    )]
    pub threads: usize,

    /// Base of the back-off between attempts: base·2ⁿ with jitter, to 30 s at most.
    #[arg(
        long,
        default_value_t = 500,
        value_name = "MS",
        help_heading = "Connecting"
    )]
    pub backoff_ms: u64,

    /// Start at the first item that arrives, without asking for the newest rows when new.
    #[arg(long, help_heading = "Connecting")]
    pub tail: bool,

    /// Don't acknowledge.
    #[arg(long, help_heading = "Connecting")]
    pub no_ack: bool,

    /// How long a hole may last before a client asks for a sync.
    #[arg(
        long,
        default_value_t = 2_000,
        value_name = "MS",
        help_heading = "Connecting"
    )]
    pub hole_wait_ms: u64,

    // ── posting ──
    /// A dispatcher's http:// or grpc:// address; several: a post that fails at one is repeated at the next.
    /// Or kafka://broker:port/namespace?shard=0&linger_ms=0: straight into a gateway's shard, stored nowhere.
    /// Posts start when all are connected.
    #[arg(long = "post-url", value_name = "URL", help_heading = "Posting")]
    pub post_urls: Vec<String>,

    /// Key to post with.
    #[arg(long, value_name = "FILE", help_heading = "Posting")]
    pub api_key_file: Option<PathBuf>,

    /// Posts per second. Latency is counted from the moment each was due, however late it left.
    #[arg(long, default_value_t = 100.0, value_name = "N", value_parser = positive, help_heading = "Posting")]
    pub rate: f64,

    /// How many to post. SIGTERM or SIGHUP ends it earlier, and the run goes on to its result; a second one,
    /// or Ctrl-C, ends the run at once.
    #[arg(
        long,
        default_value_t = 1_000,
        value_name = "N",
        help_heading = "Posting"
    )]
    pub count: u32,

    /// To whom: a random user each, all at once, or every tenth to all.
    #[arg(long, value_enum, default_value = "users", help_heading = "Posting")]
    pub to: To,

    /// Priority of what is posted; "mixed": a random one each.
    #[arg(
        long,
        default_value = "normal",
        value_name = "TIER",
        value_parser = tier,
        help_heading = "Posting"
    )]
    pub priority: String,

    /// Bytes of the body's text.
    #[arg(long, alias = "size", default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(..=16_384), help_heading = "Posting")]
    pub body_bytes: u32,

    /// Seed of the random choice of users and priorities.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Posting")]
    pub seed: u64,

    // ── when it ends, what it says ──
    /// Stay at least this long; without --post-url and --expect, stay this long (0: until Ctrl-C).
    #[arg(
        long,
        default_value_t = 0,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX),
        help_heading = "Ending and result"
    )]
    pub hold_s: u64,

    /// Every device must receive this many distinct notifications (what the first sync brings counts). Where somebody else
    /// posts, --hold-s should be as long as that.
    #[arg(long, value_name = "N", help_heading = "Ending and result")]
    pub expect: Option<u64>,

    /// Give up on what is missing when nothing arrived for this long; on posts so long after the last was due;
    /// and on all four times as long after the planned end, whatever still comes.
    #[arg(
        long,
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX),
        help_heading = "Ending and result"
    )]
    pub give_up_s: u64,

    /// Write the result there, too.
    #[arg(long, value_name = "FILE", help_heading = "Ending and result")]
    pub json: Option<PathBuf>,

    /// Write the result as one HTML page with plots there.
    #[arg(long, value_name = "FILE", help_heading = "Ending and result")]
    pub html: Option<PathBuf>,

    /// A server on this machine whose CPU and memory are recorded: gateway=1234. Several may be named.
    #[arg(long, value_name = "NAME=PID", help_heading = "Ending and result")]
    pub watch: Vec<Watched>,

    /// Name of the run: the same for several swarms that share it, each with its own --users; `swarm
    /// merge` joins their results. One of them alone may post to all.
    #[arg(long, value_name = "NAME", help_heading = "Ending and result")]
    pub run: Option<String>,

    /// Write what each device got, how and when, into this directory as JSON lines: `receipts`,
    /// `devices` and `posts`.
    #[arg(long, value_name = "DIR", help_heading = "Ending and result")]
    pub accounting: Option<PathBuf>,
}

/// Whose certificate a server may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    System,
    Authorities(PathBuf),
    Anyone,
}

/// What happens in a run beside connecting and receiving.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Of the scenario; empty: by flags.
    pub scenario: String,
    pub about: String,
    /// As many as were asked for by --clients.
    pub users: Option<u32>,
    pub sendings: Vec<Sending>,
    /// No sending goes on after it.
    pub duration_s: Option<u64>,
    pub churn: Option<Churn>,
    pub storm: Option<Storm>,
    pub slow: Option<Slow>,
}

impl Load {
    /// Of the clients, those that stop reading at times.
    pub fn slow_share(&self) -> f64 {
        self.slow.map_or(0.0, |slow| slow.share)
    }

    /// They read again before the end.
    pub fn slow_return(&self) -> bool {
        self.slow.is_some_and(|slow| slow.for_s.is_some())
    }

    /// Of the clients, those of whom nothing is expected.
    pub fn exempt_share(&self) -> f64 {
        match self.slow_return() {
            true => 0.0,
            false => self.slow_share(),
        }
    }
}

/// Of a priority, or all of them.
fn tier(text: &str) -> Result<String, String> {
    match text == "mixed" || PRIORITIES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("none of {} and mixed", PRIORITIES.join(", "))),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (1e-6..=1e7).contains(&number) => Ok(number),
        _ => Err("expected a number from 0.000001 to 10000000".into()),
    }
}

/// `first..last`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRange(pub RangeInclusive<u64>);

impl FromStr for UserRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected FIRST..LAST such as 1..1000, not {text:?}");
        let (first, last) = text.split_once("..").ok_or_else(wrong)?;
        let first = first.parse().map_err(|_| wrong())?;
        let last = last.trim_start_matches('=').parse().map_err(|_| wrong())?;
        if first > last {
            return Err(format!("{first} is after {last}"));
        }
        Ok(UserRange(first..=last))
    }
}

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `host:port`, as in the `Host` header.
    pub host: String,
    /// Empty: the transport's own.
    pub path: String,
    pub tls: bool,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let schemes = [
            ("ws://", false),
            ("http://", false),
            ("wss://", true),
            ("https://", true),
        ];
        let known = schemes
            .iter()
            .find_map(|(scheme, tls)| Some((text.strip_prefix(scheme)?, *tls)));
        let (rest, tls) = known.ok_or("expected ws://host:port or wss://host:port")?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let host = match host.rsplit_once(':') {
            _ if host.is_empty() => return Err("a host is missing".into()),
            Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ => format!("{host}:{}", if tls { 443 } else { 80 }),
        };
        Ok(Url {
            host,
            path: if path == "/" { "" } else { path }.to_owned(),
            tls,
        })
    }
}

impl Url {
    pub fn resolve(&self) -> Result<SocketAddr> {
        let mut found = self
            .host
            .to_socket_addrs()
            .with_context(|| format!("--url: can't find {}", self.host))?;
        found
            .next()
            .with_context(|| format!("--url: {} has no address", self.host))
    }
}

impl Options {
    pub fn trust(&self) -> Trust {
        match &self.ca_file {
            _ if self.insecure => Trust::Anyone,
            Some(file) => Trust::Authorities(file.clone()),
            None => Trust::System,
        }
    }

    /// The one sending that flags can say.
    pub fn sending(&self) -> Sending {
        let tiers = match self.priority.as_str() {
            "mixed" => &PRIORITIES[..],
            one => &[one],
        };
        Sending {
            to: self.to,
            rate: self.rate,
            at_once: 1,
            size: self.body_bytes,
            priorities: tiers.iter().map(|tier| ((*tier).to_owned(), 1.0)).collect(),
            from_s: 0.0,
            for_s: None,
            count: Some(self.count),
            shape: Vec::new(),
        }
    }

    /// What clap can't say.
    pub fn check(&self) -> Result<()> {
        if self.dialect.only_carries() {
            if !self.no_ack || self.sse {
                bail!(
                    "--dialect: such a server takes no acknowledgements and has no events: give --no-ack, not --sse"
                );
            }
        } else if self.secret_file.is_none() && self.token_file.is_none() {
            bail!("give --secret-file (tokens are minted) or --token-file");
        }
        if self.urls.len() > 255 {
            bail!("--url: 255 at most");
        }
        for (n, watched) in self.watch.iter().enumerate() {
            let twice = self.watch[..n]
                .iter()
                .find(|other| other.name == watched.name);
            if let Some(other) = twice {
                bail!(
                    "--watch: {} is the name of {} and of {}: give each its own, NAME=PID",
                    watched.name,
                    other.pid,
                    watched.pid
                );
            }
        }
        if self.post_urls.is_empty() && self.api_key_file.is_some() {
            bail!("--api-key-file is of use with --post-url only");
        }
        if !self.load.scenario.is_empty()
            && !self.load.sendings.is_empty()
            && self.post_urls.is_empty()
        {
            bail!(
                "scenario {} sends notifications: give --post-url (and --api-key-file)",
                self.load.scenario
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_users_include_both_ends() {
        assert_eq!("1..9".parse(), Ok(UserRange(1..=9)));
        assert_eq!("5..=5".parse(), Ok(UserRange(5..=5)));
        assert!("9..1".parse::<UserRange>().is_err());
        assert!("ten".parse::<UserRange>().is_err());
    }

    #[test]
    fn urls_name_host_and_path() {
        let url: Url = "ws://localhost:8080/connect".parse().unwrap();
        assert_eq!(
            (&url.host[..], &url.path[..]),
            ("localhost:8080", "/connect")
        );
        let url: Url = "http://example".parse().unwrap();
        assert_eq!((&url.host[..], &url.path[..]), ("example:80", ""));
        let url: Url = "wss://example/".parse().unwrap();
        assert_eq!((&url.host[..], url.tls), ("example:443", true));
        assert!("ftp://example".parse::<Url>().is_err());
    }
}
