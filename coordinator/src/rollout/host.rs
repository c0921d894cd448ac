//! One host in a rollout: where it is, what it was told, and what its reports change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_proto::{
    id::NodeId,
    reason::{Because, Reason},
    release::{BytesBySource, Outcome, Report, ShunnedPeer, Sighting, Stage, Step, UnixMillis},
};

use super::{engine::Config, steps::Steps};

/// How long a host may take to say that it follows an order before it is told again; then twice as long, and so on up to the
/// second. It says so at once.
const RETELL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));

/// How soon a host that is said to be reached again is told again: others that come with it are told in the same breath.
const RETELL_SOON: Duration = Duration::from_millis(50);

/// How much longer than its limit a host may be at a step: it ends what it runs, and says so, by way of relays and at most every
/// five seconds in the largest fleet.
pub(super) const STEP_MARGIN: Duration = Duration::from_secs(30);

/// How long hosts of a newer wave hold back those of older ones that make no move: going back is a check and a rename.
const STRAGGLER: Duration = Duration::from_secs(10);

/// How long they do so whatever they say: a minute goes to services that restart and their checks, and no host keeps all others
/// from going back.
const HELD_BACK_MAX: Duration = Duration::from_secs(60);

/// How often a host may be told in vain before it is dialled from here: whoever relays for it may not do so.
const TOLD_IN_VAIN_MAX: u32 = 2;

/// How long a refusal stands before it counts: who follows our order says so right after it refused what somebody else sent.
const REFUSAL: Duration = Duration::from_secs(2);

/// Most peers that are remembered of one host to be shunned: one that names more lies, or has a fault of its own.
const SHUNNED_MAX: usize = 64;

/// Where one host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostState {
    /// Told nothing yet; at the end, never told.
    Waiting,
    /// Told to fetch.
    Fetching,
    /// Has it all.
    Fetched,
    /// Told to promote.
    Promoting,
    /// Has it live.
    Promoted,
    /// Told to go back.
    Reverting,
    /// Went back.
    Reverted,
    /// Tried, or would not; why.
    Failed(Because),
    /// Not reached, or lost for too long; why.
    Unreachable(Because),
    /// Left out by a person; why.
    Skipped(Because),
}

impl HostState {
    /// Why it is there, where there is something to say.
    pub fn because(&self) -> Option<&Because> {
        match self {
            Self::Failed(because) | Self::Unreachable(because) | Self::Skipped(because) => {
                Some(because)
            }
            _ => None,
        }
    }

    /// Its word in JSON, in lower-case kebab.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Fetched => "fetched",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::Reverting => "rolling-back",
            Self::Reverted => "rolled-back",
            Self::Failed(_) => "failed",
            Self::Unreachable(_) => "unreachable",
            Self::Skipped(_) => "skipped",
        }
    }
}

/// What is known of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProgress {
    /// Where it is.
    pub state: HostState,
    /// Its wave, counted from 0, and its group in there.
    pub place: (usize, usize),
    /// Why it was lost when it first was, whatever it did later.
    pub failure: Option<Because>,
    /// Since when it has no control stream, by the engine's time, and why.
    pub away: Option<(Duration, String)>,
    /// Where its bytes came from.
    pub bytes: BytesBySource,
    /// Chunks it has, and knows of.
    pub chunks: (u32, u32),
    /// What it says it waits for; empty for nothing.
    pub waiting: String,
    /// The code of that, where it says one.
    pub waiting_code: Option<Reason>,
    /// The peers that it said it has no dealings with, and why: its word alone.
    pub shunned: BTreeMap<NodeId, Reason>,
    /// What it says that it is at and that ends by itself.
    pub step: Option<Step>,
    /// The steps that counted as progress since it was told last: no more than the release has.
    steps: BTreeSet<(Reason, String)>,
    /// How long fetching took.
    pub fetch: Duration,
    /// How long making the release's directory took.
    pub prepare: Duration,
    /// How long promoting took.
    pub promote: Duration,
    /// Whether it holds to the finalization.
    pub is_finalized: bool,
    /// Whether it said last that it has the release live.
    pub(super) is_live: bool,
    /// Whether it was told of the release before this rollout, by an earlier grant.
    pub(super) was_told: bool,
    /// Whether it may have the release live by our doing: it was told to promote, or said that it has it, and the release
    /// is not its stable one. These are the hosts that a rollback reaches. Where others directed the release before, so may have
    /// any that has not said anything.
    pub is_touched: bool,
    /// Whether a person goes on without it, though it is lost.
    pub(super) is_excused: bool,
    /// Whether going back was given up.
    pub(super) gave_up: bool,
    /// The latest order for it.
    pub(super) order: Option<Told>,
    pub(super) moved_at: Duration,
    pub(super) counter: u64,
    /// The highest counter that was heard before this rollout.
    pub(super) counter_before: u64,
    /// Whether it counts anew, below what it counted before: its record was lost or set back.
    pub has_lost_count: bool,
    /// Whether all that came of it is old: somebody says it again, or it counts anew.
    pub is_old_news: bool,
    /// What it saw that nobody honest does.
    pub saw: Vec<Sighting>,
    /// Since when it had heard nothing new, when it was reached.
    pub stale_since: Option<UnixMillis>,
    bytes_before: BytesBySource,
}

/// An order to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) number: u64,
    pub(super) stage: Stage,
    /// Whether it said that it follows it.
    is_heard: bool,
    /// When it was told first.
    given_at: Duration,
    /// When it is told again, unless it says so before.
    again_at: Duration,
    /// How often it was told again.
    times: u32,
    /// Since when it refuses it, and why.
    refused: Option<(Duration, Because)>,
}

/// What is to be done about an order that a host does not follow.
pub(super) enum Unheard {
    /// Nothing yet.
    Nothing,
    /// Tell it again, and dial it from here where so.
    Tell { is_suspect: bool },
    /// It will not.
    Refused(Because),
}

impl Told {
    pub(super) fn new(now: Duration, number: u64, stage: Stage) -> Self {
        Self {
            number,
            stage,
            is_heard: false,
            given_at: now,
            again_at: now + RETELL.0,
            times: 0,
            refused: None,
        }
    }

    /// When there is something to do about it.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let refused = self.refused.as_ref().map(|(since, _)| *since + REFUSAL);
        let again_at = (!self.is_heard).then_some(self.again_at);
        refused.into_iter().chain(again_at).min()
    }

    /// What is due now, which counts as done.
    pub(super) fn take_due(&mut self, now: Duration) -> Unheard {
        if let Some((since, reason)) = &self.refused
            && *since + REFUSAL <= now
        {
            let text = format!("refused: {reason}");
            return Unheard::Refused(reason.code.because(text));
        }
        if self.is_heard || self.again_at > now {
            return Unheard::Nothing;
        }
        let (first, longest) = RETELL;
        self.again_at = now + (first * 2_u32.pow(self.times.min(8))).min(longest);
        self.times += 1;
        let is_suspect = self.times == TOLD_IN_VAIN_MAX;
        Unheard::Tell { is_suspect }
    }
}

impl HostProgress {
    pub(super) fn new(place: (usize, usize)) -> Self {
        Self {
            state: HostState::Waiting,
            place,
            failure: None,
            away: Some((Duration::ZERO, "not connected".into())),
            bytes: BytesBySource::default(),
            chunks: (0, 0),
            waiting: String::new(),
            waiting_code: None,
            shunned: BTreeMap::new(),
            step: None,
            steps: BTreeSet::new(),
            fetch: Duration::ZERO,
            prepare: Duration::ZERO,
            promote: Duration::ZERO,
            is_finalized: false,
            is_live: false,
            was_told: false,
            is_touched: false,
            is_excused: false,
            gave_up: false,
            order: None,
            moved_at: Duration::ZERO,
            counter: 0,
            counter_before: 0,
            has_lost_count: false,
            is_old_news: false,
            saw: Vec::new(),
            stale_since: None,
            bytes_before: BytesBySource::default(),
        }
    }

    /// Whether it was told something that it has not done yet.
    pub fn is_busy(&self) -> bool {
        use HostState::{Fetching, Promoting, Reverting};
        matches!(self.state, Fetching | Promoting | Reverting)
    }

    /// Whether it failed or is not reached, and nobody goes on without it.
    pub fn is_lost(&self) -> bool {
        let is_lost = matches!(self.state, HostState::Failed(_) | HostState::Unreachable(_));
        is_lost && !self.is_excused
    }

    /// How long it has made no move by `now`.
    pub fn still(&self, now: Duration) -> Duration {
        now.saturating_sub(self.moved_at)
    }

    /// When it is given up, unless it moves or comes back.
    pub(super) fn deadline(&self, config: &Config) -> Duration {
        let by_moves = match &self.away {
            Some((since, _)) => *since + config.away_max,
            None => self.moved_at + self.patience(config),
        };
        let whole = self.whole_deadline(config);
        whole.map_or(by_moves, |whole| whole.min(by_moves))
    }

    /// When going back is given up however often the host says that it moves, or is lost and comes back: a host that lies keeps no
    /// rollback from ending. One that does not is through by then: it was away once, stood still once, and went through each step.
    fn whole_deadline(&self, config: &Config) -> Option<Duration> {
        let told = self.order.as_ref()?;
        let is_going_back = self.state == HostState::Reverting;
        let steps = config.steps_back.total;
        is_going_back.then(|| told.given_at + config.away_max + config.stall_max + steps)
    }

    /// How long what it says that it is at may take: what it says, and no longer than the release says of anything.
    pub(super) fn step_limit(&self, config: &Config) -> Option<Duration> {
        let step = self.step.as_ref()?;
        Some(step.limit().min(self.bounds(config).longest))
    }

    /// What it may say of steps.
    fn bounds<'a>(&self, config: &'a Config) -> &'a Steps {
        match self.state {
            HostState::Reverting => &config.steps_back,
            _ => &config.steps,
        }
    }

    /// How long it may go on without progress. What it is at may have a longer limit of its own, which the release says: it ends
    /// by that, and with a reason.
    pub(super) fn patience(&self, config: &Config) -> Duration {
        let own = self.step_limit(config).filter(|_| !config.is_stall_exact);
        let own = own.map(|own| own + STEP_MARGIN);
        own.map_or(config.stall_max, |own| own.max(config.stall_max))
    }

    /// It is given an order.
    pub(super) fn be_told(&mut self, now: Duration, number: u64, stage: Stage) {
        self.order = Some(Told::new(now, number, stage));
        self.moved_at = now;
        self.steps.clear();
    }

    /// Until when it holds back hosts of older waves, where it goes back: it may say that it moves, but not for ever.
    pub(super) fn holds_back_until(&self) -> Option<Duration> {
        let told = self.order.as_ref()?;
        Some((self.moved_at + STRAGGLER).min(told.given_at + HELD_BACK_MAX))
    }

    /// Whether a step is some progress: it begins, and did not before since the host was told last.
    fn begins(&mut self, step: Option<&Step>, config: &Config) -> bool {
        let Some(step) = step else {
            return false;
        };
        let most = usize::try_from(self.bounds(config).count).unwrap_or(usize::MAX);
        let has_room = self.steps.len() < most;
        has_room && self.steps.insert((step.code, step.name.clone()))
    }

    /// Whether a report with a counter that was heard before is of now: it is about an order that was first given now. Then its host
    /// counts anew. Else it is not believed, as somebody may say it again; but the host may be there, and is told what to do.
    fn is_surely_new(&mut self, report: &Report, config: &Config) -> bool {
        let (release, epoch) = (config.release, config.epoch);
        let is_new = report.release == Some(release) && report.directive.0 == epoch;
        self.has_lost_count |= is_new;
        if !is_new {
            self.is_old_news = self.counter == 0;
            self.away = None;
        }
        is_new
    }

    /// How it counts when it is given up.
    pub(super) fn given_up(&self, config: &Config) -> HostState {
        if self.whole_deadline(config) == Some(self.deadline(config)) {
            let told = self.order.as_ref().expect("it was told to go back");
            let seconds = (self.deadline(config) - told.given_at).as_secs();
            let text = format!("it did not go back within {seconds} s, whatever it said meanwhile");
            return HostState::Failed(Reason::Stalled.because(text));
        }
        let stall = self.patience(config).as_secs();
        match &self.away {
            Some((_, reason)) => HostState::Unreachable(Reason::Unreachable.because(reason)),
            None if self.order.as_ref().is_some_and(|told| !told.is_heard) => {
                let text = match self.is_old_news {
                    true => "no report about what it was told: all that comes of it is older, and may be said again by others".to_owned(),
                    false => format!("no report for {stall} s about what it was told"),
                };
                HostState::Failed(Reason::NoReport.because(text))
            }
            None if self.waiting.is_empty() => {
                let text = format!("no progress for {stall} s");
                HostState::Failed(Reason::Stalled.because(text))
            }
            None => {
                let text = format!("no progress for {stall} s; it waits for {}", self.waiting);
                HostState::Failed(Reason::Stalled.because(text))
            }
        }
    }

    /// What it was told may not have reached it.
    pub(super) fn tell_soon(&mut self, now: Duration) {
        if let Some(told) = self.order.as_mut() {
            told.again_at = told.again_at.min(now + RETELL_SOON);
        }
    }

    /// Takes in what the host says, and returns where it is now if that is elsewhere. What was replayed, or overtaken on its way,
    /// says nothing.
    pub(super) fn hear(
        &mut self,
        now: Duration,
        report: Report,
        config: &Config,
    ) -> Option<HostState> {
        let (release, sequence, epoch) = (config.release, config.sequence, config.epoch);
        let refused = report.refused_release();
        let (code, step) = (report.reason(), report.step());
        // A counter never repeats.
        if report.counter <= self.counter {
            return None;
        }
        if report.counter <= self.counter_before && !self.is_surely_new(&report, config) {
            return None;
        }
        self.is_old_news = false;
        self.saw = report.sightings();
        self.stale_since = self.stale_since.or(report.stale_since());
        if self.counter == 0 && self.order.is_none() {
            // Now it is known.
            let standing = &report.standing;
            let is_stable = standing.finalized_sequence >= sequence;
            self.is_touched = standing.live == Some(release) && !is_stable;
        }
        self.counter = report.counter;
        for ShunnedPeer { peer, code } in report.shunned_peers() {
            if self.shunned.len() < SHUNNED_MAX || self.shunned.contains_key(&peer) {
                self.shunned.insert(peer, code);
            }
        }
        if self.away.take().is_some() {
            // It could not say that it moved.
            self.moved_at = now;
        }
        if self.order.is_none() && report.release == Some(release) {
            // It had been told of this release before: what it fetched then is not fetched now.
            self.bytes_before = report.bytes;
            self.was_told = (1..epoch).contains(&report.directive.0);
        }
        if let Outcome::Refused { reason } = report.outcome {
            if refused == Some(release)
                && let Some(told) = self.order.as_mut().filter(|told| !told.is_heard)
            {
                // Builds before codes say why in words alone.
                let code = code.unwrap_or(Reason::Refused);
                told.refused.get_or_insert((now, code.because(reason)));
            }
            return None;
        }
        if report.release != Some(release) {
            return None;
        }
        let is_live = report.standing.live == Some(release);
        self.is_live = is_live;
        self.is_finalized |= report.standing.finalized_sequence >= sequence;
        self.is_touched = (self.is_touched || is_live) && !self.is_finalized;
        let before = (self.chunks, self.bytes);
        self.bytes = moved(report.bytes, self.bytes_before);
        self.fetch = Duration::from_millis(report.fetch_millis);
        self.prepare = Duration::from_millis(report.prepare_millis);
        self.promote = Duration::from_millis(report.promote_millis);
        self.waiting.clear();
        self.waiting_code = None;
        self.step = None;
        let told = self.order.as_ref().map(|told| (epoch, told.number));
        // Of an order before the latest, which it may never hear of: it follows that one no more.
        let went_back = report.stage == Stage::Revert
            && report.directive.0 == epoch
            && self
                .order
                .as_ref()
                .is_some_and(|it| it.stage != Stage::Revert);
        self.is_touched &= is_live || !went_back;
        let is_about_latest = Some(report.directive) == told || went_back;
        if let Some(order) = self.order.as_mut().filter(|_| is_about_latest) {
            order.is_heard = true;
            order.refused = None;
        }
        if let Outcome::Working {
            chunks_held,
            chunks_total,
            waiting,
        } = report.outcome
        {
            self.chunks = (chunks_held, chunks_total);
            let begins = is_about_latest && self.begins(step.as_ref(), config);
            self.step = step;
            self.waiting_code = code.filter(|_| !waiting.is_empty());
            self.waiting = waiting;
            if begins || (self.chunks, self.bytes) != before {
                self.moved_at = now;
            }
            return None;
        }
        use HostState::{Failed, Fetched, Fetching, Promoted, Promoting, Reverted, Reverting};
        // About an order before the latest: it will speak about that one too. But whoever had it live and has it no more says so of any.
        let has_dropped = self.state == Promoted && !is_live;
        if !is_about_latest && !has_dropped {
            return None;
        }
        let because = |reason: String| code.unwrap_or(Reason::Failed).because(reason);
        let state = match (report.outcome, &self.state) {
            (Outcome::Failed { reason }, Fetching | Promoting | Promoted | Reverting) => {
                Failed(because(reason))
            }
            (Outcome::Failed { reason }, Fetched) if went_back => Failed(because(reason)),
            (Outcome::Done, Fetching) => Fetched,
            (Outcome::Done, Promoting) if is_live => Promoted,
            (Outcome::Done, Promoted) if !is_live => {
                let text = "it had the release live and has it no more";
                Failed(Reason::LiveNoMore.because(text))
            }
            (Outcome::Done, Reverting) if !is_live => {
                self.is_touched = false;
                Reverted
            }
            _ => return None,
        };
        self.moved_at = now;
        Some(state)
    }
}

/// What was fetched since `before`; the rest was held already. An agent that restarted counts from 0 again.
fn moved(now: BytesBySource, before: BytesBySource) -> BytesBySource {
    if now.seed < before.seed || now.peers < before.peers {
        return now;
    }
    let (seed, peers) = (now.seed - before.seed, now.peers - before.peers);
    BytesBySource {
        seed,
        peers,
        reuse: now.reuse + before.seed + before.peers,
    }
}
