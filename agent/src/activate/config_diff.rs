//! What the config files of a release would change on this host: rendered in memory as for a release, and compared with what is there.
//! Nothing is written and nothing is run.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use scap_proto::{
    limits::FRAME_BYTES_MAX,
    release::{ConfigQuestion, host_config::Destination, report::bounded_reason},
    wire::config::{Attributes, ConfigAnswer, ConfigChanges, FileChange, FileStatus},
};

use super::{
    ActivateError,
    present::{Present, Seen, SeenFile},
};
use crate::{
    error_chain,
    host::{RenderError, render_each},
    unified::unified,
};

/// How long all files of a question may be rendered: one takes a second at most, and most a millisecond. Whoever asks waits for so much and
/// as much again.
const RENDER_MAX: Duration = Duration::from_secs(4);
/// How long after the start of rendering lines are still compared.
const COMPARE_MAX: Duration = Duration::from_secs(6);

/// Longest texts that are compared line by line, in bytes: configuration is kilobytes, and comparing takes some 100 bytes of
/// memory for a line.
const COMPARED_BYTES_MAX: usize = 512 * 1024;
/// Most bytes of one file's diff in an answer: more than a thousand lines. Nobody reads more.
const DIFF_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of all diffs, names and notes in an answer: it is one frame, and a coordinator hears many hosts.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
const _: () = assert!(2 * ANSWER_BYTES_MAX <= FRAME_BYTES_MAX as usize);
/// What a file takes in an answer beside its texts, in bytes: at most so much.
const FILE_BYTES: usize = 64;

/// The answer to a question that was verified.
pub(super) fn answer(deploy_root: &Path, question: ConfigQuestion) -> ConfigAnswer {
    match changes(deploy_root, question) {
        Ok(answer) => answer,
        Err(error) => ConfigAnswer::Failed(bounded_reason(error_chain(&error))),
    }
}

fn changes(deploy_root: &Path, question: ConfigQuestion) -> Result<ConfigAnswer, ActivateError> {
    let started = Instant::now();
    let present = Present::open(deploy_root, &question.repo)?;
    if let Some(deployed) = present.environment()?
        && deployed != question.environment
    {
        return Ok(ConfigAnswer::Refused(format!(
            "{} is deployed here for environment {deployed}, not {}",
            question.repo, question.environment
        )));
    }
    let templates = Arc::new(question.templates);
    let until = started + RENDER_MAX;
    let rendered = match render_each(&question.files, &question.vars, templates, until) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(ConfigAnswer::Failed(bounded_reason(error_chain(&error)))),
    };
    let files = question.files.into_iter().map(|file| file.destination);
    let mut wanted: BTreeMap<Destination, Option<Wanted>> = files
        .zip(rendered)
        .map(|(destination, rendered)| (destination, Some(rendered.map(|it| it.bytes))))
        .collect();
    for destination in present.rendered() {
        wanted.entry(destination).or_default();
    }
    let mut answer = Answer::of(&present, started + COMPARE_MAX);
    for (destination, wanted) in wanted {
        answer.add(&present, destination, wanted);
    }
    match present.is_still()? {
        true => Ok(ConfigAnswer::Changes(answer.changes)),
        false => Err(ActivateError::Changing(question.repo)),
    }
}

/// What would be in a file; none where it would not be any more.
type Wanted = Result<Vec<u8>, RenderError>;

/// An answer as it grows.
struct Answer {
    changes: ConfigChanges,
    bytes_left: usize,
    /// Lines are compared no longer than this.
    until: Instant,
    of_new: Attributes,
}

impl Answer {
    fn of(present: &Present, until: Instant) -> Self {
        let live = present.live();
        Self {
            changes: ConfigChanges {
                live: live.map(|live| (live.release, live.sequence)),
                files: Vec::new(),
                files_left_out: 0,
            },
            bytes_left: ANSWER_BYTES_MAX,
            until,
            of_new: present.attributes_of_new(),
        }
    }

    fn add(&mut self, present: &Present, destination: Destination, wanted: Option<Wanted>) {
        let back = present.comes_back(&destination);
        let back = back.map(|aside| format!("what stood there before, `{aside}`, is there again"));
        let seen = present.at(&destination);
        let change = match (wanted, seen) {
            // It went by somebody else's hand.
            (None, Ok(Seen::Nothing)) if back.is_none() => return,
            (None, Ok(seen)) => self.removed(seen, back),
            (Some(Ok(after)), Ok(seen)) => self.rendered(seen, &after),
            (Some(Err(error)), _) => Change::failed(&error),
            (_, Err(error)) => Change::failed(&error),
        };
        self.take(destination, change);
    }

    /// Keeps as much of it as there is room for.
    fn take(&mut self, destination: Destination, change: Change) {
        let name = match &destination {
            Destination::InRelease(path) => path.as_bytes().len(),
            Destination::OnHost(path) => path.below_root().as_bytes().len(),
        };
        let note = change.note.map(bounded_reason);
        let bytes = FILE_BYTES + name + note.as_ref().map_or(0, String::len);
        let Some(left) = self.bytes_left.checked_sub(bytes) else {
            self.changes.files_left_out += 1;
            return;
        };
        let (mut diff, mut diff_lines_left_out) = (change.diff, 0);
        if let Some(diff) = &mut diff {
            diff_lines_left_out = cut(diff, left.min(DIFF_BYTES_MAX));
        }
        self.bytes_left = left - diff.as_ref().map_or(0, String::len);
        self.changes.files.push(FileChange {
            destination,
            status: change.status,
            diff,
            diff_lines_left_out,
            attributes: change.attributes,
            note,
        });
    }

    fn removed(&self, seen: Seen, back: Option<String>) -> Change {
        let Seen::File(SeenFile { bytes, note, .. }) = seen else {
            return Change::of(FileStatus::Removed, None, [back, None]);
        };
        let compared = bytes.map(|bytes| self.compare(&bytes, b""));
        Change::of(FileStatus::Removed, compared, [back, note])
    }

    fn rendered(&self, seen: Seen, after: &[u8]) -> Change {
        let Seen::File(seen) = seen else {
            let all = self.compare(b"", after);
            return Change::of(FileStatus::New, Some(all), [None, None]);
        };
        let is_same = seen.bytes.as_deref() == Some(after);
        let before = seen.attributes.filter(|before| *before != self.of_new);
        let status = match is_same && before.is_none() && seen.note.is_none() {
            true => FileStatus::Unchanged,
            false => FileStatus::Changed,
        };
        let compared = seen.bytes.map(|bytes| self.compare(&bytes, after));
        Change {
            attributes: before.map(|before| (before, self.of_new)),
            ..Change::of(status, compared, [seen.note, None])
        }
    }

    /// The difference line by line, or why there is none.
    fn compare(&self, before: &[u8], after: &[u8]) -> Result<String, String> {
        if before == after {
            return Ok(String::new());
        }
        let text = |bytes, which| {
            std::str::from_utf8(bytes).map_err(|_| format!("what {which} there is no UTF-8"))
        };
        let (before, after) = (text(before, "is")?, text(after, "would be")?);
        match () {
            () if before.len().max(after.len()) > COMPARED_BYTES_MAX => Err(format!(
                "of more than {COMPARED_BYTES_MAX} bytes, and so not compared line by line"
            )),
            () if Instant::now() >= self.until => {
                Err("there was no time left to compare it line by line".to_owned())
            }
            () => Ok(unified(before, after)),
        }
    }
}

/// What would become of a file.
struct Change {
    status: FileStatus,
    diff: Option<String>,
    attributes: Option<(Attributes, Attributes)>,
    note: Option<String>,
}

impl Change {
    /// One whose lines were compared, unless what is there is not known.
    fn of(
        status: FileStatus,
        compared: Option<Result<String, String>>,
        [first, second]: [Option<String>; 2],
    ) -> Self {
        let (diff, uncompared) = match compared {
            Some(Ok(diff)) => (Some(diff), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let notes: Vec<String> = [first, second, uncompared].into_iter().flatten().collect();
        Self {
            status,
            diff,
            attributes: None,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        }
    }

    fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::of(FileStatus::Error, None, [Some(error_chain(error)), None])
    }
}

/// Cuts a diff after its last line that fits; how many lines were cut off.
fn cut(diff: &mut String, bytes_max: usize) -> u32 {
    if diff.len() <= bytes_max {
        return 0;
    }
    let fits = diff.as_bytes()[..bytes_max].iter();
    let end = fits
        .rev()
        .position(|byte| *byte == b'\n')
        .map_or(0, |at| bytes_max - at);
    let lines = diff[end..].split_terminator('\n').count();
    diff.truncate(end);
    u32::try_from(lines).unwrap_or(u32::MAX)
}
