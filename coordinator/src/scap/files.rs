//! The files of a scap folder, in memory: small, bounded, and the same wherever they are from.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use scap_proto::release::Environment;

use super::{
    error::{Notice, Origin, ScapError},
    settings::name,
};

/// Most files of a folder: a template and a script for each of hundreds of services.
pub(super) const FILES_MAX: usize = 4096;
/// Most bytes of one file: scripts are larger than all else, and still text.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most bytes of all of them: they are held in memory.
pub(super) const FOLDER_BYTES_MAX: u64 = 16 * 1024 * 1024;

const ENVIRONMENTS: &str = "environments";
/// The files of which a scap folder has at least one.
const CONFIGS: [&str; 2] = ["scap.cfg", "scap.toml"];

/// The files of a folder and the environment that they are read for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    all: BTreeMap<String, File>,
    environment: Option<Environment>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Bytes,
    pub(super) is_executable: bool,
}

/// What is read, one after the other; links are followed when all is there.
#[derive(Debug, Default)]
pub(super) struct Collector {
    files: BTreeMap<String, File>,
    links: BTreeMap<String, String>,
    bytes: u64,
}

impl Collector {
    /// Whether a path below the folder is part of it: what scap writes there, and what git keeps, is not.
    pub(super) fn wants(path: &str) -> bool {
        let first = path.split('/').next();
        !matches!(first, Some("log" | ".git" | ".gitignore" | ".gitmodules"))
    }

    /// Counts a file before it is read.
    pub(super) fn admit(&mut self, path: &str, bytes: u64) -> Result<(), ScapError> {
        let check = |what: String, found, allowed| match found <= allowed {
            true => Ok(()),
            false => Err(ScapError::TooLarge {
                what,
                found,
                allowed,
            }),
        };
        self.bytes += bytes;
        let files = self.files.len() + self.links.len() + 1;
        check("files".into(), files as u64, FILES_MAX as u64)?;
        check(
            format!("bytes in {}", path.escape_debug()),
            bytes,
            FILE_BYTES_MAX,
        )?;
        check("bytes".into(), self.bytes, FOLDER_BYTES_MAX)
    }

    pub(super) fn add_file(&mut self, path: &str, bytes: Vec<u8>, is_executable: bool) {
        let bytes = bytes.into();
        self.files.insert(
            path.into(),
            File {
                bytes,
                is_executable,
            },
        );
    }

    pub(super) fn add_link(&mut self, path: &str, target: &str) {
        self.links.insert(path.into(), target.into());
    }

    /// The files, with links that lead to others of them followed; and those that do not.
    pub(super) fn finish(mut self) -> (Files, Vec<Notice>) {
        // A link may lead through others: each round follows one more.
        for _ in 0..LINKS_DEEP_MAX {
            let before = self.links.len();
            let links = std::mem::take(&mut self.links);
            for (path, target) in links {
                let found = resolve(&path, &target).map_or(Vec::new(), |real| self.below(&real));
                let bytes: u64 = found.iter().map(|(_, file)| file.bytes.len() as u64).sum();
                let is_small = self.files.len() + found.len() <= FILES_MAX
                    && self.bytes + bytes <= FOLDER_BYTES_MAX;
                if found.is_empty() || !is_small {
                    self.links.insert(path, target);
                    continue;
                }
                self.bytes += bytes;
                for (rest, file) in found {
                    self.files.insert(format!("{path}{rest}"), file);
                }
            }
            if self.links.len() == before {
                break;
            }
        }
        let notices = self.links.into_iter().map(|(path, target)| Notice {
            at: Origin::File {
                file: shown(&path),
                line: 1,
            },
            text: format!(
                "a link to `{}`, which is nothing in the folder, or too much, is left out",
                target.escape_debug()
            ),
        });
        let notices = notices.collect();
        let files = Files {
            all: self.files,
            environment: None,
        };
        (files, notices)
    }

    /// The file at `path`, or all below it, by what comes after `path`.
    fn below(&self, path: &str) -> Vec<(String, File)> {
        let rest = |(at, file): (&String, &File)| {
            let rest = at.strip_prefix(path)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (rest.to_owned(), file.clone()))
        };
        self.files.iter().filter_map(rest).collect()
    }
}

/// How many links a link may lead through.
const LINKS_DEEP_MAX: usize = 8;

/// Where a link leads, if that is in the folder.
fn resolve(path: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

impl Files {
    /// Whether there is anything that makes a folder a scap folder: a configuration, be it that of one environment.
    pub(super) fn is_scap(&self) -> bool {
        let folders = self.environments().into_iter();
        let folders = folders.map(|environment| format!("{ENVIRONMENTS}/{environment}/"));
        let mut folders = folders.chain([String::new()]);
        folders.any(|folder| {
            CONFIGS
                .iter()
                .any(|file| self.all.contains_key(&format!("{folder}{file}")))
        })
    }

    /// Whether there is a configuration for the environment that is read.
    pub(super) fn has_config(&self) -> bool {
        CONFIGS
            .iter()
            .any(|file| self.of_environment(file).is_some())
    }

    /// The same files for an environment.
    pub(super) fn with_environment(self, environment: Option<Environment>) -> Self {
        Self {
            environment,
            ..self
        }
    }

    /// The environments that the folder knows.
    pub(super) fn environments(&self) -> Vec<&str> {
        let below = |path: &'_ str| {
            let (environment, _) = path
                .strip_prefix(ENVIRONMENTS)?
                .strip_prefix('/')?
                .split_once('/')?;
            Some(environment.len())
        };
        let names = self.all.keys().filter_map(|path| {
            let start = ENVIRONMENTS.len() + 1;
            below(path).map(|length| &path[start..start + length])
        });
        let mut names: Vec<&str> = names.collect();
        names.dedup();
        names
    }

    /// The file at this path of the folder, and what people call it.
    pub(super) fn common(&self, path: &str) -> Option<(Arc<str>, &File)> {
        self.all.get(path).map(|file| (shown(path), file))
    }

    /// The file at this path of the environment's folder.
    pub(super) fn special(&self, path: &str) -> Option<(Arc<str>, &File)> {
        let environment = self.environment.as_ref()?;
        self.common(&format!("{ENVIRONMENTS}/{environment}/{path}"))
    }

    /// The environment's file, else the common one.
    pub(super) fn of_environment(&self, path: &str) -> Option<(Arc<str>, &File)> {
        self.special(path).or_else(|| self.common(path))
    }

    /// Where [`Self::of_environment`] looks, for people.
    pub(super) fn places(&self, path: &str) -> Vec<String> {
        let special = self
            .environment
            .as_ref()
            .map(|it| format!("{ENVIRONMENTS}/{it}/{path}"));
        special
            .into_iter()
            .chain([path.to_owned()])
            .map(|path| shown(&path).to_string())
            .collect()
    }

    /// The files of a folder of the folder, those of the environment in place of common ones with the same name.
    pub(super) fn within(&self, folder: &str) -> BTreeMap<&str, &File> {
        let mut found = BTreeMap::new();
        let special = self
            .environment
            .as_ref()
            .map(|it| format!("{ENVIRONMENTS}/{it}/{folder}/"));
        for prefix in std::iter::once(format!("{folder}/")).chain(special) {
            for (path, file) in self.all.range(prefix.clone()..) {
                let Some(rest) = path.strip_prefix(&prefix) else {
                    break;
                };
                found.insert(rest, file);
            }
        }
        found
    }
}

/// What people call a file of the folder.
fn shown(path: &str) -> Arc<str> {
    name(format!("scap/{}", path.escape_debug()))
}

#[cfg(test)]
impl Files {
    /// Files with these contents, none of them executable but those in `scripts`.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut collector = Collector::default();
        for (path, content) in files {
            let is_script = path.contains("scripts/");
            collector.add_file(path, content.as_bytes().to_vec(), is_script);
        }
        collector.finish().0
    }

    /// Adds a file.
    pub(super) fn put(&mut self, path: &str, bytes: &'static [u8], is_executable: bool) {
        let bytes = Bytes::from_static(bytes);
        self.all.insert(
            path.into(),
            File {
                bytes,
                is_executable,
            },
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn links_within_the_folder_are_followed_and_others_are_told() {
        let mut collector = Collector::default();
        collector.add_file("environments/a/templates/t.j2", b"t".to_vec(), false);
        collector.add_file("checks.yaml", b"c".to_vec(), false);
        for (path, target) in [
            ("environments/b/templates", "../a/templates"),
            ("environments/b/checks.yaml", "../../checks.yaml"),
            ("environments/c", "./b"),
            ("out", "../../etc/passwd"),
            ("absolute", "/etc/passwd"),
            ("loop", "loop"),
        ] {
            collector.add_link(path, target);
        }
        let (files, notices) = collector.finish();
        assert_eq!(files.environments(), ["a", "b", "c"]);
        for path in [
            "environments/b/templates/t.j2",
            "environments/c/templates/t.j2",
            "environments/c/checks.yaml",
        ] {
            assert!(files.common(path).is_some(), "{path}");
        }
        let told: Vec<String> = notices.iter().map(|notice| notice.at.to_string()).collect();
        assert_eq!(told, ["scap/absolute:1", "scap/loop:1", "scap/out:1"]);
    }

    #[test]
    fn an_environment_shadows_what_has_the_same_name() {
        let files = Files::of(&[
            ("targets", "a"),
            ("templates/x.j2", "a"),
            ("templates/y.j2", "a"),
            ("environments/beta/targets", "b"),
            ("environments/beta/templates/x.j2", "b"),
        ]);
        let files = files.with_environment(Some("beta".parse().unwrap()));
        let content = |file: &File| String::from_utf8(file.bytes.to_vec()).unwrap();
        let (file, targets) = files.of_environment("targets").unwrap();
        assert_eq!(
            (&*file, content(targets)),
            ("scap/environments/beta/targets", "b".into())
        );
        let templates: Vec<_> = files
            .within("templates")
            .into_iter()
            .map(|(name, file)| (name, content(file)))
            .collect();
        assert_eq!(
            templates,
            [("x.j2", "b".to_owned()), ("y.j2", "a".to_owned())]
        );
        assert!(files.special("checks.yaml").is_none());
    }

    #[test]
    fn a_folder_is_bounded() {
        let mut collector = Collector::default();
        assert!(collector.admit("a", FILE_BYTES_MAX).is_ok());
        let error = collector
            .admit("a", FILE_BYTES_MAX + 1)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "bytes in a of the scap folder: 1048577, at most 1048576 are allowed"
        );
        let mut full = Collector::default();
        let results: Vec<_> = (0..17)
            .map(|_| full.admit("a", FILE_BYTES_MAX).is_ok())
            .collect();
        assert_eq!(results.iter().filter(|ok| **ok).count(), 16);
    }
}
