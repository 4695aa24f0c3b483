//! Experimental features of Meilisearch that were switched on, in memory and in one file.
//!
//! ```text
//! <data>/features.json   what `GET /experimental-features` shows, replaced as a whole
//! ```
//! Operators of filters and editing by a function can be: the node has nothing of what the others
//! switch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use miroir_wire::features::{CONTAINS_FILTER, EDIT_DOCUMENTS, FeaturesPatch};

use crate::whole_file;

/// What is switched on.
#[derive(Debug)]
pub(crate) struct Features {
    file: PathBuf,
    contains_filter: AtomicBool,
    edit_documents: AtomicBool,
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
        let switch = |name| AtomicBool::new(on.get(name).copied().unwrap_or_default());
        Ok(Self {
            file,
            contains_filter: switch(CONTAINS_FILTER),
            edit_documents: switch(EDIT_DOCUMENTS),
            changing: Mutex::new(()),
        })
    }

    /// Whether the node has a feature that can be switched.
    pub(crate) fn knows(name: &str) -> bool {
        [CONTAINS_FILTER, EDIT_DOCUMENTS].contains(&name)
    }

    /// Whether filters may use `CONTAINS` and `STARTS WITH`.
    pub(crate) fn contains_filter(&self) -> bool {
        self.contains_filter.load(Ordering::Relaxed)
    }

    /// Whether documents may be edited by a function.
    pub(crate) fn edit_documents(&self) -> bool {
        self.edit_documents.load(Ordering::Relaxed)
    }

    /// All that can be switched, on or off.
    pub(crate) fn all(&self) -> BTreeMap<String, bool> {
        BTreeMap::from([
            (CONTAINS_FILTER.to_owned(), self.contains_filter()),
            (EDIT_DOCUMENTS.to_owned(), self.edit_documents()),
        ])
    }

    /// Switches what `patch` says of the features that the node has. Blocks.
    ///
    /// # Errors
    /// When the file can't be written; then nothing changes.
    pub(crate) fn switch(&self, patch: &FeaturesPatch) -> io::Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let contains_filter = patch.contains_filter.unwrap_or(self.contains_filter());
        let edit_documents = patch.edit_documents_by_function.unwrap_or(self.edit_documents());
        let kept = [(CONTAINS_FILTER, contains_filter), (EDIT_DOCUMENTS, edit_documents)];
        whole_file::replace(&self.file, &serde_json::to_vec(&BTreeMap::from(kept))?)?;
        self.contains_filter.store(contains_filter, Ordering::Relaxed);
        self.edit_documents.store(edit_documents, Ordering::Relaxed);
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
        let said = |features: &Features| (features.contains_filter(), features.edit_documents());
        assert_eq!(said(&features), (false, false));
        let on = FeaturesPatch { contains_filter: Some(true), ..FeaturesPatch::default() };
        features.switch(&on).expect("kept");
        assert_eq!(said(&features), (true, false));
        let on =
            FeaturesPatch { edit_documents_by_function: Some(true), ..FeaturesPatch::default() };
        features.switch(&on).expect("kept");
        assert_eq!(said(&features), (true, true));
        assert_eq!(said(&Features::open(data.path()).expect("opened")), (true, true));
    }
}
