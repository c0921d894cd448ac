use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    process::Command,
    time::SystemTime,
};

use scap_proto::{
    content::{ChunkRef, EntriesReader, Entry, Node, RelPath, chunker::LARGE_FILE_BYTES},
    id::ContentHash,
};
use tempfile::TempDir;

use super::{
    listing::{Form, Kind, Listed, Reader, Wanted},
    *,
};
use crate::git::tests::TestRepo;

mod delta;
mod earlier;
mod held;
mod hostile;

/// Keeps chunks, and counts how often each was put.
#[derive(Default)]
struct MemorySink {
    chunks: Mutex<BTreeMap<ChunkId, (EncodedChunk, u32)>>,
}

impl ChunkSink for MemorySink {
    fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        let chunks = self.chunks.lock().unwrap();
        let (chunk, _) = chunks.get(id)?;
        Some(u32::try_from(chunk.bytes().len()).unwrap())
    }

    fn plain(&self, id: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        let chunks = self.chunks.lock().unwrap();
        Ok(chunks.get(id).map(|(chunk, _)| chunk.plain()))
    }

    fn put(&self, chunk: &EncodedChunk) -> Result<(), SinkError> {
        let mut chunks = self.chunks.lock().unwrap();
        chunks.entry(chunk.id()).or_insert((chunk.clone(), 0)).1 += 1;
        Ok(())
    }
}

impl MemorySink {
    fn plain(&self, id: &ChunkId) -> Vec<u8> {
        self.chunks.lock().unwrap()[id].0.plain().to_vec()
    }

    fn entries(&self, built: &Built) -> Vec<Entry> {
        let descriptor = self.plain(&built.snapshot.descriptor_chunk().id);
        let descriptor = Descriptor::decode(&descriptor).unwrap();
        assert_eq!(descriptor, built.descriptor);
        let mut reader = EntriesReader::new();
        let mut entries = Vec::new();
        for page in &descriptor.entries {
            entries.append(&mut reader.read_page(&self.plain(&page.id)).unwrap());
        }
        entries.extend(reader.finish().unwrap());
        entries
    }

    /// Every path with a letter for its kind and its bytes, put together from chunks.
    fn files(&self, built: &Built) -> BTreeMap<Vec<u8>, (char, Vec<u8>)> {
        let restore = |entry: &Entry| match &entry.node {
            Node::Symlink(target) => ('l', target.as_bytes().to_vec()),
            Node::EmptyDirectory => ('d', Vec::new()),
            Node::Gitlink(commit) => ('g', commit.as_bytes().to_vec()),
            Node::File(file) | Node::Executable(file) => {
                let mut bytes = Vec::new();
                for extent in &file.extents {
                    let chunk = self.plain(&extent.chunk);
                    let start = extent.offset as usize;
                    bytes.extend_from_slice(&chunk[start..start + extent.length as usize]);
                }
                assert_eq!(bytes.len() as u64, file.size);
                assert_eq!(ContentHash::of(&bytes), file.hash);
                let is_executable = matches!(entry.node, Node::Executable(_));
                (if is_executable { 'x' } else { 'f' }, bytes)
            }
        };
        self.entries(built)
            .iter()
            .map(|entry| (entry.path.as_bytes().to_vec(), restore(entry)))
            .collect()
    }
}

fn threads(count: usize) -> Options {
    Options {
        threads: NonZeroUsize::new(count).unwrap(),
        earlier: None,
    }
}

fn build_quietly(source: Source<'_>, sink: &dyn ChunkSink) -> Result<Built, SnapshotError> {
    build(source, sink, threads(2), |_| {})
}

fn snapshot_of(directory: &Path) -> (Built, MemorySink) {
    let sink = MemorySink::default();
    let built = build_quietly(Source::Directory(directory), &sink).unwrap();
    (built, sink)
}

fn snapshot_of_commit(test: &TestRepo, commit: &GitOid) -> (Built, MemorySink) {
    let sink = MemorySink::default();
    let repo = &test.open();
    let built = build_quietly(Source::Commit { repo, commit }, &sink).unwrap();
    (built, sink)
}

fn refusal_of_directory(directory: &Path) -> SnapshotError {
    build_quietly(Source::Directory(directory), &MemorySink::default()).unwrap_err()
}

fn refusal_of_commit(test: &TestRepo, commit: &GitOid) -> SnapshotError {
    let repo = &test.open();
    build_quietly(Source::Commit { repo, commit }, &MemorySink::default()).unwrap_err()
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Files of all kinds and of the sizes where the chunker's rules change.
fn write_sample(test: &TestRepo) {
    let large = LARGE_FILE_BYTES;
    for (index, size) in [1, 2, 4096, large - 1, large, large + 1, 300_000, 3_000_000]
        .into_iter()
        .enumerate()
    {
        test.write(format!("sizes/{size}"), &noise(index, size));
    }
    for file in 0..300 {
        let content = noise(1000 + file, 1 + file * 97 % 5000);
        test.write(format!("many/{}/{file}", file % 7), &content);
    }
    test.write("empty", b"");
    test.write("copy/one", &noise(6, 300_000));
    test.write("copy/two", &noise(6, 300_000));
    test.write(OsStr::from_bytes(b"bytes/\xff\xfe\r\n"), b"no text");
    test.write("a/b", b"1");
    test.write("a-b", b"2");
    test.write("a.b", b"3");
    set_mode(&test.write("bin/run", b"#!/bin/sh\n"), 0o755);
    set_mode(&test.write("bin/owner", &noise(9, 100_000)), 0o700);
    set_mode(&test.write("bin/others", b"not by its owner"), 0o655);
    symlink("../bin/run", test.path().join("a/link")).unwrap();
    symlink("/etc/passwd", test.path().join("absolute")).unwrap();
    symlink(
        OsStr::from_bytes(b"\xff/gone"),
        test.path().join("dangling"),
    )
    .unwrap();
}

/// The work tree of `test`, without its `.git`.
fn export(test: &TestRepo) -> TempDir {
    let plain = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(test.path().join("."))
        .arg(plain.path())
        .status()
        .unwrap();
    assert!(copied.success());
    fs::remove_dir_all(plain.path().join(".git")).unwrap();
    plain
}

#[test]
fn same_content_is_the_same_snapshot_from_anywhere_with_any_number_of_threads() {
    let test = TestRepo::new(&[]);
    write_sample(&test);
    let commit = test.commit("c");
    let plain = export(&test);
    test.git(&["clone", "-q", "--bare", ".", "bare.git"]);
    // What is in the work tree and in the index does not matter.
    test.write("a/b", b"dirty");
    test.write("untracked", b"dirty");
    test.git(&["add", "a/b"]);

    let (expected, sink) = snapshot_of(plain.path());
    for options in [1, 2, 3, 8].map(threads) {
        let repo = &test.open();
        let bare = &Repo::open(&test.path().join("bare.git")).unwrap();
        let commit = &commit;
        for source in [
            Source::Directory(plain.path()),
            Source::Commit { repo, commit },
            Source::Commit { repo: bare, commit },
        ] {
            let built = build(source, &MemorySink::default(), options.clone(), |_| {}).unwrap();
            assert_eq!(built.snapshot, expected.snapshot, "{source:?} {options:?}");
            assert_eq!(built.layout, expected.layout);
            assert_eq!((built.all, built.new), (expected.all, expected.new));
        }
    }

    let files = sink.files(&expected);
    assert_eq!(files.len() as u64, expected.descriptor.totals.entries);
    for (path, (kind, bytes)) in &files {
        let on_disk = plain.path().join(OsStr::from_bytes(path));
        if *kind == 'l' {
            assert_eq!(
                fs::read_link(on_disk).unwrap().as_os_str().as_bytes(),
                bytes
            );
        } else {
            assert!(
                fs::read(on_disk).unwrap() == *bytes,
                "{}",
                path.escape_ascii()
            );
        }
    }
    let of_kind = |wanted: char| -> Vec<&[u8]> {
        let paths = files.iter().filter(|(_, (kind, _))| *kind == wanted);
        paths.map(|(path, _)| path.as_slice()).collect()
    };
    assert_eq!(of_kind('x'), [&b"bin/owner"[..], b"bin/run"]);
    assert_eq!(of_kind('l'), [&b"a/link"[..], b"absolute", b"dangling"]);
}

#[test]
fn sums_and_layout_tell_of_all_chunks_and_each_chunk_is_stored_once() {
    let test = TestRepo::new(&[]);
    write_sample(&test);
    fs::remove_dir_all(test.path().join(".git")).unwrap();
    let mut seen = Vec::new();
    let sink = MemorySink::default();
    let source = Source::Directory(test.path());
    let built = build(source, &sink, threads(2), |progress| seen.push(progress)).unwrap();

    let chunks = sink.chunks.lock().unwrap();
    assert!(chunks.values().all(|(_, puts)| *puts == 1));
    let ids: BTreeSet<ChunkId> = built.layout.refs().iter().map(|chunk| chunk.id).collect();
    assert!(built.layout.is_complete());
    assert!(ids.iter().eq(chunks.keys()));
    for chunk in built.layout.refs() {
        assert_eq!(chunks[&chunk.id].0.plain_length(), chunk.plain_length);
    }
    let encoded: usize = chunks.values().map(|(chunk, _)| chunk.bytes().len()).sum();
    assert_eq!(built.all.encoded_bytes, encoded as u64);
    assert_eq!(built.all.chunks, chunks.len() as u64);
    assert_eq!(built.new, built.all);
    drop(chunks);

    let totals = built.descriptor.totals;
    let last = seen.last().unwrap();
    assert_eq!(last.done_entries, totals.entries);
    assert_eq!(last.listed_entries, totals.entries);
    assert_eq!(
        (last.read_bytes, last.listed_bytes),
        (totals.bytes, totals.bytes)
    );
    assert!(last.is_listed);

    let again = build_quietly(source, &sink).unwrap();
    assert_eq!(again.snapshot, built.snapshot);
    assert_eq!(again.all, built.all);
    assert_eq!(again.new, ChunkSums::default());
    let chunks = sink.chunks.lock().unwrap();
    assert!(chunks.values().all(|(_, puts)| *puts == 1));
}

#[test]
fn an_empty_tree_and_one_empty_file_are_snapshots() {
    let test = TestRepo::new(&[]);
    let commit = test.commit("nothing");
    let plain = tempfile::tempdir().unwrap();
    let (built, sink) = snapshot_of(plain.path());
    assert_eq!(
        snapshot_of_commit(&test, &commit).0.snapshot,
        built.snapshot
    );
    assert!(sink.files(&built).is_empty());
    assert_eq!(built.all.chunks, 1);

    test.write("empty", b"");
    fs::write(plain.path().join("empty"), b"").unwrap();
    let commit = test.commit("one");
    let (built, sink) = snapshot_of(plain.path());
    assert_eq!(
        snapshot_of_commit(&test, &commit).0.snapshot,
        built.snapshot
    );
    assert_eq!(sink.files(&built)[&b"empty"[..]], ('f', Vec::new()));
    assert_eq!(built.descriptor.totals.chunks, 0);
}

#[test]
fn directories_are_in_a_snapshot_only_where_they_are_empty() {
    let plain = tempfile::tempdir().unwrap();
    for directory in ["a", "b/c", "d/e"] {
        fs::create_dir_all(plain.path().join(directory)).unwrap();
    }
    fs::write(plain.path().join("a-b"), b"").unwrap();
    fs::write(plain.path().join("d/e/file"), b"").unwrap();
    let (built, sink) = snapshot_of(plain.path());
    let kinds: Vec<(Vec<u8>, char)> = sink
        .files(&built)
        .into_iter()
        .map(|(path, (kind, _))| (path, kind))
        .collect();
    let expected = [("a", 'd'), ("a-b", 'f'), ("b/c", 'd'), ("d/e/file", 'f')];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.into(), kind)));
}

#[test]
fn what_is_no_file_link_or_directory_is_refused_by_name() {
    let plain = tempfile::tempdir().unwrap();
    let here = |name: &str| plain.path().join("sub").join(name);
    fs::create_dir(plain.path().join("sub")).unwrap();
    let refused = |name: &str| {
        let error = refusal_of_directory(plain.path());
        let text = error.to_string();
        assert!(text.contains(&format!("sub/{name}")), "{text}");
        assert!(error.hint().is_some());
        text
    };

    let _listener = UnixListener::bind(here("s")).unwrap();
    assert!(refused("s").contains("socket"));
    fs::remove_file(here("s")).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        here("p"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(refused("p").contains("named pipe"));
    fs::remove_file(here("p")).unwrap();

    fs::write(here("suid"), b"").unwrap();
    set_mode(&here("suid"), 0o4755);
    assert!(refused("suid").contains("set-user-id"));
    fs::remove_file(here("suid")).unwrap();

    fs::create_dir(here(".git")).unwrap();
    assert!(refused(".git").contains("means `.git`"));
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let plain = tempfile::tempdir().unwrap();
    let file = plain.path().join("file");
    fs::write(&file, b"").unwrap();
    for path in [file, plain.path().join("missing")] {
        let error = refusal_of_directory(&path);
        assert!(matches!(error, SnapshotError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
    fs::create_dir(plain.path().join("real")).unwrap();
    symlink("real", plain.path().join("current")).unwrap();
    snapshot_of(&plain.path().join("current"));
}

/// Does something when the first chunk arrives, while the rest has yet to be read.
struct Interfering<F>(Mutex<Option<F>>);

impl<F: FnOnce() -> Result<(), SinkError> + Send> ChunkSink for Interfering<F> {
    fn encoded_length(&self, _: &ChunkId) -> Option<u32> {
        None
    }

    fn plain(&self, _: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put(&self, _: &EncodedChunk) -> Result<(), SinkError> {
        self.0.lock().unwrap().take().map_or(Ok(()), |act| act())
    }
}

fn build_while(
    directory: &Path,
    count: usize,
    act: impl FnOnce() -> Result<(), SinkError> + Send,
) -> Result<Built, SnapshotError> {
    let sink = Interfering(Mutex::new(Some(act)));
    build(Source::Directory(directory), &sink, threads(count), |_| {})
}

#[test]
fn a_file_or_directory_that_changes_while_it_is_read_is_an_error() {
    let plain = tempfile::tempdir().unwrap();
    let big = plain.path().join("big");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    // With one thread, no more than a few of its chunks are read before the first is put.
    fs::write(&big, noise(0, 8 << 20)).unwrap();
    let age = |path: &Path| {
        fs::File::open(path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    };
    age(&big);
    age(plain.path());
    build_while(plain.path(), 1, || Ok(())).unwrap();

    let changed = |error: SnapshotError, name: &str| {
        assert!(
            matches!(&error, SnapshotError::Changed(path) if path == name),
            "{error:?}"
        );
        assert!(error.hint().is_some());
    };
    let append = || {
        Ok(fs::OpenOptions::new()
            .append(true)
            .open(&big)?
            .set_len(9 << 20)?)
    };
    changed(build_while(plain.path(), 1, append).unwrap_err(), "big");
    let truncate = || {
        Ok(fs::OpenOptions::new()
            .write(true)
            .open(&big)?
            .set_len(100)?)
    };
    changed(build_while(plain.path(), 1, truncate).unwrap_err(), "big");

    fs::write(&big, noise(0, 8 << 20)).unwrap();
    age(plain.path());
    let add = || Ok(fs::write(plain.path().join("new"), b"")?);
    changed(build_while(plain.path(), 1, add).unwrap_err(), ".");
}

#[test]
fn a_sink_that_fails_ends_the_build_with_its_reason() {
    let test = TestRepo::new(&[]);
    write_sample(&test);
    fs::remove_dir_all(test.path().join(".git")).unwrap();
    for count in [1, 2, 8] {
        let error = build_while(test.path(), count, || Err("disk full".into())).unwrap_err();
        let SnapshotError::Store(reason) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(reason.to_string(), "disk full");
    }
}

#[test]
fn a_failure_far_down_a_large_tree_ends_the_build() {
    let test = TestRepo::new(&[]);
    for file in 0..2000 {
        test.write(format!("f{file:04}"), &noise(file, 2000));
    }
    let commit = test.commit("c");
    let id: GitOid = test.git(&["rev-parse", "HEAD:f1500"]).parse().unwrap();
    fs::remove_file(test.loose(&id)).unwrap();
    let error = refusal_of_commit(&test, &commit);
    assert!(
        matches!(&error, SnapshotError::Git(GitError::MissingObject(missing)) if *missing == id),
        "{error:?}"
    );
}

#[test]
fn a_one_line_edit_makes_few_new_chunks() {
    let test = TestRepo::new(&[]);
    for file in 0..3000 {
        test.write(
            format!("dir{}/f{file:04}", file / 50),
            &noise(file, 500 + file % 3000),
        );
    }
    let sink = MemorySink::default();
    let before = test.commit("before");
    test.write("dir30/f1500", b"edited\n");
    let after = test.commit("after");
    let repo = &test.open();
    let first = build_quietly(
        Source::Commit {
            repo,
            commit: &before,
        },
        &sink,
    )
    .unwrap();
    let second = build_quietly(
        Source::Commit {
            repo,
            commit: &after,
        },
        &sink,
    )
    .unwrap();
    assert!(first.new.chunks > 40, "{:?}", first.new);
    // A bundle or two, a page or two of each list, the descriptor.
    assert!(second.new.chunks <= 7, "{:?}", second.new);
    assert_eq!(
        second.all.chunks.abs_diff(first.all.chunks),
        0,
        "{second:?}"
    );
}

#[test]
fn twenty_thousand_small_files_are_a_snapshot_in_seconds() {
    let test = TestRepo::new(&["--bare"]);
    let plain = tempfile::tempdir().unwrap();
    let mut import = b"commit refs/heads/main\ncommitter C <c@c> 1 +0000\ndata 0\n".to_vec();
    for directory in 0..100 {
        let directory = format!("d{}/e{directory}", directory % 9);
        fs::create_dir_all(plain.path().join(&directory)).unwrap();
        for file in 0..200 {
            let path = format!("{directory}/f{file}");
            let content = noise(import.len(), 200 + import.len() % 4000);
            let header = format!("M 100644 inline {path}\ndata {}\n", content.len());
            import.extend_from_slice(header.as_bytes());
            import.extend_from_slice(&content);
            import.push(b'\n');
            fs::write(plain.path().join(path), content).unwrap();
        }
    }
    test.git_with(&["fast-import", "--quiet"], &import);
    let commit = &test.git(&["rev-parse", "main"]).parse().unwrap();

    let (built, sink) = snapshot_of_commit(&test, commit);
    assert_eq!(built.descriptor.totals.files, 20_000);
    let repo = &test.open();
    let again = build_quietly(Source::Commit { repo, commit }, &sink).unwrap();
    assert_eq!(again.new, ChunkSums::default());
    let (directory, _) = snapshot_of(plain.path());
    assert_eq!(directory.snapshot, built.snapshot);
    println!(
        "20000 files, {} MiB: commit {:?}, again {:?}, directory {:?}",
        built.descriptor.totals.bytes >> 20,
        built.elapsed,
        again.elapsed,
        directory.elapsed
    );
}

/// Forgets all but the ids.
#[derive(Default)]
struct CountingSink(Mutex<BTreeSet<ChunkId>>);

impl ChunkSink for CountingSink {
    fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        self.0.lock().unwrap().contains(id).then_some(1)
    }

    fn plain(&self, _: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put(&self, chunk: &EncodedChunk) -> Result<(), SinkError> {
        self.0.lock().unwrap().insert(chunk.id());
        Ok(())
    }
}

/// Peak resident memory of this process, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

const CHILD: &str = "SCAP_TEST_LARGE_DIRECTORY";

#[test]
fn memory_stays_flat_as_content_grows() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let before = peak_kib();
        let sink = CountingSink::default();
        let built = build_quietly(Source::Directory(Path::new(&directory)), &sink).unwrap();
        println!("grown by {} KiB", peak_kib() - before);
        println!("{:?} took {:?}", built.descriptor.totals, built.elapsed);
        return;
    }
    let plain = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(plain.path().join("sparse")).unwrap();
    sparse.set_len(300 << 20).unwrap();
    fs::write(plain.path().join("large"), noise(0, 128 << 20)).unwrap();
    for file in 0..3000 {
        fs::write(plain.path().join(format!("s{file}")), noise(file, 20_000)).unwrap();
    }
    // A process of its own, since other tests share this one.
    let name = "snapshot::tests::memory_stays_flat_as_content_grows";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(CHILD, plain.path())
        .output()
        .unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    println!("{text}");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "by").unwrap();
    let grown_kib: u64 = words[at + 1].parse().unwrap();
    assert!(grown_kib < 64 * 1024);
}

/// A tree of one file of zeros, which costs no disk.
struct Zeros(u64);

impl Origin for Zeros {
    type Locator = ();
    type Reader = Self;

    fn list(&self) -> Result<impl Iterator<Item = Result<Listed<()>, Halt>>, SnapshotError> {
        let kind = Kind::Content {
            form: Form::File,
            size: self.0,
            locator: (),
        };
        let path = RelPath::new("zeros")?;
        Ok([Ok(Listed { path, kind })].into_iter())
    }

    fn reader(&self) -> Result<Self, SnapshotError> {
        Ok(Self(self.0))
    }

    fn finish(&self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

impl Reader<()> for Zeros {
    fn read(
        &mut self,
        wanted: &[Wanted<'_, ()>],
        mut each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        assert_eq!(wanted.len(), 1);
        each(0, &mut io::repeat(0).take(self.0))
    }
}

#[test]
fn a_file_of_more_than_4_gib_is_a_file_like_any_other() {
    let size = (4 << 30) + 1;
    let sink = MemorySink::default();
    let mut told = 0;
    let tell = |progress: Progress| told += u32::from(progress.read_bytes < size);
    let two = NonZeroUsize::new(2).unwrap();
    let Ok(built) = run(&Zeros(size), &sink, None, two, tell) else {
        panic!("it is not built");
    };
    assert_eq!(built.descriptor.totals.bytes, size);
    // Zeros are all one chunk, and the byte at the end is another.
    assert_eq!(built.descriptor.totals.chunks, 2);
    assert!(told > 0, "progress is told while it is read");
    let entries = sink.entries(&built);
    let file = entries[0].node.content().unwrap();
    assert_eq!(file.size, size);
    assert_eq!(file.extents.len(), 4097);
}
