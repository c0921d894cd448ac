//! The daemon's part of control trees: it passes orders on for who is above it, and up what those below say.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use scap_proto::{
    limits::BRANCHES_MAX,
    release::{Branch, SignedLease, SignedRoster, TreeId},
    wire::control::ControlMessage,
};
use tokio::sync::mpsc;

use super::{
    Daemon,
    control::{self, Above, ControlId},
};
use crate::{
    clock,
    node::Node,
    relay::{Command, Tree, engine},
};

/// How long those below are kept when who is above is lost: another one takes its place within two seconds or so, and has us
/// keep them.
const ORPHANED_MAX: Duration = Duration::from_secs(10);

/// How long what came down is known again when it comes from another one above us: relays of the same hosts pass it on at
/// about the same time, and what is told again on purpose, to who was not there, is not to be taken for that.
const REPEAT_MAX: Duration = Duration::from_millis(250);

/// Most trees that we relay in: a coordinator has one for each deployment under way.
const TREES_MAX: usize = 64;

/// The trees that we relay in.
pub(super) struct Relaying {
    node: Node,
    up: mpsc::Sender<(TreeId, ControlMessage)>,
    parts: BTreeMap<TreeId, Part>,
    /// How often somebody said what to cover.
    given: u64,
}

struct Part {
    tree: Tree,
    /// What came down lately, when, and on which stream.
    came: Vec<(Instant, ControlId, ControlMessage)>,
    /// Since when nobody is above us in it.
    orphaned: Option<Instant>,
}

impl Relaying {
    pub(super) fn new(node: Node, up: mpsc::Sender<(TreeId, ControlMessage)>) -> Self {
        Self {
            node,
            up,
            parts: BTreeMap::new(),
            given: 0,
        }
    }

    /// Takes part in a tree, if there is room for one more.
    fn join(&mut self, tree: TreeId) -> bool {
        if self.parts.len() >= TREES_MAX && !self.parts.contains_key(&tree) {
            return false;
        }
        self.parts.entry(tree).or_insert_with(|| Part {
            tree: Tree::start(self.node.clone(), tree, 0, self.up.clone()),
            came: Vec::new(),
            orphaned: Some(Instant::now()),
        });
        true
    }

    /// Whether the part in a tree could be told.
    fn tell(&mut self, tree: TreeId, command: Command) -> bool {
        let told = self.parts.get(&tree);
        let told = told.is_some_and(|part| part.tree.tell(command));
        if !told {
            self.parts.remove(&tree);
        }
        told
    }

    /// Whether another one above us in a tree said the same just now: who stands behind several relays hears all of them.
    fn is_repeat(&mut self, tree: TreeId, id: ControlId, message: &ControlMessage) -> bool {
        let Some(part) = self.parts.get_mut(&tree) else {
            return false;
        };
        let now = Instant::now();
        part.came.retain(|(at, ..)| now < *at + REPEAT_MAX);
        let same = part.came.iter_mut().find(|(.., came)| came == message);
        match same {
            Some((_, of, _)) if *of != id => true,
            Some((at, ..)) => {
                *at = now;
                false
            }
            None => {
                part.came.push((now, id, message.clone()));
                false
            }
        }
    }

    /// A stream is closed: answers to what came on it find nobody, so what comes on another is no repeat of it.
    fn forget_what_came(&mut self, id: ControlId) {
        for part in self.parts.values_mut() {
            part.came.retain(|(_, of, _)| *of != id);
        }
    }

    /// Lets go of all hosts below, in all trees.
    pub(super) fn end(&mut self) {
        self.parts.clear();
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
    /// A page of a roster came. Who cannot use it lets the stream go, so that another one is asked to relay.
    pub(super) fn roster(&mut self, id: ControlId, signed: SignedRoster) {
        let roster = match signed.verify(self.trust.identity.trust(), clock::now()) {
            Ok(roster) => roster,
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "a roster refused");
                return self.control_closed(id);
            }
        };
        let tree = roster.tree;
        let command = Command::Page {
            signed: Box::new(signed),
            roster,
            contacts: None,
        };
        if !self.relaying.join(tree) || !self.relaying.tell(tree, command) {
            tracing::warn!(%tree, "too many control trees, or orders; not relaying");
            self.control_closed(id);
        }
    }

    /// Who is above us says whom to relay for.
    pub(super) fn relay(&mut self, id: ControlId, tree: TreeId, mut branches: Vec<Branch>) {
        branches.sort_unstable();
        let overlap = branches.windows(2).any(|pair| pair[0].end > pair[1].first);
        let is_empty = |branch: &Branch| branch.end <= branch.first;
        let is_known = branches.is_empty() || self.relaying.parts.contains_key(&tree);
        if branches.len() > BRANCHES_MAX || overlap || branches.iter().any(is_empty) || !is_known {
            tracing::warn!(%tree, "branches that we cannot relay for");
            return self.control_closed(id);
        }
        self.relaying.given += 1;
        let number = self.relaying.given;
        let Some(above) = self.controls.get_mut(&id) else {
            return;
        };
        above.part = Some(control::Part {
            tree,
            number,
            branches,
        });
        self.cover(tree);
        if self.relaying.parts.contains_key(&tree) {
            self.relaying.tell(tree, Command::TellAll);
        }
    }

    /// A control stream ended, or is to. What was to be relayed for it alone is kept for a while, where nobody else is above
    /// us in the tree.
    pub(super) fn control_closed(&mut self, id: ControlId) {
        let above = self.controls.remove(&id);
        let tree = above.and_then(|above| above.tree());
        self.relaying.forget_what_came(id);
        let is_shared = |tree: &TreeId| self.controls.values().any(|it| it.tree() == Some(*tree));
        if let Some(tree) = tree.filter(is_shared) {
            self.cover(tree);
        }
    }

    /// Covers in a tree all that those above us say; where two speak of the same hosts, in the branches of who spoke last.
    fn cover(&mut self, tree: TreeId) {
        let parts = self.controls.values().filter_map(|it| it.part.as_ref());
        let mut parts: Vec<&control::Part> = parts.filter(|part| part.tree == tree).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.number));
        let branches = engine::merged(parts.iter().map(|part| part.branches.as_slice()));
        if self.relaying.parts.contains_key(&tree) {
            self.relaying.tell(tree, Command::Assign(branches));
        }
    }

    /// Passes on what came from above. Whether that is new, and not what another one above us said just now.
    pub(super) fn pass_down(&mut self, id: ControlId, message: ControlMessage) -> bool {
        let tree = self.controls.get(&id).and_then(Above::tree);
        let Some(tree) = tree.filter(|tree| self.relaying.parts.contains_key(tree)) else {
            return true;
        };
        if self.relaying.is_repeat(tree, id, &message) {
            return false;
        }
        if !self.relaying.tell(tree, Command::Down(message)) {
            tracing::warn!(%tree, "orders come faster than they can be passed on; not relaying");
            self.control_closed(id);
        }
        true
    }

    /// Feeds a host behind us, where that is for us to do.
    pub(super) async fn lease(&self, lease: &SignedLease) {
        if lease.relay_unverified().as_ref() != Some(&self.trust.addressee.host) {
            return;
        }
        match lease.verify(self.trust.identity.trust(), clock::now()) {
            Ok(lease) => {
                tracing::info!(host = %lease.host, release = %lease.release.short(), "nobody feeds it; we do");
                self.node.lease(lease.release, &lease.host).await;
            }
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "a lease refused");
            }
        }
    }

    /// Passes on what came from below.
    pub(super) fn pass_up(&mut self, tree: TreeId, message: &ControlMessage) {
        self.say(|_, above| above.tree() == Some(tree), message);
    }

    /// Says something to those above us. Who does not read is let go: it comes again, and asks.
    pub(super) fn say(&mut self, to: impl Fn(ControlId, &Above) -> bool, message: &ControlMessage) {
        let mut deaf = Vec::new();
        for (id, above) in &self.controls {
            if to(*id, above) && above.outbox.try_send(message.clone()).is_err() {
                deaf.push(*id);
            }
        }
        for id in deaf {
            tracing::info!(
                stream = id.0,
                "what we say is not read; control stream closed"
            );
            self.control_closed(id);
        }
    }
}
