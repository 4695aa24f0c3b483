//! Names of indexes, their folders, and the open ones.
//!
//! An index lives in a folder named by a UUID, so that a name can move (swap) or vanish
//! (deletion) in one small transaction. Names are a table of the task database: what a task
//! does to names is committed together with the end of the task. Folders without a name are
//! left over from a crash and are removed at start.
//!
//! LMDB allows one open environment per folder and process. A handle is therefore cached; to
//! enlarge or remove an index, its slot is taken away, and the environment closes when the last
//! reader lets go of its clone.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use milli_core::Index;
use milli_core::heed::types::Str;
use milli_core::heed::{Database, EnvClosingEvent, EnvOpenOptions, RoTxn, RwTxn};
use miroir_seams::Seams;
use miroir_wire::error::ApiError;

use super::errors::EngineError;

/// How many indexes stay open while nobody reads them. Each costs two file descriptors and
/// address space.
const OPEN_INDEXES_MAX: usize = 64;
/// Concurrent readers of one index, far above the search threads a node runs.
const READERS_MAX: u32 = 1024;
/// How often a wait for the readers of a closing index is logged.
const CLOSING_NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// LMDB's file inside an index folder.
const DATA_FILE: &str = "data.mdb";

/// Table of names: index name to folder name.
pub type Names = Database<Str, Str>;

/// The open indexes and the table of names.
pub struct IndexMap {
    folder: PathBuf,
    names: Names,
    map_bytes_min: usize,
    seams: Seams,
    slots: Mutex<Slots>,
    released: Condvar,
}

#[derive(Default)]
struct Slots {
    by_folder: HashMap<String, Slot>,
    /// Counts uses, to find the handle that was idle longest.
    uses: u64,
}

enum Slot {
    Open {
        index: Box<Index>,
        used: u64,
    },
    /// Let go because too many were open; closed once the event fires.
    Evicted(EnvClosingEvent),
    /// Being enlarged or removed by one thread; the others wait for `released`.
    Exclusive,
}

impl IndexMap {
    /// Uses `folder` (created when absent) and removes the folders that no name points to.
    ///
    /// # Errors
    /// When the folder or the table can't be read.
    pub fn load(
        folder: PathBuf,
        names: Names,
        rtxn: &RoTxn<'_>,
        map_bytes_min: usize,
        seams: Seams,
    ) -> Result<Self, EngineError> {
        fs::create_dir_all(&folder)?;
        let mut known = Vec::new();
        for entry in names.iter(rtxn)? {
            known.push(entry?.1.to_owned());
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !known.iter().any(|name| entry.file_name().to_str() == Some(name)) {
                tracing::info!(folder = ?entry.file_name(), "removing an index folder without a name");
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            folder,
            names,
            map_bytes_min,
            seams,
            slots: Mutex::default(),
            released: Condvar::new(),
        })
    }

    /// All names with their folders.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn names(&self, rtxn: &RoTxn<'_>) -> Result<BTreeMap<String, String>, EngineError> {
        let mut names = BTreeMap::new();
        for entry in self.names.iter(rtxn)? {
            let (name, folder) = entry?;
            names.insert(name.to_owned(), folder.to_owned());
        }
        Ok(names)
    }

    /// The folder behind a name.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn folder_of(&self, rtxn: &RoTxn<'_>, name: &str) -> Result<Option<String>, EngineError> {
        Ok(self.names.get(rtxn, name)?.map(str::to_owned))
    }

    /// The index behind a name.
    ///
    /// # Errors
    /// `index_not_found`, or when it can't be opened.
    pub fn index(&self, rtxn: &RoTxn<'_>, name: &str) -> Result<Index, EngineError> {
        match self.folder_of(rtxn, name)? {
            Some(folder) => self.open(&folder, name),
            None => Err(ApiError::index_not_found(name).into()),
        }
    }

    /// The index in a folder; `name` is for error texts.
    ///
    /// # Errors
    /// `index_not_found` when the folder is gone, or when it can't be opened.
    pub fn open(&self, folder: &str, name: &str) -> Result<Index, EngineError> {
        self.open_folder(folder, name, false)
    }

    /// Makes an index in a new folder, without a name yet: until [`IndexMap::name`] is committed
    /// a crash makes it disappear.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create_folder(&self, name: &str) -> Result<(String, Index), EngineError> {
        let folder = self.seams.entropy.uuid();
        let index = self.open_folder(&folder, name, true)?;
        Ok((folder, index))
    }

    /// Gives a folder its name.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn name(&self, wtxn: &mut RwTxn<'_>, name: &str, folder: &str) -> Result<(), EngineError> {
        Ok(self.names.put(wtxn, name, folder)?)
    }

    /// Takes a name away; [`IndexMap::remove_folder`] follows after the commit.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn unname(&self, wtxn: &mut RwTxn<'_>, name: &str) -> Result<(), EngineError> {
        self.names.delete(wtxn, name)?;
        Ok(())
    }

    /// Exchanges what two names point to.
    ///
    /// # Errors
    /// `index_not_found`, or when the table can't be written.
    pub fn swap(&self, wtxn: &mut RwTxn<'_>, a: &str, b: &str) -> Result<(), EngineError> {
        let folder = |name: &str| -> Result<String, EngineError> {
            let found = self.names.get(wtxn, name)?.map(str::to_owned);
            Ok(found.ok_or_else(|| ApiError::index_not_found(name))?)
        };
        let (folder_a, folder_b) = (folder(a)?, folder(b)?);
        self.names.put(wtxn, a, &folder_b)?;
        self.names.put(wtxn, b, &folder_a)?;
        Ok(())
    }

    /// Gives an index another name, which none may have.
    ///
    /// # Errors
    /// `index_not_found`, `index_already_exists`, or when the store refuses.
    pub fn rename(&self, wtxn: &mut RwTxn<'_>, a: &str, b: &str) -> Result<(), EngineError> {
        let Some(folder) = self.names.get(wtxn, a)?.map(str::to_owned) else {
            return Err(ApiError::index_not_found(a).into());
        };
        if self.names.get(wtxn, b)?.is_some() {
            return Err(ApiError::index_already_exists(b).into());
        }
        self.names.delete(wtxn, a)?;
        self.names.put(wtxn, b, &folder)?;
        Ok(())
    }

    /// Closes an index and deletes its folder, once its readers are done.
    ///
    /// # Errors
    /// When the disk refuses; the folder then goes at the next start.
    pub fn remove_folder(&self, folder: &str) -> Result<(), EngineError> {
        self.close(folder);
        let removed = fs::remove_dir_all(self.folder.join(folder));
        self.release(folder, None);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Closes an index and opens it with twice the room. The caller must hold no clone of it.
    ///
    /// # Errors
    /// When it can't be opened again.
    pub fn grow(&self, folder: &str, name: &str) -> Result<(), EngineError> {
        let bytes = self.open_folder(folder, name, false)?.map_size().saturating_mul(2);
        self.close(folder);
        tracing::info!(index = name, map_bytes = bytes, "enlarging an index");
        let opened = self.open_environment(folder, name, bytes, false);
        self.release(folder, opened.as_ref().ok());
        opened.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // A panic while holding the lock leaves no half-done change behind.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_folder(&self, folder: &str, name: &str, create: bool) -> Result<Index, EngineError> {
        let mut slots = self.lock();
        loop {
            slots.uses += 1;
            let now = slots.uses;
            match slots.by_folder.get_mut(folder) {
                Some(Slot::Open { index, used }) => {
                    *used = now;
                    return Ok(Index::clone(index));
                }
                Some(Slot::Exclusive) => {
                    slots = self.released.wait(slots).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Slot::Evicted(event)) => {
                    let event = event.clone();
                    drop(slots);
                    wait_until_closed(&event, folder);
                    slots = self.lock();
                    // Another waiter may have been faster, and the index be open again.
                    if matches!(slots.by_folder.get(folder), Some(Slot::Evicted(event)) if event.wait_timeout(Duration::ZERO))
                    {
                        slots.by_folder.remove(folder);
                    }
                }
                None => {
                    let bytes = self.map_bytes(folder);
                    let index = self.open_environment(folder, name, bytes, create)?;
                    slots.make_room();
                    let slot = Slot::Open { index: Box::new(index.clone()), used: now };
                    slots.by_folder.insert(folder.to_owned(), slot);
                    return Ok(index);
                }
            }
        }
    }

    /// Room to write as much again as there is, so that a restart doesn't begin with growing.
    fn map_bytes(&self, folder: &str) -> usize {
        let used = fs::metadata(self.folder.join(folder).join(DATA_FILE))
            .map_or(0, |data| usize::try_from(data.len()).unwrap_or(usize::MAX / 4));
        used.saturating_mul(2).max(self.map_bytes_min)
    }

    fn open_environment(
        &self,
        folder: &str,
        name: &str,
        bytes: usize,
        create: bool,
    ) -> Result<Index, EngineError> {
        let path = self.folder.join(folder);
        if create {
            fs::create_dir_all(&path)?;
        } else if !path.join(DATA_FILE).exists() {
            // A reader that looked the name up just before the index was deleted.
            return Err(ApiError::index_not_found(name).into());
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(round_to_page(bytes));
        options.max_readers(READERS_MAX);
        let now = self.seams.clock.now();
        // The dates are stored when the index is new only.
        Index::new_with_creation_dates(options, &path, now, now, true)
            .map_err(|error| EngineError::milli(error, name))
    }

    /// Stops handing an index out and waits until it is closed. Whoever asks for it waits until
    /// [`IndexMap::release`].
    fn close(&self, folder: &str) {
        let mut slots = self.lock();
        let event = loop {
            match slots.by_folder.insert(folder.to_owned(), Slot::Exclusive) {
                None => return,
                Some(Slot::Exclusive) => {
                    slots = self.released.wait(slots).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Slot::Evicted(event)) => break event,
                Some(Slot::Open { index, .. }) => break index.prepare_for_closing(),
            }
        };
        drop(slots);
        wait_until_closed(&event, folder);
    }

    fn release(&self, folder: &str, index: Option<&Index>) {
        let mut slots = self.lock();
        match index {
            Some(index) => {
                let slot = Slot::Open { index: Box::new(index.clone()), used: slots.uses };
                slots.by_folder.insert(folder.to_owned(), slot);
            }
            None => {
                slots.by_folder.remove(folder);
            }
        }
        self.released.notify_all();
    }
}

impl Slots {
    /// Lets the handle go that was idle longest, when there are too many.
    fn make_room(&mut self) {
        let open = self.by_folder.iter().filter_map(|(folder, slot)| match slot {
            Slot::Open { used, .. } => Some((*used, folder)),
            Slot::Evicted(_) | Slot::Exclusive => None,
        });
        if open.clone().count() < OPEN_INDEXES_MAX {
            return;
        }
        let Some(oldest) = open.min().map(|(_, folder)| folder.clone()) else { return };
        if let Some(Slot::Open { index, .. }) = self.by_folder.remove(&oldest) {
            self.by_folder.insert(oldest, Slot::Evicted(index.prepare_for_closing()));
        }
    }
}

fn wait_until_closed(event: &EnvClosingEvent, folder: &str) {
    while !event.wait_timeout(CLOSING_NOTE_INTERVAL) {
        tracing::warn!(folder, "waiting for the readers of an index");
    }
}

/// LMDB wants whole pages; 64 KiB is a multiple of every page size in use.
fn round_to_page(bytes: usize) -> usize {
    const PAGE_BYTES: usize = 64 << 10;
    bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES).min(isize::MAX as usize)
}
