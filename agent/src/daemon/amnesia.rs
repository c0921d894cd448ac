//! A host whose record of what it accepted was lost or set back: it says so, and obeys nobody before it knows where the others are.
//!
//! With its data directory emptied or an older copy of it restored, a host would take an old order that somebody kept for a new one. Two
//! records stand apart from that directory: what the activator made below the deploy root, and what the host's peers call stable.
//! So where the first knows more than the data directory, orders wait until enough peers were heard; what they call stable is
//! a floor from then on. An order that a coordinator itself brings, on a link of its own, is surely of now and waits for nothing.

use std::path::{Path, PathBuf};

use scap_proto::{reason::Reason, wire::control::Order};

use super::{
    Daemon, Repo,
    control::{ControlId, Reader},
};
use crate::store::durable;

/// Most orders that wait: relays tell again what nobody follows. Each is some kilobytes, and its plan at most a frame.
const WAITING_MAX: usize = 8;

/// How deep below the deploy root repos are looked for, and among how many directories: their names have few parts.
const DEPTH_MAX: usize = 6;
/// See [`DEPTH_MAX`].
const DIRECTORIES_MAX: usize = 10_000;

/// Stands in the state directory as long as orders wait, so that a restart forgets nothing more.
const NAME: &str = "lost";

/// What waits until peers were heard.
#[derive(Debug, Default)]
pub(super) struct Amnesia {
    waiting: Vec<(ControlId, Order)>,
}

impl Daemon {
    /// That the record was lost, if it was: nothing of it is there, and something was deployed here.
    pub(super) fn notice_loss(&mut self, is_first_start: bool, has_deployments: bool) {
        if is_first_start && has_deployments {
            self.forgot("nothing of it is in the data directory, and something was deployed here");
        } else if self.lost_marker().exists() {
            self.forgot("it was before the last start, and too few peers were heard since");
        }
    }

    /// That the record was set back, if it was: what is live is a later release than the one that was accepted last.
    pub(super) fn notice_setback(&mut self, repo: &Repo) {
        let accepted = repo.saved.acceptance.sequence();
        let live = repo.standing.live.as_ref().map(|live| live.sequence);
        if let Some(live) = live.filter(|live| *live > accepted) {
            let name = &repo.saved.repo;
            self.forgot(&format!(
                "of {name} it ends with #{accepted}, and #{live} is live"
            ));
        }
    }

    fn forgot(&mut self, how: &str) {
        self.node.saw(Reason::StateLost, None);
        // With nobody to ask it would wait for ever.
        let waits = self.catching.asks_by_itself();
        tracing::error!(
            how,
            waits,
            "the record of what this host accepted was lost or set back"
        );
        if waits {
            self.amnesia.get_or_insert_default();
            if let Err(error) = durable::replace_file(&self.lost_marker(), b"") {
                tracing::warn!(%error, "after a restart orders do not wait for peers");
            }
        }
    }

    fn lost_marker(&self) -> PathBuf {
        self.state.file_named(NAME)
    }

    /// Has an order wait, where this host does not know whether it is of now. What was taken is not to be followed yet.
    pub(super) fn waits(&mut self, id: ControlId, order: &Order) -> bool {
        let Some(amnesia) = &mut self.amnesia else {
            return false;
        };
        let above = self.controls.get(&id);
        if above.is_some_and(|above| matches!(above.reader, Reader::Coordinator)) {
            return false;
        }
        if amnesia.waiting.len() < WAITING_MAX {
            amnesia.waiting.push((id, order.clone()));
        }
        tracing::info!(
            "an order waits until peers were heard: the record of what was accepted is lost"
        );
        true
    }

    /// Enough peers were heard: what they call stable was looked at, and what waits is no longer of an unknown time.
    pub(super) async fn end_amnesia(&mut self) {
        let Some(amnesia) = self.amnesia.take() else {
            return;
        };
        tracing::info!(
            orders = amnesia.waiting.len(),
            "enough peers were heard; orders are followed again"
        );
        if let Err(error) = std::fs::remove_file(self.lost_marker()) {
            tracing::warn!(%error, "after a restart orders wait for peers again");
        }
        for (id, order) in amnesia.waiting {
            self.order(id, order).await;
        }
    }
}

/// Whether the activator made something below the deploy root.
pub(super) fn has_deployments(deploy_root: &Path) -> bool {
    let mut left = vec![(deploy_root.to_owned(), 0)];
    let mut looked = 0;
    while let Some((directory, depth)) = left.pop() {
        looked += 1;
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            // Links lead into what was deployed.
            if !entry.file_type().is_ok_and(|it| it.is_dir()) {
                continue;
            }
            let path = entry.path();
            let is_cache = entry.file_name().as_encoded_bytes().ends_with(b"-cache");
            if is_cache && path.join(".scap").is_dir() {
                return true;
            }
            if !is_cache && depth + 1 < DEPTH_MAX && looked + left.len() < DIRECTORIES_MAX {
                left.push((path, depth + 1));
            }
        }
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_deployed_is_found_below_the_deploy_root_and_nothing_else_is_taken_for_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_deployments(&root.path().join("none")));
        let other = root.path().join("web/other-cache/revs/.scap");
        std::fs::create_dir_all(other).unwrap();
        std::os::unix::fs::symlink("..", root.path().join("web/loop")).unwrap();
        assert!(!has_deployments(root.path()));
        std::fs::create_dir_all(root.path().join("web/site-cache/.scap")).unwrap();
        assert!(has_deployments(root.path()));
    }
}
