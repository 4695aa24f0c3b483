//! What the journal knows of its files: which records are where, and what is still wanted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use miroir_seams::{Entropy, Files, LogFile};
use tokio::sync::oneshot;

use super::JournalError;
use super::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::payload::Payload;
use super::recovery::{RecoverError, Recovered, recover};

const EXTENSION: &str = ".journal";

/// The file of the segment whose first sequence is `base`. Names sort as sequences do.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:020}{EXTENSION}")
}

fn base_of(name: &str) -> Option<u64> {
    name.strip_suffix(EXTENSION)?.parse().ok().filter(|base| segment_name(*base) == name)
}

/// Where a payload lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The segment's base.
    pub(super) segment: u64,
    /// Position of the payload in the file.
    pub(super) position: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
}

/// One record that is not released.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    Good(Place),
    /// It lay in a damaged place of this segment.
    Damaged {
        segment: u64,
    },
}

impl Record {
    fn segment(self) -> u64 {
        match self {
            Self::Good(place) => place.segment,
            Self::Damaged { segment } => segment,
        }
    }
}

#[derive(Debug)]
pub(super) struct Segment {
    /// A handle of its own, so that reads don't wait for an fsync.
    pub(super) reader: Arc<dyn LogFile>,
    pub(super) bytes: u64,
    /// Records not yet released.
    pub(super) live: usize,
}

/// An append that is not yet on disk.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) sequence: u64,
    pub(super) payload: Payload,
    pub(super) done: oneshot::Sender<Result<(), JournalError>>,
}

/// The segment that takes appends. Held by the one writer.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) base: u64,
    pub(super) salt: u64,
    pub(super) file: Box<dyn LogFile>,
    pub(super) bytes: u64,
}

/// Guarded by one short lock that is never held over disk work.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) records: BTreeMap<u64, Record>,
    /// By base. The newest is never removed: its name keeps sequences from being given again.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Greater than every sequence ever acknowledged.
    pub(super) next_sequence: u64,
    /// In order of sequence.
    pub(super) queue: VecDeque<Waiting>,
    /// Frame bytes of the queue and of what is being written.
    pub(super) bytes_pending: u64,
    /// Somebody drains the queue.
    pub(super) writing: bool,
    /// Appends are refused from now on.
    pub(super) closed: bool,
    /// The writer begins a new segment first, so that the (wholly released) newest can go.
    pub(super) rotate: bool,
    /// Every append below is on disk or refused.
    pub(super) settled_below: u64,
    /// Being written, though nobody waits for them any more; all `>= settled_below`.
    pub(super) abandoned: BTreeSet<u64>,
}

impl State {
    /// Reads all segments. The last one goes on taking appends, its torn tail cut off.
    pub(super) fn open(
        files: &dyn Files,
        entropy: &Entropy,
    ) -> Result<(Self, Option<Active>), JournalError> {
        let bases: Vec<u64> = files.list()?.iter().filter_map(|name| base_of(name)).collect();
        let mut state = Self::default();
        if bases.is_empty() {
            // Tasks name records by pod and number. A pod that lost its disk must not give out a
            // number that a task of its former life names; the room above is never used up.
            state.next_sequence = entropy.next_u64() >> 8;
            state.settled_below = state.next_sequence;
        }
        let mut active = None;
        for (index, base) in bases.iter().copied().enumerate() {
            let next_base = bases.get(index + 1).copied();
            let name = segment_name(base);
            let mut file = files.open(&name)?;
            let mut found =
                recover(file.as_ref(), base, next_base.is_none()).map_err(|error| match error {
                    RecoverError::Io(error) => error.into(),
                    RecoverError::TooNew(version) => {
                        JournalError::TooNew { name: name.clone(), version }
                    }
                })?;
            let size = file.size()?;
            let mut bytes = size;
            if let Some(next_base) = next_base {
                // Behind the last good frame lies either what was never acknowledged (the
                // segment was given up after an error) or damage. Which, the log knows.
                if found.good_bytes < size || found.header.is_none() {
                    let last = found.frames.last().map(|(frame, _)| frame.sequence + 1);
                    found.damaged.extend(last.unwrap_or(base)..next_base);
                }
            } else {
                if found.good_bytes < size {
                    let torn_bytes = size - found.good_bytes;
                    tracing::warn!(name, torn_bytes, "cutting the torn tail of the journal");
                    file.truncate(found.good_bytes)?;
                }
                let resumed = resume(file, base, &found, entropy)?;
                bytes = resumed.bytes;
                active = Some(resumed);
            }
            let reader = files.open(&name)?.into();
            state.add_segment(base, Segment { reader, bytes, live: 0 }, &found);
        }
        Ok((state, active))
    }

    fn add_segment(&mut self, base: u64, segment: Segment, found: &Recovered) {
        if !found.damaged.is_empty() {
            let (name, records) = (segment_name(base), found.damaged.len());
            tracing::error!(name, records, "journal segment is damaged");
        }
        let good = found.frames.iter().map(|(frame, position)| {
            let place =
                Place { segment: base, position: *position, length: frame.length, crc: frame.crc };
            (frame.sequence, Record::Good(place))
        });
        let damaged =
            found.damaged.iter().map(|sequence| (*sequence, Record::Damaged { segment: base }));
        self.next_sequence = self.next_sequence.max(base);
        self.segments.insert(base, segment);
        for (sequence, record) in good.chain(damaged) {
            self.next_sequence = self.next_sequence.max(sequence + 1);
            self.add_record(sequence, record);
        }
    }

    pub(super) fn add_record(&mut self, sequence: u64, record: Record) {
        if self.records.insert(sequence, record).is_none()
            && let Some(segment) = self.segments.get_mut(&record.segment())
        {
            segment.live += 1;
        }
    }

    /// Forgets a record. Returns the bases of segments whose files can go.
    pub(super) fn release(&mut self, sequence: u64) -> Vec<u64> {
        let Some(record) = self.records.remove(&sequence) else { return Vec::new() };
        if let Some(segment) = self.segments.get_mut(&record.segment()) {
            segment.live = segment.live.saturating_sub(1);
        }
        self.take_emptied()
    }

    /// Takes an append back whose caller has gone.
    pub(super) fn abandon(&mut self, sequence: u64) -> Vec<u64> {
        if self.records.contains_key(&sequence) {
            return self.release(sequence);
        }
        match self.queue.iter().position(|waiting| waiting.sequence == sequence) {
            Some(position) => {
                if let Some(waiting) = self.queue.remove(position) {
                    self.bytes_pending -= super::writer::frame_bytes(&waiting.payload);
                }
            }
            None if sequence >= self.settled_below => {
                self.abandoned.insert(sequence);
            }
            None => {}
        }
        Vec::new()
    }

    /// Forgets the segments without a live record, except the newest, and returns their bases.
    pub(super) fn take_emptied(&mut self) -> Vec<u64> {
        let Some(newest) = self.segments.last_key_value().map(|(base, _)| *base) else {
            return Vec::new();
        };
        let emptied: Vec<u64> = self
            .segments
            .range(..newest)
            .filter(|(_, segment)| segment.live == 0)
            .map(|(base, _)| *base)
            .collect();
        for base in &emptied {
            self.segments.remove(base);
        }
        emptied
    }

    /// Bytes of all segments and of what waits to be written.
    pub(super) fn bytes_used(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum::<u64>() + self.bytes_pending
    }

    /// Bytes that would come back if the writer began a new segment now.
    pub(super) fn bytes_reclaimable(&self) -> u64 {
        match self.segments.last_key_value() {
            Some((_, newest)) if newest.live == 0 && !self.writing && self.queue.is_empty() => {
                newest.bytes
            }
            _ => 0,
        }
    }
}

/// Makes the last segment ready for appends; one whose head is torn gets a new head.
fn resume(
    mut file: Box<dyn LogFile>,
    base: u64,
    found: &Recovered,
    entropy: &Entropy,
) -> Result<Active, JournalError> {
    let header = match found.header {
        Some(header) => header,
        None => {
            let header = SegmentHeader { base, salt: entropy.next_u64() };
            file.truncate(0)?;
            file.append(&header.encode())?;
            header
        }
    };
    let bytes = found.good_bytes.max(SEGMENT_HEADER_BYTES as u64);
    Ok(Active { base, salt: header.salt, file, bytes })
}
