//! What a folder says of the rollout as a whole, and `[site.NAME]` of `scap.toml`: where hosts stand.

use std::time::Duration;

use scap_proto::{id::NodeId, release::Directive};

use super::{
    document::{Expect, Key, Map, Value, finish},
    error::{Origin, ScapError},
    select::Selection,
    settings::{Settings, shown},
};
use crate::{fleet::SITE_BYTES_MAX, rollout::Prefetch};

/// What stands over `[rollout]` of the fleet file, where the folder says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollout {
    /// Who fetches when.
    pub prefetch: Option<Prefetch>,
    /// After how long without progress a host counts as failed.
    pub deadline: Option<Duration>,
    /// After how long a host goes back by itself that hears of nobody.
    pub dead_man: Option<Duration>,
}

impl Rollout {
    pub(super) fn of(settings: &Settings) -> Result<Self, ScapError> {
        let whole = |key: &str, expected: &str, least: u64, most: u64| {
            let seconds = settings.parse(key, expected, |text| {
                let seconds: u64 = text.parse().ok()?;
                (least..=most).contains(&seconds).then_some(seconds)
            });
            seconds.map(|seconds| seconds.map(Duration::from_secs))
        };
        let (least, most) = (Directive::DEAD_MAN_MIN, Directive::DEAD_MAN_MAX);
        let (least, most) = (least.as_secs(), most.as_secs());
        let of_dead_man = format!("a whole number of seconds from {least} to {most}");
        let days = 30 * 24 * 3600;
        Ok(Self {
            prefetch: settings
                .parse("prefetch", "canary, wave or all", |text| text.parse().ok())?,
            deadline: whole(
                "deadline",
                "a whole number of seconds, from 1 to 30 days of them",
                1,
                days,
            )?,
            dead_man: whole("dead_man", &of_dead_man, least, most)?,
        })
    }
}

/// Which hosts stand in which site, as the folder has it.
#[derive(Debug, Clone, Default)]
pub struct Sites(Vec<Site>);

#[derive(Debug, Clone)]
struct Site {
    name: String,
    hosts: Vec<(Selection, Origin)>,
}

impl Sites {
    pub(super) const FIELDS: [&str; 1] = ["hosts"];

    /// Reads the tables, by their names.
    pub(super) fn of(tables: Map) -> Result<Self, ScapError> {
        let sites = tables
            .0
            .into_iter()
            .map(|(name, body)| {
                let what = format!("site `{}`", shown(&name.name));
                Site::of(&name, body.into_map(&what)?, &what)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(sites))
    }

    /// Where a host stands, and who says so; `None` where nobody does.
    ///
    /// # Errors
    /// [`ScapError::Invalid`] where it stands in two.
    pub fn site_of(&self, host: &NodeId) -> Result<Option<(&str, &Origin)>, ScapError> {
        let mut found = self.0.iter().filter_map(|site| {
            let mut hosts = site.hosts.iter();
            let (_, at) = hosts.find(|(hosts, _)| hosts.has(host))?;
            Some((site.name.as_str(), at))
        });
        let first = found.next();
        match (first, found.next()) {
            (Some((one, other)), Some((two, at))) => Err(ScapError::invalid(
                at,
                format!(
                    "host {host} is in site `{}` ({other}) and in site `{}`; one of them was expected",
                    shown(one),
                    shown(two)
                ),
            )),
            _ => Ok(first),
        }
    }
}

impl Site {
    fn of(name: &Key, mut body: Map, what: &str) -> Result<Self, ScapError> {
        if !(1..=SITE_BYTES_MAX).contains(&name.name.len()) {
            let problem = format!("{what}: a name of 1 to {SITE_BYTES_MAX} bytes was expected");
            return Err(ScapError::invalid(&name.at, problem));
        }
        if name.name.chars().any(char::is_control) {
            let problem = format!("{what}: the name has a control character");
            return Err(ScapError::invalid(&name.at, problem));
        }
        let hosts = body.take("hosts");
        finish(body, what, &Sites::FIELDS, None)?;
        let expected = "names of hosts, or patterns like `web[01:10]*`";
        let nodes = match hosts {
            None => Vec::new(),
            Some((_, node)) => match node.value {
                Value::List(nodes) => nodes,
                _ => return Err(node.expected(&format!("`hosts` of {what}"), expected)),
            },
        };
        if nodes.is_empty() {
            let problem = format!("{what} has no `hosts`: {expected} were expected");
            return Err(ScapError::invalid(&name.at, problem));
        }
        let hosts = nodes.into_iter().map(|node| {
            let Value::Text(text) = &node.value else {
                return Err(node.expected(&format!("one of `hosts` of {what}"), expected));
            };
            let selection: Result<Selection, String> = text.parse();
            let selection = selection.map_err(|problem| {
                let text = shown(text);
                ScapError::invalid(&node.at, format!("`hosts` of {what}, `{text}`: {problem}"))
            })?;
            Ok((selection, node.at))
        });
        Ok(Self {
            name: name.name.to_string(),
            hosts: hosts.collect::<Result<_, _>>()?,
        })
    }
}
