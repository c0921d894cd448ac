//! The daemon's part of control trees: it passes orders on for who is above it, and up what those below say.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use scap_proto::{
    limits::BRANCHES_MAX,
    release::{Branch, SignedRoster, TreeId},
    wire::control::ControlMessage,
};
use tokio::sync::mpsc;

use super::{
    Daemon,
    control::{Above, ControlId},
};
use crate::{
    clock,
    node::Node,
    relay::{Command, Tree},
};

/// How long those below are kept when who is above is lost: another one takes its place within two seconds or so, and has us
/// keep them.
const ORPHANED_MAX: Duration = Duration::from_secs(10);

/// Most trees that we relay in: a coordinator has one for each deployment under way.
const TREES_MAX: usize = 64;

/// The trees that we relay in.
pub(super) struct Relaying {
    node: Node,
    up: mpsc::Sender<(TreeId, ControlMessage)>,
    parts: BTreeMap<TreeId, Part>,
}

struct Part {
    tree: Tree,
    /// Since when nobody is above us in it.
    orphaned: Option<Instant>,
}

impl Relaying {
    pub(super) fn new(node: Node, up: mpsc::Sender<(TreeId, ControlMessage)>) -> Self {
        Self {
            node,
            up,
            parts: BTreeMap::new(),
        }
    }

    fn tell(&mut self, tree: TreeId, command: Command) {
        let is_full = self.parts.len() >= TREES_MAX;
        let part = match self.parts.entry(tree) {
            Entry::Occupied(part) => part.into_mut(),
            Entry::Vacant(_) if is_full => {
                return tracing::warn!(%tree, "too many control trees; not relaying in one more");
            }
            Entry::Vacant(slot) => slot.insert(Part {
                tree: Tree::start(self.node.clone(), tree, 0, self.up.clone()),
                orphaned: Some(Instant::now()),
            }),
        };
        if !part.tree.tell(command) {
            tracing::warn!(%tree, "orders come faster than they can be passed on; not relaying");
            self.parts.remove(&tree);
        }
    }

    /// Ends what nobody has been above for a while. `live` are those that somebody is above.
    pub(super) fn prune(&mut self, live: &BTreeSet<TreeId>) {
        self.parts.retain(|tree, part| {
            if live.contains(tree) {
                part.orphaned = None;
                return true;
            }
            part.orphaned.get_or_insert_with(Instant::now).elapsed() < ORPHANED_MAX
        });
    }
}

impl Daemon {
    pub(super) fn roster(&mut self, signed: SignedRoster) {
        let roster = match signed.verify(self.trust.identity.trust(), clock::now()) {
            Ok(roster) => roster,
            Err(error) => {
                let error = crate::error_chain(&error);
                return tracing::warn!(error, "a roster refused");
            }
        };
        let tree = roster.tree;
        let command = Command::Page {
            signed: Box::new(signed),
            roster,
            contacts: None,
        };
        self.relaying.tell(tree, command);
    }

    /// Who is above us says whom to relay for.
    pub(super) fn relay(&mut self, id: ControlId, tree: TreeId, mut branches: Vec<Branch>) {
        branches.sort_unstable();
        let overlap = branches.windows(2).any(|pair| pair[0].end > pair[1].first);
        if branches.len() > BRANCHES_MAX || overlap || branches.iter().any(|it| it.end <= it.first)
        {
            return tracing::warn!(%tree, "branches that are none; not relaying for them");
        }
        if let Some(above) = self.controls.get_mut(&id) {
            above.tree = Some(tree);
        }
        // Who has nothing to pass on needs no part in it.
        if branches.is_empty() && !self.relaying.parts.contains_key(&tree) {
            return;
        }
        self.relaying.tell(tree, Command::Assign(branches));
        self.relaying.tell(tree, Command::TellAll);
    }

    /// Passes on what came from above.
    pub(super) fn pass_down(&mut self, id: ControlId, message: ControlMessage) {
        let tree = self.controls.get(&id).and_then(|above| above.tree);
        if let Some(tree) = tree.filter(|tree| self.relaying.parts.contains_key(tree)) {
            self.relaying.tell(tree, Command::Down(message));
        }
    }

    /// Passes on what came from below.
    pub(super) fn pass_up(&mut self, tree: TreeId, message: &ControlMessage) {
        self.say(|_, above| above.tree == Some(tree), message);
    }

    /// Says something to those above us. Who does not read is let go: it comes again, and asks.
    pub(super) fn say(&mut self, to: impl Fn(ControlId, &Above) -> bool, message: &ControlMessage) {
        self.controls.retain(|id, above| {
            if !to(*id, above) || above.outbox.try_send(message.clone()).is_ok() {
                return true;
            }
            tracing::info!(
                stream = id.0,
                "what we say is not read; control stream closed"
            );
            false
        });
    }
}
