//! A directory with all that a test makes, and the command lines run in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use scap_tests::repo::SourceRepo;
use tempfile::TempDir;

use super::process::{Ended, Listed, Running, processes_of};

/// Commands run in its directory, so that what they are given and what they say is short.
pub struct Scene {
    root: TempDir,
    commands: AtomicU32,
}

impl Scene {
    /// With a home of its own, and nothing else.
    pub fn empty() -> Self {
        let scene = Self {
            root: tempfile::Builder::new()
                .prefix("scap-cli-")
                .tempdir()
                .unwrap(),
            commands: AtomicU32::new(0),
        };
        for folder in ["home", "tmp", "output"] {
            std::fs::create_dir(scene.path(folder)).unwrap();
        }
        scene
    }

    /// With a fleet's state in `st`.
    pub fn new() -> Self {
        let scene = Self::empty();
        scene.scap(&["init", "--state", "st"]).exits(0);
        scene
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root().join(below)
    }

    pub fn write(&self, below: &str, content: impl AsRef<[u8]>) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A repo in `repo`, and its first commit.
    pub fn repo(&self) -> (SourceRepo, String) {
        let repo = SourceRepo::create(&self.path("repo"));
        repo.write("README.md", "# A site\n");
        repo.write("src/main.js", "serve(8080);\n".repeat(50));
        let commit = repo.commit("A site");
        (repo, commit)
    }

    /// A command line with nobody's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scap-under-test"));
        command
            .args(arguments)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"));
        command
    }

    /// Starts the coordinator's command line; `agent` first is the agent's.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(&mut self.command(arguments))
    }

    pub fn start_command(&self, command: &mut Command) -> Running {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        Running::start(command, &self.path(format!("output/{number}")))
    }

    /// Runs a command line to its end.
    #[track_caller]
    pub fn scap(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end()
    }

    /// All processes that were started here and have not ended.
    pub fn processes(&self) -> Vec<Listed> {
        processes_of(&self.root().canonicalize().unwrap())
    }
}

/// Changes one byte of a file.
pub fn flip_a_byte(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x41;
    std::fs::write(path, bytes).unwrap();
}
