//! `netring status`: prints the roster as a table or as JSON.

use std::io::Write;
use std::time::Duration;

use crate::clock;
use crate::config::{RegistryLink, RegistryUrl};
use crate::host::vitals::Vitals;
use crate::member::board::{counted, rough};
use crate::member::client::RegistryClient;
use crate::wire::{Member, MembersReply};

use super::{Exit, complain, written};

/// The time limit for the registry's answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Gets the roster from the registry at `url` (or `$REGISTRY_URL`, or on this host) and prints it.
pub(super) fn run(url: Option<&str>, json: bool, out: &mut dyn Write) -> Exit {
    let from_environment = std::env::var("REGISTRY_URL").ok().filter(|url| !url.is_empty());
    let (source, text) = match (url, from_environment) {
        (Some(url), _) => ("--registry", url.to_owned()),
        (None, Some(url)) => ("environment: REGISTRY_URL", url),
        (None, None) => ("default", "http://localhost:8756".to_owned()),
    };
    let url: RegistryUrl = match text.parse() {
        Ok(url) => url,
        Err(problem) => {
            complain(format_args!("{source}: {problem}"));
            return Exit::Usage;
        }
    };
    let base = url.base.clone();
    let reply = match RegistryClient::new(&RegistryLink { url, timeout: TIME_LIMIT }, &Vitals::new())
        .members(None, Duration::ZERO)
    {
        Ok(reply) => reply,
        Err(error) => {
            complain(format_args!("cannot get the roster from the registry at {base}: {error}"));
            return Exit::Unavailable;
        }
    };
    let MembersReply { mut members, unusable, .. } = reply.changed.map(|(roster, _)| roster).unwrap_or_default();
    members.sort_by(|a, b| (&a.location, &a.instance_id).cmp(&(&b.location, &b.instance_id)));
    let printed =
        if json { print_json(&members, reply.stale, out) } else { print_table(&members, unusable, reply.stale, out) };
    written(printed.map(|()| Exit::Ok))
}

/// The members as the registry lists them, and the age of the list in seconds: 0 unless the registry's store is unavailable,
/// null if the registry does not report the age.
fn print_json(members: &[Member], stale: Option<Duration>, out: &mut dyn Write) -> std::io::Result<()> {
    let answer = serde_json::json!({ "members": members, "stale_seconds": stale.map(|age| age.as_secs()) });
    writeln!(out, "{answer:#}")
}

fn print_table(
    members: &[Member],
    unusable: usize,
    stale: Option<Duration>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let now = clock::wall().epoch_seconds();
    let ago = |seconds: u64| match seconds {
        0 => "unknown".to_owned(),
        at => format!("{} ago", rough(Duration::from_secs(now.saturating_sub(at)))),
    };
    let head = ["LOCATION", "ADDRESS", "LAST SEEN", "REGISTERED", "INSTANCE"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head)
        .chain(members.iter().map(|member| {
            [
                member.location.to_string(),
                std::net::SocketAddr::new(member.ip, member.port.get()).to_string(),
                ago(member.last_seen),
                ago(member.registered_at),
                member.instance_id.to_string(),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [a, b, c, d] = [width(0), width(1), width(2), width(3)];
    for [location, address, last_seen, registered, instance] in &rows {
        writeln!(out, "{location:a$}  {address:b$}  {last_seen:c$}  {registered:d$}  {instance}")?;
    }
    let locations: std::collections::BTreeSet<_> = members.iter().map(|member| &member.location).collect();
    let (members, locations) = (counted(members.len(), "member"), counted(locations.len(), "location"));
    writeln!(out, "\n{members} at {locations}")?;
    if unusable > 0 {
        writeln!(out, "Invalid entries in the registry's answer, left out: {unusable}.")?;
    }
    match stale {
        Some(Duration::ZERO) => {}
        Some(age) => writeln!(out, "The registry's store is unavailable: this is the roster of {} ago.", rough(age))?,
        None => writeln!(out, "The registry's store is unavailable: this is an old roster of unknown age.")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests;
