//! A pod's disk: the engine and the journal's files, in memory, that forget what was not synced.
//!
//! Each life of a pod works through a [`Life`]. When it ends, everything that is still running
//! of that life finds its disk refusing every write: a crash is one instant, whatever the order
//! in which its actors come to their end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use miroir_seams::{Files, LogFile, MemoryFiles};
use miroir_storage::engine::{
    Batch, Direction, Durability, Engine, EngineError, KeyRange, MemoryEngine, Pair, Table,
};

use crate::dice::Dice;

/// Whether a pod still runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Life {
    over: Arc<AtomicBool>,
}

impl Life {
    /// Ends it.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_over() { Err(io::Error::other("this pod is dead")) } else { Ok(()) }
    }
}

/// What a pod keeps over its lives.
#[derive(Clone, Debug, Default)]
pub struct PodDisk {
    /// Log and tables.
    pub engine: MemoryEngine,
    /// The write journal.
    pub files: MemoryFiles,
    /// Starts of the pod's process on this disk.
    pub starts: Arc<AtomicU64>,
    /// The journal can't grow.
    pub full: Arc<AtomicBool>,
}

impl PodDisk {
    /// Forgets what was not synced, except for the first commits and bytes.
    pub fn crash(&self, commits_kept: usize, bytes_kept: usize) {
        self.engine.crash(commits_kept);
        self.files.crash(bytes_kept);
    }

    /// Changes one byte of the journal that was synced, behind its head.
    pub fn damage(&self, dice: &Dice) {
        let names = self.files.list().unwrap_or_default();
        let Some(mut file) = dice.pick(&names).and_then(|name| self.files.open(name).ok()) else {
            return;
        };
        let size = file.size().unwrap_or(0);
        let Ok(mut bytes) = file.read_at(0, usize::try_from(size).unwrap_or(0)) else { return };
        let place = dice.between(SEGMENT_HEAD_BYTES, size.max(SEGMENT_HEAD_BYTES)) as usize;
        let Some(byte) = bytes.get_mut(place) else { return };
        *byte ^= 1 << dice.between(0, 7);
        // In memory: neither fails.
        let _rewritten = file.truncate(0).and_then(|()| file.append(&bytes));
        let _synced = file.sync();
    }
}

/// The engine as one life of a pod sees it.
#[derive(Debug)]
pub struct LifeEngine {
    /// The disk.
    pub engine: MemoryEngine,
    /// The life.
    pub life: Life,
}

impl Engine for LifeEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.life.check()?;
        self.engine.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        self.life.check()?;
        self.engine.scan(table, range, direction, limit)
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        self.life.check()?;
        self.engine.commit(batch, durability)
    }

    fn bytes_on_disk(&self) -> Result<u64, EngineError> {
        self.engine.bytes_on_disk()
    }

    fn blocks(&self) -> bool {
        false
    }
}

/// More than the head of a segment: what stands there is damaged by torn writes alone.
const SEGMENT_HEAD_BYTES: u64 = 64;

/// The journal's files as one life of a pod sees them.
#[derive(Debug)]
pub struct LifeFiles {
    /// The disk.
    pub files: MemoryFiles,
    /// It takes no more bytes.
    pub full: Arc<AtomicBool>,
    /// The life.
    pub life: Life,
}

impl Files for LifeFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        self.life.check()?;
        self.files.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        self.life.check()?;
        let file = self.files.open(name)?;
        Ok(Box::new(LifeFile { file, life: self.life.clone(), full: self.full.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.life.check()?;
        self.files.remove(name)
    }

    fn scratch(&self) -> io::Result<Box<dyn LogFile>> {
        self.life.check()?;
        let file = self.files.scratch()?;
        Ok(Box::new(LifeFile { file, life: self.life.clone(), full: self.full.clone() }))
    }

    fn blocks(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct LifeFile {
    file: Box<dyn LogFile>,
    life: Life,
    full: Arc<AtomicBool>,
}

impl LogFile for LifeFile {
    fn size(&self) -> io::Result<u64> {
        self.life.check()?;
        self.file.size()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.life.check()?;
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.life.check()?;
        self.file.sync()
    }

    fn read_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        self.life.check()?;
        self.file.read_at(position, length)
    }

    fn map_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        self.life.check()?;
        self.file.map_at(position, length)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.life.check()?;
        self.file.truncate(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_pod_can_write_no_more() {
        let (disk, life) = (PodDisk::default(), Life::default());
        let engine = LifeEngine { engine: disk.engine.clone(), life: life.clone() };
        assert!(engine.commit(Batch::new(), Durability::Synced).is_ok());
        life.end();
        assert!(engine.commit(Batch::new(), Durability::Synced).is_err());
        assert!(LifeFiles { files: disk.files, full: disk.full, life }.open("a").is_err());
    }
}
