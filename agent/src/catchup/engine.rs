//! When whom to ask: rounds, in each of which all peers are asked once.
//!
//! Fed one input at a time, and drained of outputs after each. Time is what the driver says it is.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use scap_proto::{
    id::NodeId,
    release::{Environment, RepoPath},
};

use super::choose::Claim;

/// First pause before peers are asked again of which too few answered: a network that comes up with the host, or peers that
/// start at the same time, are there in some seconds. It doubles up to the period.
const RETRY_FIRST: Duration = Duration::from_secs(5);

/// Which releases a round is about; of all where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Of this repo alone.
    pub repo: Option<RepoPath>,
    /// In this environment alone.
    pub environment: Option<Environment>,
}

impl Scope {
    /// Whether a repo and environment is in it.
    pub fn includes(&self, repo: &RepoPath, environment: &Environment) -> bool {
        self.repo.as_ref().is_none_or(|it| it == repo)
            && self.environment.as_ref().is_none_or(|it| it == environment)
    }

    /// Whether all that is in `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
        (self.repo.is_none() || self.repo == other.repo)
            && (self.environment.is_none() || self.environment == other.environment)
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A person, or a program, asks for a round now.
    Pull(Scope),
    /// A peer answered; what it claims was verified or refused.
    Answered {
        /// Which.
        peer: NodeId,
        /// All that it says.
        claims: Vec<Claim>,
    },
    /// A peer did not answer.
    Unanswered {
        /// Which.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// It is the time that [`CatchUp::poll_timeout`] said, or later.
    Timeout,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Ask a peer, and feed what becomes of it.
    Ask {
        /// Which.
        peer: NodeId,
        /// About what.
        scope: Scope,
    },
    /// All were asked: look what follows.
    Ended(Round),
}

/// All that was said in one round.
#[derive(Debug, Default)]
pub struct Round {
    /// About what.
    pub scope: Scope,
    /// Each peer's claims, or why it did not answer.
    pub answers: BTreeMap<NodeId, Result<Vec<Claim>, String>>,
}

impl Round {
    /// How many answered, if only that they have nothing.
    pub fn answered(&self) -> usize {
        self.answers.values().filter(|it| it.is_ok()).count()
    }
}

/// Rounds, one after the other.
#[derive(Debug)]
pub struct CatchUp {
    peers: BTreeSet<NodeId>,
    period: Duration,
    /// Whether it asks by itself.
    is_automatic: bool,
    /// Fewer answers than that, and it asks again soon.
    answers_min: usize,
    rng: Pcg64Mcg,
    round: Option<Round>,
    /// What was asked for that the round under way is not about.
    wanted: Option<Scope>,
    next: Option<Duration>,
    retry: Duration,
    out: VecDeque<Output>,
}

impl CatchUp {
    /// Begins with a round at once where it is automatic. `seed` is for the jitter of its pauses, so that hosts that start
    /// together do not ask together for ever.
    pub fn new(
        peers: BTreeSet<NodeId>,
        period: Duration,
        is_automatic: bool,
        answers_min: usize,
        seed: u64,
    ) -> Self {
        let is_automatic = is_automatic && !peers.is_empty();
        Self {
            answers_min,
            peers,
            period,
            is_automatic,
            rng: Pcg64Mcg::seed_from_u64(seed),
            round: None,
            wanted: None,
            next: is_automatic.then_some(Duration::ZERO),
            retry: RETRY_FIRST,
            out: VecDeque::new(),
        }
    }

    /// Whether a round is under way.
    pub fn is_asking(&self) -> bool {
        self.round.is_some()
    }

    /// When the next round begins; `None` where none does by itself, or one is under way.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.next
    }

    /// What to do next, to be done before the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// One event in.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        match input {
            Input::Pull(scope) => match &self.round {
                None => self.begin(now, scope),
                Some(round) if round.scope.covers(&scope) => {}
                Some(_) => {
                    // Two that are about different repos become one about all.
                    let other = self.wanted.as_ref().is_some_and(|it| *it != scope);
                    self.wanted = Some(if other { Scope::default() } else { scope });
                }
            },
            Input::Answered { peer, claims } => self.heard(now, peer, Ok(claims)),
            Input::Unanswered { peer, reason } => self.heard(now, peer, Err(reason)),
            Input::Timeout => {
                if self.next.is_some_and(|at| at <= now) {
                    self.begin(now, Scope::default());
                }
            }
        }
    }

    fn begin(&mut self, now: Duration, scope: Scope) {
        self.next = None;
        for peer in &self.peers {
            let (peer, scope) = (peer.clone(), scope.clone());
            self.out.push_back(Output::Ask { peer, scope });
        }
        self.round = Some(Round {
            scope,
            answers: BTreeMap::new(),
        });
        self.end_if_over(now);
    }

    fn heard(&mut self, now: Duration, peer: NodeId, answer: Result<Vec<Claim>, String>) {
        let Some(round) = &mut self.round else {
            return;
        };
        if self.peers.contains(&peer) {
            round.answers.insert(peer, answer);
        }
        self.end_if_over(now);
    }

    fn end_if_over(&mut self, now: Duration) {
        let over = self
            .round
            .take_if(|round| round.answers.len() == self.peers.len());
        let Some(round) = over else { return };
        if self.is_automatic {
            let pause = if round.answered() < self.answers_min {
                let pause = self.retry.min(self.period);
                self.retry = 2 * pause;
                pause
            } else {
                self.retry = RETRY_FIRST;
                self.period
            };
            self.next = Some(now + pause * self.rng.random_range(75..125) / 100);
        }
        self.out.push_back(Output::Ended(round));
        if let Some(scope) = self.wanted.take() {
            self.begin(now, scope);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(900);

    fn name(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn engine(is_automatic: bool) -> CatchUp {
        let peers = ["a", "b"].map(name).into();
        CatchUp::new(peers, PERIOD, is_automatic, 2, 1)
    }

    fn asked(engine: &mut CatchUp) -> Vec<String> {
        let outputs = std::iter::from_fn(|| engine.poll_output());
        let text = |output| match output {
            Output::Ask { peer, .. } => peer.to_string(),
            Output::Ended(round) => format!("ended with {}", round.answered()),
        };
        outputs.map(text).collect()
    }

    fn answer(engine: &mut CatchUp, at: Duration, peer: &str) {
        let (peer, claims) = (name(peer), Vec::new());
        engine.handle_input(at, Input::Answered { peer, claims });
    }

    fn fail(engine: &mut CatchUp, at: Duration, peer: &str) {
        let (peer, reason) = (name(peer), "down".into());
        engine.handle_input(at, Input::Unanswered { peer, reason });
    }

    #[test]
    fn all_are_asked_at_the_start_and_again_after_about_the_period() {
        let mut engine = engine(true);
        assert_eq!(engine.poll_timeout(), Some(Duration::ZERO));
        engine.handle_input(Duration::ZERO, Input::Timeout);
        assert_eq!(asked(&mut engine), ["a", "b"]);
        assert_eq!(engine.poll_timeout(), None);
        let at = Duration::from_secs(1);
        answer(&mut engine, at, "b");
        // A second answer of the same, and one of nobody, are none.
        answer(&mut engine, at, "b");
        answer(&mut engine, at, "c");
        assert_eq!(asked(&mut engine), Vec::<String>::new());
        assert!(engine.is_asking());
        answer(&mut engine, at, "a");
        assert_eq!(asked(&mut engine), ["ended with 2"]);
        let next = engine.poll_timeout().unwrap() - at;
        assert!((PERIOD * 3 / 4..PERIOD * 5 / 4).contains(&next), "{next:?}");
        engine.handle_input(at + next - Duration::from_millis(1), Input::Timeout);
        assert!(!engine.is_asking());
        engine.handle_input(at + next, Input::Timeout);
        assert_eq!(asked(&mut engine), ["a", "b"]);
    }

    #[test]
    fn where_too_few_answer_they_are_asked_again_soon_and_ever_more_rarely() {
        let mut engine = engine(true);
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            engine.handle_input(now, Input::Timeout);
            answer(&mut engine, now, "a");
            fail(&mut engine, now, "b");
            let next = engine.poll_timeout().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses[0] < 2 * RETRY_FIRST, "{pauses:?}");
        assert!(pauses[3] > 4 * RETRY_FIRST, "{pauses:?}");
        assert!(
            pauses[11] > PERIOD / 2 && pauses[11] < 2 * PERIOD,
            "{pauses:?}"
        );
    }

    #[test]
    fn a_pull_asks_at_once_and_one_about_another_repo_after_the_round_under_way() {
        let mut engine = engine(false);
        assert_eq!(engine.poll_timeout(), None);
        let of = |repo: &str| Scope {
            repo: Some(repo.parse().unwrap()),
            environment: None,
        };
        let now = Duration::from_secs(7);
        engine.handle_input(now, Input::Pull(of("web/site")));
        assert_eq!(asked(&mut engine), ["a", "b"]);
        engine.handle_input(now, Input::Pull(of("web/site")));
        assert_eq!(asked(&mut engine), Vec::<String>::new());
        engine.handle_input(now, Input::Pull(of("web/other")));
        answer(&mut engine, now, "a");
        fail(&mut engine, now, "b");
        assert_eq!(asked(&mut engine), ["ended with 1", "a", "b"]);
        answer(&mut engine, now, "a");
        answer(&mut engine, now, "b");
        assert_eq!(asked(&mut engine), ["ended with 2"]);
        assert_eq!(engine.poll_timeout(), None, "it asks nobody by itself");
    }

    #[test]
    fn without_peers_a_pull_ends_at_once() {
        let mut engine = CatchUp::new(BTreeSet::new(), PERIOD, true, 2, 1);
        assert_eq!(engine.poll_timeout(), None);
        engine.handle_input(Duration::ZERO, Input::Pull(Scope::default()));
        assert_eq!(asked(&mut engine), ["ended with 0"]);
    }

    #[test]
    fn a_scope_covers_what_is_in_it() {
        let all = Scope::default();
        let one = Scope {
            repo: Some("web/site".parse().unwrap()),
            environment: Some("production".parse().unwrap()),
        };
        assert!(all.covers(&one) && one.covers(&one) && !one.covers(&all));
        let (site, production) = ("web/site".parse().unwrap(), "production".parse().unwrap());
        assert!(all.includes(&site, &production) && one.includes(&site, &production));
        assert!(!one.includes(&"web/other".parse().unwrap(), &production));
        assert!(!one.includes(&site, &"staging".parse().unwrap()));
    }
}
