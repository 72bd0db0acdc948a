//! One registry and fifty members on one virtual clock, over a link that loses, delays, repeats and cuts one way.
//!
//! The parts under test are the pure ones, exactly as the daemons drive them: `registry::roster`, and `member::membership` with
//! its session and peers: leases, long polls, entity tags, reloads. Every run prints its seed;
//! `NETRING_SEED=N cargo test --test simulation` runs that one alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, Instant};

use netring::clock::{self, Wall};
use netring::member::membership::{LeaseAnswer, Membership, Poll, RosterAnswer};
use netring::member::session::{Action, LeaseRequest, Pace, Ticket};
use netring::registry::roster::{Candidate, Roster};
use netring::wire::{InstanceId, Member, MembersReply};

const MEMBERS: usize = 50;
const TTL: Duration = Duration::from_secs(300);
const SWEEP: Duration = Duration::from_secs(60);
/// How long a member waits for an answer, and for one that the registry may keep so much longer.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const PACE: Pace = Pace { poll: Duration::from_secs(30), heartbeat: Duration::from_secs(45) };
const HOLD: Duration = Duration::from_secs(100);
/// How often a member looks whether it still holds peers.
const TURN: Duration = Duration::from_secs(5);
/// The longest a living member may take to notice anything: back-off, time limit of a kept request, and poll together.
const NOTICE: Duration = Duration::from_secs(30 + 5 + 30 + 30);

/// What the link does to each message, in percent, and how long it may take.
#[derive(Clone, Copy)]
struct Weather {
    loss: u8,
    repeat: u8,
    delay: Duration,
}

const CALM: Weather = Weather { loss: 0, repeat: 0, delay: Duration::from_millis(50) };
const STORM: Weather = Weather { loss: 20, repeat: 10, delay: Duration::from_secs(3) };

/// What happens at a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A member looks at what is due; the number tells the newest turn from those it made superfluous.
    Turn(usize, u64),
    /// A request arrives at the registry.
    Request { from: usize, exchange: u64, request: Request },
    /// An answer arrives at a member.
    Answer { to: usize, exchange: u64, answer: Answer },
    /// A member has waited long enough for an answer.
    GiveUp { member: usize, exchange: u64 },
    /// The registry has kept a request for long enough.
    Kept { exchange: u64 },
    /// The registry tidies.
    Sweep,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Register,
    Heartbeat,
    Deregister,
    Poll { tag: Option<String>, wait: Duration },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Registered { known: bool },
    Renewed,
    Unknown,
    Roster { tag: String },
    Unchanged { tag: String },
    NoRoom,
}

/// A request under way, as the member's worker threads make them.
#[derive(Clone, Copy)]
enum UnderWay {
    Lease(Ticket),
    Roster(Ticket),
}

/// One member with what the outside knows of it.
struct Node {
    id: InstanceId,
    /// How it stands on a roster.
    entry: Member,
    membership: Membership,
    alive: bool,
    /// It has left in order before, and some may hear of that late.
    left: bool,
    /// The turn that counts.
    turn: u64,
    /// The exchanges under way.
    waiting: BTreeMap<u64, UnderWay>,
    /// Those of them that a reload has made void.
    void: BTreeSet<u64>,
    /// Its requests do not reach the registry; the registry's answers do not reach it.
    deaf: bool,
    mute: bool,
    /// When the registry last took a registration or heartbeat from it.
    heard: Option<Instant>,
}

/// A request that the registry keeps until the roster is another one.
struct Kept {
    from: usize,
    exchange: u64,
    tag: String,
}

struct World {
    rng: fastrand::Rng,
    start: Instant,
    now: Instant,
    /// The wall clock's offset, which jumps.
    wall: u64,
    weather: Weather,
    roster: Roster,
    /// How often the registry has lost its memory.
    lives: u32,
    /// Who was listed under each entity tag.
    tags: BTreeMap<String, Vec<usize>>,
    registry_away: bool,
    /// How many requests the registry keeps at most; none where it is an old one that knows nothing of it.
    room: Option<usize>,
    kept: Vec<Kept>,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    /// Peers that left somebody's set although they were alive, with when and where.
    flaps: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = clock::monotonic();
        let mut rng = fastrand::Rng::with_seed(seed);
        let room = [None, Some(7), Some(1_000), Some(1_000)][rng.usize(0..4)];
        let mut world = Self {
            rng,
            start,
            now: start,
            wall: 1_700_000_000,
            weather: CALM,
            roster: empty_roster(),
            lives: 0,
            tags: BTreeMap::new(),
            registry_away: false,
            room,
            kept: Vec::new(),
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            flaps: Vec::new(),
        };
        for n in 0..MEMBERS {
            let id: InstanceId = format!("member-{n}").parse().expect("a good id");
            let delay = Duration::from_millis(world.rng.u64(0..30_000));
            world.nodes.push(Node {
                membership: Membership::new(id.clone(), PACE, HOLD, start + delay),
                entry: entry(n, id.clone()),
                id,
                alive: true,
                left: false,
                turn: 0,
                waiting: BTreeMap::new(),
                void: BTreeSet::new(),
                deaf: false,
                mute: false,
                heard: None,
            });
            world.at(delay, Event::Turn(n, 0));
        }
        world.at(SWEEP, Event::Sweep);
        world
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now - self.start + delay, self.sequence, event)));
    }

    fn wall(&self) -> Wall {
        Wall::from_epoch_seconds(self.wall + (self.now - self.start).as_secs())
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, ..))) = self.events.peek() {
            if self.start + *at > end {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now = self.start + at;
            self.happen(event);
            self.answer_kept();
        }
        self.now = end;
        self.check_leases();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(n, turn) if turn == self.nodes[n].turn => self.turn(n),
            Event::Turn(..) => {}
            Event::Request { from, exchange, request } => self.request(from, exchange, request),
            Event::Answer { to, exchange, answer } => self.answer(to, exchange, answer),
            Event::GiveUp { member, exchange } => self.give_up(member, exchange),
            Event::Kept { exchange } => {
                if let Some(at) = self.kept.iter().position(|kept| kept.exchange == exchange) {
                    let Kept { from, tag, .. } = self.kept.swap_remove(at);
                    self.send_answer(from, exchange, Answer::Unchanged { tag });
                }
            }
            Event::Sweep => {
                self.expire();
                self.at(SWEEP, Event::Sweep);
            }
        }
    }

    /// A message over the link: how often it arrives and when, with nothing where it is lost.
    fn send(&mut self, event: &Event) {
        let Weather { loss, repeat, delay } = self.weather;
        if self.rng.u8(0..100) < loss {
            return;
        }
        let copies = if self.rng.u8(0..100) < repeat { 2 } else { 1 };
        for _ in 0..copies {
            let after = Duration::from_micros(self.rng.u64(1..=delay.as_micros() as u64));
            self.at(after, event.clone());
        }
    }

    /// What the control thread does in a turn.
    fn turn(&mut self, n: usize) {
        if !self.nodes[n].alive {
            return;
        }
        let now = self.now;
        let left = self.nodes[n].membership.settle(now).left;
        self.note_left(n, left.iter().map(|peer| peer.instance_id.clone()).collect());
        let mut wake = now + TURN;
        match self.nodes[n].membership.lease(now) {
            Action::Do(ticket, LeaseRequest::Register) => {
                self.ask(n, UnderWay::Lease(ticket), Request::Register, TIME_LIMIT);
            }
            Action::Do(ticket, LeaseRequest::Heartbeat) => {
                self.ask(n, UnderWay::Lease(ticket), Request::Heartbeat, TIME_LIMIT);
            }
            Action::WaitUntil(at) => wake = wake.min(at),
            Action::UnderWay => {}
        }
        match self.nodes[n].membership.poll(now) {
            Action::Do(ticket, Poll { etag, wait }) => {
                self.ask(n, UnderWay::Roster(ticket), Request::Poll { tag: etag, wait }, wait + TIME_LIMIT);
            }
            Action::WaitUntil(at) => wake = wake.min(at),
            Action::UnderWay => {}
        }
        self.nodes[n].turn += 1;
        self.at(wake - now, Event::Turn(n, self.nodes[n].turn));
    }

    fn ask(&mut self, n: usize, under_way: UnderWay, request: Request, limit: Duration) {
        self.sequence += 1;
        let exchange = self.sequence;
        self.nodes[n].waiting.insert(exchange, under_way);
        self.at(limit, Event::GiveUp { member: n, exchange });
        if !self.nodes[n].mute {
            self.send(&Event::Request { from: n, exchange, request });
        }
    }

    /// The registry takes a request, which may be a late copy, or from a member that has died since.
    fn request(&mut self, from: usize, exchange: u64, request: Request) {
        if self.registry_away {
            return;
        }
        let (now, wall) = (self.now, self.wall());
        let id = self.nodes[from].id.clone();
        let answer = match request {
            Request::Register => {
                let Member { location, ip, port, .. } = self.nodes[from].entry.clone();
                let candidate = Candidate { instance_id: id, location, ip, port };
                let admission = self.roster.register(candidate, now, wall).expect("the ring has room");
                self.nodes[from].heard = Some(now);
                Answer::Registered { known: admission.known() }
            }
            Request::Heartbeat if self.roster.renew(&id, now, wall) => {
                self.nodes[from].heard = Some(now);
                Answer::Renewed
            }
            Request::Heartbeat => Answer::Unknown,
            Request::Deregister => {
                let _ = self.roster.leave(&id, now);
                self.nodes[from].heard = None;
                return;
            }
            Request::Poll { tag: known, wait } => {
                self.check_leases();
                let tag = self.tag();
                if known.as_ref() != Some(&tag) {
                    Answer::Roster { tag }
                } else if wait.is_zero() || self.room.is_none() {
                    Answer::Unchanged { tag }
                } else if self.room.is_some_and(|room| self.kept.len() >= room) {
                    Answer::NoRoom
                } else {
                    self.kept.push(Kept { from, exchange, tag });
                    self.at(wait, Event::Kept { exchange });
                    return;
                }
            }
        };
        self.send_answer(from, exchange, answer);
    }

    fn send_answer(&mut self, to: usize, exchange: u64, answer: Answer) {
        if !self.nodes[to].deaf && !self.registry_away {
            self.send(&Event::Answer { to, exchange, answer });
        }
    }

    /// The entity tag of the roster as it is now.
    fn tag(&mut self) -> String {
        self.expire();
        let tag = format!("{}-{}", self.lives, self.roster.revision());
        if !self.tags.contains_key(&tag) {
            let listed = self.roster.members(self.now).map(|m| self.index(&m.instance_id)).collect();
            self.tags.insert(tag.clone(), listed);
        }
        tag
    }

    /// Answers the requests that were kept until the roster changed.
    fn answer_kept(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let tag = self.tag();
        let (same, changed): (Vec<Kept>, Vec<Kept>) =
            std::mem::take(&mut self.kept).into_iter().partition(|kept| kept.tag == tag);
        self.kept = same;
        for Kept { from, exchange, .. } in changed {
            self.send_answer(from, exchange, Answer::Roster { tag: tag.clone() });
        }
    }

    fn give_up(&mut self, n: usize, exchange: u64) {
        let (now, jitter) = (self.now, self.rng.f64());
        let Some(under_way) = self.nodes[n].waiting.remove(&exchange) else { return };
        let membership = &mut self.nodes[n].membership;
        let news = match under_way {
            UnderWay::Lease(ticket) => membership.on_lease(ticket, LeaseAnswer::Failed, now, jitter),
            UnderWay::Roster(ticket) => membership.on_roster(ticket, RosterAnswer::Failed, now, jitter),
        };
        self.check_void(n, exchange, news.is_some());
        self.turn(n);
    }

    /// The member takes in what came of its request, as the control thread does.
    fn answer(&mut self, to: usize, exchange: u64, answer: Answer) {
        if !self.nodes[to].alive {
            return;
        }
        let (now, jitter) = (self.now, self.rng.f64());
        let Some(under_way) = self.nodes[to].waiting.remove(&exchange) else { return };
        let address = SocketAddr::new(self.nodes[to].entry.ip, 8756);
        let age = Some(Duration::ZERO);
        let (news, confirmed) = match (under_way, answer) {
            (UnderWay::Lease(ticket), answer) => {
                let answer = match answer {
                    Answer::Registered { known } => LeaseAnswer::Registered { address, known },
                    Answer::Renewed => LeaseAnswer::Renewed,
                    Answer::Unknown => LeaseAnswer::Unknown,
                    other => panic!("no answer to a request of the lease lane: {other:?}"),
                };
                (self.nodes[to].membership.on_lease(ticket, answer, now, jitter), None)
            }
            (UnderWay::Roster(ticket), Answer::Roster { tag }) => {
                let members = self.tags[&tag].iter().map(|&m| self.nodes[m].entry.clone()).collect();
                let roster = MembersReply { members, ..MembersReply::default() };
                let answer = RosterAnswer::Full { roster, etag: Some(tag), age };
                (self.nodes[to].membership.on_roster(ticket, answer, now, jitter), None)
            }
            (UnderWay::Roster(ticket), Answer::Unchanged { tag }) => {
                (self.nodes[to].membership.on_roster(ticket, RosterAnswer::Unchanged { age }, now, jitter), Some(tag))
            }
            (UnderWay::Roster(ticket), Answer::NoRoom) => {
                (self.nodes[to].membership.on_roster(ticket, RosterAnswer::NoRoom, now, jitter), None)
            }
            (UnderWay::Roster(_), other) => panic!("no answer to a request for the roster: {other:?}"),
        };
        self.check_void(to, exchange, news.is_some());
        if let (Some(_), Some(tag)) = (&news, confirmed) {
            self.check_confirmed(to, &tag);
        }
        if let Some(change) = news.and_then(|news| news.roster) {
            self.note_left(to, change.left.iter().map(|peer| peer.instance_id.clone()).collect());
        }
        self.turn(to);
    }

    /// Invariant: an answer to a request from before a reload that made it void does not count.
    fn check_void(&mut self, n: usize, exchange: u64, counted: bool) {
        let void = self.nodes[n].void.remove(&exchange);
        assert!(!(void && counted), "member-{n} took in an answer to a request that a reload had made void");
    }

    /// Invariant: a roster that is confirmed as unchanged is the one that the member has.
    fn check_confirmed(&self, n: usize, tag: &str) {
        let others: BTreeSet<usize> = self.tags[tag].iter().copied().filter(|&m| m != n).collect();
        let peers = self.nodes[n].membership.peers().iter().filter(|entry| !entry.held);
        let known: BTreeSet<usize> = peers.map(|entry| self.index(&entry.peer.instance_id)).collect();
        assert_eq!(known, others, "what member-{n} knows, and what was confirmed to it");
    }

    fn index(&self, id: &InstanceId) -> usize {
        id.as_str()["member-".len()..].parse().expect("ids are numbered")
    }

    fn note_left(&mut self, at: usize, left: Vec<InstanceId>) {
        for id in left {
            let n = self.index(&id);
            if self.nodes[n].alive && !self.nodes[n].left {
                self.flaps.push(format!("{id} left {} after {:?}", self.nodes[at].id, self.now - self.start));
            }
        }
    }

    /// Invariant: whoever was heard within the TTL is never expired.
    fn expire(&mut self) {
        while let Some(gone) = self.roster.expire(self.now) {
            let n = self.index(&gone.instance_id);
            let heard = self.nodes[n].heard.expect("nobody is on the roster unheard");
            assert!(
                self.now - heard >= TTL,
                "{} was expired {:?} after it was heard",
                gone.instance_id,
                self.now - heard
            );
        }
    }

    /// Invariants: nobody is listed past the lease or twice, and everybody heard within the TTL is listed.
    fn check_leases(&self) {
        let mut listed = BTreeSet::new();
        for member in self.roster.members(self.now) {
            let n = self.index(&member.instance_id);
            assert!(listed.insert(n), "{} is listed twice", member.instance_id);
            let heard = self.nodes[n].heard.expect("nobody is on the roster unheard");
            assert!(self.now - heard < TTL, "{} is listed past its lease", member.instance_id);
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let live = node.heard.is_some_and(|heard| self.now - heard < TTL);
            assert!(!live || listed.contains(&n), "{} was heard within the TTL and is not listed", node.id);
        }
    }

    /// Everybody's peers, as sets of numbers.
    fn views(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let alive = self.nodes.iter().enumerate().filter(|(_, node)| node.alive);
        alive
            .map(|(n, node)| {
                let peers = node.membership.peers().iter();
                (n, peers.map(|entry| self.index(&entry.peer.instance_id)).collect())
            })
            .collect()
    }

    /// Invariant: everybody alive knows everybody else alive, and nobody else.
    fn assert_whole(&self, when: &str) {
        let alive: BTreeSet<usize> = (0..MEMBERS).filter(|&n| self.nodes[n].alive).collect();
        for (n, view) in self.views() {
            let others: BTreeSet<usize> = alive.iter().copied().filter(|&m| m != n).collect();
            assert_eq!(view, others, "{when}: what member-{n} knows");
        }
    }

    fn assert_no_flap(&self, when: &str) {
        assert!(self.flaps.is_empty(), "{when}: {:#?}", self.flaps);
    }

    fn lose_memory(&mut self) {
        self.roster = empty_roster();
        self.lives += 1;
        for node in &mut self.nodes {
            node.heard = None;
        }
    }

    /// A member reloads its configuration: another pace, another address, or another registry, which here is the same one
    /// under another name, so that the answers to what it asked before still arrive.
    fn reload(&mut self, n: usize) {
        let now = self.now;
        let Node { membership, waiting, void, .. } = &mut self.nodes[n];
        let mut void_all = |lane: fn(&UnderWay) -> bool| {
            void.extend(waiting.iter().filter(|(_, under_way)| lane(under_way)).map(|(exchange, _)| *exchange));
        };
        match self.rng.u8(0..3) {
            0 => membership.set_pace(PACE, HOLD, now),
            1 => {
                membership.register_again(now);
                void_all(|under_way| matches!(under_way, UnderWay::Lease(_)));
            }
            _ => {
                membership.start_over(now);
                void_all(|_| true);
            }
        }
        self.turn(n);
    }
}

/// The `n`th member: some locations have several.
fn entry(n: usize, instance_id: InstanceId) -> Member {
    Member {
        instance_id,
        location: format!("site-{}", n % 20).parse().expect("a good name"),
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, n as u8)),
        port: NonZeroU16::new(8756).expect("not zero"),
        last_seen: 0,
        registered_at: 0,
        status: (),
    }
}

fn empty_roster() -> Roster {
    Roster::new(TTL, NonZeroUsize::new(1000).expect("not zero"))
}

/// Runs `story` with many seeds, or with the one that `NETRING_SEED` names.
fn with_seeds(story: impl Fn(&mut World)) {
    let seeds = match std::env::var("NETRING_SEED") {
        Ok(seed) => vec![seed.parse().expect("NETRING_SEED is a number")],
        Err(_) => (0..6).map(|n| fastrand::u64(..).wrapping_add(n)).collect(),
    };
    for seed in seeds {
        println!("NETRING_SEED={seed}");
        let mut world = World::new(seed);
        world.run(PACE.poll * 3);
        world.assert_whole("after the start");
        story(&mut world);
    }
}

#[test]
fn loss_delay_repeats_and_a_jumping_wall_clock_flap_nobody() {
    with_seeds(|world| {
        world.weather = STORM;
        for _ in 0..20 {
            world.run(Duration::from_secs(180));
            world.wall = if world.rng.bool() { world.wall + 3_600 } else { world.wall - 3_600 };
        }
        world.assert_no_flap("in the storm");
        world.weather = CALM;
        world.run(NOTICE);
        world.assert_whole("after the storm");
    });
}

#[test]
fn partitions_and_registry_outages_shorter_than_a_lease_flap_nobody() {
    with_seeds(|world| {
        for _ in 0..10 {
            for n in 0..MEMBERS {
                world.nodes[n].deaf = world.rng.u8(0..4) == 0;
                world.nodes[n].mute = world.rng.u8(0..4) == 0;
            }
            world.registry_away = world.rng.bool();
            world.run(Duration::from_secs(120));
            for node in &mut world.nodes {
                (node.deaf, node.mute) = (false, false);
            }
            world.registry_away = false;
            world.run(NOTICE * 2);
        }
        world.assert_no_flap("in partitions shorter than a lease");
        world.assert_whole("after them");
    });
}

#[test]
fn a_registry_that_loses_its_memory_costs_nobody_a_peer() {
    with_seeds(|world| {
        for _ in 0..10 {
            world.lose_memory();
            let after = Duration::from_secs(world.rng.u64(1..400));
            world.run(after);
        }
        world.run(HOLD + NOTICE);
        world.assert_no_flap("while the roster filled up again");
        world.assert_whole("afterwards");
    });
}

#[test]
fn the_dead_are_gone_everywhere_by_the_lease_and_a_poll_and_the_living_stay() {
    with_seeds(|world| {
        let dead: Vec<usize> = (0..MEMBERS).filter(|_| world.rng.u8(0..5) == 0).collect();
        for &n in &dead {
            world.nodes[n].alive = false;
        }
        world.run(TTL);
        let listed: BTreeSet<usize> = world.roster.members(world.now).map(|m| world.index(&m.instance_id)).collect();
        assert!(dead.iter().all(|n| !listed.contains(n)), "the dead are off the roster when their leases end");
        world.run(PACE.poll + Duration::from_secs(1));
        world.assert_whole("a poll later");
        world.assert_no_flap("while others died");
        let sizes = world.roster.members(world.now).count();
        assert_eq!(sizes, MEMBERS - dead.len());
    });
}

#[test]
fn a_member_cut_off_for_longer_than_its_lease_comes_back_by_itself_and_loses_no_peer_meanwhile() {
    with_seeds(|world| {
        let cut = world.rng.usize(0..MEMBERS);
        (world.nodes[cut].deaf, world.nodes[cut].mute) = (true, true);
        world.run(TTL + PACE.poll + PACE.heartbeat);
        assert_eq!(world.nodes[cut].membership.peers().len(), MEMBERS - 1, "it goes on with the roster it knew");
        assert!(world.views().iter().all(|(&n, view)| n == cut || !view.contains(&cut)), "the others have let it go");
        (world.nodes[cut].deaf, world.nodes[cut].mute) = (false, false);
        world.run(NOTICE * 2 + HOLD);
        world.assert_whole("after it came back");
    });
}

#[test]
fn reloads_in_a_storm_lose_no_change_of_the_roster() {
    with_seeds(|world| {
        world.weather = Weather { delay: Duration::from_secs(2), ..STORM };
        for _ in 0..30 {
            let late = world.rng.usize(0..MEMBERS);
            // A member leaves in order, others reload meanwhile, and it comes back.
            (world.nodes[late].alive, world.nodes[late].left) = (false, true);
            world.request(late, 0, Request::Deregister);
            world.answer_kept();
            for _ in 0..20 {
                let n = world.rng.usize(0..MEMBERS);
                if n != late {
                    world.reload(n);
                }
                let pause = Duration::from_millis(world.rng.u64(0..3_000));
                world.run(pause);
            }
            world.nodes[late].alive = true;
            world.nodes[late].membership.register_again(world.now);
            world.turn(late);
        }
        world.assert_no_flap("in the storm");
        world.weather = CALM;
        world.run(NOTICE + HOLD);
        world.assert_whole("after the storm");
    });
}

#[test]
fn a_member_that_leaves_in_order_is_gone_everywhere_within_a_second_where_requests_are_kept() {
    with_seeds(|world| {
        if world.room != Some(1_000) {
            return;
        }
        for gone in 0..5 {
            let pause = Duration::from_secs(world.rng.u64(1..40));
            world.run(pause);
            world.nodes[gone].alive = false;
            world.request(gone, 0, Request::Deregister);
            world.answer_kept();
            world.run(Duration::from_secs(1));
            world.assert_whole("a second later");
        }
        world.assert_no_flap("of those that stayed");
    });
}
