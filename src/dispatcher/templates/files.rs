//! A directory of templates, read as a whole.

use super::{Parts, Set};
use crate::{
    config::{self, ConfigError},
    dispatcher::preferences::is_locale,
    envelope::Channel,
    limits,
};
use minijinja::{Environment, UndefinedBehavior};
use std::{
    fs,
    path::{Path, PathBuf},
};

const KEY: &str = "templates.path";

/// Of one file: its name from the directory, and what it holds.
struct File {
    name: String,
    source: String,
}

pub fn read(config: &config::Templates) -> Result<Set, ConfigError> {
    if !is_locale(&config.fallback_locale) {
        let problem = format!("{:?} is no language tag, e.g. en", config.fallback_locale);
        return Err(ConfigError::new("templates.fallback_locale", problem));
    }
    let mut set = Set {
        environment: environment(),
        fallback_locale: config.fallback_locale.to_ascii_lowercase(),
        ..Set::default()
    };
    let Some(root) = &config.path else {
        return Ok(set);
    };
    for file in files(root)? {
        let place = place(&file.name)?;
        let added = set
            .environment
            .add_template_owned(file.name.clone(), file.source);
        added.map_err(|error| {
            let line = error.line().unwrap_or(1);
            let reason = error.detail().unwrap_or("can't be parsed").to_owned();
            refused(&format!("{}:{line}", file.name), reason)
        })?;
        let Some(place) = place else { continue };
        let channels = set.by_type.entry(place.notification_type).or_default();
        let locales = channels.entry(place.channel).or_default();
        let parts = locales.entry(place.locale).or_default();
        *parts.part(place.part) = Some(file.name);
    }
    check_fallback(&set)?;
    Ok(set)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(limits::TEMPLATE_STEPS));
    environment.set_recursion_limit(limits::TEMPLATE_DEPTH);
    environment
}

/// Whoever asks for another language has to get something.
fn check_fallback(set: &Set) -> Result<(), ConfigError> {
    let fallback = &set.fallback_locale;
    for (of_type, channels) in &set.by_type {
        for (channel, locales) in channels {
            if !locales.contains_key(fallback) {
                let problem =
                    format!("has no text for {channel} in templates.fallback_locale, {fallback:?}");
                return Err(refused(of_type, problem));
            }
        }
    }
    Ok(())
}

fn refused(name: &str, problem: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(KEY, format!("{name}: {problem}"))
}

/// Everything in the directories of the directory, in the order of their names.
fn files(root: &Path) -> Result<Vec<File>, ConfigError> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for directory in entries(root)? {
        if !directory.is_dir() {
            continue;
        }
        let of_type = name_of(&directory)?;
        if of_type.starts_with('.') {
            continue;
        }
        for path in entries(&directory)? {
            let name = format!("{of_type}/{}", name_of(&path)?);
            if path.is_dir() {
                return Err(refused(
                    &name,
                    "is a directory: templates stand one level deep",
                ));
            }
            let source = source(&name, &path)?;
            bytes += source.len();
            files.push(File { name, source });
            if files.len() > limits::TEMPLATES || bytes > limits::TEMPLATES_BYTES {
                let (most, most_bytes) = (limits::TEMPLATES, limits::TEMPLATES_BYTES);
                let problem = format!("holds more than {most} files or {most_bytes} bytes");
                return Err(refused(&root.display().to_string(), problem));
            }
        }
    }
    Ok(files)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let name = directory.display().to_string();
    let unreadable = |error| refused(&name, format!("can't be read: {error}"));
    let entries = fs::read_dir(directory).map_err(unreadable)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> Result<String, ConfigError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.map(str::to_owned);
    name.ok_or_else(|| refused(&path.display().to_string(), "its name is not UTF-8"))
}

fn source(name: &str, path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: std::io::Error| refused(name, format!("can't be read: {error}"));
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > limits::TEMPLATE_BYTES {
        let most = limits::TEMPLATE_BYTES;
        return Err(refused(
            name,
            format!("{bytes} bytes are too many: at most {most}"),
        ));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// What a file is for.
struct Place {
    notification_type: String,
    channel: Channel,
    locale: String,
    part: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Title,
    Body,
    Html,
}

/// `order/email.de-AT.title`; `None` for what others include.
fn place(name: &str) -> Result<Option<Place>, ConfigError> {
    let (of_type, file) = name.split_once('/').unwrap_or((name, ""));
    if of_type.starts_with('_') {
        return Ok(None);
    }
    let unknown = |problem: &str| {
        let problem = format!("{problem}: name it {{channel}}.{{locale}}.{{title, body or html}}");
        refused(name, problem)
    };
    let mut parts = file.split('.');
    let (Some(channel), Some(locale), Some(part), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unknown("is no name of a template"));
    };
    let channel = channel
        .parse()
        .map_err(|()| unknown(&format!("{channel:?} is none of in_app, push, email, sms")))?;
    if !is_locale(locale) {
        return Err(unknown(&format!(
            "{locale:?} is no language tag, e.g. de-AT"
        )));
    }
    let part = match part {
        "title" => Part::Title,
        "body" => Part::Body,
        "html" if channel == Channel::Email => Part::Html,
        "html" => return Err(unknown("only e-mail has HTML")),
        other => return Err(unknown(&format!("{other:?} is no part"))),
    };
    Ok(Some(Place {
        notification_type: of_type.to_owned(),
        channel,
        locale: locale.to_ascii_lowercase(),
        part,
    }))
}

impl Parts {
    fn part(&mut self, part: Part) -> &mut Option<String> {
        match part {
            Part::Title => &mut self.title,
            Part::Body => &mut self.body,
            Part::Html => &mut self.html,
        }
    }
}
