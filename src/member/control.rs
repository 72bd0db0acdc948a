//! The control thread: carries out what the session asks for, and passes on what the registry says.
//!
//! One thread of its own, because the registry client blocks: a registry that hangs holds up nothing but this thread. It
//! owns the session and the peers; it tells the board and the prober who is to be probed, and keeps the roster in the
//! state directory, so that a member that starts while the registry is away probes the ring it knew.
//!
//! Trouble with the registry is logged when it begins, when its kind changes and when it ends, never on repeat.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::clock;
use crate::config::{Advertise, MemberSettings};
use crate::host::address;
use crate::host::logging::events;
use crate::host::state::StateDir;
use crate::host::vitals::{Pulse, Vitals};
use crate::wire::{InstanceId, Member, Members, MembersReply, Registration};

use super::board::{Board, rough};
use super::client::{ClientError, Heartbeat, RegistryClient};
use super::lock;
use super::lookup::NoAddress;
use super::peers::{Change, Peer, Peers};
use super::prober::Prober;
use super::session::{Action, REPLICA_LAG, Reply, Request, Session};

/// The file in the state directory that holds the last roster.
const ROSTER_FILE: &str = "roster.json";

/// The file there that tells the next start which registry was told that this member leaves.
const LEFT_FILE: &str = "left";

/// How often the thread says that it is alive, and lets go of peers it held.
const TURN: Duration = Duration::from_secs(1);

/// How long leaving the roster may take at the end.
const FAREWELL: Duration = Duration::from_millis(600);

/// What the control thread is told.
enum Command {
    /// Take up other settings, and say when that is done.
    Reload(Arc<MemberSettings>, Sender<()>),
    /// End; leave the roster first where asked to.
    Stop { deregister: bool },
}

/// The control thread, from outside.
pub(super) struct Control {
    commands: Sender<Command>,
    client: Arc<Mutex<RegistryClient>>,
    waiting: Arc<AtomicUsize>,
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
    pub(super) state: Option<StateDir>,
    pub(super) pulse: Pulse,
    pub(super) vitals: Vitals,
}

impl Control {
    /// Starts the thread. It begins with the roster of the last run, then registers.
    pub(super) fn start(parts: Parts) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let client = Arc::new(Mutex::new(RegistryClient::new(&parts.settings.registry, &parts.vitals)));
        let waiting = Arc::new(AtomicUsize::new(0));
        let driver = Driver::new(parts, Arc::clone(&client), Arc::clone(&waiting));
        let thread = std::thread::Builder::new().name("netring-control".into()).spawn(move || driver.run(&inbox))?;
        Ok(Self { commands, client, waiting, thread })
    }

    /// Takes other settings, breaking off a request under way, and waits for the thread to take them up, at most `within`.
    /// Returns whether it has; otherwise it will.
    pub(super) fn reload(&self, settings: Arc<MemberSettings>, within: Duration) -> bool {
        let (done, taken_up) = channel();
        self.tell(Command::Reload(settings, done));
        taken_up.recv_timeout(within).is_ok()
    }

    /// Tells the thread what goes before any request, one under way included.
    fn tell(&self, command: Command) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        lock(&self.client).shutdown();
        // The thread ends only when told to, by the last call this handle ever gets.
        let _ = self.commands.send(command);
    }

    /// Ends the thread, breaking off a request under way, and waits for it at most `within`.
    pub(super) fn stop(self, deregister: bool, within: Duration) {
        self.tell(Command::Stop { deregister });
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

/// Trouble with the registry that is not over, and what has been logged of it.
struct Trouble {
    since: Instant,
    attempts: u32,
    /// It could not be reached, and that has been said. For what reason may change with every attempt.
    silent: bool,
    /// The status it refused each kind of request with.
    refusals: [Option<u16>; 3],
}

impl Trouble {
    fn new(since: Instant) -> Self {
        Self { since, attempts: 0, silent: false, refusals: [None; 3] }
    }

    /// Counts a failure, and says whether it is to be told: silence once, a refusal where it is another than the last.
    fn is_news(&mut self, request: Request, problem: &ClientError) -> bool {
        self.attempts += 1;
        match problem {
            ClientError::Unreachable(_) => !mem::replace(&mut self.silent, true),
            ClientError::Refused { status, .. } => self.refusals[request as usize].replace(*status) != Some(*status),
        }
    }
}

struct Driver {
    settings: Arc<MemberSettings>,
    me: InstanceId,
    listening: SocketAddr,
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    state: Option<StateDir>,
    pulse: Pulse,
    /// For the thread that looks up the registry's name.
    vitals: Vitals,
    shared_client: Arc<Mutex<RegistryClient>>,
    /// How many commands wait. For them requests are broken off, which is no trouble of the registry's.
    waiting: Arc<AtomicUsize>,
    client: RegistryClient,
    session: Session,
    peers: Peers,
    etag: Option<String>,
    /// The address of the last registration, and when it was made.
    registered: Option<(SocketAddr, Instant)>,
    /// The peers that lead back to this member, as logged.
    leading_back: Vec<InstanceId>,
    /// Where another member with this one's identity is.
    double: Option<SocketAddr>,
    trouble: Option<Trouble>,
    unusable: usize,
    /// The last roster could not be kept.
    forgetful: bool,
    /// The last run left the ring in order: that the registry does not know this member is no loss of memory.
    left: bool,
}

impl Driver {
    fn new(parts: Parts, shared_client: Arc<Mutex<RegistryClient>>, waiting: Arc<AtomicUsize>) -> Self {
        let Parts { settings, me, listening, board, prober, state, pulse, vitals } = parts;
        let client = lock(&shared_client).clone();
        Self {
            session: Session::new(settings.intervals, clock::monotonic()),
            peers: Peers::new(me.clone(), hold(&settings)),
            settings,
            me,
            listening,
            board,
            prober,
            state,
            pulse,
            vitals,
            shared_client,
            waiting,
            client,
            etag: None,
            registered: None,
            leading_back: Vec::new(),
            double: None,
            trouble: None,
            unusable: 0,
            forgetful: false,
            left: false,
        }
    }

    fn run(mut self, inbox: &Receiver<Command>) {
        self.recall();
        loop {
            self.pulse.mark();
            let now = clock::monotonic();
            let settled = self.peers.settle(now);
            if !settled.is_empty() {
                self.keep();
                self.follow(&settled);
            }
            let wait = match self.session.next(now) {
                Action::Do(_) if self.is_broken_off() => Duration::ZERO,
                Action::Do(request) => {
                    self.carry_out(request);
                    Duration::ZERO
                }
                Action::WaitUntil(at) => at.saturating_duration_since(now).min(TURN),
            };
            match inbox.recv_timeout(wait) {
                Ok(Command::Reload(settings, done)) => {
                    self.reload(settings);
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                    let _ = done.send(());
                }
                Ok(Command::Stop { deregister }) => return self.leave(deregister),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out(&mut self, request: Request) {
        let mut roster = None;
        // No registry and no resolver, however slow, makes this member look unwell: each may take its time, twice where an
        // address is looked up for a heartbeat that becomes a registration.
        self.pulse.mark_for(self.settings.registry.timeout * 3);
        let answer = match request {
            Request::Register => self.register(),
            Request::Heartbeat => self.heartbeat(),
            Request::Poll => self.poll(&mut roster),
        };
        if self.is_broken_off() {
            // It says nothing that matters now.
            return;
        }
        self.pulse.mark();
        let (reply, problem) = match answer {
            Ok(reply) => (reply, None),
            Err(error @ ClientError::Unreachable(_)) => (Reply::Unreachable, Some(error)),
            Err(error @ ClientError::Refused { .. }) => (Reply::Refused, Some(error)),
        };
        if reply == Reply::Unknown {
            info!("the registry does not know this member any more, registering again");
        }
        let now = clock::monotonic();
        // First what the answer says of the registry's memory, then the roster: whoever it lacks may be alive.
        if self.session.on_reply(request, reply, now, fastrand::f64()) && self.peers.registry_forgot(now) {
            info!("the registry has lost its memory: keeping the peers it may have forgotten, for a while");
        }
        if let Some(roster) = roster {
            self.take_in(roster, now);
        }
        self.judge(request, problem, now);
    }

    fn register(&mut self) -> Result<Reply, ClientError> {
        let address = self.own_address()?;
        let registration = Registration {
            instance_id: Some(self.me.clone()),
            location: self.settings.location.clone(),
            ip: address.ip(),
            port: NonZeroU16::new(address.port()).expect("a listening port is not zero"),
        };
        let reply = self.client.register(&registration)?;
        if reply.instance_id != self.me {
            let message = format!("it registered this member as {} instead of {}", reply.instance_id, self.me);
            return Err(ClientError::Refused { status: 200, message });
        }
        let before = self.registered.replace((address, clock::monotonic()));
        if before.is_none_or(|(before, _)| before != address) {
            info!(location = %self.settings.location, instance = %self.me, %address, "registered");
            if address.ip().is_loopback() {
                warn!(
                    %address,
                    "registered with a loopback address: only members on this host can reach it; for a ring of more \
                     hosts set member.server.advertise_ip, or name the registry by its address in the network"
                );
            }
            lock(&self.board).own_address = Some(address);
            self.follow(&Change::default());
        }
        let left = mem::take(&mut self.left);
        Ok(Reply::Registered { known: reply.known.unwrap_or(true) || left })
    }

    fn heartbeat(&mut self) -> Result<Reply, ClientError> {
        // A host that got another address would keep a lease on the old one. Where that cannot be told, it has not.
        let address = self.own_address().ok();
        if address.is_some_and(|address| self.registered.is_some_and(|(registered, _)| registered != address)) {
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
        if let Some(stale) = answer.stale {
            lock(&self.board).registry.roster_at = now.checked_sub(stale);
        }
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
        let double = listed.map(|member| SocketAddr::new(member.ip, member.port.get())).filter(|&address| {
            // Another registry replica may still show where this member was before.
            self.registered.is_some_and(|(own, at)| own != address && since(at) > REPLICA_LAG)
        });
        if double.is_some() && self.double != double {
            let address = double.map(tracing::field::display);
            warn!(
                event = events::IDENTITY_TWICE, location = %self.settings.location, instance = %self.me, address, "another member has the identity of this one, and peers see only one of them"
            );
        }
        self.double = double;
    }

    /// Follows a roster, and keeps it for the next start where it changed.
    fn take_in(&mut self, reply: MembersReply, now: Instant) {
        if reply.unusable != self.unusable {
            self.unusable = reply.unusable;
            if reply.unusable > 0 {
                warn!(
                    entries = reply.unusable,
                    first = reply.first_unusable,
                    "the roster has entries that cannot be used, leaving them out"
                );
            }
        }
        let change = self.peers.apply(reply.members, now);
        if !change.is_empty() {
            self.keep();
        }
        self.follow(&change);
    }

    /// Tells board and prober who is in the ring now, and logs what changed.
    fn follow(&mut self, change: &Change) {
        let log = |peer: &Peer, what| {
            info!(target_location = %peer.location, target = %peer.instance_id, address = %peer.address(), "{what}");
        };
        change.joined.iter().for_each(|peer| log(peer, "a peer joined"));
        change.moved.iter().for_each(|peer| log(peer, "a peer moved"));
        change.left.iter().for_each(|peer| log(peer, "a peer left"));
        let endpoints: Vec<Arc<str>> = self.settings.checks.http_endpoints.iter().map(|e| e.as_str().into()).collect();
        let probing = lock(&self.board).follow(&self.peers, &endpoints, clock::monotonic());
        self.prober.set_targets(probing);
        self.beware_of_oneself();
    }

    /// A peer with an address that leads back here is somebody else's mistake, and would look healthy for ever.
    fn beware_of_oneself(&mut self) {
        let board = lock(&self.board);
        let leading_back: Vec<&Arc<Peer>> = board.leading_back().collect();
        for peer in leading_back.iter().filter(|peer| !self.leading_back.contains(&peer.instance_id)) {
            warn!(
                target_location = %peer.location, target = %peer.instance_id, address = %peer.address(),
                "not probing a peer: the address it registered leads back to this host; set member.server.advertise_ip there"
            );
        }
        self.leading_back = leading_back.into_iter().map(|peer| peer.instance_id.clone()).collect();
    }

    /// Keeps the peers for the next start.
    fn keep(&mut self) {
        let Some(state) = &self.state else { return };
        let member = |(peer, last_seen): (&Arc<Peer>, u64)| Member {
            instance_id: peer.instance_id.clone(),
            location: peer.location.clone(),
            ip: peer.ip,
            port: peer.port,
            last_seen,
            registered_at: 0,
            status: (),
        };
        let roster = Members { members: self.peers.iter().map(member).collect() };
        let text = serde_json::to_vec(&roster).expect("names, numbers and addresses always have a JSON form");
        let kept = state.write(ROSTER_FILE, &text);
        match (&kept, self.forgetful) {
            (Err(error), false) => warn!(%error, "cannot keep the roster for the next start"),
            (Ok(()), true) => info!("the roster is kept for the next start again"),
            _ => {}
        }
        self.forgetful = kept.is_err();
    }

    /// Begins with the roster of the last run.
    fn recall(&mut self) {
        let Some(state) = &self.state else { return };
        // It says so of one start alone.
        self.left = matches!(state.read(LEFT_FILE), Ok(Some(registry)) if registry == self.client.base().as_bytes())
            && state.remove(LEFT_FILE).is_ok();
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
        let old = mem::replace(&mut self.settings, settings);
        self.session.set_intervals(self.settings.intervals, now);
        self.peers.set_hold(hold(&self.settings));
        let moved = old.location != self.settings.location
            || old.advertise_ip != self.settings.advertise_ip
            || old.advertise_port != self.settings.advertise_port;
        let link = &self.settings.registry;
        let elsewhere = old.registry.url != link.url;
        let client =
            if elsewhere { RegistryClient::new(link, &self.vitals) } else { self.client.with_timeout(link.timeout) };
        let before = mem::replace(&mut self.client, client);
        *lock(&self.shared_client) = self.client.clone();
        if elsewhere {
            self.say_farewell(&before, old.registry.timeout);
            // What was known and told of the other one says nothing of this.
            if let Some(trouble) = &mut self.trouble {
                (trouble.silent, trouble.refusals) = (false, [None; 3]);
            }
            (self.registered, self.double, self.left, self.etag) = (None, None, false, None);
            // The others may be on their way to the new registry, too.
            self.peers.registry_forgot(now);
            self.session.start_over(now);
        } else if moved {
            self.registered = None;
            self.session.register_now(now);
        }
        if old.checks.http_endpoints != self.settings.checks.http_endpoints {
            self.follow(&Change::default());
        }
    }

    fn leave(&self, deregister: bool) {
        // Also where no registration was confirmed: one may have arrived.
        if deregister
            && self.say_farewell(&self.client, self.settings.registry.timeout)
            && let Some(state) = &self.state
            && let Err(error) = state.write(LEFT_FILE, self.client.base().as_bytes())
        {
            debug!(%error, "cannot note for the next start that this member left the ring");
        }
    }

    /// Returns whether the registry heard it.
    fn say_farewell(&self, registry: &RegistryClient, timeout: Duration) -> bool {
        let registry = registry.with_timeout(timeout.min(FAREWELL));
        let heard = registry.deregister(&self.me);
        match &heard {
            Ok(()) => debug!(registry = registry.base(), "left the ring"),
            Err(error) => {
                info!(registry = registry.base(), %error, "cannot leave the ring, its registry will notice when the lease ends");
            }
        }
        heard.is_ok()
    }

    fn is_broken_off(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Notes on the board and in the log how it stands with the registry.
    fn judge(&mut self, request: Request, problem: Option<ClientError>, now: Instant) {
        let up = self.session.is_well();
        lock(&self.board).registry.up = up;
        let url = &self.settings.registry.url.base;
        let (location, instance) = (&self.settings.location, &self.me);
        if let Some(problem) = problem {
            if self.trouble.get_or_insert_with(|| Trouble::new(now)).is_news(request, &problem) {
                match problem {
                    ClientError::Unreachable(why) => {
                        warn!(
                            event = events::REGISTRY_LOST, %location, %instance, registry = %url, reason = %why,
                            "registry lost: the ring is probed as last known"
                        );
                    }
                    ClientError::Refused { .. } => {
                        warn!(
                            event = events::REGISTRY_REFUSES, %location, %instance, registry = %url,
                            request = name(request), reason = %problem, "registry refuses"
                        );
                    }
                }
            } else {
                debug!(registry = %url, request = name(request), %problem, "the registry is still away");
            }
        } else if up && let Some(trouble) = self.trouble.take() {
            let lasted = rough(now.saturating_duration_since(trouble.since));
            info!(
                event = events::REGISTRY_BACK, %location, %instance, registry = %url, attempts = trouble.attempts, lasted,
                "registry back"
            );
        }
    }

    /// The address peers are to reach this member at.
    fn own_address(&self) -> Result<SocketAddr, ClientError> {
        let listening = self.listening.ip();
        let port = self.settings.advertise_port.map_or(self.listening.port(), NonZeroU16::get);
        match self.settings.advertise_ip {
            Advertise::Address(ip) => Ok(SocketAddr::new(ip, port)),
            Advertise::Auto if !listening.is_unspecified() => Ok(SocketAddr::new(listening, port)),
            Advertise::Auto => {
                let addresses = self.client.addresses();
                let lost =
                    |what: &dyn std::fmt::Display| ClientError::Unreachable(format!("{}: {what}", addresses.host()));
                let found = addresses.get(self.settings.registry.timeout).map_err(|e| match e {
                    NoAddress::Unknown => lost(&"its name has no address"),
                    NoAddress::Pending => lost(&"the resolver does not answer"),
                })?;
                let registry = found
                    .into_iter()
                    .find(|address| listening.is_ipv6() || address.is_ipv4())
                    .ok_or_else(|| lost(&"its name has no IPv4 address, and server.host is one of IPv4"))?;
                let ip = address::towards(registry).map_err(|e| lost(&e))?;
                Ok(SocketAddr::new(ip.to_canonical(), port))
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

/// How long ago `moment` was.
fn since(moment: Instant) -> Duration {
    clock::monotonic().saturating_duration_since(moment)
}

fn name(request: Request) -> &'static str {
    match request {
        Request::Register => "registration",
        Request::Heartbeat => "heartbeat",
        Request::Poll => "asking for the roster",
    }
}
