//! The embedded store on disk: the file `registry.journal`, whose lines record joins and departures.
//!
//! A line is a CRC-32 in hexadecimal, a space, and a JSON object: `{"revision":7,"members":[{...}]}` for a member that joined
//! or moved, `{"revision":8,"left":["..."]}` for one that left. The roster results from applying the lines in order.
//!
//! **Writing.** One thread writes. It takes all queued records, appends them in one write, makes them durable with one
//! fdatasync(2), and then notifies everybody who waits for one of them, so concurrent registrations share one sync. When the
//! file has more lines than twice the number of members plus 1,000, it is replaced by a snapshot: temporary file, fsync,
//! rename, fsync of the directory. After a failed write the content of the file is unknown, because the kernel may have
//! dropped dirty pages. Nothing more is appended then until a complete snapshot has been written. The snapshot is tried
//! every second, and nothing is acknowledged before it succeeds.
//!
//! **A disk that hangs** needs a bounded amount of memory: if the queue is full, changes are no longer queued, which is handled
//! like a failed write. A registration is rejected and can be repeated. A departure takes effect, and the next snapshot
//! records it; it is only lost in a crash before that snapshot.
//!
//! The writer marks a [`Pulse`], also when it is idle. While it waits for the disk the watchdog does not expect a mark, because
//! a restarted process would wait for the same disk.
//!
//! **Reading.** A crash can leave an incomplete last line. It is discarded; its registration was not acknowledged. Damaged lines
//! elsewhere (a bad disk, an editor) are skipped, and all other lines are applied, since each line is complete in itself. A
//! member whose "joined" line is lost gets one 404 and registers again. A member whose "left" line is lost is listed for
//! one more lease. A copy of the damaged file is kept as `registry.journal.damaged`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::clock;
use crate::host::state::{StateDir, StateError};
use crate::host::vitals::Pulse;
use crate::wire::{InstanceId, Member, MembersReply};

#[cfg(test)]
mod tests;

const FILE: &str = "registry.journal";
const DAMAGED: &str = "registry.journal.damaged";

/// The time between a failed write and the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// How many lines the file may have in addition to twice the number of members.
const SLACK: usize = 1000;

/// The length of the queue: more than one entry for each member of a large ring, and a few MB.
const QUEUE: usize = 40_000;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory, or the journal in it, cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The writer's thread cannot be started.
    #[error("cannot start the journal's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Where the journal is stored. [`FileMedium`] is the only implementation in use; tests use one that fails on demand.
pub trait Medium: Send {
    /// Reads the whole journal; empty if there is none yet.
    ///
    /// # Errors
    ///
    /// [`StateError::Read`].
    fn load(&self) -> Result<Vec<u8>, StateError>;

    /// Keeps a copy of a journal with damaged lines.
    ///
    /// # Errors
    ///
    /// The error of the system. The journal itself is unchanged.
    fn set_aside(&self) -> Result<(), StateError>;

    /// Appends `bytes`. They are durable when this function returns.
    ///
    /// # Errors
    ///
    /// The error of the system. Any part of `bytes` may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Replaces the whole journal by `bytes` atomically. They are durable when this function returns.
    ///
    /// # Errors
    ///
    /// The error of the system. The journal is either the old one or the new one.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The journal in a state directory.
#[derive(Debug)]
pub struct FileMedium {
    directory: StateDir,
    file: Option<File>,
}

impl FileMedium {
    /// Locks the directory, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// As [`StateDir::open`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Ok(Self { directory: StateDir::open(path.to_path_buf())?, file: None })
    }
}

impl Medium for FileMedium {
    fn load(&self) -> Result<Vec<u8>, StateError> {
        Ok(self.directory.read(FILE)?.unwrap_or_default())
    }

    fn set_aside(&self) -> Result<(), StateError> {
        self.directory.write(DAMAGED, &self.load()?)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("no snapshot has been written yet"))?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file = None;
        self.file = Some(self.directory.replace(FILE, bytes)?);
        Ok(())
    }
}

/// One change of the roster.
#[derive(Clone, Debug)]
pub enum Record {
    /// A member joined or moved.
    Joined {
        /// The revision after the change.
        revision: u64,
        /// The member after the change.
        member: Member,
    },
    /// A member left.
    Left {
        /// The revision after the change.
        revision: u64,
        /// Its identity.
        id: InstanceId,
    },
}

impl Record {
    fn revision(&self) -> u64 {
        match self {
            Self::Joined { revision, .. } | Self::Left { revision, .. } => *revision,
        }
    }

    fn write(&self, text: &mut Vec<u8>) {
        match self {
            Self::Joined { revision, member } => {
                write_line(text, &JoinedLine { revision: *revision, members: std::slice::from_ref(member) });
            }
            Self::Left { revision, id } => write_line(text, &LeftLine { revision: *revision, left: [id] }),
        }
    }
}

/// The whole roster at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The members.
    pub members: Vec<Member>,
}

impl Snapshot {
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(200 * (self.members.len() + 1));
        write_line(&mut text, &JoinedLine { revision: self.revision, members: &[] });
        for member in &self.members {
            write_line(&mut text, &JoinedLine { revision: self.revision, members: std::slice::from_ref(member) });
        }
        text
    }
}

#[derive(Serialize)]
struct JoinedLine<'a> {
    revision: u64,
    members: &'a [Member],
}

#[derive(Serialize)]
struct LeftLine<'a> {
    revision: u64,
    left: [&'a InstanceId; 1],
}

fn write_line(text: &mut Vec<u8>, line: &impl Serialize) {
    let json = serde_json::to_vec(line).expect("a line has text keys and plain values only");
    let _ = write!(text, "{:08x} ", checksum(&json));
    text.extend_from_slice(&json);
    text.push(b'\n');
}

fn checksum(json: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(json);
    crc.sum()
}

/// Reads the journal in `medium`, logs what is wrong with it, and keeps a copy of a damaged one.
///
/// # Errors
///
/// [`StateError::Read`].
pub fn recover(medium: &dyn Medium) -> Result<Snapshot, StateError> {
    let found = Found::read(&medium.load()?);
    if found.torn > 0 {
        tracing::warn!(bytes = found.torn, "discarded the incomplete last line of the registry's journal");
    }
    if let Some(first) = found.damaged.first() {
        let kept = match medium.set_aside() {
            Ok(()) => format!("a copy is kept as {DAMAGED}"),
            Err(e) => format!("no copy can be kept: {e}"),
        };
        tracing::warn!(lines = found.damaged.len(), first, "skipped damaged lines of the registry's journal; {kept}");
    }
    Ok(found.state)
}

/// The content of a journal.
#[derive(Debug, Default)]
struct Found {
    state: Snapshot,
    /// Bytes of an incomplete last line.
    torn: usize,
    /// Numbers of the damaged lines, counted from 1.
    damaged: Vec<usize>,
}

impl Found {
    fn read(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let mut members = HashMap::new();
        for (index, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
            let Some(line) = line.strip_suffix(b"\n") else {
                found.torn = line.len();
                break;
            };
            match parse(line) {
                Some(Line { revision, joined, left }) => {
                    found.state.revision = found.state.revision.max(revision);
                    members.extend(joined.into_iter().map(|m| (m.instance_id.clone(), m)));
                    for id in left {
                        members.remove(&id);
                    }
                }
                None => found.damaged.push(index + 1),
            }
        }
        found.state.members = members.into_values().collect();
        found
    }
}

struct Line {
    revision: u64,
    joined: Vec<Member>,
    left: Vec<InstanceId>,
}

fn parse(line: &[u8]) -> Option<Line> {
    let (sum, json) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != checksum(json) {
        return None;
    }
    let fields: Value = serde_json::from_slice(json).ok()?;
    let revision = fields.get("revision")?.as_u64()?;
    if let Some(left) = fields.get("left") {
        let left = left.as_array()?.iter().map(|id| id.as_str()?.parse().ok()).collect::<Option<_>>()?;
        return Some(Line { revision, joined: Vec::new(), left });
    }
    let reply = MembersReply::from_json(json).ok().filter(|reply| reply.unusable == 0)?;
    Some(Line { revision, joined: reply.members, left: Vec::new() })
}

/// Resolves when everything added before is durable, or with the reason why it is not.
pub type Durable = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The handle of the journal's writer.
#[derive(Debug)]
pub struct Journal {
    requests: Sender<Request>,
    shared: Arc<Mutex<Shared>>,
}

/// State shared by the writer and its handle.
#[derive(Debug, Default)]
struct Shared {
    /// Why nothing can be written at the moment.
    fault: Option<String>,
    /// All changes up to this revision are on disk.
    durable: u64,
    /// How many requests are queued.
    queued: usize,
    /// The revision of the newest change that was not queued and is not in a snapshot yet.
    dropped: Option<u64>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn queue_full() -> String {
    format!("the disk is too slow: {QUEUE} changes are waiting to be written to {FILE}")
}

#[derive(Debug)]
enum Request {
    Add(Record),
    Notify(oneshot::Sender<Result<(), String>>),
    Close(oneshot::Sender<Result<(), String>>),
}

impl Journal {
    /// Starts the writer, which first writes a snapshot. `snapshot` returns the roster with all changes that were added. The
    /// medium contains the roster of revision `durable`. The writer marks `pulse`.
    ///
    /// # Errors
    ///
    /// [`JournalError::Thread`].
    pub fn start(
        medium: Box<dyn Medium>,
        durable: u64,
        snapshot: impl FnMut() -> Snapshot + Send + 'static,
        pulse: Option<Pulse>,
    ) -> Result<Self, JournalError> {
        let (requests, inbox) = mpsc::channel();
        let shared = Arc::new(Mutex::new(Shared { durable, ..Shared::default() }));
        let mut writer = Writer {
            medium: Watched { medium, pulse },
            snapshot: Box::new(snapshot),
            shared: Arc::clone(&shared),
            retry_at: None,
            written: 0,
            lines: 0,
            lines_max: 0,
        };
        // Before the first registration, so that it is known by then whether the disk can be written.
        writer.rewrite();
        std::thread::Builder::new()
            .name("netring-journal".into())
            .spawn(move || writer.run(&inbox))
            .map_err(JournalError::Thread)?;
        Ok(Self { requests, shared })
    }

    /// Adds a record. Records must be added in the order of the changes, and `snapshot` must already contain the change.
    pub fn add(&self, record: Record) {
        let revision = record.revision();
        let mut shared = lock(&self.shared);
        // Under one lock: the writer checks for dropped records after it has taken the queue.
        if !self.queue(&mut shared, Request::Add(record)) {
            shared.dropped = Some(revision);
            shared.fault.get_or_insert_with(queue_full);
        }
    }

    /// Waits until everything added so far is durable.
    #[must_use]
    pub fn kept(&self) -> Durable {
        let (notify, reply) = oneshot::channel();
        match self.queue(&mut lock(&self.shared), Request::Notify(notify)) {
            true => Self::outcome(reply),
            false => Box::pin(std::future::ready(Err(queue_full()))),
        }
    }

    /// Writes a last snapshot, stops the writer and unlocks the directory.
    #[must_use]
    pub fn close(&self) -> Durable {
        let (notify, reply) = oneshot::channel();
        self.send(&mut lock(&self.shared), Request::Close(notify));
        Self::outcome(reply)
    }

    /// Why nothing can be written at the moment.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        lock(&self.shared).fault.clone()
    }

    /// The revision up to which all changes are on disk.
    #[must_use]
    pub fn durable(&self) -> u64 {
        lock(&self.shared).durable
    }

    fn outcome(reply: oneshot::Receiver<Result<(), String>>) -> Durable {
        Box::pin(async move { reply.await.unwrap_or_else(|_| Err("the registry is stopping".into())) })
    }

    /// False if the queue is full.
    fn queue(&self, shared: &mut Shared, request: Request) -> bool {
        let has_room = shared.queued < QUEUE;
        if has_room {
            self.send(shared, request);
        }
        has_room
    }

    /// If the writer has ended, the request is dropped, and its sender gets an error from the closed channel.
    fn send(&self, shared: &mut Shared, request: Request) {
        shared.queued += 1;
        let _ = self.requests.send(request);
    }
}

/// A medium that marks a pulse around each write.
struct Watched {
    medium: Box<dyn Medium>,
    pulse: Option<Pulse>,
}

impl Watched {
    /// Writes, which may take any time.
    fn write(&mut self, write: impl FnOnce(&mut dyn Medium) -> io::Result<()>) -> io::Result<()> {
        if let Some(pulse) = &self.pulse {
            pulse.mark_away();
        }
        let result = write(self.medium.as_mut());
        self.mark();
        result
    }

    fn mark(&self) {
        if let Some(pulse) = &self.pulse {
            pulse.mark();
        }
    }

    /// How long the writer may wait for requests before it must mark the pulse.
    fn idle(&self) -> Duration {
        self.pulse.as_ref().map_or(Duration::MAX, Pulse::idle)
    }
}

struct Writer {
    medium: Watched,
    snapshot: Box<dyn FnMut() -> Snapshot + Send>,
    shared: Arc<Mutex<Shared>>,
    /// When to try the next snapshot. Set while the content of the file is unknown.
    retry_at: Option<Instant>,
    /// The revision of the last snapshot. Records up to it are already in the file.
    written: u64,
    lines: usize,
    lines_max: usize,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            self.medium.mark();
            let retry_in = self.retry_at.map(|at| at.saturating_duration_since(clock::monotonic()));
            let idle = self.medium.idle();
            let first = inbox.recv_timeout(retry_in.map_or(idle, |retry_in| retry_in.min(idle)));
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let (mut text, mut waiting, mut closing) = (Vec::new(), Vec::new(), None);
            let (mut requests, mut newest) = (0, 0);
            for request in first.into_iter().chain(inbox.try_iter()) {
                requests += 1;
                match request {
                    Request::Add(record) if record.revision() > self.written => {
                        record.write(&mut text);
                        newest = record.revision();
                        self.lines += 1;
                    }
                    Request::Add(_) => {}
                    Request::Notify(notify) => waiting.push(notify),
                    Request::Close(notify) => closing = Some(notify),
                }
            }
            let complete = {
                let mut shared = lock(&self.shared);
                shared.queued -= requests;
                shared.dropped.is_none()
            };
            self.keep(&text, newest, complete);
            let outcome = self.outcome();
            for notify in waiting {
                // The receiver may be gone.
                let _ = notify.send(outcome.clone());
            }
            if let Some(notify) = closing {
                self.rewrite();
                let outcome = self.outcome();
                // Unlocks the directory before the caller is notified, who may open it again.
                drop(self);
                let _ = notify.send(outcome);
                return;
            }
        }
    }

    /// Makes `text` durable, which has the records up to revision `newest`. Writes a snapshot instead if records are missing.
    fn keep(&mut self, text: &[u8], newest: u64, complete: bool) {
        match self.retry_at {
            Some(at) if clock::monotonic() < at => return,
            Some(_) => return self.rewrite(),
            None if !complete => return self.rewrite(),
            None if text.is_empty() => return,
            None => {}
        }
        match self.medium.write(|medium| medium.append(text)) {
            Ok(()) => lock(&self.shared).durable = newest,
            Err(e) => self.fail(&e),
        }
        if self.retry_at.is_none() && self.lines > self.lines_max {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        let snapshot = (self.snapshot)();
        let text = snapshot.text();
        match self.medium.write(|medium| medium.replace(&text)) {
            Ok(()) => {
                self.written = snapshot.revision;
                self.lines = snapshot.members.len() + 1;
                self.lines_max = 2 * snapshot.members.len() + SLACK;
                self.retry_at = None;
                let mut shared = lock(&self.shared);
                shared.durable = snapshot.revision;
                // A record dropped while the snapshot was written needs another snapshot.
                if shared.dropped.is_none_or(|dropped| dropped <= snapshot.revision) {
                    shared.dropped = None;
                    shared.fault = None;
                }
            }
            Err(e) => self.fail(&e),
        }
    }

    fn fail(&mut self, e: &io::Error) {
        self.retry_at = Some(clock::monotonic() + RETRY);
        lock(&self.shared).fault = Some(format!("cannot write {FILE}: {e}"));
    }

    fn outcome(&self) -> Result<(), String> {
        lock(&self.shared).fault.clone().map_or(Ok(()), Err)
    }
}
