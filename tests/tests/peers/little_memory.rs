//! An agent that may have hardly any memory.

use std::path::{Path, PathBuf};

use super::scene::Scene;

#[test]
fn d11_an_agent_with_64_mib_of_memory_takes_and_serves_many_times_that() {
    let group = MemoryGroup::make(MEMORY_BYTES);
    let mut scene = Scene::start(1);
    match &group {
        // What it reads and writes of files counts too.
        Some(group) => scene.add_agent_under(&[
            "sh",
            "-c",
            "echo $$ > \"$0\" && exec \"$@\"",
            group.processes().to_str().unwrap(),
        ]),
        None => {
            println!("note: no memory cgroup can be made here: only the peak is looked at");
            scene.add_agent();
        }
    }
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    let (finished, report) = scene.deploy(&commit, &[]);
    assert_eq!(
        (finished.code, report.failed()),
        (Some(0), vec![]),
        "{finished:#?}"
    );
    scene.assert_all_run(&commit);
    match &group {
        Some(group) => {
            assert!(group.peak_bytes() > MEMORY_BYTES / 2, "it ran elsewhere");
            assert!(group.peak_bytes() <= MEMORY_BYTES);
        }
        // Its program is in there too, which is large as tests build it.
        None => {
            let peak = scene.agents[1].peak_rss_bytes();
            assert!(peak < 2 * MEMORY_BYTES, "{peak} bytes at the peak");
        }
    }
    // Its processes first: a group with any cannot be removed.
    drop(scene);
}

/// A control group whose processes together have a limit of memory. Dropping removes it, where its processes are gone.
struct MemoryGroup {
    path: PathBuf,
    peak: &'static str,
}

impl MemoryGroup {
    /// By the first or the second version of control groups; `None` where neither lets us.
    fn make(bytes: u64) -> Option<Self> {
        let versions = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.max_usage_in_bytes",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        let name = format!("scap-tests-{}", std::process::id());
        versions.into_iter().find_map(|(top, limit, peak)| {
            let path = Path::new(top).join(&name);
            std::fs::create_dir(&path).ok()?;
            let group = Self { path, peak };
            std::fs::write(group.path.join(limit), bytes.to_string()).ok()?;
            group.path.join(peak).exists().then_some(group)
        })
    }

    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    fn peak_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(self.path.join(self.peak)).unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.path) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// As small machines give to what is not their purpose.
const MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// Several times that: nothing may grow with it.
const PAYLOAD_BYTES: usize = 256 * 1024 * 1024;
