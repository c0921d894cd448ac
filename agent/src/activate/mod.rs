//! Activation: a release's tree is written beside the live one, and one rename switches to it.
//!
//! Everything is beneath the deploy root, per repo, in the places where scap3 has it:
//! ```text
//! <repo>                       -> <name>-cache/revs/<rev>   the final path; its rename is the switch
//! <repo>-cache/revs/<rev>/     a release's tree, immutable: mode 0755, files 0644 or 0755
//! <repo>-cache/current, .done, .in-progress                 links that follow what is recorded
//! <repo>-cache/.scap/          ours (0700):
//!   lock                       held by who is at work; its time is the file system's clock
//!   journal                    what is being done, if anything
//!   live                       what is live, was live before, is finalized, is in progress
//!   inodes                     what each inode was proved to hold
//!   releases/<rev>             which release a tree is
//!   entries/<rev>, pages/<id>  its snapshot's descriptor, and the pages of entries that it names
//!   spare, spare-of            a clone of the live tree for the next release, and of which release it is
//!   ahead, ahead-of            a tree whose chunks still come, and of which release it is
//!   checked                    which tree was found right a moment ago, and when
//!   configs/<snapshot>/        what releases ask of this host, written out
//!   asked/<rev>                which of these goes with a tree, and what was rendered for it
//!   running/<number>           a check or a service's command that runs, so that a crash leaves none running
//!   links                      config files elsewhere that lead to those in what is live
//!   owed                       what is still to be done after a switch
//!   staging, trash/            a tree being written, trees being removed
//! ```
//! The order of a promotion is plan, journal, write, one sync, check, flip, sync, record. Whatever
//! happens in between, the final path leads to the whole old tree or to the whole new one, and the next
//! [`Deployment::open`] finishes or undoes what was begun; that is the code of a retry too.
//!
//! Every name is resolved one component at a time from an open directory, and no link is followed. All of
//! this blocks: a process of its own calls it.

mod ahead;
mod asked;
mod authorise;
mod background;
mod build;
mod chunks;
mod client;
mod commit;
mod compare;
mod config_diff;
mod deployment;
mod difference;
mod dir;
mod entries;
mod error;
mod failpoint;
mod flip;
mod free;
mod inodes;
mod links;
mod owed;
mod plan;
mod prepare;
mod present;
pub mod process;
mod proof;
mod record;
mod recover;
mod rendered;
mod spare;
mod stages;
mod standing;
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod trash;
mod write;

use bytes::Bytes;
use scap_proto::{
    content::SnapshotRef,
    id::{ChunkId, GitOid, ReleaseId},
};

pub use ahead::Ahead;
pub use build::Built;
pub use compare::{Difference, What};
pub use deployment::{Deployment, KEPT};
pub use error::{ActivateError, SourceError, StageError};
pub use failpoint::Failpoints;
pub use flip::Flipped;
pub use prepare::Prepared;
pub use record::{Installed, Rev};
pub use spare::Upkeep;
pub use stages::Stages;

/// Where chunks come from.
pub trait ChunkSource {
    /// The plain bytes of a chunk, verified.
    ///
    /// # Errors
    /// [`SourceError`].
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError>;

    /// The plain bytes of a chunk, which need not be verified: whoever asks hashes what they are part of, and finds
    /// out by [`Self::plain`] which of them was wrong.
    ///
    /// # Errors
    /// [`SourceError`].
    fn unproved(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        self.plain(id)
    }
}

/// A release to be made live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The release.
    pub release: ReleaseId,
    /// Its sequence.
    pub sequence: u64,
    /// The commit it is of, where it is of one.
    pub commit: Option<GitOid>,
    /// Its content.
    pub snapshot: SnapshotRef,
    /// What it asks of hosts, where it asks anything.
    pub config: Option<SnapshotRef>,
}

/// What a promotion did, and how long each part took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// What making the tree took.
    pub prepared: Prepared,
    /// What switching to it took.
    pub flipped: Flipped,
}
