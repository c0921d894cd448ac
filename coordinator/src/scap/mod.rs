//! The scap folder of a repo, as scap3's users have it, parsed once into types that the rest can trust.
//!
//! ```text
//! scap.cfg  scap.toml             what is deployed, to whom, how           keys, ini, native, settings, rollout
//! <host lists>                    the hosts of the server groups           groups, select
//! checks.yaml  config-files.yaml  what hosts run, render and restart       checks, config_files, services
//! vars.yaml  templates/  scripts/ what these need
//! environments/<env>/             the same files, for one environment      files
//! ```
//! [`Found`] is a folder wherever it is from; [`Scap::read`] is all that it says. Nothing here has an effect but reading.

mod checks;
mod config_files;
mod document;
mod error;
mod files;
mod groups;
mod host_name;
mod ini;
mod keys;
mod native;
mod pack;
mod rollout;
mod select;
mod services;
mod settings;
mod source;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod yaml;

use std::{io, num::NonZeroU32, path::Path};

use scap_proto::{
    content::RelPath,
    release::{
        Environment, HostConfig, RepoPath,
        host_config::{HostGroup, SCRIPTS, TEMPLATES},
    },
};

use self::{
    checks::{Around, Checks, checks},
    config_files::config_files,
    document::{Expect, Map, finish},
    files::Files,
    groups::groups,
    ini::Ini,
    native::Native,
    services::{host_path, services},
    settings::{name, shown},
};
pub use self::{
    error::{Notice, Origin, ScapError},
    groups::{Group, Target, select},
    host_name::HostName,
    rollout::{Rollout, Sites},
    select::Selection,
    settings::{Overrides, Setting, Settings, define},
    source::{Found, Place, Source, read_machine},
};
use crate::snapshot::{HeldFile, HeldFiles};

/// The machine's own `scap.cfg`, which is weaker than all others.
const MACHINE_CONFIG: &str = "/etc/scap.cfg";

/// The key that says that nothing is to be deployed from here.
const BLOCKED: &str = "block_deployments";

/// Reads a file of this machine; `None` where there is none.
pub type Outside<'a> = dyn Fn(&Path) -> Result<Option<Vec<u8>>, ScapError> + 'a;

/// What a scap folder says, with the machine's own file and the command line.
#[derive(Debug, Clone)]
pub struct Scap {
    /// Every effective value, and who says so.
    pub settings: Settings,
    /// What the repo is called below the deploy root.
    pub repo: Option<RepoPath>,
    /// What it is deployed to, where somebody says it.
    pub environment: Option<Environment>,
    /// What is deployed where the command line does not say it.
    pub rev: Option<String>,
    /// Who says that nothing is to be deployed from here.
    pub blocked: Option<Origin>,
    /// Who is deployed to, in order; `None` where no host list is named.
    pub groups: Option<Vec<Group>>,
    /// How the rollout goes as a whole.
    pub rollout: Rollout,
    /// Where hosts stand.
    pub sites: Sites,
    /// What hosts are asked to do beside holding the files.
    pub hosts: HostConfig,
    /// What is said and not acted on, each thing once.
    pub notices: Vec<Notice>,
    /// What [`Self::hosts`] refers to: templates and scripts.
    attachments: HeldFiles,
}

impl Scap {
    /// Reads a folder. Without one, only the machine's file and the command line say anything.
    ///
    /// # Errors
    /// [`ScapError`], with file and line wherever there is one.
    pub fn read(
        found: &Found,
        overrides: &Overrides,
        outside: &Outside<'_>,
    ) -> Result<Self, ScapError> {
        let mut files = found.files.clone();
        let mut notices = found.notices.clone();
        let mut environment = overrides.environment.clone();
        if let Some(environment) = &environment {
            check_environment(&files, environment, &Origin::Flag("--environment"))?;
            files = files.with_environment(Some(environment.clone()));
        }
        let machine = match &overrides.conf {
            Some(path) => conf(path, outside)?,
            None => machine(&found.place, outside)?,
        };
        let is_local = overrides.is_local();
        let mut layers = Layers::read(&machine, &files, is_local)?;
        overrides.host_name.check(&layers.keys())?;
        let mut settings = Settings::resolve(&layers.keys(), overrides);
        match &environment {
            Some(environment) => settings.set_environment(environment),
            None => {
                let parse = |text: &str| text.parse().ok();
                environment = settings.parse("environment", "the name of an environment", parse)?;
                if let Some(environment) = &environment {
                    let said = settings.get("environment").cloned().expect("it was parsed");
                    check_environment(&files, environment, &said.at)?;
                    files = files.with_environment(Some(environment.clone()));
                    // Read again, for that environment.
                    layers = Layers::read(&machine, &files, is_local)?;
                    overrides.host_name.check(&layers.keys())?;
                    settings = Settings::resolve(&layers.keys(), overrides);
                    settings.restate("environment", said);
                }
            }
        }

        if found.place != Place::Nowhere && is_local && !files.has_config() {
            let environment = environment.clone().unwrap_or_default();
            let problem = format!(
                "scap.cfg and scap.toml are there for {} only, and not for `{environment}`",
                files.environments().join(", ")
            );
            return Err(ScapError::invalid(&Origin::Flag("--environment"), problem));
        }

        let groups = groups(&settings, &files, outside, &mut notices)?;
        let group_names: Vec<&str> = match settings.list("server_groups") {
            Some((names, _)) => names,
            None => vec!["default"],
        };
        notices.extend(settings.notices(groups.as_ref().map(|_| &*group_names)));
        let sites = Sites::of(merged([
            std::mem::take(&mut layers.common.native.sites),
            std::mem::take(&mut layers.special.native.sites),
        ]))?;
        for target in groups.iter().flatten().flat_map(|group| &group.targets) {
            sites.site_of(&target.host)?;
        }
        let hosts = hosts(
            &settings,
            &files,
            &mut layers,
            groups.as_deref(),
            &mut notices,
        )?;
        let hosts = HostConfig {
            environment: environment.clone().unwrap_or_default(),
            ..hosts
        };
        let blocked = match settings.flag(BLOCKED)? {
            true => settings.get(BLOCKED).map(|said| said.at.clone()),
            false => None,
        };
        Ok(Self {
            repo: repo(&settings)?,
            rev: settings.get("git_rev").map(|said| said.value.clone()),
            environment,
            blocked,
            groups,
            rollout: Rollout::of(&settings)?,
            sites,
            attachments: attachments(&files, &hosts)?,
            hosts,
            notices,
            settings,
        })
    }
}

impl Scap {
    /// Hosts of the lists that are in no group: shares leave them to later ones, and none has them.
    pub fn left_out(&self) -> impl Iterator<Item = &Target> {
        groups::left_out(self.groups.as_deref().unwrap_or_default())
    }
}

fn repo(settings: &Settings) -> Result<Option<RepoPath>, ScapError> {
    let Some(Setting { value, at }) = settings.get("git_repo") else {
        return Ok(None);
    };
    let parsed: Result<RepoPath, _> = value.parse();
    parsed
        .map(Some)
        .map_err(|error| ScapError::invalid(at, format!("`git_repo`: {error}")))
}

/// A folder that has environments has no others, but for the one that is meant where none is said.
fn check_environment(
    files: &Files,
    environment: &Environment,
    at: &Origin,
) -> Result<(), ScapError> {
    let known = files.environments();
    let is_from_here = matches!(at, Origin::Flag("--environment"));
    let is_open = is_from_here && *environment == Environment::default();
    if known.is_empty() || known.contains(&environment.as_str()) || is_open {
        return Ok(());
    }
    let there: Vec<String> = known.iter().map(|name| shown(name)).collect();
    let there = there.join(", ");
    let hint = error::did_you_mean(environment.as_str(), known.iter().copied());
    let problem =
        format!("there is no environment `{environment}`: scap/environments has {there}{hint}");
    Err(ScapError::invalid(at, problem))
}

/// What the machine's own file says. It is there for repos with a scap folder: of those without, it says no more than
/// whether anything may be deployed from here.
fn machine(place: &Place, outside: &Outside<'_>) -> Result<Ini, ScapError> {
    let Some(bytes) = outside(Path::new(MACHINE_CONFIG))? else {
        return Ok(Ini::default());
    };
    let mut ini = Ini::parse(&bytes, &name(MACHINE_CONFIG))?;
    if *place == Place::Nowhere {
        ini.sections.retain(|_, entries| {
            entries.retain(|entry| entry.key == BLOCKED);
            !entries.is_empty()
        });
    }
    Ok(ini)
}

/// The file that says all keys, which must be there.
fn conf(path: &Path, outside: &Outside<'_>) -> Result<Ini, ScapError> {
    let Some(bytes) = outside(path)? else {
        let (path, source) = (path.to_owned(), io::ErrorKind::NotFound.into());
        return Err(ScapError::Read { path, source });
    };
    Ini::parse(&bytes, &name(path.to_string_lossy()))
}

/// The files that say the same things, the weaker ones first.
struct Layers {
    machine: Ini,
    common: Layer,
    special: Layer,
}

/// What one folder has, the common one or that of the environment.
#[derive(Default)]
struct Layer {
    cfg: Ini,
    native: Native,
    vars: Map,
    checks: Map,
    config_files: Option<Map>,
}

impl Layers {
    /// Where the folder's files say no keys, their keys are not even read.
    fn read(machine: &Ini, files: &Files, is_local: bool) -> Result<Self, ScapError> {
        Ok(Self {
            machine: machine.clone(),
            common: Layer::read(|path| files.common(path), is_local)?,
            special: Layer::read(|path| files.special(path), is_local)?,
        })
    }

    fn keys(&self) -> Vec<Ini> {
        let mut keys = vec![self.machine.clone()];
        for layer in [&self.common, &self.special] {
            keys.extend([layer.cfg.clone(), layer.native.keys.clone()]);
        }
        keys
    }
}

impl Layer {
    fn read<'a>(
        get: impl Fn(&str) -> Option<(std::sync::Arc<str>, &'a files::File)>,
        is_local: bool,
    ) -> Result<Self, ScapError> {
        let map = |path: &str| -> Result<Option<Map>, ScapError> {
            let Some((file, found)) = get(path) else {
                return Ok(None);
            };
            yaml::parse(&found.bytes, &file)?.into_map(&file).map(Some)
        };
        let mut checks = map("checks.yaml")?.unwrap_or_default();
        let checks = match checks.take("checks") {
            Some((_, node)) => {
                finish(checks, "checks.yaml", &["checks"], None)?;
                node.into_map("`checks`")?
            }
            None => {
                finish(checks, "checks.yaml", &["checks"], None)?;
                Map::default()
            }
        };
        let mut native = match get("scap.toml") {
            Some((file, found)) => native::parse(&found.bytes, &file)?,
            None => Native::default(),
        };
        if !is_local {
            native.keys = Ini::default();
        }
        Ok(Self {
            cfg: match get("scap.cfg").filter(|_| is_local) {
                Some((file, found)) => Ini::parse(&found.bytes, &file)?,
                None => Ini::default(),
            },
            native,
            vars: map("vars.yaml")?.unwrap_or_default(),
            checks,
            config_files: map("config-files.yaml")?,
        })
    }
}

/// One map on top of the other, key by key.
fn merged(maps: impl IntoIterator<Item = Map>) -> Map {
    let mut all = Map::default();
    for (key, node) in maps.into_iter().flat_map(|map| map.0) {
        all.set(key, node);
    }
    all
}

/// What hosts are asked to do.
fn hosts(
    settings: &Settings,
    files: &Files,
    layers: &mut Layers,
    groups: Option<&[Group]>,
    notices: &mut Vec<Notice>,
) -> Result<HostConfig, ScapError> {
    let Layers {
        common, special, ..
    } = layers;
    let take = std::mem::take::<Map>;
    let [vars, all_checks] = [
        merged([
            take(&mut common.vars),
            take(&mut common.native.vars),
            take(&mut special.vars),
            take(&mut special.native.vars),
        ]),
        merged([
            take(&mut common.checks),
            take(&mut common.native.checks),
            take(&mut special.checks),
            take(&mut special.native.checks),
        ]),
    ];
    // The environment's file is in place of the common one.
    let yaml = special
        .config_files
        .take()
        .or(common.config_files.take())
        .unwrap_or_default();
    let all_files = merged([
        yaml,
        take(&mut common.native.config_files),
        take(&mut special.native.config_files),
    ]);

    let groups = groups.unwrap_or_default();
    let group_names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let checks = match settings.flag("perform_checks")? {
        true => {
            let scripts = files.within(SCRIPTS);
            let around = Around {
                scripts: &scripts,
                groups: &group_names,
            };
            checks(all_checks, &around, notices)?
        }
        false => Checks::default(),
    };
    let config_files = match settings.flag("config_deploy")? {
        true => config_files(all_files, &files.within(TEMPLATES), notices)?,
        false => {
            if let Some((first, _)) = all_files.0.first() {
                let (at, count) = (first.at.clone(), all_files.0.len());
                let text = format!("{count} config files are not acted on: `config_deploy` is off");
                notices.push(Notice { at, text });
            }
            Vec::new()
        }
    };
    let is_named = |group: &&Group| {
        checks
            .all
            .iter()
            .any(|check| check.group.as_ref() == Some(&group.name))
    };
    let groups = groups.iter().filter(is_named).map(|group| {
        let mut hosts: Vec<_> = group
            .targets
            .iter()
            .map(|target| target.host.clone())
            .collect();
        hosts.sort();
        HostGroup {
            name: group.name.clone(),
            hosts,
        }
    });
    let hosts = HostConfig {
        environment: Environment::default(),
        groups: groups.collect(),
        config_files,
        vars: serde_json::to_string(&vars).expect("maps with keys of text have a text"),
        checks: checks.all,
        services: services(settings)?,
        nrpe_directory: host_path(settings, "nrpe_dir")?,
        cache_revs: settings.count("cache_revs")?.unwrap_or(NonZeroU32::MIN),
        extensions: Default::default(),
    };
    hosts.repeating(&checks.repeats).map_err(ScapError::Encode)
}

/// The templates and scripts that hosts need: all of them, since templates include each other, and none where nothing is
/// rendered.
fn attachments(files: &Files, hosts: &HostConfig) -> Result<HeldFiles, ScapError> {
    let mut attachments = HeldFiles::new();
    for (folder, is_needed) in [
        (TEMPLATES, !hosts.config_files.is_empty()),
        (SCRIPTS, !hosts.checks.is_empty()),
    ] {
        if !is_needed {
            continue;
        }
        for (path, file) in files.within(folder) {
            let path = format!("{folder}/{path}");
            let at = Origin::File {
                file: name(format!("scap/{path}")),
                line: 1,
            };
            let path =
                RelPath::new(path).map_err(|error| ScapError::invalid(&at, error.to_string()))?;
            let attachment = HeldFile {
                bytes: file.bytes.clone(),
                is_executable: file.is_executable,
            };
            attachments.insert(path, attachment);
        }
    }
    Ok(attachments)
}
