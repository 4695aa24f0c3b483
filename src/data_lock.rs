//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use miroir_seams::Clock;

/// How often a held lock is tried again while waiting for it.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// An exclusive lock on a data directory. The operating system gives it up when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// The lock file of `directory`.
    fn path_in(directory: &Path) -> PathBuf {
        directory.join("LOCK")
    }

    /// Takes the lock of `directory` (made if it doesn't exist), waiting at most `patience` for
    /// a process that is just stopping.
    ///
    /// # Errors
    /// When another process holds it all that time, or the directory can't be written.
    pub async fn take(directory: &Path, patience: Duration) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("can't make the data directory {}", directory.display()))?;
        let path = Self::path_in(directory);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("can't open {}", path.display()))?;
        let clock = Clock::real();
        let deadline = clock.instant() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if clock.instant() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "another process is using {}; stop it first, or choose another directory",
                    directory.display()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("can't lock {}", path.display()));
                }
            }
        }
    }

    /// Waits until nobody holds the lock of `directory`. A directory without one is free.
    ///
    /// # Errors
    /// As [`DataLock::take`].
    pub async fn wait_until_free(directory: &Path, patience: Duration) -> anyhow::Result<()> {
        if Self::path_in(directory).exists() {
            Self::take(directory, patience).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_holder_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = DataLock::take(dir.path(), Duration::ZERO).await.expect("nobody holds it");
        let refused = DataLock::take(dir.path(), Duration::ZERO).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("another process")));
        drop(first);
        DataLock::take(dir.path(), Duration::ZERO).await.expect("the first holder is gone");
    }
}
