//! Sites: where content comes into each, and from where.
//!
//! The hosts of a site that begin together are a *group*. On each lane a group has one host that is fed from outside, its
//! *entry*, and one that feeds other groups, its *exit*. A group is fed by the group before it in its own site; the first of
//! a site by another site, along lanes over the sites, so that each passes on about what it takes in. The origin's own
//! site is the root of all of them; where the origin stands alone, the origin is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::lanes::{Feeder, Lanes};

/// Hosts of a site that may fetch from outside beside the entries, in case those fail.
const SPARE_GATEWAYS: usize = 2;

/// Lanes over sites where content has none of its own: so that no site must pass on two copies.
const SITE_LANES: usize = 2;

/// Where a group has a lane from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Origin,
    Group(usize),
}

/// Hosts of one site that begin together.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) hosts: Range<usize>,
    wave: u32,
    pub(super) site: usize,
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
    fn trees(&self, lanes: usize) -> Lanes {
        Lanes::new(lanes, self.hosts.len())
    }

    /// Which host is fed from outside on a lane.
    pub(super) fn entry(&self, lanes: usize, lane: usize) -> usize {
        self.hosts.start + self.trees(lanes).root(lane)
    }

    /// A host that feeds another group: the last that passes on a lane of its own, since it has the fewest below it.
    fn exit(&self, lanes: usize, lane: usize) -> usize {
        self.hosts.start + self.trees(lanes).last_inner(lane)
    }
}

/// One bandwidth domain.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) hosts: Range<usize>,
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
    /// Hosts that may fetch from hosts of another site, and from which.
    far_from: BTreeMap<usize, Vec<usize>>,
    far_to: BTreeMap<usize, Vec<usize>>,
}

impl Sites {
    /// From the site and the wave of each position; sites are contiguous, and waves within them rise.
    /// `origin` is the site that the origin is in.
    pub(super) fn new(places: &[(usize, u32)], origin: Option<usize>, lanes: usize) -> Self {
        let lanes = if lanes == 0 { SITE_LANES } else { lanes };
        let (mut sites, mut groups) = (Vec::<Site>::new(), Vec::<Group>::new());
        for (at, &(site, wave)) in places.iter().enumerate() {
            if site == sites.len() {
                sites.push(Site {
                    hosts: at..at,
                    has_origin: origin == Some(site),
                    gateways: 0,
                    entries: 0,
                });
            }
            sites[site].hosts.end = at + 1;
            match groups.last_mut() {
                Some(group) if (group.site, group.wave) == (site, wave) => group.hosts.end = at + 1,
                _ => groups.push(Group {
                    hosts: at..at + 1,
                    wave,
                    site,
                    sources: Vec::new(),
                    feeds: Vec::new(),
                }),
            }
        }
        for (number, site) in sites.iter_mut().enumerate() {
            let first = groups.iter().find(|group| group.site == number);
            let first = first.map_or(0, |group| group.hosts.len());
            site.entries = lanes.min(first);
            site.gateways = (lanes + SPARE_GATEWAYS).min(site.hosts.len());
        }
        let mut all = Self {
            sites,
            groups,
            lanes,
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
        let Source::Group(feeder) = self.groups[group].sources[lane] else {
            return None;
        };
        let mut feeds = self.groups[feeder].feeds.iter();
        let fed = feeds.find(|fed| (fed.group, fed.lane) == (group, lane))?;
        Some(fed.exit)
    }

    fn find_sources(&mut self) {
        for number in 0..self.groups.len() {
            let sources: Vec<Source> = (0..self.lanes)
                .map(|lane| self.source(number, lane))
                .collect();
            for (lane, source) in sources.iter().enumerate() {
                if let Source::Group(feeder) = *source {
                    // Each has room for one more below it: several on one lane are dealt to all of them.
                    let feeds = &self.groups[feeder].feeds;
                    let on_lane = feeds.iter().filter(|fed| fed.lane == lane).count();
                    let exit = self.groups[feeder].exit(self.lanes, (lane + on_lane) % self.lanes);
                    let fed = Fed {
                        group: number,
                        lane,
                        exit,
                    };
                    self.groups[feeder].feeds.push(fed);
                }
            }
            self.groups[number].sources = sources;
        }
    }

    /// Where a group has a lane from. Every step leads to an earlier wave, to the origin's site, or up a tree, so
    /// all end at the origin.
    fn source(&self, number: usize, lane: usize) -> Source {
        let group = &self.groups[number];
        let before = number.checked_sub(1);
        if let Some(before) = before.filter(|&before| self.groups[before].site == group.site) {
            return Source::Group(before);
        }
        if self.sites[group.site].has_origin {
            return Source::Origin;
        }
        // The sites that begin with this one, beside the origin's.
        let begins = |&at: &usize| {
            let it = &self.groups[at];
            let is_first = at == 0 || self.groups[at - 1].site != it.site;
            is_first && it.wave == group.wave && !self.sites[it.site].has_origin
        };
        let beside: Vec<usize> = (0..self.groups.len()).filter(begins).collect();
        let place = beside.iter().position(|&at| at == number);
        let place = place.expect("it begins with itself");
        match Lanes::new(self.lanes, beside.len()).feeder(lane, place) {
            Feeder::Host(parent) => Source::Group(beside[parent]),
            Feeder::Root => self.root_source(group.wave, lane),
        }
    }

    /// What feeds the first of the sites that begin with a wave: the origin's site, where that has begun; or what began
    /// last before; or the origin.
    fn root_source(&self, wave: u32, lane: usize) -> Source {
        let groups = self.groups.iter().enumerate();
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
            0 => Source::Origin,
            count => Source::Group(last[lane % count]),
        }
    }

    /// Each gateway may fetch from the exits that feed its site, and from the first host beside each.
    fn find_far(&mut self) {
        for (number, site) in self.sites.iter().enumerate() {
            let first = self.groups.iter().position(|group| group.site == number);
            let first = first.expect("a site has hosts");
            let mut feeders = BTreeSet::new();
            for lane in 0..self.lanes {
                if let Some(exit) = self.exit_to(first, lane) {
                    let feeder = &self.groups[self.group_of(exit)];
                    feeders.extend([exit, feeder.hosts.start]);
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
