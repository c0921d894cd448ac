//! What the keys of a scap folder are in the end, and who said so.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use scap_proto::release::Environment;

use super::{
    error::{Notice, Origin, ScapError},
    host_name::HostName,
    ini::{DEFAULT, Entry, GLOBAL, Ini},
    keys::{self, Role},
};

/// One effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As it is written.
    pub value: String,
    /// Who says so.
    pub at: Origin,
}

/// All effective values by their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings(BTreeMap<String, Setting>);

/// What an operator says about a deployment, beside the folder.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--environment`.
    pub environment: Option<Environment>,
    /// `-D key:value`, in their order.
    pub defines: Vec<(String, String)>,
    /// The full name of this machine, whose domains name sections of `scap.cfg`.
    pub host_name: HostName,
    /// `-c FILE`: says the keys in place of `/etc/scap.cfg` and of all files of the folder.
    pub conf: Option<PathBuf>,
    /// `--no-local-config`: whether the folder's files say no keys.
    pub is_local_left_out: bool,
}

impl Overrides {
    /// Whether the folder's files say keys.
    pub(super) fn is_local(&self) -> bool {
        self.conf.is_none() && !self.is_local_left_out
    }
}

impl Settings {
    /// The values of `files`, the weaker ones first, with what stands above them.
    ///
    /// First `[global]`, then the sections named like the domains of this machine, from the shortest to its full name; in
    /// each the later file wins, and in the end `-D`.
    pub(super) fn resolve(files: &[Ini], overrides: &Overrides) -> Self {
        let mut values = Self::default();
        for key in keys::with_defaults() {
            values.set(key.name, key.default, Origin::Default);
        }
        let of = |section: &str| {
            let of = |ini: &'_ Ini| ini.sections.get(section).cloned().unwrap_or_default();
            files.iter().flat_map(of).collect::<Vec<Entry>>()
        };
        for section in sections(overrides.host_name.as_str()) {
            if files.iter().any(|ini| ini.sections.contains_key(&section)) {
                for Entry { key, value, at } in of(DEFAULT).into_iter().chain(of(&section)) {
                    values.set(&key, &value, at);
                }
            }
        }
        for (key, value) in &overrides.defines {
            values.set(&key.to_lowercase(), value, Origin::Flag("-D"));
        }
        values
    }

    /// A blank value is that of the default, where there is one.
    fn set(&mut self, key: &str, value: &str, at: Origin) {
        let default = keys::with_defaults().find(|it| it.name == key);
        let (value, at) = match default {
            Some(default) if value.trim().is_empty() => (default.default, Origin::Default),
            _ => (value, at),
        };
        let value = value.to_owned();
        self.0.insert(key.to_owned(), Setting { value, at });
    }

    pub(super) fn set_environment(&mut self, environment: &Environment) {
        self.set(
            "environment",
            environment.as_str(),
            Origin::Flag("--environment"),
        );
    }

    /// Sets a key to what it was before the files were read again.
    pub(super) fn restate(&mut self, key: &str, setting: Setting) {
        self.0.insert(key.to_owned(), setting);
    }

    /// All of them, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// The value of a key; a blank one is none.
    pub fn get(&self, key: &str) -> Option<&Setting> {
        let setting = self.0.get(key)?;
        (!setting.value.trim().is_empty()).then_some(setting)
    }

    /// Who says a key, blank or not.
    pub(super) fn at(&self, key: &str) -> Option<&Origin> {
        self.0.get(key).map(|setting| &setting.at)
    }

    /// The value of a key as `parse` reads it; `expected` is for the message.
    pub(super) fn parse<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ScapError> {
        let Some(Setting { value, at }) = self.get(key) else {
            return Ok(None);
        };
        match parse(value.trim()) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(ScapError::invalid(
                at,
                format!("`{key}` is `{}`; {expected} was expected", shown(value)),
            )),
        }
    }

    /// A yes or no, which has a default.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ScapError> {
        let expected = "yes, true, on or 1, or no, false, off or 0";
        Ok(self.parse(key, expected, truth)?.unwrap_or_default())
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<Option<std::num::NonZeroU32>, ScapError> {
        self.parse(key, "a whole number from 1", |text| text.parse().ok())
    }

    /// A time of at most 30 days, in seconds.
    pub(super) fn seconds(&self, key: &str) -> Result<Option<Duration>, ScapError> {
        self.parse(
            key,
            "a number of seconds, at most 30 days of them",
            |text| seconds(text.parse().ok()?),
        )
    }

    /// Values between commas, none of them empty.
    pub(super) fn list(&self, key: &str) -> Option<(Vec<&str>, &Origin)> {
        let Setting { value, at } = self.get(key)?;
        let parts = value.split(',').map(str::trim);
        Some((parts.filter(|part| !part.is_empty()).collect(), at))
    }

    /// What is said and not acted on, each key once. `groups` are the server groups that there are; `None` where no hosts are named.
    pub(super) fn notices(&self, groups: Option<&[&str]>) -> Vec<Notice> {
        let said = self
            .iter()
            .filter(|(_, setting)| setting.at != Origin::Default);
        let notices = said.filter_map(|(key, setting)| {
            let group = keys::of_group(key).map(|(group, _)| group);
            let is_blank = setting.value.trim().is_empty();
            let why = match (keys::find(key).map(|key| key.role), group, groups) {
                (Some(Role::Coordinator), _, None)
                    if keys::OF_GROUP.contains(&key) && !is_blank =>
                {
                    "no host list is named, and the fleet file says the waves".to_owned()
                }
                (Some(Role::Coordinator | Role::Hosts), ..) => return None,
                (Some(Role::Unused(why)), ..) => why.to_owned(),
                (None, Some(group), Some(groups))
                    if groups.iter().any(|it| it.to_lowercase() == group) =>
                {
                    return None;
                }
                (None, Some(group), _) => format!("`server_groups` has no `{}`", shown(group)),
                (None, None, _) => {
                    let hint = keys::meant(key).map(|key| format!("; did you mean `{key}`?"));
                    format!("no such key{}", hint.unwrap_or_default())
                }
            };
            Some(Notice {
                at: setting.at.clone(),
                text: format!("`{}` is not acted on: {why}", shown(key)),
            })
        });
        notices.collect()
    }
}

/// `[global]`, and the sections for a machine of this full name: `org`, `example.org`, `deploy1.example.org`.
fn sections(host_name: &str) -> impl Iterator<Item = String> {
    let parts: Vec<&str> = host_name
        .split('.')
        .filter(|part| !part.is_empty())
        .collect();
    let domains: Vec<String> = (0..parts.len())
        .rev()
        .map(|from| parts[from..].join("."))
        .collect();
    std::iter::once(GLOBAL.to_owned()).chain(domains)
}

/// Reads `key:value` of `-D`.
///
/// # Errors
/// What was expected.
pub fn define(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once(':')
        .filter(|(key, _)| !key.trim().is_empty());
    let (key, value) = parts.ok_or("`key:value` was expected")?;
    Ok((key.trim().to_lowercase(), value.trim().to_owned()))
}

/// A yes or no as scap writes it.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// A time of at most 30 days: a longer one is a slip.
pub(super) fn seconds(seconds: f64) -> Option<Duration> {
    const SECONDS_MAX: f64 = 30.0 * 24.0 * 3600.0;
    (0.0..=SECONDS_MAX)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// The beginning of a text, inert on a terminal.
pub(super) fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

/// A file's name for origins.
pub(super) fn name(text: impl AsRef<str>) -> Arc<str> {
    text.as_ref().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn settings(files: &[&str], overrides: &Overrides) -> Settings {
        let parse = |(at, text): (usize, &&str)| {
            Ini::parse(text.as_bytes(), &name(format!("f{at}"))).unwrap()
        };
        let files: Vec<Ini> = files.iter().enumerate().map(parse).collect();
        Settings::resolve(&files, overrides)
    }

    fn on(host_name: &str, defines: &[(&str, &str)]) -> Overrides {
        Overrides {
            host_name: HostName::Said(host_name.into()),
            defines: defines
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..Overrides::default()
        }
    }

    #[test]
    fn the_later_file_wins_in_a_section_and_the_longer_domain_over_all_files() {
        let low = "[global]\na: 1\nb: 1\nc: 1\nd: 1\n[example.org]\nc: 2\n[other.org]\na: 9\n";
        let high = "[global]\nb: 3\nc: 3\n[d1.example.org]\nd: 4\n[org]\nd: 3\n";
        let found = settings(
            &[low, high],
            &on("d1.example.org", &[("E", "5"), ("a", "6")]),
        );
        for (key, value, at) in [
            ("a", "6", "-D"),
            ("b", "3", "f1:2"),
            ("c", "2", "f0:7"),
            ("d", "4", "f1:5"),
            ("e", "5", "-D"),
            ("failure_limit", "0%", "default"),
        ] {
            let setting = found.get(key).unwrap();
            assert_eq!(
                (setting.value.as_str(), setting.at.to_string().as_str()),
                (value, at),
                "{key}"
            );
        }
        let elsewhere = settings(&[low, high], &on("d1", &[]));
        assert_eq!(elsewhere.get("c").unwrap().value, "3");
    }

    #[test]
    fn values_of_the_default_section_are_in_every_section_that_is_read() {
        let text = "[DEFAULT]\na: 0\n[global]\na: 1\n[org]\nb: 2\n";
        assert_eq!(
            settings(&[text], &on("x.net", &[])).get("a").unwrap().value,
            "1"
        );
        // As configparser has it: the section has it too, and is stronger.
        assert_eq!(
            settings(&[text], &on("x.org", &[])).get("a").unwrap().value,
            "0"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_told_with_what_was_expected() {
        let found = settings(
            &["[global]\nyes: ON\nno: off\nbad: maybe\nn: 0\ns: 1e9\nblank:\nlist: a, b,,c\n"],
            &on("", &[]),
        );
        assert!(
            found.flag("yes").unwrap()
                && !found.flag("no").unwrap()
                && !found.flag("blank").unwrap()
        );
        for (error, says) in [
            (
                found.flag("bad").unwrap_err(),
                "f0:4: `bad` is `maybe`; yes, true, on or 1, or no, false, off or 0 was expected",
            ),
            (
                found.count("n").unwrap_err(),
                "f0:5: `n` is `0`; a whole number from 1 was expected",
            ),
            (
                found.seconds("s").unwrap_err(),
                "f0:6: `s` is `1e9`; a number of seconds, at most 30 days of them was expected",
            ),
        ] {
            assert_eq!(error.to_string(), says);
        }
        assert_eq!(found.list("list").unwrap().0, ["a", "b", "c"]);
        let found = settings(
            &[
                "[global]\ncache_revs: 2\nperform_checks: no\n",
                "[global]\ncache_revs:\nperform_checks:\n",
            ],
            &on("", &[]),
        );
        assert_eq!(found.count("cache_revs").unwrap().unwrap().get(), 5);
        assert!(
            found.flag("perform_checks").unwrap(),
            "blank is the default"
        );
        assert_eq!(found.count("blank").unwrap(), None);
    }

    #[test]
    fn what_is_not_acted_on_is_named_once() {
        let text = "[global]\ngit_repo: a\nbatch_size: 9\nfetch_batch_size: 3\ncanary_group_size: 1\n\
                    canry_group_size: 1\ngroupsize: 4\ndatacenter: x\nzzz: 1\n";
        let notices: Vec<String> = settings(&[text], &on("", &[]))
            .notices(Some(&["canary"]))
            .iter()
            .map(Notice::to_string)
            .collect();
        let mut expected = [
            "f0:3: `batch_size` is not acted on: hosts are not reached by ssh",
            "f0:4: `fetch_batch_size` is not acted on: hosts are not reached by ssh",
            "f0:6: `canry_group_size` is not acted on: `server_groups` has no `canry`",
            "f0:7: `groupsize` is not acted on: no such key; did you mean `group_size`?",
            "f0:8: `datacenter` is not acted on: only scap's MediaWiki commands read it",
            "f0:9: `zzz` is not acted on: no such key",
        ];
        expected.sort_unstable_by_key(|text| text.split('`').nth(1).map(str::to_owned));
        assert_eq!(notices, expected);
    }

    #[test]
    fn a_definition_is_a_key_and_a_value() {
        assert_eq!(
            define("Group_Size: 3 "),
            Ok(("group_size".into(), "3".into()))
        );
        assert_eq!(
            define("url:http://x"),
            Ok(("url".into(), "http://x".into()))
        );
        assert!(define("group_size=3").is_err() && define(":x").is_err());
    }
}
