//! Lanes: trees over the same hosts, in which each host passes on the chunks of one lane and only receives the others.
//!
//! With k lanes every host has a k-th of the chunks to pass on to k others, so all upload what they download, and one
//! that dies takes a k-th of the flow to those below it. (Castro et al., `SplitStream`, SOSP 2003.)
//!
//! Positions are dealt to k groups. The tree of lane `l` has group `l` at the top, level by level with k children each,
//! and all others below as leaves. Where the hosts do not divide evenly the last of a group has the leaves that are left,
//! one or two too many.
//!
//! The last position may be busy elsewhere. Of two lanes it then passes on none: where it would have one child, as with an even number of
//! positions, the one before it, which also has one, takes its place in that lane, and so passes on some of both.

/// The trees over so many positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes {
    lanes: usize,
    positions: usize,
    is_last_busy: bool,
}

/// Where a position has a lane from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feeder {
    /// Outside: it is the first of its lane.
    Root,
    Host(usize),
}

impl Lanes {
    /// `lanes` and `positions` are at least 1.
    pub(super) fn new(lanes: usize, positions: usize) -> Self {
        Self {
            lanes,
            positions,
            is_last_busy: false,
        }
    }

    /// The same where the last position has other things to send, if that is said.
    pub(super) fn with_last_busy(self, is_last_busy: bool) -> Self {
        Self {
            is_last_busy,
            ..self
        }
    }

    /// The first position of a lane.
    pub(super) fn root(self, lane: usize) -> usize {
        self.at(lane, 0)
    }

    /// The last position that passes a lane on.
    pub(super) fn last_inner(self, lane: usize) -> usize {
        self.at(lane, self.inner(lane) - 1)
    }

    /// Who pushes a lane to a position.
    pub(super) fn feeder(self, lane: usize, position: usize) -> Feeder {
        match self.rank(lane, position) {
            0 => Feeder::Root,
            rank => {
                let parent = ((rank - 1) / self.lanes).min(self.inner(lane) - 1);
                Feeder::Host(self.at(lane, parent))
            }
        }
    }

    /// To whom a position pushes a lane.
    pub(super) fn children(self, lane: usize, position: usize) -> impl Iterator<Item = usize> {
        let (rank, inner) = (self.rank(lane, position), self.inner(lane));
        let first = rank * self.lanes + 1;
        let ranks = if rank >= inner {
            0..0
        } else if rank + 1 == inner {
            first..self.positions.max(first)
        } else {
            first..(first + self.lanes).min(self.positions).max(first)
        };
        ranks.map(move |rank| self.at(lane, rank))
    }

    /// The group at the top of a lane. With fewer positions than lanes they have several lanes each.
    fn group(self, lane: usize) -> (usize, usize) {
        let groups = self.lanes.min(self.positions);
        (lane % groups, groups)
    }

    /// How many positions pass a lane on, at most.
    fn inner(self, lane: usize) -> usize {
        let (group, groups) = self.group(lane);
        (self.positions - group).div_ceil(groups)
    }

    /// Positions that take each other's places in a lane: each that of the next, and the last that of the first.
    fn turned(self, lane: usize) -> Vec<usize> {
        let count = self.positions;
        let is_its_lane = self.lanes == 2 && count.is_multiple_of(2) && lane == 1;
        match count {
            2 if self.is_last_busy && is_its_lane => vec![0, 1],
            // Where it would be below the same one on both lanes, it changes places with another that passes on none of this.
            4.. if self.is_last_busy && is_its_lane => vec![count - 2, count - 1, count - 4],
            _ => Vec::new(),
        }
    }

    /// A position's place in a lane, level by level.
    fn rank(self, lane: usize, position: usize) -> usize {
        let turned = self.turned(lane);
        let at = turned.iter().position(|it| *it == position);
        let position = at.map_or(position, |at| turned[(at + 1) % turned.len()]);
        let (group, groups) = self.group(lane);
        if position % groups == group {
            return position / groups;
        }
        let of_group = (position + groups - 1 - group) / groups;
        self.inner(lane) + position - of_group
    }

    /// The position at a place in a lane.
    fn at(self, lane: usize, rank: usize) -> usize {
        let (group, groups) = self.group(lane);
        let position = match rank.checked_sub(self.inner(lane)) {
            None => group + rank * groups,
            Some(leaf) => {
                let (round, nth) = (leaf / (groups - 1), leaf % (groups - 1));
                round * groups + nth + usize::from(nth >= group)
            }
        };
        let turned = self.turned(lane);
        let at = turned.iter().position(|it| *it == position);
        at.map_or(position, |at| {
            turned[(at + turned.len() - 1) % turned.len()]
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_lane_is_a_tree_over_all_and_nobody_passes_on_two(
            lanes in 1usize..9, positions in 1usize..200,
        ) {
            let trees = Lanes::new(lanes, positions);
            let mut passes_on = BTreeSet::new();
            for lane in 0..lanes {
                for rank in 0..positions {
                    prop_assert_eq!(trees.rank(lane, trees.at(lane, rank)), rank);
                }
                prop_assert_eq!(trees.feeder(lane, trees.root(lane)), Feeder::Root);
                let mut reached = BTreeSet::from([trees.root(lane)]);
                let mut queue = vec![trees.root(lane)];
                while let Some(parent) = queue.pop() {
                    let children: Vec<usize> = trees.children(lane, parent).collect();
                    prop_assert!(children.len() < 2 * lanes + 1, "{} below one", children.len());
                    if !children.is_empty() && positions >= lanes {
                        prop_assert!(passes_on.insert(parent), "{parent} has two lanes");
                    }
                    for child in children {
                        prop_assert_eq!(trees.feeder(lane, child), Feeder::Host(parent));
                        prop_assert!(reached.insert(child));
                        queue.push(child);
                    }
                }
                prop_assert_eq!(reached.len(), positions);
            }
        }
    }

    #[test]
    fn one_that_is_busy_passes_nothing_on_and_nobody_more_than_it_takes_in() {
        for positions in 2..40 {
            let trees = Lanes::new(2, positions).with_last_busy(true);
            let mut feeders = BTreeSet::new();
            for position in 0..positions {
                let children = |lane| trees.children(lane, position).count();
                let most = if position + 1 == positions { 0 } else { 2 };
                assert!(
                    children(0) + children(1) <= most,
                    "{position} of {positions}"
                );
                for lane in [0, 1] {
                    if position + 1 == positions {
                        feeders.insert(trees.feeder(lane, position));
                    }
                    for child in trees.children(lane, position) {
                        assert_eq!(trees.feeder(lane, child), Feeder::Host(position));
                    }
                }
            }
            let least = if positions == 2 { 1 } else { 2 };
            assert_eq!(feeders.len(), least, "of {positions}: {feeders:?}");
            for lane in [0, 1] {
                let ranks: BTreeSet<usize> =
                    (0..positions).map(|it| trees.rank(lane, it)).collect();
                assert_eq!(ranks.len(), positions);
                assert!((0..positions).all(|rank| trees.rank(lane, trees.at(lane, rank)) == rank));
            }
        }
    }

    #[test]
    fn a_fleet_that_divides_evenly_is_fed_evenly() {
        let trees = Lanes::new(4, 16);
        for position in 0..16 {
            let children: usize = (0..4)
                .map(|lane| trees.children(lane, position).count())
                .sum();
            assert!(children <= 4, "{position}: {children}");
        }
    }
}
