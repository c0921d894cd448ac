//! What a simulation came to.

use std::{collections::BTreeSet, time::Duration};

use scap_agent::swarm::DropReason;

use super::{Host, NodeIndex, ORIGIN, Setup, Simulation, node::Node};

/// What a simulation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When each host was complete, if it is.
    pub completed_at: Vec<Option<Duration>>,
    /// No way of spreading the content is faster: `max(F/u_s, F/d_min, N·F/(u_s + Σu_i))`, with `F`
    /// its size, `u_s` the origin's uplink, `u_i` and `d_i` the hosts' links; and where there are sites `F/b` for each
    /// border `b`, that of the origin's site included: all that leaves it goes once at least.
    pub bound: Duration,
    /// By wave, in order.
    pub waves: Vec<WaveOutcome>,
    /// Bytes that crossed each site's border, in and out, in copies of the content.
    pub border_copies: Vec<(f64, f64)>,
    /// Bytes that left the origin, in copies of the content.
    pub origin_copies: f64,
    /// Of the bytes that hosts received, the share that was of no use: chunks they had by then, and
    /// parts of chunks that were cancelled.
    pub duplicate_share: f64,
    /// Announcements, requests and so on.
    pub messages: u64,
    /// Peers that were dropped, in order.
    pub dropped: Vec<Dropped>,
    /// Digest of all events: equal for equal runs.
    pub trace: u64,
}

/// What one wave came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaveOutcome {
    /// Which.
    pub wave: u32,
    /// How many hosts are in it.
    pub hosts: usize,
    /// From the end of the wave before until its last host was complete; `None` if one is not.
    pub took: Option<Duration>,
    /// No way of spreading the content to it is faster, with the origin and the hosts of earlier waves as sources:
    /// [`Outcome::bound`] of it alone.
    pub bound: Duration,
}

/// A peer that an engine gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// When.
    pub at: Duration,
    /// Whose engine.
    pub by: NodeIndex,
    /// Which peer.
    pub peer: NodeIndex,
    /// Why.
    pub reason: DropReason,
}

impl Outcome {
    /// When the last host was complete; `None` if one is not.
    pub fn last_completed_at(&self) -> Option<Duration> {
        self.completed_at
            .iter()
            .copied()
            .try_fold(Duration::ZERO, |last, at| Some(last.max(at?)))
    }

    /// [`Self::last_completed_at`] as a multiple of the bound.
    pub fn bound_ratio(&self) -> Option<f64> {
        Some(self.last_completed_at()?.as_secs_f64() / self.bound.as_secs_f64())
    }
}

impl Simulation {
    /// What it has come to so far.
    pub fn outcome(&self) -> Outcome {
        let hosts = 1..self.nodes.len();
        let received: u64 = hosts.clone().map(|at| self.network.taken_bytes(at)).sum();
        let useful = |it: &Node| {
            let bytes = u64::from(it.stored) * u64::from(self.setup.chunk_bytes);
            let first = u64::from(self.setup.first_chunk_bytes);
            let other = u64::from(self.setup.chunk_bytes);
            let has_first = it.store.first().is_some_and(|kept| kept.is_something());
            bytes - if has_first { other } else { 0 } + if has_first { first } else { 0 }
        };
        let useful: u64 = self.nodes[1..].iter().map(useful).sum();
        Outcome {
            completed_at: self.nodes[1..].iter().map(|it| it.completed_at).collect(),
            bound: bound(&self.setup),
            waves: self.waves(),
            border_copies: self.border_copies(),
            origin_copies: self.network.sent_bytes(ORIGIN) as f64 / size(&self.setup),
            duplicate_share: received.saturating_sub(useful) as f64 / received.max(1) as f64,
            messages: self.messages,
            dropped: self.dropped.clone(),
            trace: self.network.trace(),
        }
    }
}

impl Simulation {
    fn waves(&self) -> Vec<WaveOutcome> {
        let waves: BTreeSet<u32> = self.setup.hosts.iter().map(|host| host.wave).collect();
        let mut began = Some(Duration::ZERO);
        let mut outcomes = Vec::new();
        for wave in waves {
            let hosts = self.setup.hosts.iter().zip(&self.nodes[1..]);
            let hosts = hosts.filter(|(host, _)| host.wave == wave);
            let completed: Vec<Option<Duration>> =
                hosts.map(|(_, node)| node.completed_at).collect();
            let ended = completed
                .iter()
                .try_fold(Duration::ZERO, |last, at| Some(last.max((*at)?)));
            outcomes.push(WaveOutcome {
                wave,
                hosts: completed.len(),
                took: ended
                    .zip(began)
                    .map(|(ended, began)| ended.saturating_sub(began)),
                bound: wave_bound(&self.setup, wave),
            });
            began = ended;
        }
        outcomes
    }

    fn border_copies(&self) -> Vec<(f64, f64)> {
        let copies = |bytes: u64| bytes as f64 / size(&self.setup);
        let crossed = self.network.crossed_bytes().into_iter();
        crossed
            .map(|(into, out)| (copies(into), copies(out)))
            .collect()
    }
}

/// Of all hosts at once.
fn bound(setup: &Setup) -> Duration {
    let hosts: Vec<&Host> = setup.hosts.iter().collect();
    let borders = setup.borders.iter().map(|border| border.bytes_per_sec);
    let border = borders
        .min()
        .map_or(0.0, |slowest| size(setup) / slowest as f64);
    spread(setup, &[&setup.origin], &hosts).max(Duration::from_secs_f64(border))
}

/// Of one wave, after those before it.
fn wave_bound(setup: &Setup, wave: u32) -> Duration {
    let before = setup.hosts.iter().filter(|host| host.wave < wave);
    let sources: Vec<&Host> = std::iter::once(&setup.origin).chain(before).collect();
    let hosts = setup.hosts.iter().filter(|host| host.wave == wave);
    let hosts: Vec<&Host> = hosts.collect();
    let sites = |of: &[&Host]| -> BTreeSet<usize> { of.iter().map(|host| host.site).collect() };
    let have = sites(&sources);
    let lack: BTreeSet<usize> = sites(&hosts).difference(&have).copied().collect();
    let mut least = spread(setup, &sources, &hosts);
    if !setup.borders.is_empty() && !lack.is_empty() {
        let rate = |site: &usize| setup.borders[*site].bytes_per_sec as f64;
        let into = lack.iter().map(rate).fold(f64::INFINITY, f64::min);
        let out: f64 = have.iter().map(rate).sum();
        least = least.max(Duration::from_secs_f64(size(setup) / into.min(out)));
    }
    least
}

/// What links alone allow: one copy leaves the sources, each host takes one, and all that is taken is sent.
fn spread(setup: &Setup, sources: &[&Host], hosts: &[&Host]) -> Duration {
    let size = size(setup);
    let up = |of: &[&Host]| {
        of.iter()
            .map(|host| host.up_bytes_per_sec as f64)
            .sum::<f64>()
    };
    let down = hosts.iter().map(|host| host.down_bytes_per_sec);
    let slowest = down.min().unwrap_or(u64::MAX) as f64;
    let all = hosts.len() as f64 * size;
    let least = (size / up(sources)).max(size / slowest);
    Duration::from_secs_f64(least.max(all / (up(sources) + up(hosts))))
}

fn size(setup: &Setup) -> f64 {
    let others = f64::from(setup.chunk_count() - 1);
    f64::from(setup.first_chunk_bytes) + f64::from(setup.chunk_bytes) * others
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(took: Duration) -> f64 {
        (took.as_secs_f64() * 100.0).round() / 100.0
    }

    /// 12.5 MiB over links of 100 Mbit/s take 1.05 s.
    fn setup(waves: &[u32]) -> Setup {
        let mut setup = Setup::equal(1, waves.len(), 100, 100);
        for (host, &wave) in setup.hosts.iter_mut().zip(waves) {
            host.wave = wave;
        }
        setup
    }

    #[test]
    fn a_wave_has_those_before_it_as_sources() {
        let mut setup = setup(&[0, 1, 1, 1]);
        setup.origin = Host::with_mbit_per_sec(10);
        assert_eq!(seconds(wave_bound(&setup, 0)), 10.49);
        // One copy out of the origin and the first host.
        assert_eq!(seconds(wave_bound(&setup, 1)), 1.05);
        assert_eq!(seconds(bound(&setup)), 10.49);
    }

    #[test]
    fn a_border_counts_in_the_wave_that_first_crosses_it() {
        let setup = setup(&[0, 0, 1, 1]).sites(2, 20, Duration::from_millis(20));
        assert_eq!(seconds(wave_bound(&setup, 0)), 1.05);
        assert_eq!(seconds(wave_bound(&setup, 1)), 5.24);
        assert_eq!(seconds(bound(&setup)), 5.24);
    }

    #[test]
    fn the_next_wave_begins_when_the_one_before_is_complete() {
        let mut simulation = Simulation::new(setup(&[1, 0, 1, 5]));
        simulation.start_all();
        let outcome = simulation.run(Duration::from_secs(600));
        assert!(simulation.is_done());
        let waves = outcome.waves.iter().map(|wave| (wave.wave, wave.hosts));
        assert_eq!(waves.collect::<Vec<_>>(), [(0, 1), (1, 2), (5, 1)]);
        let at = |host: usize| outcome.completed_at[host];
        assert!(at(1) < at(0) && at(1) < at(2) && at(0).max(at(2)) < at(3));
        let all: Option<Duration> = outcome.waves.iter().map(|wave| wave.took).sum();
        assert_eq!(all, outcome.last_completed_at());
        for wave in &outcome.waves {
            assert!(wave.took >= Some(wave.bound), "{wave:?}");
            assert!(wave.took < Some(2 * wave.bound), "{wave:?}");
        }
    }
}
