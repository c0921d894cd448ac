//! Who passes orders on to whom, and who takes the place of one that is lost. Sans-IO.
//!
//! A node covers *branches*: hosts that follow each other in the roster. Of each it dials the first; who answers is the
//! *head*, and covers the rest, which it is given split into branches of its own. So each node's part depends on what it was
//! given alone, and is changed by giving it something else. When a head is lost, the first host of one of its branches takes
//! its place: it is given the others beside its own, which stay as they are, so nobody else moves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use scap_proto::release::Branch;

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
    /// Hosts that those who should could not reach, dialled by us. Empty where we do not do that.
    direct: BTreeMap<Place, Direct>,
    direct_max: usize,
    outputs: VecDeque<Output>,
}

/// A branch, and who covers it.
#[derive(Debug)]
struct Limb {
    assigned: Branch,
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
                if self.direct_max > 0 && !is_ours {
                    self.direct.entry(host).or_insert(Direct::Waiting(None));
                }
            }
            Input::Timeout => {}
        }
        for limb in &mut self.limbs {
            limb.try_more(now, &mut self.direct, &mut self.outputs);
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
        limbs.chain(direct)
    }

    /// Those below us on the way to any host that `wanted` says.
    pub fn towards(&self, wanted: impl Fn(Branch) -> bool) -> Vec<Place> {
        let limbs = self.limbs.iter().filter(|limb| wanted(limb.assigned));
        let heads = limbs.filter_map(|limb| limb.head);
        let direct = self.direct.iter();
        let direct = direct.filter(|(_, it)| matches!(it, Direct::Linked));
        let direct = direct.map(|(&first, _)| first);
        let direct = direct.filter(|&first| {
            wanted(Branch {
                first,
                end: first + 1,
            })
        });
        heads.chain(direct).collect()
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
                self.limbs.push(Limb::new(branch));
            }
        }
        self.limbs.sort_by_key(|limb| limb.assigned);
    }

    fn linked(&mut self, host: Place) {
        if let Some(direct) = self.direct.get_mut(&host) {
            *direct = Direct::Linked;
            self.outputs.push_back(Output::Give(host, Vec::new()));
            self.outputs.push_back(Output::News { host, away: None });
            return;
        }
        if let Some(limb) = self.limbs.iter().find(|limb| limb.head == Some(host)) {
            // Its link was replaced, so it has forgotten what it was given.
            let pieces = limb.pieces.clone();
            self.outputs.push_back(Output::Give(host, pieces));
            return;
        }
        let limb = self.limbs.iter_mut().find(|it| it.trying.contains(&host));
        let Some(limb) = limb else {
            self.outputs.push_back(Output::Close(host));
            return;
        };
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
        self.outputs.push_back(Output::Give(host, pieces));
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
            self.outputs.push_back(Output::News { host, away });
            return;
        }
        for limb in &mut self.limbs {
            if limb.head == Some(host) {
                limb.head = None;
                limb.pieces.push(Branch {
                    first: host,
                    end: host + 1,
                });
            } else if !limb.trying.remove(&host) {
                continue;
            }
            limb.live.remove(&host);
            let before = limb.failed.get(&host).copied();
            limb.failed.insert(host, Failure::again(before, now));
            self.outputs.push_back(Output::News { host, away });
            return;
        }
    }

    fn heard(&mut self, through: Place, host: Place, away: Option<String>) {
        let limb = self.limbs.iter_mut();
        let limb = limb
            .filter(|limb| limb.head == Some(through))
            .find(|limb| limb.assigned.hosts().contains(&host) && host != through);
        let Some(limb) = limb else {
            return;
        };
        if away.is_none() {
            let is_news = limb.live.insert(host);
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
        } else {
            limb.live.remove(&host);
            if self.direct_max > 0 {
                // Perhaps we reach it.
                let direct = self.direct.entry(host).or_insert(Direct::Waiting(None));
                if matches!(direct, Direct::Linked) {
                    return;
                }
            }
        }
        self.outputs.push_back(Output::News { host, away });
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
    fn new(assigned: Branch) -> Self {
        Self {
            assigned,
            pieces: vec![assigned],
            head: None,
            trying: BTreeSet::new(),
            tried_at: Duration::ZERO,
            failed: BTreeMap::new(),
            live: BTreeSet::new(),
        }
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
