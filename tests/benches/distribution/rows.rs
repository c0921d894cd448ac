//! The rows by name, in an order that makes sense: first what everything is measured by, last what takes longest.

use crate::content::{self, Aim};
use crate::options::Options;
use crate::row::Row;
use crate::shape::Shape;
use crate::{activation, bad_hosts, floor, pair, simulated, source_tree, switch};

/// A row that can be asked for.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// In a line.
    pub(crate) what: &'static str,
    kind: Kind,
}

enum Kind {
    /// Nothing is measured.
    Floor,
    Content(Shape, Aim),
    Tree(Shape),
    Activation(Shape),
    BadHosts(Shape),
    Pair(Shape),
    Switch(Shape),
    /// So many hosts.
    Simulated(usize),
    SimulatedFaults(usize),
}

const UNSHAPED: Shape = Shape {
    rate_mbit: None,
    ..Shape::equal(4, 0, 1024)
};

pub(crate) static ROWS: [Entry; 19] = [
    Entry {
        name: "floor",
        what: "what QUIC itself adds on the wire, computed",
        kind: Kind::Floor,
    },
    Entry {
        name: "payload",
        what: "256 MiB to 16 hosts at 100 Mbit/s, against all others",
        kind: Kind::Content(Shape::equal(16, 100, 256), Aim::PAYLOAD),
    },
    Entry {
        name: "size-4",
        what: "64 MiB to 4 hosts at 20 Mbit/s",
        kind: Kind::Content(Shape::equal(4, 20, 64), Aim::SIZE),
    },
    Entry {
        name: "size-8",
        what: "64 MiB to 8 hosts at 20 Mbit/s",
        kind: Kind::Content(Shape::equal(8, 20, 64), Aim::SIZE),
    },
    Entry {
        name: "size-16",
        what: "64 MiB to 16 hosts at 20 Mbit/s",
        kind: Kind::Content(Shape::equal(16, 20, 64), Aim::SIZE),
    },
    Entry {
        name: "size-32",
        what: "64 MiB to 32 hosts at 20 Mbit/s",
        kind: Kind::Content(Shape::equal(32, 20, 64), Aim::SIZE),
    },
    Entry {
        name: "size-48",
        what: "64 MiB to 48 hosts at 20 Mbit/s",
        kind: Kind::Content(Shape::equal(48, 20, 64), Aim::SIZE),
    },
    Entry {
        name: "tree",
        what: "a source tree of 13,000 files to 16 hosts at 100 Mbit/s, then one line of it (row one-line), against others",
        kind: Kind::Tree(Shape::equal(16, 100, 0)),
    },
    Entry {
        name: "sites",
        what: "64 MiB to 48 hosts in 3 sites with borders of 20 Mbit/s, 100 inside",
        kind: Kind::Content(
            Shape {
                sites: Some(3),
                border_mbit: Some(20),
                ..Shape::equal(48, 100, 64)
            },
            Aim::SITES,
        ),
    },
    Entry {
        name: "slow-seed",
        what: "32 MiB to 32 hosts at 100 Mbit/s, the seed at 10",
        kind: Kind::Content(
            Shape {
                seed_mbit: Some(10),
                ..Shape::equal(32, 100, 32)
            },
            Aim::SLOW_SEED,
        ),
    },
    Entry {
        name: "bad-hosts",
        what: "64 MiB to 16 hosts at 20 Mbit/s; one at 1, one killed, one paused on the way",
        kind: Kind::BadHosts(Shape::equal(16, 20, 64)),
    },
    Entry {
        name: "behind",
        what: "64 MiB to 16 hosts at 20 Mbit/s, one of them behind two relays in a row",
        kind: Kind::Content(
            Shape {
                in_a_row: 2,
                ..Shape::equal(16, 20, 64)
            },
            Aim::BEHIND,
        ),
    },
    Entry {
        name: "unshaped",
        what: "1 GiB to 4 hosts on links without a rate, against others",
        kind: Kind::Content(UNSHAPED, Aim::UNSHAPED),
    },
    Entry {
        name: "pair",
        what: "1 GiB to one host over the loopback device, against bare quinn",
        kind: Kind::Pair(Shape {
            hosts: 1,
            ..UNSHAPED
        }),
    },
    Entry {
        name: "activation",
        what: "20,000 files made and switched to on one host",
        kind: Kind::Activation(Shape {
            hosts: 1,
            mib: 0,
            ..UNSHAPED
        }),
    },
    Entry {
        name: "switch",
        what: "48 hosts that have fetched switch: the first flip to the last",
        kind: Kind::Switch(Shape::equal(48, 100, 0)),
    },
    Entry {
        name: "simulated-1000",
        what: "1 GiB to 1,000 simulated hosts in 20 sites",
        kind: Kind::Simulated(1_000),
    },
    Entry {
        name: "simulated-faults",
        what: "1 GiB to 1,000 simulated hosts, 5 % of them dying, 5 % slow",
        kind: Kind::SimulatedFaults(1_000),
    },
    Entry {
        name: "simulated-10000",
        what: "1 GiB to 10,000 simulated hosts in 20 sites, and an order to them; minutes of one processor",
        kind: Kind::Simulated(10_000),
    },
];

impl Entry {
    /// What it measures on, with what was said standing over it; `None` where that is no fleet.
    fn shape(&self, options: &Options) -> Result<Option<Shape>, String> {
        let of_row = match &self.kind {
            Kind::Content(shape, _)
            | Kind::Tree(shape)
            | Kind::Activation(shape)
            | Kind::BadHosts(shape)
            | Kind::Pair(shape)
            | Kind::Switch(shape) => shape,
            Kind::Floor | Kind::Simulated(_) | Kind::SimulatedFaults(_) => return Ok(None),
        };
        let shape = options
            .shape(*of_row)
            .map_err(|why| format!("{}: {why}", self.name))?;
        Ok(Some(shape))
    }

    /// What it will fill.
    ///
    /// # Errors
    /// Where what was said does not go together.
    pub(crate) fn memory_bytes(&self, options: &Options) -> Result<u64, String> {
        let Some(shape) = self.shape(options)? else {
            return Ok(0);
        };
        let hosts = u64::from(shape.hosts);
        Ok(match self.kind {
            // Chunks, tree and spare on each host, and the same again by others.
            Kind::Tree(_) => (4 * hosts + 8) * TREE_BYTES,
            Kind::Activation(_) | Kind::Switch(_) => (4 * hosts + 8) * SMALL_TREE_BYTES,
            _ => shape.memory_bytes(),
        })
    }

    /// One row or two, and again at lower rates where the processors were the limit; `None` where there can be no fleet.
    pub(crate) fn measure(&self, options: &Options) -> Option<Vec<Row>> {
        let shape = self.shape(options).expect("it was looked at before");
        let shape = shape.unwrap_or(Shape::equal(1, 0, 0));
        let one = |row: Row| vec![row];
        match &self.kind {
            Kind::Floor => Some(one(floor::compute())),
            Kind::Content(_, aim) => until_links_are_the_limit(shape, |shape| {
                content::measure(options, self.name, shape, aim).map(one)
            }),
            Kind::Tree(_) => {
                until_links_are_the_limit(shape, |shape| source_tree::measure(options, shape))
            }
            Kind::Activation(_) => activation::measure(options, &shape).map(one),
            Kind::BadHosts(_) => bad_hosts::measure(options, &shape).map(one),
            Kind::Pair(_) => pair::measure(options, &shape).map(one),
            Kind::Switch(_) => switch::measure(options, &shape).map(one),
            Kind::Simulated(hosts) => simulated::measure(options, self.name, *hosts).map(one),
            Kind::SimulatedFaults(hosts) => {
                Some(one(simulated::measure_faults(options, self.name, *hosts)))
            }
        }
    }
}

/// Measures, and again at half the rate while the processors were the limit and not the links, as far as [`Shape::slower`]
/// goes. All rows are kept: the one that counts says at which rate it is.
fn until_links_are_the_limit(
    mut shape: Shape,
    measure: impl Fn(&Shape) -> Option<Vec<Row>>,
) -> Option<Vec<Row>> {
    let mut all = measure(&shape)?;
    let mut is_cpu_bound = all.iter().any(|row| row.is_cpu_bound);
    while is_cpu_bound && let Some(slower) = shape.slower() {
        let mut rows = measure(&slower)?;
        is_cpu_bound = rows.iter().any(|row| row.is_cpu_bound);
        for row in &mut rows {
            row.name = format!("{}-at-{}", row.name, slower.rate_mbit.unwrap_or_default());
            row.notes
                .push("at a higher rate the machine's processors were the limit".to_owned());
        }
        all.extend(rows);
        shape = slower;
    }
    Some(all)
}

/// The longest tree that goes to all hosts.
const TREE_BYTES: u64 = 90_000_000;

/// One of a few thousand files.
const SMALL_TREE_BYTES: u64 = 60_000_000;
