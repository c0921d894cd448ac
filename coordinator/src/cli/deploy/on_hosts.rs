//! What config files would change on each host, as the hosts themselves say: rendered with their own variables, against what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_agent::{clock, error_chain};
use scap_proto::{
    id::NodeId,
    release::{ConfigQuestion, SignedConfigQuestion, UnixMillis},
    wire::config::{Attributes, ConfigAnswer, ConfigChanges, FileChange, FileStatus},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{asked::Asked, config_diff};
use crate::{
    cli::{
        About, CliError, exit,
        progress::some,
        unified::{inert, shown},
    },
    fleet::{
        Host,
        ask::{Answered, AskError, ask_all},
    },
    state::StateDirectory,
};

/// How long a question may be asked, in milliseconds: of a fleet many of whose hosts are down.
const QUESTION_MILLIS: u64 = 30 * 60 * 1000;

/// Most bytes of different answers that are kept: hosts that say the same are kept once, and this is a hundred of the longest
/// answers.
const ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most answers that wait to be looked at.
const ANSWERS_MAX: usize = 32;

/// Who asks, and as whom.
pub(super) struct Asker<'a> {
    pub(super) state: &'a StateDirectory,
    pub(super) sign_with: Option<&'a std::path::Path>,
    /// How long a host may take to be reached.
    pub(super) reach_max: Duration,
}

/// What all hosts said.
#[derive(Default)]
pub(super) struct OnHosts {
    /// Who says the same.
    changes: BTreeMap<ConfigChanges, BTreeSet<NodeId>>,
    bytes: usize,
    /// Who says nothing of its files, and why.
    untold: BTreeMap<NodeId, Untold>,
}

/// Why it is not known what would change on a host.
struct Untold {
    /// In short, for programs.
    kind: &'static str,
    reason: String,
}

impl Asker<'_> {
    /// Signs what the deployment asks for these hosts, and asks them.
    ///
    /// # Errors
    /// Where nobody can be asked. A host that does not answer is none.
    pub(super) async fn ask(
        &self,
        (repo, environment): &About,
        hosts: &[Host],
        asked: &Asked,
    ) -> Result<OnHosts, CliError> {
        let failed = |doing: &str, error: &(dyn std::error::Error + 'static)| {
            CliError::failed(&format!("ask hosts: {doing}"), error)
        };
        let identity = self.state.identity();
        let identity =
            identity.map_err(|error| failed("read this coordinator's identity", &error))?;
        let mut names: Vec<NodeId> = hosts.iter().map(|host| host.name.clone()).collect();
        names.sort();
        let (files, vars, templates) = asked.to_render();
        let question = ConfigQuestion {
            repo: repo.clone(),
            environment: environment.clone(),
            audience: Default::default(),
            asker: *identity.public_key(),
            hosts: names,
            expires: UnixMillis(clock::now().0 + QUESTION_MILLIS),
            files,
            vars,
            templates,
            extensions: Default::default(),
        };
        let signer = self.state.signer(self.sign_with);
        let signer = signer.map_err(|error| failed("find the key", &error).hint(error.hint()))?;
        let signing = move || SignedConfigQuestion::sign(&question, &signer);
        // A token may wait for a touch.
        let signed = tokio::task::spawn_blocking(signing)
            .await
            .expect("signing does not panic")
            .map_err(|error| failed("sign the question", &error))?;
        let (out, mut answers) = mpsc::channel(ANSWERS_MAX);
        let asking = ask_all(identity, hosts, signed, self.reach_max, out);
        let mut said = OnHosts::default();
        let hearing = async {
            while let Some(answered) = answers.recv().await {
                said.hear(answered);
            }
        };
        let (asked, ()) = tokio::join!(asking, hearing);
        asked.map_err(|error| failed("open a socket", &error))?;
        Ok(said)
    }
}

impl OnHosts {
    fn hear(&mut self, Answered { host, answer }: Answered) {
        let untold = match answer {
            Ok((ConfigAnswer::Changes(changes), bytes)) => {
                if let Some(hosts) = self.changes.get_mut(&changes) {
                    hosts.insert(host);
                    return;
                }
                if self.bytes + bytes <= ANSWERS_BYTES_MAX {
                    self.bytes += bytes;
                    self.changes.insert(changes, [host].into());
                    return;
                }
                let reason = "hosts say more different things than there is room for";
                Untold::new("too-much", reason.to_owned())
            }
            Ok((ConfigAnswer::Refused(reason), _)) => {
                Untold::new("refused", format!("it refuses: {reason}"))
            }
            Ok((ConfigAnswer::Busy, _)) => {
                Untold::new("busy", "it answers somebody else now".to_owned())
            }
            Ok((ConfigAnswer::Failed(reason), _)) => Untold::new("failed", reason),
            Err(error) => {
                let kind = match &error {
                    AskError::Behind(_) => "behind-relays",
                    AskError::Older => "older-build",
                    AskError::Resolve(_) | AskError::Dial(_) | AskError::NotReached(_) => {
                        "unreachable"
                    }
                    _ => "no-answer",
                };
                Untold::new(kind, error_chain(&error))
            }
        };
        self.untold.insert(host, untold);
    }

    /// [`exit::FAILED`] where a host did not say what would change, or a file cannot be rendered on one.
    pub(super) fn code(&self) -> u8 {
        let files = self.changes.keys().flat_map(|changes| &changes.files);
        let mut broken = files.filter(|file| file.status == FileStatus::Error);
        match self.untold.is_empty() && broken.next().is_none() {
            true => exit::DONE,
            false => exit::FAILED,
        }
    }

    /// Who says the same, the first by name first.
    fn groups(&self) -> Vec<(&ConfigChanges, &BTreeSet<NodeId>)> {
        let mut groups: Vec<_> = self.changes.iter().collect();
        groups.sort_by_key(|(_, hosts)| hosts.first());
        groups
    }

    /// All of it for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (changes, hosts) in self.groups() {
            lines.push(title(changes, hosts));
            lines.extend(changes_lines(changes));
        }
        for (host, untold) in &self.untold {
            lines.push(format!("{host}: not told: {}", inert(&untold.reason)));
        }
        let told: usize = self.changes.values().map(BTreeSet::len).sum();
        let all = told + self.untold.len();
        lines.push(format!(
            "{told} of {all} hosts told what would change there, and did nothing about it; nothing was written"
        ));
        lines
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let groups = self.groups().into_iter().map(|(changes, hosts)| {
            let live = changes
                .live
                .map(|(release, sequence)| json!({ "release": release.to_string(), "sequence": sequence }));
            let files: Vec<Value> = changes.files.iter().map(file_json).collect();
            json!({
                "hosts": hosts,
                "live": live,
                "files": files,
                "files_left_out": changes.files_left_out,
            })
        });
        let untold = self.untold.iter();
        let untold = untold.map(
            |(host, untold)| json!({ "host": host, "problem": untold.kind, "reason": untold.reason }),
        );
        json!({
            "groups": groups.collect::<Vec<_>>(),
            "untold": untold.collect::<Vec<_>>(),
        })
    }
}

impl Untold {
    fn new(kind: &'static str, reason: String) -> Self {
        Self { kind, reason }
    }
}

/// Of whom the lines after it are.
fn title(changes: &ConfigChanges, hosts: &BTreeSet<NodeId>) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
    let who = match names.as_slice() {
        [one] => format!("host {one}"),
        all => format!("{} hosts: {}", all.len(), some(all)),
    };
    match changes.live {
        Some((release, sequence)) => {
            format!("{who}, where #{sequence} {} is live", release.short())
        }
        None => format!("{who}, where nothing is live"),
    }
}

fn changes_lines(changes: &ConfigChanges) -> Vec<String> {
    let is_unchanged = |file: &&FileChange| file.status == FileStatus::Unchanged;
    let (unchanged, others): (Vec<&FileChange>, _) = changes.files.iter().partition(is_unchanged);
    let mut lines: Vec<String> = others.into_iter().flat_map(file_lines).collect();
    let unchanged: Vec<String> = unchanged
        .iter()
        .map(|file| file.destination.to_string())
        .collect();
    let unchanged: Vec<&str> = unchanged.iter().map(String::as_str).collect();
    if !unchanged.is_empty() {
        lines.push(config_diff::head("unchanged", &some(&unchanged)));
    }
    if changes.files_left_out > 0 {
        lines.push(format!(
            "  … {} more files, for which an answer has no room",
            changes.files_left_out
        ));
    }
    if lines.is_empty() {
        lines.push("  no config files".to_owned());
    }
    lines
}

fn file_lines(file: &FileChange) -> Vec<String> {
    let name = file.destination.to_string();
    let mut lines = vec![config_diff::head(status(file.status), &name)];
    if let Some((before, after)) = &file.attributes {
        lines.push(format!(
            "  {}, and so far {}",
            attributes(after),
            attributes(before)
        ));
    }
    lines.extend(file.note.iter().map(|note| format!("  {}", inert(note))));
    lines.extend(shown(&diff(file).unwrap_or_default()));
    if file.diff_lines_left_out > 0 {
        lines.push(format!(
            "… {} more lines, which the host left out",
            file.diff_lines_left_out
        ));
    }
    lines
}

fn file_json(file: &FileChange) -> Value {
    let attributes = file.attributes.as_ref();
    let one = |it: &Attributes| json!({ "mode": format!("{:04o}", it.mode), "uid": it.uid, "gid": it.gid });
    json!({
        "file": file.destination.to_string(),
        "status": status(file.status),
        "diff": diff(file),
        "diff_lines_left_out": file.diff_lines_left_out,
        "attributes": attributes.map(|(before, after)| json!({ "before": one(before), "after": one(after) })),
        "note": file.note,
    })
}

/// With the file's names above it, where there is a difference.
fn diff(file: &FileChange) -> Option<String> {
    let name = file.destination.to_string();
    let there = [FileStatus::New, FileStatus::Removed].map(|missing| file.status != missing);
    let diff = file.diff.clone()?;
    Some(config_diff::named(&name, there, diff))
}

fn status(status: FileStatus) -> &'static str {
    match status {
        FileStatus::New => "new",
        FileStatus::Changed => "changed",
        FileStatus::Removed => "removed",
        FileStatus::Unchanged => "unchanged",
        FileStatus::Error => "error",
    }
}

fn attributes(of: &Attributes) -> String {
    format!("mode {:04o}, owner {}:{}", of.mode, of.uid, of.gid)
}
