//! A corpus and what is made from it, fed to a target, and what to keep of an input that it failed on.

use std::{
    any::Any,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Target, mutate::Mutator};

/// Longest that a target may take for one input: thousands of times what it takes, so that a busy machine passes and an
/// input that makes something quadratic does not.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// When enough was tried.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// After so long.
    pub time: Duration,
    /// Or after so many inputs.
    pub inputs: u64,
}

/// An input that a target failed on.
#[derive(Debug)]
pub struct Failure {
    /// The file that has it.
    pub input: PathBuf,
    /// What the target said.
    pub problem: String,
}

/// One target at work.
pub struct Campaign<'a> {
    target: &'a Target,
    /// Where inputs are kept.
    directory: PathBuf,
    /// Holds each input while it is tried: what ends the whole process leaves it there.
    current: File,
}

impl<'a> Campaign<'a> {
    /// Begins one that keeps inputs in `directory`, which is created.
    ///
    /// # Errors
    /// Where the directory or the file in it cannot be made.
    pub fn new(target: &'a Target, directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            target,
            directory: directory.to_owned(),
            current: File::create(directory.join(format!("{}.current", target.name)))?,
        })
    }

    /// Tries inputs as they are.
    ///
    /// # Errors
    /// [`Failure`], the first.
    pub fn replay<'b>(&self, inputs: impl IntoIterator<Item = &'b [u8]>) -> Result<(), Failure> {
        inputs.into_iter().try_for_each(|input| self.attempt(input))
    }

    /// Tries inputs that are made from `corpus` by `seed`; says how many.
    ///
    /// # Errors
    /// [`Failure`], the first.
    pub fn fuzz(&self, corpus: &[Vec<u8>], seed: u64, budget: Budget) -> Result<u64, Failure> {
        let mut mutator = Mutator::new(seed);
        let began = Instant::now();
        let mut tried = 0;
        while tried < budget.inputs && began.elapsed() < budget.time {
            self.attempt(&mutator.input(corpus))?;
            tried += 1;
        }
        Ok(tried)
    }

    fn attempt(&self, input: &[u8]) -> Result<(), Failure> {
        let noted = self.current.set_len(input.len() as u64);
        noted
            .and_then(|()| self.current.write_all_at(input, 0))
            .unwrap_or_else(|error| panic!("{}: {error}", self.directory.display()));
        let began = Instant::now();
        let run = self.target.run;
        let problem = match catch_unwind(AssertUnwindSafe(|| run(input))) {
            Err(panic) => said(&*panic),
            Ok(()) if began.elapsed() > INPUT_TIME_MAX => {
                format!("it took {} s", began.elapsed().as_secs())
            }
            Ok(()) => return Ok(()),
        };
        let name = format!(
            "{}-{}",
            self.target.name,
            &blake3::hash(input).to_hex()[..16]
        );
        let kept = self.directory.join(name);
        fs::write(&kept, input).unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
        Err(Failure {
            input: kept,
            problem,
        })
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget {
        time: Duration::from_secs(60),
        inputs: 10_000,
    };

    fn planted(input: &[u8]) {
        assert!(!input.windows(2).any(|pair| pair == [7, 0xff]), "planted");
    }

    #[test]
    fn a_planted_fault_is_found_and_its_input_kept() {
        let target = Target {
            name: "planted",
            run: planted,
        };
        let directory = tempfile::tempdir().unwrap();
        let campaign = Campaign::new(&target, directory.path()).unwrap();
        let corpus = [vec![7; 20]];
        campaign.replay([corpus[0].as_slice()]).unwrap();
        let failure = campaign.fuzz(&corpus, 1, BUDGET).unwrap_err();
        assert!(failure.problem.contains("planted"), "{failure:?}");
        let kept = fs::read(&failure.input).unwrap();
        assert!(campaign.replay([kept.as_slice()]).is_err());
        let current = fs::read(directory.path().join("planted.current")).unwrap();
        assert_eq!(current, kept, "it is there also where the process ends");
    }

    #[test]
    fn a_target_without_faults_gets_as_many_inputs_as_it_should() {
        let target = Target {
            name: "sound",
            run: |_| {},
        };
        let directory = tempfile::tempdir().unwrap();
        let campaign = Campaign::new(&target, directory.path()).unwrap();
        assert_eq!(campaign.fuzz(&[], 1, BUDGET).unwrap(), BUDGET.inputs);
    }
}
