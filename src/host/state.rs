//! The state directory: small files that are kept over a restart, and replaced atomically, so that a crash leaves either the old
//! content or the new.
//!
//! A process locks its directory. Two members with one directory would have one identity, and two sites would look like one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::wire::InstanceId;

/// The file that holds a member's identity.
const INSTANCE_ID: &str = "instance-id";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not exist and cannot be created, or cannot be written.
    #[error(
        "cannot use the state directory {}: {cause}; it must be a directory that this user may write, such as one that \
         StateDirectory= of the unit makes or --state-dir names", path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Another process has it.
    #[error(
        "cannot use the state directory {}: another netring process uses it; give each daemon a directory of its own",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file in it cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A file in it cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// A state directory that this process has locked until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The directory itself: locked, and synced after each rename.
    handle: Arc<File>,
}

impl StateDir {
    /// The path of the state directory: the first in `$STATE_DIRECTORY` (systemd.exec(5)), without that the one of `--state-dir`.
    #[must_use]
    pub fn locate(flag: Option<&Path>) -> Option<PathBuf> {
        located(std::env::var("STATE_DIRECTORY").ok().as_deref(), flag)
    }

    /// Locks the directory, and creates it, readable by this user only, where it is missing.
    ///
    /// # Errors
    ///
    /// It cannot be created or written, or another process has locked it. A full disk, or one that the kernel has made read-only
    /// after an error, is no error here, because what is there can be read.
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let handle = match made_and_opened(&path) {
            Ok(handle) => handle,
            Err(cause) => return Err(StateError::Unusable { path, cause }),
        };
        // On a file system without locks it is used without one: the lock guards against a mistake, not against data loss.
        if let Err(TryLockError::WouldBlock) = handle.try_lock() {
            return Err(StateError::InUse { path });
        }
        let state = Self { path, handle: Arc::new(handle) };
        match state.try_writing() {
            Ok(()) => Ok(state),
            // The disk may work again when something is written. Otherwise that write returns the error.
            Err(e) if is_of_the_disk(e.kind()) => Ok(state),
            Err(cause) => Err(StateError::Unusable { path: state.path, cause }),
        }
    }

    /// The content of the file `name`; `None` where there is no such file.
    ///
    /// # Errors
    ///
    /// It exists and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(StateError::Read { path, cause }),
        }
    }

    /// Replaces the content of the file `name`. When this returns, it is on the disk; after a crash at any moment the file
    /// has either its old content or all of the new. One writer per name at a time.
    ///
    /// # Errors
    ///
    /// It cannot be written; the file keeps its old content.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let written = self.replace(name, bytes).map(drop);
        written.map_err(|cause| StateError::Write { path: self.path.join(name), cause })
    }

    /// Like [`StateDir::write`], for a file that is appended to: returns it, open at its end.
    ///
    /// # Errors
    ///
    /// The error of the kernel; the file keeps its old content.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let new = self.unfinished(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(name))?;
        self.handle.sync_all()?;
        Ok(file)
    }

    /// Removes the file `name`, if it exists.
    ///
    /// # Errors
    ///
    /// It still exists.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, cause }),
            _ => Ok(()),
        }
    }

    fn try_writing(&self) -> io::Result<()> {
        let probe = self.unfinished("write-check");
        File::create(&probe)?;
        fs::remove_file(&probe)
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.new"))
    }
}

fn located(environment: Option<&str>, flag: Option<&Path>) -> Option<PathBuf> {
    let first = environment.and_then(|list| list.split(':').find(|entry| !entry.is_empty()));
    first.map(PathBuf::from).or_else(|| flag.map(Path::to_path_buf))
}

fn made_and_opened(path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Whether a failure to write comes from the condition of the disk, which may change, and not from a wrong set-up.
fn is_of_the_disk(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem)
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was in the state directory.
    Known,
    /// It is new and was written to the state directory.
    New,
    /// The file in the state directory was no identity. It was renamed to `instance-id.unreadable`, and a new identity was
    /// written.
    Replaced,
    /// It is new and ends with this process, because there is no state directory.
    InMemory,
}

/// The identity of a member that has none configured: the one in the state directory, or a new one that is kept there.
///
/// # Errors
///
/// The file in the directory cannot be read or written. A member that has another identity after each start must not start.
pub fn instance_id(directory: Option<&StateDir>) -> Result<(InstanceId, Kept), StateError> {
    let Some(directory) = directory else { return Ok((InstanceId::random(), Kept::InMemory)) };
    let kept = match directory.read(INSTANCE_ID)? {
        Some(bytes) => match std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()) {
            Some(id) => return Ok((id, Kept::Known)),
            None => {
                directory.write(&format!("{INSTANCE_ID}.unreadable"), &bytes)?;
                Kept::Replaced
            }
        },
        None => Kept::New,
    };
    let id = InstanceId::random();
    directory.write(INSTANCE_ID, format!("{id}\n").as_bytes())?;
    Ok((id, kept))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn opened() -> (tempfile::TempDir, StateDir) {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("a/state")).unwrap();
        (parent, state)
    }

    #[test]
    fn systemd_s_directory_goes_before_the_flag() {
        let flag = Some(Path::new("/flag"));
        assert_eq!(located(Some("/var/lib/netring:/var/lib/other"), flag), Some("/var/lib/netring".into()));
        assert_eq!(located(Some(""), flag), Some("/flag".into()));
        assert_eq!(located(None, flag), Some("/flag".into()));
        assert_eq!(located(None, None), None);
    }

    #[test]
    fn a_missing_directory_is_made_for_this_user_only() {
        let (_parent, state) = opened();
        assert_eq!(fs::metadata(&state.path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&state.path).unwrap().count(), 0, "the check that it can be written leaves nothing");
    }

    #[test]
    fn a_path_that_cannot_be_used_is_named_with_what_would_be_right() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below"), "/proc/netring".into()] {
            let error = StateDir::open(path.clone()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot use the state directory {}: ", path.display())), "{error}");
            assert!(error.contains("must be a directory that this user may write"), "{error}");
        }
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let (_parent, state) = opened();
        let error = StateDir::open(state.path.clone()).unwrap_err();
        assert!(matches!(error, StateError::InUse { .. }), "{error}");
        let path = state.path.clone();
        drop(state.clone());
        assert!(StateDir::open(path.clone()).is_err(), "a clone still holds it");
        drop(state);
        StateDir::open(path).unwrap();
    }

    #[test]
    fn what_is_written_is_read_back_whole_and_readable_by_this_user_only() {
        let (_parent, state) = opened();
        assert_eq!(state.read("roster").unwrap(), None);
        for bytes in [&b"first and longer"[..], b"second", b""] {
            state.write("roster", bytes).unwrap();
            assert_eq!(state.read("roster").unwrap().as_deref(), Some(bytes));
        }
        assert_eq!(fs::metadata(state.path.join("roster")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_a_crash_cut_short_leaves_the_old_file_and_stops_no_later_one() {
        let (_parent, state) = opened();
        state.write("roster", b"old").unwrap();
        fs::write(state.unfinished("roster"), b"ne").unwrap();
        assert_eq!(state.read("roster").unwrap().as_deref(), Some(&b"old"[..]));
        state.write("roster", b"new").unwrap();
        assert_eq!(state.read("roster").unwrap().as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn a_write_that_fails_names_the_file_and_keeps_what_it_held() {
        let (_parent, state) = opened();
        state.write("roster", b"old").unwrap();
        fs::create_dir(state.unfinished("roster")).unwrap();
        let error = state.write("roster", b"new").unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: ", state.path.join("roster").display())), "{error}");
        assert_eq!(state.read("roster").unwrap().as_deref(), Some(&b"old"[..]));
    }

    #[test]
    fn an_identity_is_made_once_and_then_known() {
        let (_parent, state) = opened();
        let (made, kept) = instance_id(Some(&state)).unwrap();
        assert_eq!(kept, Kept::New);
        assert_eq!(instance_id(Some(&state)).unwrap(), (made, Kept::Known));
    }

    #[test]
    fn something_that_is_no_identity_is_put_aside_and_replaced_once() {
        for corrupt in [&b""[..], b"two words\n", b"\xff\xfe", &[b'a'; 200]] {
            let (_parent, state) = opened();
            state.write(INSTANCE_ID, corrupt).unwrap();
            let (made, kept) = instance_id(Some(&state)).unwrap();
            assert_eq!(kept, Kept::Replaced);
            assert_eq!(instance_id(Some(&state)).unwrap(), (made, Kept::Known));
            assert_eq!(state.read("instance-id.unreadable").unwrap().as_deref(), Some(corrupt));
        }
    }

    #[test]
    fn an_identity_that_cannot_be_kept_is_an_error() {
        let (_parent, state) = opened();
        fs::create_dir(state.unfinished(INSTANCE_ID)).unwrap();
        assert!(matches!(instance_id(Some(&state)), Err(StateError::Write { .. })));
    }

    #[test]
    fn without_a_directory_each_identity_is_new() {
        let (one, kept) = instance_id(None).unwrap();
        assert_eq!(kept, Kept::InMemory);
        assert_ne!(one, instance_id(None).unwrap().0);
    }
}
