//! Append-only files, for the write journal and for bodies too large for memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A directory of append-only files. Names are plain file names without separators.
///
/// All calls block; callers run them on the blocking pool or accept it.
pub trait Files: Send + Sync + std::fmt::Debug + 'static {
    /// Names of all files, sorted.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens `name` for appending and reading, creating it when absent.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>>;

    /// Removes `name` durably; absent is fine.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// A new file without a name, never durable: it is gone when its handle and the bytes mapped
    /// of it are, whatever way the process ends. A file system that knows no such files may keep
    /// one that was being made while the process was killed.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn scratch(&self) -> io::Result<Box<dyn LogFile>>;

    /// Whether calls may wait for a disk. Files in memory say no, and are then called in place,
    /// which keeps the simulation deterministic.
    fn blocks(&self) -> bool {
        true
    }
}

/// One append-only file.
pub trait LogFile: Send + Sync + std::fmt::Debug {
    /// Length in bytes, unsynced bytes included.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn size(&self) -> io::Result<u64>;

    /// Appends `bytes` at the end. Not durable before [`LogFile::sync`].
    ///
    /// # Errors
    /// Whatever the disk says; part of `bytes` may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Whatever the disk says; after an error nothing may be assumed of unsynced bytes.
    fn sync(&mut self) -> io::Result<()>;

    /// Reads exactly `length` bytes at `position`.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, or whatever the disk says.
    fn read_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>>;

    /// The `length` bytes at `position`, through a memory map where there is a disk: they take no
    /// room on the heap and outlive the file's handle and name. A disk that fails later ends the
    /// process instead of giving an error, so this is for bytes just written or just read.
    ///
    /// The bytes must be synced, or be of a scratch file: they must not be cut off or changed
    /// while the map is in use.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, or whatever the system says.
    fn map_at(&self, position: u64, length: usize) -> io::Result<Bytes>;

    /// Cuts the file to `length` bytes and syncs: used once, on a torn tail at start.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// Files of the operating system, in one directory.
#[derive(Clone, Debug)]
pub struct RealFiles {
    directory: PathBuf,
}

impl RealFiles {
    /// Uses `directory`, creating it when absent.
    ///
    /// # Errors
    /// When the directory can't be made or synced.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        fs::create_dir_all(&directory)?;
        let files = Self { directory };
        files.sync_directory()?;
        Ok(files)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl Files for RealFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let path = self.directory.join(name);
        let created = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if created {
            self.sync_directory()?;
        }
        Ok(Box::new(RealLogFile { file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_directory(),
        }
    }

    fn scratch(&self) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(RealLogFile { file: tempfile::tempfile_in(&self.directory)? }))
    }
}

#[derive(Debug)]
struct RealLogFile {
    file: File,
}

impl LogFile for RealLogFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut bytes, position)?;
        Ok(bytes)
    }

    fn map_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let end = position.checked_add(length as u64);
        if end.is_none_or(|end| end > self.file.metadata().map_or(0, |known| known.len())) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut options = memmap2::MmapOptions::new();
        options.offset(position).len(length);
        // SAFETY: the map is only sound while nobody changes or cuts the mapped part. The pod
        // holds the lock of its data directory, its files are only appended to, and they are cut
        // at start alone, before anything is mapped.
        let map = unsafe { options.map(&self.file) }?;
        Ok(Bytes::from_owner(map))
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }
}
