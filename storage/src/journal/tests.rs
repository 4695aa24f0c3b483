//! Crashes, torn tails, damage, full and failing disks.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use futures::FutureExt;
use miroir_seams::{MemoryFiles, RealFiles};
use proptest::prelude::*;

use super::frame::SEGMENT_HEADER_BYTES;
use super::*;

const SMALL: JournalConfig = JournalConfig { bytes_max: 1 << 20, segment_bytes: 256 };
const ONE_SEGMENT: JournalConfig = JournalConfig { bytes_max: 1 << 20, segment_bytes: 1 << 19 };

fn open(files: &MemoryFiles, config: JournalConfig) -> Result<Journal, JournalError> {
    Journal::open(Arc::new(files.clone()), config, &Seams::seeded(1))
}

/// Futures on files in memory end at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("files in memory never wait")
}

fn append(journal: &Journal, payload: &[u8]) -> Result<JournalSequence, JournalError> {
    now(journal.append(Bytes::copy_from_slice(payload)))
}

/// A disk of one file.
fn disk_with(name: &str, bytes: &[u8]) -> io::Result<MemoryFiles> {
    let disk = MemoryFiles::new();
    let mut file = disk.open(name)?;
    file.append(bytes)?;
    file.sync()?;
    Ok(disk)
}

/// A segment's name, the number of its first record, its bytes, and the payloads in it.
type Segment = (String, u64, Vec<u8>, [&'static [u8]; 3]);

/// A segment with three records.
fn three_records() -> Result<Segment, JournalError> {
    let payloads: [&[u8]; 3] = [b"first", b"", b"the third"];
    let disk = MemoryFiles::new();
    let journal = open(&disk, ONE_SEGMENT)?;
    for payload in payloads {
        append(&journal, payload)?;
    }
    let first = journal.sequences().first().map_or(0, |first| first.0);
    let name = disk.list()?.remove(0);
    let file = disk.open(&name)?;
    Ok((name, first, file.read_at(0, file.size()? as usize)?, payloads))
}

#[test]
fn a_torn_tail_at_any_byte_costs_only_the_torn_records() -> Result<(), JournalError> {
    let (name, first, bytes, payloads) = three_records()?;
    let mut ends = Vec::new();
    let mut end = SEGMENT_HEADER_BYTES;
    for payload in payloads {
        end += 24 + payload.len();
        ends.push(end);
    }
    for cut in 0..=bytes.len() {
        let disk = disk_with(&name, &bytes[..cut])?;
        let journal = open(&disk, ONE_SEGMENT)?;
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(journal.sequences().len(), whole, "cut at {cut}");
        for (sequence, payload) in journal.sequences().into_iter().zip(payloads) {
            assert_eq!(now(journal.read(sequence))?, payload);
        }
        let next = append(&journal, b"next")?;
        assert_eq!(next.0, first + whole as u64);
        disk.crash(0);
        assert_eq!(now(open(&disk, ONE_SEGMENT)?.read(next))?, b"next"[..]);
    }
    Ok(())
}

#[test]
fn any_flipped_bit_is_noticed() -> Result<(), JournalError> {
    let (name, first, bytes, payloads) = three_records()?;
    for position in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0x10;
        for is_last in [true, false] {
            let disk = disk_with(&name, &bytes)?;
            if !is_last {
                disk.open(&state::segment_name(first + 3))?;
            }
            let journal = open(&disk, ONE_SEGMENT)?;
            let mut lost = 0;
            for (sequence, payload) in payloads.iter().enumerate() {
                match now(journal.read(JournalSequence(first + sequence as u64))) {
                    Ok(read) => assert_eq!(read, *payload),
                    Err(JournalError::Corrupt(_)) => lost += 1,
                    // Only behind the last good frame of the last segment.
                    Err(JournalError::Missing(_)) if is_last => lost += 1,
                    Err(error) => return Err(error),
                }
            }
            let expected = if position < SEGMENT_HEADER_BYTES { 3 } else { 1 };
            assert_eq!(lost, expected, "flip at {position}");
            assert_eq!(append(&journal, b"next")?.0, first + journal.sequences().len() as u64 - 1);
        }
    }
    Ok(())
}

#[test]
fn a_payload_that_looks_like_a_journal_is_only_a_payload() -> Result<(), JournalError> {
    let (_, _, bytes, _) = three_records()?;
    let disk = MemoryFiles::new();
    let journal = Journal::open(Arc::new(disk.clone()), ONE_SEGMENT, &Seams::seeded(2))?;
    let kept = append(&journal, b"kept")?;
    append(&journal, &bytes)?;
    let name = disk.list()?.concat();
    let mut all = disk.open(&name)?.read_at(0, disk.open(&name)?.size()? as usize)?;
    all.pop();
    let journal = open(&disk_with(&name, &all)?, ONE_SEGMENT)?;
    assert_eq!(journal.sequences(), [kept]);
    Ok(())
}

#[test]
fn a_new_disk_gives_out_no_number_of_the_lost_one() -> Result<(), JournalError> {
    let first = |seed| -> Result<JournalSequence, JournalError> {
        let files = Arc::new(MemoryFiles::new());
        append(&Journal::open(files, SMALL, &Seams::seeded(seed))?, b"x")
    };
    let (old, new) = (first(1)?, first(2)?);
    assert!(old.0.abs_diff(new.0) > 1 << 32, "{old} {new}");
    Ok(())
}

#[test]
fn released_segments_give_their_space_back() -> Result<(), JournalError> {
    let disk = MemoryFiles::new();
    let journal = open(&disk, SMALL)?;
    let sequences: Vec<_> =
        (0..20).map(|_| append(&journal, &[7; 100])).collect::<Result<_, _>>()?;
    assert_eq!(journal.usage().segments, 20);
    for sequence in &sequences {
        journal.release(*sequence);
        journal.release(*sequence);
    }
    assert_eq!(journal.usage().records, 0);
    assert_eq!(disk.list()?.len(), 1);
    drop(journal);
    let journal = open(&disk, SMALL)?;
    for sequence in journal.sequences() {
        journal.release(sequence);
    }
    assert_eq!(append(&journal, b"")?.0, sequences[0].0 + 20);
    assert!(matches!(now(journal.read(sequences[0])), Err(JournalError::Missing(_))));
    Ok(())
}

#[test]
fn a_full_journal_refuses_until_records_are_released() -> Result<(), JournalError> {
    let disk = MemoryFiles::new();
    let journal = open(&disk, JournalConfig { bytes_max: 400, segment_bytes: 1000 })?;
    let first = append(&journal, &[1; 300])?;
    let refused = append(&journal, &[2; 100]);
    assert!(matches!(refused, Err(JournalError::Full { needed: 124, max: 400, .. })));
    journal.release(first);
    let second = append(&journal, &[2; 300])?;
    assert_eq!(now(journal.read(second))?, [2; 300][..]);
    assert_eq!(disk.list()?.len(), 1);
    Ok(())
}

/// Files in memory whose syncs can be made to wait or to fail.
#[derive(Clone, Debug)]
struct TrickyFiles {
    inner: MemoryFiles,
    blocks: bool,
    switches: Arc<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    syncs: AtomicUsize,
    sync_fails: AtomicBool,
    /// When set, each sync takes one permit first.
    permits: Mutex<Option<mpsc::Receiver<()>>>,
}

impl TrickyFiles {
    fn new(blocks: bool) -> Self {
        Self { inner: MemoryFiles::new(), blocks, switches: Arc::default() }
    }
}

impl Files for TrickyFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let inner = self.inner.open(name)?;
        Ok(Box::new(TrickyFile { inner, switches: self.switches.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn scratch(&self) -> io::Result<Box<dyn LogFile>> {
        self.inner.scratch()
    }

    fn blocks(&self) -> bool {
        self.blocks
    }
}

#[derive(Debug)]
struct TrickyFile {
    inner: Box<dyn LogFile>,
    switches: Arc<Switches>,
}

impl LogFile for TrickyFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.switches.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some(permits) = &*self.switches.permits.lock().expect("not poisoned") {
            permits.recv().map_err(io::Error::other)?;
        }
        if self.switches.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("sync failed"));
        }
        self.inner.sync()
    }

    fn read_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        self.inner.read_at(position, length)
    }

    fn map_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        self.inner.map_at(position, length)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.inner.truncate(length)
    }
}

#[test]
fn nothing_is_acknowledged_after_a_failed_sync() -> Result<(), JournalError> {
    let files = TrickyFiles::new(false);
    let journal = Journal::open(Arc::new(files.clone()), ONE_SEGMENT, &Seams::seeded(1))?;
    let before = append(&journal, b"before")?;
    files.switches.sync_fails.store(true, Ordering::SeqCst);
    assert!(matches!(append(&journal, b"lost"), Err(JournalError::Io(_))));
    files.switches.sync_fails.store(false, Ordering::SeqCst);
    let after = append(&journal, b"after")?;
    assert_eq!(files.list()?.len(), 2, "the segment that failed takes nothing more");
    assert_eq!(journal.sequences(), [before, after]);
    drop(journal);
    files.inner.crash(0);
    let journal = open(&files.inner, ONE_SEGMENT)?;
    assert_eq!(now(journal.read(before))?, b"before"[..]);
    assert_eq!(now(journal.read(after))?, b"after"[..]);
    Ok(())
}

#[tokio::test]
async fn concurrent_appends_share_a_sync() -> Result<(), JournalError> {
    let files = TrickyFiles::new(true);
    let (permit, permits) = mpsc::channel();
    *files.switches.permits.lock().expect("not poisoned") = Some(permits);
    let journal = Journal::open(Arc::new(files.clone()), ONE_SEGMENT, &Seams::real())?;
    let appends = (0..64u8).map(|number| journal.append(Bytes::from(vec![number; 10])));
    let all = futures::future::join_all(appends);
    let let_go = async {
        // Polled after all appends are in line.
        for _ in 0..64 {
            let _ = permit.send(());
        }
    };
    let (sequences, ()) = futures::join!(all, let_go);
    for (number, sequence) in sequences.into_iter().enumerate() {
        assert_eq!(journal.read(sequence?).await?, vec![number as u8; 10]);
    }
    // The first may have gone alone; the rest waited in line behind its sync.
    assert!(files.switches.syncs.load(Ordering::SeqCst) <= 2);
    Ok(())
}

#[tokio::test]
async fn an_append_given_up_leaves_no_record() -> Result<(), JournalError> {
    let directory = tempfile::tempdir()?;
    let files = Arc::new(RealFiles::new(directory.path())?);
    let journal = Journal::open(files, ONE_SEGMENT, &Seams::real())?;
    {
        let given_up = pin!(journal.append(Bytes::from_static(b"nobody waits")));
        let _ = given_up.now_or_never();
    }
    let kept = journal.append(Bytes::from_static(b"kept")).await?;
    assert_eq!(journal.sequences(), [kept]);
    Ok(())
}

#[tokio::test]
async fn it_closes_only_when_nothing_is_in_it() -> Result<(), JournalError> {
    let directory = tempfile::tempdir()?;
    let files = Arc::new(RealFiles::new(directory.path())?);
    let journal = Journal::open(files.clone(), ONE_SEGMENT, &Seams::real())?;
    let kept = journal.append(Bytes::from_static(b"kept")).await?;
    assert!(!journal.close_if_empty());
    let another = journal.append(Bytes::from_static(b"another")).await?;
    journal.release(kept);
    assert!(!journal.close_if_empty());
    {
        // In line, or on its way to the disk.
        let mut under_way = pin!(journal.append(Bytes::from_static(b"under way")));
        if under_way.as_mut().now_or_never().is_none() {
            journal.release(another);
            assert!(!journal.close_if_empty());
            under_way.await.map(|sequence| journal.release(sequence))?;
        }
    }
    journal.release(another);
    while !journal.close_if_empty() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(journal.append(Bytes::from_static(b"late")).await, Err(JournalError::Closed)));
    let journal = Journal::open(files, ONE_SEGMENT, &Seams::real())?;
    journal.append(Bytes::from_static(b"a new life")).await?;
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Release(prop::sample::Index),
    Crash { keep_unsynced: usize },
    FailedSync(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = || prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        6 => payload().prop_map(Step::Append),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
        2 => (0usize..200).prop_map(|keep_unsynced| Step::Crash { keep_unsynced }),
        1 => payload().prop_map(Step::FailedSync),
    ]
}

proptest! {
    /// Safety rule 1, on one pod.
    #[test]
    fn every_acknowledged_payload_survives_crashes(steps in prop::collection::vec(step(), 1..60)) {
        let files = TrickyFiles::new(false);
        let open = || Journal::open(Arc::new(files.clone()), SMALL, &Seams::seeded(1));
        let mut journal = open()?;
        let mut kept: BTreeMap<JournalSequence, Vec<u8>> = BTreeMap::new();
        let mut highest = None;
        for step in steps {
            match step {
                Step::Append(payload) => {
                    let sequence = append(&journal, &payload)?;
                    prop_assert!(Some(sequence) > highest, "sequences are never given twice");
                    highest = Some(sequence);
                    prop_assert!(!journal.recovered().contains(&sequence));
                    kept.insert(sequence, payload);
                }
                Step::Release(which) => {
                    if !kept.is_empty() {
                        let sequence = *which.get(&kept.keys().copied().collect::<Vec<_>>());
                        kept.remove(&sequence);
                        journal.release(sequence);
                    }
                }
                Step::Crash { keep_unsynced } => {
                    drop(journal);
                    files.inner.crash(keep_unsynced);
                    journal = open()?;
                    for sequence in journal.recovered() {
                        if !kept.contains_key(&sequence) {
                            journal.release(sequence);
                        }
                    }
                }
                Step::FailedSync(payload) => {
                    files.switches.sync_fails.store(true, Ordering::SeqCst);
                    prop_assert!(append(&journal, &payload).is_err());
                    files.switches.sync_fails.store(false, Ordering::SeqCst);
                }
            }
            let sequences = journal.sequences();
            prop_assert!(sequences.iter().eq(kept.keys()), "{sequences:?}");
            for (sequence, payload) in &kept {
                prop_assert_eq!(now(journal.read(*sequence))?, payload.as_slice());
            }
        }
    }
}

#[tokio::test]
async fn a_large_payload_is_read_back_whole_and_outlives_its_release() -> Result<(), JournalError> {
    let directory = tempfile::tempdir()?;
    let files = Arc::new(RealFiles::new(directory.path())?);
    let open = || Journal::open(files.clone(), JournalConfig::default(), &Seams::real());
    let head = Bytes::from_static(b"head");
    let body: Bytes = (0..MAPPED_BYTES_MIN + 7).map(|n| n as u8).collect();
    let whole = [head.clone(), body.clone()].concat();
    let journal = open()?;
    let sequence = journal.append(Payload { head, body }).await?;
    let read = journal.read(sequence).await?;
    assert!(read == whole);
    drop(journal);
    let journal = open()?;
    let again = journal.read(sequence).await?;
    journal.release(sequence);
    let next = journal.append(Bytes::from(vec![0; 80 << 20])).await?;
    journal.release(next);
    assert!(again == whole && read == whole);
    Ok(())
}
