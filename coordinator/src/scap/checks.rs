//! `checks.yaml`: what is run around the stages.

use std::{collections::BTreeMap, num::NonZeroU32};

use scap_agent::notation::words;
use scap_proto::{
    content::RelPath,
    release::host_config::{Check, Command, HostStage, Moment, SCRIPTS},
};

use super::{
    document::{Expect, Key, Map, Node, Value, finish},
    error::{Notice, ScapError, did_you_mean},
    files::File,
    settings::{seconds, shown},
};

/// What scap gives a check that does not say how long it may take.
const TIMEOUT_MILLIS: NonZeroU32 = NonZeroU32::new(30_000).expect("it is not 0");

/// A check is not run again more often than this.
const EVERY_MILLIS_MIN: NonZeroU32 = NonZeroU32::new(1000).expect("it is not 0");

pub(super) const FIELDS: [&str; 9] = [
    "type", "command", "before", "after", "stage", "group", "timeout", "shell", "every",
];

/// What a folder has hosts run.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// All of them, in their order.
    pub(super) all: Vec<Check>,
    /// Which are run again while a release soaks, by their names, and after how many milliseconds each time.
    pub(super) repeats: BTreeMap<String, NonZeroU32>,
}

/// What checks are checked against.
pub(super) struct Around<'a> {
    /// The executables of the release.
    pub(super) scripts: &'a BTreeMap<&'a str, &'a File>,
    /// The names of the server groups.
    pub(super) groups: &'a [&'a str],
}

/// The checks of all files, put on top of each other: the later one has its place in the order where it takes that of an earlier one
/// with its name. One without a body, or with an empty one, is none.
pub(super) fn checks(
    bodies: Map,
    around: &Around<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Checks, ScapError> {
    let mut checks = Checks::default();
    for (name, body) in bodies.0 {
        let body = body.into_map(&format!("check `{}`", shown(&name.name)))?;
        if !body.0.is_empty() {
            let Some((check, every)) = check(&name, body, around, notices)? else {
                continue;
            };
            checks
                .repeats
                .extend(every.map(|every| (check.name.clone(), every)));
            checks.all.push(check);
        }
    }
    Ok(checks)
}

fn check(
    name: &Key,
    mut body: Map,
    around: &Around<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<(Check, Option<NonZeroU32>)>, ScapError> {
    let what = format!("check `{}`", shown(&name.name));
    let mut text = |field: &str| take_text(&mut body, &what, field);
    let kind = text("type")?;
    let command = text("command")?;
    let [before, after, stage] = [text("before")?, text("after")?, text("stage")?];
    let group = text("group")?;
    let is_shell = match body.take("shell") {
        None => false,
        Some((_, node)) => match node.value {
            Value::Bool(is_shell) => is_shell,
            _ => return Err(node.expected(&format!("`shell` of {what}"), "yes or no")),
        },
    };
    let timeout_millis = match body.take("timeout") {
        None => TIMEOUT_MILLIS,
        Some((_, node)) => time(&node, &format!("`timeout` of {what}"))?,
    };
    let every = match body.take("every") {
        None => None,
        Some((key, node)) => Some((
            time(&node, &format!("`every` of {what}"))?.max(EVERY_MILLIS_MIN),
            key,
        )),
    };
    finish(body, &what, &FIELDS, Some(notices))?;

    let Some((line, command_at)) = command else {
        let problem = format!("{what} has no `command`, which says what to run");
        return Err(ScapError::invalid(&name.at, problem));
    };
    let kind = kind.unwrap_or_else(|| ("command".into(), name.clone()));
    let command = self::command(&kind, (&line, &command_at), is_shell, around, &what)?;

    let moments = [
        (Moment::Before, before),
        (Moment::After, after),
        (Moment::After, stage),
    ];
    let mut moments = moments
        .into_iter()
        .filter_map(|(moment, said)| Some((moment, said?)));
    let Some((moment, (stage, stage_at))) = moments.next() else {
        let text = format!("{what} never runs: it has neither `before` nor `after`");
        let at = name.at.clone();
        notices.push(Notice { at, text });
        return Ok(None);
    };
    if let Some((_, (_, second))) = moments.next() {
        let problem = format!("{what} has more than one of `before`, `after` and `stage`");
        return Err(ScapError::invalid(&second.at, problem));
    }
    let group = group.filter(|(group, _)| !group.is_empty());
    if let Some((group, key)) = &group
        && !around.groups.contains(&group.as_str())
    {
        let (at, group) = (key.at.clone(), shown(group));
        let text = format!("{what} never runs: there is no server group `{group}`");
        notices.push(Notice { at, text });
        return Ok(None);
    }
    let stage = find_stage(&stage, &stage_at, &what)?;
    if let Some((_, key)) = &every
        && !Check::may_repeat(moment, stage)
    {
        let problem = format!(
            "{what} cannot be run again, as `every` says: only those after promote or handle_service, which tell how what is live does"
        );
        return Err(ScapError::invalid(&key.at, problem));
    }
    let check = Check {
        name: name.name.to_string(),
        command,
        moment,
        stage,
        group: group.map(|(group, _)| group),
        timeout_millis,
    };
    Ok(Some((check, every.map(|(every, _)| every))))
}

/// A field that is text, and where it is.
pub(super) fn take_text(
    body: &mut Map,
    what: &str,
    field: &str,
) -> Result<Option<(String, Key)>, ScapError> {
    let Some((key, node)) = body.take(field) else {
        return Ok(None);
    };
    match node.value {
        Value::Text(text) => Ok(Some((text, key))),
        Value::Null => Ok(None),
        _ => Err(node.expected(&format!("`{field}` of {what}"), "text")),
    }
}

fn time(node: &Node, what: &str) -> Result<NonZeroU32, ScapError> {
    #[expect(clippy::cast_precision_loss, reason = "what loses a digit is too long")]
    let number = match node.value {
        Value::Int(number) => Some(number as f64),
        Value::Float(number) => Some(number),
        _ => None,
    };
    let millis = number.and_then(seconds).map(|time| time.as_millis());
    let millis = millis.and_then(|millis| NonZeroU32::new(u32::try_from(millis).ok()?));
    let expected = "a number of seconds above 0, at most 30 days of them,";
    millis.ok_or_else(|| node.expected(what, expected))
}

fn command(
    (kind, kind_at): &(String, Key),
    (line, at): (&str, &Key),
    is_shell: bool,
    around: &Around<'_>,
    what: &str,
) -> Result<Command, ScapError> {
    if kind == "nrpe" {
        return Ok(Command::Nrpe(line.trim().into()));
    }
    if !matches!(kind.as_str(), "command" | "script") {
        let problem = format!(
            "`type` of {what} is `{}`; command, nrpe or script was expected",
            shown(kind)
        );
        return Err(ScapError::invalid(&kind_at.at, problem));
    }
    if is_shell && kind == "command" {
        return Ok(Command::Shell(line.into()));
    }
    let invalid = |problem: String| ScapError::invalid(&at.at, problem);
    let mut words =
        words::split(line).map_err(|problem| invalid(format!("`command` of {what}: {problem}")))?;
    if words.is_empty() {
        return Err(invalid(format!(
            "`command` of {what} is empty; what to run was expected"
        )));
    }
    if kind == "command" {
        return Ok(Command::Program(words));
    }
    let script = words.remove(0);
    let path = RelPath::new(script.clone())
        .map_err(|error| invalid(format!("`command` of {what}: {error}")))?;
    match around.scripts.get(script.as_str()) {
        Some(file) if file.is_executable => Ok(Command::Script {
            path,
            arguments: words,
        }),
        Some(_) => Err(invalid(format!(
            "{what}: {SCRIPTS}/{path} is not executable"
        ))),
        None => {
            let hint = did_you_mean(&script, around.scripts.keys().copied());
            Err(invalid(format!(
                "{what}: there is no {SCRIPTS}/{path}{hint}"
            )))
        }
    }
}

fn find_stage(stage: &str, at: &Key, what: &str) -> Result<HostStage, ScapError> {
    // The name that it had before.
    let name = if stage == "restart_service" {
        HostStage::HandleService.name()
    } else {
        stage
    };
    HostStage::ALL
        .into_iter()
        .find(|stage| stage.name() == name)
        .ok_or_else(|| {
            let names = HostStage::ALL.map(HostStage::name).join(", ");
            let problem = format!(
                "`{}` of {what} is no stage; one of {names} was expected",
                shown(stage)
            );
            ScapError::invalid(&at.at, problem)
        })
}
