//! netring tells, from every site, whether every other site can be reached, how fast, and why not.
//!
//! One *registry* knows who is in the ring; one *member* at each site probes all the others and exports Prometheus
//! metrics. Both are this crate, behind one binary. This page is the map; each room says at its own door what it promises.
//!
//! # The house
//!
//! | room | its one job |
//! | --- | --- |
//! | [`command`] | the command line: one table of commands, one file for each |
//! | [`registry`] | the registry daemon: who is in the ring, in an embedded store or in Redis |
//! | [`member`] | the member daemon: follow the ring, probe it, say what was seen |
//! | [`serve`] | answering HTTP safely: limits, time, errors, the metrics text |
//! | [`host`] | the machine underneath: systemd, signals, log, state directory, own address |
//! | [`config`] | YAML and environment to checked values, every fault named at once |
//! | [`probe`] | one measurement with its phases; the pure schedule of many |
//! | [`wire`] | what crosses the network; names and addresses that have been checked |
//! | [`clock`] | monotonic and wall time, apart; the one place that reads either |
//!
//! **Arrows point down** that table: a room uses what stands below it, and `registry` and `member` meet only in `wire`. What
//! decides is pure and apart from what waits: [`registry::roster`], [`member::session`], [`member::peers`],
//! [`member::board`], [`member::health`], [`probe::schedule`] and [`probe::stats`] are plain values that are told the time and read no clock, so
//! `tests/simulation.rs` runs a whole ring of them on one virtual clock. `tests/house.rs` holds both rules.
//!
//! # The words
//!
//! A *location* is a site's label; many *instances* may share one. An instance is one *member*, by an id that it keeps over
//! restarts. The registry's *roster* lists live members at one *revision*. A member is on it while it holds a *lease*, which
//! a *heartbeat* renews and which ends `member_ttl` after the last one. A *peer* is another member as this one sees it. A
//! *target* is what a *probe* aims at: a peer, a kind of check, for HTTP an endpoint. A probe's *outcome* is success with
//! timings or a failure with a reason.
//!
//! # One worked path: a heartbeat, from socket to metric
//!
//! 1. The member's control thread asks its [`Session`](member::session::Session) what is due. `next` says
//!    `Do(Heartbeat)`; the thread sends `POST /heartbeat` by [`RegistryClient`](member::client::RegistryClient).
//! 2. At the registry [`serve::run`] accepts the connection, bounds head, body and time, and hands the request to the
//!    routes of [`registry::api`], which read it with [`Identification::from_json`](wire::Identification::from_json): a
//!    bad id ends here as a 400 that names the field.
//! 3. The [`Directory`](registry::directory::Directory) passes it to the [`Store`](registry::store::Store). The embedded
//!    one renews the lease in its [`Roster`](registry::roster::Roster), `renew(id, now, wall)`; Redis does the same in one
//!    script, one round trip. The revision stays: nobody joined or left, so no other member has to be told.
//! 4. The answer travels back. `Session::on_reply(Heartbeat, Renewed, now, ..)` sets the next one 45 s after the last was
//!    due. Had the answer been 404, the session would register again at once, and
//!    [`Peers`](member::peers::Peers) would hold on to the peers meanwhile.
//! 5. The member's [`Board`](member::board::Board) notes that the registry is well. The next scrape of the member shows
//!    `netring_registry_up 1`; one of the registry shows its `netring_registry_requests_total{route="/heartbeat"}` one
//!    higher; and whoever asks `GET /members` in full sees the new `last_seen`.
//!
//! # A member's threads
//!
//! Three, so that nothing it does for others can make a probe late: [`member::engine`] explains them. A probe's life in short: the
//! [`Schedule`](probe::schedule::Schedule) hands out a turn when it is due, [`probe::run`] makes the measurement, the
//! [`Prober`](member::prober::Prober) sends a report over a bounded channel, and the service thread adds it to the board,
//! where scrapes read it.

pub mod clock;
pub mod command;
pub mod config;
pub mod host;
pub mod member;
pub mod probe;
pub mod registry;
pub mod serve;
pub mod wire;
