//! The control thread: carries out what the session asks for, and passes on what the registry says.
//!
//! One thread of its own, because the registry client blocks: a registry that hangs holds up nothing but this thread. It
//! owns the session and the peers; it tells the board and the prober who is to be probed, and keeps the roster in the
//! state directory, so that a member that starts while the registry is away probes the ring it knew.
//!
//! Trouble with the registry is logged when it begins, when its kind changes and when it ends, never on repeat.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::clock;
use crate::config::{Advertise, MemberSettings};
use crate::host::address;
use crate::host::state::StateDir;
use crate::host::vitals::Pulse;
use crate::wire::{InstanceId, Member, Members, MembersReply, Registration};

use super::board::{Board, rough};
use super::client::{ClientError, Heartbeat, RegistryClient};
use super::lock;
use super::peers::{Change, Peers};
use super::prober::Prober;
use super::session::{Action, Reply, Request, Session};

/// The file in the state directory that holds the last roster.
const ROSTER_FILE: &str = "roster.json";

/// How often the thread says that it is alive, and lets go of peers it held.
const TURN: Duration = Duration::from_secs(1);

/// How long leaving the roster may take at the end.
const FAREWELL: Duration = Duration::from_millis(400);

/// What the control thread is told.
enum Command {
    Reload(Arc<MemberSettings>),
    /// End; leave the roster first where asked to.
    Stop {
        deregister: bool,
    },
}

/// The control thread, from outside.
pub(super) struct Control {
    commands: Sender<Command>,
    client: Arc<Mutex<RegistryClient>>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the control thread works with.
pub(super) struct Parts {
    pub(super) settings: Arc<MemberSettings>,
    pub(super) me: InstanceId,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) prober: Arc<Prober>,
    pub(super) state: Option<StateDir>,
    pub(super) pulse: Pulse,
}

impl Control {
    /// Starts the thread. It begins with the roster of the last run, then registers.
    pub(super) fn start(parts: Parts) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let client = Arc::new(Mutex::new(RegistryClient::new(&parts.settings.registry)));
        let ending = Arc::new(AtomicBool::new(false));
        let driver = Driver::new(parts, Arc::clone(&client), Arc::clone(&ending));
        let thread = std::thread::Builder::new().name("netring-control".into()).spawn(move || driver.run(&inbox))?;
        Ok(Self { commands, client, ending, thread })
    }

    /// Takes other settings; what the thread is doing is finished first.
    pub(super) fn reload(&self, settings: Arc<MemberSettings>) {
        // The thread ends only when told to, by the last call this handle ever gets.
        let _ = self.commands.send(Command::Reload(settings));
    }

    /// Ends the thread, breaking off a request under way, and waits for it at most `within`.
    pub(super) fn stop(self, deregister: bool, within: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        let _ = self.commands.send(Command::Stop { deregister });
        lock(&self.client).shutdown();
        let deadline = clock::monotonic() + within;
        while !self.thread.is_finished() && clock::monotonic() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        } else {
            debug!("leaving while a connection to the registry is still being made");
        }
    }
}

/// Trouble with the registry that has been logged and is not over.
struct Trouble {
    since: Instant,
    attempts: u32,
    said: String,
}

struct Driver {
    settings: Arc<MemberSettings>,
    me: InstanceId,
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    state: Option<StateDir>,
    pulse: Pulse,
    shared_client: Arc<Mutex<RegistryClient>>,
    /// Requests are being broken off on purpose: no trouble of the registry's.
    ending: Arc<AtomicBool>,
    client: RegistryClient,
    session: Session,
    peers: Peers,
    etag: Option<String>,
    /// The address of the last registration.
    registered_ip: Option<IpAddr>,
    /// Where another member with this one's identity is.
    double: Option<SocketAddr>,
    trouble: Option<Trouble>,
    unusable: usize,
}

impl Driver {
    fn new(parts: Parts, shared_client: Arc<Mutex<RegistryClient>>, ending: Arc<AtomicBool>) -> Self {
        let Parts { settings, me, board, prober, state, pulse } = parts;
        let client = lock(&shared_client).clone();
        Self {
            session: Session::new(settings.intervals, clock::monotonic()),
            peers: Peers::new(me.clone(), hold(&settings)),
            settings,
            me,
            board,
            prober,
            state,
            pulse,
            shared_client,
            ending,
            client,
            etag: None,
            registered_ip: None,
            double: None,
            trouble: None,
            unusable: 0,
        }
    }

    fn run(mut self, inbox: &Receiver<Command>) {
        self.recall();
        loop {
            self.pulse.mark();
            let now = clock::monotonic();
            let settled = self.peers.settle(now);
            self.follow(&settled);
            let wait = match self.session.next(now) {
                Action::Do(request) => {
                    self.carry_out(request);
                    Duration::ZERO
                }
                Action::WaitUntil(at) => at.saturating_duration_since(now).min(TURN),
            };
            match inbox.recv_timeout(wait) {
                Ok(Command::Reload(settings)) => self.reload(settings),
                Ok(Command::Stop { deregister }) => return self.leave(deregister),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out(&mut self, request: Request) {
        let mut roster = None;
        let answer = match request {
            Request::Register => self.register(),
            Request::Heartbeat => self.heartbeat(),
            Request::Poll => self.poll(&mut roster),
        };
        let (reply, problem) = match answer {
            Ok(reply) => (reply, None),
            Err(ClientError::Unreachable(why)) => (Reply::Unreachable, Some(why)),
            Err(error @ ClientError::Refused { .. }) => {
                (Reply::Refused, Some(format!("{} failed: {error}", name(request))))
            }
        };
        let now = clock::monotonic();
        // First what the answer says of the registry's memory, then the roster: whoever it lacks may be alive.
        if self.session.on_reply(request, reply, now, fastrand::f64()) {
            info!("the registry has forgotten this member, registering again and keeping the peers meanwhile");
            self.peers.registry_forgot(now);
        }
        if let Some(roster) = roster {
            self.take_in(roster, now);
        }
        self.judge(problem, now);
    }

    fn register(&mut self) -> Result<Reply, ClientError> {
        let ip = self.own_address()?;
        let registration = Registration {
            instance_id: Some(self.me.clone()),
            location: self.settings.location.clone(),
            ip,
            port: self.settings.server.port,
        };
        let reply = self.client.register(&registration)?;
        if reply.instance_id != self.me {
            let message = format!("it registered this member as {} instead of {}", reply.instance_id, self.me);
            return Err(ClientError::Refused { status: 200, message });
        }
        if self.registered_ip.replace(ip) != Some(ip) {
            info!(location = %self.settings.location, instance = %self.me, %ip, port = self.settings.server.port, "registered");
        }
        Ok(Reply::Registered { known: reply.known.unwrap_or(true) })
    }

    fn heartbeat(&mut self) -> Result<Reply, ClientError> {
        // A host that got another address would keep a lease on the old one.
        let ip = self.own_address()?;
        if self.registered_ip.is_some_and(|registered| registered != ip) {
            return self.register();
        }
        Ok(match self.client.heartbeat(&self.me)? {
            Heartbeat::Renewed => Reply::Renewed,
            Heartbeat::Unknown => Reply::Unknown,
        })
    }

    /// Asks for the roster; puts it into `roster` where it is another than the last.
    fn poll(&mut self, roster: &mut Option<MembersReply>) -> Result<Reply, ClientError> {
        let answer = self.client.members(self.etag.as_deref())?;
        let now = clock::monotonic();
        lock(&self.board).registry.roster_at = now.checked_sub(answer.stale).unwrap_or(now);
        let Some((members, etag)) = answer.changed else {
            return Ok(Reply::Roster { listed: true });
        };
        let listed = members.members.iter().find(|member| member.instance_id == self.me);
        self.beware_of_double(listed);
        let listed = listed.is_some();
        // A roster without this member is not one to be confirmed by "unchanged".
        self.etag = etag.filter(|_| listed);
        *roster = Some(members);
        Ok(Reply::Roster { listed })
    }

    /// Two members with one identity hide each other: the roster shows whichever registered last.
    fn beware_of_double(&mut self, listed: Option<&Member>) {
        let registered = self.registered_ip.map(|ip| SocketAddr::new(ip, self.settings.server.port.get()));
        let double = listed
            .map(|member| SocketAddr::new(member.ip, member.port.get()))
            .filter(|&address| registered.is_some_and(|registered| registered != address));
        if double.is_some() && self.double != double {
            let address = double.map(tracing::field::display);
            warn!(instance = %self.me, address, "another member has the identity of this one, and peers see only one of them");
        }
        self.double = double;
    }

    /// Follows a roster, and keeps it for the next start where it changed.
    fn take_in(&mut self, reply: MembersReply, now: Instant) {
        if reply.unusable != self.unusable {
            self.unusable = reply.unusable;
            if reply.unusable > 0 {
                warn!(entries = reply.unusable, "the roster has entries that make no sense, leaving them out");
            }
        }
        let kept = Members { members: reply.members.clone() };
        let change = self.peers.apply(reply.members, now);
        if !change.is_empty() {
            self.keep(&kept);
        }
        self.follow_always(&change);
    }

    fn follow(&mut self, change: &Change) {
        if !change.is_empty() {
            self.follow_always(change);
        }
    }

    /// Tells board and prober, also where only the registry's `last_seen` moved.
    fn follow_always(&mut self, change: &Change) {
        let log = |peer: &super::peers::Peer, what| {
            info!(target_location = %peer.location, target = %peer.instance_id, address = %peer.address(), "{what}");
        };
        change.joined.iter().for_each(|peer| log(peer, "a peer joined"));
        change.moved.iter().for_each(|peer| log(peer, "a peer moved"));
        change.left.iter().for_each(|peer| log(peer, "a peer left"));
        let endpoints: Vec<Arc<str>> = self.settings.checks.http_endpoints.iter().map(|e| e.as_str().into()).collect();
        let probing = lock(&self.board).follow(&self.peers, &endpoints, clock::monotonic());
        self.prober.set_targets(probing);
    }

    fn keep(&self, roster: &Members) {
        let Some(state) = &self.state else { return };
        let text = serde_json::to_vec(roster).expect("names, numbers and addresses always have a JSON form");
        if let Err(error) = state.write(ROSTER_FILE, &text) {
            warn!(%error, "cannot keep the roster for the next start");
        }
    }

    /// Begins with the roster of the last run.
    fn recall(&mut self) {
        let Some(state) = &self.state else { return };
        let kept = match state.read(ROSTER_FILE) {
            Ok(None) => return,
            Ok(Some(text)) => MembersReply::from_json(&text).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match kept {
            Ok(roster) => {
                let change = self.peers.apply(roster.members, clock::monotonic());
                info!(peers = self.peers.len(), "probing the ring as it was known before, until the registry answers");
                self.follow(&change);
            }
            Err(error) => warn!(%error, "the kept roster cannot be used, going on without it"),
        }
    }

    fn reload(&mut self, settings: Arc<MemberSettings>) {
        let now = clock::monotonic();
        let old = std::mem::replace(&mut self.settings, settings);
        if old.registry != self.settings.registry {
            self.client = RegistryClient::new(&self.settings.registry);
            *lock(&self.shared_client) = self.client.clone();
            self.etag = None;
        }
        self.session.set_intervals(self.settings.intervals, now);
        self.peers.set_hold(hold(&self.settings));
        let moved = old.location != self.settings.location || old.advertise_ip != self.settings.advertise_ip;
        if moved || old.registry != self.settings.registry {
            self.session.register_now(now);
        }
        if old.checks.http_endpoints != self.settings.checks.http_endpoints {
            self.follow_always(&Change::default());
        }
    }

    fn leave(self, deregister: bool) {
        if !deregister || self.registered_ip.is_none() {
            return;
        }
        let mut link = self.settings.registry.clone();
        link.timeout = link.timeout.min(FAREWELL);
        match RegistryClient::new(&link).deregister(&self.me) {
            Ok(()) => debug!("left the ring"),
            Err(error) => info!(%error, "cannot leave the ring, its registry will notice when the lease ends"),
        }
    }

    /// Notes on the board and in the log how it stands with the registry.
    fn judge(&mut self, problem: Option<String>, now: Instant) {
        if self.ending.load(Ordering::Relaxed) {
            return;
        }
        let up = self.session.is_well();
        lock(&self.board).registry.up = up;
        let url = &self.settings.registry.url.base;
        match (&mut self.trouble, problem) {
            (None, Some(said)) => {
                warn!(registry = %url, reason = %said, "registry lost: the ring is probed as last known");
                self.trouble = Some(Trouble { since: now, attempts: 1, said });
            }
            (Some(trouble), Some(said)) => {
                trouble.attempts += 1;
                if trouble.said != said {
                    warn!(registry = %url, reason = %said, "registry still lost, for another reason");
                    trouble.said = said;
                }
            }
            (Some(trouble), None) if up => {
                let lasted = rough(now.saturating_duration_since(trouble.since));
                info!(registry = %url, attempts = trouble.attempts, "registry back after {lasted}");
                self.trouble = None;
            }
            (_, None) => {}
        }
    }

    /// The address peers are to reach this member at.
    fn own_address(&self) -> Result<IpAddr, ClientError> {
        let host = self.settings.server.host;
        match self.settings.advertise_ip {
            Advertise::Address(ip) => Ok(ip),
            Advertise::Auto if !host.is_unspecified() => Ok(host),
            Advertise::Auto => {
                let url = &self.settings.registry.url;
                let lost = |what: &dyn std::fmt::Display| ClientError::Unreachable(format!("{}: {what}", url.host));
                let mut found =
                    (url.host.as_str(), url.port).to_socket_addrs().map_err(|_| lost(&"its name has no address"))?;
                let registry = found
                    .find(|address| host.is_ipv6() || address.is_ipv4())
                    .ok_or_else(|| lost(&"its name has no IPv4 address, and server.host is one of IPv4"))?;
                address::towards(registry).map(|ip| ip.to_canonical()).map_err(|e| lost(&e))
            }
        }
    }
}

/// How long peers outlast a registry's lost memory: every living member notices within its own poll or heartbeat
/// interval, taken to be like ours, and may need a few attempts.
fn hold(settings: &MemberSettings) -> Duration {
    let slower = settings.intervals.poll.max(settings.intervals.heartbeat);
    slower * 2 + Duration::from_secs(10)
}

fn name(request: Request) -> &'static str {
    match request {
        Request::Register => "registration",
        Request::Heartbeat => "heartbeat",
        Request::Poll => "asking for the roster",
    }
}
