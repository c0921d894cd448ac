//! Who passes orders on to whom, and who takes the place of one that is lost. Sans-IO.
//!
//! A node covers *branches*: hosts that follow each other in the roster. Of each it dials the first; who answers is the
//! *head*, and covers the rest, which it is given split into branches of its own. So each node's part depends on what it was
//! given alone, and is changed by giving it something else. When a head is lost, the first host of one of its branches takes
//! its place: it is given the others beside its own, which stay as they are, so nobody else moves.
//!
//! Hosts that stand behind relays are in no branch of those who cannot reach them. Each of their relays covers all of them, beside
//! what it is given else, so that none has to take over from another one, and each host may have several above it. Who is above
//! whom among them is decided by several, who do not agree on it; so that nobody comes to be above itself, a head covers only what
//! comes after it in the roster, and the hosts before it become a part of their own.

mod enclaves;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use scap_proto::release::Branch;

use self::enclaves::Enclaves;

/// Into how many branches a host's part is split. With 16, three levels below the first few hosts are 10,000.
pub const FANOUT: usize = 16;

/// How long a host may take to answer before the next of its branch is dialled beside it: a handshake takes two round trips,
/// and one that lost a packet 150 ms more.
const STAGGER: Duration = Duration::from_millis(500);

/// Most hosts of one branch that are dialled at a time: a handshake that nobody answers takes ten seconds, in which 20 begin.
const ATTEMPTS_MAX: usize = 24;

/// First and longest pause before a host that did not answer is dialled again. One that restarts is back in a second or two.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A host's place in the roster.
pub type Place = u32;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Only those relays reach these hosts, as a page of the roster says. It comes before anything else about them.
    Behind {
        /// Who.
        branch: Branch,
        /// Their relays, at least one.
        relays: Vec<Place>,
    },
    /// These are to be covered from now on, and no others.
    Assigned(Vec<Branch>),
    /// A host that was dialled answered, or did so again.
    Linked(Place),
    /// A host that was dialled did not answer, or is lost; why.
    Failed(Place, String),
    /// A host below us says who further down is reached, or why not.
    Heard {
        /// Who.
        through: Place,
        /// Of whom.
        host: Place,
        /// Why it is not reached; none where it is.
        away: Option<String>,
    },
    /// A host is said to be reached, and does not answer: perhaps we reach it ourselves. Only where we do that at all.
    Suspect(Place),
    /// The time of [`Relay::poll_timeout`] has come.
    Timeout,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Dial a host. Answer with [`Input::Linked`], and once that is over, or at once, with [`Input::Failed`].
    Dial(Place),
    /// Stop dialling a host, or let it go. No answer is due.
    Close(Place),
    /// Give a host its part.
    Give(Place, Vec<Branch>),
    /// Say upwards that a host is reached, or why not.
    News {
        /// Which.
        host: Place,
        /// Why it is not reached; none where it is.
        away: Option<String>,
    },
}

/// One node's part of a control tree.
#[derive(Debug, Default)]
pub struct Relay {
    limbs: Vec<Limb>,
    enclaves: Enclaves,
    /// Hosts that those who should could not reach, dialled by us. Empty where we do not do that.
    direct: BTreeMap<Place, Direct>,
    /// Who is reached behind each of those.
    direct_live: BTreeMap<Place, BTreeSet<Place>>,
    direct_max: usize,
    outputs: VecDeque<Output>,
}

/// A branch, and who covers it.
#[derive(Debug)]
struct Limb {
    /// What it was a part of when it was given to us.
    assigned: Branch,
    /// It.
    part: Branch,
    /// Whether it stands behind relays, so that a head covers only what comes after it.
    is_behind: bool,
    /// What the head was given; without a head, all that is to be covered, the likely heads first.
    pieces: Vec<Branch>,
    head: Option<Place>,
    trying: BTreeSet<Place>,
    tried_at: Duration,
    failed: BTreeMap<Place, Failure>,
    /// Who is reached, as far as was heard.
    live: BTreeSet<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    pause: Duration,
    retry_at: Duration,
}

impl Failure {
    fn again(before: Option<Self>, now: Duration) -> Self {
        let (first, longest) = RETRY;
        let pause = before.map_or(first, |it| (2 * it.pause).min(longest));
        Self {
            pause,
            retry_at: now + pause,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Direct {
    Waiting(Option<Failure>),
    Trying(Option<Failure>),
    Linked,
}

impl Relay {
    /// A node that covers nothing yet. Up to `direct_max` hosts at a time that those below cannot reach it dials itself.
    pub fn new(direct_max: usize) -> Self {
        Self {
            direct_max,
            ..Self::default()
        }
    }

    /// Takes one event in. Drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        match input {
            Input::Behind { branch, relays } => self.enclaves.add(branch, relays),
            Input::Assigned(branches) => self.assign(branches),
            Input::Linked(host) => self.linked(host),
            Input::Failed(host, reason) => self.failed(now, host, reason),
            Input::Heard {
                through,
                host,
                away,
            } => self.heard(through, host, away),
            Input::Suspect(host) => {
                let is_ours = self.limbs.iter().any(|limb| limb.head == Some(host));
                if self.direct_max > 0 && !is_ours && !self.enclaves.is_behind(host) {
                    self.direct.entry(host).or_insert(Direct::Waiting(None));
                }
            }
            Input::Timeout => {}
        }
        for limb in &mut self.limbs {
            limb.try_more(now, &mut self.direct, &mut self.outputs);
        }
        if !self.direct_live.is_empty() {
            self.prune_direct();
        }
        self.try_direct(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        let limbs = self.limbs.iter().filter_map(Limb::wake_at);
        let has_room = self.direct_room() > 0;
        let direct = self.direct.values().filter_map(|it| match it {
            Direct::Waiting(Some(failure)) if has_room => Some(failure.retry_at),
            _ => None,
        });
        limbs.chain(direct).min()
    }

    /// Who is reached through us, as far as was heard.
    pub fn live(&self) -> impl Iterator<Item = Place> + '_ {
        let direct = self.direct.iter();
        let direct = direct.filter(|(_, it)| matches!(it, Direct::Linked));
        let direct = direct.map(|(host, _)| *host);
        let limbs = self.limbs.iter().flat_map(|limb| limb.live.iter().copied());
        let behind = self.direct_live.values().flatten().copied();
        limbs.chain(direct).chain(behind)
    }

    /// Those below us on the way to any host that `wanted` says.
    pub fn towards(&self, wanted: impl Fn(Branch) -> bool) -> Vec<Place> {
        let is_wanted = |branch: Branch| self.below(&[branch]).into_iter().any(&wanted);
        let limbs = self.limbs.iter().filter(|limb| is_wanted(limb.part));
        let heads = limbs.filter_map(|limb| limb.head);
        let direct = self.direct.iter();
        let direct = direct.filter(|(_, it)| matches!(it, Direct::Linked));
        let direct = direct.map(|(&host, _)| host);
        let direct = direct.filter(|&host| is_wanted(only(host)));
        heads.chain(direct).collect()
    }

    /// These branches, and all that stand behind hosts in them, over any number of hops.
    pub fn below(&self, branches: &[Branch]) -> Vec<Branch> {
        self.enclaves.below(branches)
    }

    fn assign(&mut self, branches: Vec<Branch>) {
        let (kept, gone): (Vec<Limb>, Vec<Limb>) = std::mem::take(&mut self.limbs)
            .into_iter()
            .partition(|limb| branches.contains(&limb.assigned));
        self.limbs = kept;
        for limb in gone {
            let below = limb.trying.into_iter().chain(limb.head);
            self.outputs.extend(below.map(Output::Close));
        }
        for branch in branches {
            if !self.limbs.iter().any(|limb| limb.assigned == branch) {
                let is_behind = self.enclaves.is_behind(branch.first);
                self.limbs.push(Limb::new(branch, is_behind));
            }
        }
        self.limbs.sort_by_key(|limb| limb.part);
    }

    /// Gives a host its part, and what stands behind it.
    fn give(&mut self, host: Place, mut branches: Vec<Branch>) {
        branches.extend(self.enclaves.of_relay(host));
        self.outputs.push_back(Output::Give(host, branches));
    }

    fn linked(&mut self, host: Place) {
        if let Some(direct) = self.direct.get_mut(&host) {
            *direct = Direct::Linked;
            self.give(host, Vec::new());
            self.outputs.push_back(Output::News { host, away: None });
            return;
        }
        if let Some(limb) = self.limbs.iter().find(|limb| limb.head == Some(host)) {
            // Its link was replaced, so it has forgotten what it was given.
            let pieces = limb.pieces.clone();
            return self.give(host, pieces);
        }
        let limb = self.limbs.iter().position(|it| it.trying.contains(&host));
        let Some(at) = limb else {
            self.outputs.push_back(Output::Close(host));
            return;
        };
        if self.limbs[at].is_behind {
            let before = self.limbs[at].cut_before(host);
            self.limbs.extend(before);
        }
        let limb = &mut self.limbs[at];
        limb.trying.remove(&host);
        let others = std::mem::take(&mut limb.trying);
        self.outputs.extend(others.into_iter().map(Output::Close));
        limb.failed.clear();
        limb.head = Some(host);
        limb.live = BTreeSet::from([host]);
        let pieces = limb.pieces.iter().flat_map(|&piece| {
            if piece.hosts().contains(&host) {
                without(piece, host)
            } else {
                vec![piece]
            }
        });
        limb.pieces = pieces.collect();
        let pieces = limb.pieces.clone();
        self.give(host, pieces);
        self.outputs.push_back(Output::News { host, away: None });
    }

    fn failed(&mut self, now: Duration, host: Place, reason: String) {
        let away = Some(reason);
        if let Some(direct) = self.direct.get_mut(&host) {
            let before = match direct {
                Direct::Trying(before) => *before,
                Direct::Waiting(_) => return,
                Direct::Linked => None,
            };
            *direct = Direct::Waiting(Some(Failure::again(before, now)));
            self.prune_direct();
            self.outputs.push_back(Output::News { host, away });
            return;
        }
        for limb in &mut self.limbs {
            if limb.head == Some(host) {
                limb.head = None;
                limb.pieces.push(only(host));
            } else if !limb.trying.remove(&host) {
                continue;
            }
            limb.live.remove(&host);
            self.enclaves.prune(limb.part, &mut limb.live);
            let before = limb.failed.get(&host).copied();
            limb.failed.insert(host, Failure::again(before, now));
            self.tell_away(host, away);
            return;
        }
    }

    fn heard(&mut self, through: Place, host: Place, away: Option<String>) {
        let of_part = |part: Branch| {
            let mut below = self.enclaves.below(&[part]).into_iter();
            host != through && below.any(|it| it.hosts().contains(&host))
        };
        let of_limb = |limb: &Limb| limb.head == Some(through) && of_part(limb.part);
        let is_direct = matches!(self.direct.get(&through), Some(Direct::Linked));
        let limb = self.limbs.iter().position(of_limb);
        let live = match limb {
            Some(at) => &mut self.limbs[at].live,
            None if is_direct && of_part(only(through)) => {
                self.direct_live.entry(through).or_default()
            }
            None => return,
        };
        if away.is_none() {
            let is_news = live.insert(host);
            // That it is reached is that relay's word. A link of our own is better than that.
            match self.direct.get(&host) {
                Some(Direct::Linked) => return,
                Some(_) => {
                    self.direct.remove(&host);
                    self.outputs.push_back(Output::Close(host));
                }
                None if !is_news => return,
                None => {}
            }
            self.outputs.push_back(Output::News { host, away });
            return;
        }
        live.remove(&host);
        match limb.map(|at| &mut self.limbs[at]) {
            Some(limb) => self.enclaves.prune(limb.part, &mut limb.live),
            None => self.prune_direct(),
        }
        if self.direct_max > 0 && !self.enclaves.is_behind(host) {
            // Perhaps we reach it.
            let direct = self.direct.entry(host).or_insert(Direct::Waiting(None));
            if matches!(direct, Direct::Linked) {
                return;
            }
        }
        self.tell_away(host, away);
    }

    fn prune_direct(&mut self) {
        let linked = self.direct.iter();
        let linked = linked.filter(|(_, it)| matches!(it, Direct::Linked));
        let linked: BTreeSet<Place> = linked.map(|(host, _)| *host).collect();
        self.direct_live
            .retain(|through, _| linked.contains(through));
        let mut live: BTreeSet<Place> = self.direct_live.values().flatten().copied().collect();
        live.extend(&linked);
        // Of their parts, which are one host each, none stands behind relays.
        self.enclaves.prune(Branch { first: 0, end: 0 }, &mut live);
        for behind in self.direct_live.values_mut() {
            behind.retain(|host| live.contains(host));
        }
    }

    /// Says that a host is not reached, unless it is on another way: of several relays one may reach it.
    fn tell_away(&mut self, host: Place, away: Option<String>) {
        if !self.live().any(|it| it == host) {
            self.outputs.push_back(Output::News { host, away });
        }
    }

    /// How many more hosts we may dial that those below us cannot reach.
    fn direct_room(&self) -> usize {
        let is_trying = |it: &&Direct| matches!(it, Direct::Trying(_));
        let trying = self.direct.values().filter(is_trying).count();
        self.direct_max.saturating_sub(trying)
    }

    fn try_direct(&mut self, now: Duration) {
        let room = self.direct_room();
        let due = self.direct.iter_mut().filter_map(|(host, it)| match it {
            Direct::Waiting(failure) if failure.is_none_or(|it| it.retry_at <= now) => {
                let failure = *failure;
                Some((*host, it, failure))
            }
            _ => None,
        });
        for (host, it, failure) in due.take(room) {
            *it = Direct::Trying(failure);
            self.outputs.push_back(Output::Dial(host));
        }
    }
}

impl Limb {
    fn new(assigned: Branch, is_behind: bool) -> Self {
        Self {
            assigned,
            part: assigned,
            is_behind,
            pieces: vec![assigned],
            head: None,
            trying: BTreeSet::new(),
            tried_at: Duration::ZERO,
            failed: BTreeMap::new(),
            live: BTreeSet::new(),
        }
    }

    /// What comes before a host, as a part of its own, if anything does.
    fn cut_before(&mut self, host: Place) -> Option<Self> {
        let before = Branch {
            end: host,
            ..self.part
        };
        self.part.first = host;
        let pieces = std::mem::take(&mut self.pieces).into_iter();
        let pieces = pieces.map(|piece| Branch {
            first: piece.first.max(host),
            ..piece
        });
        self.pieces = pieces.filter(|piece| piece.first < piece.end).collect();
        let mut cut = Self {
            part: before,
            pieces: vec![before],
            tried_at: self.tried_at,
            ..Self::new(self.assigned, true)
        };
        let is_before = |place: &Place| before.hosts().contains(place);
        cut.trying = self.trying.extract_if(.., is_before).collect();
        cut.failed = self
            .failed
            .extract_if(.., |place, _| is_before(place))
            .collect();
        cut.live = self.live.extract_if(.., is_before).collect();
        (before.first < before.end).then_some(cut)
    }

    fn try_more(
        &mut self,
        now: Duration,
        direct: &mut BTreeMap<Place, Direct>,
        outputs: &mut VecDeque<Output>,
    ) {
        while self.wake_at().is_some_and(|at| at <= now) {
            let Some((host, _)) = self.candidate() else {
                return;
            };
            if direct.remove(&host).is_some() {
                outputs.push_back(Output::Close(host));
            }
            self.trying.insert(host);
            self.tried_at = now;
            outputs.push_back(Output::Dial(host));
        }
    }

    /// When the next host is to be dialled.
    fn wake_at(&self) -> Option<Duration> {
        if self.head.is_some() || self.trying.len() >= ATTEMPTS_MAX {
            return None;
        }
        let (_, due) = self.candidate()?;
        let staggered = match self.trying.len() {
            0 => Duration::ZERO,
            _ => self.tried_at + STAGGER,
        };
        Some(due.max(staggered))
    }

    /// Who is to be dialled next, and when at the earliest: the first hosts of all pieces, then the others, far apart from each
    /// other, since those of a rack fail together; of those that failed the one whose time comes first.
    fn candidate(&self) -> Option<(Place, Duration)> {
        let firsts = self.pieces.iter().map(|piece| piece.first);
        let others = self.pieces.iter().flat_map(|&piece| far_apart(piece));
        let mut fresh = firsts
            .chain(others)
            .filter(|host| !self.trying.contains(host) && !self.failed.contains_key(host));
        if let Some(host) = fresh.next() {
            return Some((host, Duration::ZERO));
        }
        let failed = self.failed.iter();
        let failed = failed.filter(|(host, _)| !self.trying.contains(host));
        let failed = failed.map(|(host, failure)| (*host, failure.retry_at));
        failed.min_by_key(|(_, at)| *at)
    }
}

/// The hosts of a branch: the first, the middle one, those at the quarters, and so on.
fn far_apart(branch: Branch) -> impl Iterator<Item = Place> {
    let count = branch.end - branch.first;
    let bits = count.next_power_of_two().trailing_zeros();
    let spread = move |number: u32| number.reverse_bits().checked_shr(u32::BITS - bits);
    let places = (0..1u32 << bits).map(move |number| spread(number).unwrap_or(0));
    places
        .filter(move |offset| *offset < count)
        .map(move |offset| branch.first + offset)
}

/// The branch of one host.
fn only(host: Place) -> Branch {
    Branch {
        first: host,
        end: host + 1,
    }
}

/// A branch without its head, split evenly.
fn without(branch: Branch, head: Place) -> Vec<Branch> {
    let before = Branch {
        end: head,
        ..branch
    };
    let after = Branch {
        first: head + 1,
        ..branch
    };
    let mut pieces = split(before, FANOUT);
    pieces.extend(split(after, FANOUT));
    pieces
}

/// What one covers to whom several say what to: all of it, where two speak of the same hosts in the branches of the first.
pub(crate) fn merged<'a>(parts: impl Iterator<Item = &'a [Branch]>) -> Vec<Branch> {
    let mut all: Vec<Branch> = Vec::new();
    for branch in parts.flatten() {
        let mut left = vec![*branch];
        for other in &all {
            // Of one that does not overlap all is on one side.
            let sides = left.into_iter().flat_map(|it| {
                let before = Branch {
                    end: it.end.min(other.first),
                    ..it
                };
                let after = Branch {
                    first: it.first.max(other.end),
                    ..it
                };
                [before, after]
            });
            left = sides.filter(|it| it.first < it.end).collect();
        }
        all.extend(left);
    }
    all
}

/// A branch in up to `parts` of the same size, give or take one.
pub fn split(branch: Branch, parts: usize) -> Vec<Branch> {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    let count = branch.end.saturating_sub(branch.first);
    let parts = parts.min(count);
    let at = |part: u32| {
        let offset = u64::from(count) * u64::from(part) / u64::from(parts);
        branch.first + u32::try_from(offset).expect("at most `count`")
    };
    (0..parts)
        .map(|part| Branch {
            first: at(part),
            end: at(part + 1),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
