//! What most fleet tests start from: a fleet with running agents, and a repo to deploy to it.

use std::time::Duration;

use scap_tests::fleet::{Builder, Fleet, Host};
use scap_tests::repo::{SourceRepo, write_incompressible};
use scap_tests::tree::{Tree, live_release};

/// A fleet and a repo.
pub struct Scene {
    // First, so that it is dropped first: its processes end before the repo goes.
    pub fleet: Fleet,
    pub repo: SourceRepo,
}

impl Scene {
    /// Enrolled hosts whose agents run, and an empty repo; `None` where the test is skipped.
    pub fn start(builder: Builder) -> Option<Self> {
        Self::start_after(builder, |_| {})
    }

    /// The same, with something done to the hosts before their agents start.
    pub fn start_after(builder: Builder, prepare: impl FnOnce(&Fleet)) -> Option<Self> {
        let fleet = builder.build()?;
        fleet.enrol();
        prepare(&fleet);
        fleet.start_agents();
        Some(Self::with(fleet))
    }

    /// A fleet whose agents run, and an empty repo.
    pub fn with(fleet: Fleet) -> Self {
        let repo = SourceRepo::create(&fleet.dir().join(REPO));
        Self { fleet, repo }
    }

    /// Commits a file that no compression makes smaller.
    pub fn commit_payload(&self, bytes: usize, seed: u64) -> String {
        write_incompressible(&self.repo.dir().join("payload.bin"), bytes, seed);
        self.repo.commit("change the payload")
    }

    /// Commits a small text.
    pub fn commit_text(&self, text: &str) -> String {
        self.repo.write("docs/README", text);
        self.repo.commit("change the text")
    }

    /// Asserts that a host runs a commit and nothing else, by git's word and by its own.
    #[track_caller]
    pub fn assert_runs(&self, host: &Host, commit: &str) {
        self.repo.archived(commit).assert_is(&host.live(REPO));
        assert!(
            runs(host, commit),
            "{}: {:?}",
            host.name(),
            live_release(&host.live(REPO))
        );
        host.assert_verifies(REPO);
    }

    /// Asserts it of every host.
    #[track_caller]
    pub fn assert_all_run(&self, commit: &str) {
        let expected: Tree = self.repo.archived(commit);
        for host in self.fleet.hosts() {
            expected.assert_is(&host.live(REPO));
            assert!(
                runs(host, commit),
                "{}: {:?}",
                host.name(),
                live_release(&host.live(REPO))
            );
            host.assert_verifies(REPO);
        }
    }

    /// Lets the logs mention what any broken link or killed process makes others warn of.
    pub fn expect_broken_connections(&self) {
        for words in ["connection", "peer", "link lost", "host unreachable"] {
            self.fleet.expect_log(words);
        }
    }
}

/// Whether the final path of a host leads to the release directory of a commit.
pub fn runs(host: &Host, commit: &str) -> bool {
    // `<commit>`, or `<release>-<commit>` where that name was taken.
    live_release(&host.live(REPO)).is_ok_and(|name| name.ends_with(commit))
}

/// The path below the deploy root, where nothing says otherwise: the repo directory's name.
pub const REPO: &str = "site";

/// The longest that a fetch may take to come far enough for a test to break it.
pub const FETCH_MAX: Duration = Duration::from_secs(120);
