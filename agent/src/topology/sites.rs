//! Sites: where content comes into each, and from where.
//!
//! The hosts of a site that begin together are a *group*. On each lane a group has one host that is fed from outside, its
//! *entry*, and one that feeds other groups, its *exit*. A group is fed by the group before it in its own site; the first of
//! a site by another site, along lanes over the sites, so that each passes on about what it takes in. The origin's own
//! site is the root of all of them; where the origin stands alone, the origin is.
//!
//! Hosts that stand behind the same relays are an *enclave*, and those in the open are one too. Sites are within an enclave: a
//! site of hosts of which some stand behind relays is several here. Each enclave is fed as the open one is, with its relays
//! in the place of the origin; they are hosts of enclaves before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::lanes::{Feeder, Lanes};

/// Hosts of a site that may fetch from outside beside the entries, in case those fail.
const SPARE_GATEWAYS: usize = 2;

/// Hosts beside each exit that the gateways of a site it feeds are linked to, in case that fails.
const FEEDERS_BESIDE: usize = 2;

/// Lanes over sites where content has none of its own: so that no site must pass on two copies.
const SITE_LANES: usize = 2;

/// Where a group has a lane from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Origin,
    Group(usize),
    /// A relay, by its position.
    Relay(usize),
}

/// Where and when a position takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Its enclave; 0 is in the open.
    pub(super) enclave: usize,
    pub(super) site: usize,
    pub(super) wave: u32,
    /// Whether its site is the origin's, or that of one of its relays.
    pub(super) has_origin: bool,
}

/// Hosts of one site that begin together.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) hosts: Range<usize>,
    wave: u32,
    pub(super) site: usize,
    /// Whether the last of its hosts is the only one that others stand behind.
    is_last_busy: bool,
    /// By lane, how many groups that begin with it have it from here.
    outlets: Vec<usize>,
    /// By lane.
    pub(super) sources: Vec<Source>,
    /// The groups that it feeds, on which lane, and which of its hosts does.
    pub(super) feeds: Vec<Fed>,
}

/// A group that another feeds on a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed {
    pub(super) group: usize,
    pub(super) lane: usize,
    pub(super) exit: usize,
}

impl Group {
    pub(super) fn trees(&self, lanes: usize) -> Lanes<'_> {
        Lanes::new(lanes, self.hosts.len())
            .with_last_busy(self.is_last_busy)
            .with_outlets(&self.outlets)
    }

    /// Which host is fed from outside on a lane.
    pub(super) fn entry(&self, lanes: usize, lane: usize) -> usize {
        self.hosts.start + self.trees(lanes).root(lane)
    }
}

/// One bandwidth domain.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) hosts: Range<usize>,
    pub(super) enclave: usize,
    pub(super) has_origin: bool,
    /// How many of its hosts, from the first, may fetch from outside; and how many of these do so while all is well.
    pub(super) gateways: usize,
    pub(super) entries: usize,
}

/// All groups, and how they feed each other.
#[derive(Debug, Clone)]
pub(super) struct Sites {
    pub(super) sites: Vec<Site>,
    pub(super) groups: Vec<Group>,
    pub(super) lanes: usize,
    /// By enclave, the positions of its relays; none of the first, which is in the open.
    relays: Vec<Vec<usize>>,
    /// Hosts that may fetch from hosts of another site, and from which.
    far_from: BTreeMap<usize, Vec<usize>>,
    far_to: BTreeMap<usize, Vec<usize>>,
}

impl Sites {
    /// From the spot of each position and the relays of each enclave. Enclaves are contiguous, sites are within them, and
    /// waves within these rise; an enclave comes after those that its relays are in.
    pub(super) fn new(spots: &[Spot], relays: Vec<Vec<usize>>, lanes: usize) -> Self {
        let lanes = if lanes == 0 { SITE_LANES } else { lanes };
        let (mut sites, mut groups) = (Vec::<Site>::new(), Vec::<Group>::new());
        let mut before: Option<Spot> = None;
        for (at, &spot) in spots.iter().enumerate() {
            let place = |spot: Spot| (spot.enclave, spot.site);
            if before.map(place) != Some(place(spot)) {
                sites.push(Site {
                    hosts: at..at,
                    enclave: spot.enclave,
                    has_origin: spot.has_origin,
                    gateways: 0,
                    entries: 0,
                });
            }
            before = Some(spot);
            let (site, wave) = (sites.len() - 1, spot.wave);
            sites[site].hosts.end = at + 1;
            match groups.last_mut() {
                Some(group) if (group.site, group.wave) == (site, wave) => group.hosts.end = at + 1,
                _ => groups.push(Group {
                    hosts: at..at + 1,
                    wave,
                    site,
                    is_last_busy: false,
                    outlets: Vec::new(),
                    sources: Vec::new(),
                    feeds: Vec::new(),
                }),
            }
        }
        let busy: BTreeSet<usize> = relays.iter().flatten().copied().collect();
        for group in &mut groups {
            let busy: Vec<usize> = busy.range(group.hosts.clone()).copied().collect();
            group.is_last_busy = busy == [group.hosts.end - 1];
        }
        for (number, site) in sites.iter_mut().enumerate() {
            let first = groups.partition_point(|group| group.site < number);
            let first = groups[first].hosts.len();
            site.entries = lanes.min(first);
            site.gateways = (lanes + SPARE_GATEWAYS).min(site.hosts.len());
        }
        let mut all = Self {
            sites,
            groups,
            lanes,
            relays,
            far_from: BTreeMap::new(),
            far_to: BTreeMap::new(),
        };
        all.find_sources();
        all.find_far();
        all
    }

    /// The group of a position.
    pub(super) fn group_of(&self, at: usize) -> usize {
        self.groups.partition_point(|group| group.hosts.end <= at)
    }

    /// Which chunks a position fetches from outside its site, see [`super::Edges::far_share`].
    pub(super) fn share(&self, at: usize) -> (u32, u32) {
        let site = &self.sites[self.groups[self.group_of(at)].site];
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (count(at - site.hosts.start), count(site.entries))
    }

    /// Hosts of other sites that a position may fetch from.
    pub(super) fn far_from(&self, at: usize) -> &[usize] {
        self.far_from.get(&at).map_or(&[], Vec::as_slice)
    }

    /// Hosts of other sites that may fetch from a position.
    pub(super) fn far_to(&self, at: usize) -> &[usize] {
        self.far_to.get(&at).map_or(&[], Vec::as_slice)
    }

    /// Which host feeds a group on a lane, where another group does.
    pub(super) fn exit_to(&self, group: usize, lane: usize) -> Option<usize> {
        let feeder = match self.groups[group].sources[lane] {
            Source::Origin => return None,
            Source::Relay(relay) => return Some(relay),
            Source::Group(feeder) => feeder,
        };
        let mut feeds = self.groups[feeder].feeds.iter();
        let fed = feeds.find(|fed| (fed.group, fed.lane) == (group, lane))?;
        Some(fed.exit)
    }

    fn find_sources(&mut self) {
        let beside = self.sites_beside();
        let lanes = self.lanes;
        let of_group = |number| {
            (0..lanes)
                .map(|lane| self.source(number, lane, &beside))
                .collect()
        };
        let sources: Vec<Vec<Source>> = (0..self.groups.len()).map(of_group).collect();
        let mut outlets = vec![vec![0; lanes]; self.groups.len()];
        for (number, sources) in sources.iter().enumerate() {
            for (lane, source) in sources.iter().enumerate() {
                // Who begins later is fed by links that are idle by then.
                if let Source::Group(feeder) = *source
                    && self.groups[feeder].wave == self.groups[number].wave
                {
                    outlets[feeder][lane] += 1;
                }
            }
        }
        for (group, outlets) in self.groups.iter_mut().zip(outlets) {
            group.outlets = outlets;
        }
        for (number, sources) in sources.into_iter().enumerate() {
            for (lane, source) in sources.iter().enumerate() {
                let (feeder, exit) = match *source {
                    Source::Origin => continue,
                    Source::Relay(relay) => (self.group_of(relay), relay),
                    Source::Group(feeder) => {
                        let group = &self.groups[feeder];
                        let on_lane = group.feeds.iter().filter(|fed| fed.lane == lane).count();
                        let exit = group.trees(lanes).outlet(lane, on_lane);
                        (feeder, group.hosts.start + exit)
                    }
                };
                self.groups[feeder].feeds.push(Fed {
                    group: number,
                    lane,
                    exit,
                });
            }
            self.groups[number].sources = sources;
        }
    }

    /// By enclave and wave, the first groups of the sites that begin with it, beside the origin's.
    fn sites_beside(&self) -> BTreeMap<(usize, u32), Vec<usize>> {
        let mut beside: BTreeMap<(usize, u32), Vec<usize>> = BTreeMap::new();
        for (number, group) in self.groups.iter().enumerate() {
            let site = &self.sites[group.site];
            let is_first = number == 0 || self.groups[number - 1].site != group.site;
            if is_first && !site.has_origin {
                let begins = (site.enclave, group.wave);
                beside.entry(begins).or_default().push(number);
            }
        }
        beside
    }

    /// Where a group has a lane from. Every step leads to an earlier wave, to the origin's site, or up a tree, or, by a
    /// relay, to an enclave before, so all end at the origin.
    fn source(
        &self,
        number: usize,
        lane: usize,
        beside: &BTreeMap<(usize, u32), Vec<usize>>,
    ) -> Source {
        let group = &self.groups[number];
        let before = number.checked_sub(1);
        if let Some(before) = before.filter(|&before| self.groups[before].site == group.site) {
            return Source::Group(before);
        }
        let site = &self.sites[group.site];
        if site.has_origin {
            return self.origin(number, lane);
        }
        let beside = &beside[&(site.enclave, group.wave)];
        let place = beside.binary_search(&number).ok();
        let place = place.expect("it begins with itself");
        match Lanes::new(self.lanes, beside.len()).feeder(lane, place) {
            Feeder::Host(parent) => Source::Group(beside[parent]),
            Feeder::Root => self.root_source(number, lane),
        }
    }

    /// What feeds the first of the sites that begin with a wave: the origin's site, where that has begun; or what began
    /// last before; or the origin.
    fn root_source(&self, number: usize, lane: usize) -> Source {
        let wave = self.groups[number].wave;
        let enclave = |group: &Group| self.sites[group.site].enclave;
        let groups = self.groups.iter().enumerate();
        let groups = groups.filter(|(_, it)| enclave(it) == enclave(&self.groups[number]));
        let has_origin = |group: &Group| self.sites[group.site].has_origin;
        let mut home = groups
            .clone()
            .filter(|(_, it)| has_origin(it) && it.wave <= wave);
        if let Some((at, _)) = home.next_back() {
            return Source::Group(at);
        }
        let before = groups.filter(|(_, it)| it.wave < wave);
        let last = before.clone().map(|(_, it)| it.wave).max();
        let last: Vec<usize> = before
            .filter(|(_, it)| Some(it.wave) == last)
            .map(|(at, _)| at)
            .collect();
        match last.len() {
            0 => self.origin(number, lane),
            count => Source::Group(last[lane % count]),
        }
    }

    /// What feeds a group that nothing of its enclave does: the origin, or a relay. Of several relays each feeds a part of the
    /// lanes; those that begin later than the group only where all do.
    fn origin(&self, number: usize, lane: usize) -> Source {
        let group = &self.groups[number];
        let relays = &self.relays[self.sites[group.site].enclave];
        let wave = |relay: usize| self.groups[self.group_of(relay)].wave;
        let in_time = relays.iter().filter(|&&relay| wave(relay) <= group.wave);
        let in_time: Vec<usize> = in_time.copied().collect();
        let able = if in_time.is_empty() { relays } else { &in_time };
        match able.len() {
            0 => Source::Origin,
            count => Source::Relay(able[(number + lane) % count]),
        }
    }

    /// Each gateway may fetch from the exits that feed its site, and from the first hosts beside each; or from all relays.
    fn find_far(&mut self) {
        for (number, site) in self.sites.iter().enumerate() {
            let first = self.groups.partition_point(|group| group.site < number);
            let mut feeders = BTreeSet::new();
            for (lane, source) in self.groups[first].sources.iter().enumerate() {
                match *source {
                    Source::Origin => {}
                    Source::Relay(_) => feeders.extend(&self.relays[site.enclave]),
                    Source::Group(feeder) => {
                        feeders.extend(self.exit_to(first, lane));
                        let beside = self.groups[feeder].hosts.clone();
                        feeders.extend(beside.take(FEEDERS_BESIDE));
                    }
                }
            }
            for gateway in site.hosts.clone().take(site.gateways) {
                for &feeder in &feeders {
                    self.far_from.entry(gateway).or_default().push(feeder);
                    self.far_to.entry(feeder).or_default().push(gateway);
                }
            }
        }
    }
}
