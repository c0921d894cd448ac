//! One web server and a download on each host.

use std::fmt::Write as _;
use std::path::Path;

use scap_tests::fleet::{Process, Usage};

use super::{Running, Work, finish, shell, spawn, text, wait_for_port, words};

struct Http<'a> {
    work: &'a Work<'a>,
    /// Whether a tree is packed first, and unpacked as it comes.
    is_tree: bool,
    _server: Process,
}

pub(super) fn start_file<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let _server = serve(work, work.repo.dir(), "");
    Box::new(Http {
        work,
        is_tree: false,
        _server,
    })
}

pub(super) fn start_tree<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let _server = serve(work, &work.own(), "");
    Box::new(Http {
        work,
        is_tree: true,
        _server,
    })
}

impl Running for Http<'_> {
    fn deliver(&mut self) -> Usage {
        let work = self.work;
        let address = work.address();
        let mut packed = Usage::default();
        if self.is_tree {
            let line = format!(
                "git -C {} archive --format=tar HEAD | zstd -q -T0 -f -o {}/tree.tar.zst",
                text(work.repo.dir()),
                text(&work.own())
            );
            packed = finish(vec![shell(work.seed(), "pack", &line)]);
        }
        let hosts = work.fleet.hosts().iter().map(|host| {
            let target = work.target(host);
            let target = text(&target);
            let line = match self.is_tree {
                true => format!(
                    "curl -sSf http://{address}:{PORT}/tree.tar.zst | zstd -dcq | tar -x -C {target}"
                ),
                false => format!(
                    "curl -sSf -o {target}/{file} http://{address}:{PORT}/{file}",
                    file = super::FILE
                ),
            };
            shell(host.station(), "curl", &line)
        });
        finish(hosts.collect()).and(packed)
    }
}

/// nginx at the seed, for a directory; `more` goes into its only `location`.
pub(super) fn serve(work: &Work<'_>, root: &Path, more: &str) -> Process {
    let own = work.own();
    let own = text(&own);
    let mut config = format!(
        "daemon off; master_process off; pid {own}/nginx.pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_max_body_size 0;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(config, "{kind}_temp_path {own}/{kind};");
    }
    let _ = writeln!(
        config,
        "server {{ listen {}:{PORT}; root {}; location / {{ {more} }} }} }}",
        work.address(),
        text(root)
    );
    let file = format!("{own}/nginx.conf");
    std::fs::write(&file, config).expect("the directory was just made");
    let args = ["-p", own, "-e", "stderr", "-c", &file];
    let server = spawn(work.seed(), "nginx", "nginx", &words(&args));
    wait_for_port(work.seed(), PORT);
    server
}

pub(super) const PORT: u16 = 8080;
