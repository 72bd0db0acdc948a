//! How a member measures: a page to read, without code.
//!
//! A member of a ring of a thousand makes fifty probes a second, for years, on a host that has other work to do. What it says
//! must be exact though the host is busy, even though a part of the ring is dead, and cheap enough that nobody asks what it
//! costs. This page says how; the figures are in the performance page (`tests/bench/README.md`), each with the command that
//! measures it again.
//!
//! # Three threads
//!
//! | thread | its one job | what it never does |
//! | --- | --- | --- |
//! | `netring-probe` | starts probes when they are due and sees them end ([`prober`](super::prober)) | wait for whoever reads what it found, make text, speak to the registry |
//! | `netring-serve` | takes in reports and keeps the [`board`](super::board), answers `/health` and `/metrics` | make text, wait for anything but the board |
//! | `netring-control` | talks to the registry and tells the other two who is to be probed | measure |
//!
//! The probe thread is told what to probe through a `watch` channel, where only the latest word counts, and says what it found
//! through a bounded one. A report that finds no room is dropped and counted (`netring_reports_dropped_total`): a prober that
//! waited for its listener would measure the listener. Everything else (looking names up, making the text of a scrape,
//! telling systemd) has threads of its own that come and go.
//!
//! # The schedule
//!
//! [`Schedule`](crate::probe::schedule::Schedule) is a plain value that is told the time. Each target has a phase: a share of the
//! interval that follows by a hash from who probes what, so that it is the same after a restart and differs between members.
//! Turn *k* is due at `start + phase + k * interval` on the monotonic clock, whatever became of turn *k - 1*: nothing bursts
//! when many targets join at once, nothing drifts, and a target that times out moves no other. To sleep one interval *after* each
//! probe would do all three, and would hide the worst times, because a slow target would be asked less often.
//!
//! A turn is started when it is due or not at all. It is skipped, and counted in `netring_checks_skipped_total`, while the
//! target's last probe still runs (`overlap`), while as many probes are in flight as `checks.max_in_flight` allows (`limit`;
//! half of the descriptor limit unless set), or where it is noticed more than two seconds late (`late`). Nothing is made up for.
//!
//! # Two times for each connection
//!
//! A connection has a time by our clock, from the call to the moment this process noticed that it was made, and a time by the
//! kernel's: the round trip of the SYN, from `TCP_INFO` (tcp(7)), taken where the segments come and go. On an idle host they
//! differ by the cost of a wake-up. On a busy one ours holds whatever else ran meanwhile; the kernel's does not move.
//!
//! * `netring_rtt_seconds` is the kernel's, where it is sound. It is absent where a SYN had to be sent again, because the
//!   kernel then measures with the grain of a millisecond, and where it is longer than all the time we waited, which is how
//!   the same coarse path shows without a retransmit.
//! * A lost SYN is sent again after a second. That second says how long the kernel waits, and nothing of the path; so it is
//!   counted as a packet lost (`netring_syn_retransmits_total`) beside being a slow success.
//! * `netring_probe_overhead_seconds` is ours less the kernel's: what this member added. When it grows, this host is busy, and
//!   `netring_check_duration_seconds` and the phases of HTTP probes are too long by as much.
//!
//! # Whose fault it is
//!
//! A probe that fails says something about the peer only if this host did its part. It did not where a system call said so at
//! once (no descriptors, no route, no port), where the interface that the probe went out by had no carrier
//! ([`Network`](crate::host::network::Network)), or where the probe thread stood still for more than a tenth of the probe's time
//! limit while it ran. The thread knows that because it always sleeps with an alarm set, a tenth of a second ahead at most
//! while probes are in flight: what it wakes late by, it stood still (`netring_standstill_seconds_total`).
//!
//! Such failures have the kind `local`. They are counted, and move no state: after two intervals and a little without another
//! word the target is unknown. What the peer itself has said stands whatever happened meanwhile: a success, though its times
//! are left out, and a refusal. Where such trouble is more than one target's, [`Health`](super::health::Health) calls the
//! member itself unwell: `netring_local_health` is 0, and `/health`, the status line and the log say why.
//!
//! # Snapshot and page
//!
//! A scrape is answered in two steps. The [`board`](super::board) is copied into a snapshot, which takes a few milliseconds for
//! ten thousand peers; figures are copied, everything else is shared. From the snapshot the text is written, with nobody
//! waiting, on a thread that ends with it. The page is given to everybody who asks within a quarter of a second, and compressed
//! once where somebody wants that. The families that grow with the ring are written directly, because a registry of gauges
//! takes ten times as long; those of the process come from the `prometheus` crate.
//!
//! # What it costs
//!
//! | what | how it grows |
//! | --- | --- |
//! | processor time | with probes a second: three for each peer and interval by default. Half of it is the kernel's |
//! | memory | with targets: state, labels, the schedule's queue; for a moment with the text of a scrape |
//! | descriptors | with probes in flight: dead peers times time limit, divided by the interval |
//! | series | 28 for a peer at a location of its own, 11 for another one there |
