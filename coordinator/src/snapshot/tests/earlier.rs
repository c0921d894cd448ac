//! Snapshots of which a part is taken over: each is compared with one of the same commit that is built in full.

use proptest::{collection::vec, prelude::*, sample::Index};
use scap_agent::store::{Store, StoreConfig};
use scap_proto::{content::chunker::Bundler, id::SnapshotId};

use super::*;

/// What is at a path of a tree that a test makes up.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    File {
        seed: usize,
        size: usize,
        is_executable: bool,
    },
    Link(usize),
    Submodule(u8),
}

impl Thing {
    /// Its mode and its bytes, of a submodule the commit.
    fn in_git(&self, id_digits: usize) -> (&'static str, Vec<u8>) {
        match self {
            Self::File {
                seed,
                size,
                is_executable,
            } => {
                let mode = if *is_executable { "100755" } else { "100644" };
                (mode, noise(*seed, *size))
            }
            Self::Link(target) => ("120000", format!("to/{target}").into_bytes()),
            Self::Submodule(commit) => ("160000", format!("{commit:0id_digits$x}").into_bytes()),
        }
    }

    fn is_in_git_as(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| self.in_git(40) == other.in_git(40))
    }

    fn file_bytes(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size as u64,
            Self::Link(_) | Self::Submodule(_) => 0,
        }
    }
}

pub(super) type Model = BTreeMap<Vec<u8>, Thing>;

#[derive(Debug, Clone)]
pub(super) enum Edit {
    Put(Vec<u8>, Thing),
    Remove(Index),
    Rename(Index, Vec<u8>),
    Rewrite(Index, Thing),
    ChangeMode(Index),
    /// The last bundle ends where the tree does.
    RemoveLast,
    RemoveAll,
}

/// Makes room for `path` as a work tree does: a file is no directory.
pub(super) fn put(model: &mut Model, path: Vec<u8>, thing: Thing) {
    let is_below = |below: &[u8], above: &[u8]| {
        let rest = below.strip_prefix(above);
        rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    model.retain(|other, _| !is_below(other, &path) && !is_below(&path, other));
    model.insert(path, thing);
}

pub(super) fn apply(model: &mut Model, edit: Edit) {
    if model.is_empty() && !matches!(edit, Edit::Put(..)) {
        return;
    }
    let nth = |index: Index| model.keys().nth(index.index(model.len())).unwrap().clone();
    match edit {
        Edit::Put(path, thing) => put(model, path, thing),
        Edit::Remove(index) => {
            let path = nth(index);
            model.remove(&path);
        }
        Edit::Rename(index, to) => {
            let path = nth(index);
            let thing = model.remove(&path).unwrap();
            put(model, to, thing);
        }
        Edit::Rewrite(index, thing) => {
            let path = nth(index);
            model.insert(path, thing);
        }
        Edit::ChangeMode(index) => {
            let path = nth(index);
            if let Some(Thing::File { is_executable, .. }) = model.get_mut(&path) {
                *is_executable = !*is_executable;
            }
        }
        Edit::RemoveLast => {
            model.pop_last();
        }
        Edit::RemoveAll => model.clear(),
    }
}

/// Names that sort before and after a slash, and names that are no text.
pub(super) fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<&[u8]> = vec![
        b"a",
        b"a-b",
        b"a.b",
        b"a0",
        b"b",
        b"\xff\xfe",
        b"new\nline",
        b"two words",
        b"\"quoted\"",
        b"-rf",
    ];
    let name = prop_oneof![
        proptest::sample::select(names).prop_map(<[u8]>::to_vec),
        (0..40).prop_map(|number| format!("file{number}").into_bytes()),
    ];
    vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

pub(super) fn any_thing() -> impl Strategy<Value = Thing> {
    let large = LARGE_FILE_BYTES;
    let size = prop_oneof![
        1 => Just(0),
        8 => 1..4000_usize,
        8 => 4000..30_000_usize,
        1 => large - 1..large + 2,
        1 => large..400_000,
    ];
    let file =
        (0..12_usize, size, any::<bool>()).prop_map(|(seed, size, is_executable)| Thing::File {
            seed,
            size,
            is_executable,
        });
    prop_oneof![
        18 => file,
        1 => (0..4_usize).prop_map(Thing::Link),
        1 => (1..4_u8).prop_map(Thing::Submodule),
    ]
}

pub(super) fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        20 => (any_path(), any_thing()).prop_map(|(path, thing)| Edit::Put(path, thing)),
        10 => any::<Index>().prop_map(Edit::Remove),
        10 => (any::<Index>(), any_path()).prop_map(|(index, path)| Edit::Rename(index, path)),
        20 => (any::<Index>(), any_thing()).prop_map(|(index, thing)| Edit::Rewrite(index, thing)),
        10 => any::<Index>().prop_map(Edit::ChangeMode),
        10 => Just(Edit::RemoveLast),
        1 => Just(Edit::RemoveAll),
    ]
}

/// Commits these trees, one after the other.
pub(super) fn commit_all(test: &TestRepo, trees: &[Model], id_digits: usize) -> Vec<GitOid> {
    let mut stream = Vec::new();
    for tree in trees {
        stream.extend_from_slice(b"commit refs/heads/main\ncommitter C <c@c> 1 +0000\ndata 0\n");
        stream.extend_from_slice(b"deleteall\n");
        for (path, thing) in tree {
            let path: String = path
                .iter()
                .map(|byte| match byte {
                    b'/' => "/".to_owned(),
                    _ => format!("\\{byte:03o}"),
                })
                .collect();
            let (mode, bytes) = thing.in_git(id_digits);
            if mode == "160000" {
                let id = String::from_utf8(bytes).unwrap();
                stream.extend_from_slice(format!("M 160000 {id} \"{path}\"\n").as_bytes());
            } else {
                let length = bytes.len();
                let header = format!("M {mode} inline \"{path}\"\ndata {length}\n");
                stream.extend_from_slice(header.as_bytes());
                stream.extend_from_slice(&bytes);
                stream.push(b'\n');
            }
        }
    }
    test.git_with(&["fast-import", "--quiet"], &stream);
    let commits = test.git(&["rev-list", "--reverse", "main"]);
    commits.lines().map(|id| id.parse().unwrap()).collect()
}

/// Builds a commit onto what an earlier build left in `sink`. Returns how many bytes of files were read, too.
pub(super) fn build_since(
    repo: &Repo,
    commit: &GitOid,
    (earlier_commit, earlier): (&GitOid, &Built),
    sink: &dyn ChunkSink,
    thread_count: usize,
) -> Result<(Built, u64), SnapshotError> {
    let options = Options {
        earlier: Some(Earlier {
            commit: earlier_commit.clone(),
            snapshot: earlier.snapshot,
        }),
        ..threads(thread_count)
    };
    let mut read_bytes = 0;
    let progress = |progress: Progress| read_bytes = progress.read_bytes;
    let built = build(Source::Commit { repo, commit }, sink, options, progress)?;
    Ok((built, read_bytes))
}

/// All chunks of a sink, encoded.
fn chunks_of(sink: &MemorySink) -> BTreeMap<ChunkId, Bytes> {
    let chunks = sink.chunks.lock().unwrap();
    let bytes = |(id, (chunk, _)): (&ChunkId, &(EncodedChunk, u32))| (*id, chunk.bytes().clone());
    chunks.iter().map(bytes).collect()
}

#[track_caller]
fn assert_as_in_full(built: &Built, sink: &MemorySink, full: &Built, fresh: &MemorySink) {
    assert_eq!(built.snapshot, full.snapshot);
    assert_eq!(built.descriptor, full.descriptor);
    assert_eq!(built.layout, full.layout);
    assert_eq!(built.all, full.all);
    let found = chunks_of(sink);
    for (id, bytes) in chunks_of(fresh) {
        assert!(found.get(&id) == Some(&bytes), "chunk {id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // Each is some repo with a few commits, and two builds a commit.
        cases: ProptestConfig::default().cases / 8,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_built_onto_an_earlier_snapshot_is_what_reading_everything_gives(
        first in vec((any_path(), any_thing()), 0..60),
        steps in vec((vec(any_edit(), 0..6), any::<Index>(), 1..4_usize), 1..5),
        is_sha256 in any::<bool>(),
    ) {
        let mut model = Model::new();
        for (path, thing) in first {
            put(&mut model, path, thing);
        }
        let mut models = vec![model.clone()];
        for (edits, ..) in &steps {
            for edit in edits {
                apply(&mut model, edit.clone());
            }
            models.push(model.clone());
        }
        let (format, id_digits) = if is_sha256 { ("sha256", 64) } else { ("sha1", 40) };
        let test = TestRepo::new(&["--bare", &format!("--object-format={format}")]);
        let commits = commit_all(&test, &models, id_digits);
        let repo = &test.open();

        let sink = MemorySink::default();
        let source = Source::Commit { repo, commit: &commits[0] };
        let mut builds = vec![build_quietly(source, &sink).unwrap()];
        for (step, (_, base, thread_count)) in steps.iter().enumerate() {
            let base = base.index(builds.len());
            let (before, after) = (&models[base], &models[step + 1]);
            let commit = &commits[step + 1];
            let chunks_before = chunks_of(&sink);
            let earlier = (&commits[base], &builds[base]);
            let (built, read_bytes) =
                build_since(repo, commit, earlier, &sink, *thread_count).unwrap();
            let (full, fresh) = snapshot_of_commit(&test, commit);
            assert_as_in_full(&built, &sink, &full, &fresh);

            let is_kept = |(path, thing): &(&Vec<u8>, &Thing)| thing.is_in_git_as(before.get(*path));
            let (kept, changed): (Vec<_>, Vec<_>) = after.iter().partition(is_kept);
            assert_eq!(built.kept_entries, kept.len() as u64);
            let changed_bytes: u64 = changed.iter().map(|(_, thing)| thing.file_bytes()).sum();
            assert_eq!(read_bytes, changed_bytes);
            let made: Vec<ChunkId> = chunks_of(&sink)
                .into_keys()
                .filter(|id| !chunks_before.contains_key(id))
                .collect();
            assert_eq!(built.new.chunks, made.len() as u64);
            let of_it: BTreeSet<ChunkId> = full.layout.refs().iter().map(|c| c.id).collect();
            assert!(made.iter().all(|id| of_it.contains(id)));
            builds.push(built);
        }
    }
}

/// A repo of some bundles and large files, and a commit that changes one line.
pub(super) fn one_line_edit() -> (TestRepo, GitOid, GitOid) {
    let test = TestRepo::new(&[]);
    write_sample(&test);
    let before = test.commit("before");
    test.write("many/3/150", b"edited\n");
    let after = test.commit("after");
    (test, before, after)
}

#[test]
fn a_one_line_edit_reads_one_line() {
    let (test, before, after) = one_line_edit();
    let (first, sink) = snapshot_of_commit(&test, &before);
    let (built, read_bytes) =
        build_since(&test.open(), &after, (&before, &first), &sink, 2).unwrap();
    assert_eq!(read_bytes, 7);
    assert_eq!(built.kept_entries, built.descriptor.totals.entries - 1);
}

#[test]
fn a_last_bundle_that_grows_or_shrinks_is_another_one() {
    let test = TestRepo::new(&[]);
    test.write("a", &noise(1, 1000));
    test.write("b", &noise(2, 1000));
    let two = &test.commit("two");
    test.write("c", &noise(3, 1000));
    let three = &test.commit("three");
    for (before, after) in [(two, three), (three, two)] {
        let (first, sink) = snapshot_of_commit(&test, before);
        let (full, fresh) = snapshot_of_commit(&test, after);
        let (built, _) = build_since(&test.open(), after, (before, &first), &sink, 2).unwrap();
        assert_as_in_full(&built, &sink, &full, &fresh);
        assert_eq!(built.kept_entries, 2);
    }
}

/// Two contents of 20,000 bytes each, after which a bundle ends that has 20,000 before.
fn two_that_end_a_bundle() -> [Vec<u8>; 2] {
    let ends = |content: &Vec<u8>| {
        let (mut bundler, hash) = (Bundler::new(), ContentHash::of(content));
        assert!(bundler.push((), &hash, 20_000).is_none());
        bundler.push((), &hash, 20_000).is_some()
    };
    let mut found = (0..).map(|seed| noise(seed, 20_000)).filter(ends);
    [found.next().unwrap(), found.next().unwrap()]
}

#[test]
fn the_same_files_in_another_order_are_another_bundle() {
    let test = TestRepo::new(&[]);
    let [one, other] = two_that_end_a_bundle();
    for (name, content) in [("a", &one), ("b", &other), ("c", &one), ("d", &other)] {
        test.write(name, content);
    }
    let before = &test.commit("a bundle twice");
    fs::remove_file(test.path().join("a")).unwrap();
    fs::remove_file(test.path().join("d")).unwrap();
    let after = &test.commit("the second half of one, the first half of the other");
    let (first, sink) = snapshot_of_commit(&test, before);
    assert_eq!(first.descriptor.totals.chunks, 1);
    let (full, fresh) = snapshot_of_commit(&test, after);
    assert_eq!(full.descriptor.totals.chunks, 1);
    let (built, _) = build_since(&test.open(), after, (before, &first), &sink, 2).unwrap();
    assert_as_in_full(&built, &sink, &full, &fresh);
    assert_eq!(built.kept_entries, 2);
}

#[test]
fn the_same_tree_again_is_the_same_snapshot_and_nothing_is_read() {
    let (test, before, _) = one_line_edit();
    test.git(&["reset", "-q", "--hard", &before.to_string()]);
    let again = test.commit("nothing new");
    assert_ne!(again, before);
    let (first, sink) = snapshot_of_commit(&test, &before);
    for commit in [&before, &again] {
        let (built, read_bytes) =
            build_since(&test.open(), commit, (&before, &first), &sink, 2).unwrap();
        assert_eq!(
            (built.snapshot, &built.layout),
            (first.snapshot, &first.layout)
        );
        assert_eq!((built.all, built.new), (first.all, ChunkSums::default()));
        assert_eq!(built.kept_entries, first.descriptor.totals.entries);
        assert_eq!(read_bytes, 0);
    }
}

#[test]
fn a_chunk_that_is_gone_is_made_again_from_the_commit() {
    let (test, before, after) = one_line_edit();
    let repo = &test.open();
    let (first, original) = snapshot_of_commit(&test, &before);
    for commit in [&before, &after] {
        let (full, fresh) = snapshot_of_commit(&test, commit);
        for gone in first.layout.refs() {
            let sink = MemorySink::default();
            *sink.chunks.lock().unwrap() = original.chunks.lock().unwrap().clone();
            sink.chunks.lock().unwrap().remove(&gone.id).unwrap();
            let (built, _) = build_since(repo, commit, (&before, &first), &sink, 2).unwrap();
            assert_as_in_full(&built, &sink, &full, &fresh);
        }
    }
}

/// The file of each chunk in a store.
fn chunk_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let directories = fs::read_dir(directory.join("chunks")).unwrap();
    let files = directories.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn whatever_became_of_a_file_of_the_store_the_snapshot_is_the_right_one() {
    let (test, before, after) = one_line_edit();
    let repo = &test.open();
    let (full, _) = snapshot_of_commit(&test, &after);
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        Store::open(directory.path(), StoreConfig::default())
            .unwrap()
            .0
    };
    let source = Source::Commit {
        repo,
        commit: &before,
    };
    let first = build_quietly(source, &open()).unwrap();
    open().sync().unwrap();
    let files = chunk_files(directory.path());
    assert!(files.len() > 10, "{files:?}");
    for file in &files {
        for is_removed in [true, false] {
            let bytes = fs::read(file).unwrap();
            if is_removed {
                fs::remove_file(file).unwrap();
            } else {
                let mut damaged = bytes.clone();
                *damaged.last_mut().unwrap() ^= 1;
                fs::write(file, damaged).unwrap();
            }
            let store = open();
            let (built, _) = build_since(repo, &after, (&before, &first), &store, 2).unwrap();
            assert_eq!(built.snapshot, full.snapshot);
            assert_eq!(built.layout, full.layout);
            let is_whole = |chunk: &&ChunkRef| store.plain(&chunk.id).unwrap().found().is_some();
            let whole = full.layout.refs().iter().filter(is_whole).count();
            // Of a damaged chunk nothing may be needed but that it is there: whoever reads it finds that it is not.
            let missing = full.layout.refs().len() - whole;
            assert!(missing <= usize::from(!is_removed), "{}", file.display());
            drop(store);
            fs::write(file, bytes).unwrap();
        }
    }
}

#[test]
fn an_earlier_commit_that_is_not_in_the_repo_or_no_commit_is_of_no_use() {
    let (test, before, after) = one_line_edit();
    let (full, fresh) = snapshot_of_commit(&test, &after);
    let (first, sink) = snapshot_of_commit(&test, &before);
    let missing: GitOid = "0123456789012345678901234567890123456789".parse().unwrap();
    let tree: GitOid = test.git(&["rev-parse", "HEAD^{tree}"]).parse().unwrap();
    let blob = test.blob(b"tree 0123");
    for no_commit in [missing, tree, blob] {
        let earlier = (&no_commit, &first);
        let (built, _) = build_since(&test.open(), &after, earlier, &sink, 2).unwrap();
        assert_as_in_full(&built, &sink, &full, &fresh);
        assert_eq!(built.kept_entries, 0);
    }
}

#[test]
fn an_earlier_snapshot_that_is_of_another_commit_or_none_is_of_no_use() {
    let test = TestRepo::new(&[]);
    let nothing = test.commit("nothing");
    test.write("a", b"1");
    let one = test.commit("one");
    test.write("b", b"2");
    let two = test.commit("two");
    let repo = &test.open();
    let sink = MemorySink::default();
    let snapshot = |commit| build_quietly(Source::Commit { repo, commit }, &sink).unwrap();
    let mut no_snapshot = snapshot(&one);
    no_snapshot.snapshot.id = SnapshotId::from_bytes(*ChunkId::of(b"1").as_bytes());
    for (commit, onto, of) in [
        // `b` is added, and there already.
        (&two, &one, snapshot(&two)),
        // `b` is removed, and not there.
        (&one, &two, snapshot(&one)),
        // Both are removed, and `b` is not there.
        (&nothing, &two, snapshot(&one)),
        (&two, &one, no_snapshot),
    ] {
        let (full, fresh) = snapshot_of_commit(&test, commit);
        let (built, _) = build_since(repo, commit, (onto, &of), &sink, 2).unwrap();
        assert_as_in_full(&built, &sink, &full, &fresh);
        assert_eq!(built.kept_entries, 0);
    }
}

#[test]
fn a_tree_that_git_would_not_make_is_refused_as_ever() {
    type Name<'a> = (&'a str, &'a [u8], &'a GitOid);
    let test = TestRepo::new(&[]);
    let (blob, other) = (&test.blob(b"x"), &test.blob(b"y"));
    let below = &test.raw_tree(&[("100644", b"b", blob)]);
    let missing = &"0123456789012345678901234567890123456789".parse().unwrap();
    let no_target = &test.blob(b"a\0b");
    let [a, c, d]: [Name<'_>; 3] = [
        ("100644", b"a", blob),
        ("100644", b"c", blob),
        ("40000", b"d", below),
    ];
    let good = test.commit_raw_tree(&[a, c, d]);
    let (first, sink) = snapshot_of_commit(&test, &good);
    let trees: [&[Name<'_>]; 13] = [
        &[a, c, ("100644", b"b", other), d],
        &[a, a, c, d],
        &[a, ("100644", b"a", other), c, d],
        &[c, a, d],
        &[a, ("40000", b"a", below), c, d],
        &[a, c, d, ("100644", b"d", other)],
        &[a, c, d, ("100644", b"d/a", other)],
        &[a, c, d, ("100644", b"d/c", other)],
        &[a, c, d, ("100644", b"..", other)],
        &[a, c, d, ("100644", b"e", missing)],
        &[a, c, d, ("100644", b"e", below)],
        &[a, c, d, ("40000", b"e", blob)],
        &[a, c, d, ("120000", b"e", no_target)],
    ];
    for tree in trees {
        let commit = &test.commit_raw_tree(tree);
        let repo = &test.open();
        let onto = build_since(repo, commit, (&good, &first), &sink, 2).map(|(built, _)| built);
        let full = build_quietly(Source::Commit { repo, commit }, &MemorySink::default());
        let told = |result: Result<Built, SnapshotError>| {
            let refusal = |error| format!("{error:?}");
            result.map(|built| built.snapshot).map_err(refusal)
        };
        assert_eq!(told(onto), told(full), "{tree:?}");
    }
}

#[test]
fn modes_that_git_takes_for_its_own_and_directories_of_nothing_change_nothing() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    let nothing = &test.raw_tree(&[]);
    let good = test.commit_raw_tree(&[("100644", b"a", blob), ("100755", b"b", blob)]);
    let odd = test.commit_raw_tree(&[
        ("100664", b"a", blob),
        ("100755", b"b", blob),
        ("040000", b"c", nothing),
    ]);
    let (first, sink) = snapshot_of_commit(&test, &good);
    for (before, after) in [(&good, &odd), (&odd, &good)] {
        let (built, _) = build_since(&test.open(), after, (before, &first), &sink, 2).unwrap();
        assert_eq!(built.snapshot, first.snapshot);
        assert_eq!(built.kept_entries, 2);
    }
}

#[test]
fn c4_a_mode_that_git_does_not_write_is_refused_also_where_only_changes_are_read() {
    let test = TestRepo::new(&[]);
    let blob = &test.blob(b"x");
    let good = test.commit_raw_tree(&[("100644", b"a", blob), ("100755", b"b", blob)]);
    let (first, sink) = snapshot_of_commit(&test, &good);
    let odd = test.commit_raw_tree(&[("100644", b"a", blob), ("104755", b"b", blob)]);
    let refused = build_since(&test.open(), &odd, (&good, &first), &sink, 2);
    assert!(
        matches!(&refused, Err(SnapshotError::Git(GitError::Mode { name, .. })) if name == "b"),
        "{refused:?}"
    );
}
