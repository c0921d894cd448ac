//! Places where a test lets the process die.

use std::io;

use super::dir::Dir;

/// At which place the process dies, once. Without one, which is the rule, nothing happens.
#[derive(Debug, Clone, Default)]
pub struct Failpoints(Option<String>);

impl Failpoints {
    /// The plan is in the journal, nothing is written.
    pub const AFTER_JOURNAL: &'static str = "after-journal";
    /// Half of the entries are written.
    pub const MID_WRITE: &'static str = "mid-write";
    /// The tree is durable and checked, the flip is in the journal and not made.
    pub const BEFORE_FLIP: &'static str = "before-flip";
    /// The flip is made and not recorded.
    pub const AFTER_FLIP: &'static str = "after-flip";
    /// A release is live and recorded, or gone back from; what is done after that is not begun.
    pub const SWITCHED: &'static str = "switched";
    /// Half of a spare's entries are made.
    pub const MID_SPARE: &'static str = "mid-spare";
    /// Half of the entries that are to be written ahead are.
    pub const MID_AHEAD: &'static str = "mid-ahead";
    /// What was written ahead is in its place and not recorded.
    pub const AHEAD_MADE: &'static str = "ahead-made";
    /// A spare is in its place and not recorded.
    pub const SPARE_MADE: &'static str = "spare-made";
    /// The spare is taken for the next release, nothing in it is changed.
    pub const SPARE_TAKEN: &'static str = "spare-taken";

    /// Dies at the place of this name. A name that is no place never dies.
    pub fn at(name: impl Into<String>) -> Self {
        Self(Some(name.into()))
    }

    /// Aborts the process where this is the place, and leaves the file `failpoint-<name>` in `marks`,
    /// so that it does so once and the next try goes through.
    pub(super) fn hit(&self, name: &str, marks: &Dir) -> io::Result<()> {
        if self.0.as_deref() != Some(name) {
            return Ok(());
        }
        match marks.create(format!("failpoint-{name}").as_bytes(), 0o600) {
            Ok(_) => std::process::abort(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}
