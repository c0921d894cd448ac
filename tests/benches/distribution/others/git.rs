//! git over HTTP: a clone on each host, and after that a pull.

use scap_tests::fleet::{Host, Process, Usage, wait_until};

use super::{LIMIT, Running, Work, finish, http, spawn, text, words};

struct Git<'a> {
    work: &'a Work<'a>,
    has_clones: bool,
    _servers: [Process; 2],
}

pub(super) fn start_http<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let socket = work.own().join("fcgi.sock");
    let socket = text(&socket);
    // A process for each host that may ask at a time, so that none waits for another.
    let processes = work.fleet.hosts().len().to_string();
    let address = format!("unix:{socket}");
    let args = ["-f", "-c", &processes, "-s", &address];
    let backend = spawn(work.seed(), "fcgiwrap", "fcgiwrap", &words(&args));
    let root = work.repo.dir().parent().expect("it is in a directory");
    let params = [
        ("SCRIPT_FILENAME", "/usr/lib/git-core/git-http-backend"),
        ("GIT_HTTP_EXPORT_ALL", "1"),
        ("GIT_PROJECT_ROOT", text(root)),
        ("PATH_INFO", "$uri"),
        ("QUERY_STRING", "$query_string"),
        ("REQUEST_METHOD", "$request_method"),
        ("CONTENT_TYPE", "$content_type"),
        ("CONTENT_LENGTH", "$content_length"),
    ];
    let params = params.map(|(name, value)| format!("fastcgi_param {name} {value};"));
    let location = format!(
        "fastcgi_pass {address}; fastcgi_buffering off; {}",
        params.join(" ")
    );
    let server = http::serve(work, root, &location);
    let git = Git {
        work,
        has_clones: false,
        _servers: [backend, server],
    };
    let first = &work.fleet.hosts()[0];
    wait_until("an answer of git", LIMIT, || {
        let asked = git.start(first, &["ls-remote", &git.url()]).wait(LIMIT);
        match asked.code() {
            Some(0) => Ok(()),
            _ => Err(asked),
        }
    });
    Box::new(git)
}

impl Git<'_> {
    fn url(&self) -> String {
        let name = self.work.repo.dir().file_name();
        let name = name.and_then(|name| name.to_str()).expect("it is plain");
        format!("http://{}:{}/{name}/.git", self.work.address(), http::PORT)
    }

    /// Nothing is cleaned up in the background, which would go on while the next one is measured.
    fn start(&self, host: &Host, args: &[&str]) -> Process {
        let settings = ["-c", "gc.auto=0", "-c", "maintenance.auto=false"];
        let args = [&settings, args].concat();
        spawn(host.station(), "git", "git", &words(&args))
    }
}

impl Running for Git<'_> {
    fn deliver(&mut self) -> Usage {
        let hosts = self.work.fleet.hosts().iter().map(|host| {
            let clone = self.work.target(host);
            let clone = text(&clone);
            match self.has_clones {
                true => self.start(host, &["-C", clone, "pull", "--quiet", "--ff-only"]),
                false => self.start(host, &["clone", "--quiet", &self.url(), clone]),
            }
        });
        let used = finish(hosts.collect());
        self.has_clones = true;
        used
    }
}
