//! How long one scrape takes whoever asks for it, and how many series a peer is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use netring::clock::monotonic;

use crate::Bench;
use crate::bare::Bare;
use crate::crowd::{Crowd, Habits, pass};
use crate::statistics::median;
use crate::table::{Figures, Goal, Row, Side, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    vec![
        Row {
            name: "scrape-10k",
            what: "one scrape of /metrics with 10,000 series",
            unit: "ms",
            goal: Goal::AtMost { reach: 5.0, stretch: 2.0 },
            measure: |bench| scrape(bench, 10_000.0),
        },
        Row {
            name: "scrape-100k",
            what: "one scrape of /metrics with 100,000 series",
            unit: "ms",
            goal: Goal::AtMost { reach: 50.0, stretch: 20.0 },
            measure: |bench| scrape(bench, 100_000.0),
        },
        Row {
            name: "series",
            what: "series for each further peer at a location of its own, by default",
            unit: "series",
            goal: Goal::AtMost { reach: 30.0, stretch: 16.0 },
            measure: |bench| {
                let per_peer = bench.series_per_peer();
                let detail = "a member with 10 peers and one with 20, all reached and all well".into();
                Figures { ours: per_peer, detail, peer: None, limit: None }
            },
        },
    ]
}

/// One scrape, as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Scrape {
    /// From before the connection to the last byte.
    pub seconds: f64,
    /// With its head.
    pub bytes: usize,
    /// Lines with a value.
    pub series: usize,
}

/// Scrapes once, on a connection of its own.
#[must_use]
pub fn once(crowd: &Crowd, server: SocketAddr) -> Scrape {
    crowd.host().inside(|| {
        let mut text = Vec::with_capacity(64 << 20);
        let start = monotonic();
        let request = "GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
        TcpStream::connect(server)
            .and_then(|mut stream| {
                stream.write_all(request.as_bytes())?;
                stream.read_to_end(&mut text)
            })
            .unwrap_or_else(|e| panic!("no scrape: {e}"));
        let seconds = (monotonic() - start).as_secs_f64();
        let body = text.windows(4).position(|w| w == b"\r\n\r\n").expect("a head and a body") + 4;
        assert!(text.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&text[..body]));
        let lines = text[body..].split(|&byte| byte == b'\n').filter(|line| !line.is_empty() && line[0] != b'#');
        Scrape { seconds, bytes: text.len(), series: lines.count() }
    })
}

/// How many series a further peer adds, in the default configuration.
#[must_use]
pub fn series_per_peer() -> f64 {
    let count = |peers: u32| {
        let crowd = Crowd::new(peers);
        let member = crowd.member(&Habits::usual(1));
        pass(2.5);
        once(&crowd, member.server).series as f64
    };
    (count(20) - count(10)) / 10.0
}

fn scrape(bench: &Bench, series: f64) -> Figures {
    let crowd = Crowd::new((series / bench.series_per_peer()).round() as u32);
    let (interval, turns) = if bench.short { (5, 5) } else { (10, 15) };
    let member = crowd.member(&Habits::usual(interval));
    pass(f64::from(interval) + 1.0);
    let middle = |server: SocketAddr| {
        let scrape = |_| {
            // Longer than any text is kept.
            pass(0.4);
            once(&crowd, server).seconds * 1e3
        };
        median(&mut (0..turns).map(scrape).collect::<Vec<_>>())
    };
    let Scrape { bytes, series, .. } = once(&crowd, member.server);
    let ours = middle(member.server);
    let plain = SocketAddr::new(member.server.ip(), 9001);
    let _server = crowd.start(&Bare::Pour { port: plain.port(), bytes });
    crowd.wait_open(plain.port());
    let limit = middle(plain);
    Figures {
        ours,
        detail: format!("{} series, {} MB; median of {turns}", number(series as f64), number(bytes as f64 / 1e6)),
        peer: None,
        limit: Some(Side { name: "plain server of as many bytes", value: limit, unit: "ms" }),
    }
}
