//! What is tested, and whether this machine can hold a fleet at all.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The programs that a fleet runs and the test that runs them.
#[derive(Debug, Clone)]
pub struct UnderTest {
    coordinator: Vec<PathBuf>,
    agent: Vec<PathBuf>,
    test: String,
}

/// The programs under test and the name of the test around it; only for tests and benchmarks of
/// this package, for which cargo builds the program.
#[macro_export]
macro_rules! under_test {
    () => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        $crate::fleet::UnderTest::new(
            env!("CARGO_BIN_EXE_scap-under-test"),
            test.strip_suffix("::here").unwrap_or(test),
        )
    }};
}

impl UnderTest {
    /// `program` runs the coordinator's command line, and the agent's as its sub-command `agent`.
    ///
    /// `SCAP_COORDINATOR_BIN` and `SCAP_AGENT_BIN` in the environment take their places: shipped
    /// binaries, each with its own command line.
    #[must_use]
    pub fn new(program: &str, test: &str) -> Self {
        let from_env = |name| std::env::var_os(name).map(|path| vec![PathBuf::from(path)]);
        Self {
            coordinator: from_env("SCAP_COORDINATOR_BIN").unwrap_or_else(|| vec![program.into()]),
            agent: from_env("SCAP_AGENT_BIN")
                .unwrap_or_else(|| vec![program.into(), "agent".into()]),
            test: test.to_owned(),
        }
    }

    /// The words that start the coordinator's command line.
    pub(crate) fn coordinator(&self) -> &[PathBuf] {
        &self.coordinator
    }

    /// The words that start the agent's command line.
    pub(crate) fn agent(&self) -> &[PathBuf] {
        &self.agent
    }

    /// Says that the test does not run here, in one line on stderr that goes past the test runner's
    /// capture: the test will pass.
    ///
    /// # Panics
    /// With `SCAP_TESTS_NO_SKIP` set: in CI a skipped test is a failed one.
    pub(crate) fn skip(&self, why: &str) {
        let line = format!("skipped: {}: {why}\n", self.test);
        assert!(std::env::var_os("SCAP_TESTS_NO_SKIP").is_none(), "{line}");
        // Nothing to do about a closed stderr.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Whether a fleet's tools are here, as far as a look tells.
///
/// # Errors
/// What is missing.
pub(crate) fn tools_are_here() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root, for network namespaces".to_owned());
    }
    for (tool, package) in [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
        ("git", "git"),
    ] {
        let found = Command::new(tool)
            .arg(if package == "iproute2" {
                "-V"
            } else {
                "--version"
            })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Err(format!("needs `{tool}` (Debian package {package})"));
        }
    }
    Ok(())
}
