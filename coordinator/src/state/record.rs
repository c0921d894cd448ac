//! What the state branch says about one repo in one environment: values to JSON and back, and the words of its commits.
//!
//! `docs/state-branch.md` is the format for others. Versions are in `schema`: a later number is refused by name, and
//! what an older version does not know of its own number is left out of what it writes.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use scap_proto::{
    content::SnapshotRef,
    id::{GitOid, NodeId, ReleaseId, SnapshotId},
    reason::{Because, Reason},
    release::{Environment, RepoPath},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::lock::Holder;

/// A kind of document of the branch.
pub trait Document: Serialize + DeserializeOwned {
    /// Its `schema` but for the number of the version.
    const KIND: &'static str;
    /// The version that this program writes, and the latest that it reads.
    const VERSION: u32 = 1;

    /// As the file that goes into the branch.
    fn to_json(&self) -> Vec<u8> {
        let value = Schemed {
            schema: format!("{}/{}", Self::KIND, Self::VERSION),
            value: self,
        };
        let mut json = serde_json::to_vec_pretty(&value).expect("it has text for keys");
        json.push(b'\n');
        json
    }

    /// Reads a file of the branch.
    ///
    /// # Errors
    /// [`DocumentError`].
    fn from_json(json: &[u8]) -> Result<Self, DocumentError> {
        let Schema { schema } = serde_json::from_slice(json)?;
        let version = schema
            .strip_prefix(Self::KIND)
            .and_then(|rest| rest.strip_prefix('/')?.parse::<u32>().ok());
        match version {
            Some(version) if version > Self::VERSION => Err(DocumentError::Newer {
                found: schema.escape_debug().to_string(),
                known: format!("{}/{}", Self::KIND, Self::VERSION),
            }),
            Some(1..) => Ok(serde_json::from_slice(json)?),
            _ => Err(DocumentError::Kind {
                found: schema.escape_debug().take(64).collect(),
                expected: Self::KIND,
            }),
        }
    }
}

/// Why a file of the branch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not with these fields.
    #[error("malformed JSON")]
    Malformed(#[from] serde_json::Error),
    /// Something else.
    #[error("a `{found}` where a {expected} belongs")]
    Kind {
        /// What it says to be, escaped.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Of a later version.
    #[error("a `{found}`, and this program knows {known}")]
    Newer {
        /// What it is, escaped.
        found: String,
        /// The latest that is known.
        known: String,
    },
}

#[derive(Serialize)]
struct Schemed<'a, T> {
    schema: String,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
}

/// What one environment is on of one repo, and its latest rollout: `record.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The repo.
    pub repo: RepoPath,
    /// The environment.
    pub environment: Environment,
    /// The latest rollout, whatever came of it.
    pub latest: Option<Rollout>,
    /// The latest rollout that was finalized: what the environment is on.
    pub stable: Option<Rollout>,
    /// The last lock that somebody broke.
    #[serde(default)]
    pub broken_lock: Option<BrokenLock>,
}

impl Document for Record {
    const KIND: &'static str = "scap.record";
}

impl Record {
    /// Nothing was released yet.
    pub fn new(repo: RepoPath, environment: Environment) -> Self {
        Self {
            repo,
            environment,
            latest: None,
            stable: None,
            broken_lock: None,
        }
    }
}

/// One release's way through a fleet. Gone on with after an interruption, it is the same again, begun anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The release.
    #[serde(with = "text")]
    pub release: ReleaseId,
    /// Its place in the order of this repo and environment.
    pub sequence: u64,
    /// The tree.
    #[serde(with = "text")]
    pub snapshot: SnapshotId,
    /// The length of the snapshot's descriptor in bytes.
    pub descriptor_length: u32,
    /// The commit; a directory has none.
    #[serde(with = "text::option")]
    pub commit: Option<GitOid>,
    /// The commit's subject. Not escaped.
    pub subject: Option<String>,
    /// Which run of the coordinator it is: the id in the lock.
    pub rollout: String,
    /// Who deployed: `user@host`. Not escaped.
    pub by: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; `None` while it runs, and where the coordinator died.
    pub ended: Option<Timestamp>,
    /// What came of it.
    pub outcome: Outcome,
    /// The waves that are over, in order.
    pub waves: Vec<WaveEnd>,
    /// Whether it was recorded without asking the upstream who else deploys.
    #[serde(rename = "offline")]
    pub is_offline: bool,
    /// The sequence of the release that it goes back to.
    pub rolls_back_to: Option<u64>,
    /// The code of why it ended so, or of why its hosts go back.
    #[serde(default)]
    pub code: Option<Reason>,
    /// Why its hosts go back to what they ran, from when they do. Not escaped.
    #[serde(default)]
    pub going_back: Option<String>,
    /// Whether it was finalized for some hosts alone.
    #[serde(default, rename = "limited")]
    pub is_limited: bool,
    /// What was said of how it goes. Whoever goes on with it keeps to that.
    #[serde(default)]
    pub flags: Flags,
}

/// Flags of `deploy`, by their long names: what each was given, in order. Not escaped.
pub type Flags = BTreeMap<String, Vec<String>>;

impl Rollout {
    /// The snapshot with the length of its descriptor.
    pub fn snapshot_ref(&self) -> SnapshotRef {
        SnapshotRef {
            id: self.snapshot,
            descriptor_length: self.descriptor_length,
        }
    }

    /// What people know it by, on one line and inert on a terminal: the commit's start and subject, or the snapshot's.
    pub fn title(&self) -> String {
        match (&self.commit, &self.subject) {
            (Some(commit), Some(subject)) => {
                let subject: String = subject.chars().take(60).collect();
                format!("{:.10} \"{}\"", commit.to_string(), subject.escape_debug())
            }
            (Some(commit), None) => format!("{:.10}", commit.to_string()),
            _ => format!("directory {:.10}", self.snapshot.to_string()),
        }
    }
}

/// What came of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It runs, or its coordinator died.
    Running,
    /// Every host has it live.
    Done,
    /// It went through, and some hosts did not get there.
    Incomplete,
    /// It went through and is stable, and some hosts, no more than may be lost, did not get there.
    Partial,
    /// No host has it live.
    Failed,
    /// A gate did not open.
    Stopped,
    /// Somebody stopped the coordinator.
    Interrupted,
    /// Hosts went back to what they ran before.
    RolledBack,
    /// Hosts were to go back, and of some it is not known that they did.
    RollbackIncomplete,
}

impl Outcome {
    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Incomplete => "incomplete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::RolledBack => "rolled-back",
            Self::RollbackIncomplete => "rollback-incomplete",
        }
    }
}

/// The end of a wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveEnd {
    /// The wave's name. Not escaped.
    pub name: String,
    /// When.
    pub ended: Timestamp,
}

/// A lock that somebody broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenLock {
    /// Whose it was. Not escaped.
    pub holder: String,
    /// Of which run.
    pub rollout: String,
    /// Who broke it. Not escaped.
    pub by: String,
    /// Why. Not escaped.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl BrokenLock {
    pub(super) fn new(broken: Holder, by: &Holder, reason: &str, at: Timestamp) -> Self {
        Self {
            holder: broken.name,
            rollout: broken.rollout,
            by: by.name.clone(),
            reason: reason.into(),
            at,
        }
    }
}

/// What became of each host in the latest rollout: `hosts.json`, grouped, so that it is short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// Each outcome that there is, in order.
    pub groups: Vec<HostGroup>,
}

impl Document for Hosts {
    const KIND: &'static str = "scap.hosts";
}

/// Hosts that ended in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGroup {
    /// How: `promoted`, `failed`, … as `deploy --json` says it.
    pub outcome: String,
    /// Why; empty for nothing. Not escaped.
    pub reason: String,
    /// The code of that; none for nothing, for several, and in what earlier builds wrote.
    #[serde(default)]
    pub code: Option<Reason>,
    /// Who, sorted.
    pub hosts: Vec<NodeId>,
}

impl Hosts {
    /// How much of a reason is kept, in characters: hosts word them, and the whole is in their reports.
    pub const REASON_CHARS_MAX: usize = 200;
    /// How many reasons of one outcome are told apart: more is noise, and the file is read with each change.
    pub const REASONS_MAX: usize = 50;
    /// What is said of hosts whose reason is beyond these.
    pub const OTHER_REASONS: &'static str = "other reasons";

    /// Groups hosts by outcome and reason.
    pub fn group<'a>(
        hosts: impl Iterator<Item = (&'a NodeId, &'a str, Option<&'a Because>)>,
    ) -> Self {
        let mut groups = BTreeMap::<(&str, String, Option<Reason>), Vec<NodeId>>::new();
        let mut reasons = BTreeMap::<&str, usize>::new();
        for (host, outcome, reason) in hosts {
            let code = reason.map(|because| because.code);
            let reason = reason.iter().flat_map(|because| because.text.chars());
            let reason: String = reason.take(Self::REASON_CHARS_MAX).collect();
            let mut key = (outcome, reason, code);
            if !groups.contains_key(&key) {
                let count = reasons.entry(outcome).or_default();
                match *count < Self::REASONS_MAX {
                    true => *count += 1,
                    false => key = (outcome, Self::OTHER_REASONS.to_owned(), None),
                }
            }
            groups.entry(key).or_default().push(host.clone());
        }
        let group = |((outcome, reason, code), mut hosts): ((&str, _, _), Vec<NodeId>)| {
            hosts.sort();
            HostGroup {
                outcome: outcome.into(),
                reason,
                code,
                hosts,
            }
        };
        Self {
            groups: groups.into_iter().map(group).collect(),
        }
    }

    /// How many hosts ended so.
    pub fn count(&self, outcome: &str) -> usize {
        let groups = self.groups.iter().filter(|group| group.outcome == outcome);
        groups.map(|group| group.hosts.len()).sum()
    }
}

/// A commit of the branch, in words: what happened, what it is about, and trailers for programs.
#[derive(Debug)]
pub struct Message<'a> {
    /// What happened, in a few words.
    pub what: &'a str,
    /// Why, in the words of whoever did it; may be empty.
    pub body: &'a str,
    /// Who did it.
    pub by: &'a Holder,
    /// The record as it is now.
    pub record: &'a Record,
    /// Whether it is about the latest rollout.
    pub is_of_latest: bool,
}

impl Message<'_> {
    /// As git gets it.
    pub fn text(&self) -> String {
        let Record {
            repo,
            environment,
            latest,
            ..
        } = self.record;
        let mut text = format!("{environment} {repo}: {}\n\n", one_line(self.what));
        let body = one_line(self.body);
        if !body.is_empty() {
            let _ = writeln!(text, "{body}\n");
        }
        let mut trailer = |name: &str, value: &str| {
            let _ = writeln!(text, "Scap-{name}: {}", one_line(value));
        };
        trailer("Environment", environment.as_str());
        trailer("Repo", repo.as_str());
        trailer("By", &self.by.name);
        trailer("Rollout", &self.by.rollout);
        if let Some(latest) = latest.as_ref().filter(|_| self.is_of_latest) {
            trailer("Release", &latest.release.to_string());
            trailer("Sequence", &latest.sequence.to_string());
            trailer("Snapshot", &latest.snapshot.to_string());
            if let Some(commit) = &latest.commit {
                trailer("Commit", &commit.to_string());
            }
            if let Some(sequence) = latest.rolls_back_to {
                trailer("Rolls-Back-To", &sequence.to_string());
            }
            trailer("Outcome", latest.outcome.as_str());
            if latest.is_offline {
                trailer("Offline", "true");
            }
        }
        text
    }
}

/// Text on one line, without what a terminal would act on.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

/// Ids as the text that people know.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'a, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'a>,
    {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }

    pub(super) mod option {
        use super::{Deserialize, Deserializer, Display, Error, FromStr, Serializer};

        pub(in super::super) fn serialize<T: Display, S: Serializer>(
            id: &Option<T>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match id {
                Some(id) => to.collect_str(id),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'a, T, D>(from: D) -> Result<Option<T>, D::Error>
        where
            T: FromStr<Err: Display>,
            D: Deserializer<'a>,
        {
            let text = Option::<String>::deserialize(from)?;
            let parse = |text: String| text.parse().map_err(D::Error::custom);
            text.map(parse).transpose()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;

    pub(crate) fn rollout(sequence: u64) -> Rollout {
        Rollout {
            release: ReleaseId::of(&sequence.to_be_bytes()),
            sequence,
            snapshot: SnapshotId::of(&sequence.to_be_bytes()),
            descriptor_length: 100,
            commit: Some(vec![7; 20].try_into().unwrap()),
            subject: Some("Raise\u{1b}[31m \"limit\"".into()),
            rollout: "r-1".into(),
            by: "alice@deploy1".into(),
            started: Timestamp::from_second(1_700_000_000).unwrap(),
            ended: None,
            outcome: Outcome::Running,
            waves: Vec::new(),
            is_offline: false,
            rolls_back_to: None,
            code: None,
            going_back: None,
            is_limited: false,
            flags: Flags::from([("soak".to_owned(), vec!["600".to_owned()])]),
        }
    }

    pub(crate) fn record() -> Record {
        let mut record = Record::new("mw/config".parse().unwrap(), Environment::default());
        record.latest = Some(rollout(2));
        record.stable = Some(rollout(1));
        record
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut record = record();
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
        record.latest.as_mut().unwrap().commit = None;
        record.stable = None;
        record.broken_lock = Some(BrokenLock {
            holder: "bob@x".into(),
            rollout: "r-2".into(),
            by: "alice@y".into(),
            reason: "gone".into(),
            at: Timestamp::from_second(1_700_000_001).unwrap(),
        });
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn what_a_later_program_added_is_passed_over_and_a_later_version_is_refused_by_name() {
        let json = String::from_utf8(record().to_json()).unwrap();
        let more = json.replacen('{', "{\"mood\": [1, 2],", 1);
        assert_eq!(Record::from_json(more.as_bytes()).unwrap(), record());
        // What an earlier one did not know of is not missed.
        let mut earlier: serde_json::Value = serde_json::from_str(&json).unwrap();
        let latest = earlier["latest"].as_object_mut().unwrap();
        assert!(latest.remove("flags").is_some());
        let read = Record::from_json(earlier.to_string().as_bytes()).unwrap();
        assert_eq!(read.latest.unwrap().flags, Flags::new());
        let later = json.replacen("scap.record/1", "scap.record/2", 1);
        let error = Record::from_json(later.as_bytes()).unwrap_err();
        assert!(matches!(&error, DocumentError::Newer { found, .. } if found == "scap.record/2"));
        for other in [
            "scap.record/0",
            "scap.record/",
            "scap.hosts/1",
            "scap.record/1x",
        ] {
            let other = json.replacen("scap.record/1", other, 1);
            let error = Record::from_json(other.as_bytes()).unwrap_err();
            assert!(matches!(error, DocumentError::Kind { .. }), "{error:?}");
        }
    }

    #[test]
    fn no_damage_to_a_record_panics_or_goes_unnoticed_where_it_breaks_a_field() {
        let json = record().to_json();
        for end in 0..json.len() - 2 {
            assert!(Record::from_json(&json[..end]).is_err(), "cut at {end}");
        }
        let text = String::from_utf8(json).unwrap();
        for (from, to) in [
            ("\"sequence\": 2", "\"sequence\": -2"),
            ("running", "walking"),
            ("mw/config", "../config"),
            ("2023-", "yesterday"),
        ] {
            assert!(
                Record::from_json(text.replacen(from, to, 1).as_bytes()).is_err(),
                "{to}"
            );
        }
    }

    #[test]
    fn an_outcome_has_one_word_for_people_and_programs() {
        for outcome in [
            Outcome::Running,
            Outcome::Done,
            Outcome::Incomplete,
            Outcome::Partial,
            Outcome::Failed,
            Outcome::Stopped,
            Outcome::Interrupted,
            Outcome::RolledBack,
            Outcome::RollbackIncomplete,
        ] {
            let json = serde_json::to_value(outcome).unwrap();
            assert_eq!(json, outcome.as_str());
        }
    }

    #[test]
    fn hosts_are_grouped_by_what_became_of_them_and_why() {
        let names: Vec<NodeId> = ["c", "a", "b"].map(|name| name.parse().unwrap()).into();
        let full = Reason::DiskFull.because("no room");
        let hosts = Hosts::group(
            [
                (&names[0], "failed", Some(&full)),
                (&names[1], "failed", Some(&full)),
                (&names[2], "promoted", None),
            ]
            .into_iter(),
        );
        assert_eq!(hosts.groups.len(), 2);
        assert_eq!(hosts.groups[0].hosts, [names[1].clone(), names[0].clone()]);
        assert_eq!(hosts.groups[0].code, Some(Reason::DiskFull));
        assert_eq!((hosts.count("failed"), hosts.count("promoted")), (2, 1));
        assert_eq!(Hosts::from_json(&hosts.to_json()).unwrap(), hosts);
        // What an earlier build wrote has no code, and one that a later build wrote is kept.
        let json = String::from_utf8(hosts.to_json()).unwrap();
        let earlier = json.replacen("\"code\": \"disk-full\",", "", 1);
        let read = Hosts::from_json(earlier.as_bytes()).unwrap();
        assert_eq!(read.groups[0].code, None);
        let later = json.replacen("disk-full", "moon-phase", 1);
        let read = Hosts::from_json(later.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(read.to_json()).unwrap(), later);
    }

    #[test]
    fn a_message_cannot_be_given_trailers_by_what_people_write() {
        let holder = Holder {
            name: "al\nice@x".into(),
            rollout: "r-1".into(),
        };
        let record = record();
        let message = Message {
            what: "lock\nbroken",
            body: "because\n\nScap-Sequence: 99\n\x1b[31m",
            by: &holder,
            record: &record,
            is_of_latest: true,
        };
        let text = message.text();
        assert!(
            text.starts_with("production mw/config: lock broken\n\n"),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
        let sequences = text
            .lines()
            .filter(|line| line.starts_with("Scap-Sequence:"));
        assert_eq!(sequences.collect::<Vec<_>>(), ["Scap-Sequence: 2"]);
    }
}
