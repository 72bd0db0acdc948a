//! netring monitors, from every site, whether every other site can be reached, how fast, and why not.
//!
//! One *registry* keeps the roster of members; one *member* at each site probes all the others and exports Prometheus
//! metrics. Both are in this crate and in one binary. This page is the map; each module's own page says what it does and what
//! it guarantees.
//!
//! # Modules
//!
//! | module | its purpose |
//! | --- | --- |
//! | [`command`] | the command line: one table of commands, one file per command |
//! | [`registry`] | the registry daemon: keeps the roster, in an embedded store or in Redis |
//! | [`member`] | the member daemon: follows the roster, probes the peers, exports the results |
//! | [`serve`] | the HTTP server: limits, timeouts, errors, the metrics text format |
//! | [`host`] | access to the host: systemd, signals, log, state directory, own addresses |
//! | [`config`] | reads YAML and environment variables into checked values, and reports all errors at once |
//! | [`probe`] | a single measurement with its phases; the schedule of all probes (pure) |
//! | [`wire`] | the messages on the network; checked names and addresses |
//! | [`clock`] | monotonic and wall-clock time; the only module that reads a clock |
//!
//! **Dependencies point down** that table: a module uses only modules below it, and `registry` and `member` share only `wire`.
//! Code that decides is *pure* and separate from code that waits. These modules are plain values: [`registry::roster`];
//! [`member::membership`], [`member::session`], [`member::peers`], [`member::plan`], [`member::judge`], [`member::memory`],
//! [`member::health`], [`member::board`]; [`probe::schedule`] and [`probe::stats`]. They get the time as an argument and read
//! no clock, so `tests/simulation.rs` can run a whole ring of them on one virtual clock. `tests/house.rs` enforces both rules.
//!
//! # Vocabulary
//!
//! A *location* is the label of a site; many *instances* may share one. An instance is one *member*, identified by an id that
//! it keeps after a restart. The registry's *roster* is the list of live members at one *revision*. A member is on the roster
//! while it holds a *lease*. A *heartbeat* renews the lease, which ends `member_ttl` after the last heartbeat. A *peer* is
//! another member, as seen by this one. A *target* is what a *probe* measures: a peer, a kind of check and, for HTTP, an
//! endpoint. The *outcome* of a probe is success with timings, or failure with a reason.
//!
//! # Example: a heartbeat, from socket to metric
//!
//! 1. The member's control thread asks its [`Membership`](member::membership::Membership) what is due on the lease lane. The
//!    [`Session`](member::session::Session) in it decides: [`Session::lease`](member::session::Session::lease) returns
//!    `Do(ticket, Heartbeat)`. The worker thread `netring-lease` sends `POST /heartbeat` with
//!    [`RegistryClient`](member::client::RegistryClient), and the control thread goes on. A request for the roster may be
//!    waiting at the registry at the same time, in the worker thread `netring-roster`.
//! 2. At the registry, [`serve::run`] accepts the connection, limits the size of head and body and the time, and passes the
//!    request to the routes of [`registry::api`], which parse it with
//!    [`Identification::from_json`](wire::Identification::from_json). An invalid id is answered here with a 400 that names the
//!    field.
//! 3. The [`Directory`](registry::directory::Directory) passes the heartbeat to the [`Store`](registry::store::Store). The
//!    embedded store renews the lease in its [`Roster`](registry::roster::Roster) with `renew(id, now, wall)`; Redis does the
//!    same in one script and one round trip. The revision does not change: nobody joined or left, so no other member needs a
//!    new roster, and the long polls of the others keep waiting.
//! 4. The registry answers. The worker sends the answer to the control thread, with the ticket of the request.
//!    `Membership::on_lease(ticket, Renewed, now, jitter)` schedules the next heartbeat 45 s after this one was due. An answer
//!    whose ticket is no longer valid, because the registry's address was changed in the meantime, is ignored. After a 404 the
//!    session would register again at once, and [`Peers`](member::peers::Peers) would hold the peers that are missing from the
//!    next rosters.
//! 5. The control thread notes on the member's [`Board`](member::board::Board) that the registry is up. The next scrape of the
//!    member shows `netring_registry_up 1`; the next scrape of the registry shows
//!    `netring_registry_requests_total{route="/heartbeat"}` incremented; and a full answer to `GET /members` has the new
//!    `last_seen`.
//!
//! # Threads of a member
//!
//! A member has three main threads, and worker threads for what may block, so that neither HTTP clients nor the registry can
//! delay a probe; [`member::engine`] explains them. A probe in short: the [`Schedule`](probe::schedule::Schedule) returns a
//! turn when it is due, [`probe::run`] makes the measurement, the [`Prober`](member::prober::Prober) sends a report over a
//! bounded channel, the service thread passes it to the board, [`judge`](member::judge::judge) decides whose failure it is, and
//! `/metrics` is generated from the board.

pub mod clock;
pub mod command;
pub mod config;
pub mod host;
pub mod member;
pub mod probe;
pub mod registry;
pub mod serve;
pub mod wire;
