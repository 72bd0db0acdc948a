//! The control thread: makes the requests that the membership asks for, and passes on what the registry says.
//!
//! It decides nothing by itself ([`Membership`] does) and waits for nothing but its inbox: requests of the lease lane and of the
//! roster lane are made by a worker thread each ([`worker`]), because the registry client blocks; the disk is written by a third
//! ([`kept`]). So a registry that hangs on one sort of request delays neither the other nor a reload, and a disk that hangs
//! delays nothing.
//!
//! Its parts: [`ring`] tells board and prober who is in the ring, [`own_address`] finds the address to register, [`trouble`]
//! logs how it stands with the registry.

mod kept;
mod own_address;
mod ring;
mod trouble;
mod worker;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::clock;
use crate::config::MemberSettings;
use crate::host::logging::events;
use crate::host::network::Network;
use crate::host::state::StateDir;
use crate::host::vitals::{Pulse, Vitals};
use crate::wire::{InstanceId, Registration};

use super::board::{Board, RegistrySight};
use super::client::{ClientError, Heartbeat, RegistryClient, RosterReply};
use super::lock;
use super::membership::{LeaseAnswer, Membership, News, Poll, RosterAnswer};
use super::peers::Change;
use super::prober::Prober;
use super::session::{Action, LeaseRequest, Pace, Ticket};
use kept::Kept;
use own_address::Advertised;
use ring::Ring;
use trouble::{Request, Trouble};
use worker::Worker;

/// How often the thread shows that it is alive, lets go of peers it held, and looks whether addresses of this host changed.
const TURN: Duration = Duration::from_secs(1);

/// How long leaving the roster may take at the end.
const FAREWELL: Duration = Duration::from_millis(600);

/// How long the end waits for the disk to take the last roster.
const FLUSH: Duration = Duration::from_millis(100);

/// How long a vital thread may take over one turn, requests under way excepted.
const TURN_MAX: Duration = Duration::from_secs(10);

/// A suspend of the host shorter than this is no matter for the lease.
const SUSPEND_MIN: Duration = Duration::from_secs(1);

/// What the control thread is told.
enum Event {
    /// A request of the lease lane has ended.
    Lease(Ticket, LeaseRequest, Result<LeaseAnswer, ClientError>),
    /// A request for the roster has ended.
    Roster(Ticket, Result<RosterReply, ClientError>),
    /// Somebody wants to know whether the roster is still true.
    Ask(Question),
    /// Take up other settings, and say when that is done.
    Reload(Arc<MemberSettings>, Sender<()>),
    /// End; leave the roster first where asked to.
    Stop { deregister: bool },
}

/// What is asked of the registry out of turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// Who is in the ring?
    Roster,
    /// Is it there?
    SignOfLife,
}

/// Asks the registry out of turn.
#[derive(Clone)]
pub(super) struct Asker(Sender<Event>);

impl Asker {
    /// Has the registry asked soon. Nothing comes back here; what it answers shows on the board.
    pub(super) fn ask(&self, question: Question) {
        // A control thread that has ended asks nobody any more.
        let _ = self.0.send(Event::Ask(question));
    }
}

/// The inbox of a control thread that is still to be started.
pub(super) struct Inbox {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }

    pub(super) fn asker(&self) -> Asker {
        Asker(self.sender.clone())
    }
}

/// The control thread, from outside.
pub(super) struct Control {
    inbox: Sender<Event>,
    thread: JoinHandle<()>,
}

/// What the control thread works with.
pub(super) struct Parts {
    pub(super) settings: Arc<MemberSettings>,
    pub(super) me: InstanceId,
    /// Where this member listens, whatever the settings say by now.
    pub(super) listening: SocketAddr,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) prober: Arc<Prober>,
    pub(super) network: Network,
    pub(super) state: Option<StateDir>,
    pub(super) vitals: Vitals,
}

impl Control {
    /// Starts the thread. It begins with the roster of the last run, then registers.
    pub(super) fn start(parts: Parts, inbox: Inbox) -> io::Result<Self> {
        let Inbox { sender, receiver } = inbox;
        let driver = Driver::new(parts, sender.clone())?;
        let thread = std::thread::Builder::new().name("netring-control".into()).spawn(move || driver.run(&receiver))?;
        Ok(Self { inbox: sender, thread })
    }

    /// Takes other settings, and waits for the thread to take them up, at most `within`. Returns whether it has; otherwise
    /// it will.
    pub(super) fn reload(&self, settings: Arc<MemberSettings>, within: Duration) -> bool {
        let (done, taken_up) = channel();
        // The thread ends only when told to, by the last call this handle ever gets.
        let _ = self.inbox.send(Event::Reload(settings, done));
        taken_up.recv_timeout(within).is_ok()
    }

    /// Tells the thread to end, breaking off requests under way, after it has deregistered this member where that is asked for.
    pub(super) fn begin_stop(&self, deregister: bool) {
        let _ = self.inbox.send(Event::Stop { deregister });
    }

    /// Waits for the thread to end, at most until then. Returns whether it has ended.
    pub(super) fn wait_for_end(&self, deadline: Instant) -> bool {
        while !self.thread.is_finished() && clock::monotonic() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.thread.is_finished()
    }

    /// Waits for the thread that was told to end, at most until then.
    pub(super) fn stop(self, deadline: Instant) {
        if self.wait_for_end(deadline) {
            let _ = self.thread.join();
        } else {
            debug!("stopping while a request to the registry is still under way");
        }
    }
}

struct Driver {
    settings: Arc<MemberSettings>,
    me: InstanceId,
    listening: SocketAddr,
    board: Arc<Mutex<Board>>,
    network: Network,
    pulse: Pulse,
    /// For the thread that looks up the registry's name.
    vitals: Vitals,
    inbox: Sender<Event>,
    lease_client: RegistryClient,
    lease: Worker,
    roster_client: RegistryClient,
    roster: Worker,
    membership: Membership,
    ring: Ring,
    kept: Option<Kept>,
    trouble: Trouble,
    /// What [`clock::suspended`] was at the last turn.
    suspended: Duration,
}

impl Driver {
    fn new(parts: Parts, inbox: Sender<Event>) -> io::Result<Self> {
        let Parts { settings, me, listening, board, prober, network, state, vitals } = parts;
        let lease_client = RegistryClient::new(&settings.registry, &vitals);
        let now = clock::monotonic();
        Ok(Self {
            membership: Membership::new(me.clone(), pace(&settings), hold(&settings), now),
            ring: Ring::new(Arc::clone(&board), prober, network.clone(), listening),
            kept: state.map(|state| Kept::start(state, &vitals)).transpose()?,
            trouble: Trouble::default(),
            lease: lease_worker(&vitals)?,
            roster: roster_worker(&vitals)?,
            roster_client: lease_client.with_timeout(settings.registry.timeout),
            lease_client,
            pulse: vitals.add("control loop", TURN_MAX),
            vitals,
            inbox,
            board,
            network,
            listening,
            me,
            settings,
            suspended: clock::suspended(),
        })
    }

    fn run(mut self, inbox: &Receiver<Event>) {
        // The disk may hang.
        self.pulse.mark_away();
        self.recall();
        loop {
            self.pulse.mark();
            let wake = self.turn();
            match inbox.recv_timeout(wake.saturating_duration_since(clock::monotonic())) {
                Ok(Event::Lease(ticket, request, answer)) => self.on_lease(ticket, request, answer),
                Ok(Event::Roster(ticket, answer)) => self.on_roster(ticket, answer),
                Ok(Event::Ask(question)) => self.on_question(question),
                Ok(Event::Reload(settings, done)) => {
                    self.reload(settings);
                    let _ = done.send(());
                }
                Ok(Event::Stop { deregister }) => return self.leave(deregister),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what is due, and says when to look again.
    fn turn(&mut self) -> Instant {
        let now = clock::monotonic();
        let suspended = clock::suspended();
        if suspended.saturating_sub(mem::replace(&mut self.suspended, suspended)) >= SUSPEND_MIN {
            info!("the host was suspended: asking the registry for lease and roster at once");
            self.membership.resumed(now);
            self.lease_client.shutdown();
            self.roster_client.shutdown();
            self.renew_clients();
        }
        let settled = self.membership.settle(now);
        if !settled.is_empty() {
            self.follow(&settled);
        }
        self.ring.look_at_own_addresses(self.membership.peers(), &self.settings, now);
        let mut wake = now + TURN;
        match self.membership.lease(now) {
            Action::Do(ticket, request) => self.send_lease(ticket, request),
            Action::WaitUntil(at) => wake = wake.min(at),
            Action::UnderWay => {}
        }
        match self.membership.poll(now) {
            Action::Do(ticket, poll) => self.send_poll(ticket, poll),
            Action::WaitUntil(at) => wake = wake.min(at),
            Action::UnderWay => {}
        }
        wake
    }

    fn send_lease(&self, ticket: Ticket, request: LeaseRequest) {
        let (client, me, inbox) = (self.lease_client.clone(), self.me.clone(), self.inbox.clone());
        let (location, registered) = (self.settings.location.clone(), self.membership.registered());
        let advertised = self.advertised();
        let timeout = self.settings.registry.timeout;
        // Looking the name up, trying its addresses, and the request may take their time each.
        self.lease.run(timeout * 4, move || {
            let answer = renew(&client, &me, request, registered, &advertised, timeout, |address| Registration {
                instance_id: Some(me.clone()),
                location,
                ip: address.ip(),
                port: own_address::port(address),
            });
            let _ = inbox.send(Event::Lease(ticket, request, answer));
        });
    }

    fn send_poll(&self, ticket: Ticket, Poll { etag, wait }: Poll) {
        let (client, inbox) = (self.roster_client.clone(), self.inbox.clone());
        self.roster.run(wait + self.settings.registry.timeout * 3, move || {
            let answer = client.members(etag.as_deref(), wait);
            let _ = inbox.send(Event::Roster(ticket, answer));
        });
    }

    fn on_lease(&mut self, ticket: Ticket, request: LeaseRequest, answer: Result<LeaseAnswer, ClientError>) {
        let now = clock::monotonic();
        let (answer, problem) = match answer {
            Ok(answer) => (answer, None),
            Err(problem) => (LeaseAnswer::Failed, Some(problem)),
        };
        let Some(news) = self.membership.on_lease(ticket, answer, now, fastrand::f64()) else { return };
        if answer == LeaseAnswer::Unknown {
            info!("the registry does not know this member any more, registering again");
        }
        self.take_in(news);
        let request = match request {
            LeaseRequest::Register => Request::Registration,
            LeaseRequest::Heartbeat => Request::Heartbeat,
        };
        self.note_registry(request, problem, now);
    }

    fn on_roster(&mut self, ticket: Ticket, answer: Result<RosterReply, ClientError>) {
        let now = clock::monotonic();
        let (answer, problem) = match answer {
            Ok(RosterReply { changed: Some((roster, etag)), stale }) => {
                (RosterAnswer::Full { roster, etag, age: stale }, None)
            }
            Ok(RosterReply { changed: None, stale }) => (RosterAnswer::Unchanged { age: stale }, None),
            Err(ClientError::NoRoom) => (RosterAnswer::NoRoom, None),
            Err(problem) => (RosterAnswer::Failed, Some(problem)),
        };
        let Some(news) = self.membership.on_roster(ticket, answer, now, fastrand::f64()) else { return };
        self.take_in(news);
        self.note_registry(Request::Roster, problem, now);
    }

    fn on_question(&mut self, question: Question) {
        let now = clock::monotonic();
        match question {
            Question::Roster => self.membership.ask_now(now),
            Question::SignOfLife => {
                self.membership.ask_now(now);
                self.membership.renew_now(now);
            }
        }
    }

    /// Logs and passes on what an answer of the registry changed.
    fn take_in(&mut self, news: News) {
        let News { roster, holds, registered, duplicate, unusable } = news;
        if holds {
            info!(
                "this member was not on the roster any more: its lease ended while the registry was out of reach, or the \
                 registry was emptied and may have lost its roster; peers that are missing from the roster are kept and probed \
                 for a while, and shown as unknown where that fails"
            );
        }
        if let Some(address) = registered {
            info!(location = %self.settings.location, instance = %self.me, %address, "registered");
            if address.ip().is_loopback() {
                warn!(
                    %address,
                    "registered with a loopback address: only members on this host can reach it; for a ring of more \
                     hosts set member.server.advertise_ip, or name the registry by its address in the network"
                );
            }
            self.ring.set_registered(address);
            if roster.is_none() {
                self.follow(&Change::default());
            }
        }
        if let Some(address) = duplicate {
            warn!(
                event = events::IDENTITY_TWICE, location = %self.settings.location, instance = %self.me, %address,
                "another member has the identity of this one, and peers see only one of them"
            );
        }
        if let Some((entries, first)) = unusable.filter(|(entries, _)| *entries > 0) {
            warn!(entries, first, "left out entries of the roster that cannot be used");
        }
        if let Some(change) = roster {
            self.follow(&change);
        }
    }

    /// Follows the roster first and keeps it afterwards, where the peers have changed.
    fn follow(&mut self, change: &Change) {
        self.ring.follow(self.membership.peers(), change, &self.settings);
        if let Some(kept) = &self.kept
            && !change.is_empty()
        {
            kept.keep(self.membership.peers());
        }
    }

    /// Notes on the board and in the log how it stands with the registry.
    fn note_registry(&mut self, request: Request, problem: Option<ClientError>, now: Instant) {
        let up = self.membership.is_well();
        // A request that was kept for a while and then cut off is asked again first.
        let problem = problem.filter(|_| !up);
        let addresses = self.lease_client.addresses().known();
        let on_this_host = !addresses.is_empty() && addresses.iter().all(|at| self.network.is_own(at.ip()));
        // A registry that refuses has been reached. A request for the roster says nothing of the network: its connection may
        // have been made long ago, and what is wrong since then may concern new ones alone.
        let reached = match (request, &problem) {
            (Request::Roster, _) => None,
            (_, problem) => Some(!matches!(problem, Some(ClientError::Unreachable(_)))),
        };
        let reached = reached.filter(|_| !on_this_host);
        let sight = RegistrySight { up, roster_at: self.membership.roster_at() };
        lock(&self.board).note_registry(sight, reached, now);
        let who = (&self.settings.location, &self.me, &*self.settings.registry.url.base);
        self.trouble.note(request, problem, up, now, who);
    }

    /// Begins with the roster of the last run.
    fn recall(&mut self) {
        let now = clock::monotonic();
        if let Some(address) = self.advertised().without_registry() {
            self.ring.set_registered(address);
        }
        let Some(kept) = &self.kept else { return };
        let left = kept.left_in_order(self.lease_client.base());
        let change = self.membership.recall(kept.recall(), left, now);
        if change.is_empty() {
            return;
        }
        info!(
            peers = self.membership.peers().len(),
            "probing the ring as it was known before, until the registry answers"
        );
        self.ring.follow(self.membership.peers(), &Change::default(), &self.settings);
    }

    fn reload(&mut self, settings: Arc<MemberSettings>) {
        let now = clock::monotonic();
        let old = mem::replace(&mut self.settings, settings);
        self.membership.set_pace(pace(&self.settings), hold(&self.settings), now);
        let moved = old.location != self.settings.location || self.advertised() != self.advertised_by(&old);
        let link = &self.settings.registry;
        if old.registry.url != link.url {
            let before = mem::replace(&mut self.lease_client, RegistryClient::new(link, &self.vitals));
            before.shutdown();
            self.roster_client.shutdown();
            self.renew_clients();
            self.renew_workers();
            say_farewell(&before, &self.me, old.registry.timeout);
            self.trouble.another_registry();
            self.membership.start_over(now);
        } else if moved {
            // A request under way would register what is out of date.
            self.lease_client.shutdown();
            self.renew_clients();
            self.membership.register_again(now);
        } else if old.registry.timeout != link.timeout {
            // Requests under way end by the limit that they began with.
            self.renew_clients();
        }
        if old.checks.http_endpoints != self.settings.checks.http_endpoints || moved {
            if let Some(address) = self.advertised().without_registry() {
                self.ring.set_registered(address);
            }
            self.follow(&Change::default());
        }
    }

    /// Workers in the place of those that may still be connecting to the former registry, which cannot be broken off. These end
    /// after what they have to do.
    fn renew_workers(&mut self) {
        for (worker, start) in [(&mut self.lease, lease_worker as fn(&Vitals) -> _), (&mut self.roster, roster_worker)]
        {
            match start(&self.vitals) {
                Ok(new) => *worker = new,
                // The new requests wait for the old ones.
                Err(error) => debug!(%error, "no thread for requests to the new registry"),
            }
        }
    }

    /// Clients of the same registry in the place of those that were shut down.
    fn renew_clients(&mut self) {
        let timeout = self.settings.registry.timeout;
        self.lease_client = self.lease_client.with_timeout(timeout);
        self.roster_client = self.lease_client.with_timeout(timeout);
    }

    fn leave(self, deregister: bool) {
        self.lease_client.shutdown();
        self.roster_client.shutdown();
        // Also where no registration was confirmed: one may have arrived.
        if deregister
            && say_farewell(&self.lease_client, &self.me, self.settings.registry.timeout)
            && let Some(kept) = &self.kept
        {
            kept.note_left(self.lease_client.base());
        }
        if let Some(kept) = &self.kept {
            kept.flush(FLUSH);
        }
    }

    fn advertised(&self) -> Advertised {
        self.advertised_by(&self.settings)
    }

    fn advertised_by(&self, settings: &MemberSettings) -> Advertised {
        Advertised { listening: self.listening, ip: settings.advertise_ip, port: settings.advertise_port }
    }
}

fn lease_worker(vitals: &Vitals) -> io::Result<Worker> {
    Worker::start("netring-lease", "lease worker", vitals)
}

fn roster_worker(vitals: &Vitals) -> io::Result<Worker> {
    Worker::start("netring-roster", "roster worker", vitals)
}

/// Makes one request of the lease lane. A heartbeat becomes a registration where the address of this host has changed.
fn renew(
    client: &RegistryClient,
    me: &InstanceId,
    request: LeaseRequest,
    registered: Option<SocketAddr>,
    advertised: &Advertised,
    timeout: Duration,
    registration: impl FnOnce(SocketAddr) -> Registration,
) -> Result<LeaseAnswer, ClientError> {
    let address = advertised.find(client.addresses(), registered, timeout);
    let address = match (request, address) {
        (LeaseRequest::Register, address) => address?,
        (LeaseRequest::Heartbeat, Ok(address)) if registered != Some(address) => address,
        // A host that got another address would keep a lease on the old one. Where that cannot be known, it has not.
        (LeaseRequest::Heartbeat, _) => {
            return Ok(match client.heartbeat(me)? {
                Heartbeat::Renewed => LeaseAnswer::Renewed,
                Heartbeat::Unknown => LeaseAnswer::Unknown,
            });
        }
    };
    let reply = client.register(&registration(address))?;
    if reply.instance_id != *me {
        let message = format!("it registered this member as {} instead of {me}", reply.instance_id);
        return Err(ClientError::Refused { status: 200, message });
    }
    Ok(LeaseAnswer::Registered { address, known: reply.known.unwrap_or(true) })
}

/// Takes leave of a registry. Returns whether it heard.
fn say_farewell(registry: &RegistryClient, me: &InstanceId, timeout: Duration) -> bool {
    let registry = registry.with_timeout(timeout.min(FAREWELL));
    let heard = registry.deregister(me);
    match &heard {
        Ok(()) => debug!(registry = registry.base(), "left the ring"),
        Err(error) => {
            info!(
                registry = registry.base(), %error,
                "cannot leave the ring in order: the registry will remove this member when its lease ends"
            );
        }
    }
    heard.is_ok()
}

fn pace(settings: &MemberSettings) -> Pace {
    Pace { poll: settings.intervals.poll, heartbeat: settings.intervals.heartbeat }
}

/// How long peers outlast a registry's lost memory: every living member notices within its own poll or heartbeat
/// interval, taken to be like ours, and may need a few attempts.
fn hold(settings: &MemberSettings) -> Duration {
    let slower = settings.intervals.poll.max(settings.intervals.heartbeat);
    slower * 2 + Duration::from_secs(10)
}

#[cfg(test)]
mod tests;
