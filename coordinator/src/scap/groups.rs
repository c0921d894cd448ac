//! The server groups: who is deployed to, in which order, and how many may fail.

use std::{collections::BTreeSet, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use scap_proto::id::NodeId;

use super::{
    Outside,
    error::{Notice, Origin, ScapError, did_you_mean},
    files::Files,
    ini,
    select::Selection,
    settings::{Settings, name, shown},
};
use crate::rollout::Budget;

/// Where host lists are that the folder has not.
const DSH_GROUPS: &str = "/etc/dsh/group";

/// The group of those who name none.
const DEFAULT_GROUP: &str = "default";

/// Hosts that are deployed to before those of the next group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What people call it.
    pub name: String,
    /// Who, in the order of the list; no host is in two groups.
    pub targets: Vec<Target>,
    /// Those of its list that go with a group before it.
    pub elsewhere: Vec<Target>,
    /// Those of its list that its share leaves to later groups.
    pub left: Vec<Target>,
    /// Most hosts that take a stage together; all of the group where there is none.
    pub group_size: Option<NonZeroU32>,
    /// How many of the group may be lost.
    pub failure_limit: Budget,
    /// How many of it may be lost in each site, where somebody says it.
    pub failure_limit_per_site: Option<Budget>,
    /// How many of it may be lost in each rack, where somebody says it.
    pub failure_limit_per_rack: Option<Budget>,
    /// How long to wait after the group, before the next one.
    pub soak: Duration,
    /// Whether a person must let it promote.
    pub needs_approval: bool,
}

/// One host of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub host: NodeId,
    /// Where the list names it.
    pub at: Origin,
}

impl Group {
    /// Most hosts of the group that may fail.
    pub fn failures_max(&self) -> usize {
        self.failure_limit.of(self.targets.len())
    }

    /// The hosts that take a stage together, one sub-group after the other; none is empty.
    pub fn sub_groups(&self) -> impl Iterator<Item = &[Target]> {
        let all = self.targets.len().max(1);
        let size = self
            .group_size
            .map_or(all, |size| usize::try_from(size.get()).unwrap_or(all));
        self.targets.chunks(size)
    }
}

/// The groups that `settings` name, or `None` where they name no hosts at all.
///
/// A host that is in two of them goes with the first; a group whose list has only such hosts is left out, as is one
/// whose key is blank. Each of these is told.
pub(super) fn groups(
    settings: &Settings,
    files: &Files,
    outside: &Outside<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Vec<Group>>, ScapError> {
    let (names, said_at) = match settings.list("server_groups") {
        Some((names, at)) => (names, at.clone()),
        None if settings.get("dsh_targets").is_some()
            || settings.get("default_hosts").is_some() =>
        {
            (vec![DEFAULT_GROUP], Origin::Default)
        }
        None => return Ok(None),
    };
    let mut groups = Vec::new();
    let mut taken = BTreeSet::new();
    for (at, group) in names.iter().enumerate() {
        if names[..at].contains(group) {
            let problem = format!("`server_groups` names `{}` twice", shown(group));
            return Err(ScapError::invalid(&said_at, problem));
        }
        if group.chars().any(char::is_control) {
            let problem = format!("a group's name has a control character: `{}`", shown(group));
            return Err(ScapError::invalid(&said_at, problem));
        }
        let mut targets = targets(settings, files, outside, group, &said_at)?;
        let all = targets.len();
        let mut own = BTreeSet::new();
        let elsewhere: Vec<Target> = targets
            .extract_if(.., |target| taken.contains(&target.host))
            .collect();
        targets.retain(|target| own.insert(target.host.clone()));
        let share = settings.parse(
            &key_of(group, "percent"),
            "a whole number from 1 to 100",
            |text| text.parse().ok().filter(|share| (1..=100).contains(share)),
        )?;
        let mut left = Vec::new();
        if let Some(share) = share {
            let count = Budget::Percent(share).of(all).max(1).min(targets.len());
            left = targets.split_off(count);
        }
        taken.extend(targets.iter().map(|target| target.host.clone()));
        if targets.is_empty() {
            let why = match all {
                0 => "names no host".to_owned(),
                1 => "has no host but one of groups before it".to_owned(),
                all => format!("has no host but {all} of groups before it"),
            };
            let [inline, list] = keys_of(group);
            let at = settings.at(&inline).or(settings.at(&list));
            let at = at.filter(|at| **at != Origin::Default);
            notices.push(Notice {
                at: at.unwrap_or(&said_at).clone(),
                text: format!("group `{}` {why}, and is left out", shown(group)),
            });
            continue;
        }
        // Its own value, else the one for all groups.
        let key = |key: &str| {
            let own = key_of(group, key);
            if settings.get(&own).is_some() {
                own
            } else {
                key.to_owned()
            }
        };
        let limit = |name: &str| {
            let expected = "a number of hosts, or 0% to 100%";
            settings.parse(&key(name), expected, failure_limit)
        };
        groups.push(Group {
            name: (*group).to_owned(),
            targets,
            elsewhere,
            left,
            group_size: settings.count(&key("group_size"))?,
            failure_limit: limit("failure_limit")?.unwrap_or(Budget::Percent(0)),
            failure_limit_per_site: limit("failure_limit_per_site")?,
            failure_limit_per_rack: limit("failure_limit_per_rack")?,
            soak: settings.seconds(&key("soak"))?.unwrap_or_default(),
            needs_approval: settings.flag(&key("approval"))?,
        });
    }
    if groups.is_empty() {
        return Err(ScapError::invalid(&said_at, "no server group has a host"));
    }
    if let [Target { host, at }, more @ ..] = &*left_out(&groups).collect::<Vec<_>>() {
        let more = match more.len() {
            0 => " is".to_owned(),
            count => format!(" and {count} more are"),
        };
        notices.push(Notice {
            at: at.clone(),
            text: format!("host {host}{more} not deployed to: `percent` leaves them to a later group, and none has them"),
        });
    }
    Ok(Some(groups))
}

/// Hosts that a group leaves to later ones, and that none has, each once.
pub(super) fn left_out(groups: &[Group]) -> impl Iterator<Item = &Target> {
    let taken = groups.iter().flat_map(|group| &group.targets);
    let mut taken: BTreeSet<&NodeId> = taken.map(|target| &target.host).collect();
    let left = groups.iter().flat_map(|group| &group.left);
    left.filter(move |target| taken.insert(&target.host))
}

/// The groups with none but the hosts of a selection; those that have none left out.
///
/// # Errors
/// [`ScapError::Invalid`] where nobody is left.
pub fn select(groups: &[Group], selection: &Selection) -> Result<Vec<Group>, ScapError> {
    let left = groups.iter().cloned().filter_map(|mut group| {
        group.targets.retain(|target| selection.has(&target.host));
        (!group.targets.is_empty()).then_some(group)
    });
    let left: Vec<Group> = left.collect();
    if left.is_empty() {
        let hosts = groups.iter().flat_map(|group| &group.targets).count();
        let problem = format!("none of the {hosts} hosts is chosen");
        return Err(ScapError::invalid(&Origin::Flag("--limit-hosts"), problem));
    }
    Ok(left)
}

/// As scap3 reads it, with or without a blank before the `%`.
fn failure_limit(text: &str) -> Option<Budget> {
    match text.strip_suffix('%') {
        Some(share) => format!("{}%", share.trim_end()).parse().ok(),
        None => text.parse().ok(),
    }
}

/// A key of a group; keys are in lower case, whatever the group is called.
fn key_of(group: &str, key: &str) -> String {
    format!("{}_{key}", group.to_lowercase())
}

/// The keys that name the hosts of a group: themselves, or their list.
fn keys_of(group: &str) -> [String; 2] {
    let list = match group {
        DEFAULT_GROUP => "dsh_targets".to_owned(),
        group => key_of(group, "dsh_targets"),
    };
    [key_of(group, "hosts"), list]
}

/// The hosts of one group; none where its key is blank.
fn targets(
    settings: &Settings,
    files: &Files,
    outside: &Outside<'_>,
    group: &str,
    said_at: &Origin,
) -> Result<Vec<Target>, ScapError> {
    let [inline, key] = keys_of(group);
    if let Some((hosts, at)) = settings.list(&inline) {
        if let Some(other) = settings.get(&key) {
            let problem = format!(
                "both `{inline}` and `{key}` ({}) name hosts; one of them was expected",
                other.at
            );
            return Err(ScapError::invalid(at, problem));
        }
        return hosts
            .into_iter()
            .map(|host| target(host, at.clone()))
            .collect();
    }
    let Some(list) = settings.get(&key) else {
        if settings.at(&key).is_some() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = settings.iter().map(|(key, _)| key).collect();
        let hint = did_you_mean(&key, names);
        let problem = format!(
            "server group `{}` needs `{}`, the name of its host list{hint}",
            shown(group),
            shown(&key)
        );
        return Err(ScapError::invalid(said_at, problem));
    };
    let (file, bytes) = find(list.value.trim(), files, outside, &list.at)?;
    let text = ini::text(&bytes, &file)?;
    let mut targets = Vec::new();
    for (line, text) in ini::lines(text) {
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-')));
        let file = file.clone();
        targets.push(target(
            &text[..end.unwrap_or(text.len())],
            Origin::File { file, line },
        )?);
    }
    if targets.is_empty() {
        let problem = format!("`{key}` names {file}, which has no host in it");
        return Err(ScapError::invalid(&list.at, problem));
    }
    Ok(targets)
}

fn target(host: &str, at: Origin) -> Result<Target, ScapError> {
    match host.parse() {
        Ok(host) => Ok(Target { host, at }),
        Err(_) if host.is_empty() => Err(ScapError::invalid(
            &at,
            "the name of a host was expected at the start of the line",
        )),
        Err(error) => Err(ScapError::invalid(&at, error.to_string())),
    }
}

/// A host list by its name: absolute, of the environment, of the folder, or of the machine.
fn find(
    list: &str,
    files: &Files,
    outside: &Outside<'_>,
    at: &Origin,
) -> Result<(Arc<str>, Bytes), ScapError> {
    let mut looked = Vec::new();
    if !list.starts_with('/') {
        if let Some((file, found)) = files.of_environment(list) {
            return Ok((file, found.bytes.clone()));
        }
        looked.extend(files.places(list));
    }
    // An absolute name stands for itself.
    let path = Path::new(DSH_GROUPS).join(list);
    let is_plain = path
        .components()
        .all(|part| part != std::path::Component::ParentDir);
    if is_plain && let Some(bytes) = outside(&path)? {
        return Ok((name(path.to_string_lossy()), bytes.into()));
    }
    looked.push(shown(&path.to_string_lossy()));
    let problem = format!(
        "no host list `{}`: looked for {}",
        shown(list),
        looked.join(", ")
    );
    Err(ScapError::invalid(at, problem))
}
