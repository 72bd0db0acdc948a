//! The log's own thread: whoever has something to say is never held up by whoever is to take it.
//!
//! A journal that hangs and a pipe that nobody reads both stop who writes to them. Here that is the thread `netring-log`
//! alone. What is said meanwhile waits in a bounded queue; what finds no room is counted, and the count is said as soon as
//! something is taken again. At the end [`LastWords`] waits a moment for what is still on its way.

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

use super::lines::in_words;

/// How many events may wait: some seconds of a daemon that has a lot to say, and some hundred kB.
const QUEUE_MAX: usize = 1000;

/// How long the last words may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long between two looks at whether they have been.
const LOOK: Duration = Duration::from_millis(1);

/// How many fields an event can have, by `tracing`'s own limit.
const FIELDS_MAX: usize = 32;

/// The way to the thread.
#[derive(Clone, Debug)]
pub(super) struct Background {
    queue: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Handed over and not written yet.
    pending: AtomicU64,
    /// Found no room, and nobody has been told.
    dropped: AtomicU64,
}

/// What the thread's own subscriber writes by.
pub(super) type Direct = Box<dyn Layer<Layered<LevelFilter, Registry>> + Send + Sync>;

/// One event on its way.
pub(super) enum Entry {
    /// As the line that it is on stderr.
    Line(String),
    /// As it was said, for the journal.
    Event(Recorded),
}

impl Background {
    /// Starts the thread, which gives lines to `write` and events to what it has from `open`; what it has to say itself goes
    /// there too. To open a journal that hangs takes as long as to write to it.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
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
            // The level is that of the thread's own words. What has been let through to it is not asked again, and nobody
            // else is asked for more than the log's own level.
            let direct = tracing_subscriber::registry().with(LevelFilter::WARN).with(open());
            with_default(direct, || write_all(&inbox, &shared, &pulse, write));
        })?;
        Ok(Self { queue, counts })
    }

    /// Hands an entry over, where there is room for it.
    pub(super) fn put(&self, entry: Entry) {
        self.counts.pending.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(entry).is_err() {
            self.counts.pending.fetch_sub(1, Ordering::AcqRel);
            self.counts.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The thread's life. It is not missed while something is being written: no restart makes a journal take it.
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
            Entry::Event(event) => event.say_again(),
        }
        let events = counts.dropped.swap(0, Ordering::AcqRel);
        if events > 0 {
            tracing::warn!(events, "the log did not keep up: events were dropped");
        }
        counts.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Held until the end of the daemon: waits a moment for what has been said to be written.
#[derive(Debug)]
pub struct LastWords {
    pub(super) background: Option<Background>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let Some(Background { counts, .. }) = &self.background else { return };
        let deadline = clock::monotonic() + LAST_WORDS;
        while counts.pending.load(Ordering::Acquire) > 0 && clock::monotonic() < deadline {
            std::thread::sleep(LOOK);
        }
    }
}

/// Hands each event over as it was said.
pub(super) struct Handover(pub(super) Background);

impl<S: Subscriber> Layer<S> for Handover {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.put(Entry::Event(Recorded::of(event)));
    }
}

/// An event with values of its own, so that it can be said again on another thread.
pub(super) struct Recorded {
    metadata: &'static Metadata<'static>,
    values: Vec<(Field, Box<dyn Value + Send>)>,
}

impl Recorded {
    fn of(event: &Event<'_>) -> Self {
        let mut recorded = Self { metadata: event.metadata(), values: Vec::new() };
        event.record(&mut recorded);
        // Who reads the journal sees the message and no fields.
        if let Some((_, message)) = recorded.values.iter_mut().find(|(field, _)| field.name() == "message") {
            *message = Box::new(display(in_words(event)));
        }
        recorded
    }

    fn say_again(&self) {
        let Some((any, _)) = self.values.first() else { return };
        // A field without a value is none.
        let mut values: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(any, None); FIELDS_MAX];
        for (place, (field, value)) in values.iter_mut().zip(&self.values) {
            *place = (field, Some(value.as_ref()));
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

/// To stderr. Where that is gone there is nobody left to tell.
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

    /// What takes lines, unless its gate is shut.
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

        /// As the thread writes them, in JSON.
        fn background(&self, vitals: &Vitals) -> Background {
            let direct = Lines::new(Form::Json, self.write());
            Background::start(vitals.add("log", LIMIT), || Box::new(direct), self.write()).unwrap()
        }
    }

    #[test]
    fn nobody_is_held_up_by_a_log_that_takes_nothing_and_what_it_missed_is_counted() {
        let (vitals, sink) = (Vitals::new(), Sink::default());
        let background = sink.background(&vitals);
        std::thread::sleep(LIMIT * 2);
        assert_eq!(vitals.stalled(), None, "there is nothing to be written");

        let shut = lock(&sink.gate);
        let said = 3 * QUEUE_MAX;
        for number in 0..said {
            background.put(Entry::Line(number.to_string()));
        }
        let before = clock::monotonic();
        drop(LastWords { background: Some(background.clone()) });
        assert!(clock::monotonic() - before < LAST_WORDS * 5, "the end is not held up either");
        std::thread::sleep(LIMIT * 2);
        assert_eq!(vitals.stalled(), None, "no restart makes it take anything");
        drop(shut);
        while background.counts.pending.load(Ordering::Acquire) > 0 {
            std::thread::sleep(LOOK);
        }
        let lines = lock(&sink.lines);
        let (words, written): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with('{'));
        assert!(
            written.iter().enumerate().all(|(number, line)| number.to_string() == **line),
            "in order, from the first"
        );
        let [word] = words.as_slice() else { panic!("{words:?}") };
        assert!(word.contains(&format!("\"events\":{}}}", said - written.len())), "{word} of {}", written.len());
        assert!(word.contains("\"level\":\"warn\"") && written.len() >= QUEUE_MAX, "{word}");
    }

    #[test]
    fn an_event_that_is_said_again_tells_all_has_typed_fields_and_is_written_before_the_end() {
        let say = || info!(target: "x", text = "a b", shown = %1.5, count = 2_u64, less = -1_i64, part = 0.5, yes = true, "m");
        let sink = Sink::default();
        let background = sink.background(&Vitals::new());
        let last_words = LastWords { background: Some(background.clone()) };
        with_default(tracing_subscriber::registry().with(Handover(background)), say);
        drop(last_words);
        let again = lock(&sink.lines).clone();

        let direct = Sink::default();
        with_default(tracing_subscriber::registry().with(Lines::new(Form::Json, direct.write())), say);
        let without_time = |lines: &[String]| lines.iter().map(|line| line[40..].to_owned()).collect::<Vec<_>>();
        let (again, direct) = (without_time(&again), without_time(&lock(&direct.lines)));
        let [line] = again.as_slice() else { panic!("{again:?}") };
        let words = r#""message":"m text=\"a b\" shown=1.5 count=2 less=-1 part=0.5 yes=true""#;
        assert_eq!(line.replace(words, r#""message":"m""#), direct[0]);
        assert!(line.contains(words), "{line}");
    }
}
