//! How long an order takes to the last host, and what it says to come back: the real engines of the control tree on a virtual
//! clock.
//!
//! # What is modelled
//! - A handshake and the opening of the control stream take two round trips of the path, as they do.
//! - What is passed on takes the delay of the path, and the sender's uplink, which all below it share evenly. It is passed on
//!   once it came whole.
//! - Reports are gathered at every host on the way for as long as in the product.
//!
//! All hosts answer. Signatures, and what the hosts' processors take besides, are not modelled.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use scap_agent::relay::{
    GATHER,
    engine::{Input, Output, Place, Relay},
};
use scap_proto::release::Branch;

use super::{NodeIndex, ORIGIN, Setup};

/// What a roster says of a host, in bytes: its name, an address, and its part of a page's signature.
const ROSTER_HOST_BYTES: u64 = 48;

/// What a host says, in bytes, with its certificate.
const REPORT_BYTES: u64 = 800;

/// The control tree of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// By place.
    pub hosts: Vec<NodeIndex>,
    /// What the coordinator covers by itself.
    pub branches: Vec<Branch>,
    /// Hosts that stand behind relays, and these.
    pub behind: Vec<(Branch, Vec<Place>)>,
}

/// What orders take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// From the start until the coordinator knows of a way to every host.
    pub formed: Duration,
    /// From when an order is given until the last host has it.
    pub reached: Duration,
    /// And until the last of what they say at once is back.
    pub reported: Duration,
    /// Most hosts that one passes it on to.
    pub fanout: usize,
}

enum Event {
    Input(Input),
    Wake,
    /// An order came.
    Order,
    /// So many reports came from below.
    Reports(usize),
    /// What was gathered goes up.
    Flush,
}

/// A host, or the coordinator.
struct Station {
    engine: Relay,
    above: Vec<Option<Place>>,
    ordered_at: Option<Duration>,
    flushed_at: Option<Duration>,
    /// To go up.
    news: Vec<(Place, Option<String>)>,
    reports: usize,
    is_flushing: bool,
}

struct World<'a> {
    setup: &'a Setup,
    roster: &'a Roster,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, (Option<Place>, Event)>,
    scheduled: u64,
    stations: BTreeMap<Option<Place>, Station>,
    /// Of whom the coordinator heard that they are reached.
    known: BTreeSet<Place>,
    reported: usize,
    fanout: usize,
}

/// Forms the tree of `roster` over the hosts of `setup`, and sends an order of so many bytes down. `None` where not all are
/// reached within a minute.
pub fn orders(setup: &Setup, roster: &Roster, order_bytes: u64) -> Option<Orders> {
    let mut world = World {
        setup,
        roster,
        now: Duration::ZERO,
        queue: BinaryHeap::new(),
        events: BTreeMap::new(),
        scheduled: 0,
        stations: BTreeMap::new(),
        known: BTreeSet::new(),
        reported: 0,
        fanout: 0,
    };
    let places = u32::try_from(roster.hosts.len()).expect("fleets are smaller");
    for node in (0..places).map(Some).chain([None]) {
        world.stations.insert(node, world.station());
    }
    let assigned = Input::Assigned(roster.branches.clone());
    world.schedule(Duration::ZERO, None, Event::Input(assigned));
    let count = roster.hosts.len();
    world.run(order_bytes, |world| world.known.len() >= count)?;
    let formed = world.now;
    world.schedule(formed, None, Event::Order);
    world.run(order_bytes, |world| world.reported >= count)?;
    let hosts = world.stations.iter().filter(|(node, _)| node.is_some());
    let ordered = hosts.map(|(_, station)| station.ordered_at.unwrap_or(world.now));
    Some(Orders {
        formed,
        reached: ordered.max().unwrap_or(formed) - formed,
        reported: world.now - formed,
        fanout: world.fanout,
    })
}

impl World<'_> {
    fn station(&self) -> Station {
        let mut engine = Relay::new(0);
        for (branch, relays) in &self.roster.behind {
            let (branch, relays) = (*branch, relays.clone());
            engine.handle_input(Duration::ZERO, Input::Behind { branch, relays });
        }
        Station {
            engine,
            above: Vec::new(),
            ordered_at: None,
            flushed_at: None,
            news: Vec::new(),
            reports: 0,
            is_flushing: false,
        }
    }

    fn schedule(&mut self, at: Duration, node: Option<Place>, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled)));
        self.events.insert(self.scheduled, (node, event));
    }

    /// Runs until something is so; `None` where it is not within a minute.
    fn run(&mut self, order_bytes: u64, is_so: impl Fn(&Self) -> bool) -> Option<()> {
        let end = self.now + Duration::from_secs(60);
        while !is_so(self) {
            let Reverse((at, number)) = self.queue.pop()?;
            if at > end {
                return None;
            }
            self.now = at;
            let (node, event) = self.events.remove(&number).expect("it was scheduled");
            match event {
                Event::Input(input) => self.feed(node, input),
                Event::Wake => {
                    let due = self.stations[&node].engine.poll_timeout();
                    if due.is_some_and(|due| due <= at) {
                        self.feed(node, Input::Timeout);
                    }
                }
                Event::Order => self.order(node, order_bytes),
                Event::Reports(count) => self.gather(node, count),
                Event::Flush => self.flush(node),
            }
        }
        Some(())
    }

    fn feed(&mut self, node: Option<Place>, input: Input) {
        let now = self.now;
        let station = self.stations.get_mut(&node).expect("all are stations");
        station.engine.handle_input(now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| station.engine.poll_output()).collect();
        let wake = station.engine.poll_timeout();
        if let Some(at) = wake {
            self.schedule(at.max(now), node, Event::Wake);
        }
        for output in outputs {
            match output {
                Output::Dial(host) => {
                    let round_trips = 4 * self.delay(node, Some(host));
                    let linked = Event::Input(Input::Linked(host));
                    self.schedule(now + round_trips, node, linked);
                }
                Output::Close(host) => {
                    let of_host = |event: &Event| matches!(event, Event::Input(Input::Linked(it)) if *it == host);
                    // Where it is being dialled it will not answer.
                    for (of, event) in self.events.values_mut() {
                        if *of == node && of_host(event) {
                            *event = Event::Wake;
                        }
                    }
                    let station = self.stations.get_mut(&Some(host));
                    let station = station.expect("all are stations");
                    station.above.retain(|above| *above != node);
                }
                Output::Give(host, branches) => {
                    let station = &self.stations[&node];
                    let below = station.engine.below(&branches).into_iter();
                    let hosts: u64 = below.map(|it| u64::from(it.end - it.first)).sum();
                    let took = self.time_for(node, hosts * ROSTER_HOST_BYTES);
                    let at = now + took + self.delay(node, Some(host));
                    let above = &mut self.stations.get_mut(&Some(host)).expect("all are").above;
                    if !above.contains(&node) {
                        above.push(node);
                    }
                    self.schedule(at, Some(host), Event::Input(Input::Assigned(branches)));
                }
                Output::News { host, away: None } if node.is_none() => {
                    self.known.insert(host);
                }
                Output::News { host, .. } if node.is_none() => {
                    self.known.remove(&host);
                }
                Output::News { host, away } => {
                    let station = self.stations.get_mut(&node).expect("all are stations");
                    station.news.push((host, away));
                }
            }
        }
        self.flush_soon(node);
    }

    /// Passes an order on to all below, who share the uplink.
    fn order(&mut self, node: Option<Place>, bytes: u64) {
        let station = self.stations.get_mut(&node).expect("all are stations");
        if station.ordered_at.replace(self.now).is_some() {
            return;
        }
        let below = station.engine.towards(|_| true);
        self.fanout = self.fanout.max(below.len());
        let took = self.time_for(node, bytes * below.len() as u64);
        for host in below {
            let at = self.now + took + self.delay(node, Some(host));
            self.schedule(at, Some(host), Event::Order);
        }
        if node.is_some() {
            self.gather(node, 1);
        }
    }

    fn gather(&mut self, node: Option<Place>, reports: usize) {
        if node.is_none() {
            self.reported += reports;
            return;
        }
        let station = self.stations.get_mut(&node).expect("all are stations");
        station.reports += reports;
        self.flush_soon(node);
    }

    /// What is to go up does so at once, or where something just did, with what comes until then.
    fn flush_soon(&mut self, node: Option<Place>) {
        let station = self.stations.get_mut(&node).expect("all are stations");
        let is_empty = station.news.is_empty() && station.reports == 0;
        if is_empty || station.above.is_empty() || station.is_flushing {
            return;
        }
        station.is_flushing = true;
        let at = station.flushed_at.map_or(self.now, |at| at + GATHER);
        self.schedule(at.max(self.now), node, Event::Flush);
    }

    fn flush(&mut self, node: Option<Place>) {
        let Some(through) = node else {
            return;
        };
        let now = self.now;
        let station = self.stations.get_mut(&node).expect("all are stations");
        station.is_flushing = false;
        station.flushed_at = Some(now);
        let news = std::mem::take(&mut station.news);
        let reports = std::mem::take(&mut station.reports);
        let took = self.time_for(node, REPORT_BYTES * reports as u64);
        // Of several above it the coordinator counts what one passes on.
        let above = self.stations[&node].above.clone();
        for (number, above) in above.into_iter().enumerate() {
            let at = now + took + self.delay(node, above);
            for (host, away) in &news {
                let (host, away) = (*host, away.clone());
                let heard = Input::Heard {
                    through,
                    host,
                    away,
                };
                self.schedule(at, above, Event::Input(heard));
            }
            if number == 0 && reports > 0 {
                self.schedule(at, above, Event::Reports(reports));
            }
        }
    }

    fn delay(&self, one: Option<Place>, other: Option<Place>) -> Duration {
        let node = |place: Option<Place>| match place {
            None => ORIGIN,
            Some(place) => self.roster.hosts[usize::try_from(place).expect("a place")],
        };
        self.setup.path_delay(node(one), node(other))
    }

    fn time_for(&self, node: Option<Place>, bytes: u64) -> Duration {
        let host = match node {
            None => &self.setup.origin,
            Some(place) => {
                let index = self.roster.hosts[usize::try_from(place).expect("a place")];
                &self.setup.hosts[index - 1]
            }
        };
        Duration::from_secs_f64(bytes as f64 / host.up_bytes_per_sec as f64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_agent::relay::engine::split;

    use super::*;

    /// Hosts in so many sites, 40 ms from each other one way, in the order of the sites; the last ones stand behind two others.
    fn fleet(hosts: usize, sites: usize, behind: u32) -> (Setup, Roster) {
        let setup = Setup::equal(1, hosts, 1000, 8);
        let setup = setup.sites(sites, 1000, Duration::from_millis(80));
        let end = u32::try_from(hosts).unwrap();
        let open = Branch {
            first: 0,
            end: end - behind,
        };
        let last = Branch {
            first: open.end,
            end,
        };
        let roster = Roster {
            hosts: (1..=hosts).collect(),
            branches: split(open, crate::fleet::hub::LINKS),
            behind: Vec::from_iter((behind > 0).then_some((last, vec![0, 1]))),
        };
        (setup, roster)
    }

    #[test]
    fn an_order_is_at_the_last_of_ten_thousand_hosts_in_less_than_a_second() {
        let (setup, roster) = fleet(10_000, 20, 0);
        for (what, bytes) in [("without the plan", 122_000), ("with it", 700_000)] {
            let orders = orders(&setup, &roster, bytes).unwrap();
            println!("{what}: {orders:?}");
            assert!(orders.reached < Duration::from_secs(1), "{orders:?}");
            assert!(orders.reported < Duration::from_secs(2), "{orders:?}");
            assert!(orders.fanout <= 16, "{orders:?}");
        }
    }

    #[test]
    fn each_level_costs_the_delay_of_its_path() {
        // Four links, and nobody below them.
        let (setup, roster) = fleet(4, 1, 0);
        let few = orders(&setup, &roster, 0).unwrap();
        assert_eq!(few.reached, Duration::from_micros(500));
        // One level more, in the same building.
        let (setup, roster) = fleet(40, 1, 0);
        let more = orders(&setup, &roster, 0).unwrap();
        assert_eq!(more.reached, Duration::from_micros(1000));
        assert!(more.formed > few.formed);
    }

    #[test]
    fn hosts_behind_relays_are_ordered_and_heard_too() {
        let (setup, roster) = fleet(60, 3, 20);
        let orders = orders(&setup, &roster, 10_000).unwrap();
        assert!(orders.reached < Duration::from_millis(400), "{orders:?}");
    }
}
