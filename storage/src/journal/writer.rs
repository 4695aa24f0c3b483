//! The write side: one writer at a time drains the queue, one fsync per group.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_seams::planted::{self, Bug};
use miroir_seams::{Files, LogFile, Seams};
use tokio::sync::oneshot;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::payload::Payload;
use super::state::{Active, Place, Record, Segment, State, Waiting, segment_name};
use super::{JournalConfig, JournalError};
use crate::ids::JournalSequence;

/// Payload bytes written before an fsync: more would delay the first of the group for the
/// sake of the last.
const GROUP_BYTES_MAX: u64 = 32 << 20;

/// Bytes that a payload takes in a segment.
pub(super) fn frame_bytes(payload: &Payload) -> u64 {
    FRAME_HEADER_BYTES as u64 + payload.len() as u64
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) config: JournalConfig,
    pub(super) seams: Seams,
    /// Records below were written by earlier runs.
    pub(super) first_of_run: u64,
    state: Mutex<State>,
    /// Locked by the one writer over its disk work; `None` until there is a segment, and after
    /// an error: what such a segment holds is unknown, so it takes nothing more.
    active: Mutex<Option<Active>>,
}

/// What waits for the disk together, all for one segment.
type Group = Vec<Waiting>;

impl Shared {
    pub(super) fn new(
        files: Arc<dyn Files>,
        config: JournalConfig,
        seams: Seams,
        state: State,
        active: Option<Active>,
    ) -> Self {
        Self {
            files,
            config,
            seams,
            first_of_run: state.next_sequence,
            state: Mutex::new(state),
            active: Mutex::new(active),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The lock is held for short, panic-free updates only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `payload` in line and gives it its sequence.
    pub(super) fn enqueue(
        &self,
        payload: Payload,
    ) -> Result<(u64, oneshot::Receiver<Result<(), JournalError>>), JournalError> {
        if u32::try_from(payload.len()).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "payload over 4 GiB").into());
        }
        let needed = frame_bytes(&payload);
        let mut state = self.lock();
        if state.closed {
            return Err(JournalError::Closed);
        }
        let used = state.bytes_used();
        if used + needed > self.config.bytes_max {
            if used - state.bytes_reclaimable() + needed > self.config.bytes_max {
                return Err(JournalError::Full { needed, used, max: self.config.bytes_max });
            }
            state.rotate = true;
        }
        let sequence = state.next_sequence;
        let (done, durable) = oneshot::channel();
        state.next_sequence += 1;
        state.bytes_pending += needed;
        state.queue.push_back(Waiting { sequence, payload, done });
        Ok((sequence, durable))
    }

    /// Writes what is in line until nothing is; returns at once if somebody else does.
    pub(super) fn write_until_idle(&self) {
        {
            let mut state = self.lock();
            if std::mem::replace(&mut state.writing, true) {
                return;
            }
        }
        let _release = WritingMark { shared: self };
        let mut active = self.active.lock().unwrap_or_else(|poisoned| {
            // A writer panicked: how much of its group is in the segment is unknown.
            self.active.clear_poison();
            let mut active = poisoned.into_inner();
            *active = None;
            active
        });
        while let Some((group, rotate)) = self.next_group(active.as_ref()) {
            let written = self.write_group(&mut active, &group, rotate);
            self.settle(group, written);
        }
    }

    /// The next appends that go into one segment together, and whether into a new one. Clears
    /// the mark of the writer when there are none, under the same lock as the check.
    fn next_group(&self, active: Option<&Active>) -> Option<(Group, bool)> {
        let mut state = self.lock();
        let Some(first) = state.queue.front() else {
            state.writing = false;
            return None;
        };
        let limit = self.config.segment_bytes;
        let begun = active.map_or(SEGMENT_HEADER_BYTES as u64, |active| active.bytes);
        let fits =
            begun + frame_bytes(&first.payload) <= limit || begun == SEGMENT_HEADER_BYTES as u64;
        let rotate = std::mem::take(&mut state.rotate) || active.is_none() || !fits;
        let mut bytes = if rotate { SEGMENT_HEADER_BYTES as u64 } else { begun };
        let bytes_max = limit.min(bytes + GROUP_BYTES_MAX);
        let mut group = Group::new();
        while let Some(waiting) = state.queue.pop_front_if(|next| {
            group.is_empty() || bytes + frame_bytes(&next.payload) <= bytes_max
        }) {
            bytes += frame_bytes(&waiting.payload);
            group.push(waiting);
        }
        Some((group, rotate))
    }

    /// Writes and syncs `group`. On an error the segment is given up.
    fn write_group(
        &self,
        active: &mut Option<Active>,
        group: &[Waiting],
        rotate: bool,
    ) -> Result<Vec<Place>, JournalError> {
        if rotate {
            // The old segment is closed: all it holds is synced or given up.
            *active = None;
        }
        let segment = match active {
            Some(segment) => segment,
            None => {
                let base = group.first().map_or(0, |waiting| waiting.sequence);
                let begun = self.begin_segment(base).inspect_err(|_| self.remove_now(&[base]));
                active.insert(begun.map_err(|error| self.refusal(error))?)
            }
        };
        let written = append_and_sync(segment, group);
        let size = segment.bytes;
        if let Some(known) = self.lock().segments.get_mut(&segment.base) {
            known.bytes = size;
        }
        if let Err(error) = &written {
            let name = segment_name(segment.base);
            tracing::error!(name, %error, appends = group.len(), "journal write failed");
            *active = None;
        }
        written.map_err(|error| self.refusal(error))
    }

    /// A full disk is told from a broken one: the first heals when records are released.
    fn refusal(&self, error: io::Error) -> JournalError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let used = self.lock().bytes_used();
                JournalError::Full { needed: 0, used, max: self.config.bytes_max }
            }
            _ => error.into(),
        }
    }

    fn begin_segment(&self, base: u64) -> io::Result<Active> {
        let name = segment_name(base);
        let header = SegmentHeader { base, salt: self.seams.entropy.next_u64() };
        let mut file = self.files.open(&name)?;
        let reader: Arc<dyn LogFile> = self.files.open(&name)?.into();
        // The base is new, so whatever is in the file was never acknowledged.
        if file.size()? > 0 {
            file.truncate(0)?;
        }
        file.append(&header.encode())?;
        let bytes = SEGMENT_HEADER_BYTES as u64;
        let emptied = {
            let mut state = self.lock();
            state.segments.insert(base, Segment { reader, bytes, live: 0 });
            state.take_emptied()
        };
        self.remove_now(&emptied);
        Ok(Active { base, salt: header.salt, file, bytes })
    }

    /// Tells the group how it went, after its records can be found.
    fn settle(&self, group: Group, written: Result<Vec<Place>, JournalError>) {
        let mut state = self.lock();
        for waiting in &group {
            state.bytes_pending -= frame_bytes(&waiting.payload);
        }
        let (places, result) = match written {
            Ok(places) => (places, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        if let Some(last) = group.last() {
            state.settled_below = last.sequence + 1;
        }
        let mut places = places.into_iter();
        for waiting in &group {
            let place = places.next();
            let abandoned = state.abandoned.remove(&waiting.sequence);
            if let Some(place) = place.filter(|_| !abandoned) {
                state.add_record(waiting.sequence, Record::Good(place));
            }
        }
        drop(state);
        for waiting in group {
            // Nobody listens when the caller has gone; its claim took the record back.
            let _ = waiting.done.send(result.clone());
        }
    }

    /// Where a record lies, and the file to read it from.
    pub(super) fn locate(&self, sequence: u64) -> Result<(Place, Arc<dyn LogFile>), JournalError> {
        let state = self.lock();
        match state.records.get(&sequence) {
            Some(Record::Good(place)) => match state.segments.get(&place.segment) {
                Some(segment) => Ok((*place, segment.reader.clone())),
                None => Err(JournalError::Missing(JournalSequence(sequence))),
            },
            Some(Record::Damaged { .. }) => Err(JournalError::Corrupt(JournalSequence(sequence))),
            None => Err(JournalError::Missing(JournalSequence(sequence))),
        }
    }

    /// Removes the files of forgotten segments, on the blocking pool where that blocks.
    pub(super) fn remove_files(self: &Arc<Self>, bases: Vec<u64>) {
        if bases.is_empty() {
            return;
        }
        if self.files.blocks() {
            let shared = self.clone();
            self.seams.tasks.spawn_blocking(move || shared.remove_now(&bases));
        } else {
            self.remove_now(&bases);
        }
    }

    /// A file that can't be removed is found again at the next start, and released again.
    fn remove_now(&self, bases: &[u64]) {
        for base in bases {
            let name = segment_name(*base);
            if let Err(error) = self.files.remove(&name) {
                tracing::warn!(name, %error, "journal segment could not be removed");
            }
        }
    }
}

fn append_and_sync(segment: &mut Active, group: &[Waiting]) -> io::Result<Vec<Place>> {
    let mut places = Vec::with_capacity(group.len());
    // Small payloads are joined to one write; large ones are not copied.
    const JOIN_BYTES: usize = 256 << 10;
    let mut joined = Vec::new();
    for waiting in group {
        let length = waiting.payload.len() as u32;
        let crc = waiting.payload.crc();
        let header = FrameHeader { sequence: waiting.sequence, length, crc }.encode(segment.salt);
        let position = segment.bytes + FRAME_HEADER_BYTES as u64;
        joined.extend_from_slice(&header);
        if joined.len() + waiting.payload.len() <= JOIN_BYTES {
            joined.extend_from_slice(&waiting.payload.head);
            joined.extend_from_slice(&waiting.payload.body);
        } else {
            segment.file.append(&joined)?;
            joined.clear();
            segment.file.append(&waiting.payload.head)?;
            segment.file.append(&waiting.payload.body)?;
        }
        segment.bytes += frame_bytes(&waiting.payload);
        places.push(Place { segment: segment.base, position, length, crc });
    }
    segment.file.append(&joined)?;
    if !planted::has(Bug::JournalUnsynced) {
        segment.file.sync()?;
    }
    Ok(places)
}

/// Lets the next append write again when a writer panics, instead of waiting for ever.
struct WritingMark<'shared> {
    shared: &'shared Shared,
}

impl Drop for WritingMark<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.shared.lock();
            state.writing = false;
            state.queue.clear();
            state.bytes_pending = 0;
        }
    }
}
