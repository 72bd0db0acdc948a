use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use super::*;
use crate::host::vitals::Vitals;
use crate::registry::roster::{Admission, Candidate};
use crate::registry::store::embedded::EmbeddedStore;
use crate::registry::store::{Limits, Store, StoreError};

fn limits() -> Limits {
    Limits {
        member_ttl: Duration::from_secs(300),
        max_members: 100_000.try_into().unwrap(),
        cleanup_interval: Duration::from_secs(60),
    }
}

fn id(n: usize) -> InstanceId {
    format!("m{n}").parse().unwrap()
}

fn candidate(n: usize) -> Candidate {
    let location = format!("site-{n} \u{2603}").parse().unwrap();
    Candidate { instance_id: id(n), location, ip: [10, 0, 0, 1].into(), port: crate::wire::DEFAULT_PORT }
}

async fn ids(store: &EmbeddedStore) -> Vec<String> {
    let members = store.follow(None).await.unwrap().roster.unwrap();
    let mut ids: Vec<String> = members.into_iter().map(|m| m.instance_id.to_string()).collect();
    ids.sort();
    ids
}

fn journal_of(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join(FILE)).unwrap()
}

/// What a registry finds that starts on these files.
async fn found(journal: &[u8], unfinished: Option<&[u8]>) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE), journal).unwrap();
    if let Some(bytes) = unfinished {
        std::fs::write(directory.path().join(format!(".{FILE}.new")), bytes).unwrap();
    }
    ids(&EmbeddedStore::open(directory.path(), limits(), None).unwrap()).await
}

#[tokio::test]
async fn a_cut_at_any_byte_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(), None).unwrap();
    // How long the file was when each step was acknowledged, and who was there then.
    let mut acknowledged = vec![(journal_of(directory.path()).len(), Vec::new())];
    for n in 0..5 {
        store.register(candidate(n)).await.unwrap();
        acknowledged.push((journal_of(directory.path()).len(), ids(&store).await));
    }
    store.deregister(&id(2)).await.unwrap();
    store.register(candidate(7)).await.unwrap();
    acknowledged.push((journal_of(directory.path()).len(), ids(&store).await));
    let whole = journal_of(directory.path());
    assert_eq!(acknowledged.last().unwrap().0, whole.len());
    for cut in 0..=whole.len() {
        let there = found(&whole[..cut], None).await;
        let (_, promised) = acknowledged.iter().rev().find(|(length, _)| *length <= cut).unwrap_or(&acknowledged[0]);
        let lost = promised.iter().find(|id| !there.contains(id) && *id != "m2");
        assert_eq!(lost, None, "cut at byte {cut} of {}", whole.len());
    }
    assert_eq!(found(&whole, None).await, acknowledged.last().unwrap().1);
}

#[tokio::test]
async fn a_crash_at_any_stage_of_a_snapshot_leaves_the_old_state_or_the_same_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(), None).unwrap();
    for n in 0..4 {
        store.register(candidate(n)).await.unwrap();
    }
    store.deregister(&id(1)).await.unwrap();
    store.register(candidate(4)).await.unwrap();
    let old = journal_of(directory.path());
    let expected = ids(&store).await;
    store.close().await.unwrap();
    let new = journal_of(directory.path());
    assert_ne!(old, new);
    for written in 0..=new.len() {
        assert_eq!(found(&old, Some(&new[..written])).await, expected, "{written} bytes of the new file written");
    }
    assert_eq!(found(&new, None).await, expected, "renamed");
    assert_eq!(found(&new, Some(&old)).await, expected, "an even older leftover");
}

#[tokio::test]
async fn a_damaged_line_costs_itself_only_and_the_file_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(), None).unwrap();
    for n in 0..5 {
        store.register(candidate(n)).await.unwrap();
    }
    drop(store);
    let mut bytes = journal_of(directory.path());
    let at = bytes.windows(4).position(|w| w == b"\"m2\"").unwrap();
    bytes[at + 1] ^= 1;
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join(FILE), &bytes).unwrap();
    let store = EmbeddedStore::open(other.path(), limits(), None).unwrap();
    assert_eq!(ids(&store).await, ["m0", "m1", "m3", "m4"]);
    assert_eq!(std::fs::read(other.path().join(DAMAGED)).unwrap(), bytes);
    // Whatever stands there, it is no crash.
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut noise = bytes.clone();
        for _ in 0..random.usize(1..40) {
            let at = random.usize(..noise.len());
            noise[at] = random.u8(..);
        }
        found(&noise, None).await;
    }
    assert!(found(&[0; 4096], None).await.is_empty());
}

#[tokio::test]
async fn one_directory_serves_one_registry() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(), None).unwrap();
    assert!(matches!(
        EmbeddedStore::open(directory.path(), limits(), None),
        Err(JournalError::State(StateError::InUse { .. }))
    ));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(
        EmbeddedStore::open(&file.join("below"), limits(), None),
        Err(JournalError::State(StateError::Unusable { .. }))
    ));
    drop(store);
}

/// A disk that fails on demand, leaving half of what it was given.
struct Faulty {
    disk: FileMedium,
    broken: Arc<AtomicBool>,
    appends: Arc<AtomicUsize>,
}

impl Medium for Faulty {
    fn load(&self) -> Result<Vec<u8>, StateError> {
        self.disk.load()
    }

    fn set_aside(&self) -> Result<(), StateError> {
        self.disk.set_aside()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            self.disk.append(&bytes[..bytes.len() / 2])?;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.disk.append(bytes)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.disk.replace(bytes)
    }
}

fn faulty(directory: &Path) -> (EmbeddedStore, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (broken, appends) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let disk = FileMedium::open(directory).unwrap();
    let medium = Faulty { disk, broken: Arc::clone(&broken), appends: Arc::clone(&appends) };
    (EmbeddedStore::on(Box::new(medium), limits(), None).unwrap(), broken, appends)
}

#[tokio::test]
async fn a_full_disk_turns_registrations_away_and_nothing_else_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let (store, broken, _) = faulty(directory.path());
    store.register(candidate(0)).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let answer = store.register(candidate(1)).await;
        assert!(matches!(&answer, Err(StoreError::Unwritable(why)) if why.contains(FILE)), "{answer:?}");
    }
    assert_eq!(store.heartbeat(&id(0)).await, Ok(true));
    assert_eq!(store.register(candidate(0)).await, Ok(Admission::Renewed), "on disk already");
    let moved = Candidate { port: 9.try_into().unwrap(), ..candidate(0) };
    assert!(store.register(moved).await.is_err(), "where it went is not");
    assert_eq!(store.deregister(&id(0)).await, Ok(true));
    assert!(store.follow(None).await.unwrap().write_error.is_some());
    broken.store(false, Ordering::SeqCst);
    let deadline = clock::monotonic() + Duration::from_secs(10);
    while let Err(e) = store.register(candidate(1)).await {
        assert!(clock::monotonic() < deadline, "{e}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.follow(None).await.unwrap().write_error, None);
    store.register(candidate(2)).await.unwrap();
    assert_eq!(store.register(candidate(1)).await, Ok(Admission::Renewed));
    // As after a crash: what is on disk now, without a last snapshot.
    assert_eq!(found(&journal_of(directory.path()), None).await, ["m1", "m2"]);
}

#[tokio::test]
async fn a_registration_that_was_not_kept_is_not_acknowledged_as_a_renewal() {
    let directory = tempfile::tempdir().unwrap();
    let (store, broken, _) = faulty(directory.path());
    broken.store(true, Ordering::SeqCst);
    // The first finds out that the disk is full, with the member on the roster already.
    assert!(store.register(candidate(0)).await.is_err());
    assert_eq!(ids(&store).await, ["m0"]);
    assert!(store.register(candidate(0)).await.is_err());
}

#[tokio::test]
async fn a_registry_that_starts_on_a_full_disk_renews_whom_it_found_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, _) = faulty(directory.path());
    store.register(candidate(0)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let disk = FileMedium::open(directory.path()).unwrap();
    let full = Faulty { disk, broken: Arc::new(true.into()), appends: Arc::default() };
    let store = EmbeddedStore::on(Box::new(full), limits(), None).unwrap();
    assert_eq!(store.register(candidate(0)).await, Ok(Admission::Renewed));
    assert!(store.register(candidate(1)).await.is_err());
}

/// A disk that takes as long as its gate is shut.
struct Hung {
    disk: FileMedium,
    gate: Arc<Mutex<()>>,
}

impl Medium for Hung {
    fn load(&self) -> Result<Vec<u8>, StateError> {
        self.disk.load()
    }

    fn set_aside(&self) -> Result<(), StateError> {
        self.disk.set_aside()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _open = self.gate.lock().unwrap();
        self.disk.append(bytes)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _open = self.gate.lock().unwrap();
        self.disk.replace(bytes)
    }
}

#[test]
fn a_disk_that_hangs_costs_bounded_memory_and_the_journal_catches_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::<Mutex<()>>::default();
    let medium = Hung { disk: FileMedium::open(directory.path()).unwrap(), gate: Arc::clone(&gate) };
    let store = EmbeddedStore::on(Box::new(medium), limits(), None).unwrap();
    runtime.block_on(async { store.register(candidate(0)).await.unwrap() });
    runtime.block_on(async { store.register(candidate(1)).await.unwrap() });

    let shut = gate.lock().unwrap();
    let mut waiting = std::task::Context::from_waker(std::task::Waker::noop());
    // Clients that give up before they are answered: what they asked for still waits to be written.
    let refused = (2..2 * QUEUE).find_map(|n| match store.register(candidate(n)).as_mut().poll(&mut waiting) {
        Poll::Pending => None,
        Poll::Ready(answer) => Some(answer),
    });
    assert!(matches!(&refused, Some(Err(StoreError::Unwritable(why))) if why.contains(FILE)), "{refused:?}");
    runtime.block_on(async {
        assert_eq!(store.register(candidate(1)).await, Ok(Admission::Renewed), "needs nothing written");
        assert_eq!(store.deregister(&id(0)).await, Ok(true), "whoever leaves is not held up");
        assert!(store.follow(None).await.unwrap().write_error.is_some());
    });
    drop(shut);
    runtime.block_on(async {
        let deadline = clock::monotonic() + Duration::from_secs(20);
        while let Err(e) = store.register(candidate(99_999)).await {
            assert!(clock::monotonic() < deadline, "{e}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(store.follow(None).await.unwrap().write_error, None);
        assert!(!ids(&store).await.contains(&"m0".to_owned()));
        assert_eq!(found(&journal_of(directory.path()), None).await, ids(&store).await, "nothing is missing on disk");
    });
}

#[tokio::test]
async fn many_who_register_at_once_share_their_syncs_and_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, appends) = faulty(directory.path());
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.register(candidate(n)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let appends = appends.load(Ordering::SeqCst);
    assert!(appends < 250, "{appends} syncs for 500 registrations");
    assert_eq!(found(&journal_of(directory.path()), None).await.len(), 500);
}

#[tokio::test]
async fn the_file_stays_in_proportion_to_the_ring() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(), None).unwrap();
    store.register(candidate(0)).await.unwrap();
    for n in 0..1500 {
        let port = (2000 + n).try_into().unwrap();
        store.register(Candidate { port, ..candidate(1) }).await.unwrap();
    }
    let lines = journal_of(directory.path()).iter().filter(|b| **b == b'\n').count();
    assert!((3..1100).contains(&lines), "{lines} lines");
    let revision = store.follow(None).await.unwrap().mark.revision;
    drop(store);
    let deadline = clock::monotonic() + Duration::from_secs(10);
    let again = loop {
        match EmbeddedStore::open(directory.path(), limits(), None) {
            Ok(store) => break store,
            Err(e) => assert!(clock::monotonic() < deadline, "{e}"),
        }
    };
    let followed = again.follow(None).await.unwrap();
    assert_eq!(followed.mark.revision, revision, "the revision goes on where it was");
    let ports: Vec<u16> = followed.roster.unwrap().iter().map(|m| m.port.get()).collect();
    assert!(ports.contains(&3499) && ports.len() == 2, "{ports:?}");
}

const CHILD_DIRECTORY: &str = "NETRING_TEST_JOURNAL";

#[tokio::test]
#[ignore = "runs as the process that the next test kills"]
async fn child_that_registers_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let store = EmbeddedStore::open(Path::new(&directory), limits(), None).unwrap();
    let first = ids(&store).await.len();
    for n in first..1_000_000 {
        store.register(candidate(n)).await.unwrap();
        println!("kept m{n}");
    }
}

#[tokio::test]
async fn a_process_killed_again_and_again_loses_nothing_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept: Vec<String> = Vec::new();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("registry::store::embedded::journal::tests::child_that_registers_until_it_is_killed")
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = fastrand::usize(1..300);
        let mut heard = 0;
        while heard < enough {
            let line = lines.next().expect("the child registers until it is killed").unwrap();
            if let Some(id) = line.strip_prefix("kept ") {
                kept.push(id.to_owned());
                heard += 1;
            }
        }
        child.kill().unwrap();
        kept.extend(lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("kept ")?.to_owned())));
        child.wait().unwrap();
        let there = found(&journal_of(directory.path()), None).await;
        let lost: Vec<&String> = kept.iter().filter(|id| there.binary_search(id).is_err()).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
    }
}

#[test]
fn the_writer_is_missed_where_it_stands_still_and_not_for_a_disk_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::<Mutex<()>>::default();
    let medium = Hung { disk: FileMedium::open(directory.path()).unwrap(), gate: Arc::clone(&gate) };
    let limit = Duration::from_millis(300);
    let vitals = Vitals::new();
    // The snapshot takes a lock of the registry: what holds the writer up there is no disk.
    let roster = Arc::<Mutex<()>>::default();
    let snapshot = {
        let roster = Arc::clone(&roster);
        move || {
            let _free = lock_of(&roster);
            Snapshot::default()
        }
    };
    let journal = Journal::start(Box::new(medium), 0, snapshot, Some(vitals.add("journal", limit))).unwrap();
    // Twice the limit, so that a mark of a moment ago is none any more.
    let stalled_after = |wait: Duration| {
        std::thread::sleep(wait);
        vitals.stalled().map(|stalled| stalled.name)
    };
    let left = || Record::Left { revision: u64::MAX, id: id(0) };
    let caught_up = |journal: &Journal| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(journal.kept()), Ok(()));
    };
    assert_eq!(stalled_after(limit * 2), None, "it has nothing to do");

    let shut = lock_of(&gate);
    journal.add(left());
    assert_eq!(stalled_after(limit * 2), None, "it waits for the disk");
    drop(shut);
    caught_up(&journal);
    assert_eq!(stalled_after(limit * 2), None, "it goes on");

    let held = lock_of(&roster);
    drop(journal.close());
    assert_eq!(stalled_after(limit * 2), Some("journal"));
    drop(held);
}

fn lock_of(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap()
}
