//! A chain: each host writes what comes and passes it on. Nothing is checked, and one break ends it.

use scap_tests::fleet::Usage;

use super::{Running, Work, finish, shell, text};

struct Chain<'a> {
    work: &'a Work<'a>,
    /// Whether it is a tree, which hosts unpack as it comes, or a file.
    is_tree: bool,
}

pub(super) fn start_file<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let is_tree = false;
    Box::new(Chain { work, is_tree })
}

pub(super) fn start_tree<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let is_tree = true;
    Box::new(Chain { work, is_tree })
}

impl Running for Chain<'_> {
    fn deliver(&mut self) -> Usage {
        let work = self.work;
        let hosts = work.fleet.hosts();
        let mut all = Vec::new();
        for (place, host) in hosts.iter().enumerate().rev() {
            let target = work.target(host);
            let target = text(&target);
            // What comes goes through `copy`, which is the file itself, or a pipe to the unpacker.
            let (before, copy) = match self.is_tree {
                true => (
                    format!("mkfifo {target}.pipe; tar -x -C {target} < {target}.pipe & "),
                    format!("{target}.pipe"),
                ),
                false => (String::new(), format!("{target}/{}", super::FILE)),
            };
            let listen = format!("{SOCAT} TCP-LISTEN:{PORT},reuseaddr -");
            let line = match hosts.get(place + 1) {
                Some(next) => format!(
                    "{before}{listen} | tee {copy} | {SOCAT} - TCP:{}:{PORT},{RETRY}; wait; rm -f {target}.pipe",
                    next.station().address()
                ),
                None => format!("{before}{listen} > {copy}; wait; rm -f {target}.pipe"),
            };
            all.push(shell(host.station(), "chain", &line));
        }
        let first = hosts[0].station().address();
        let source = match self.is_tree {
            true => format!("git -C {} archive --format=tar HEAD", text(work.repo.dir())),
            false => format!("cat {}", text(&work.file())),
        };
        let line = format!("{source} | {SOCAT} - TCP:{first}:{PORT},{RETRY}");
        all.push(shell(work.seed(), "chain", &line));
        finish(all)
    }
}

/// One way only, in pieces as long as a pipe holds.
const SOCAT: &str = "socat -u -b 65536";

const PORT: u16 = 5000;

/// The next host may listen a moment later.
const RETRY: &str = "retry=600,interval=0.05";
