//! The embedded store's memory on disk: `registry.journal`, lines that say who joined and who left.
//!
//! A line is a CRC-32 in hexadecimal, a space, and a JSON object: `{"revision":7,"members":[{...}]}` for a member that joined
//! or moved, `{"revision":8,"left":["..."]}` for one that went. The state is what the lines say one after the other.
//!
//! **Writing.** One thread writes. It takes all records that wait, appends them in one write, makes them durable with one
//! fdatasync(2), and then tells everyone who waits for one of them: however many register at once share that sync. When the
//! file has grown past twice the ring plus a thousand lines, it is written anew as a snapshot: temporary file, fsync,
//! rename, fsync of the directory. After any failed write the state of the file is unknown (the kernel may have dropped
//! what it could not write), so nothing is appended any more until a whole new snapshot has been written; that is tried
//! every second, and until then nothing is acknowledged.
//!
//! **A disk that hangs** costs bounded memory: where too many orders wait for the writer, changes are no longer queued, and
//! that is a failed write like any other. A registration is turned away and can be tried again; a leave is done and its
//! record left to the snapshot that must come next, so that only a crash before it loses the record, as it may any leave.
//!
//! The writer marks a [`Pulse`], when it has nothing to do too; while it waits for the disk it is not missed, since a restart
//! would wait for the same disk.
//!
//! **Reading.** A crash can leave an unfinished last line: it is cut off, nobody was told it was kept. A damaged line
//! elsewhere (a bad disk, an editor) is left out and the others count, before and after it: each stands for itself. A lost
//! "joined" costs that member one 404, a lost "left" one lease. The damaged file is kept beside as
//! `registry.journal.damaged`.

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

/// How long after a failed write the next is tried.
const RETRY: Duration = Duration::from_secs(1);

/// How many lines beyond twice the ring the file may hold.
const SLACK: usize = 1000;

/// How many orders may wait for the writer: more than one for each member of a large ring at once, and some MB.
const QUEUE: usize = 40_000;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory, or the journal in it, cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// No thread for the writer.
    #[error("cannot start the journal's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Where the journal's bytes go. [`FileMedium`] is the one there is; tests put one in that fails on demand.
pub trait Medium: Send {
    /// All bytes; none where there is no journal yet.
    ///
    /// # Errors
    ///
    /// [`StateError::Read`].
    fn load(&self) -> Result<Vec<u8>, StateError>;

    /// Keeps a copy of a journal with damaged lines.
    ///
    /// # Errors
    ///
    /// What the system says; the journal itself is untouched.
    fn set_aside(&self) -> Result<(), StateError>;

    /// Adds `bytes` at the end. They are durable when it returns.
    ///
    /// # Errors
    ///
    /// What the system says; any part of `bytes` may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Puts `bytes` in the place of all there is, in one step. They are durable when it returns.
    ///
    /// # Errors
    ///
    /// What the system says; either the old bytes stand there whole or the new ones.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The journal in a state directory.
#[derive(Debug)]
pub struct FileMedium {
    directory: StateDir,
    file: Option<File>,
}

impl FileMedium {
    /// Takes the directory for itself, making it where it is missing.
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
    /// A member joined, or moved.
    Joined {
        /// The revision this made.
        revision: u64,
        /// The member from then on.
        member: Member,
    },
    /// A member went.
    Left {
        /// The revision this made.
        revision: u64,
        /// Who.
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

/// Reads what `medium` holds, says in the log what was wrong with it, and sets a damaged journal aside.
///
/// # Errors
///
/// [`StateError::Read`].
pub fn recover(medium: &dyn Medium) -> Result<Snapshot, StateError> {
    let found = Found::read(&medium.load()?);
    if found.torn > 0 {
        tracing::warn!(bytes = found.torn, "cut off the unfinished last line of the registry's journal");
    }
    if let Some(first) = found.damaged.first() {
        let kept = match medium.set_aside() {
            Ok(()) => format!("the file is kept as {DAMAGED}"),
            Err(e) => format!("the file could not be kept: {e}"),
        };
        tracing::warn!(lines = found.damaged.len(), first, "left out damaged lines of the registry's journal; {kept}");
    }
    Ok(found.state)
}

/// What stands in a journal.
#[derive(Debug, Default)]
struct Found {
    state: Snapshot,
    /// Bytes of an unfinished last line.
    torn: usize,
    /// Numbers of the lines that are damaged, from 1.
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

/// Resolves when everything added before is durable, or says why it is not.
pub type Kept = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The journal's writer.
#[derive(Debug)]
pub struct Journal {
    orders: Sender<Order>,
    standing: Arc<Mutex<Standing>>,
}

/// What the writer and those who give it orders share.
#[derive(Debug, Default)]
struct Standing {
    /// Why nothing can be kept at the moment.
    fault: Option<String>,
    /// All changes up to this revision are on disk.
    durable: u64,
    /// How many orders wait for the writer.
    queued: usize,
    /// The newest change that was not queued and is in no snapshot yet.
    dropped: Option<u64>,
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hangs() -> String {
    format!("the disk does not keep up: {QUEUE} changes wait to be written to {FILE}")
}

#[derive(Debug)]
enum Order {
    Add(Record),
    Tell(oneshot::Sender<Result<(), String>>),
    Close(oneshot::Sender<Result<(), String>>),
}

impl Journal {
    /// Starts the writer, which begins with a snapshot; `snapshot` gives the roster with everything that was added. The
    /// medium holds what it was at revision `durable`. The writer marks `pulse` from then on.
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
        let (orders, inbox) = mpsc::channel();
        let standing = Arc::new(Mutex::new(Standing { durable, ..Standing::default() }));
        let mut writer = Writer {
            medium: Watched { medium, pulse },
            snapshot: Box::new(snapshot),
            standing: Arc::clone(&standing),
            retry_at: None,
            written: 0,
            lines: 0,
            lines_max: 0,
        };
        // Before anyone can register, so that the first one already knows whether the disk takes anything.
        writer.rewrite();
        std::thread::Builder::new()
            .name("netring-journal".into())
            .spawn(move || writer.run(&inbox))
            .map_err(JournalError::Thread)?;
        Ok(Self { orders, standing })
    }

    /// Adds a record. To be called in the order in which the changes were made, each while the snapshot shows it already.
    pub fn add(&self, record: Record) {
        let revision = record.revision();
        let mut standing = lock(&self.standing);
        // In one step: the writer, which has a whole queue to go, looks afterwards whether something was dropped.
        if !self.queue(&mut standing, Order::Add(record)) {
            standing.dropped = Some(revision);
            standing.fault.get_or_insert_with(hangs);
        }
    }

    /// Waits until everything added so far is durable.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let (tell, told) = oneshot::channel();
        match self.queue(&mut lock(&self.standing), Order::Tell(tell)) {
            true => Self::told(told),
            false => Box::pin(std::future::ready(Err(hangs()))),
        }
    }

    /// Writes a last snapshot, ends the writer and gives the directory up.
    #[must_use]
    pub fn close(&self) -> Kept {
        let (tell, told) = oneshot::channel();
        self.send(&mut lock(&self.standing), Order::Close(tell));
        Self::told(told)
    }

    /// Why nothing can be kept at the moment.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        lock(&self.standing).fault.clone()
    }

    /// The revision up to which all changes are on disk.
    #[must_use]
    pub fn durable(&self) -> u64 {
        lock(&self.standing).durable
    }

    fn told(told: oneshot::Receiver<Result<(), String>>) -> Kept {
        Box::pin(async move { told.await.unwrap_or_else(|_| Err("the registry is stopping".into())) })
    }

    /// False where there is no room for the order.
    fn queue(&self, standing: &mut Standing, order: Order) -> bool {
        let room = standing.queued < QUEUE;
        if room {
            self.send(standing, order);
        }
        room
    }

    /// A writer that has ended drops the order, and whoever waits for it is told so by the broken channel.
    fn send(&self, standing: &mut Standing, order: Order) {
        standing.queued += 1;
        let _ = self.orders.send(order);
    }
}

/// A medium whose writer marks a pulse.
struct Watched {
    medium: Box<dyn Medium>,
    pulse: Option<Pulse>,
}

impl Watched {
    /// Has something written, which takes as long as the disk makes it take.
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

    /// How long the writer may wait for orders.
    fn idle(&self) -> Duration {
        self.pulse.as_ref().map_or(Duration::MAX, Pulse::idle)
    }
}

struct Writer {
    medium: Watched,
    snapshot: Box<dyn FnMut() -> Snapshot + Send>,
    standing: Arc<Mutex<Standing>>,
    /// Set while the file cannot be trusted: when to try a new snapshot.
    retry_at: Option<Instant>,
    /// The revision that the last snapshot holds; records up to it are in the file already.
    written: u64,
    lines: usize,
    lines_max: usize,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            self.medium.mark();
            let retry_in = self.retry_at.map(|at| at.saturating_duration_since(clock::monotonic()));
            let idle = self.medium.idle();
            let first = inbox.recv_timeout(retry_in.map_or(idle, |retry_in| retry_in.min(idle)));
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let (mut text, mut waiting, mut closing) = (Vec::new(), Vec::new(), None);
            let (mut orders, mut newest) = (0, 0);
            for order in first.into_iter().chain(inbox.try_iter()) {
                orders += 1;
                match order {
                    Order::Add(record) if record.revision() > self.written => {
                        record.write(&mut text);
                        newest = record.revision();
                        self.lines += 1;
                    }
                    Order::Add(_) => {}
                    Order::Tell(tell) => waiting.push(tell),
                    Order::Close(tell) => closing = Some(tell),
                }
            }
            let complete = {
                let mut standing = lock(&self.standing);
                standing.queued -= orders;
                standing.dropped.is_none()
            };
            self.keep(&text, newest, complete);
            let outcome = self.outcome();
            for tell in waiting {
                // Whoever asked may have gone meanwhile.
                let _ = tell.send(outcome.clone());
            }
            if let Some(tell) = closing {
                self.rewrite();
                let outcome = self.outcome();
                // With it goes the lock on the directory: whoever is told may open it again.
                drop(self);
                let _ = tell.send(outcome);
                return;
            }
        }
    }

    /// Makes `text` durable, the records up to revision `newest`; by a snapshot where it is not complete.
    fn keep(&mut self, text: &[u8], newest: u64, complete: bool) {
        match self.retry_at {
            Some(at) if clock::monotonic() < at => return,
            Some(_) => return self.rewrite(),
            None if !complete => return self.rewrite(),
            None if text.is_empty() => return,
            None => {}
        }
        match self.medium.write(|medium| medium.append(text)) {
            Ok(()) => lock(&self.standing).durable = newest,
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
                let mut standing = lock(&self.standing);
                standing.durable = snapshot.revision;
                // What was dropped while the snapshot was being written takes another one.
                if standing.dropped.is_none_or(|dropped| dropped <= snapshot.revision) {
                    standing.dropped = None;
                    standing.fault = None;
                }
            }
            Err(e) => self.fail(&e),
        }
    }

    fn fail(&mut self, e: &io::Error) {
        self.retry_at = Some(clock::monotonic() + RETRY);
        lock(&self.standing).fault = Some(format!("cannot write {FILE}: {e}"));
    }

    fn outcome(&self) -> Result<(), String> {
        lock(&self.standing).fault.clone().map_or(Ok(()), Err)
    }
}
