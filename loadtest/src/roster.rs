//! Who the clients are: users, devices and their tokens.

use crate::{options::Options, report};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, time::SystemTime};

/// Every user of the run. A client is a device of a user: client n is device n mod devices of user
/// n / devices.
#[derive(Debug)]
pub struct Roster {
    users: Users,
    devices: u32,
}

#[derive(Debug)]
enum Users {
    Minted {
        prefix: String,
        first: u64,
        count: u32,
        /// `None`: the server asks for no token.
        mint: Option<Box<Mint>>,
    },
    /// (user, token)
    Listed(Vec<(String, String)>),
}

struct Mint {
    key: EncodingKey,
    header: Header,
    issuer: Option<String>,
    audience: Option<String>,
    ttl_s: u64,
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mint")
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Roster {
    pub fn new(options: &Options) -> Result<Roster> {
        let users = match (&options.token_file, &options.secret_file) {
            (Some(file), _) => Users::Listed(enough(listed(file)?, file, options)?),
            (None, Some(file)) => minted(options, Some(mint(options, file)?))?,
            (None, None) if options.dialect.only_carries() => minted(options, None)?,
            (None, None) => bail!("give --secret-file or --token-file"),
        };
        let roster = Roster {
            users,
            devices: options.devices,
        };
        // Numbers of clients are 31 bits wide.
        if u64::from(roster.users()) * u64::from(roster.devices) > 1 << 30 {
            bail!("--users times --devices is too many");
        }
        Ok(roster)
    }

    pub fn users(&self) -> u32 {
        match &self.users {
            Users::Minted { count, .. } => *count,
            Users::Listed(tokens) => tokens.len() as u32,
        }
    }

    pub fn clients(&self) -> u32 {
        self.users() * self.devices
    }

    pub fn devices(&self) -> u32 {
        self.devices
    }

    pub fn user(&self, user: u32) -> String {
        match &self.users {
            Users::Minted { prefix, first, .. } => format!("{prefix}{}", first + u64::from(user)),
            Users::Listed(tokens) => tokens[user as usize].0.clone(),
        }
    }

    /// `None`: they are listed.
    pub fn range(&self) -> Option<report::Users> {
        match &self.users {
            Users::Minted {
                prefix,
                first,
                count,
                ..
            } => Some(report::Users {
                prefix: prefix.clone(),
                first: *first,
                last: first + u64::from(count - 1),
            }),
            Users::Listed(_) => None,
        }
    }

    /// Whether a client is a device of this user.
    pub fn is_of(&self, client: u32, user: &str) -> bool {
        let number = client / self.devices;
        match &self.users {
            Users::Minted { prefix, first, .. } => {
                let digits = user.strip_prefix(prefix.as_str());
                digits.and_then(|digits| digits.parse().ok()) == Some(first + u64::from(number))
            }
            Users::Listed(tokens) => tokens[number as usize].0 == user,
        }
    }

    /// A token for a connection that is opened now.
    pub fn token(&self, client: u32) -> String {
        let user = client / self.devices;
        match &self.users {
            Users::Minted { mint, .. } => match mint {
                Some(mint) => mint.token(&self.user(user)),
                None => String::new(),
            },
            Users::Listed(tokens) => tokens[user as usize].1.clone(),
        }
    }
}

impl Mint {
    fn token(&self, user: &str) -> String {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = since.map_or(0, |since| since.as_secs());
        let claims = Claims {
            sub: user,
            iat: now_s,
            exp: now_s + self.ttl_s,
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).expect("HS256 takes any claims")
    }
}

fn mint(options: &Options, file: &Path) -> Result<Box<Mint>> {
    let secret = read(file)?;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = options.key_id.clone();
    Ok(Box::new(Mint {
        key: EncodingKey::from_secret(secret.trim().as_bytes()),
        header,
        issuer: options.issuer.clone(),
        audience: options.audience.clone(),
        ttl_s: options.token_ttl_s,
    }))
}

fn minted(options: &Options, mint: Option<Box<Mint>>) -> Result<Users> {
    let range = &options.users.0;
    let count = (range.end() - range.start())
        .checked_add(1)
        .and_then(|count| u32::try_from(count).ok())
        .context("--users: too many")?;
    Ok(Users::Minted {
        prefix: options.user_prefix.clone(),
        first: *range.start(),
        count,
        mint,
    })
}

fn listed(file: &Path) -> Result<Vec<(String, String)>> {
    let text = read(file)?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, token)| !token.is_empty())
        .map(|(line, token)| {
            let user = subject(token)
                .with_context(|| format!("{}, line {}: no token", file.display(), line + 1))?;
            Ok((user, token.to_owned()))
        })
        .collect()
}

/// As many as were asked for.
fn enough(
    mut tokens: Vec<(String, String)>,
    file: &Path,
    options: &Options,
) -> Result<Vec<(String, String)>> {
    if let Some(users) = options.load.users {
        if tokens.len() < users as usize {
            bail!(
                "--token-file {}: {} tokens, and --clients asks for {users} users of {} devices: add tokens, or leave \
                 --clients out",
                file.display(),
                tokens.len(),
                options.devices
            );
        }
        tokens.truncate(users as usize);
    }
    Ok(tokens)
}

/// `sub` of a token; whether it is valid is the gateway's business.
fn subject(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let payload = token.split('.').nth(1)?;
    let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let subject: Subject = serde_json::from_slice(&json).ok()?;
    Some(subject.sub)
}

pub fn read(file: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    if text.trim().is_empty() {
        bail!("{} is empty", file.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn tokens_are_minted_and_listed_for_the_same_users() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, tokens) = (dir.path().join("secret"), dir.path().join("tokens"));
        std::fs::write(&secret, "a secret\n").unwrap();
        let common = ["swarm", "--url", "ws://h", "--devices", "2"];
        let minting = Options::parse_from(common.into_iter().chain([
            "--secret-file",
            secret.to_str().unwrap(),
            "--users",
            "7..9",
            "--user-prefix",
            "u",
        ]));
        let roster = Roster::new(&minting).unwrap();
        assert_eq!((roster.users(), roster.clients()), (3, 6));
        assert_eq!((roster.user(0), roster.user(2)), ("u7".into(), "u9".into()));
        let of_u8 = |roster: &Roster| -> Vec<u32> {
            (0..6)
                .filter(|&client| roster.is_of(client, "u8"))
                .collect()
        };
        assert_eq!(of_u8(&roster), [2, 3]);
        assert!(!roster.is_of(2, "8") && !roster.is_of(2, "all"));

        let lines: Vec<_> = (0..6)
            .step_by(2)
            .map(|client| roster.token(client))
            .collect();
        std::fs::write(&tokens, lines.join("\n")).unwrap();
        let listing = Options::parse_from(
            common
                .into_iter()
                .chain(["--token-file", tokens.to_str().unwrap()]),
        );
        let asking = |users: u32| {
            let mut options = Options::parse_from(
                common
                    .into_iter()
                    .chain(["--token-file", tokens.to_str().unwrap()]),
            );
            options.load.users = Some(users);
            Roster::new(&options)
        };
        assert_eq!(asking(2).unwrap().users(), 2);
        let error = asking(4).unwrap_err().to_string();
        assert!(
            error.contains("3 tokens") && error.contains("4 users"),
            "{error}"
        );
        let listed = Roster::new(&listing).unwrap();
        assert_eq!((listed.user(1), listed.clients()), ("u8".into(), 6));
        assert_eq!(listed.token(5), lines[2]);
        assert_eq!(of_u8(&listed), [2, 3]);
    }
}
