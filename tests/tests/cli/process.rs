//! Processes that a test starts, and what they said.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scap_tests::fleet::wait_until;
use serde_json::Value;

/// How long any command may take, in a debug build on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A process whose output goes to files; dropping it kills it.
pub struct Running {
    shown: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `command` with its output in `<output>.out` and `<output>.err`.
    pub fn start(command: &mut Command, output: &Path) -> Self {
        let (stdout, stderr) = (output.with_extension("out"), output.with_extension("err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self {
            shown: format!("{command:?}"),
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until its standard error holds `text`.
    #[track_caller]
    pub fn wait_until_it_says(&mut self, text: &str) {
        wait_until(&format!("{}: `{text}`", self.shown), LIMIT, || {
            let said = self.said();
            if said.contains(text) {
                return Ok(());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}: {said}", self.shown);
            Err(said)
        });
    }

    /// Whether it has ended by itself.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let what = format!("the end of {}", self.shown);
        let status = wait_until(&what, LIMIT, || {
            let ended = self.child.try_wait().unwrap();
            ended.ok_or_else(|| self.said())
        });
        let read = |path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        Ended::new(
            self.shown.clone(),
            status,
            read(&self.stdout),
            read(&self.stderr),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    command: String,
    status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What holds for every command: it does not panic, and there is no escape sequence where nobody has a
    /// terminal.
    #[track_caller]
    fn new(command: String, status: ExitStatus, stdout: String, stderr: String) -> Self {
        let ended = Self {
            command,
            status,
            stdout,
            stderr,
        };
        for text in [&ended.stdout, &ended.stderr] {
            assert!(!text.contains('\x1b'), "an escape sequence: {ended:#?}");
            assert!(!text.contains("panicked at"), "a panic: {ended:#?}");
        }
        ended
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "`{}`, signal {:?}: {self:#?}",
            self.command,
            self.status.signal()
        );
        self
    }

    /// Whether this signal ended it.
    pub fn was_killed_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal.as_raw())
    }

    /// Whether it left a core, or would have had there been a place for one.
    pub fn dumped_core(&self) -> bool {
        self.status.core_dumped()
    }

    /// Whether its exit code is this one.
    pub fn is_code(&self, code: i32) -> bool {
        self.status.code() == Some(code)
    }

    /// That standard error holds all these.
    #[track_caller]
    pub fn says(self, pieces: &[&str]) -> Self {
        for piece in pieces {
            assert!(self.stderr.contains(piece), "no `{piece}` in {self:#?}");
        }
        self
    }

    /// That standard output holds all these.
    #[track_caller]
    pub fn prints(self, pieces: &[&str]) -> Self {
        for piece in pieces {
            assert!(self.stdout.contains(piece), "no `{piece}` in {self:#?}");
        }
        self
    }

    /// That it failed as every command fails: `error:` with what was being done and the cause, a hint, and
    /// nothing on standard output.
    #[track_caller]
    pub fn fails(self, code: i32, doing: &str, cause: &str, hint: &str) -> Self {
        let ended = self.exits(code).says(&[doing, cause]);
        let told = ended.stderr.split_once("error: ").map(|(_, told)| told);
        let told = told.unwrap_or_else(|| panic!("no `error:` in {ended:#?}"));
        assert!(told.starts_with(doing), "not about `{doing}`: {ended:#?}");
        let given = told.split_once("hint: ").map(|(_, hint)| hint);
        let given = given.unwrap_or_else(|| panic!("no hint in {ended:#?}"));
        assert!(given.contains(hint), "no hint `{hint}` in {ended:#?}");
        assert_eq!(ended.stdout, "", "a failure prints no result: {ended:#?}");
        ended
    }

    /// That it was called in a way that it cannot be: exit code 2, why, and where the usage is.
    #[track_caller]
    pub fn fails_as_misuse(self, pieces: &[&str]) -> Self {
        let ended = self.exits(2).says(&["error: ", "--help"]).says(pieces);
        assert_eq!(ended.stdout, "", "{ended:#?}");
        ended
    }

    /// The one object that is all of its standard output.
    #[track_caller]
    pub fn json(&self, schema: &str) -> Value {
        let line = self.stdout.strip_suffix('\n').unwrap_or_default();
        assert!(
            !line.is_empty() && !line.contains('\n'),
            "not one line: {self:#?}"
        );
        let value: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("not an object: {error}: {self:#?}"));
        assert_eq!(value["schema"], schema, "{self:#?}");
        value
    }
}

/// A process as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub pid: u32,
    pub parent: u32,
    pub command: String,
}

/// The processes that run in, or were started with a name of something in, `directory`.
pub fn processes_of(directory: &Path) -> Vec<Listed> {
    let text = directory.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let found = all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // Another process may end at any moment, which is no error.
        let at = entry.path();
        let command = std::fs::read(at.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let cwd = std::fs::read_link(at.join("cwd")).unwrap_or_default();
        if !cwd.starts_with(directory) && !command.contains(text) {
            return None;
        }
        let stat = std::fs::read_to_string(at.join("stat")).ok()?;
        // After the command's name, which is in parentheses: state, parent.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        let parent = fields.get(1)?.parse().ok()?;
        Some(Listed {
            pid,
            parent,
            command,
        })
    });
    found.collect()
}

/// Sends a signal to a process of this test.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    // One that is gone needs no signal.
    let _ = kill_process(pid, signal);
}
