//! `netring status`: the roster as a table.

use std::io::Write;
use std::time::Duration;

use crate::clock;
use crate::config::{RegistryLink, RegistryUrl};
use crate::member::board::{counted, rough};
use crate::member::client::RegistryClient;
use crate::wire::{Member, Members, MembersReply};

use super::{Exit, complain, written};

/// How long the registry may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Asks the registry at `url` (or `$REGISTRY_URL`, or this host) and prints who is in the ring.
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
    let reply = match RegistryClient::new(&RegistryLink { url, timeout: TIME_LIMIT }).members(None) {
        Ok(reply) => reply,
        Err(error) => {
            complain(format_args!("cannot ask the registry at {base}: {error}"));
            return Exit::Unavailable;
        }
    };
    let MembersReply { mut members, unusable } = reply.changed.map(|(roster, _)| roster).unwrap_or_default();
    members.sort_by(|a, b| (&a.location, &a.instance_id).cmp(&(&b.location, &b.instance_id)));
    let printed = if json { print_json(members, out) } else { print_table(&members, unusable, reply.stale, out) };
    written(printed.map(|()| Exit::Ok))
}

fn print_json(members: Vec<Member>, out: &mut dyn Write) -> std::io::Result<()> {
    let text =
        serde_json::to_string_pretty(&Members { members }).expect("names, numbers and addresses have a JSON form");
    writeln!(out, "{text}")
}

fn print_table(members: &[Member], unusable: usize, stale: Duration, out: &mut dyn Write) -> std::io::Result<()> {
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
        writeln!(out, "Entries of the registry's answer that make no sense and are left out: {unusable}.")?;
    }
    if !stale.is_zero() {
        writeln!(out, "The registry's store is away: this is the roster of {} ago.", rough(stale))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
