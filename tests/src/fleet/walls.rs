//! Walls: stations that have a route to some others only.

use std::collections::{BTreeMap, BTreeSet};

use super::netns::StationNumber;

/// Which stations stand behind which: only those, and stations behind the same ones, have a route to them. The others are in
/// the open, and have a route to each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walls(BTreeMap<StationNumber, BTreeSet<StationNumber>>);

impl Walls {
    /// Puts a station behind others.
    pub(crate) fn add(&mut self, station: StationNumber, relays: &[StationNumber]) {
        self.0.insert(station, relays.iter().copied().collect());
    }

    /// What a station stands behind.
    pub(crate) fn relays(&self, station: StationNumber) -> impl Iterator<Item = StationNumber> {
        self.0.get(&station).into_iter().flatten().copied()
    }

    /// Whether there is a route between two stations.
    pub(crate) fn let_through(&self, one: StationNumber, other: StationNumber) -> bool {
        let is_relay =
            |relay: StationNumber, of: StationNumber| self.relays(of).any(|it| it == relay);
        self.0.get(&one) == self.0.get(&other) || is_relay(one, other) || is_relay(other, one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_lets_through_relays_and_those_behind_the_same() {
        let mut walls = Walls::default();
        for (station, relays) in [(3, &[1, 2][..]), (4, &[2, 1]), (5, &[3])] {
            walls.add(station, relays);
        }
        let open = |one: StationNumber| -> Vec<StationNumber> {
            let others = (0..6).filter(|other| *other != one);
            others
                .filter(|other| walls.let_through(one, *other))
                .collect()
        };
        assert_eq!(open(0), [1, 2]);
        assert_eq!(open(1), [0, 2, 3, 4]);
        assert_eq!(open(3), [1, 2, 4, 5]);
        assert_eq!(open(4), [1, 2, 3]);
        assert_eq!(open(5), [3]);
    }
}
