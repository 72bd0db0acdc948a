//! `netring healthcheck`: asks the daemon on this host for its `/health`, without a shell or another program.
//!
//! The exit code is 0 as long as the daemon answers that it serves requests. A member that is unwell does, because a restart
//! would not help its host. A registry whose store is down does not, and a restart would not help that either: `--alive` is for
//! whoever restarts daemons, and any answer of a registry passes it.
//!
//! Members and registries listen on the same port by default, so the answer is looked at before the daemon is named: the health
//! of a member has `instance_id`, that of a registry has `store`.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::{ConfigFile, Environment, Role, listening_address};

use super::Exit;

/// The largest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 * 1024;

/// The longest text of the daemon that is shown, in characters.
const SHOWN_MAX: usize = 300;

/// What a daemon answers.
#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    instance_id: Option<IgnoredAny>,
    #[serde(default)]
    store: Option<IgnoredAny>,
}

impl Health {
    /// Which daemon this is the health of; nothing where it does not show that.
    const fn role(&self) -> Option<Role> {
        match (&self.instance_id, &self.store) {
            (Some(_), None) => Some(Role::Member),
            (None, Some(_)) => Some(Role::Registry),
            _ => None,
        }
    }
}

/// Asks the daemon of this role, or of the one that the file at `config` is for. With `alive`, a daemon passes unless a restart
/// could help.
pub(super) fn run(
    role: Option<Role>,
    config: Option<&Path>,
    alive: bool,
    limit: Duration,
    environment: &Environment,
    out: &mut dyn Write,
) -> io::Result<Exit> {
    let expected = role.or_else(|| role_of(config));
    let asked = expected.unwrap_or(Role::Member);
    let (listening, faults) = listening_address(asked, config, environment);
    let url = format!("http://{}/health", reached_at(listening));
    let (exit, line) = match ask(&url, limit) {
        Ok((serves, health)) => judged(expected, alive, &url, serves, &health),
        Err(problem) => {
            // The address may be wrong for that reason.
            let doubt = faults.as_ref().and_then(|faults| faults.iter().next());
            let doubt = doubt.map_or_else(String::new, |fault| format!("; its address may be wrong: {fault}"));
            (Exit::Failed, format!("unhealthy: the {} at {url} {problem}{doubt}", asked.section()))
        }
    };
    writeln!(out, "{}", one_line(&line))?;
    Ok(exit)
}

/// The verdict on an answer, and the line that says it.
fn judged(expected: Option<Role>, alive: bool, url: &str, serves: bool, health: &Health) -> (Exit, String) {
    let found = health.role();
    if let Some(expected) = expected
        && found != Some(expected)
    {
        let expected = expected.section();
        let found = found.map_or("another program".to_owned(), |role| format!("a {}", role.section()));
        return (Exit::Failed, format!("unhealthy: expected a {expected} at {url}, but {found} answers there"));
    }
    let Some(found) = found else {
        return (Exit::Failed, format!("unhealthy: neither a member nor a registry answers at {url}"));
    };
    // A member does not serve where one of its loops is stalled, a registry where its store is down.
    let passes = serves || (alive && found == Role::Registry);
    let Health { status, reason, .. } = health;
    let reason = reason.as_deref().map_or_else(String::new, |reason| format!(" says: {reason}"));
    (if passes { Exit::Ok } else { Exit::Failed }, format!("{status}: the {} at {url}{reason}", found.section()))
}

/// The role that a file is for, if it is for one alone.
fn role_of(config: Option<&Path>) -> Option<Role> {
    match ConfigFile::read(config?).ok()?.roles()[..] {
        [role] => Some(role),
        _ => None,
    }
}

/// The address at which a daemon that listens there is reached from its own host.
fn reached_at(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// The answer, and whether it is a success.
fn ask(url: &str, limit: Duration) -> Result<(bool, Health), String> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_global(Some(limit))
        .user_agent(concat!("netring/", env!("CARGO_PKG_VERSION")))
        .build();
    let silence = |error: ureq::Error| match error {
        ureq::Error::Timeout(_) => format!("does not answer within {limit:?}"),
        ureq::Error::Io(error) => format!("does not answer: {}", without_code(&error)),
        error => format!("does not answer: {error}"),
    };
    let (head, mut body) = ureq::Agent::new_with_config(config).get(url).call().map_err(silence)?.into_parts();
    let body = body.with_config().limit(ANSWER_MAX).read_to_vec().map_err(silence)?;
    let health = serde_json::from_slice(&body).map_err(|_| {
        format!(
            "answers {} with something that is not the health of a netring daemon: is it another program?",
            head.status.as_u16()
        )
    })?;
    Ok((head.status.is_success(), health))
}

fn without_code(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A text from outside without control characters and of limited length, for one line of a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`; says where, and when it has been asked.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = io::Read::read(&mut client, &mut request).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                std::thread::sleep(Duration::from_secs(5));
            }
        });
        address
    }

    fn checked(role: Option<Role>, config: Option<&Path>, environment: &Environment) -> (Exit, String) {
        let mut out = Vec::new();
        let exit = run(role, config, false, Duration::from_millis(500), environment, &mut out).unwrap();
        (exit, String::from_utf8(out).unwrap())
    }

    fn at(address: SocketAddr) -> Environment {
        Environment::from([("NETRING_MEMBER_SERVER_PORT".into(), address.port().to_string())])
    }

    fn answer(status: &str, body: &str) -> &'static str {
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        Box::leak(text.into_boxed_str())
    }

    #[test]
    fn the_exit_code_is_the_status_and_the_line_says_why() {
        for (status, body, exit, line) in [
            (
                "200 OK",
                r#"{"status": "healthy", "instance_id": "a", "more": 1}"#,
                Exit::Ok,
                "healthy: the member at URL",
            ),
            ("200 OK", r#"{"status": "healthy", "store": "embedded"}"#, Exit::Ok, "healthy: the registry at URL"),
            (
                "200 OK",
                r#"{"status": "healthy"}"#,
                Exit::Failed,
                "unhealthy: neither a member nor a registry answers at URL",
            ),
            (
                "200 OK",
                r#"{"status": "unwell", "instance_id": "a", "reason": "starved\nof time"}"#,
                Exit::Ok,
                "unwell: the member at URL says: starved of time",
            ),
            (
                "503 Service Unavailable",
                r#"{"status": "unhealthy", "instance_id": "a", "reason": "the control loop has stood still for 40 s"}"#,
                Exit::Failed,
                "unhealthy: the member at URL says: the control loop has stood still for 40 s",
            ),
            (
                "404 Not Found",
                "<html>",
                Exit::Failed,
                "unhealthy: the member at URL answers 404 with something that is not the health of a netring daemon: is it \
                 another program?",
            ),
        ] {
            let address = server(answer(status, body));
            let line = line.replace("URL", &format!("http://{address}/health"));
            assert_eq!(checked(None, None, &at(address)), (exit, format!("{line}\n")));
        }
    }

    #[test]
    fn a_registry_without_its_store_is_alive_and_a_member_that_stands_still_is_not() {
        let away = r#"{"status": "unhealthy", "store": "redis", "reason": "the store cannot be reached"}"#;
        let stalled = r#"{"status": "unhealthy", "instance_id": "a", "reason": "a loop is stalled"}"#;
        let nobody = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let unavailable = || server(answer("503 Service Unavailable", away));
        let other = || server(answer("503 Service Unavailable", "<html>"));
        for (role, alive, address, exit) in [
            (Role::Registry, true, unavailable(), Exit::Ok),
            (Role::Registry, false, unavailable(), Exit::Failed),
            (Role::Registry, true, other(), Exit::Failed),
            (Role::Registry, true, nobody(), Exit::Failed),
            (Role::Member, true, server(answer("503 Service Unavailable", stalled)), Exit::Failed),
            (Role::Member, true, server(answer("200 OK", r#"{"status": "unwell", "instance_id": "a"}"#)), Exit::Ok),
        ] {
            let variable = format!("NETRING_{}_SERVER_PORT", role.section().to_uppercase());
            let environment = Environment::from([(variable, address.port().to_string())]);
            let mut out = Vec::new();
            let found = run(Some(role), None, alive, Duration::from_millis(500), &environment, &mut out).unwrap();
            let line = String::from_utf8(out).unwrap();
            assert_eq!(found, exit, "{role:?}, {alive}: {line}");
        }
    }

    #[test]
    fn a_daemon_that_is_not_the_expected_one_does_not_pass_for_it() {
        let member = r#"{"status": "healthy", "instance_id": "a", "location": "eu1", "members_count": 3}"#;
        let registry = r#"{"status": "healthy", "members_count": 3, "store": "embedded"}"#;
        let directory = tempfile::tempdir().unwrap();
        let file = |section: &str| {
            let path = directory.path().join(section);
            std::fs::write(&path, format!("{section}: {{}}\n")).unwrap();
            path
        };
        for (role, body, line) in [
            (Role::Member, registry, "unhealthy: expected a member at URL, but a registry answers there"),
            (Role::Registry, member, "unhealthy: expected a registry at URL, but a member answers there"),
            (
                Role::Member,
                r#"{"status": "UP"}"#,
                "unhealthy: expected a member at URL, but another program answers there",
            ),
        ] {
            let variable = format!("NETRING_{}_SERVER_PORT", role.section().to_uppercase());
            // By the flag, or by a configuration file that is for this role alone; --alive makes no difference.
            for (flag, config, alive) in [(Some(role), None, false), (None, Some(file(role.section())), true)] {
                let address = server(answer("200 OK", body));
                let environment = Environment::from([(variable.clone(), address.port().to_string())]);
                let mut out = Vec::new();
                let limit = Duration::from_millis(500);
                let exit = run(flag, config.as_deref(), alive, limit, &environment, &mut out).unwrap();
                let expected = line.replace("URL", &format!("http://{address}/health")) + "\n";
                assert_eq!((exit, String::from_utf8(out).unwrap()), (Exit::Failed, expected));
            }
        }
    }

    #[test]
    fn silence_is_unhealthy_within_the_limit() {
        let address = server("");
        let (exit, line) = checked(Some(Role::Member), None, &at(address));
        assert_eq!((exit, line.contains("does not answer within 500ms")), (Exit::Failed, true), "{line}");
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (exit, line) = checked(None, None, &at(nobody));
        assert_eq!((exit, line.contains("does not answer: connection refused")), (Exit::Failed, true), "{line}");
    }

    #[test]
    fn the_file_says_where_and_its_other_faults_do_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netring.yaml");
        let write = |text: String| std::fs::write(&path, text).unwrap();
        let registry = || server(answer("200 OK", r#"{"status": "healthy", "store": "embedded"}"#));
        let member = || server(answer("200 OK", r#"{"status": "healthy", "instance_id": "a"}"#));

        let address = registry();
        write(format!("registry:\n  colour: red\n  server: {{port: {}}}\n", address.port()));
        let (exit, line) = checked(None, Some(&path), &Environment::new());
        assert_eq!((exit, line), (Exit::Ok, format!("healthy: the registry at http://{address}/health\n")));

        // No location, no registry.
        let address = member();
        write(format!("member:\n  server: {{host: \"::\", port: {}}}\n", address.port()));
        assert_eq!(checked(None, Some(&path), &Environment::new()).0, Exit::Ok);

        write("member:\n  server: {host: nowhere}\n".into());
        let environment = at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap());
        let (exit, line) = checked(None, Some(&path), &environment);
        assert_eq!(exit, Exit::Failed);
        assert!(line.contains("; its address may be wrong: ") && line.contains("member.server.host"), "{line}");
        // A file that was damaged after the start.
        write("member: [".into());
        let address = member();
        assert_eq!(checked(None, Some(&path), &at(address)).0, Exit::Ok);
    }
}
