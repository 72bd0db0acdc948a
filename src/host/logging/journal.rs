//! Writes events to the journal by its native protocol.
//!
//! The `tracing-journald` crate puts a prefix before the name of every field, which keeps our fields apart from those of the
//! journal. `MESSAGE_ID` must not have the prefix. A layer can add fixed fields without it, so there is one layer for each
//! kind of event with a `MESSAGE_ID`, and one for all other events.

use std::fmt::Debug;
use std::io;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::events::{KIND, KINDS};

/// Writes each event to the journal.
pub(super) struct Journal {
    plain: tracing_journald::Layer,
    /// In the order of [`KINDS`].
    kinds: Vec<tracing_journald::Layer>,
}

impl Journal {
    /// Connects to the journal of this host as the daemon of this role.
    ///
    /// # Errors
    ///
    /// The journal's socket cannot be opened.
    pub(super) fn open(role: &str) -> io::Result<Self> {
        let layer = |info| -> io::Result<tracing_journald::Layer> {
            let priorities = PriorityMappings { info, debug: Priority::Debug, ..PriorityMappings::new() };
            let layer = tracing_journald::layer()?;
            let layer = layer.with_field_prefix(Some("NETRING".into())).with_priority_mappings(priorities);
            Ok(layer.with_syslog_identifier(format!("netring-{role}")))
        };
        // The end of a problem that was worth an alert is a notice, not merely informational.
        let kinds = KINDS.iter().map(|kind| Ok(layer(Priority::Notice)?.with_custom_fields([("MESSAGE_ID", kind.id)])));
        Ok(Self { plain: layer(Priority::Informational)?, kinds: kinds.collect::<io::Result<_>>()? })
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.plain.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.plain.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut kind = KindOf(None);
        if event.metadata().fields().field(KIND).is_some() {
            event.record(&mut kind);
        }
        let layer = kind.0.and_then(|kind| self.kinds.get(kind)).unwrap_or(&self.plain);
        layer.on_event(event, context);
    }
}

/// The index of an event's kind in [`KINDS`].
struct KindOf(Option<usize>);

impl Visit for KindOf {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == KIND {
            self.0 = KINDS.iter().position(|kind| kind.name == value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
