//! Any sequence of operations, against a model of a few lines.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{damage::Damage, *};

#[derive(Debug, Clone)]
enum Operation {
    Put(usize),
    Get(usize),
    Plain(usize),
    Sync,
    /// A clean stop and a kill are the same to the store: nothing runs when it is dropped.
    Reopen,
    /// What was not synced is as the disk pleases.
    PowerCut(u64),
    Damage(usize, Damage),
    /// The chunks whose bits are set are kept.
    Collect(u32),
    /// Opens a hold, or drops it.
    Hold,
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = 0..CHUNKS.len();
    prop_oneof![
        6 => index.clone().prop_map(Operation::Put),
        3 => index.clone().prop_map(Operation::Get),
        3 => index.clone().prop_map(Operation::Plain),
        2 => Just(Operation::Sync),
        1 => Just(Operation::Reopen),
        1 => any::<u64>().prop_map(Operation::PowerCut),
        2 => (index, Damage::any()).prop_map(|(n, damage)| Operation::Damage(n, damage)),
        1 => any::<u32>().prop_map(Operation::Collect),
        1 => Just(Operation::Hold),
    ]
}

#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    is_synced: bool,
    is_damaged: bool,
    /// Put, or found there by a put, since the hold was opened.
    is_touched: bool,
}

struct Model {
    directory: tempfile::TempDir,
    open: Option<(Store, Option<super::super::Hold>)>,
    expected: BTreeMap<usize, Expected>,
}

impl Model {
    fn new() -> Self {
        let directory = memory_dir();
        let (store, recovery) = open(directory.path());
        assert!(recovery.is_clean());
        Self {
            directory,
            open: Some((store, None)),
            expected: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        &self.open.as_ref().unwrap().0
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Put(n) => {
                let put = self.store().put(&CHUNKS[n]).unwrap();
                let is_new = !self.expected.contains_key(&n);
                assert_eq!(put == Put::New, is_new);
                self.expected.entry(n).or_default().is_touched = true;
            }
            Operation::Get(n) => {
                let found = self.store().get(&CHUNKS[n].id()).unwrap();
                let found = self.expect_lookup(n, found);
                assert!(found.is_none_or(|found| found.encoded() == CHUNKS[n].bytes()));
            }
            Operation::Plain(n) => {
                let found = self.store().plain(&CHUNKS[n].id()).unwrap();
                // Where it is the checksum that is damaged, the bytes still prove themselves.
                let proved =
                    matches!(&found, Lookup::Found(bytes) if bytes[..] == *CHUNKS[n].plain());
                if !proved || !self.expected.contains_key(&n) {
                    let found = self.expect_lookup(n, found);
                    assert!(found.is_none(), "{found:?}");
                }
            }
            Operation::Sync => {
                self.store().sync().unwrap();
                self.expected
                    .values_mut()
                    .for_each(|chunk| chunk.is_synced = true);
            }
            Operation::Reopen => self.reopen(),
            Operation::PowerCut(dice) => {
                for (n, chunk) in &mut self.expected {
                    let damage = match (dice >> (2 * n)) & 3 {
                        0 => continue,
                        1 => Damage::Remove,
                        2 => Damage::Empty,
                        _ => Damage::Truncate(dice),
                    };
                    if !chunk.is_synced {
                        chunk.is_damaged |= damage.apply(self.directory.path(), *n);
                    }
                }
                self.reopen();
            }
            Operation::Damage(n, damage) => {
                if let Some(chunk) = self.expected.get_mut(&n) {
                    chunk.is_damaged |= damage.apply(self.directory.path(), n);
                }
            }
            Operation::Collect(kept) => {
                let collection = self.store().begin_collection();
                let is_kept = |n: usize| kept & (1 << n) != 0;
                (0..CHUNKS.len())
                    .filter(|n| is_kept(*n))
                    .for_each(|n| collection.keep(&CHUNKS[n].id()));
                let collected = collection.sweep().unwrap();
                let is_open = self.open.as_ref().unwrap().1.is_some();
                let before = self.expected.len();
                self.expected
                    .retain(|n, chunk| is_kept(*n) || (is_open && chunk.is_touched));
                // Keeping is touching: a later collection under the same hold spares it too.
                for (n, chunk) in &mut self.expected {
                    chunk.is_touched |= is_kept(*n);
                }
                assert_eq!(collected.chunks, (before - self.expected.len()) as u64);
            }
            Operation::Hold => {
                let (store, hold) = self.open.as_mut().unwrap();
                *hold = match hold.take() {
                    Some(_) => None,
                    None => Some(store.hold()),
                };
                self.expected
                    .values_mut()
                    .for_each(|chunk| chunk.is_touched = false);
            }
        }
        self.check();
        if matches!(operation, Operation::Reopen | Operation::Collect(_)) {
            self.check_files();
        }
    }

    /// A damaged chunk is lost once, and absent after.
    fn expect_lookup<T: std::fmt::Debug>(&mut self, n: usize, found: Lookup<T>) -> Option<T> {
        match self.expected.get(&n) {
            None => assert!(matches!(found, Lookup::Absent), "{found:?}"),
            Some(chunk) if chunk.is_damaged => {
                assert!(matches!(found, Lookup::Lost), "{found:?}");
                self.expected.remove(&n);
            }
            Some(_) => assert!(matches!(found, Lookup::Found(_)), "{found:?}"),
        }
        found.found()
    }

    fn reopen(&mut self) {
        self.open = None;
        let directory = self.directory.path();
        // Of what was synced only the files that are gone are noticed; of the rest, any damage.
        self.expected.retain(|n, chunk| {
            !chunk.is_damaged || (chunk.is_synced && file(directory, &CHUNKS[*n].id()).exists())
        });
        let (store, recovery) = open(directory);
        let verified = self
            .expected
            .values()
            .filter(|chunk| !chunk.is_synced)
            .count();
        assert_eq!(recovery.verified_chunks, verified as u64);
        assert_eq!(recovery.damaged_records, 0);
        self.expected
            .values_mut()
            .for_each(|chunk| chunk.is_touched = true);
        self.open = Some((store, None));
    }

    fn check(&self) {
        let usage = self.store().usage().unwrap();
        let lengths = self
            .expected
            .keys()
            .map(|n| CHUNKS[*n].bytes().len() as u64);
        assert_eq!(usage.chunks, self.expected.len() as u64);
        assert_eq!(usage.encoded_bytes, lengths.sum::<u64>());
        for (n, chunk) in CHUNKS.iter().enumerate() {
            assert_eq!(
                self.store().contains(&chunk.id()),
                self.expected.contains_key(&n)
            );
        }
    }

    fn check_files(&self) {
        let files = files(self.directory.path());
        assert!(
            files.iter().all(|id| self.store().contains(id)),
            "a file that nobody offers"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations_does_what_the_model_does(
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        let mut model = Model::new();
        for operation in &operations {
            model.apply(operation);
        }
        model.apply(&Operation::Reopen);
        for n in 0..CHUNKS.len() {
            model.apply(&Operation::Get(n));
            model.apply(&Operation::Plain(n));
        }
    }
}
