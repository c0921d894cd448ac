//! What a deployment changes in config files: each as hosts would render it, against what is live.
//!
//! Both sides are rendered here, by the code that hosts run, and nobody is asked. So what only a host knows is not in it, and what
//! is live is what the state branch says here.

use std::{collections::BTreeMap, iter};

use scap_agent::{
    error_chain,
    host::{HostVars, Preview, RenderError},
    unified::unified,
};
use scap_proto::release::host_config::{ConfigFile, Destination};
use serde_json::{Value, json};

use super::asked::{Asked, Live, cannot_render};
use crate::cli::{
    CliError,
    history::recorded_json,
    progress::some,
    unified::{inert, shown},
};

/// The config files of a deployment and of what is live.
pub(super) struct ConfigDiff {
    live: Option<Live>,
    /// Why nothing is known of the config files that are live.
    problem: Option<String>,
    /// In the order of their destinations.
    files: Vec<FileDiff>,
}

/// One file.
#[derive(Debug, PartialEq, Eq)]
struct FileDiff {
    file: String,
    status: Status,
    /// Unified, with the file's names; empty where no line differs, `None` where that is not known.
    diff: Option<String>,
    /// What only hosts know of it.
    host_vars: Option<HostVars>,
    /// What else changes.
    change: Option<String>,
    /// Why it is not known how it differs.
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    New,
    Changed,
    Removed,
    Unchanged,
    /// Whether it differs is not known.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Unchanged => "unchanged",
            Self::Unknown => "unknown",
        }
    }
}

impl ConfigDiff {
    /// Renders both sides.
    ///
    /// # Errors
    /// Where hosts could not render what is deployed.
    pub(super) fn of(new: &Asked, live: Option<Live>) -> Result<Self, CliError> {
        let after = new.rendered().map_err(|error| cannot_render(&error))?;
        let nothing = Asked::default();
        let asked = match &live {
            Some(live) => live.asked.as_ref().map_err(Clone::clone),
            None => Ok(&nothing),
        };
        let before = asked.and_then(|asked| {
            let rendered = asked.rendered().map_err(|error| error_chain(&error))?;
            Ok((rendered, asked.renders_as(new)))
        });
        let (files, problem) = match before {
            Ok((before, renders_same)) => (compare(before, after, renders_same), None),
            Err(problem) => (
                after.into_iter().map(FileDiff::unknown).collect(),
                Some(problem),
            ),
        };
        Ok(Self {
            live,
            problem,
            files,
        })
    }

    /// All of it for people; nothing where no host has or gets a config file.
    pub(super) fn lines(&self) -> Vec<String> {
        if self.files.is_empty() && self.problem.is_none() {
            return Vec::new();
        }
        let mut lines = Vec::new();
        match &self.live {
            None => lines.push("config files: by the state branch here nothing is live".to_owned()),
            Some(Live { release, later, .. }) => {
                let rollout = &release.rollout;
                lines.push(format!(
                    "config files, against #{} {} {}",
                    rollout.sequence,
                    rollout.release.short(),
                    rollout.title()
                ));
                lines.extend(later.as_ref().map(|later| {
                    let (later, outcome) = (later.describe(), later.rollout.outcome.as_str());
                    format!("  {later} came after it and is {outcome}: what it changed on hosts is not in this")
                }));
            }
        }
        lines.extend(self.problem.as_ref().map(|problem| {
            let problem = inert(problem);
            format!("  its config files are not known here, so nothing is compared: {problem}")
        }));
        let (unchanged, others): (Vec<&FileDiff>, _) = self
            .files
            .iter()
            .partition(|file| file.status == Status::Unchanged);
        lines.extend(others.into_iter().flat_map(FileDiff::lines));
        let unchanged: Vec<&str> = unchanged.iter().map(|file| file.file.as_str()).collect();
        if !unchanged.is_empty() {
            lines.push(head(Status::Unchanged.as_str(), &some(&unchanged)));
        }
        lines
    }

    /// The files for programs; each goes to all `hosts`, since a release asks the same of all.
    pub(super) fn files_json(&self, hosts: &[&str]) -> Value {
        let files = self.files.iter().map(|file| {
            let vars = file.host_vars.as_ref();
            json!({
                "file": file.file,
                "hosts": hosts,
                "status": file.status.as_str(),
                "diff": file.diff,
                "host_vars": vars.map(|vars| json!({ "file": vars.file.to_string(), "names": vars.names })),
                "problem": file.problem,
            })
        });
        files.collect()
    }

    /// What it is compared with, for programs.
    pub(super) fn live_json(&self) -> Value {
        let live = self.live.as_ref().map(|live| {
            let mut json = recorded_json(&live.release);
            json["problem"] = json!(self.problem);
            json
        });
        json!(live)
    }
}

/// A file as one of both has it.
type Side<'a> = (&'a ConfigFile, Preview);

/// The files of both; `renders_same` says whether they have the same templates and variables.
fn compare(before: Vec<Side<'_>>, after: Vec<Side<'_>>, renders_same: bool) -> Vec<FileDiff> {
    let mut pairs: BTreeMap<&Destination, [Option<Side<'_>>; 2]> = BTreeMap::new();
    for (at, sides) in [before, after].into_iter().enumerate() {
        for side in sides {
            let file = side.0;
            pairs.entry(&file.destination).or_default()[at] = Some(side);
        }
    }
    let pairs = pairs.into_values();
    pairs
        .map(|pair| FileDiff::of(&pair, renders_same))
        .collect()
}

impl FileDiff {
    fn of([before, after]: &[Option<Side<'_>>; 2], renders_same: bool) -> Self {
        let (file, preview) = after.as_ref().or(before.as_ref()).expect("one has it");
        let name = file.destination.to_string();
        let mut diff = Self {
            status: match (before, after) {
                (None, _) => Status::New,
                (_, None) => Status::Removed,
                _ => Status::Changed,
            },
            diff: None,
            host_vars: preview.host_vars.clone(),
            change: None,
            problem: None,
            file: name,
        };
        let mut is_same_file = false;
        if let (Some((before, _)), Some((after, _))) = (before, after) {
            is_same_file = renders_same && before == after;
            diff.change = moved_vars(before, after);
        }
        match (text(before), text(after)) {
            (Ok(before), Ok(after)) => {
                let there = [Status::New, Status::Removed].map(|missing| diff.status != missing);
                diff.diff = Some(named(&diff.file, there, unified(before, after)));
            }
            _ if is_same_file => diff.diff = Some(String::new()),
            (_, Err(error)) | (Err(error), _) => diff.problem = Some(error_chain(error)),
        }
        if diff.status == Status::Changed {
            diff.status = match (&diff.diff, &diff.change) {
                (None, _) => Status::Unknown,
                (Some(text), None) if text.is_empty() => Status::Unchanged,
                _ => Status::Changed,
            };
        }
        diff
    }

    /// Of a file that is rendered, and nothing is known of what is live.
    fn unknown((file, preview): Side<'_>) -> Self {
        Self {
            file: file.destination.to_string(),
            status: Status::Unknown,
            diff: None,
            host_vars: preview.host_vars,
            change: None,
            problem: preview.text.err().map(|error| error_chain(&error)),
        }
    }

    fn lines(&self) -> Vec<String> {
        let vars = self.host_vars.iter().flat_map(vars_lines);
        let problem = self.problem.as_ref();
        let problem = problem.map(|it| format!("not shown, since only hosts can render it: {it}"));
        let notes = vars.chain(self.change.clone()).chain(problem);
        let notes = notes.map(|note| format!("  {}", inert(&note)));
        let diff = shown(self.diff.as_deref().unwrap_or_default());
        iter::once(head(self.status.as_str(), &self.file))
            .chain(notes)
            .chain(diff)
            .collect()
    }
}

/// The text of a file; none where it is not there.
fn text<'a>(side: &'a Option<Side<'_>>) -> Result<&'a str, &'a RenderError> {
    match side {
        Some((_, preview)) => preview.text.as_deref(),
        None => Ok(""),
    }
}

/// The line above what is said of a file.
pub(super) fn head(status: &str, files: &str) -> String {
    format!("{status:<9}  {files}")
}

/// A difference with the file's names above it, where there is one: those of before and after, as far as it is there.
pub(super) fn named(file: &str, there: [bool; 2], diff: String) -> String {
    if diff.is_empty() {
        return diff;
    }
    let [before, after] = there.map(|is_there| if is_there { file } else { "/dev/null" });
    format!("--- {before}\n+++ {after}\n{diff}")
}

/// What is said where a file's variables are read from elsewhere.
fn moved_vars(before: &ConfigFile, after: &ConfigFile) -> Option<String> {
    let place = |file: &ConfigFile| match &file.remote_vars {
        Some(path) => path.to_string(),
        None => "no file of the host".to_owned(),
    };
    (before.remote_vars != after.remote_vars).then(|| {
        let (before, after) = (place(before), place(after));
        format!("its variables come from {after}, and so far from {before}")
    })
}

/// What hosts know of a file, and what comes of it.
fn vars_lines(vars: &HostVars) -> Vec<String> {
    let file = &vars.file;
    let names: Vec<String> = vars.names.iter().map(|name| format!("⟦{name}⟧")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wins = format!("what a host has in {file} wins over the variables here");
    if names.is_empty() {
        return vec![wins];
    }
    vec![
        format!("each host fills in {} from its {file}", some(&names)),
        "where the template decides by these, a host may have other lines".to_owned(),
        wins,
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::{
        content::RelPath,
        release::host_config::{HostPath, OutputFormat},
    };

    use super::*;

    fn file(name: &str, remote_vars: Option<&str>) -> ConfigFile {
        ConfigFile {
            destination: Destination::InRelease(RelPath::new(name.to_owned()).unwrap()),
            template: RelPath::new("t").unwrap(),
            remote_vars: remote_vars.map(|path| HostPath::new(path).unwrap()),
            format: OutputFormat::Python,
            has_erb_syntax: false,
        }
    }

    /// A file with its text; without one it cannot be rendered here.
    fn side<'a>(file: &'a ConfigFile, text: Option<&str>) -> Side<'a> {
        let names = ["db".to_owned()].into();
        let vars = file.remote_vars.clone();
        let preview = Preview {
            text: text.map(str::to_owned).ok_or(RenderError::Template {
                destination: "a".into(),
                template: "t".into(),
                line: 7,
                problem: "not iterable".into(),
            }),
            host_vars: vars.map(|file| HostVars { file, names }),
        };
        (file, preview)
    }

    /// How one file differs, and its lines.
    fn one(before: Side<'_>, after: Side<'_>, renders_same: bool) -> (Status, String) {
        let files = compare(vec![before], vec![after], renders_same);
        let [file] = files.as_slice() else {
            panic!("one file: {files:?}");
        };
        (file.status, file.lines().join("\n"))
    }

    #[test]
    fn a_file_whose_variables_come_from_elsewhere_is_changed_though_its_text_is_not() {
        let (none, a, b) = (
            file("c", None),
            file("c", Some("/etc/a")),
            file("c", Some("/etc/b")),
        );
        let (status, lines) = one(side(&a, Some("x")), side(&b, Some("x")), false);
        assert_eq!(status, Status::Changed);
        assert!(
            lines.ends_with("\n  its variables come from /etc/b, and so far from /etc/a"),
            "{lines}"
        );
        let (_, lines) = one(side(&a, Some("x")), side(&none, Some("x")), false);
        assert!(
            lines.ends_with("come from no file of the host, and so far from /etc/a"),
            "{lines}"
        );
        let (status, _) = one(side(&a, Some("x")), side(&a, Some("x")), false);
        assert_eq!(status, Status::Unchanged);
    }

    #[test]
    fn what_cannot_be_rendered_here_is_unchanged_only_where_all_that_makes_it_is() {
        let (a, b) = (file("c", Some("/etc/a")), file("c", Some("/etc/b")));
        let (status, _) = one(side(&a, None), side(&a, None), true);
        assert_eq!(status, Status::Unchanged);
        for (after, renders_same) in [
            (side(&a, None), false),
            (side(&b, None), true),
            (side(&a, Some("x")), false),
        ] {
            let (status, lines) = one(side(&a, None), after, renders_same);
            assert_eq!(status, Status::Unknown);
            assert!(
                lines.contains("only hosts can render it: render a: templates/t:7: not iterable"),
                "{lines}"
            );
        }
    }

    #[test]
    fn files_are_in_the_order_of_their_destinations_whichever_has_them() {
        let all = ["a", "b", "c"].map(|name| file(name, None));
        let before = vec![side(&all[0], Some("x")), side(&all[2], Some("x"))];
        let after = vec![side(&all[1], Some("x")), side(&all[2], Some("y"))];
        let files = compare(before, after, false);
        let found: Vec<_> = files
            .iter()
            .map(|it| (it.file.as_str(), it.status))
            .collect();
        let (removed, new, changed) = (Status::Removed, Status::New, Status::Changed);
        assert_eq!(found, [("a", removed), ("b", new), ("c", changed)]);
        // Not one that is empty on both sides.
        let empty = compare(vec![], vec![side(&all[0], Some(""))], false);
        assert_eq!((empty[0].status, empty[0].diff.as_deref()), (new, Some("")));
    }
}
