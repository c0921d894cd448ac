//! What content each inode was proved to hold, so that what did not change is not hashed again.
//!
//! One row per inode, whatever its names: its number, a digest of its status (size, times, mode, owner)
//! and the hash of its content. A file whose status is not the recorded one is hashed again, and so is
//! one that has no row. A row is only a memory: losing all of them costs time and nothing else.
//!
//! A change within the same tick of the file system's clock as the last one leaves no trace in the
//! status. So a row is kept only where the content was known a margin after the last change.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufReader, BufWriter, Read, Write},
    time::Duration,
};

use rustix::fs::Stat;
use scap_proto::id::{ContentHash, DIGEST_BYTES};

use super::{
    dir::{Dir, changed_nanos, modified_nanos},
    error::{ActivateError, Doing},
};

/// How long after a change another one may leave the same time, in nanoseconds: two ticks of the
/// slowest kernel clock (100 Hz).
const RACY_NANOS: i128 = 20_000_000;

/// The same on a file system that keeps whole seconds, or two.
const RACY_NANOS_COARSE: i128 = 3_000_000_000;

/// More than this is not read again, but waited for: reading and hashing it takes about as long as the wait.
const REREAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most rows that are kept beside the sorted ones: a hash table of them is under 1 MiB.
const FRESH_MAX: usize = 8192;

/// The status of an inode about which nothing is known.
const NO_STATUS: u64 = 0;

const MAGIC: &[u8] = b"scap-inodes/1\n";
const ROW_BYTES: usize = 16 + DIGEST_BYTES;
/// Rows that are read, written and hashed together: 24 KiB of them, which is what makes hashing fast.
const ROWS_AT_ONCE: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    inode: u64,
    status: u64,
    hash: ContentHash,
}

impl Row {
    fn to_bytes(self) -> [u8; ROW_BYTES] {
        let mut bytes = [0; ROW_BYTES];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.status.to_le_bytes());
        bytes[16..].copy_from_slice(self.hash.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ROW_BYTES]) -> Self {
        let number = |at: usize| {
            let bytes = *bytes[at..].first_chunk().expect("a row is longer");
            u64::from_le_bytes(bytes)
        };
        Self {
            inode: number(0),
            status: number(8),
            hash: ContentHash::from_bytes(*bytes.last_chunk().expect("a row is longer")),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Written {
    /// When, by the file system's clock.
    at: i128,
    inode: u64,
    bytes: u64,
}

/// The rows of one file system, 48 bytes each.
#[derive(Debug)]
pub(super) struct Inodes {
    device: u64,
    /// Sorted by inode.
    rows: Vec<Row>,
    /// Of inodes not among `rows`; sorted into them when there are [`FRESH_MAX`].
    fresh: HashMap<u64, Row>,
    /// Files written a moment ago: too new for a row that can be trusted.
    recent: VecDeque<Written>,
    changed: bool,
}

impl Inodes {
    /// Reads the rows at `name`. There are none where the file is missing, damaged, or of another file
    /// system.
    ///
    /// # Errors
    /// Where the directory or the file cannot be read.
    pub(super) fn load(dir: &Dir, name: &str) -> Result<Self, ActivateError> {
        let load = || {
            let device = dir.own_stat()?.st_dev;
            let rows = match dir.file(name.as_bytes()) {
                Ok(file) => read_rows(BufReader::new(file), device)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            Ok(Self {
                device,
                rows,
                fresh: HashMap::new(),
                recent: VecDeque::new(),
                changed: false,
            })
        };
        load().doing(|| format!("read the record `{name}`"))
    }

    /// Writes the rows, where any changed. `now` is the file system's time before anybody else could
    /// change what was written. A crash leaves the old rows, the new ones, or none that are whole.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub(super) fn save(&mut self, dir: &Dir, name: &str, now: i128) -> Result<(), ActivateError> {
        for written in std::mem::take(&mut self.recent) {
            if written.at + RACY_NANOS >= now {
                self.forget(written.inode);
            }
        }
        self.settle();
        if !self.changed {
            return Ok(());
        }
        let temporary = format!("{name}{}", super::record::TEMPORARY_SUFFIX);
        let save = || {
            dir.unlink(temporary.as_bytes())?;
            let mut out = Sum::new(BufWriter::new(dir.create(temporary.as_bytes(), 0o600)?));
            out.put(MAGIC)?;
            out.put(&self.device.to_le_bytes())?;
            out.put(&(self.rows.len() as u64).to_le_bytes())?;
            for rows in self.rows.chunks(ROWS_AT_ONCE) {
                let block: Vec<u8> = rows.iter().flat_map(|row| row.to_bytes()).collect();
                out.put(&block)?;
            }
            let Sum { mut inner, hasher } = out;
            inner.write_all(hasher.finalize().as_bytes())?;
            inner.flush()?;
            dir.rename(temporary.as_bytes(), dir, name.as_bytes())
        };
        save().doing(|| format!("write the record `{name}`"))?;
        self.changed = false;
        Ok(())
    }

    /// How long to wait before [`Self::save`], so that nothing that was just written has to be read again: nothing
    /// where reading takes less. `now` is the file system's time.
    pub(super) fn settles_in(&self, now: i128) -> Duration {
        let is_racy = |written: &&Written| written.at + RACY_NANOS >= now;
        let racy = self.recent.iter().filter(is_racy);
        let bytes: u64 = racy.clone().map(|written| written.bytes).sum();
        let until = racy.map(|written| written.at + RACY_NANOS + 1).max();
        match until {
            Some(until) if bytes > REREAD_BYTES_MAX => {
                Duration::from_nanos(u64::try_from(until - now).unwrap_or(0))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether the file of this status is proved to hold this content.
    pub(super) fn proves(&self, stat: &Stat, hash: &ContentHash) -> bool {
        self.content(stat) == Some(hash)
    }

    /// What the file of this status is proved to hold.
    pub(super) fn content(&self, stat: &Stat) -> Option<&ContentHash> {
        let row = self.find(stat.st_ino).filter(|row| self.is_same(row, stat));
        row.map(|row| &row.hash)
    }

    /// Records content that was written where nobody else could reach it.
    pub(super) fn note_written(&mut self, stat: &Stat, hash: ContentHash) {
        let written = changed_nanos(stat);
        if is_coarse(stat) {
            return self.forget(stat.st_ino);
        }
        while self
            .recent
            .front()
            .is_some_and(|then| then.at + 2 * RACY_NANOS < written)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(Written {
            at: written,
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
        });
        self.set(stat, hash);
    }

    /// Records content that was read after `began`, by the file system's time.
    pub(super) fn note_read(&mut self, stat: &Stat, hash: ContentHash, began: i128) {
        if changed_nanos(stat) + margin(stat) < began {
            self.set(stat, hash);
        } else {
            self.forget(stat.st_ino);
        }
    }

    /// Follows an inode through a link or unlink call of ours, which changes its status and not its
    /// content. `before` is its status ahead of the call, and `after` behind it.
    pub(super) fn restate(&mut self, before: &Stat, after: &Stat) {
        let Some(row) = self.find(before.st_ino).copied() else {
            return;
        };
        let untouched = before.st_ino == after.st_ino
            && before.st_size == after.st_size
            && before.st_mode == after.st_mode
            && modified_nanos(before) == modified_nanos(after);
        // A write in the tick of our call shows in the time of the content, if that is an older one.
        let shows = modified_nanos(after) + margin(after) < changed_nanos(after);
        if self.is_same(&row, before) && untouched && shows {
            self.set(after, row.hash);
        } else {
            self.forget(before.st_ino);
        }
    }

    /// Forgets an inode that is gone or no longer proved.
    pub(super) fn forget(&mut self, inode: u64) {
        if let Ok(at) = self.rows.binary_search_by_key(&inode, |row| row.inode) {
            // A row of no status stays in place, so that forgetting many costs no shifting.
            self.rows[at].status = NO_STATUS;
            self.changed = true;
        }
        self.fresh.remove(&inode);
    }

    fn set(&mut self, stat: &Stat, hash: ContentHash) {
        let row = Row {
            inode: stat.st_ino,
            status: self.status(stat),
            hash,
        };
        self.changed = true;
        if let Ok(at) = self.rows.binary_search_by_key(&row.inode, |row| row.inode) {
            self.rows[at] = row;
        } else {
            self.fresh.insert(row.inode, row);
            if self.fresh.len() >= FRESH_MAX {
                self.settle();
            }
        }
    }

    fn find(&self, inode: u64) -> Option<&Row> {
        match self.rows.binary_search_by_key(&inode, |row| row.inode) {
            Ok(at) => Some(&self.rows[at]),
            Err(_) => self.fresh.get(&inode),
        }
    }

    /// Sorts the fresh rows into the others and drops those of no status.
    fn settle(&mut self) {
        self.rows.retain(|row| row.status != NO_STATUS);
        self.rows.extend(self.fresh.drain().map(|(_, row)| row));
        // The stable sort merges the run that is sorted with what is new.
        self.rows.sort_by_key(|row| row.inode);
    }

    fn is_same(&self, row: &Row, stat: &Stat) -> bool {
        row.status != NO_STATUS && row.status == self.status(stat)
    }

    /// A digest of all that a change of content or status shows in.
    fn status(&self, stat: &Stat) -> u64 {
        if stat.st_dev != self.device {
            return NO_STATUS;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&stat.st_size.to_le_bytes());
        hasher.update(&modified_nanos(stat).to_le_bytes());
        hasher.update(&changed_nanos(stat).to_le_bytes());
        hasher.update(&stat.st_mode.to_le_bytes());
        hasher.update(&stat.st_uid.to_le_bytes());
        hasher.update(&stat.st_gid.to_le_bytes());
        let digest = *hasher.finalize().as_bytes().first_chunk().expect("8 of 32");
        u64::from_le_bytes(digest).max(NO_STATUS + 1)
    }
}

fn margin(stat: &Stat) -> i128 {
    if is_coarse(stat) {
        RACY_NANOS_COARSE
    } else {
        RACY_NANOS
    }
}

/// Whether the time of the last change is a whole second, as on a file system that keeps no parts of it.
fn is_coarse(stat: &Stat) -> bool {
    changed_nanos(stat) % 1_000_000_000 == 0
}

/// Reads all rows, or none where the file is not whole or of another device.
fn read_rows(mut file: impl Read, device: u64) -> io::Result<Vec<Row>> {
    match try_read_rows(&mut file, device) {
        Ok(rows) => Ok(rows.unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn try_read_rows(file: &mut impl Read, device: u64) -> io::Result<Option<Vec<Row>>> {
    let mut input = Sum::new(file);
    let magic: [u8; MAGIC.len()] = input.take()?;
    let device_then: [u8; 8] = input.take()?;
    let count = u64::from_le_bytes(input.take()?);
    if magic != *MAGIC || device_then != device.to_le_bytes() {
        return Ok(None);
    }
    // Not reserved ahead: the count is not proved yet.
    let mut rows = Vec::new();
    for _ in 0..count / ROWS_AT_ONCE as u64 {
        let block: [u8; ROW_BYTES * ROWS_AT_ONCE] = input.take()?;
        let (block, _) = block.as_chunks();
        rows.extend(block.iter().map(Row::from_bytes));
    }
    for _ in 0..count % ROWS_AT_ONCE as u64 {
        rows.push(Row::from_bytes(&input.take()?));
    }
    let expected = *input.hasher.finalize().as_bytes();
    let found: [u8; blake3::OUT_LEN] = input.take()?;
    let whole = found == expected && rows.is_sorted_by(|a, b| a.inode < b.inode);
    Ok(whole.then_some(rows))
}

/// What passes through, and its hash.
struct Sum<S> {
    inner: S,
    hasher: blake3::Hasher,
}

impl<S> Sum<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }
}

impl<S: Write> Sum<S> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<S: Read> Sum<S> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::FileExt, thread::sleep};

    use super::*;
    use crate::activate::dir::touch;

    struct Setup {
        root: tempfile::TempDir,
        dir: Dir,
    }

    impl Setup {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let dir = Dir::open(root.path()).unwrap();
            Self { root, dir }
        }

        fn write(&self, name: &str) -> Stat {
            fs::write(self.root.path().join(name), name).unwrap();
            self.stat(name)
        }

        fn stat(&self, name: &str) -> Stat {
            self.dir.stat(name.as_bytes()).unwrap().unwrap()
        }

        fn now(&self) -> i128 {
            touch(&self.dir.open_or_create(b"clock", 0o600).unwrap()).unwrap()
        }

        /// The file system's clock is the state waited for: until it is past the margin.
        fn now_past_margin(&self, stat: &Stat) -> i128 {
            for _ in 0..1000 {
                let now = self.now();
                if changed_nanos(stat) + margin(stat) < now {
                    return now;
                }
                sleep(Duration::from_millis(5));
            }
            panic!("the file system's clock stands still");
        }
    }

    fn hash(name: &str) -> ContentHash {
        ContentHash::of(name.as_bytes())
    }

    #[test]
    fn a_row_proves_what_it_was_made_for_until_the_file_changes() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let stat = setup.write("a");
        inodes.note_written(&stat, hash("a"));
        let now = setup.now_past_margin(&stat);
        inodes.save(&setup.dir, "rows", now).unwrap();

        let inodes = Inodes::load(&setup.dir, "rows").unwrap();
        assert!(inodes.proves(&stat, &hash("a")));
        assert!(!inodes.proves(&stat, &hash("b")));
        // The same length at the same place, and the old time of the content put back.
        let path = setup.root.path().join("a");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"b", 0).unwrap();
        file.set_modified(modified).unwrap();
        assert!(!inodes.proves(&setup.stat("a"), &hash("a")));
    }

    #[test]
    fn a_file_changed_a_moment_ago_has_no_row() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let stat = setup.write("a");
        inodes.note_written(&stat, hash("a"));
        inodes
            .save(&setup.dir, "rows", changed_nanos(&stat) + RACY_NANOS)
            .unwrap();
        assert!(!inodes.proves(&stat, &hash("a")));
        inodes.note_read(&stat, hash("a"), changed_nanos(&stat) + margin(&stat));
        assert!(!inodes.proves(&stat, &hash("a")));
        inodes.note_read(&stat, hash("a"), setup.now_past_margin(&stat));
        assert!(inodes.proves(&stat, &hash("a")));
    }

    #[test]
    fn much_that_was_just_written_is_worth_waiting_for_and_little_is_not() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let mut stat = setup.write("a");
        let written = changed_nanos(&stat);
        inodes.note_written(&stat, hash("a"));
        assert_eq!(inodes.settles_in(written), Duration::ZERO);
        stat.st_size = i64::try_from(REREAD_BYTES_MAX).unwrap();
        inodes.note_written(&stat, hash("a"));
        let wait = inodes.settles_in(written);
        assert_eq!(wait, Duration::from_nanos(20_000_001));
        let then = written + i128::try_from(wait.as_nanos()).unwrap();
        assert_eq!(inodes.settles_in(then), Duration::ZERO);
        inodes.save(&setup.dir, "rows", then).unwrap();
        assert!(inodes.proves(&stat, &hash("a")));
    }

    #[test]
    fn a_row_follows_our_own_links_and_no_others() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let old = setup.write("a");
        inodes.note_read(&old, hash("a"), setup.now_past_margin(&old));
        setup.dir.link(b"a", &setup.dir, b"b").unwrap();
        let linked = setup.stat("a");
        assert!(!inodes.proves(&linked, &hash("a")));
        inodes.restate(&old, &linked);
        assert!(inodes.proves(&linked, &hash("a")));
        // A link that somebody else made in between.
        setup.dir.link(b"a", &setup.dir, b"c").unwrap();
        let before = setup.stat("a");
        setup.now_past_margin(&before);
        setup.dir.unlink(b"b").unwrap();
        inodes.restate(&before, &setup.stat("a"));
        assert!(!inodes.proves(&setup.stat("a"), &hash("a")));
    }

    #[test]
    fn rows_that_are_not_whole_are_no_rows() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let stat = setup.write("a");
        inodes.note_read(&stat, hash("a"), setup.now_past_margin(&stat));
        inodes.save(&setup.dir, "rows", setup.now()).unwrap();
        let path = setup.root.path().join("rows");
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            for bad in [&bad[..], &bytes[..at]] {
                fs::write(&path, bad).unwrap();
                let inodes = Inodes::load(&setup.dir, "rows").unwrap();
                assert!(!inodes.proves(&stat, &hash("a")), "byte {at}");
            }
        }
    }

    #[test]
    fn many_rows_are_found_again_and_dead_ones_dropped() {
        let setup = Setup::new();
        let mut inodes = Inodes::load(&setup.dir, "rows").unwrap();
        let stat = setup.write("a");
        let now = setup.now_past_margin(&stat);
        let many = |n: u64| {
            let mut many = stat;
            many.st_ino = n * 7919 % 65_537;
            many
        };
        for n in 1..=20_000 {
            inodes.note_read(&many(n), hash("a"), now);
        }
        for n in 1..=10_000 {
            inodes.forget(many(n).st_ino);
        }
        inodes.save(&setup.dir, "rows", now).unwrap();
        let inodes = Inodes::load(&setup.dir, "rows").unwrap();
        assert_eq!(inodes.rows.len(), 10_000);
        for n in 1..=20_000 {
            assert_eq!(inodes.proves(&many(n), &hash("a")), n > 10_000);
        }
    }
}
