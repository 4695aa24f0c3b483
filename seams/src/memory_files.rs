//! Files in memory that forget what was not synced, for the simulation.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::files::{Files, LogFile};

/// A simulated disk: bytes that were appended but not synced are lost in [`MemoryFiles::crash`].
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    files: Arc<Mutex<BTreeMap<String, Content>>>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// `synced <= bytes.len()`.
    synced: usize,
}

impl MemoryFiles {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses unsynced bytes, keeping `keep_unsynced` of the first of them in each file: a torn
    /// tail when the number falls inside a record.
    pub fn crash(&self, keep_unsynced: usize) {
        for content in self.lock().values_mut() {
            let kept = content.bytes.len().min(content.synced + keep_unsynced);
            content.bytes.truncate(kept);
            content.synced = kept;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        self.lock().entry(name.to_owned()).or_default();
        Ok(Box::new(MemoryLogFile { disk: self.clone(), name: name.to_owned() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().remove(name);
        Ok(())
    }

    fn scratch(&self) -> io::Result<Box<dyn LogFile>> {
        // A disk of its own, which nobody lists.
        MemoryFiles::new().open("scratch")
    }

    fn blocks(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct MemoryLogFile {
    disk: MemoryFiles,
    name: String,
}

impl MemoryLogFile {
    fn with<R>(&self, act: impl FnOnce(&mut Content) -> io::Result<R>) -> io::Result<R> {
        match self.disk.lock().get_mut(&self.name) {
            Some(content) => act(content),
            None => Err(io::Error::new(io::ErrorKind::NotFound, self.name.clone())),
        }
    }
}

impl LogFile for MemoryLogFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.bytes.len() as u64))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|content| {
            content.bytes.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|content| {
            content.synced = content.bytes.len();
            Ok(())
        })
    }

    fn read_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        self.with(|content| {
            let start = usize::try_from(position).unwrap_or(usize::MAX);
            content
                .bytes
                .get(start..start.saturating_add(length))
                .map(<[u8]>::to_vec)
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        })
    }

    fn map_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        Ok(self.read_at(position, length)?.into())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.with(|content| {
            content.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            content.synced = content.bytes.len();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RealFiles;

    /// One suite for every implementation.
    fn appended_bytes_are_read_back(files: &dyn Files) -> io::Result<()> {
        let mut file = files.open("a")?;
        file.append(b"hello ")?;
        file.append(b"world")?;
        file.sync()?;
        assert_eq!(file.size()?, 11);
        assert_eq!(file.read_at(6, 5)?, b"world");
        assert!(file.read_at(6, 6).is_err());
        let mapped = file.map_at(0, 5)?;
        assert!(file.map_at(6, 6).is_err() && file.map_at(u64::MAX, 1).is_err());
        assert!(file.map_at(11, 0)?.is_empty());
        file.truncate(5)?;
        drop(file);
        assert_eq!(files.list()?, vec!["a".to_owned()]);
        assert_eq!(files.open("a")?.read_at(0, 5)?, b"hello");
        files.remove("a")?;
        files.remove("a")?;
        assert!(files.list()?.is_empty());
        assert_eq!(mapped, "hello", "a map outlives the file");

        let mut scratch = files.scratch()?;
        scratch.append(b"passing ")?;
        scratch.append(b"through")?;
        let mapped = scratch.map_at(0, 15)?;
        assert!(files.list()?.is_empty(), "a scratch file has no name");
        drop(scratch);
        assert_eq!(mapped, "passing through");
        Ok(())
    }

    #[test]
    fn both_disks_pass_the_suite() -> io::Result<()> {
        appended_bytes_are_read_back(&MemoryFiles::new())?;
        let directory = tempfile::tempdir()?;
        appended_bytes_are_read_back(&RealFiles::new(directory.path())?)
    }

    #[test]
    fn a_crash_forgets_what_was_not_synced() -> io::Result<()> {
        let disk = MemoryFiles::new();
        let mut file = disk.open("a")?;
        file.append(b"kept")?;
        file.sync()?;
        file.append(b"lost")?;
        disk.crash(2);
        assert_eq!(file.read_at(0, 6)?, b"keptlo");
        assert_eq!(file.size()?, 6);
        Ok(())
    }
}
