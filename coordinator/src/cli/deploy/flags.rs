//! The flags that say how a rollout goes. They are recorded, so that whoever goes on with it keeps to them.

use std::time::Duration;

use clap::{Args, ValueEnum};
use scap_proto::{release::TopologyKind, transport::Rate};

use super::{DeployArgs, dead_man};
use crate::{
    cli::{CliError, exit, scap::ScapArgs, worded::Worded},
    rollout::{Budget, Prefetch},
    scap::Selection,
    state::Flags,
};

/// How a release goes through a fleet, but for what the release says itself.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct HowArgs {
    /// Deploy to none but these hosts: a name, `web*`, `web[01:10]`, `~` and a regular expression; `!` first for all others
    #[arg(short, long, value_name = "HOSTS")]
    pub(in crate::cli) limit_hosts: Option<Selection>,
    /// How chunks spread
    #[arg(long, value_enum, default_value_t = Topology::Lanes)]
    pub(in crate::cli) topology: Topology,
    /// Cap all that leaves the seed, in Mbit/s, headers included
    #[arg(long, value_name = "N")]
    pub(in crate::cli) upload_mbit: Option<Rate>,
    /// Cap what leaves the seed for other sites
    #[arg(long, value_name = "N")]
    pub(in crate::cli) border_upload_mbit: Option<Rate>,
    /// How long each wave soaks before the next, in seconds [default: the scap folder's or the fleet file's, else 0; of a
    /// rollback 0]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(in crate::cli) soak: Option<Duration>,
    /// Have a host go back by itself that has the release live and hears of nobody for so long, as N, Ns, Nm or Nh, from 10 s to
    /// 24 h [default: `dead_man` of the fleet file, else never]
    #[arg(long, value_name = "TIME", value_parser = dead_man::parse)]
    pub(in crate::cli) dead_man: Option<Duration>,
    /// How many hosts each wave may lose, but the first of several, as N or N% [default: the scap folder's or the fleet file's, else 0]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) budget: Option<Budget>,
    /// Who fetches before its turn to promote: canary (the first wave, then all others), wave (nobody), or all [default: the fleet
    /// file's, else canary]
    #[arg(long, value_name = "WHO")]
    pub(in crate::cli) prefetch: Option<Prefetch>,
    /// How long to wait for a person where one is needed, in seconds [default: for an approval as long as it takes; when too many
    /// hosts are unreachable so too on a terminal, and elsewhere not at all]
    #[arg(long, value_name = "SECS")]
    pub(in crate::cli) hold: Option<u64>,
    /// How long to wait for a host to be reached, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10)]
    pub(in crate::cli) connect_timeout: u64,
    /// How long a host may be away, once reached, before it is given up, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub(in crate::cli) away_timeout: u64,
    /// How long a host may make no progress before it counts as failed, in seconds [default: `deadline` of the fleet file, else
    /// 300]
    #[arg(long, value_name = "SECS")]
    pub(in crate::cli) stall_timeout: Option<u64>,
}

impl DeployArgs {
    /// What was said of how it goes: for the record.
    pub(in crate::cli) fn words(&self) -> Flags {
        let of_folder = self.scap.words().clone();
        self.how
            .words()
            .clone()
            .into_iter()
            .chain(of_folder)
            .collect()
    }

    /// The same, and where nothing was said, as was said `before`.
    ///
    /// # Errors
    /// Where a flag of before is none of this program, or what it was given says nothing to it.
    pub(in crate::cli) fn over(self, before: &Flags) -> Result<Self, CliError> {
        let failed = |problem: &str| {
            CliError::usage(format!("keep to the flags that it began with: {problem}"))
                .code(exit::STOPPED)
                .hint("--forget-flags goes by those alone that are given now".to_owned())
        };
        let of_rollout = |name: &str| Worded::<HowArgs>::names().any(|it| it == name);
        let is_known = |name: &str| of_rollout(name) || ScapArgs::has_word(name);
        if let Some(name) = before.keys().find(|name| !is_known(name)) {
            let problem = format!("--{} is none of this version", name.escape_debug());
            return Err(failed(&problem));
        }
        let malformed = |error: clap::Error| {
            let said = error.to_string();
            let first = said.lines().next().unwrap_or_default();
            let problem = first.strip_prefix("error: ").unwrap_or(first);
            failed(&problem.replace(char::is_control, "?"))
        };
        Ok(Self {
            how: self.how.over(before).map_err(malformed)?,
            scap: self.scap.over(before).map_err(malformed)?,
            ..self
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Topology {
    /// As a swarm, with most chunks pushed along two trees over all hosts
    Lanes,
    /// Each host fetches from all its neighbours; a slow host delays the others less
    Swarm,
    /// Each host fetches from one upstream
    Tree,
}

impl Topology {
    pub(in crate::cli) fn kind(self) -> TopologyKind {
        match self {
            Self::Lanes => TopologyKind::Lanes,
            Self::Swarm => TopologyKind::Swarm,
            Self::Tree => TopologyKind::Tree,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn parse(flags: &[&str]) -> DeployArgs {
        let command = DeployArgs::augment_args(Command::new("deploy").no_binary_name(true));
        let all = ["--state=st", "--repo=r", "--fleet=f"];
        let matches = command.get_matches_from([&all, flags].concat());
        DeployArgs::from_arg_matches(&matches).unwrap()
    }

    const EACH: [&str; 16] = [
        "--limit-hosts=web*",
        "--topology=tree",
        "--upload-mbit=100",
        "--border-upload-mbit=50",
        "--soak=600",
        "--dead-man=10m",
        "--budget=10%",
        "--prefetch=all",
        "--hold=60",
        "--connect-timeout=5",
        "--away-timeout=30",
        "--stall-timeout=200",
        "--define=group_size:4",
        "--conf=/srv/other.cfg",
        "--no-local-config=true",
        "--host-name=deploy1.example",
    ];

    #[test]
    fn every_flag_of_how_it_goes_is_recorded_and_comes_back() {
        let first = parse(&EACH);
        let words = first.words();
        assert_eq!(words.len(), EACH.len());
        let again = parse(&[]).over(&words).unwrap();
        assert_eq!(again.words(), words);
        let debug = |args: &DeployArgs| format!("{:?} {:?}", *args.how, args.scap);
        assert_eq!(debug(&again), debug(&first));
        let names = Worded::<HowArgs>::names().filter(|name| !words.contains_key(name));
        assert_eq!(names.collect::<Vec<_>>(), Vec::<String>::new(), "not tried");
        // Where nothing was recorded it is as if nothing was said.
        let plain = parse(&["--soak=1"]).over(&Flags::new()).unwrap();
        assert_eq!(debug(&plain), debug(&parse(&["--soak=1"])));
        let over = parse(&["--soak=1"]).over(&words).unwrap();
        assert_eq!(over.how.soak, Some(Duration::from_secs(1)));
        assert_eq!(over.how.dead_man, first.how.dead_man);
    }

    #[test]
    fn a_flag_of_the_record_that_says_nothing_here_is_named() {
        for (name, value, problem) in [
            ("mesh", "1", "--mesh is none of this version"),
            ("state", "other", "--state is none of this version"),
            ("take\u{1b}", "1", "u{1b} is none"),
            ("soak", "long", "'--soak <SECS>'"),
            ("dead-man", "1s", "are allowed"),
        ] {
            let flags = Flags::from([(name.to_owned(), vec![value.to_owned()])]);
            let error = parse(&[]).over(&flags).unwrap_err();
            let error = format!("{error:?}");
            assert!(error.contains(problem), "{error}");
        }
    }
}
