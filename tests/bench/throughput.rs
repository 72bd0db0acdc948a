//! How many probes a CPU-second makes: a member with more to do than it can, and a bare epoll loop, in turns against the same
//! crowd.
//!
//! All processor time of the member counts, of every thread.

use crate::Bench;
use crate::bare::Bare;
use crate::crowd::{Crowd, Habits, over, pass};
use crate::statistics::median;
use crate::table::{Figures, Goal, Row, Side, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    vec![
        Row {
            name: "tcp",
            what: "TCP probes per CPU-second, whole engine, against a bare epoll connect loop",
            unit: "x",
            goal: Goal::AtLeast { reach: 0.75, stretch: 0.9 },
            measure: |bench| bench.rates(Kind::Tcp).figures(),
        },
        Row {
            name: "http",
            what: "HTTP probes on fresh connections per CPU-second, whole engine, against a bare epoll HTTP loop",
            unit: "x",
            goal: Goal::AtLeast { reach: 0.7, stretch: 0.8 },
            measure: |bench| bench.rates(Kind::Http).figures(),
        },
    ]
}

/// What is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connect and close.
    Tcp,
    /// Connect, send a request, read the answer, close.
    Http,
}

/// Probes per CPU-second, each the median of the turns of one run.
#[derive(Clone, Debug)]
pub struct Rates {
    ours: f64,
    limit: f64,
    detail: String,
}

impl Rates {
    /// Measures both in turns.
    #[must_use]
    pub fn measure(kind: Kind, short: bool) -> Self {
        let (turns, seconds) = if short { (3, 1.0) } else { (5, 4.0) };
        // About what one core can do in a second. A member makes a TCP probe beside its HTTP probes in any case; with many
        // endpoints that one hardly weighs, and it is paid for and not counted.
        let (peers, endpoints) = match kind {
            Kind::Tcp => (if short { 8_000 } else { 19_000 }, 0),
            Kind::Http => (500, 24),
        };
        let habits = Habits { interval: 1, endpoints: (0..endpoints).map(|n| format!("/health/{n}")).collect() };
        let crowd = Crowd::new(peers);
        let member = crowd.member(&habits);
        pass(2.0);
        let (mut ours, mut limit, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let stretch = over(&crowd, &member, || pass(seconds));
            // Where it was more than one core can do, some failed, for want of time.
            let succeeded = stretch.connections * (1.0 - stretch.failed);
            let counted = match kind {
                Kind::Tcp => succeeded,
                Kind::Http => succeeded * f64::from(endpoints) / f64::from(endpoints + 1),
            };
            ours.push(counted / stretch.cpu);
            busy.push(stretch.cpu / stretch.seconds * 100.0);
            member.signal(libc::SIGSTOP);
            let bare = Bare::Connect { crowd: crowd.addresses, seconds, ask: kind == Kind::Http };
            let bare = crowd.run(&bare);
            let of = |name: &str| bare[name].as_f64().expect("a number");
            limit.push(of("done") / of("cpu"));
            member.signal(libc::SIGCONT);
            // The first second after a stop is for what had to wait.
            pass(1.5);
        }
        let [ours, limit, busy] = [ours, limit, busy].map(|mut values| median(&mut values));
        let detail = format!(
            "{} probes a CPU-second, at {busy:.0} % of a core, {peers} peers; median of {turns} turns of {seconds} s",
            number(ours)
        );
        Self { ours, limit, detail }
    }

    fn figures(&self) -> Figures {
        Figures {
            ours: self.ours / self.limit,
            detail: self.detail.clone(),
            peer: None,
            limit: Some(Side { name: "bare epoll loop", value: self.limit, unit: "/CPU-s" }),
        }
    }
}
