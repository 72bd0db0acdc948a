//! The log thread: writing the log never blocks the threads that log.
//!
//! A journal that hangs, or a pipe that nobody reads, blocks whoever writes to it. Only the thread `netring-log` writes.
//! Events logged while it is blocked wait in a bounded queue. Events that do not fit are dropped and counted, and the count
//! is logged as soon as writing succeeds again. At exit, [`FlushGuard`] waits briefly for the queue to drain.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing::field::{Field, Visit, display};
use tracing::subscriber::with_default;
use tracing::{Event, Metadata, Subscriber, Value};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layered, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use crate::clock;
use crate::host::vitals::Pulse;

use super::lines::message_with_fields;

/// The most events that may wait: a few seconds of a busy log, or a few hundred kB.
const QUEUE_MAX: usize = 1000;

/// How long [`FlushGuard`] waits for the queue to drain.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// How often [`FlushGuard`] checks whether the queue is empty.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// The most fields an event can have; a limit of `tracing`.
const FIELDS_MAX: usize = 32;

/// A handle to the log thread.
#[derive(Clone, Debug)]
pub(super) struct Background {
    queue: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Events queued and not written yet.
    pending: AtomicU64,
    /// Events dropped because the queue was full, and not reported yet.
    dropped: AtomicU64,
}

/// The layer through which the thread itself writes.
pub(super) type Direct = Box<dyn Layer<Layered<LevelFilter, Registry>> + Send + Sync>;

/// One entry of the queue.
pub(super) enum Entry {
    /// A finished line for stderr.
    Line(String),
    /// An event for the journal.
    Event(Recorded),
}

impl Background {
    /// Starts the thread. It passes lines to `write` and events to the layer that `open` returns; its own events go to that
    /// layer too. `open` runs on the thread because opening a journal that hangs blocks as long as writing to it.
    ///
    /// # Errors
    ///
    /// The system cannot create a thread.
    pub(super) fn start(
        pulse: Pulse,
        open: impl FnOnce() -> Direct + Send + 'static,
        write: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, inbox) = sync_channel(QUEUE_MAX);
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("netring-log".into());
        thread.spawn(move || {
            pulse.mark_away();
            // This level filters only the thread's own events. Queued events were filtered before; without a level here the
            // global maximum would rise, and other threads would build events that the log level excludes.
            let direct = tracing_subscriber::registry().with(LevelFilter::WARN).with(open());
            with_default(direct, || write_all(&inbox, &shared, &pulse, write));
        })?;
        Ok(Self { queue, counts })
    }

    /// Queues an entry, or drops and counts it if the queue is full.
    pub(super) fn send(&self, entry: Entry) {
        self.counts.pending.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(entry).is_err() {
            self.counts.pending.fetch_sub(1, Ordering::AcqRel);
            self.counts.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The thread's loop. While it writes it is exempt from the watchdog: a restart would not unblock the journal.
fn write_all(inbox: &Receiver<Entry>, counts: &Counts, pulse: &Pulse, mut write: impl FnMut(&str)) {
    loop {
        pulse.mark();
        let entry = match inbox.recv_timeout(pulse.idle()) {
            Ok(entry) => entry,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        pulse.mark_away();
        match entry {
            Entry::Line(line) => write(&line),
            Entry::Event(event) => event.dispatch(),
        }
        let events = counts.dropped.swap(0, Ordering::AcqRel);
        if events > 0 {
            tracing::warn!(events, "log events were dropped because the log could not be written fast enough");
        }
        counts.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits, when dropped at the end of the daemon, until the queued events are written, but not longer than 200 ms.
#[derive(Debug)]
pub struct FlushGuard {
    pub(super) background: Option<Background>,
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let Some(Background { counts, .. }) = &self.background else { return };
        let deadline = clock::monotonic() + FLUSH_TIMEOUT;
        while counts.pending.load(Ordering::Acquire) > 0 && clock::monotonic() < deadline {
            std::thread::sleep(FLUSH_POLL);
        }
    }
}

/// Queues a copy of each event for the log thread.
pub(super) struct Handover(pub(super) Background);

impl<S: Subscriber> Layer<S> for Handover {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.send(Entry::Event(Recorded::of(event)));
    }
}

/// A copy of an event that owns its values, so that another thread can dispatch it.
pub(super) struct Recorded {
    metadata: &'static Metadata<'static>,
    values: Vec<(Field, Box<dyn Value + Send>)>,
}

impl Recorded {
    fn of(event: &Event<'_>) -> Self {
        let mut recorded = Self { metadata: event.metadata(), values: Vec::new() };
        event.record(&mut recorded);
        // journalctl shows only the message, so the message has to contain the fields.
        if let Some((_, message)) = recorded.values.iter_mut().find(|(field, _)| field.name() == "message") {
            *message = Box::new(display(message_with_fields(event)));
        }
        recorded
    }

    fn dispatch(&self) {
        let Some((any, _)) = self.values.first() else { return };
        // The array must have a fixed length; entries without a value are ignored.
        let mut values: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(any, None); FIELDS_MAX];
        for (entry, (field, value)) in values.iter_mut().zip(&self.values) {
            *entry = (field, Some(value.as_ref()));
        }
        Event::dispatch(self.metadata, &self.metadata.fields().value_set(&values));
    }

    fn put(&mut self, field: &Field, value: impl Value + Send + 'static) {
        self.values.push((field.clone(), Box::new(value)));
    }
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, display(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

/// Writes to stderr. A failure is ignored: there is nowhere else to report it.
pub(super) fn to_stderr(line: &str) {
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use tracing::info;

    use super::super::lines::{Form, Lines};
    use super::*;
    use crate::host::vitals::Vitals;

    const LIMIT: Duration = Duration::from_millis(300);

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    /// Collects lines; while `gate` is locked, writing blocks.
    #[derive(Clone, Default)]
    struct Sink {
        lines: Arc<Mutex<Vec<String>>>,
        gate: Arc<Mutex<()>>,
    }

    impl Sink {
        fn write(&self) -> impl Fn(&str) + Send + Sync + 'static {
            let Self { lines, gate } = self.clone();
            move |line| {
                let _open = lock(&gate);
                lock(&lines).push(line.to_owned());
            }
        }

        /// A log thread that writes here; its own events as JSON.
        fn background(&self, vitals: &Vitals) -> Background {
            let direct = Lines::new(Form::Json, self.write());
            Background::start(vitals.add("log", LIMIT), || Box::new(direct), self.write()).unwrap()
        }
    }

    #[test]
    fn a_blocked_log_blocks_nobody_and_dropped_events_are_counted() {
        let (vitals, sink) = (Vitals::new(), Sink::default());
        let background = sink.background(&vitals);
        std::thread::sleep(LIMIT * 2);
        assert_eq!(vitals.stalled(), None, "an idle log thread is not stalled");

        let shut = lock(&sink.gate);
        let sent = 3 * QUEUE_MAX;
        for number in 0..sent {
            background.send(Entry::Line(number.to_string()));
        }
        let before = clock::monotonic();
        drop(FlushGuard { background: Some(background.clone()) });
        assert!(clock::monotonic() - before < FLUSH_TIMEOUT * 5, "nor is the exit");
        std::thread::sleep(LIMIT * 2);
        assert_eq!(vitals.stalled(), None, "a blocked log thread is exempt from the watchdog");
        drop(shut);
        while background.counts.pending.load(Ordering::Acquire) > 0 {
            std::thread::sleep(FLUSH_POLL);
        }
        let lines = lock(&sink.lines);
        let (reports, written): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with('{'));
        let numbers: Vec<usize> = written.iter().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.iter().take(QUEUE_MAX).copied().eq(0..QUEUE_MAX), "all that fit into the queue: {numbers:?}");
        // If the thread took its first entry only after the queue was full, a later one fitted in.
        assert!(numbers.is_sorted(), "in order: {numbers:?}");
        let [report] = reports.as_slice() else { panic!("{reports:?}") };
        assert!(report.contains(&format!("\"events\":{}}}", sent - written.len())), "{report} of {}", written.len());
        assert!(report.contains("\"level\":\"warn\"") && written.len() >= QUEUE_MAX, "{report}");
    }

    #[test]
    fn a_queued_event_keeps_its_typed_fields_has_them_in_its_message_and_is_written_before_exit() {
        let log = || info!(target: "x", text = "a b", shown = %1.5, count = 2_u64, less = -1_i64, part = 0.5, yes = true, "m");
        let sink = Sink::default();
        let background = sink.background(&Vitals::new());
        let guard = FlushGuard { background: Some(background.clone()) };
        with_default(tracing_subscriber::registry().with(Handover(background)), log);
        drop(guard);
        let again = lock(&sink.lines).clone();

        let direct = Sink::default();
        with_default(tracing_subscriber::registry().with(Lines::new(Form::Json, direct.write())), log);
        let without_time = |lines: &[String]| lines.iter().map(|line| line[40..].to_owned()).collect::<Vec<_>>();
        let (again, direct) = (without_time(&again), without_time(&lock(&direct.lines)));
        let [line] = again.as_slice() else { panic!("{again:?}") };
        let words = r#""message":"m text=\"a b\" shown=1.5 count=2 less=-1 part=0.5 yes=true""#;
        assert_eq!(line.replace(words, r#""message":"m""#), direct[0]);
        assert!(line.contains(words), "{line}");
    }
}
