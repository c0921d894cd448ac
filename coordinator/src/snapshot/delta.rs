//! Deltas: from the chunks of an earlier snapshot to those that a new one has and it has not.
//!
//! Nothing is read but the earlier snapshot's chunk list and the chunks that differ. Both layouts are in path order, pages
//! before content. So what stands in one between two chunks that both have took the place of what stands there in the
//! other, and is made from that.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use scap_proto::{
    content::{
        ChunkRef, EncodedChunk, Layout, SnapshotRef,
        delta::{Part, Run},
    },
    id::{ChunkId, SnapshotId},
    limits::{CHUNK_BYTES_MAX, DELTA_BASE_BYTES_MAX, DELTA_MADE_BYTES_MAX, DELTA_PARTS_MAX},
    release::DeltaRef,
};

use super::{
    ChunkSink,
    chunks::ChunkSums,
    earlier::{EarlierError, Kept, plain},
};

/// A part is worth it where it is at most this share of the encoded chunks that it saves. What gains less is rather
/// fetched from all peers than from those of one base.
const GAIN_MIN: u64 = 2;

/// Most attempts at parts of one delta: what does not gain is halved and tried again. One takes up to 50 ms.
const ATTEMPTS_MAX: usize = 3 * DELTA_PARTS_MAX;

/// How far, in bytes, what a chunk is made from may have moved against where it is expected.
const SLACK_BYTES: u64 = 1024 * 1024;

/// A delta whose parts are in the sink.
#[derive(Debug)]
pub struct Delta {
    /// As the release names it.
    pub reference: DeltaRef,
    /// Encoded bytes of its parts.
    pub encoded_bytes: u64,
    /// What need not be fetched where it is used.
    pub saves: ChunkSums,
}

/// Makes a delta from the snapshot `base`; `new` is the layout of one that was just built. `None` where nothing would be
/// gained by it, or where the sink has not all of the base that it takes, which a debug line tells.
pub fn build_delta(base: SnapshotId, new: &Layout, sink: &dyn ChunkSink) -> Option<Delta> {
    match Deltas::compare(base, new, sink).and_then(|deltas| deltas.build(base)) {
        Ok(delta) => Some(delta).filter(|delta| !delta.reference.chunks.is_empty()),
        Err(reason) => {
            let reason: &dyn std::error::Error = &reason;
            tracing::debug!(%base, reason, "no delta");
            None
        }
    }
}

/// What two snapshots differ in.
struct Deltas<'a> {
    sink: &'a dyn ChunkSink,
    /// What only the base has, in its order.
    gone: Vec<ChunkRef>,
    /// Where each of them begins, if they stood one after the other, and where the last ends.
    offsets: Vec<u64>,
    /// What only the new snapshot has, in its order.
    missing: Vec<Missing>,
}

/// A chunk to be made.
struct Missing {
    chunk: ChunkRef,
    /// Which of the gone are like it.
    like: Vec<Range<usize>>,
}

impl<'a> Deltas<'a> {
    fn compare(
        base: SnapshotId,
        new: &Layout,
        sink: &'a dyn ChunkSink,
    ) -> Result<Self, EarlierError> {
        let descriptor = plain(sink, &base.descriptor_chunk())?;
        let base = SnapshotRef {
            id: base,
            descriptor_length: u32::try_from(descriptor.len()).expect("a chunk's length"),
        };
        let base = Kept::read(base, sink)?;
        let in_new: HashSet<ChunkId> = new.refs().iter().map(|chunk| chunk.id).collect();

        // The gone are in runs, which begin and end where there is a chunk that both have.
        let mut gone = Vec::new();
        let mut runs = Vec::new();
        let mut common = HashMap::new();
        let mut start = 0;
        for chunk in base.refs() {
            if in_new.contains(&chunk.id) {
                common.insert(chunk.id, runs.len());
                runs.push(start..gone.len());
                start = gone.len();
            } else {
                gone.push(*chunk);
            }
        }
        runs.push(start..gone.len());

        let mut offsets = vec![0];
        let lengths = gone.iter().map(|chunk| u64::from(chunk.plain_length));
        offsets.extend(lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let mut deltas = Self {
            sink,
            gone,
            offsets,
            missing: Vec::new(),
        };
        let (mut run, mut after) = (Vec::new(), 0);
        let mut seen = HashSet::new();
        for chunk in new.refs() {
            match common.get(&chunk.id) {
                Some(&number) => {
                    deltas.miss(&std::mem::take(&mut run), &runs[after], &runs[number]);
                    after = number + 1;
                }
                None if seen.insert(chunk.id) => run.push(*chunk),
                None => {}
            }
        }
        deltas.miss(&run, &runs[after], &runs[runs.len() - 1]);
        Ok(deltas)
    }

    /// Adds a run of missing chunks, between two that both have: after the first of these and before the second, the base has
    /// these runs of the gone. They are the same unless something moved.
    fn miss(&mut self, run: &[ChunkRef], after: &Range<usize>, before: &Range<usize>) {
        let all: u64 = run.iter().map(|it| u64::from(it.plain_length)).sum();
        let mut start = 0;
        for chunk in run {
            let end = start + u64::from(chunk.plain_length);
            let mut like = vec![self.window(after, start..end, all)];
            if before != after {
                like.push(self.window(before, start..end, all));
            }
            start = end;
            like.retain(|window| !window.is_empty());
            // What took nothing's place is like nothing.
            if !like.is_empty() {
                let chunk = *chunk;
                self.missing.push(Missing { chunk, like });
            }
        }
    }

    /// The part of a run of the gone that stands where those bytes stand among `all` of the missing, and somewhat more.
    fn window(&self, run: &Range<usize>, bytes: Range<u64>, all: u64) -> Range<usize> {
        let offsets = &self.offsets[run.start..=run.end];
        let (first, length) = (offsets[0], offsets[run.len()] - offsets[0]);
        let scaled = |at: u64| {
            let scaled = u128::from(at) * u128::from(length) / u128::from(all);
            u64::try_from(scaled).expect("not beyond `length`")
        };
        let from = first + scaled(bytes.start).saturating_sub(SLACK_BYTES);
        let to = first + scaled(bytes.end) + SLACK_BYTES;
        let start = offsets[1..].partition_point(|end| *end <= from);
        let end = offsets[..run.len()].partition_point(|start| *start < to);
        run.start + start..run.start + end
    }

    fn build(&self, base: SnapshotId) -> Result<Delta, EarlierError> {
        let mut delta = Delta {
            reference: DeltaRef {
                base,
                chunks: Vec::new(),
            },
            encoded_bytes: 0,
            saves: ChunkSums::default(),
        };
        // The last is tried next.
        let mut untried = self.groups();
        untried.reverse();
        for _ in 0..ATTEMPTS_MAX {
            let is_full = delta.reference.chunks.len() == DELTA_PARTS_MAX;
            let Some(group) = untried.pop().filter(|_| !is_full) else {
                break;
            };
            let saves = self.sums(group)?;
            let part = Part::encode(&self.base_of(group)?, &self.made_of(group)?);
            let gains = part.len() as u64 * GAIN_MIN <= saves.encoded_bytes;
            if gains && part.len() <= CHUNK_BYTES_MAX as usize {
                let part = EncodedChunk::from_plain(&part);
                self.sink.put(&part).map_err(EarlierError::Store)?;
                delta.reference.chunks.push(ChunkRef {
                    id: part.id(),
                    plain_length: part.plain_length(),
                });
                delta.encoded_bytes += part.bytes().len() as u64;
                delta.saves += saves;
            } else if group.len() > 1 {
                let (first, second) = group.split_at(group.len() / 2);
                untried.extend([second, first]);
            }
        }
        Ok(delta)
    }

    /// The missing chunks in groups that each fit one part; more than are ever tried are left out.
    fn groups(&self) -> Vec<&[Missing]> {
        let mut groups = Vec::new();
        let (mut start, mut made_bytes, mut like) = (0, 0, BTreeSet::new());
        for (at, missing) in self.missing.iter().enumerate() {
            let length = missing.chunk.plain_length as usize;
            let more: BTreeSet<usize> = like.iter().copied().chain(missing.like()).collect();
            let fits = made_bytes + length <= DELTA_MADE_BYTES_MAX
                && self.gone_bytes(&more) <= DELTA_BASE_BYTES_MAX;
            // One alone always fits: of what it is like as much is taken as may be.
            if fits || at == start {
                made_bytes += length;
                like = more;
                continue;
            }
            groups.push(&self.missing[start..at]);
            if groups.len() == ATTEMPTS_MAX {
                return groups;
            }
            (start, made_bytes, like) = (at, length, missing.like().collect());
        }
        if start < self.missing.len() {
            groups.push(&self.missing[start..]);
        }
        groups
    }

    fn gone_bytes(&self, numbers: &BTreeSet<usize>) -> usize {
        let lengths = numbers
            .iter()
            .map(|it| self.gone[*it].plain_length as usize);
        lengths.sum()
    }

    /// What a group is made from.
    fn base_of(&self, group: &[Missing]) -> Result<Run, EarlierError> {
        let mut base = Run::default();
        for number in group
            .iter()
            .flat_map(Missing::like)
            .collect::<BTreeSet<_>>()
        {
            let chunk = self.gone[number];
            if base.len() + chunk.plain_length as usize > DELTA_BASE_BYTES_MAX {
                break;
            }
            base.push(chunk.id, &plain(self.sink, &chunk.id)?);
        }
        Ok(base)
    }

    fn made_of(&self, group: &[Missing]) -> Result<Run, EarlierError> {
        let mut made = Run::default();
        for Missing { chunk, .. } in group {
            made.push(chunk.id, &plain(self.sink, &chunk.id)?);
        }
        Ok(made)
    }

    /// What a group takes as chunks.
    fn sums(&self, group: &[Missing]) -> Result<ChunkSums, EarlierError> {
        let mut sums = ChunkSums::default();
        for Missing { chunk, .. } in group {
            let encoded_length = self.sink.encoded_length(&chunk.id);
            let encoded_length = encoded_length.ok_or(EarlierError::Lost(chunk.id))?;
            sums.add(chunk.plain_length, encoded_length);
        }
        Ok(sums)
    }
}

impl Missing {
    fn like(&self) -> impl Iterator<Item = usize> {
        self.like.iter().cloned().flatten()
    }
}
