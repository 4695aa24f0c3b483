//! Experimental features of Meilisearch that were switched on, in memory and in one file.
//!
//! ```text
//! <data>/features.json   what `GET /experimental-features` shows, replaced as a whole
//! ```
//! Only operators of filters can be: the node has nothing of what the others switch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use miroir_wire::features::CONTAINS_FILTER;

use crate::whole_file;

/// What is switched on.
#[derive(Debug)]
pub(crate) struct Features {
    file: PathBuf,
    contains_filter: AtomicBool,
    /// Held while the file is written.
    changing: Mutex<()>,
}

impl Features {
    /// Reads what was switched.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let file = data.join("features.json");
        let on: BTreeMap<String, bool> = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let contains_filter = on.get(CONTAINS_FILTER).copied().unwrap_or_default();
        let contains_filter = AtomicBool::new(contains_filter);
        Ok(Self { file, contains_filter, changing: Mutex::new(()) })
    }

    /// Whether filters may use `CONTAINS` and `STARTS WITH`.
    pub(crate) fn contains_filter(&self) -> bool {
        self.contains_filter.load(Ordering::Relaxed)
    }

    /// All that are switched, on or off.
    pub(crate) fn all(&self) -> BTreeMap<String, bool> {
        BTreeMap::from([(CONTAINS_FILTER.to_owned(), self.contains_filter())])
    }

    /// Lets filters use `CONTAINS`, or forbids it. Blocks.
    ///
    /// # Errors
    /// When the file can't be written; then nothing changes.
    pub(crate) fn switch_contains_filter(&self, on: bool) -> io::Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = serde_json::to_vec(&BTreeMap::from([(CONTAINS_FILTER, on)]))?;
        whole_file::replace(&self.file, &kept)?;
        self.contains_filter.store(on, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_switched_is_kept() {
        let data = tempfile::tempdir().expect("a directory");
        let features = Features::open(data.path()).expect("opened");
        assert!(!features.contains_filter());
        features.switch_contains_filter(true).expect("kept");
        assert!(features.contains_filter());
        assert!(Features::open(data.path()).expect("opened").contains_filter());
    }
}
