//! `netring probe`: makes one probe with the code that members use and prints everything that it found.
//!
//! `netring probe tcp HOST:PORT` connects, `netring probe http URL` sends a GET request. The time limit covers all of it,
//! including the lookup of the name. The result goes to `out`, as lines for people or as one JSON object; an error in the
//! command line goes to `err`, in one sentence.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use crate::probe::{self, Check, CheckType, Limits, Outcome, StatusRanges, Timings};

use super::Exit;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Args {
    /// The kind of probe.
    pub(super) check_type: CheckType,
    /// `HOST:PORT` for TCP, a URL for HTTP.
    pub(super) target: String,
    /// The time limit; 5 s for TCP and 10 s for HTTP unless given.
    pub(super) timeout: Option<Duration>,
    /// Whether to answer with a JSON object.
    pub(super) json: bool,
}

/// Makes the probe and prints its result. The exit code is 0 where the probe succeeded, 1 where it failed, and 64 where the
/// target is not valid.
pub(super) fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let aim = match Aim::parse(args.check_type, &args.target) {
        Ok(aim) => aim,
        Err(wrong) => {
            // Where stderr is closed, the exit code is all that is left.
            let _ = writeln!(err, "cannot probe {:?}: {wrong}", args.target);
            return Exit::Usage;
        }
    };
    let (address, outcome) = match probe(&aim, args.timeout) {
        Ok(found) => found,
        Err(error) => {
            let _ = writeln!(err, "cannot probe {:?}: {error}", args.target);
            return Exit::Failed;
        }
    };
    let printed = if args.json {
        writeln!(out, "{}", as_json(args, address, &outcome))
    } else {
        write!(out, "{}", Printed { args, address, outcome: &outcome })
    };
    if let Err(error) = printed {
        let _ = writeln!(err, "cannot write to stdout: {error}");
        return Exit::Failed;
    }
    if outcome.result.is_ok() { Exit::Ok } else { Exit::Failed }
}

fn probe(aim: &Aim, timeout: Option<Duration>) -> io::Result<(Option<SocketAddr>, Outcome)> {
    let limits = Limits {
        tcp_timeout: timeout.unwrap_or(Duration::from_secs(5)),
        http_timeout: timeout.unwrap_or(Duration::from_secs(10)),
        http_ok_status: StatusRanges(vec![(100, 499)]),
        http_body_limit: probe::HTTP_BODY_LIMIT,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let found = runtime.block_on(probe::run_by_name(&aim.host, aim.port, &aim.check, &limits));
    // Do not wait for a name lookup that hangs.
    runtime.shutdown_background();
    Ok(found)
}

/// What to probe, read from the command line.
#[derive(Debug, PartialEq, Eq)]
struct Aim {
    /// A name or an address without brackets.
    host: String,
    port: u16,
    check: Check,
}

/// Why a text is no target: one sentence with what would be right.
#[derive(Debug, Error, PartialEq, Eq)]
enum TargetError {
    #[error("expected HOST:PORT, such as eu1.example.com:8756, 10.1.2.3:8756 or [2001:db8::1]:8756")]
    NoHostPort,
    #[error("expected a URL such as http://eu1.example.com:8756/health")]
    NoUrl,
    #[error("TLS is not built in yet, so expected a URL that starts with http://")]
    Tls,
    #[error("expected a port from 1 to 65535, got {0:?}")]
    Port(String),
    #[error("expected a host name or an address, got {0:?}")]
    Host(String),
    #[error("expected a path of the characters that a URL may have, got {0:?}")]
    Path(String),
}

impl Aim {
    fn parse(check_type: CheckType, target: &str) -> Result<Self, TargetError> {
        match check_type {
            CheckType::Tcp => {
                let (host, port) = authority(target, TargetError::NoHostPort)?;
                Ok(Self { host, port: port.ok_or(TargetError::NoHostPort)?, check: Check::Tcp })
            }
            CheckType::Http => {
                let (scheme, rest) = target.split_once("://").ok_or(TargetError::NoUrl)?;
                if scheme.eq_ignore_ascii_case("https") {
                    return Err(TargetError::Tls);
                }
                if !scheme.eq_ignore_ascii_case("http") {
                    return Err(TargetError::NoUrl);
                }
                let rest = rest.split('#').next().unwrap_or(rest);
                let (site, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let (host, port) = authority(site, TargetError::NoUrl)?;
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                if path.parse::<http::uri::PathAndQuery>().is_err() {
                    return Err(TargetError::Path(path));
                }
                Ok(Self { host, port: port.unwrap_or(80), check: Check::Http { endpoint: path.into() } })
            }
        }
    }
}

/// Reads `HOST`, `HOST:PORT` and the same with an IPv6 address in brackets; `wrong` is the fault of a text of another
/// form. The host comes without brackets.
fn authority(text: &str, wrong: TargetError) -> Result<(String, Option<u16>), TargetError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((ip, rest)) = rest.split_once(']') else { return Err(wrong) };
        let ip: Ipv6Addr = ip.parse().map_err(|_| TargetError::Host(ip.to_owned()))?;
        match rest.strip_prefix(':') {
            Some(port) => (ip.to_string(), Some(port)),
            None if rest.is_empty() => (ip.to_string(), None),
            None => return Err(wrong),
        }
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        // More colons than one: an IPv6 address without its brackets.
        if host.is_empty() || port.is_some_and(|port| port.contains(':')) {
            return Err(wrong);
        }
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err(TargetError::Host(host.to_owned()));
        }
        (host.to_owned(), port)
    };
    let port = match port {
        None => None,
        Some(text) => {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let port = text.parse().ok().filter(|&port: &u16| digits && port > 0);
            Some(port.ok_or_else(|| TargetError::Port(text.to_owned()))?)
        }
    };
    Ok((host, port))
}

/// The result as lines for people.
struct Printed<'a> {
    args: &'a Args,
    address: Option<SocketAddr>,
    outcome: &'a Outcome,
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, address, outcome } = self;
        write!(f, "{} {}: ", args.check_type.label(), args.target)?;
        match &outcome.result {
            Ok(Timings { status: Some(status), total, .. }) => writeln!(f, "status {status} in {}", ms(*total))?,
            Ok(Timings { total, .. }) => writeln!(f, "connected in {}", ms(*total))?,
            Err(failure) => writeln!(f, "failed ({}): {}", failure.reason, failure.detail)?,
        }
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "  {name:<16} {value}");
        if let Some(address) = address {
            line("address", address)?;
        }
        if let Ok(timings) = &outcome.result {
            if let Some(resolve) = timings.resolve {
                line("resolve", &ms(resolve))?;
            }
            line("connect", &ms(timings.connect))?;
            line("kernel RTT", &timings.rtt.map_or_else(|| "not measured".into(), ms))?;
            if let Some(first_byte) = timings.first_byte {
                line("first byte", &ms(first_byte))?;
            }
            if let Some(transfer) = timings.transfer {
                line("transfer", &ms(transfer))?;
            }
        }
        line("SYN retransmits", &outcome.syn_retransmits)
    }
}

/// Milliseconds with three decimals; finer digits would be noise.
fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// The result as an object in which every field is always present; times are in seconds.
fn as_json(args: &Args, address: Option<SocketAddr>, outcome: &Outcome) -> Value {
    let timings = outcome.result.as_ref().ok();
    let failure = outcome.result.as_ref().err();
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "check_type": args.check_type.label(),
        "target": args.target,
        "address": address.map(|address| address.to_string()),
        "success": timings.is_some(),
        "reason": failure.map(|failure| failure.reason.label()),
        "detail": failure.map(|failure| &failure.detail),
        "status": timings.and_then(|timings| timings.status),
        "total_seconds": seconds(timings.map(|timings| timings.total)),
        "resolve_seconds": seconds(timings.and_then(|timings| timings.resolve)),
        "connect_seconds": seconds(timings.map(|timings| timings.connect)),
        "rtt_seconds": seconds(timings.and_then(|timings| timings.rtt)),
        "first_byte_seconds": seconds(timings.and_then(|timings| timings.first_byte)),
        "transfer_seconds": seconds(timings.and_then(|timings| timings.transfer)),
        "syn_retransmits": outcome.syn_retransmits,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    fn args(check_type: CheckType, target: &str) -> Args {
        Args { check_type, target: target.into(), timeout: Some(Duration::from_secs(5)), json: false }
    }

    /// Exit code, what went to out, what went to err.
    fn outcome(args: &Args) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(args, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// The text with every number of milliseconds made the same.
    fn without_times(text: &str) -> String {
        let one = |line: &str| match line.strip_suffix(" ms").and_then(|line| line.rsplit_once(' ')) {
            Some((line, number)) if number.parse::<f64>().is_ok() => format!("{line} N ms\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(one).collect()
    }

    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream: TcpStream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    #[test]
    fn a_connection_is_printed_with_its_phases() {
        let address = answering("");
        let (code, out, err) = outcome(&args(CheckType::Tcp, &address.to_string()));
        let expected = format!(
            "tcp {address}: connected in N ms\n  address          {address}\n  connect          N ms\n  kernel RTT       N \
             ms\n  SYN retransmits  0\n"
        );
        let out = without_times(&out).replace("not measured", "N ms");
        assert_eq!((code, out.as_str(), err.as_str()), (Exit::Ok, expected.as_str(), ""));
    }

    #[test]
    fn an_answer_is_printed_with_its_phases_and_its_status() {
        let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let (code, out, err) = outcome(&args(CheckType::Http, &format!("http://{address}/health")));
        let expected = format!(
            "http http://{address}/health: status 200 in N ms\n  address          {address}\n  connect          N ms\n  \
             kernel RTT       N ms\n  first byte       N ms\n  transfer         N ms\n  SYN retransmits  0\n"
        );
        let out = without_times(&out).replace("not measured", "N ms");
        assert_eq!((code, out.as_str(), err.as_str()), (Exit::Ok, expected.as_str(), ""));
    }

    #[test]
    fn a_failure_is_printed_with_its_reason_and_exits_with_1() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (code, out, err) = outcome(&args(CheckType::Tcp, &address.to_string()));
        let expected = format!(
            "tcp {address}: failed (refused): connection refused\n  address          {address}\n  SYN retransmits  0\n"
        );
        assert_eq!((code, out.as_str(), err.as_str()), (Exit::Failed, expected.as_str(), ""));
        let address = answering("HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n");
        let (code, out, _) = outcome(&args(CheckType::Http, &format!("http://{address}")));
        assert_eq!(code, Exit::Failed);
        assert!(out.contains(": failed (status): status 503\n"), "{out}");
    }

    #[test]
    fn a_name_without_an_address_is_a_failure_of_its_own_kind() {
        let (code, out, _) = outcome(&args(CheckType::Tcp, "no-such-host.invalid:80"));
        assert_eq!(code, Exit::Failed);
        assert!(out.starts_with("tcp no-such-host.invalid:80: failed (resolve): "), "{out}");
    }

    #[test]
    fn json_has_every_field_always() {
        let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let json = |target: &str| {
            let args = Args { json: true, ..args(CheckType::Http, target) };
            let (_, out, _) = outcome(&args);
            serde_json::from_str::<serde_json::Map<_, _>>(&out).unwrap()
        };
        let up = json(&format!("http://{address}/"));
        assert_eq!((&up["success"], &up["status"], &up["reason"]), (&json!(true), &json!(200), &Value::Null));
        let phases = ["total_seconds", "connect_seconds", "first_byte_seconds", "transfer_seconds"];
        assert!(phases.iter().all(|phase| up[*phase].as_f64().is_some_and(|s| (0.0..5.0).contains(&s))), "{up:?}");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let down = json(&format!("http://{address}/"));
        assert_eq!(
            (&down["success"], &down["status"], &down["reason"]),
            (&json!(false), &Value::Null, &json!("refused"))
        );
        assert_eq!(up.keys().collect::<Vec<_>>(), down.keys().collect::<Vec<_>>());
    }

    #[test]
    fn a_target_is_read_as_people_write_it() {
        let tcp = |host: &str, port| Ok(Aim { host: host.into(), port, check: Check::Tcp });
        let aim = |text| Aim::parse(CheckType::Tcp, text);
        assert_eq!(aim("eu1.example.com:8756"), tcp("eu1.example.com", 8756));
        assert_eq!(aim("10.1.2.3:1"), tcp("10.1.2.3", 1));
        assert_eq!(aim("[2001:db8::1]:8756"), tcp("2001:db8::1", 8756));
        let http = |host: &str, port, path: &str| {
            Ok(Aim { host: host.into(), port, check: Check::Http { endpoint: path.into() } })
        };
        let aim = |text| Aim::parse(CheckType::Http, text);
        assert_eq!(aim("http://eu1.example.com:8756/health?x=1#y"), http("eu1.example.com", 8756, "/health?x=1"));
        assert_eq!(aim("HTTP://eu1"), http("eu1", 80, "/"));
        assert_eq!(aim("http://[::1]?x"), http("::1", 80, "/?x"));
    }

    #[test]
    fn what_is_no_target_is_said_in_one_sentence_and_exits_with_64() {
        use CheckType::{Http, Tcp};
        let no_host_port = "expected HOST:PORT, such as eu1.example.com:8756, 10.1.2.3:8756 or [2001:db8::1]:8756";
        let no_url = "expected a URL such as http://eu1.example.com:8756/health";
        let table = [
            (Tcp, "", no_host_port),
            (Tcp, "eu1", no_host_port),
            (Tcp, ":80", no_host_port),
            (Tcp, "2001:db8::1:80", no_host_port),
            (Tcp, "[::1]", no_host_port),
            (Tcp, "[::1", no_host_port),
            (Tcp, "[::1]80", no_host_port),
            (Tcp, "[eu1]:80", "expected a host name or an address, got \"eu1\""),
            (Tcp, "eu 1:80", "expected a host name or an address, got \"eu 1\""),
            (Tcp, "eu1:0", "expected a port from 1 to 65535, got \"0\""),
            (Tcp, "eu1:70000", "expected a port from 1 to 65535, got \"70000\""),
            (Tcp, "eu1:+80", "expected a port from 1 to 65535, got \"+80\""),
            (Tcp, "eu1:", "expected a port from 1 to 65535, got \"\""),
            (Http, "eu1:8756/health", no_url),
            (Http, "ftp://eu1/", no_url),
            (Http, "http:///health", no_url),
            (Http, "http://me@eu1/", "expected a host name or an address, got \"me@eu1\""),
            (Http, "http://eu1/a b", "expected a path of the characters that a URL may have, got \"/a b\""),
            (Http, "https://eu1/", "TLS is not built in yet, so expected a URL that starts with http://"),
        ];
        for (check_type, target, problem) in table {
            let (code, out, err) = outcome(&args(check_type, target));
            let expected = format!("cannot probe {target:?}: {problem}\n");
            assert_eq!((code, out.as_str(), err.as_str()), (Exit::Usage, "", expected.as_str()));
        }
    }

    #[test]
    fn an_output_that_takes_nothing_is_a_failure() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut err = Vec::new();
        assert_eq!(run(&args(CheckType::Tcp, &answering("").to_string()), &mut Full, &mut err), Exit::Failed);
        assert_eq!(String::from_utf8(err).unwrap(), "cannot write to stdout: no storage space\n");
    }
}
