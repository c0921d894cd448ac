//! Simulated fleets with faults: what is done to them, and what must hold whatever is.
//!
//! ```no_run
//! use std::time::Duration;
//! use scap_coordinator::plan::simulate::{ORIGIN, Setup};
//! use scap_tests::sim::{Run, seed_from_env};
//!
//! let mut run = Run::new(Setup::equal(seed_from_env(), 20, 100, 256));
//! run.when(|fleet| fleet.share_held() > 0.5, |fleet| fleet.crash(ORIGIN));
//! run.to_completion(Duration::from_secs(60));
//! ```

mod checkers;

use std::{fmt::Write as _, time::Duration};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use scap_coordinator::plan::simulate::{Host, NodeIndex, Outcome, Setup, Simulation};

/// Names the environment variable that makes every simulation start from another seed.
pub const SEED_VARIABLE: &str = "SCAP_SIM_SEED";

/// The seed that [`SEED_VARIABLE`] names, or 1.
///
/// # Panics
/// If it is not a number.
pub fn seed_from_env() -> u64 {
    std::env::var(SEED_VARIABLE).map_or(1, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{SEED_VARIABLE}={text}: {error}"))
    })
}

/// What a fault waits for.
enum Cue {
    Time(Duration),
    Condition(Box<dyn Fn(&Simulation) -> bool>),
}

/// What may be done to a fleet.
type Fault = Box<dyn FnOnce(&mut Simulation)>;

/// A fleet and what is to happen to it, in order.
pub struct Run {
    setup: Setup,
    fleet: Simulation,
    faults: Vec<(Cue, Fault)>,
}

impl Run {
    /// A fleet that is about to start.
    pub fn new(setup: Setup) -> Self {
        Self {
            fleet: Simulation::new(setup.clone()),
            setup,
            faults: Vec::new(),
        }
    }

    /// Once `condition` holds, `fault` happens; then the next waits for its condition.
    pub fn when(
        &mut self,
        condition: impl Fn(&Simulation) -> bool + 'static,
        fault: impl FnOnce(&mut Simulation) + 'static,
    ) {
        let cue = Cue::Condition(Box::new(condition));
        self.faults.push((cue, Box::new(fault)));
    }

    /// When the virtual clock shows `time`, `fault` happens; then the next waits for its cue.
    pub fn at(&mut self, time: Duration, fault: impl FnOnce(&mut Simulation) + 'static) {
        self.faults.push((Cue::Time(time), Box::new(fault)));
    }

    /// So many times within `time`, a random host crashes; every other of them comes back, with what it
    /// has stored, 7 s later. Those that do not are returned.
    pub fn churn(&mut self, crashes: u32, time: Duration) -> Vec<NodeIndex> {
        let mut random = Pcg64Mcg::seed_from_u64(self.setup.seed);
        let mut changes = Vec::new();
        let mut gone = Vec::new();
        for crash in 0..crashes {
            let at = time.mul_f64(random.random());
            let host = random.random_range(1..=self.setup.hosts.len());
            changes.push((at, host, false));
            if crash % 2 == 0 {
                changes.push((at + Duration::from_secs(7), host, true));
            } else {
                gone.push(host);
            }
        }
        changes.retain(|(_, host, starts)| !(*starts && gone.contains(host)));
        changes.sort();
        for (at, host, starts) in changes {
            let change = move |fleet: &mut Simulation| {
                if starts {
                    fleet.start(host);
                } else {
                    fleet.crash(host);
                }
            };
            self.at(at, change);
        }
        gone
    }

    /// Starts all hosts, lets everything happen, and runs until each host that runs is complete.
    ///
    /// # Panics
    /// If one is not within `limit` of virtual time, if a fault's condition never came, or if something
    /// was stored that was not verified. The message has the seed, the setup and what was waited for.
    pub fn to_completion(mut self, limit: Duration) -> Outcome {
        self.fleet.start_all();
        for (cue, fault) in std::mem::take(&mut self.faults) {
            match cue {
                Cue::Time(time) => self.fleet.run_to(time),
                Cue::Condition(condition) => {
                    let came = self.fleet.run_until(limit, condition);
                    assert!(came, "a fault's condition never came\n{}", self.describe());
                }
            }
            fault(&mut self.fleet);
        }
        let outcome = self.fleet.run(limit);
        if let Err(problem) = checkers::check(&self.fleet, &self.setup) {
            panic!("{problem}\n{}", self.describe());
        }
        outcome
    }

    fn describe(&self) -> String {
        let setup = &self.setup;
        let mut text = format!(
            "seed {} (run it again with {SEED_VARIABLE}), {:?}, {} links of the origin, chunks by stage {:?} of {} bytes, {} uploads, at {:?}\n",
            setup.seed,
            setup.shape,
            setup.origin_links,
            setup.stages,
            setup.chunk_bytes,
            setup.uploads,
            self.fleet.now(),
        );
        let mut kinds: Vec<(Host, usize)> = vec![(setup.origin, 1)];
        for &host in &setup.hosts {
            match kinds[1..].iter_mut().find(|(kind, _)| *kind == host) {
                Some((_, count)) => *count += 1,
                None => kinds.push((host, 1)),
            }
        }
        for (host, count) in kinds {
            writeln!(text, "{count} × {host:?}").expect("a string takes all");
        }
        for line in self.fleet.waiting().iter().take(20) {
            writeln!(text, "{line}").expect("a string takes all");
        }
        text
    }
}
