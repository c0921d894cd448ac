//! A deployment on a terminal: a real one, of which the tests see the screen.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use scap_tests::fleet::wait_until;

use super::fleet::Fleet;
use super::process::{LIMIT, send_signal};

const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// A command whose streams are all one terminal; dropping it kills it.
struct Terminal {
    child: Child,
    keyboard: File,
    written: Arc<Mutex<Vec<u8>>>,
    /// Reads what is written there, to the end.
    reader: JoinHandle<()>,
    started: Instant,
}

impl Terminal {
    /// Starts it as the one in the foreground, so that it gets what Ctrl-C sends.
    fn start(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: u16::try_from(ROWS).unwrap(),
            ws_col: u16::try_from(COLUMNS).unwrap(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NOCTTY.bits()).unwrap())
            .open(name.to_str().unwrap())
            .unwrap();
        let mut wrapped = Command::new("setsid");
        wrapped
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .stdin(side.try_clone().unwrap())
            .stdout(side.try_clone().unwrap())
            .stderr(side);
        let child = wrapped.spawn().unwrap();
        // Which closes them here: the end is seen when nobody else has them open.
        drop(wrapped);
        let keyboard = File::from(master);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, seen) = (keyboard.try_clone().unwrap(), written.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                seen.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self {
            child,
            keyboard,
            written,
            reader,
            started: Instant::now(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    fn screen(&self) -> Screen {
        let mut screen = Screen::default();
        screen.write(&self.written());
        screen
    }

    /// Waits until the screen shows what is looked for, and returns that.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        wait_until(what, LIMIT, || {
            let lines = self.screen().lines();
            find(&lines).ok_or(lines)
        })
    }

    #[track_caller]
    fn wait_for_text(&self, text: &str) {
        let is_there = |lines: &[String]| lines.iter().any(|line| line.contains(text));
        self.wait_for(text, |lines| is_there(lines).then_some(()));
    }

    /// Waits for its end: the exit code, and what the terminal shows then.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, Screen) {
        let status = wait_until("the end", LIMIT, || {
            let ended = self.child.try_wait().unwrap();
            ended.ok_or_else(|| self.screen().lines())
        });
        // The last of it may be on its way.
        wait_until("all that it wrote", LIMIT, || {
            let is_read = self.reader.is_finished();
            is_read.then_some(()).ok_or_else(|| self.screen().lines())
        });
        let screen = self.screen();
        assert_eq!(screen.at, (screen.rows.len(), 0), "the last line is whole");
        (status.code(), screen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows, and what has left it at the top.
#[derive(Debug, Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    /// Row and column of the cursor.
    at: (usize, usize),
}

impl Screen {
    fn write(&mut self, text: &str) {
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '\r' => self.at.1 = 0,
                '\n' => self.at.0 += 1,
                '\u{1b}' => {
                    assert_eq!(chars.next(), Some('['), "{text:?}");
                    let mut number = String::new();
                    let command = loop {
                        match chars.next() {
                            Some(digit @ '0'..='9') => number.push(digit),
                            Some(command) => break command,
                            // The rest is on its way.
                            None => return,
                        }
                    };
                    self.obey(command, number.parse().unwrap_or(1));
                }
                _ => self.put(char),
            }
        }
    }

    fn obey(&mut self, command: char, number: usize) {
        let (row, column) = self.at;
        let top = self.rows.len().max(row + 1).saturating_sub(ROWS);
        match command {
            'A' => self.at.0 = row.saturating_sub(number).max(top),
            'K' => {
                if let Some(row) = self.rows.get_mut(row) {
                    row.truncate(column);
                }
            }
            'J' => {
                self.rows.truncate(row + 1);
                self.obey('K', 1);
                if column == 0 {
                    self.rows.truncate(row);
                }
            }
            other => panic!("escape sequence {other}"),
        }
    }

    fn put(&mut self, char: char) {
        if self.at.1 == COLUMNS {
            self.at = (self.at.0 + 1, 0);
        }
        let (row, column) = self.at;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let row = &mut self.rows[row];
        if row.len() <= column {
            row.resize(column + 1, ' ');
        }
        row[column] = char;
        self.at.1 += 1;
    }

    fn lines(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect()).collect()
    }
}

/// Where a line is that begins so.
fn place(lines: &[String], beginning: &str) -> Option<usize> {
    lines.iter().position(|line| line.starts_with(beginning))
}

fn deploy(fleet: &Fleet, more: &[&str]) -> Terminal {
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--repo",
        "repo",
    ];
    Terminal::start(&fleet.scene.command(&[&arguments[..], more].concat()))
}

#[test]
fn a_plan_is_shown_and_only_a_yes_lets_it_go_on() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    for (keys, code) in [
        ("n\n", 3),
        ("\n", 3),
        ("\u{4}", 3),
        ("\u{3}", 3),
        ("y\n", 0),
    ] {
        let mut terminal = deploy(&fleet, &[]);
        terminal.wait_for_text("deploy? [y/N]");
        let lines = terminal.screen().lines();
        for line in [
            "deploy repo to production  ",
            "snapshot ",
            "from  nothing",
            "seed  sends about ",
            "wave canary  1 hosts  may lose 0",
            "  web1",
            "wave rest  1 hosts  may lose 0",
            "lock  ours: ",
        ] {
            assert!(place(&lines, line).is_some(), "no `{line}`: {lines:#?}");
        }
        let is_live = |at: usize| fleet.agents[at].live("repo").exists();
        assert!(!is_live(0) && !is_live(1), "nobody has said yes");
        terminal.types(keys);
        let (ended, screen) = terminal.end();
        let lines = screen.lines();
        assert_eq!(ended, Some(code), "{keys:?}: {lines:#?}");
        let told = match code {
            0 => "done, in ",
            _ => "error: not confirmed; no host was told anything",
        };
        assert!(place(&lines, told).is_some(), "{keys:?}: {lines:#?}");
        assert_eq!(place(&lines, "wait "), None, "{lines:#?}");
    }
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn a_terminal_shows_where_a_deployment_is_until_it_ends_and_ctrl_c_pauses_it() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    let second = repo.commit("Another");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut terminal = deploy(&fleet, &["--yes", "--hosts"]);
    // Lines that stay, and the others below them.
    let wait = terminal.wait_for("what it waits for", |lines| {
        let stays = place(lines, "wave canary: fetch on 1 hosts")?;
        let title = place(lines, "deploy repo  to production  ")?;
        let wait = place(lines, "wait   chunks of canary")?;
        let host = place(lines, "host   web1")?;
        let is_whole = lines[title].contains("[Ctrl-C pauses safely]")
            && lines[title + 1].starts_with("wave   1/2 canary  fetch 0/1  promoted 0/1")
            && lines[title + 2].starts_with("fleet  new \u{b7}")
            && lines[wait].contains("on 1 host: web1");
        (is_whole && stays < title && title < wait && wait < host).then(|| lines[wait].clone())
    });
    // It is drawn again, in place.
    terminal.wait_for("a later time", |lines| {
        let at = place(lines, "wait   chunks of canary")?;
        let others = lines.iter().filter(|line| line.starts_with("wait "));
        (lines[at] != wait && others.count() == 1).then_some(())
    });
    terminal.types("\u{3}");
    terminal.wait_for("the pause", |lines| {
        let stays = place(lines, "paused: `scap-coordinator resume` goes on")?;
        let title = lines
            .iter()
            .position(|line| line.contains("[paused; Ctrl-C leaves]"))?;
        let wait = place(lines, "wait   paused")?;
        let next = place(lines, "next   scap-coordinator resume | ")?;
        (stays < title && title < wait && wait < next).then_some(())
    });
    terminal.types("\u{3}");
    let (written, started) = (terminal.written(), terminal.started);
    let (code, screen) = terminal.end();
    let seconds = started.elapsed().as_secs() + 1;
    let drawn = written.matches("fleet  new ").count() as u64;
    assert!(drawn <= 5 * seconds, "drawn {drawn} times in {seconds} s");
    let lines = screen.lines();
    assert_eq!(code, Some(3), "{lines:#?}");
    for line in [
        "wave canary: fetch on 1 hosts",
        "stopped, waiting for paused",
    ] {
        assert!(place(&lines, line).is_some(), "no `{line}`: {lines:#?}");
    }
    for line in ["deploy repo  ", "fleet ", "wait   ", "next ", "host "] {
        assert_eq!(place(&lines, line), None, "{lines:#?}");
    }
    let last = lines.last().unwrap();
    let is_told = last.starts_with("fetch ") && last.contains("  people ");
    assert!(is_told && last.contains("; recorded as "), "{lines:#?}");

    send_signal(activator, Signal::CONT);
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn a_terminal_that_is_held_with_ctrl_s_holds_no_deployment() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    let second = repo.commit("Another");
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut terminal = deploy(&fleet, &["--yes"]);
    terminal.wait_for_text("wait   chunks of canary");
    terminal.types("\u{13}");
    // Until then it draws: it is held once nothing comes any more.
    wait_until("nothing is drawn", LIMIT, || {
        let before = terminal.written().len();
        std::thread::sleep(std::time::Duration::from_secs(1));
        let after = terminal.written().len();
        if before == after { Ok(()) } else { Err(after) }
    });
    send_signal(activator, Signal::CONT);
    let status = wait_until("the end", LIMIT, || {
        let ended = terminal.child.try_wait().unwrap();
        ended.ok_or("it is still there")
    });
    assert_eq!(status.code(), Some(0));
    fleet.assert_all_run(&repo, &second);
}

#[test]
fn what_is_deployed_is_said_before_the_store_is_opened_and_anybody_is_dialled() {
    let fleet = Fleet::start(&["web1"]);
    fleet.scene.repo();
    let store = fleet.scene.path("st/store");
    let _ = std::fs::remove_dir_all(&store);
    fleet.scene.write("st/store", "in the way");
    let ended = fleet.deploy(&["--repo", "repo"]).exits(1);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let first = lines.first().unwrap();
    let is_first = first.starts_with("deploy repo to production  ");
    let failed = lines
        .iter()
        .position(|line| line.starts_with("error: open the chunk store"));
    assert!(is_first && failed.is_some_and(|at| at > 0), "{ended:#?}");
}

#[test]
fn status_says_what_may_be_done_about_a_deployment_whose_coordinator_died_and_what_that_touches() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    repo.write("README.md", "# Another site\n");
    repo.commit("Another");
    let activator = fleet.agents[1].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("wave rest: fetch");
    let status = |more: &[&str]| {
        let status = ["status", "--repo", "repo"];
        fleet.scene.scap(&[&status[..], more].concat()).exits(0)
    };
    status(&["--state", "st"]).prints(&[
        "next pause: 1 host finishes what was told",
        "next abort: 1 host in 1 wave goes back",
    ]);
    deploy.signal(Signal::KILL);
    assert!(deploy.end().was_killed_by(Signal::KILL));
    status(&[]).prints(&[
        "its coordinator ended without a word",
        "next    the same deploy again, or resume: goes on with #2, which ",
        "next    rollback: releases #1 again; ",
    ]);
    send_signal(activator, Signal::CONT);
}
