//! One registry and fifty members on one virtual clock, over a link that loses, delays, repeats and cuts one way.
//!
//! The parts under test are the pure ones, exactly as the daemons drive them: `registry::roster`, `member::session` and
//! `member::peers`. Every run prints its seed; `NETRING_SEED=N cargo test --test simulation` runs that one alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, Instant};

use netring::clock::{self, Wall};
use netring::config::Intervals;
use netring::member::peers::Peers;
use netring::member::session::{Action, Reply, Request, Session};
use netring::registry::roster::{Candidate, Roster};
use netring::wire::{InstanceId, Member};

const MEMBERS: usize = 50;
const TTL: Duration = Duration::from_secs(300);
const SWEEP: Duration = Duration::from_secs(60);
/// How long a member waits for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const INTERVALS: Intervals =
    Intervals { poll: Duration::from_secs(30), check: Duration::from_secs(60), heartbeat: Duration::from_secs(45) };
const HOLD: Duration = Duration::from_secs(100);
/// How often a member looks whether it still holds peers.
const TURN: Duration = Duration::from_secs(5);
/// The longest a living member may take to notice anything: back-off, time limit and poll together.
const NOTICE: Duration = Duration::from_secs(30 + 5 + 30);

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
    /// A member looks at its session; the number tells the newest turn from those it made superfluous.
    Turn(usize, u64),
    /// A request arrives at the registry.
    Request { from: usize, exchange: u64, request: u8 },
    /// An answer arrives at a member.
    Answer { to: usize, exchange: u64, answer: Answer },
    /// A member has waited long enough for an answer.
    GiveUp { member: usize, exchange: u64 },
    /// The registry tidies.
    Sweep,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Registered { known: bool },
    Renewed,
    Unknown,
    Roster(Vec<usize>),
}

/// One member with what the outside knows of it.
struct Node {
    id: InstanceId,
    /// How it stands on a roster.
    entry: Member,
    session: Session,
    peers: Peers,
    alive: bool,
    /// The turn that counts.
    turn: u64,
    /// The exchange under way.
    waiting: Option<(u64, Request)>,
    /// Its requests do not reach the registry; the registry's answers do not reach it.
    deaf: bool,
    mute: bool,
    /// When the registry last took a registration or heartbeat from it.
    heard: Option<Instant>,
    /// When it fell silent for good.
    died: Option<Instant>,
}

struct World {
    rng: fastrand::Rng,
    start: Instant,
    now: Instant,
    /// The wall clock's offset, which jumps.
    wall: u64,
    weather: Weather,
    roster: Roster,
    registry_away: bool,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    /// Peers that left somebody's set although they were alive, with when and where.
    flaps: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = clock::monotonic();
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            start,
            now: start,
            wall: 1_700_000_000,
            weather: CALM,
            roster: empty_roster(),
            registry_away: false,
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            flaps: Vec::new(),
        };
        for n in 0..MEMBERS {
            let id: InstanceId = format!("member-{n}").parse().expect("a good id");
            let delay = Duration::from_millis(world.rng.u64(0..30_000));
            world.nodes.push(Node {
                session: Session::new(INTERVALS, start + delay),
                peers: Peers::new(id.clone(), HOLD),
                entry: entry(n, id.clone()),
                id,
                alive: true,
                turn: 0,
                waiting: None,
                deaf: false,
                mute: false,
                heard: None,
                died: None,
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
            Event::GiveUp { member, exchange } => {
                if let Some((_, request)) = self.nodes[member].waiting.take_if(|(id, _)| *id == exchange) {
                    self.reply(member, request, Reply::Unreachable, None);
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

    fn turn(&mut self, n: usize) {
        if !self.nodes[n].alive || self.nodes[n].waiting.is_some() {
            return;
        }
        let now = self.now;
        let left = self.nodes[n].peers.settle(now).left;
        self.note_left(n, left.iter().map(|peer| peer.instance_id.clone()).collect());
        match self.nodes[n].session.next(now) {
            Action::WaitUntil(at) => {
                self.nodes[n].turn += 1;
                self.at((at - now).min(TURN), Event::Turn(n, self.nodes[n].turn));
            }
            Action::Do(request) => {
                self.sequence += 1;
                let exchange = self.sequence;
                self.nodes[n].waiting = Some((exchange, request));
                self.at(TIME_LIMIT, Event::GiveUp { member: n, exchange });
                if !self.nodes[n].mute {
                    self.send(&Event::Request { from: n, exchange, request: request as u8 });
                }
            }
        }
    }

    /// The registry takes a request, which may be a late copy, or from a member that has died since.
    fn request(&mut self, from: usize, exchange: u64, request: u8) {
        if self.registry_away {
            return;
        }
        let (now, wall) = (self.now, self.wall());
        let id = self.nodes[from].id.clone();
        let answer = if request == Request::Register as u8 {
            let Member { location, ip, port, .. } = self.nodes[from].entry.clone();
            let candidate = Candidate { instance_id: id, location, ip, port };
            let admission = self.roster.register(candidate, now, wall).expect("the ring has room");
            self.nodes[from].heard = Some(now);
            Answer::Registered { known: admission.known() }
        } else if request == Request::Heartbeat as u8 {
            if self.roster.renew(&id, now, wall) {
                self.nodes[from].heard = Some(now);
                Answer::Renewed
            } else {
                Answer::Unknown
            }
        } else {
            self.check_leases();
            let mut listed: Vec<usize> = self.roster.members(now).map(|m| self.index(&m.instance_id)).collect();
            listed.sort_unstable();
            Answer::Roster(listed)
        };
        if !self.nodes[from].deaf {
            self.send(&Event::Answer { to: from, exchange, answer });
        }
    }

    fn answer(&mut self, to: usize, exchange: u64, answer: Answer) {
        let Some((_, request)) = self.nodes[to].waiting.take_if(|(id, _)| *id == exchange) else { return };
        match answer {
            Answer::Registered { known } => self.reply(to, request, Reply::Registered { known }, None),
            Answer::Renewed => self.reply(to, request, Reply::Renewed, None),
            Answer::Unknown => self.reply(to, request, Reply::Unknown, None),
            Answer::Roster(members) => {
                let listed = members.contains(&to);
                self.reply(to, request, Reply::Roster { listed }, Some(members));
            }
        }
    }

    /// The member takes in what came of its request, in the order the control thread does.
    fn reply(&mut self, n: usize, request: Request, reply: Reply, roster: Option<Vec<usize>>) {
        if !self.nodes[n].alive {
            return;
        }
        let (now, jitter) = (self.now, self.rng.f64());
        let roster: Option<Vec<Member>> =
            roster.map(|listed| listed.iter().map(|&m| self.nodes[m].entry.clone()).collect());
        let node = &mut self.nodes[n];
        if node.session.on_reply(request, reply, now, jitter) {
            node.peers.registry_forgot(now);
        }
        if let Some(roster) = roster {
            let left = node.peers.apply(roster, now).left;
            self.note_left(n, left.iter().map(|peer| peer.instance_id.clone()).collect());
        }
        self.turn(n);
    }

    fn index(&self, id: &InstanceId) -> usize {
        id.as_str()["member-".len()..].parse().expect("ids are numbered")
    }

    fn note_left(&mut self, at: usize, left: Vec<InstanceId>) {
        for id in left {
            let n = self.index(&id);
            if self.nodes[n].alive {
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
            assert!(listed.insert(member.instance_id.clone()), "{} is listed twice", member.instance_id);
            let heard = self.nodes[self.index(&member.instance_id)].heard.expect("nobody is on the roster unheard");
            assert!(self.now - heard < TTL, "{} is listed past its lease", member.instance_id);
        }
    }

    /// Everybody's peers, as sets of numbers.
    fn views(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let alive = self.nodes.iter().enumerate().filter(|(_, node)| node.alive);
        alive.map(|(n, node)| (n, node.peers.iter().map(|(peer, _)| self.index(&peer.instance_id)).collect())).collect()
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
        for node in &mut self.nodes {
            node.heard = None;
        }
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
        world.run(INTERVALS.poll * 3);
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
            world.nodes[n].died = Some(world.now);
        }
        world.run(TTL);
        let listed: BTreeSet<usize> = world.roster.members(world.now).map(|m| world.index(&m.instance_id)).collect();
        assert!(dead.iter().all(|n| !listed.contains(n)), "the dead are off the roster when their leases end");
        world.run(INTERVALS.poll + Duration::from_secs(1));
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
        world.run(TTL + INTERVALS.poll + INTERVALS.heartbeat);
        assert_eq!(world.nodes[cut].peers.len(), MEMBERS - 1, "it goes on with the roster it knew");
        assert!(world.views().iter().all(|(&n, view)| n == cut || !view.contains(&cut)), "the others have let it go");
        (world.nodes[cut].deaf, world.nodes[cut].mute) = (false, false);
        world.run(NOTICE * 2 + HOLD);
        world.assert_whole("after it came back");
    });
}
