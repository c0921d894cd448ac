//! Lanes: trees over the same hosts, in which each host passes on the chunks of one lane and only receives the others.
//!
//! With k lanes every host has a k-th of the chunks to pass on to k others, so all upload what they download, and one
//! that dies takes a k-th of the flow to those below it. (Castro et al., `SplitStream`, SOSP 2003.)
//!
//! Positions are dealt to k groups. The tree of lane `l` has group `l` at the top, level by level with k children each,
//! and all others below as leaves. Where the hosts do not divide evenly the last of a group has the leaves that are left,
//! one or two too many.

/// The trees over so many positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes {
    lanes: usize,
    positions: usize,
}

/// Where a position has a lane from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feeder {
    /// Outside: it is the first of its lane.
    Root,
    Host(usize),
}

impl Lanes {
    /// `lanes` and `positions` are at least 1.
    pub(super) fn new(lanes: usize, positions: usize) -> Self {
        Self { lanes, positions }
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

    /// A position's place in a lane, level by level.
    fn rank(self, lane: usize, position: usize) -> usize {
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
        match rank.checked_sub(self.inner(lane)) {
            None => group + rank * groups,
            Some(leaf) => {
                let (round, nth) = (leaf / (groups - 1), leaf % (groups - 1));
                round * groups + nth + usize::from(nth >= group)
            }
        }
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
